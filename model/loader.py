"""Training samples over token shards: which tokens a step sees.

- A sample is context + 1 tokens within one shard: samples stand context tokens apart and share one token, so every
  token but a shard's first is predicted once an epoch. What is left at a shard's end is the tail; it is counted.
- The order of an epoch is a keyed permutation of the sample numbers, a Feistel network computed on the fly: no list
  is shuffled or stored. Position p of a run is sample permutation(seed, p // n)(p mod n), so the whole state of the
  data is one integer, and neither the number of processes nor the accumulation changes what a step sees.
- A thread fills pinned buffers ahead of the device. It is a reader only: killing the process loses nothing.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Indices = npt.NDArray[np.int64]
ROUNDS = 8  # Luby and Rackoff: 4 rounds of a good function look random; twice that, as the mixer is no cipher


class Samples:
    """The samples of a split: `Samples(arrays, context)[numbers]` is int64[n, context + 1]."""

    def __init__(self, shards: Sequence[npt.NDArray[Any]], context: int) -> None:
        """`shards`: one array of token ids (uint16 or uint32, memory-mapped or not) each."""
        self.shards = shards
        self.context = context
        counts = [max(0, len(shard) - 1) // context for shard in shards]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])  # first sample of each shard
        self.tail_tokens = sum(max(0, len(shard) - 1) - count * context
                               for shard, count in zip(shards, counts, strict=True))  # fmt: skip

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, numbers: Indices) -> npt.NDArray[np.int64]:
        rows = np.empty((len(numbers), self.context + 1), np.int64)
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        for row, (number, owner) in enumerate(zip(numbers.tolist(), owners.tolist(), strict=True)):
            begin = (number - int(self.starts[owner])) * self.context
            rows[row] = self.shards[owner][begin : begin + self.context + 1]
        return rows


def permute(numbers: Indices, size: int, *, seed: int, epoch: int) -> Indices:
    """The images of `numbers` under a permutation of range(size), which (seed, epoch) chooses.

    A balanced Feistel network over the next even number of bits, walked along its cycles until it is below `size`
    (Black and Rogaway 2002): at most four steps on average.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    digest = hashlib.blake2b(b"webtext samples\0" + seed.to_bytes(8, "little") + epoch.to_bytes(8, "little"),
                             digest_size=8 * ROUNDS).digest()  # fmt: skip
    keys = np.frombuffer(digest, "<u8").astype(np.uint64)
    images = numbers.astype(np.uint64)
    walking = np.arange(len(images))
    while len(walking):
        left, right = images[walking] >> half, images[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        images[walking] = left << half | right
        walking = walking[images[walking] >= np.uint64(size)]
    return images.astype(np.int64)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def sample_numbers(start: int, count: int, size: int, *, seed: int) -> Indices:
    """Sample numbers at positions [start, start + count) of a run over `size` samples, epoch after epoch."""
    positions = np.arange(start, start + count, dtype=np.int64)
    numbers = np.empty(count, np.int64)
    epochs = positions // size
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        numbers[chosen] = permute(positions[chosen] % size, size, seed=seed, epoch=epoch)
    return numbers


def micro_batches(
    samples: Samples, position: int, *, seed: int, batch: int, micro_batch: int, rank: int = 0, world: int = 1
) -> Iterator[npt.NDArray[np.int64]]:
    """This process's micro-batches from run position `position` on, without end: int64[micro_batch, context + 1].

    Micro-batch j of a step takes samples [(j * world + rank) * micro_batch, ...) of the step's `batch`.
    """
    while True:
        numbers = sample_numbers(position, batch, len(samples), seed=seed)
        for begin in range(rank * micro_batch, batch, world * micro_batch):
            yield samples[numbers[begin : begin + micro_batch]]
        position += batch


class Prefetcher:
    """Moves micro-batches to `device` ahead of their use: `next(prefetcher)` is (tokens, targets), int64[B, T] each.

    Close it, or use it as a context manager: its thread ends then.
    """

    def __init__(self, batches: Iterator[npt.NDArray[np.int64]], device: Any, *, depth: int = 4) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._queue: queue.Queue[Tensor | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(batches,), name="samples", daemon=True)
        self._thread.start()

    def _fill(self, batches: Iterator[npt.NDArray[np.int64]]) -> None:
        try:
            if self._device.type == "cuda":  # pinning would make a context on the first GPU, whichever is ours
                self._torch.cuda.set_device(self._device)
            for batch in batches:
                rows = self._torch.from_numpy(batch)
                if not self._put(rows.pin_memory() if self._device.type == "cuda" else rows):
                    return
        except BaseException as error:  # a reader's error belongs to the one who reads
            self._put(error)

    def _put(self, item: Tensor | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __next__(self) -> tuple[Tensor, Tensor]:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        rows = item.to(self._device, non_blocking=True)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
