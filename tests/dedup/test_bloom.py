"""dedup.bloom against pybloom-live itself, a slow twin, and the promised rates."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pybloom_live import BloomFilter

from dedup import bloom
from dedup.bloom import (
    META_FILE,
    PartitionedBloomFilter,
    Spill,
    SpillWriter,
    build,
    build_file,
    count_distinct,
    plan_filter,
    positions,
    spill,
)

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=80)


def uniform(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, size, np.uint64)


def slow_filter(plan: bloom.FilterPlan, index: int, keys: set[int]) -> bytes:
    """What pybloom-live writes when its own `add` inserts the partition's keys with our positions."""
    partition = BloomFilter(plan.partition_capacity, plan.error_rate)
    partition.make_hashes = positions(partition.num_slices, partition.bits_per_slice)
    for key in sorted(keys):
        if plan.partition_bits == 0 or key >> (64 - plan.partition_bits) == index:
            partition.add(key, skip_check=True)
    file = io.BytesIO()
    partition.tofile(file)
    return file.getvalue()


@EXAMPLES
@given(HASHES, st.sampled_from([0.3, 1e-2, 1e-8, 1e-15]))
def test_a_built_file_is_what_pybloom_live_writes_when_it_adds_the_same_hashes(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], error_rate: float
) -> None:
    folder = tmp_path_factory.mktemp("filter")
    spill([np.array(keys + keys[:5], np.uint64)], folder / "a")
    built = build([folder / "a"], folder / "f", error_rate=error_rate)
    assert (folder / "f" / built.plan.file_name(0)).read_bytes() == slow_filter(built.plan, 0, set(keys))
    assert len(built) == len(set(keys))


def test_every_partition_of_a_larger_filter_is_what_pybloom_live_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bloom, "MAX_PARTITION_CAPACITY", 128)
    keys = uniform(0, 2_000)
    spill([keys], tmp_path / "a")
    built = build([tmp_path / "a"], tmp_path / "f", error_rate=1e-3)
    plan = built.plan
    assert plan.num_partitions == 32
    expected = [slow_filter(plan, index, set(keys.tolist())) for index in range(32)]
    assert (tmp_path / "f" / plan.file_name(0)).read_bytes() == b"".join(expected)


def test_pybloom_lives_own_in_works_after_the_documented_line(tmp_path: Path) -> None:
    keys = uniform(0, 100_000)
    spill([keys], tmp_path / "a")
    built = build([tmp_path / "a"], tmp_path / "f")
    meta = json.loads((tmp_path / "f" / META_FILE).read_text())
    assert meta["num_files"] == 1
    key = int(keys[7])
    index = key >> (64 - meta["partition_bits"])
    with (tmp_path / "f" / meta["files"][0]["name"]).open("rb") as file:
        file.seek(index * meta["record_bytes"])
        partition = BloomFilter.fromfile(file, meta["record_bytes"])
    assert key not in partition  # with pybloom-live's own positions
    partition.make_hashes = positions(partition.num_slices, partition.bits_per_slice)
    assert key in partition
    assert key ^ 1 not in partition
    assert key in built.partition(index)
    assert len(partition) == int(((keys >> np.uint64(64 - meta["partition_bits"])) == np.uint64(index)).sum())


@EXAMPLES
@given(HASHES, HASHES)
def test_what_was_added_is_found_and_the_slow_twin_agrees_on_everything_else(
    added: list[int], asked: list[int]
) -> None:
    built = PartitionedBloomFilter.create(200, 0.2)  # so high a rate that false positives occur
    built.add(np.array(added, np.uint64))
    assert built.contains(np.array(added, np.uint64)).all()
    twin = built.partition(0)
    assert built.contains(np.array(asked, np.uint64)).tolist() == [key in twin for key in asked]


def test_adding_hashes_gives_the_bits_that_building_gives(tmp_path: Path) -> None:
    keys = uniform(3, 120_000)
    spill([keys], tmp_path / "a")
    built = build([tmp_path / "a"], tmp_path / "f")
    by_hand = PartitionedBloomFilter.create(built.plan.distinct)
    assert by_hand.add(keys[:50_000]) == 50_000
    by_hand.add(keys[40_000:])
    by_hand.save(tmp_path / "g")
    name = built.plan.file_name(0)
    assert (tmp_path / "f" / name).read_bytes() == (tmp_path / "g" / name).read_bytes()
    assert len(by_hand) == len(built) == 120_000
    assert int(keys[5]) in by_hand


def test_many_queries_at_once_and_few_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloom, "CACHE_BYTES", 1)
    built = PartitionedBloomFilter.create(150_000, 0.05)
    built.add(uniform(1, 150_000))
    asked = np.concatenate([uniform(1, 1_000), uniform(2, 20_000)])
    singly = np.concatenate([built.contains(asked[i : i + 7]) for i in range(0, len(asked), 7)])
    assert built.contains(asked).tolist() == singly.tolist()
    assert built.contains(asked[:1_000]).all()


def test_bytes_do_not_depend_on_order_shards_buffers_or_memory(tmp_path: Path) -> None:
    keys = uniform(0, 300_000)
    keys = np.concatenate([keys, keys[:70_000]])
    spill([keys], tmp_path / "one")
    build([tmp_path / "one"], tmp_path / "f", error_rate=1e-4)
    reference = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}

    shuffled = np.random.default_rng(5).permutation(keys)
    paths = []
    for index, part in enumerate(np.array_split(shuffled, 3)):
        paths.append(tmp_path / f"part{index}")
        spill(np.array_split(part, 4), paths[-1], buffer_hashes=10_007)
    build(paths[::-1], tmp_path / "g", error_rate=1e-4)
    assert {path.name: path.read_bytes() for path in (tmp_path / "g").iterdir()} == reference


def test_files_gathered_in_several_rounds_or_cut_in_several_files_hold_the_same_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bloom, "MAX_PARTITION_CAPACITY", 400)  # over 256 partitions: several to a top byte
    monkeypatch.setattr(bloom, "CHUNK_HASHES", 16)
    keys = uniform(0, 150_000)
    spill([keys], tmp_path / "a")
    spills = [Spill(tmp_path / "a")]
    plan = plan_filter(150_000, 1e-3)
    assert plan.num_partitions == 512
    build_file(spills, plan, 0, tmp_path / "whole")
    fixed = 2 * 8 * 16 + 2 * plan.record_bytes
    tight = fixed + 8 * int(spills[0].group_counts.max()) * 3 // 4  # less than a top byte holds
    build_file(spills, plan, 0, tmp_path / "rounds", memory_bytes=tight)
    assert (tmp_path / "rounds").read_bytes() == (tmp_path / "whole").read_bytes()

    split = plan_filter(150_000, 1e-3, num_files=4)
    files = [build_file(spills, split, index, tmp_path / f"{index}") for index in range(4)]
    assert b"".join((tmp_path / f"{index}").read_bytes() for index in range(4)) == (tmp_path / "whole").read_bytes()
    assert sum(file.count for file in files) == 150_000
    with pytest.raises(ValueError, match=r"memory_bytes: expected at least \d+ to hold the hashes of one partition"):
        build_file(spills, plan, 0, tmp_path / "none", memory_bytes=fixed + 800)


@EXAMPLES
@given(st.lists(HASHES, max_size=5), st.integers(1, 20))
def test_a_spill_gives_back_every_hash_of_every_range(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], buffer_hashes: int
) -> None:
    path = tmp_path_factory.mktemp("spill") / "s"
    total = spill([np.array(part, np.uint64) for part in parts], path, buffer_hashes=buffer_hashes)
    keys = sorted(key for part in parts for key in part)
    source = Spill(path)
    assert total == source.count == len(keys)
    assert sorted(key for chunk in source.read(0, 256) for key in chunk.tolist()) == keys
    some = sorted(key for chunk in source.read(16, 130) for key in chunk.tolist())
    assert some == [key for key in keys if 16 <= key >> 56 < 130]
    assert source.group_counts.tolist() == [sum(key >> 56 == group for key in keys) for group in range(256)]


def test_a_spill_cut_short_or_abandoned_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    spill([uniform(0, 1_000)], path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="spill again"):
        Spill(path)
    with pytest.raises(TypeError), SpillWriter(path) as writer:
        writer.add(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a finished spill"):
        Spill(path)


def test_distinct_hashes_are_counted_exactly_when_few_and_bounded_from_above_when_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = uniform(0, 60_000)
    spill([keys, keys[:20_000]], tmp_path / "a")
    spill([keys[30_000:]], tmp_path / "b")
    spills = [Spill(tmp_path / "a"), Spill(tmp_path / "b")]
    assert count_distinct(spills) == 60_000
    monkeypatch.setattr(bloom, "EXACT_HASHES", 1_000)
    estimate = count_distinct(spills, sample_groups=64)
    error = 60_000 / math.sqrt(15_000)
    assert 60_000 <= estimate <= 60_000 + 12 * error


def test_partitions_are_planned_at_mean_and_six_sigma_within_the_cache() -> None:
    plan = plan_filter(9_000_000_000, 1e-8)
    mean = 9e9 / plan.num_partitions
    assert plan.partition_capacity == math.ceil(mean + 6 * math.sqrt(mean)) <= bloom.MAX_PARTITION_CAPACITY
    assert 38.3 < 8 * plan.total_bytes / 9e9 < 40.5  # bits for each hash; 38.3 without the margin
    assert plan.partitions_per_file * plan.record_bytes <= bloom.FILE_BYTES
    assert plan.num_partitions % plan.num_files == 0
    assert "memory" in plan.describe(1 << 30)


def test_random_hashes_overflow_no_planned_partition() -> None:
    for seed in range(5):
        built = PartitionedBloomFilter.create(200_000, 0.5)
        built.add(uniform(seed, 200_000))
        assert built.counts().max() <= built.plan.partition_capacity


def test_false_positives_at_capacity_occur_at_the_promised_rate() -> None:
    for error_rate in (1e-2, 1e-3, 2e-5):
        built = PartitionedBloomFilter.create(40_000, error_rate)  # one partition: filled to its capacity exactly
        built.add(uniform(1, 40_000))
        slices, bits = built.plan.num_slices, built.plan.bits_per_slice
        expected = (1 - math.exp(-40_000 / bits)) ** slices
        asked = 2_000_000
        hits = int(built.contains(uniform(2, asked)).sum())
        assert expected <= 1.02 * error_rate
        assert abs(hits - asked * expected) < 4 * math.sqrt(asked * expected) + 1, (error_rate, hits)


@pytest.mark.slow
def test_full_filters_have_at_most_twenty_hits_in_a_billion_absent_hashes() -> None:
    hits = asked = 0
    for seed in range(20):
        built = PartitionedBloomFilter.create(bloom.MAX_PARTITION_CAPACITY, 1e-8)  # one partition, exactly full
        built.add(uniform(seed, bloom.MAX_PARTITION_CAPACITY))
        others = np.random.default_rng(1_000 + seed)
        for _ in range(10):
            hits += int(built.contains(others.integers(0, 2**64, 5_000_000, np.uint64)).sum())
            asked += 5_000_000
    assert asked == 10**9
    assert 1 <= hits <= 20  # ten are expected


def test_a_union_has_the_bits_of_both_and_the_count_of_the_union() -> None:
    mine, theirs = (PartitionedBloomFilter.create(200_000, 1e-4) for _ in range(2))
    keys = uniform(0, 150_000)
    mine.add(keys[:90_000])
    theirs.add(keys[60_000:])
    both = PartitionedBloomFilter.create(200_000, 1e-4)
    both.add(keys)
    merged = mine.merge(theirs)
    assert merged.contains(keys).all()
    assert abs(len(merged) - 150_000) < 0.005 * 150_000
    assert np.array_equal(merged._records[0].reshape(8, -1)[:, 40:], both._records[0].reshape(8, -1)[:, 40:])
    assert len(theirs.merge(mine)) == len(merged)
    assert len(mine.merge(mine)) == len(mine)
    empty = PartitionedBloomFilter.create(200_000, 1e-4)
    assert len(mine.merge(empty)) == len(mine) == 90_000
    assert len(theirs) == 90_000  # the operands stay as they are


def test_a_union_over_capacity_or_of_other_shapes_is_refused() -> None:
    mine, theirs = (PartitionedBloomFilter.create(10_000, 1e-4) for _ in range(2))
    mine.add(uniform(0, 9_000))
    theirs.add(uniform(1, 9_000))
    with pytest.raises(ValueError, match="over its capacity of 10000; build again from the spills"):
        mine.merge(theirs)
    with pytest.raises(ValueError, match="two filters of one shape"):
        mine.merge(PartitionedBloomFilter.create(10_000, 1e-5))


def test_a_filter_that_is_full_refuses_new_hashes_and_takes_known_ones() -> None:
    built = PartitionedBloomFilter.create(1_000, 1e-8)
    keys = uniform(0, 1_000)
    built.add(keys)
    assert built.add(keys) == 0
    with pytest.raises(ValueError, match="over its capacity of 1000"):
        built.add(uniform(1, 1))
    assert len(built) == 1_000


def test_a_partition_over_its_capacity_is_refused_when_building(tmp_path: Path) -> None:
    spill([uniform(0, 1_000)], tmp_path / "a")
    with pytest.raises(ValueError, match="expected at most 500 distinct hashes, got 1000"):
        build_file([Spill(tmp_path / "a")], plan_filter(500), 0, tmp_path / "f")


def test_a_filter_that_is_missing_or_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="build it first"):
        PartitionedBloomFilter.open(tmp_path)
    built = PartitionedBloomFilter.create(100)
    built.save(tmp_path)
    opened = PartitionedBloomFilter.open(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        opened.add(uniform(0, 1))
    file = tmp_path / built.plan.file_name(0)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="build it again"):
        PartitionedBloomFilter.open(tmp_path)


def test_nothing_hashed_is_an_empty_filter(tmp_path: Path) -> None:
    spill([], tmp_path / "a")
    built = build([tmp_path / "a"], tmp_path / "f", about={"protocol": "words"})
    assert len(built) == 0
    assert not built.contains(uniform(0, 1_000)).any()
    assert built.about == {"protocol": "words"}


@pytest.mark.parametrize("error_rate", [0.0, 1.0, 1e-50])
def test_an_impossible_error_rate_is_refused(error_rate: float) -> None:
    with pytest.raises(ValueError, match="error_rate: expected"):
        plan_filter(10, error_rate)


def test_multipliers_are_odd_and_all_different() -> None:
    numbers = bloom._multipliers(64)
    assert len(set(numbers)) == 64
    assert all(number % 2 and number.bit_length() > 48 for number in numbers)
    assert bloom._MULTIPLIERS.tolist() == numbers
