"""Which samples a step sees."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.loader import Prefetcher, Samples, micro_batches, permute, sample_numbers

SHARDS = [
    np.arange(0, 100, dtype=np.uint16),
    np.arange(1000, 1003, dtype=np.uint16),
    np.arange(500, 541, dtype=np.uint16),
]


def test_every_token_but_a_shards_first_is_predicted_once_and_tails_are_counted() -> None:
    samples = Samples(SHARDS, 8)
    rows = samples[np.arange(len(samples))]
    assert rows.shape == (12 + 0 + 5, 9)
    targets = rows[:, 1:].ravel().tolist()
    assert targets == [*range(1, 97), *range(501, 541)]
    assert samples.tail_tokens == 3 + 2 + 0
    assert len(targets) + samples.tail_tokens == sum(len(shard) - 1 for shard in SHARDS)


def test_shards_shorter_than_a_sample_hold_none() -> None:
    samples = Samples([np.zeros(8, np.uint16), np.zeros(0, np.uint16), np.zeros(1, np.uint16)], 8)
    assert len(samples) == 0
    assert samples.tail_tokens == 7


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 1000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    images = permute(np.arange(size), size, seed=seed, epoch=epoch)
    assert sorted(images.tolist()) == list(range(size))


def test_order_differs_by_seed_and_epoch_and_looks_random() -> None:
    size = 4096
    orders = [permute(np.arange(size), size, seed=s, epoch=e) for s, e in [(0, 0), (1, 0), (0, 1)]]
    for i, order in enumerate(orders):
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.05
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
        for other in orders[:i]:
            assert (order == other).mean() < 0.005


@given(st.integers(1, 500), st.integers(0, 2**63 - 1), st.integers(0, 9))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_permutation_equals_its_slow_twin(size: int, seed: int, epoch: int) -> None:
    found = permute(np.arange(size), size, seed=seed, epoch=epoch).tolist()
    assert found == [slow_permute(number, size, seed, epoch) for number in range(size)]


def slow_permute(number: int, size: int, seed: int, epoch: int) -> int:
    """The same network on Python's integers, a number at a time."""
    half = max(1, math.ceil(math.log2(size) / 2)) if size > 1 else 1
    digest = hashlib.blake2b(b"webtext samples\0" + seed.to_bytes(8, "little") + epoch.to_bytes(8, "little"),
                             digest_size=64).digest()  # fmt: skip
    while True:
        left, right = divmod(number, 2**half)
        for i in range(8):
            word = (right ^ int.from_bytes(digest[8 * i : 8 * i + 8], "little")) + 0x9E3779B97F4A7C15
            word &= 2**64 - 1
            word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
            left, right = right, left ^ ((word ^ word >> 31) % 2**half)
        number = left * 2**half + right
        if number < size:
            return number


def test_order_is_pinned() -> None:
    # A checkpoint stores one integer: with another permutation it would go on with other data.
    assert permute(np.arange(10), 10, seed=1, epoch=2).tolist() == [9, 7, 4, 1, 3, 0, 6, 8, 5, 2]


def test_a_run_takes_each_epoch_in_the_order_of_its_own_seed_and_epoch() -> None:
    for seed in (0, 3):
        expected = [slow_permute(number, 17, seed, epoch) for epoch in range(3) for number in range(17)]
        assert sample_numbers(0, 3 * 17, 17, seed=seed).tolist() == expected


def test_any_position_is_reached_without_those_before() -> None:
    whole = sample_numbers(0, 100, 17, seed=4)
    for start in (1, 16, 17, 40, 99):
        assert sample_numbers(start, 100 - start, 17, seed=4).tolist() == whole[start:].tolist()
    for epoch in range(5):
        assert sorted(whole[epoch * 17 : (epoch + 1) * 17].tolist()) == list(range(17))


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 8), (1, 2), (2, 4), (2, 1), (4, 2), (4, 1)])
def test_a_step_sees_the_same_samples_for_any_processes_and_accumulation(world: int, micro_batch: int) -> None:
    samples = Samples(SHARDS, 8)
    expected = [samples[sample_numbers(step * 8, 8, len(samples), seed=3)] for step in range(5)]
    streams = [micro_batches(samples, 0, seed=3, batch=8, micro_batch=micro_batch, rank=r, world=world)
               for r in range(world)]  # fmt: skip
    for step in range(5):
        parts = [[next(stream) for stream in streams] for _ in range(8 // (world * micro_batch))]
        seen = np.concatenate([row for part in parts for row in part])
        assert seen.tolist() == expected[step].tolist()


def test_prefetched_batches_are_those_of_the_reader_in_order() -> None:
    samples = Samples(SHARDS, 8)
    plain = micro_batches(samples, 0, seed=1, batch=4, micro_batch=2)
    with Prefetcher(micro_batches(samples, 0, seed=1, batch=4, micro_batch=2), "cpu") as ahead:
        for _ in range(20):
            tokens, targets = next(ahead)
            rows = next(plain)
            assert tokens.tolist() == rows[:, :-1].tolist()
            assert targets.tolist() == rows[:, 1:].tolist()


def test_a_readers_error_reaches_the_training_loop() -> None:
    def broken() -> object:
        yield np.zeros((1, 9), np.int64)
        raise OSError("the disk is gone")

    with Prefetcher(broken(), "cpu") as ahead:  # type: ignore[arg-type]
        next(ahead)
        with pytest.raises(OSError, match="the disk is gone"):
            next(ahead)
