"""Log-probabilities of token sequences, spread over processes.

- A document is scored with end-of-text before it, in windows as long as the model's context. With a stride, each
  window but the first scores its last `stride` tokens only, so every token is scored once and sees at least
  context - stride tokens; without one, windows do not overlap.
- Every process scores its share of the windows into an array of zeros; the sum over processes is the result on all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.gpt2 import GPT2
from model.parallel import Processes, autocast

Ids = npt.NDArray[np.int64]
Nats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model and how it is run."""

    model: GPT2
    group: Processes
    dtype: torch.dtype
    micro_batch: int
    end_of_text: int

    def documents(self, documents: Sequence[Ids], stride: int | None) -> list[Nats]:
        """-ln P of every token of every document, in nats, given end-of-text and what stands before it."""
        context = self.model.config.context
        if stride is not None and stride > context:
            raise ValueError(
                f"[evaluate] stride: expected at most the model's context {context}, got {stride}; lower it"
            )
        starts = np.concatenate([[0], np.cumsum([len(document) for document in documents])]).astype(np.int64)
        nats = np.zeros(int(starts[-1]))
        rows = [
            (number, begin, first)
            for number, document in enumerate(documents)
            for begin, first in windows(len(document), context, stride or context)
        ]
        for chosen in self._batches(len(rows)):
            width = max(min(context, len(documents[rows[i][0]]) - rows[i][1]) for i in chosen)
            tokens = np.full((len(chosen), width), self.end_of_text)
            targets = np.full((len(chosen), width), -100)
            for row, i in enumerate(chosen):
                number, begin, first = rows[i]
                scored = documents[number][begin : begin + width]
                tokens[row, : len(scored)] = np.concatenate([[self.end_of_text], documents[number]])[
                    begin : begin + len(scored)
                ]
                targets[row, first - begin : len(scored)] = scored[first - begin :]
            found = self.nats(tokens, targets)
            for row, i in enumerate(chosen):
                number, begin, first = rows[i]
                end = min(begin + width, len(documents[number]))
                nats[starts[number] + first : starts[number] + end] = found[row, first - begin : end - begin]
        total = self.group.sum(torch.from_numpy(nats).to(self.group.device)).cpu().numpy()
        return [total[begin:end] for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]

    def nats(self, tokens: Ids, targets: Ids) -> Nats:
        """float64[B, T]; 0 where the target is -100."""
        device = self.group.device
        with autocast(self.dtype, device):
            found = self.model.nats(torch.from_numpy(tokens).to(device), torch.from_numpy(targets).to(device))
        result: Nats = found.cpu().numpy()
        return result

    def _batches(self, count: int) -> Iterator[range]:
        """This process's batches of row numbers."""
        for begin in range(self.group.rank * self.micro_batch, count, self.group.world * self.micro_batch):
            yield range(begin, min(begin + self.micro_batch, count))


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int]]:
    """(begin, first scored) of the windows over `length` targets: each ends at most `context` after its begin."""
    scored = 0
    while scored < length:
        end = min(length, scored + (stride if scored else context))
        yield max(0, end - context), scored
        scored = end
