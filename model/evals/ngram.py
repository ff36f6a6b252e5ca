"""Interpolated bigram and trigram models over the tokens that a model was trained on: the baseline it must beat.

- Witten-Bell interpolation (1991): P(w | h) = (c(hw) + t(h) P(w | h')) / (c(h) + t(h)), where t(h) is the number of
  different tokens seen after h and h' is h without its first token; below unigrams, the uniform distribution.
- Counts are of rows: the same windows, with the same context inside each, that the model saw or is scored on. The first
  token of a row has no history, the second one of one token.
- Counting is sorting packed keys, looking up is binary search: numpy alone, exact to the last bit of float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Counts:
    """n-grams of one order: sorted keys, how often each came; the same of their histories, with distinct followers."""

    keys: Keys
    counts: npt.NDArray[np.int64]
    histories: Keys
    totals: npt.NDArray[np.int64]
    followers: npt.NDArray[np.int64]


class Ngram:
    """An interpolated model of `order` 1 to 3 over a vocabulary of at most 2^21 tokens, trained on rows int[n, T]."""

    def __init__(self, rows: Rows, vocab_size: int, order: int) -> None:
        if not 1 <= order <= 3 or vocab_size > 1 << 21:
            raise ValueError(f"n-gram: expected order 1 to 3 and at most 2^21 tokens, got {order} and {vocab_size}")
        self.vocab_size = vocab_size
        self.orders = [_count(_keys(rows, n), vocab_size) for n in range(1, order + 1)]

    def nats(self, rows: Rows) -> npt.NDArray[np.float64]:
        """-ln P of every token of each row but the first, float64[n, T - 1]."""
        probability = np.full((len(rows), rows.shape[1] - 1), 1.0 / self.vocab_size)
        for n, counts in enumerate(self.orders, 1):
            first = max(1, n - 1)  # rows' tokens from here on have a history of n - 1
            keys = _keys(rows, n)[:, first - (n - 1) :]
            history = keys // np.uint64(1 << 21)
            own = _look_up(counts.keys, counts.counts, keys)
            total = _look_up(counts.histories, counts.totals, history)
            kinds = _look_up(counts.histories, counts.followers, history)
            lower = probability[:, first - 1 :]
            seen = total > 0
            probability[:, first - 1 :] = np.where(seen, (own + kinds * lower) / np.maximum(total + kinds, 1), lower)
        return -np.log(probability)


def bits_per_byte(model: Ngram, rows: Rows, token_bytes: npt.NDArray[np.int64]) -> float:
    """Of the rows' tokens but the first, as the trainer counts them; `token_bytes` is the bytes of each token id."""
    return float(model.nats(rows).sum()) / math.log(2) / int(token_bytes[rows[:, 1:]].sum())


def _keys(rows: Rows, n: int) -> Keys:
    """The n-grams that end at each token from the n-th on, packed 21 bits a token, uint64[n rows, T - n + 1]."""
    width = rows.shape[1] - n + 1
    keys = np.zeros((len(rows), width), np.uint64)
    for place in range(n):
        keys = keys << np.uint64(21) | rows[:, place : place + width].astype(np.uint64)
    return keys


def _count(keys: Keys, vocab_size: int) -> _Counts:
    found, counts = np.unique(keys, return_counts=True)
    histories, starts, followers = np.unique(found >> np.uint64(21), return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, starts) if len(starts) else counts
    return _Counts(found, counts, histories, totals, followers)


def _look_up(keys: Keys, values: npt.NDArray[np.int64], wanted: Keys) -> npt.NDArray[np.int64]:
    """The value of each wanted key, 0 where it is not there."""
    if not len(keys):
        return np.zeros(wanted.shape, np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
