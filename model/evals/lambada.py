"""LAMBADA: the last word of a passage, as OpenAI scored it, under three named protocols.

- Text: smart and doubled quotes become plain ones, then a line end and the stripped text ("\\n" + text.strip()).
- last_token: the last token alone, given everything before it. The paper's 45.99% for 117M is near this.
- last_word: every token of " word" must be the most likely one; perplexity is exp of the mean -ln P of the word.
- last_word_filtered: the same, but the word's first token may not be one that is a stop word by itself; an answer
  that is a stop word is then a miss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.evals.scoring import Nats, Scorer
from model.parallel import autocast

PUBLISHED_EXAMPLES = 5153
_QUOTES = re.compile("[“”]|``|''")

# Words that could go on a sentence but do not end it: English function words and auxiliaries.
_STOP_WORDS = """
a about above after again against all am an and any are as at be because been before being below between both but by
can could did do does doing down during each few for from further had has have having he her here hers herself him
himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or other
our ours ourselves out over own same she should so some such than that the their theirs them themselves then there
these they this those through to too under until up very was we were what when where which while who whom why will
with would you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured on each example; arrays of [n]."""

    last_token_right: npt.NDArray[np.bool_]
    last_token_nats: npt.NDArray[np.float64]
    last_word_right: npt.NDArray[np.bool_]
    last_word_nats: npt.NDArray[np.float64]
    filtered_right: npt.NDArray[np.bool_]

    def scores(self, kept: npt.NDArray[np.bool_]) -> dict[str, float | int]:
        """Accuracies and perplexities over the examples of a mask."""
        if not kept.any():
            return {"examples": 0}
        return {
            "examples": int(kept.sum()),
            "last_token_accuracy": float(self.last_token_right[kept].mean()),
            "last_token_perplexity": math.exp(self.last_token_nats[kept].mean()),
            "last_word_accuracy": float(self.last_word_right[kept].mean()),
            "last_word_perplexity": math.exp(self.last_word_nats[kept].mean()),
            "last_word_filtered_accuracy": float(self.filtered_right[kept].mean()),
        }


def prepare(text: str) -> tuple[str, str]:
    """(context, " word") of a passage."""
    text = "\n" + _QUOTES.sub('"', text).strip()
    head, space, word = text.rpartition(" ")
    if not space:
        raise ValueError(f"LAMBADA: expected a passage of several words, got {text!r:.60}")
    return head, " " + word


def stop_tokens(encode: Callable[[str], Sequence[int]]) -> list[int]:
    """Tokens that are a stop word by themselves, with a space before them, capitalised or not."""
    found = set()
    for word in STOP_WORDS:
        for form in (word, word.capitalize()):
            ids = encode(" " + form)
            if len(ids) == 1:
                found.add(int(ids[0]))
    return sorted(found)


def measure(scorer: Scorer, passages: Sequence[tuple[str, str]], encode: Callable[[str], Sequence[int]]) -> Outcome:
    """The outcome of every (context, " word"); examples are spread over the processes."""
    context = scorer.model.config.context
    pairs = []
    for head, word in passages:
        answer = list(encode(word))
        pairs.append((list(encode(head))[-(context + 1 - len(answer)) :], answer))
    stops = stop_tokens(encode)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    table = np.zeros((len(pairs), 5))
    for begin in range(0, len(order), scorer.micro_batch):
        if begin // scorer.micro_batch % scorer.group.world == scorer.group.rank:
            chosen = order[begin : begin + scorer.micro_batch]
            table[chosen] = _outcomes(scorer, [pairs[i] for i in chosen], stops)
    table = scorer.group.sum(torch.from_numpy(table).to(scorer.group.device)).cpu().numpy()
    return Outcome(table[:, 0] > 0, table[:, 1], table[:, 2] > 0, table[:, 3], table[:, 4] > 0)


@torch.no_grad()
def _outcomes(scorer: Scorer, pairs: Sequence[tuple[list[int], list[int]]], stops: Sequence[int]) -> Nats:
    """float64[n, 5] in the order of Outcome's fields."""
    width = max(len(head) + len(answer) for head, answer in pairs) - 1
    rows = np.zeros((len(pairs), width), np.int64)
    for row, (head, answer) in enumerate(pairs):
        rows[row, : len(head) + len(answer) - 1] = (head + answer)[:-1]
    device = scorer.group.device
    # Logits of the answers' places alone: all of them would be 50,257 numbers a token.
    with autocast(scorer.dtype, device):
        hidden = scorer.model.hidden(torch.from_numpy(rows).to(device))
        weight = scorer.model.transformer.wte.weight[: scorer.model.config.vocab_size]
    table = np.zeros((len(pairs), 5))
    for row, (head, answer) in enumerate(pairs):
        places = slice(len(head) - 1, len(head) + len(answer) - 1)
        logits = (hidden[row, places].to(weight.dtype) @ weight.T).double()  # [len(answer), V]
        wanted = torch.tensor(answer, device=device)
        nats = -logits.log_softmax(-1).gather(1, wanted.unsqueeze(1)).squeeze(1)
        right = logits.argmax(-1) == wanted
        filtered = logits[0].index_fill(0, torch.tensor(stops, dtype=torch.int64, device=device), -torch.inf)
        filtered_right = bool(filtered.argmax() == wanted[0]) and bool(right[1:].all())
        table[row] = (float(right[-1]), float(nats[-1]), float(right.all()), float(nats.sum()), float(filtered_right))
    return table
