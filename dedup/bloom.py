"""A Bloom filter for tens of billions of n-gram hashes, made of ordinary pybloom-live filters.

- 2^p partitions, chosen by the top p bits of the hash; each partition is one `pybloom_live.BloomFilter`, so the error
  rate, the slices and the file are pybloom-live's own. What changes is who computes the positions: pybloom-live salts
  SHA-512, here one multiplication gives two positions (a double hash a + i*b is not enough: a partition's slice has
  some 2^16 bits, and pairs (a, b) would collide hundreds of times more often than 1e-8).
- A partition is filled slice by slice. A slice is a few KiB, so the bits stay in the first-level cache.
- Hashes are spilled first (map: one corpus shard, one file whose sections are the 256 values of the top byte; repeats
  are kept, removing them costs more than reading them again), then filtered range by range (reduce: one file of
  partitions). The reduce sorts and de-duplicates each partition, so `count` is exact and the bytes depend on the set
  of hashes alone: not on their order, the shards, the workers or the memory allowed.
- The capacity of a partition is the mean plus six standard deviations of a binomial, so none is ever over-full
  (one build in a hundred thousand at WebText's size).
- A filter's file is the plain concatenation of what `BloomFilter.tofile` writes, all equally long. Without this module:

      with open("filter-00000-of-00001.bloom", "rb") as file:
          file.seek(index * record_bytes)                      # `record_bytes` and the index rule are in filter.json
          partition = pybloom_live.BloomFilter.fromfile(file, record_bytes)
      partition.make_hashes = dedup.bloom.positions(partition.num_slices, partition.bits_per_slice)   # the one line
      hash in partition

  The line is needed again after `copy`, `union` and unpickling, which put pybloom-live's own positions back.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numba as nb
import numpy as np
import numpy.typing as npt
from pybloom_live import BloomFilter

Hashes = npt.NDArray[np.uint64]

SPILL_GROUPS = 256
SPILL_MAGIC = b"ngspill\n"
SPILL_VERSION = 1
_SPILL_HEADER = struct.Struct("<8sIIQQ")  # magic, version, groups, runs, hashes

HEADER_BYTES = 40  # pybloom-live's "<dQQQQ": error rate, slices, bits per slice, capacity, count
COUNT_OFFSET = 32
MAX_PARTITION_CAPACITY = 48_000  # two slices, of 1.42 bits for each hash at 1e-8, are a third of a 48 KiB L1 cache
FILE_BYTES = 512 << 20  # a file of partitions is at most this long
CHUNK_HASHES = 1 << 17  # hashes read at once from a spill: 1 MiB, so that they are still in the cache when used
CACHE_BYTES = 1 << 20  # a filter up to this size is asked in any order
EXACT_HASHES = 1 << 20  # up to so many, distinct hashes are counted and not estimated
META_FILE = "filter.json"


# ---------------------------------------------------------------------------------------------------------- positions


def _multipliers(count: int) -> list[int]:
    """Odd 64-bit numbers without linear relations: the outputs of splitmix64 from 0, their last bit set."""
    numbers = []
    for index in range(1, count + 1):
        value = index * 0x9E3779B97F4A7C15 & _MASK
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
        numbers.append((value ^ value >> 31) | 1)
    return numbers


_MASK = (1 << 64) - 1
MAX_SLICES = 128  # an error rate of 3e-39
_MULTIPLIERS = np.array(_multipliers(MAX_SLICES // 2), np.uint64)


def positions(num_slices: int, bits_per_slice: int) -> Callable[[int], Iterator[int]]:
    """A `make_hashes` for a `BloomFilter` filled here: a well mixed 64-bit hash -> its position in each slice.

    The readable twin of the kernels: x = hash * multiplier[j] modulo 2^64, x ^= x >> 32; the low 32 bits of x are
    scaled to slice 2j and the high 32 to slice 2j + 1.
    """
    multipliers = _multipliers((num_slices + 1) // 2)

    def make_hashes(key: int) -> Iterator[int]:
        for index in range(num_slices):
            mixed = int(key) * multipliers[index // 2] & _MASK
            mixed ^= mixed >> 32
            half = mixed >> 32 if index % 2 else mixed & 0xFFFFFFFF
            yield half * bits_per_slice >> 32

    return make_hashes


# Memory-mapped filters and Arrow buffers are read-only; numba tells the two apart in a signature.
_READONLY_BYTES = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_READONLY_HASHES = nb.types.Array(nb.uint64, 1, "C", readonly=True)


@nb.njit("void(uint64[::1], uint64, uint64, uint64[::1])", cache=True, nogil=True)
def _fill(words, num_slices, bits_per_slice, hashes):  # type: ignore[no-untyped-def]
    """Set the bits of all `hashes` in little-endian `words`, two slices at a time."""
    low, half, six, rest = nb.uint64(0xFFFFFFFF), nb.uint64(32), nb.uint64(6), nb.uint64(63)
    one, two = nb.uint64(1), nb.uint64(2)
    for pair in range(num_slices // two):
        multiplier = _MULTIPLIERS[pair]
        start = two * pair * bits_per_slice
        for index in range(len(hashes)):
            mixed = hashes[index] * multiplier
            high = mixed >> half
            first = start + ((((mixed ^ high) & low) * bits_per_slice) >> half)
            second = start + bits_per_slice + ((high * bits_per_slice) >> half)
            words[first >> six] |= one << (first & rest)
            words[second >> six] |= one << (second & rest)
    if num_slices & one:
        multiplier = _MULTIPLIERS[num_slices // two]
        start = (num_slices - one) * bits_per_slice
        for index in range(len(hashes)):
            mixed = hashes[index] * multiplier
            first = start + ((((mixed ^ (mixed >> half)) & low) * bits_per_slice) >> half)
            words[first >> six] |= one << (first & rest)


@nb.njit(
    nb.boolean(_READONLY_BYTES, nb.uint64, nb.uint64, nb.uint64, nb.uint64), inline="always", cache=True, nogil=True
)
def _has(records, first_byte, num_slices, bits_per_slice, key):  # type: ignore[no-untyped-def]
    """Whether all bits of `key` are set in the bits that begin at `first_byte`."""
    low, half, three, seven = nb.uint64(0xFFFFFFFF), nb.uint64(32), nb.uint64(3), nb.uint64(7)
    one = nb.uint64(1)
    start = nb.uint64(0)
    mixed = nb.uint64(0)
    for index in range(num_slices):
        if index & one == nb.uint64(0):
            mixed = key * _MULTIPLIERS[index >> one]
            mixed ^= mixed >> half
            value = mixed & low
        else:
            value = mixed >> half
        position = start + ((value * bits_per_slice) >> half)
        if (records[first_byte + (position >> three)] >> (position & seven)) & one == nb.uint64(0):
            return False
        start += bits_per_slice
    return True


@nb.njit(
    nb.void(_READONLY_BYTES, *[nb.uint64] * 6, _READONLY_HASHES, nb.boolean[::1]),
    cache=True,
    nogil=True,
)
def _contains(records, record_bytes, first, shift, header, num_slices, bits_per_slice, hashes, found):  # type: ignore[no-untyped-def]
    """found[i] for every hash whose partition lies in `records`, whose first partition is `first`."""
    num_records = nb.uint64(len(records)) // record_bytes
    for index in range(len(hashes)):
        partition = ((hashes[index] >> nb.uint64(1)) >> shift) - first
        if partition < num_records:
            found[index] = _has(records, partition * record_bytes + header, num_slices, bits_per_slice, hashes[index])


@nb.njit("int64(uint8[::1], uint64, uint64, uint64[::1])", cache=True, nogil=True)
def _add(bits, num_slices, bits_per_slice, hashes):  # type: ignore[no-untyped-def]
    """Insert one by one and count, as pybloom-live does, those that were not there."""
    low, half, three, seven = nb.uint64(0xFFFFFFFF), nb.uint64(32), nb.uint64(3), nb.uint64(7)
    one = nb.uint64(1)
    new = 0
    for index in range(len(hashes)):
        absent = False
        mixed = nb.uint64(0)
        for piece in range(num_slices):
            if piece & one == nb.uint64(0):
                mixed = hashes[index] * _MULTIPLIERS[piece >> one]
                mixed ^= mixed >> half
                value = mixed & low
            else:
                value = mixed >> half
            position = piece * bits_per_slice + ((value * bits_per_slice) >> half)
            mask = nb.uint8(one << (position & seven))
            if bits[position >> three] & mask == nb.uint8(0):
                absent = True
                bits[position >> three] |= mask
        new += absent
    return new


@nb.njit(nb.void(_READONLY_HASHES, nb.uint64, nb.int64[::1]), cache=True, nogil=True)
def _count(hashes, shift, counts):  # type: ignore[no-untyped-def]
    """counts[b] = how many hashes have the top bits b = (hash >> 1) >> shift."""
    for index in range(len(hashes)):
        counts[(hashes[index] >> nb.uint64(1)) >> shift] += 1


@nb.njit(nb.void(_READONLY_HASHES, nb.uint64, nb.uint64[::1], nb.uint64[::1]), cache=True, nogil=True)
def _scatter(hashes, shift, cursors, out):  # type: ignore[no-untyped-def]
    """Write each hash to out[cursors[b]++] for its top bits b."""
    for index in range(len(hashes)):
        bucket = (hashes[index] >> nb.uint64(1)) >> shift
        out[cursors[bucket]] = hashes[index]
        cursors[bucket] += nb.uint64(1)  # unsigned: a signed index costs a test for negative ones


@nb.njit(nb.void(_READONLY_HASHES, nb.uint64, nb.uint64[::1], nb.int64[::1]), cache=True, nogil=True)
def _order(hashes, shift, cursors, order):  # type: ignore[no-untyped-def]
    """Write each hash's index to order[cursors[b]++] for its top bits b."""
    for index in range(len(hashes)):
        bucket = (hashes[index] >> nb.uint64(1)) >> shift
        order[cursors[bucket]] = index
        cursors[bucket] += nb.uint64(1)


@nb.njit("int64(uint64[::1])", cache=True, nogil=True)
def _unique(hashes):  # type: ignore[no-untyped-def]
    """Move the distinct values of a sorted array to its front; how many they are."""
    if len(hashes) == 0:
        return 0
    size = 1
    for index in range(1, len(hashes)):
        hashes[size] = hashes[index]
        size += hashes[index] != hashes[size - 1]
    return size


def bucketed(hashes: Hashes, num_bits: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """`hashes` grouped by their top `num_bits` bits (in a group, as they came), and the 2^num_bits + 1 starts."""
    starts = _starts(hashes, num_bits)
    out = np.empty_like(hashes)
    _scatter(hashes, 63 - num_bits, starts[:-1].astype(np.uint64), out)
    return out, starts


def _starts(hashes: Hashes, num_bits: int) -> npt.NDArray[np.int64]:
    """int64[2^num_bits + 1]: where each value of the top bits starts once the hashes are grouped."""
    counts = np.zeros(1 << num_bits, np.int64)
    _count(hashes, 63 - num_bits, counts)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


# ------------------------------------------------------------------------------------------------------------- spills


class SpillWriter:
    """The map side: hashes of one corpus shard -> one file, grouped by their top byte.

    with SpillWriter(path) as spill:
        for batch in batches:
            spill.add(hashes_of(batch))

    Memory: 16 bytes for each of `buffer_hashes`; a longer shard becomes several runs in the same file. The bytes depend
    on the hashes and their order, not on how they are cut into arrays. A file whose `with` block failed is refused by
    `Spill`.
    """

    def __init__(self, path: Path, *, buffer_hashes: int = 1 << 22) -> None:
        if buffer_hashes < 1:
            raise ValueError(f"buffer_hashes: expected at least 1, got {buffer_hashes}")
        self._buffer = np.empty(buffer_hashes, np.uint64)
        self._grouped = np.empty(buffer_hashes, np.uint64)
        self._size = 0
        self._runs = 0
        self.count = 0
        self._file: BinaryIO = path.open("wb")
        self._file.write(bytes(_SPILL_HEADER.size))

    def add(self, hashes: Hashes) -> None:
        """Append uint64 `hashes`, in any order, with repeats."""
        while len(hashes):
            piece = hashes[: len(self._buffer) - self._size]
            self._buffer[self._size : self._size + len(piece)] = piece
            self._size += len(piece)
            hashes = hashes[len(piece) :]
            if self._size == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        if not self._size:
            return
        hashes, grouped = self._buffer[: self._size], self._grouped[: self._size]
        starts = _starts(hashes, 8)
        _scatter(hashes, 55, starts[:-1].astype(np.uint64), grouped)
        self._file.write(np.diff(starts).astype("<u8").tobytes())
        grouped.astype("<u8", copy=False).tofile(self._file)
        self.count += len(grouped)
        self._runs += 1
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._flush()
                self._file.seek(0)
                self._file.write(_SPILL_HEADER.pack(SPILL_MAGIC, SPILL_VERSION, SPILL_GROUPS, self._runs, self.count))


def spill(batches: Iterable[Hashes], path: Path, *, buffer_hashes: int = 1 << 22) -> int:
    """Write all hashes of `batches` to the spill file `path`; how many they are."""
    with SpillWriter(path, buffer_hashes=buffer_hashes) as writer:
        for hashes in batches:
            writer.add(hashes)
    return writer.count


class Spill:
    """The reduce side of a spill file: any range of top bytes, in chunks.

    Raises ValueError where the file is not a complete spill.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_SPILL_HEADER.size)
            if len(header) < _SPILL_HEADER.size or header[:8] != SPILL_MAGIC:
                raise ValueError(f"{path}: expected a finished spill file of dedup.bloom, got other bytes; spill again")
            _, version, groups, runs, self.count = _SPILL_HEADER.unpack(header)
            if (version, groups) != (SPILL_VERSION, SPILL_GROUPS):
                raise ValueError(
                    f"{path}: expected spill version {SPILL_VERSION} with {SPILL_GROUPS} groups, "
                    f"got version {version} with {groups}; spill again"
                )
            table = np.zeros((runs, SPILL_GROUPS), np.int64)
            self._starts = np.zeros((runs, SPILL_GROUPS + 1), np.int64)  # byte offsets
            offset = _SPILL_HEADER.size
            for run in range(runs):
                file.seek(offset)
                row = file.read(8 * SPILL_GROUPS)
                if len(row) < 8 * SPILL_GROUPS:
                    raise ValueError(f"{path}: truncated at byte {size}; spill again")
                table[run] = np.frombuffer(row, "<u8")
                self._starts[run] = offset + 8 * SPILL_GROUPS + 8 * np.concatenate([[0], np.cumsum(table[run])])
                offset = int(self._starts[run, -1])
        if offset != size or int(table.sum()) != self.count:
            raise ValueError(f"{path}: expected {offset} bytes for {self.count} hashes, got {size}; spill again")
        self.group_counts: npt.NDArray[np.int64] = table.sum(axis=0)

    def read(self, first: int, stop: int) -> Iterator[Hashes]:
        """Chunks of the hashes whose top byte is in [first, stop)."""
        with self.path.open("rb") as file:
            for starts in self._starts:
                begin, remaining = int(starts[first]), int(starts[stop] - starts[first]) // 8
                file.seek(begin)
                while remaining:
                    chunk = np.fromfile(file, "<u8", min(CHUNK_HASHES, remaining))
                    remaining -= len(chunk)
                    yield chunk.astype(np.uint64, copy=False)


# --------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """The shape of a filter: a function of how many distinct hashes it shall hold and of the error rate alone."""

    distinct: int  # hashes expected, without repeats
    error_rate: float
    partition_bits: int
    partition_capacity: int
    num_slices: int
    bits_per_slice: int
    num_files: int

    @property
    def num_partitions(self) -> int:
        return 1 << self.partition_bits

    @property
    def record_bytes(self) -> int:
        """Bytes of one partition in a file: pybloom-live's header and the bits."""
        return HEADER_BYTES + (self.num_slices * self.bits_per_slice + 7) // 8

    @property
    def total_bytes(self) -> int:
        return self.num_partitions * self.record_bytes

    @property
    def partitions_per_file(self) -> int:
        return self.num_partitions // self.num_files

    def file_name(self, index: int) -> str:
        return f"filter-{index:05d}-of-{self.num_files:05d}.bloom"

    def describe(self, memory_bytes: int, workers: int = 1) -> str:
        """One line to print before a build starts."""
        return (
            f"Bloom filter: {self.distinct:,} distinct n-grams at error rate {self.error_rate:g}: "
            f"{self.total_bytes / 1e9:.3f} GB on disk in {self.num_files} file(s), {self.num_partitions:,} partitions "
            f"of {self.partition_capacity:,}; the build takes at most {workers * memory_bytes / 1e9:.2f} GB of memory "
            f"({workers} worker(s) of {memory_bytes / 1e9:.2f} GB)"
        )


def plan_filter(distinct: int, error_rate: float = 1e-8, *, num_files: int | None = None) -> FilterPlan:
    """The filter for `distinct` hashes at false positive rate `error_rate`.

    The partition count is the smallest power of two whose partitions, at mean + 6 sigma, fit the cache; the number of
    files, a power of two too, keeps each under 512 MiB.
    """
    if distinct < 0:
        raise ValueError(f"distinct: expected a number of hashes, got {distinct}")
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate: expected a number between 0 and 1, got {error_rate}; 1e-8 is the paper's")
    if error_rate < 0.5**MAX_SLICES:
        raise ValueError(f"error_rate: expected at least {0.5**MAX_SLICES:.0e}, got {error_rate}; 1e-8 is the paper's")
    bits = 0
    while (capacity := _capacity(distinct, bits)) > MAX_PARTITION_CAPACITY:
        bits += 1
    shape = BloomFilter(capacity, error_rate)
    if num_files is None:
        files = 1
        total = (shape.num_bits // 8 + HEADER_BYTES) << bits
        while total / files > FILE_BYTES and files < 1 << bits:
            files *= 2
    else:
        files = num_files
        if files < 1 or files & (files - 1) or files > 1 << bits:
            raise ValueError(f"num_files: expected a power of two up to {1 << bits}, got {num_files}")
    return FilterPlan(distinct, error_rate, bits, capacity, shape.num_slices, shape.bits_per_slice, files)


def _capacity(distinct: int, bits: int) -> int:
    mean = distinct / (1 << bits)
    return max(64, math.ceil(mean + 6 * math.sqrt(mean))) if bits else max(64, distinct)


def count_distinct(spills: Sequence[Spill], *, sample_groups: int = 16) -> int:
    """About how many distinct hashes the spills hold together; a function of the set of hashes alone.

    Exact up to 2^20 hashes. Above, `sample_groups` of the 256 values of the top byte are counted exactly (a hash's top
    byte is as good as random, so the standard error is one in 256 at 2^20 and falls with the square
    root) and six of those standard errors are added. Memory: 8 bytes for each hash of one group.
    """
    groups = range(SPILL_GROUPS)
    total = 0
    exact = sum(spill.count for spill in spills) <= EXACT_HASHES
    used = groups if exact else groups[:sample_groups]
    for group in used:
        hashes = np.empty(sum(int(spill.group_counts[group]) for spill in spills), np.uint64)
        filled = 0
        for source in spills:
            for chunk in source.read(group, group + 1):
                hashes[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        hashes.sort()
        total += int(_unique(hashes))
    if exact:
        return total
    return math.ceil((total + 6 * math.sqrt(total)) * SPILL_GROUPS / len(used))


# -------------------------------------------------------------------------------------------------------------- build


@dataclass(frozen=True, slots=True)
class FilterFile:
    """What one reduce step wrote."""

    name: str
    count: int  # distinct hashes
    inserted: int  # with repeats
    size_bytes: int


def build_file(
    spills: Sequence[Spill], plan: FilterPlan, index: int, path: Path, *, memory_bytes: int = 1 << 30
) -> FilterFile:
    """The reduce side: file `index` of `plan.num_files`, from the hashes of all `spills` that belong into it.

    The hashes are gathered in as many rounds as `memory_bytes` asks for; the bytes of the file do not depend on it.
    Raises ValueError where a partition cannot be gathered in `memory_bytes`, or holds more than its capacity.
    """
    if not 0 <= index < plan.num_files:
        raise ValueError(f"index: expected 0 to {plan.num_files - 1}, got {index}")
    first = index * plan.partitions_per_file
    step = min(_step(spills, plan, first, memory_bytes), plan.partitions_per_file)
    count = inserted = 0
    with path.open("wb") as file:
        for start in range(first, first + plan.partitions_per_file, step):
            hashes = _gather(spills, plan, start, step)
            inserted += len(hashes)
            hashes.sort()
            hashes = hashes[: int(_unique(hashes))]
            edges = [(start + offset) << (64 - plan.partition_bits) for offset in range(1, step)]
            bounds = np.searchsorted(hashes, np.array(edges, np.uint64))
            for offset, distinct in enumerate(np.split(hashes, bounds)):
                if len(distinct) > plan.partition_capacity:
                    raise ValueError(
                        f"partition {start + offset}: expected at most {plan.partition_capacity} distinct hashes, got "
                        f"{len(distinct)}; plan the filter for more than {plan.distinct}"
                    )
                partition = BloomFilter(plan.partition_capacity, plan.error_rate)
                words = np.zeros(plan.record_bytes // 8, np.uint64)  # the header's 40 bytes are more than the padding
                _fill(words, plan.num_slices, plan.bits_per_slice, distinct)
                bits = np.frombuffer(partition.bitarray, np.uint8)
                bits[:] = words.view(np.uint8)[: len(bits)]
                partition.count = len(distinct)
                partition.tofile(file)
                count += len(distinct)
    return FilterFile(plan.file_name(index), count, inserted, plan.partitions_per_file * plan.record_bytes)


def _groups_of(plan: FilterPlan, first: int, num: int) -> tuple[int, int]:
    """The top bytes [start, stop) that the partitions [first, first + num) lie in."""
    bits = plan.partition_bits
    if bits <= 8:
        return first << (8 - bits), (first + num) << (8 - bits)
    return first >> (bits - 8), ((first + num - 1) >> (bits - 8)) + 1


def _step(spills: Sequence[Spill], plan: FilterPlan, first: int, memory_bytes: int) -> int:
    """Partitions to gather at once: those of one top byte, or fewer where their hashes do not fit `memory_bytes`."""
    fixed = 2 * 8 * CHUNK_HASHES + 2 * plan.record_bytes
    step = max(1, plan.num_partitions // SPILL_GROUPS)
    while True:
        held = 0
        for start in range(first, first + plan.partitions_per_file, step):
            begin, stop = _groups_of(plan, start, step)
            held = max(held, sum(int(source.group_counts[begin:stop].sum()) for source in spills))
        # Fewer partitions than a top byte has hold their share of it, give or take.
        share = min(1.0, 1.1 * step * SPILL_GROUPS / plan.num_partitions)
        if fixed + 8 * held * share <= memory_bytes:
            return step
        if step == 1:
            raise ValueError(
                f"memory_bytes: expected at least {math.ceil(fixed + 8 * held * share)} to hold the hashes of one "
                f"partition, got {memory_bytes}; allow more"
            )
        step //= 2


def _gather(spills: Sequence[Spill], plan: FilterPlan, first: int, num: int) -> Hashes:
    """All hashes of the partitions [first, first + num), with repeats, in no order."""
    begin, stop = _groups_of(plan, first, num)
    whole = (stop - begin) << max(0, plan.partition_bits - 8) == num << max(0, 8 - plan.partition_bits)

    def chunks() -> Iterator[Hashes]:
        for source in spills:
            for chunk in source.read(begin, stop):
                if whole:
                    yield chunk
                else:
                    partition = chunk >> np.uint64(64 - plan.partition_bits)
                    yield chunk[(partition >= np.uint64(first)) & (partition < np.uint64(first + num))]

    if whole:
        size = sum(int(source.group_counts[begin:stop].sum()) for source in spills)
    else:
        size = sum(len(chunk) for chunk in chunks())
    gathered = np.empty(size, np.uint64)
    filled = 0
    for chunk in chunks():
        gathered[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return gathered


def write_meta(directory: Path, plan: FilterPlan, files: Sequence[FilterFile], about: dict[str, Any]) -> Path:
    """Write filter.json: what the files of `directory` are. `about` names what was hashed (protocol, n, tokenizer)."""
    meta = {
        "format": "pybloom_live.BloomFilter records",
        "version": 1,
        "index_of": "hash >> (64 - partition_bits) is the partition; partitions are in order, over the files in order",
        "positions": "dedup.bloom.positions(num_slices, bits_per_slice)",
        "record_bytes": plan.record_bytes,
        **asdict(plan),
        "count": sum(file.count for file in files),
        "files": [asdict(file) for file in sorted(files, key=lambda file: file.name)],
        "about": about,
    }
    path = directory / META_FILE
    path.write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def build(
    spill_paths: Sequence[Path],
    directory: Path,
    *,
    error_rate: float = 1e-8,
    memory_bytes: int = 1 << 30,
    about: dict[str, Any] | None = None,
) -> PartitionedBloomFilter:
    """Plan, build every file and write filter.json, in this process; the filter, memory-mapped."""
    spills = [Spill(path) for path in spill_paths]
    plan = plan_filter(count_distinct(spills), error_rate)
    directory.mkdir(parents=True, exist_ok=True)
    files = [
        build_file(spills, plan, index, directory / plan.file_name(index), memory_bytes=memory_bytes)
        for index in range(plan.num_files)
    ]
    write_meta(directory, plan, files, about or {})
    return PartitionedBloomFilter.open(directory)


# ------------------------------------------------------------------------------------------------------------- filter


class PartitionedBloomFilter:
    """2^p pybloom-live filters as one. In memory it is what it is on disk: records of pybloom-live's file format.

    `len` is the number of distinct hashes; `contains` takes a uint64 array and gives a boolean array.
    """

    def __init__(self, plan: FilterPlan, records: Sequence[npt.NDArray[np.uint8]], about: dict[str, Any]) -> None:
        self.plan = plan
        self.about = about
        self._records = list(records)  # one flat array for each file

    @classmethod
    def create(cls, distinct: int, error_rate: float = 1e-8, *, about: dict[str, Any] | None = None) -> Self:
        """An empty filter in memory for `distinct` hashes."""
        plan = plan_filter(distinct, error_rate, num_files=1)
        records = np.zeros((plan.num_partitions, plan.record_bytes), np.uint8)
        header = struct.pack("<dQQQQ", error_rate, plan.num_slices, plan.bits_per_slice, plan.partition_capacity, 0)
        records[:, :HEADER_BYTES] = np.frombuffer(header, np.uint8)
        return cls(plan, [records.reshape(-1)], about or {})

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The filter of `directory`, memory-mapped and read-only. ValueError where a file is missing or too short."""
        path = directory / META_FILE
        if not path.is_file():
            raise ValueError(f"{path}: expected a filter written by BuildOverlapFilter, found none; build it first")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta.get("version") != 1:
            raise ValueError(f"{path}: expected version 1, got {meta.get('version')}; build it again")
        plan = FilterPlan(**{name: meta[name] for name in FilterPlan.__dataclass_fields__})
        records = []
        for index in range(plan.num_files):
            file = directory / plan.file_name(index)
            size = file.stat().st_size if file.is_file() else 0
            if size != plan.partitions_per_file * plan.record_bytes:
                raise ValueError(
                    f"{file}: expected {plan.partitions_per_file * plan.record_bytes} bytes, got {size}; build it again"
                )
            records.append(np.memmap(file, np.uint8, "r"))
        return cls(plan, records, meta["about"])

    def save(self, directory: Path) -> None:
        """Write the files and filter.json into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        files = []
        for index, records in enumerate(self._records):
            path = directory / self.plan.file_name(index)
            records.tofile(path)
            count = int(self._counts(records).sum())
            files.append(FilterFile(path.name, count, count, len(records)))
        write_meta(directory, self.plan, files, self.about)

    def add(self, hashes: Hashes) -> int:
        """Insert uint64 `hashes` (repeats allowed); how many were not there, by the filter's own judgement.

        Raises ValueError before a partition would go over its capacity. Memory: 16 bytes a hash.
        """
        if not self._records[0].flags.writeable:
            raise ValueError(
                "add: expected a filter in memory, got one opened read-only from files; create one and merge"
            )
        grouped, starts = bucketed(np.ascontiguousarray(hashes, np.uint64), self.plan.partition_bits)
        new = 0
        for partition in np.flatnonzero(np.diff(starts)):
            distinct = grouped[starts[partition] : starts[partition + 1]]
            distinct.sort()
            distinct = distinct[: int(_unique(distinct))]
            record = self._record(int(partition))
            count = record[COUNT_OFFSET:HEADER_BYTES].view(np.uint64)
            if int(count[0]) + len(distinct) > self.plan.partition_capacity:
                known = self.contains(distinct)
                distinct = distinct[~known]
                if int(count[0]) + len(distinct) > self.plan.partition_capacity:
                    raise ValueError(
                        f"add: partition {partition} would hold {int(count[0]) + len(distinct)} hashes, over its "
                        f"capacity of {self.plan.partition_capacity}; create it for more hashes"
                    )
            added = int(_add(record[HEADER_BYTES:], self.plan.num_slices, self.plan.bits_per_slice, distinct))
            count[0] += np.uint64(added)
            new += added
        return new

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """bool[n]: False means certainly absent, True means present but for one in 1 / error_rate."""
        hashes = np.ascontiguousarray(hashes, np.uint64)
        found = np.zeros(len(hashes), np.bool_)
        order = np.arange(0)
        # Of a large filter one partition after the other, so that each is in the cache when it is asked.
        if many := self.plan.total_bytes > CACHE_BYTES and len(hashes) > 8 * self.plan.num_partitions:
            starts = _starts(hashes, self.plan.partition_bits)
            order = np.empty(len(hashes), np.int64)
            _order(hashes, 63 - self.plan.partition_bits, starts[:-1].astype(np.uint64), order)
            hashes = hashes[order]
        for index, records in enumerate(self._records):
            _contains(
                np.frombuffer(records, np.uint8),
                self.plan.record_bytes,
                index * self.plan.partitions_per_file,
                63 - self.plan.partition_bits,
                HEADER_BYTES,
                self.plan.num_slices,
                self.plan.bits_per_slice,
                hashes,
                found,
            )
        if many:
            answers = np.empty_like(found)
            answers[order] = found
            return answers
        return found

    def __contains__(self, key: int) -> bool:
        return bool(self.contains(np.array([key], np.uint64))[0])

    def __len__(self) -> int:
        return sum(int(self._counts(records).sum()) for records in self._records)

    def counts(self) -> npt.NDArray[np.uint64]:
        """uint64[2^p]: the distinct hashes of each partition."""
        return np.concatenate([self._counts(records) for records in self._records])

    def partition(self, index: int) -> Any:
        """Partition `index` as a `pybloom_live.BloomFilter` of its own (a copy), ready for pybloom-live's `in`."""
        partition = BloomFilter.fromfile(io.BytesIO(self._record(index).tobytes()), self.plan.record_bytes)
        partition.make_hashes = positions(partition.num_slices, partition.bits_per_slice)
        return partition

    def merge(self, other: PartitionedBloomFilter) -> PartitionedBloomFilter:
        """The union, in memory, of two filters planned alike.

        The bits say nothing about how many hashes the two share, so the count of each partition is estimated from the
        share of its bits that are set (standard error about 0.2% of a full partition), never below the larger nor
        above the sum; where one holds the other it is exact. Counts that are always exact come from building again
        from the spills of both. Raises ValueError where the shapes differ, or where a partition's union is over its
        capacity.
        """
        shapes = [
            (f.plan.error_rate, f.plan.partition_bits, f.plan.partition_capacity, f.plan.num_files)
            for f in (self, other)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "merge: expected two filters of one shape (error rate, partition bits, capacity, files), got "
                f"{shapes[0]} and {shapes[1]}; build both with one plan"
            )
        merged = PartitionedBloomFilter(self.plan, [], self.about)
        for mine, theirs in zip(self._records, other._records, strict=True):
            records = np.array(mine)
            rows = records.reshape(-1, self.plan.record_bytes)
            others = np.asarray(theirs).reshape(-1, self.plan.record_bytes)
            for index in range(len(rows)):
                lower = rows[index, COUNT_OFFSET:HEADER_BYTES].view(np.uint64)
                counts = int(lower[0]), int(others[index, COUNT_OFFSET:HEADER_BYTES].view(np.uint64)[0])
                bits, added = rows[index, HEADER_BYTES:], others[index, HEADER_BYTES:]
                before = bits.copy()
                bits |= added
                if np.array_equal(bits, before):
                    count = counts[0]  # one holds the other
                elif np.array_equal(bits, added):
                    count = counts[1]
                else:
                    count = min(max(self._estimate(bits), *counts), sum(counts))
                if count > self.plan.partition_capacity:
                    raise ValueError(
                        f"merge: a partition would hold about {count} hashes, over its capacity of "
                        f"{self.plan.partition_capacity}; build again from the spills of both"
                    )
                lower[0] = count
            merged._records.append(records)
        return merged

    def _estimate(self, bits: npt.NDArray[np.uint8]) -> int:
        """How many hashes set these bits: the maximum likelihood under independent positions."""
        total = self.plan.num_slices * self.plan.bits_per_slice
        filled = int(np.bitwise_count(bits).sum())
        if filled == total:
            return self.plan.partition_capacity + 1
        return round(math.log1p(-filled / total) / math.log1p(-1 / self.plan.bits_per_slice))

    def _record(self, partition: int) -> npt.NDArray[np.uint8]:
        file, index = divmod(partition, self.plan.partitions_per_file)
        size = self.plan.record_bytes
        return self._records[file][index * size : (index + 1) * size]

    def _counts(self, records: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
        rows = np.asarray(records).reshape(-1, self.plan.record_bytes)
        return np.ascontiguousarray(rows[:, COUNT_OFFSET:HEADER_BYTES]).view(np.uint64).reshape(-1)
