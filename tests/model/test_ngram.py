"""The n-gram baseline against a slow twin of dictionaries."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evals.ngram import Ngram, bits_per_byte


def slow_probability(rows: list[list[int]], vocab: int, history: tuple[int, ...], word: int) -> float:
    """Witten-Bell, by its definition."""
    n = len(history) + 1
    grams = Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))
    followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for gram, count in grams.items():
        followers[gram[:-1]][gram[-1]] += count
    lower = slow_probability(rows, vocab, history[1:], word) if history else 1 / vocab
    seen = followers[history]
    if not seen:
        return lower
    return (seen[word] + len(seen) * lower) / (seen.total() + len(seen))


@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_probabilities_are_those_of_the_definition(order: int, vocab: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    seen, scored = random.integers(0, vocab, (3, 6)), random.integers(0, vocab, (2, 5))
    found = Ngram(seen, vocab, order).nats(scored)
    for row, nats in zip(scored.tolist(), found.tolist(), strict=True):
        for place in range(1, len(row)):
            history = tuple(row[max(0, place - order + 1) : place])
            expected = slow_probability(seen.tolist(), vocab, history, row[place])
            assert nats[place - 1] == pytest.approx(-math.log(expected), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_all_words_sum_to_one(order: int) -> None:
    random = np.random.default_rng(0)
    model = Ngram(random.integers(0, 7, (20, 9)), 7, order)
    for history in ([0, 1], [6, 6], [3, 2]):
        rows = np.array([[*history, word] for word in range(7)])
        assert np.exp(-model.nats(rows)[:, -1]).sum() == pytest.approx(1)


def test_bits_per_byte_divide_by_the_bytes_of_what_is_predicted() -> None:
    rows = np.array([[0, 1, 1, 0]])
    model = Ngram(np.zeros((0, 4), np.int64), 2, 3)
    assert bits_per_byte(model, rows, np.array([5, 2])) == pytest.approx(3 / (2 + 2 + 5))


def test_orders_and_vocabularies_that_do_not_fit_the_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="order 1 to 3"):
        Ngram(np.zeros((1, 2), np.int64), 10, 4)
    with pytest.raises(ValueError, match=r"2\^21"):
        Ngram(np.zeros((1, 2), np.int64), (1 << 21) + 1, 2)
