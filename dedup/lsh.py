"""From signatures to verdicts: which documents stay, which go, because of which other document, and how similar.

The rule
- Documents have ranks: more karma, then more words, then the earliest post, then the smaller id (`rank_documents`).
- Exact duplicates (equal `dedup.words.exact_hash`): the best rank stays; the others are not compared further.
- Two documents are candidates when they share a band. In rank order, a document is dropped if and only if it is similar
  to a document already kept that shares a band with it. So no two kept documents that share a band are similar, and a
  chain of small edits does not eat a source: its far ends stay, flagged `transitive`.
- Similar: the Jaccard similarity of the shingle sets is at least `threshold`. The signatures' estimate decides where it
  is `doubt` standard errors away from the threshold; between, the texts are fetched and the sets compared.
- In buckets of up to `star_bucket` documents all pairs are compared. In a larger one each document that is kept is the
  centre of a star over those that are left: the same verdicts, and linear for a bucket of 100,000 copies. Each compared
  pair is evidence, accepted or refused; only refused pairs of stars below `near_threshold` are not written down.
- Documents joined by a chain of pairs above `near_threshold` (estimated) are one component, named by its smallest id:
  if a split sends whole components to one side, near-duplicates never straddle it.

The work
- Bands are hashed to 64 bits and spilled in partitions by their top bits; each partition is sorted, and documents that
  share a band are joined (union-find). Whole sets of joined documents are then laid out in blocks with their
  signatures, and the rule is applied in each block alone. So memory is bounded, blocks run side by side, and verdicts
  do not depend on memory, workers, the layout of the files or the order of anything.
- Inside, documents are numbered by rank, and ids appear again only in the tables.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dedup import _buckets
from dedup._buckets import DROPPED, NOBODY
from dedup.minhash import SignatureBatch, ids_to_hex, read_signature_batches, shingle_hashes
from dedup.settings import DedupSettings, MinHashSettings

TextsById = Callable[[NDArray[np.int64]], Any]
"""Gives the texts (Arrow string or large_string array) of documents, named by their positions in `ids`, ascending."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many units are done, and of how many."""


def rank_documents(
    karma: NDArray[Any], num_words: NDArray[Any], created_at: NDArray[Any], ids: NDArray[np.uint8]
) -> NDArray[np.uint32]:
    """uint32[n], 0 for the best: most karma, then most words, then the earliest post, then the smallest id."""
    high, low = _id_keys(ids)
    order = np.lexsort((low, high, created_at, -num_words.astype(np.int64), -karma.astype(np.int64)))
    ranks = np.empty(len(order), np.uint32)
    ranks[order] = np.arange(len(order), dtype=np.uint32)
    return ranks


def candidate_probability(jaccard: Any, bands: int, rows: int) -> Any:
    """The probability that two texts of this Jaccard similarity share a band: 1 - (1 - J^rows)^bands."""
    return 1 - (1 - np.asarray(jaccard, np.float64) ** rows) ** bands


@dataclass(frozen=True, slots=True)
class MemoryNeeded:
    """What `verdicts` will hold at once, in bytes."""

    documents: int  # ids, ranks, exact hashes, sets: grows with the number of documents
    work: int  # partitions and blocks: bounded by memory_bytes, but for the pairs and sets of one very large block
    disk: int  # spilled to `scratch`, at most

    @property
    def total(self) -> int:
        """documents + work."""
        return self.documents + self.work


def memory_needed(n: int, settings: DedupSettings, minhash: MinHashSettings) -> MemoryNeeded:
    """Memory and disk that `verdicts` takes for n documents, to be shown before it starts."""
    bands, _ = minhash.banding()
    spilled = n * bands * 12
    work = min(settings.memory_bytes, n * (2 * bands * 20 + 2 * minhash.permutations * 4)) + _BASE_BYTES
    return MemoryNeeded(n * _BYTES_PER_DOCUMENT, work, spilled + n * (minhash.permutations + 1) * 4)


# ids 16 and rank 4 (the caller's), sorted keys 16, rank by id 4, index by rank 4, exact hash 16, representative 4,
# sets 4, blocks 4, words flag 1; then status 1, duplicate 4, similarity 4, component 4, cluster 4 in the hashes' place:
# 73, and what sorting and pages of the system add (95 measured at 24 million)
_BYTES_PER_DOCUMENT = 100
_BASE_BYTES = 256 << 20  # the interpreter, its libraries and the kernels
_FETCH_PAIRS = 8192  # pairs whose texts are fetched at once


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What became of each document. Arrays are in rank order; tables come in the order of ids."""

    ids: NDArray[np.uint8]  # [n, 16], as given
    index_by_id: NDArray[np.uint32]  # positions in `ids`, in the order of ids
    ranks: NDArray[np.uint32]  # as given
    index_by_rank: NDArray[np.uint32]
    status: NDArray[np.uint8]  # KEPT, NEAR or EXACT
    duplicate_of: NDArray[np.uint32]  # rank, NOBODY where kept
    similarity: NDArray[np.float32]  # to that document, NaN where kept
    component: NDArray[np.uint32]  # index_by_id position of the smallest id that pairs above near_threshold lead to
    cluster: NDArray[np.uint32]  # rank of the best document that accepted pairs lead to
    pairs_a: NDArray[np.uint32]  # ranks, a < b, sorted
    pairs_b: NDArray[np.uint32]
    pairs_equal: NDArray[np.uint16]  # equal values of the signatures
    pairs_bands: NDArray[np.uint16]  # shared bands
    pairs_exact: NDArray[np.float32]  # Jaccard, NaN where the estimate decided
    pairs_accepted: NDArray[np.bool_]
    permutations: int
    unwritten_pairs: int  # refused in stars, below near_threshold

    @property
    def verdicts(self) -> Any:
        """VERDICT_SCHEMA table sorted by id."""
        return pa.Table.from_batches(self.verdict_batches(), VERDICT_SCHEMA)

    @property
    def pairs(self) -> Any:
        """PAIR_SCHEMA table sorted by the ranks of a and b."""
        return pa.Table.from_batches(self.pair_batches(), PAIR_SCHEMA)

    def verdict_batches(self, rows: int = 1 << 16) -> Iterator[Any]:
        """`verdicts` in batches, for writing without holding it all."""
        for start in range(0, len(self.ids), rows):
            index = self.index_by_id[start : start + rows]
            rank = self.ranks[index]
            status = self.status[rank]
            dropped = status != KEPT
            partner = self.index_by_rank[np.where(dropped, self.duplicate_of[rank], 0)]
            cluster = self.cluster[rank]
            reasons = pa.DictionaryArray.from_arrays(pa.array(status, pa.int8(), mask=~dropped), _REASONS)
            yield pa.record_batch(
                [
                    ids_to_hex(self.ids[index]),
                    pa.array(~dropped),
                    reasons.cast(pa.string()),
                    _masked(ids_to_hex(self.ids[partner]), ~dropped),
                    pa.array(self.similarity[rank], mask=~dropped),
                    ids_to_hex(self.ids[self.index_by_id[self.component[rank]]]),
                    ids_to_hex(self.ids[self.index_by_rank[cluster]]),
                    pa.array(~dropped & (cluster != rank)),
                ],
                schema=VERDICT_SCHEMA,
            )

    def pair_batches(self, rows: int = 1 << 16) -> Iterator[Any]:
        """`pairs` in batches."""
        for start in range(0, len(self.pairs_a), rows):
            part = slice(start, start + rows)
            exact = self.pairs_exact[part]
            yield pa.record_batch(
                [
                    ids_to_hex(self.ids[self.index_by_rank[self.pairs_a[part]]]),
                    ids_to_hex(self.ids[self.index_by_rank[self.pairs_b[part]]]),
                    pa.array(self.pairs_equal[part].astype(np.float32) / np.float32(self.permutations)),
                    pa.array(exact, mask=np.isnan(exact)),
                    pa.array(self.pairs_bands[part]),
                    pa.array(self.pairs_accepted[part]),
                ],
                schema=PAIR_SCHEMA,
            )


KEPT, NEAR, EXACT = 0, 1, 2
_REASONS = pa.array(["kept", "near", "exact"])

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),  # "exact", "near", or null where kept
        pa.field("duplicate_of", pa.string()),  # the better document that it was compared with
        pa.field("similarity", pa.float32()),  # to that one: exact where texts were compared, else estimated
        pa.field("component", pa.string(), nullable=False),  # smallest id that pairs above near_threshold lead to
        pa.field("cluster", pa.string(), nullable=False),  # best document that accepted pairs lead to
        pa.field(
            "transitive", pa.bool_(), nullable=False
        ),  # kept, though a chain of accepted pairs leads to a better one
    ]
)

PAIR_SCHEMA = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),  # the better document
        pa.field("b", pa.string(), nullable=False),
        pa.field("estimated", pa.float32(), nullable=False),  # share of equal signature values
        pa.field("exact", pa.float32()),  # Jaccard similarity of the shingle sets, where it was computed
        pa.field("bands", pa.uint16(), nullable=False),  # how many they share
        pa.field("accepted", pa.bool_(), nullable=False),
    ]
)


def verdicts(
    ids: NDArray[np.uint8],
    ranks: NDArray[np.uint32],
    signature_files: Sequence[Path],
    texts_by_id: TextsById | None,
    settings: DedupSettings,
    *,
    minhash: MinHashSettings,
    scratch: Path,
    progress: Progress | None = None,
) -> Verdicts:
    """Applies the rule at the top of this module to `ids` (uint8[n, 16]) with `ranks` (uint32[n], a permutation).

    `signature_files` are those of dedup.minhash, in any order; they may hold more documents than `ids`, which has the
    survivors of other filters. `texts_by_id` is called from one thread at a time with up to 16,384 positions; without
    it, estimates decide alone. `scratch` is an existing directory for files that are removed again.
    Raises ValueError where a document has no signature, or two.
    """
    tell = progress or (lambda _what, _done, _of: None)
    survivors = _Survivors(ids, ranks)
    bands, rows = minhash.banding()
    representative, has_words = _exact_duplicates(survivors, signature_files, settings, minhash, tell)
    with ExitStack() as stack:
        root = _joined_by_bands(survivors, representative, has_words, signature_files, settings, minhash, scratch, tell)
        block = np.empty(survivors.count, np.uint32)
        _buckets.assign_blocks(root, block, _block_documents(settings, minhash))
        spill = stack.enter_context(
            _Spill(scratch, [(np.dtype(np.uint32), 1), (np.dtype(np.uint32), minhash.permutations)])
        )
        num_blocks = _lay_out_blocks(survivors, block, signature_files, settings, minhash, spill, tell)
        del block
        compare = _Comparison(texts_by_id, survivors.index_by_rank, settings, minhash, bands, rows)
        status = (representative != np.arange(survivors.count, dtype=np.uint32)).astype(np.uint8) * np.uint8(EXACT)
        duplicate_of = np.where(status == EXACT, representative, np.uint32(NOBODY))
        similarity = np.where(status == EXACT, np.float32(1), np.float32(np.nan))
        found: list[_Pairs] = []
        unwritten = 0

        def judge(number: int) -> _Judged:
            documents, signatures = spill.read(number)
            return _judge_block(documents.reshape(-1), signatures, root, compare, settings)

        for done, judged in enumerate(_each(judge, range(num_blocks), settings.workers)):
            status[judged.dropped] = NEAR
            duplicate_of[judged.dropped] = judged.duplicate_of
            similarity[judged.dropped] = judged.similarity
            found.append(judged.pairs)
            unwritten += judged.unwritten
            tell("blocks judged", done + 1, num_blocks)
    pairs = _sorted_pairs(found)
    del found
    near = pairs.equal > settings.near_threshold * minhash.permutations
    component = _sets(representative, pairs.a[near], pairs.b[near])
    _name_by_smallest(component, survivors)
    cluster = _sets(representative, pairs.a[pairs.accepted], pairs.b[pairs.accepted])
    return Verdicts(
        ids=survivors.ids,
        index_by_id=survivors.index_by_id,
        ranks=ranks,
        index_by_rank=survivors.index_by_rank,
        status=status,
        duplicate_of=duplicate_of,
        similarity=similarity,
        component=component,
        cluster=cluster,
        pairs_a=pairs.a,
        pairs_b=pairs.b,
        pairs_equal=pairs.equal,
        pairs_bands=pairs.bands,
        pairs_exact=pairs.exact,
        pairs_accepted=pairs.accepted,
        permutations=minhash.permutations,
        unwritten_pairs=unwritten,
    )


# ---- who is who


def _id_keys(ids: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The two halves of each id as numbers, which sort as the ids do."""
    halves = np.ascontiguousarray(ids, np.uint8).reshape(-1, 16).view(">u8")
    return halves[:, 0].astype(np.uint64), halves[:, 1].astype(np.uint64)


class _Survivors:
    """The documents in question: their ids, and the ways from id to rank and back."""

    def __init__(self, ids: NDArray[np.uint8], ranks: NDArray[np.uint32]) -> None:
        if ids.ndim != 2 or ids.shape[1] != 16 or ids.dtype != np.uint8:
            raise ValueError(
                f"ids: expected uint8[n, 16], got {ids.dtype}{list(ids.shape)}; see dedup.minhash.ids_to_bytes"
            )
        self.ids = ids
        self.count = len(ids)
        self.index_by_rank = np.full(self.count, NOBODY, np.uint32)
        if ranks.shape != (self.count,) or (self.count and int(ranks.max()) >= self.count):
            raise ValueError(f"ranks: expected each of 0 to {self.count - 1} once, got others; see rank_documents")
        self.index_by_rank[ranks] = np.arange(self.count, dtype=np.uint32)
        if (self.index_by_rank == NOBODY).any():
            raise ValueError(f"ranks: expected each of 0 to {self.count - 1} once, got some twice; see rank_documents")
        self.ranks = ranks
        high, low = _id_keys(ids)
        rising = high[1:] > high[:-1]
        if not (rising | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))).all():
            order = np.lexsort((low, high))
            high, low = high[order], low[order]
            twice = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1]))
            if twice.size:
                raise ValueError(f"ids: expected each once, got {ids[order[twice[0]]].tobytes().hex()} twice; drop one")
            self.index_by_id = order.astype(np.uint32)
        else:
            self.index_by_id = np.arange(self.count, dtype=np.uint32)
        self.high, self.low = high, low

    def ranks_of(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """(rows of `ids` that are survivors, their ranks)."""
        if not self.count:
            return np.zeros(0, np.int64), np.zeros(0, np.uint32)
        high, low = _id_keys(ids)
        at = np.minimum(np.searchsorted(self.high, high), self.count - 1)
        behind = (self.high[at] == high) & (self.low[at] < low)  # ids that share their first half
        while behind.any():
            at[behind] = np.minimum(at[behind] + 1, self.count - 1)
            behind &= (self.high[at] == high) & (self.low[at] < low) & (at < self.count - 1)
        rows = np.flatnonzero((self.high[at] == high) & (self.low[at] == low))
        return rows, self.ranks[self.index_by_id[at[rows]]]


def _each(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """function(item) of each item in order, on threads, at most `workers` results ahead."""
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[Any] = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


# ---- exact duplicates


def _exact_duplicates(
    survivors: _Survivors, files: Sequence[Path], settings: DedupSettings, minhash: MinHashSettings, tell: Progress
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """(lowest rank with the same exact hash, whether the text has words), both in rank order."""
    exact = np.empty((2, survivors.count), np.uint64)
    has_words = np.zeros(survivors.count, np.bool_)
    times_seen = np.zeros(survivors.count, np.uint8)

    def look(path: Path) -> None:
        for batch in read_signature_batches(path, minhash, values=False):
            rows, ranks = survivors.ranks_of(batch.ids)
            exact[:, ranks] = np.ascontiguousarray(batch.exact[rows]).view(np.uint64).T
            has_words[ranks] = batch.num_words[rows] > 0
            with lock:
                np.add.at(times_seen, ranks, np.uint8(1))

    lock = threading.Lock()
    for done, _ in enumerate(_each(look, files, settings.workers)):
        tell("exact hashes read", done + 1, len(files))
    for count, wanted in (("no", times_seen == 0), ("two", times_seen > 1)):
        wrong = np.flatnonzero(wanted)
        if wrong.size:
            name = survivors.ids[survivors.index_by_rank[wrong[0]]].tobytes().hex()
            raise ValueError(
                f"signature files: expected one signature for each of {survivors.count} documents, "
                f"got {count} for {wrong.size}, such as {name}; sign each segment once"
            )
    representative = np.arange(survivors.count, dtype=np.uint32)
    parts = 1 + (survivors.count * 48) // (settings.memory_bytes // 2)
    part_of = exact[0] >> np.uint64(48)  # any bits do: they are a hash
    for part in range(parts):
        members = np.flatnonzero(part_of % np.uint64(parts) == part) if parts > 1 else np.arange(survivors.count)
        high, low = exact[0, members], exact[1, members]
        order = np.lexsort((low, high))  # stable, so that ranks rise within equal hashes
        high, low, members = high[order], low[order], members[order]
        first = np.flatnonzero(
            np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])[: members.size]
        )
        sizes = np.diff(np.append(first, members.size))
        representative[members] = np.repeat(members[first], sizes)
    return representative, has_words


# ---- sets of documents that share bands


class _Spill:
    """Columns appended in partitions: one file a column, and where each partition's pieces lie in it."""

    def __init__(self, scratch: Path, columns: Sequence[tuple[np.dtype[Any], int]]) -> None:
        self.columns = columns
        self.pieces: list[NDArray[np.int64]] = []  # rows of each partition in each append
        self.starts: list[int] = []
        self.rows = 0
        self.lock = threading.Lock()
        self.files = []
        self.paths = []
        for number, (kind, width) in enumerate(columns):
            path = scratch / f"spill-{id(self):x}-{number}-{kind.name}x{width}"
            self.paths.append(path)
            self.files.append(path.open("w+b", buffering=0))

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        for file, path in zip(self.files, self.paths, strict=True):
            file.close()
            path.unlink(missing_ok=True)

    def append(self, columns: Sequence[NDArray[Any]], counts: NDArray[np.int64]) -> None:
        """Rows in partition order, and how many each partition has."""
        if not counts.any():
            return
        with self.lock:
            for file, column in zip(self.files, columns, strict=True):
                view = np.ascontiguousarray(column).data.cast("B")
                while view:
                    view = view[file.write(view) :]
            self.starts.append(self.rows)
            self.pieces.append(counts)
            self.rows += int(counts.sum())

    def read(self, partition: int) -> list[NDArray[Any]]:
        """The columns of one partition, [rows, width] each."""
        lengths = [int(counts[partition]) for counts in self.pieces]
        befores = [
            start + int(counts[:partition].sum()) for start, counts in zip(self.starts, self.pieces, strict=True)
        ]
        out = []
        for file, (kind, width) in zip(self.files, self.columns, strict=True):
            column = np.empty((sum(lengths), width), kind)
            at = 0
            for before, length in zip(befores, lengths, strict=True):
                view = column[at : at + length].data.cast("B") if length else memoryview(b"")
                offset = before * width * kind.itemsize
                while view:
                    count = os.preadv(file.fileno(), [view], offset)
                    assert count, "a spill file is shorter than was written to it"
                    view, offset = view[count:], offset + count
                at += length
            out.append(column)
        return out


def _joined_by_bands(
    survivors: _Survivors,
    representative: NDArray[np.uint32],
    has_words: NDArray[np.bool_],
    files: Sequence[Path],
    settings: DedupSettings,
    minhash: MinHashSettings,
    scratch: Path,
    tell: Progress,
) -> NDArray[np.uint32]:
    """uint32[n] in rank order: the lowest rank that shared bands lead to."""
    bands, rows_in_band = minhash.banding()
    memory_a_record = 12 + 8 + 12  # key and document, the sorted order, and what sorting takes
    wanted = survivors.count * bands * memory_a_record * settings.workers // (settings.memory_bytes // 4)
    bits = max(1, min(12, int(wanted).bit_length()))

    def put(path: Path) -> None:
        for batch in read_signature_batches(path, minhash):
            rows, ranks = survivors.ranks_of(batch.ids)
            wanted = (representative[ranks] == ranks) & has_words[ranks]
            ranks = ranks[wanted]
            keys = np.empty((bands, ranks.size), np.uint64)
            _buckets.band_keys(np.ascontiguousarray(batch.signatures[rows[wanted]]), bands, rows_in_band, keys)
            keys = keys.reshape(-1)
            counts, order = np.empty(1 << bits, np.int64), np.empty(keys.size, np.int64)
            _buckets.partition_order(keys, 64 - bits, counts, order)
            spill.append([keys[order], np.tile(ranks, bands)[order]], counts)

    def join(partition: int) -> None:
        keys, documents = (column.reshape(-1) for column in spill.read(partition))
        order = np.argsort(keys)
        with lock:
            _buckets.union_buckets(parent, keys, documents, order)

    lock = threading.Lock()
    parent = np.arange(survivors.count, dtype=np.uint32)
    with _Spill(scratch, [(np.dtype(np.uint64), 1), (np.dtype(np.uint32), 1)]) as spill:
        for done, _ in enumerate(_each(put, files, settings.workers)):
            tell("bands hashed", done + 1, len(files))
        for done, _ in enumerate(_each(join, range(1 << bits), settings.workers)):
            tell("partitions joined", done + 1, 1 << bits)
    _buckets.flatten(parent)
    return parent


def _block_documents(settings: DedupSettings, minhash: MinHashSettings) -> int:
    """How many documents a block may have, so that `workers` blocks and their pairs fit in memory."""
    each = 3 * minhash.permutations * 4 + minhash.banding()[0] * 24 + 1024
    return max(1024, settings.memory_bytes // (2 * settings.workers * each))


def _lay_out_blocks(
    survivors: _Survivors,
    block: NDArray[np.uint32],
    files: Sequence[Path],
    settings: DedupSettings,
    minhash: MinHashSettings,
    spill: _Spill,
    tell: Progress,
) -> int:
    """Spills (rank, signature) of each document that shares a band, by block; returns the number of blocks."""
    in_blocks = block[block != NOBODY]
    num_blocks = int(in_blocks.max(initial=0)) + 1 if in_blocks.size else 0
    del in_blocks

    def put(batch: SignatureBatch) -> None:
        rows, ranks = survivors.ranks_of(batch.ids)
        wanted = block[ranks] != NOBODY
        rows, ranks = rows[wanted], ranks[wanted]
        counts, order = np.empty(num_blocks, np.int64), np.empty(ranks.size, np.int64)
        _buckets.partition_order(block[ranks].astype(np.uint64), 0, counts, order)
        spill.append([ranks[order], batch.signatures[rows[order]]], counts)

    def put_all(path: Path) -> None:
        for batch in read_signature_batches(path, minhash):
            put(batch)

    if num_blocks:
        for done, _ in enumerate(_each(put_all, files, settings.workers)):
            tell("candidates gathered", done + 1, len(files))
    return num_blocks


# ---- one block


@dataclass(frozen=True, slots=True)
class _Pairs:
    a: NDArray[np.uint32]
    b: NDArray[np.uint32]
    equal: NDArray[np.uint16]
    bands: NDArray[np.uint16]
    exact: NDArray[np.float32]
    accepted: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Judged:
    dropped: NDArray[np.uint32]
    duplicate_of: NDArray[np.uint32]
    similarity: NDArray[np.float32]
    pairs: _Pairs
    unwritten: int


class _Comparison:
    """Says whether two documents are similar: by their signatures, and by their texts where those leave a doubt."""

    def __init__(
        self,
        texts_by_id: TextsById | None,
        index_by_rank: NDArray[np.uint32],
        settings: DedupSettings,
        minhash: MinHashSettings,
        bands: int,
        rows: int,
    ) -> None:
        self.texts_by_id = texts_by_id
        self.index_by_rank = index_by_rank
        self.minhash = minhash
        self.bands, self.rows = bands, rows
        self.threshold = settings.threshold
        count = minhash.permutations
        margin = settings.doubt * (settings.threshold * (1 - settings.threshold) / count) ** 0.5
        margin += 1 / count  # a threshold near 1 has hardly a standard error, and many pairs just below it
        if texts_by_id is None or settings.doubt == 0:
            margin = 0.0
        # In equal values; the small number keeps 0.75 * 112 = 84 from becoming 85.
        self.accept_from = int(np.ceil((settings.threshold + margin) * count - 1e-9))
        self.doubt_from = int(np.ceil((settings.threshold - margin) * count - 1e-9))
        self.note_from = int(np.floor(settings.near_threshold * count + 1e-9)) + 1
        self.lock = threading.Lock()

    def exact(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Jaccard similarity of the shingle sets of documents a[i] and b[i] (ranks)."""
        out = np.empty(a.size, np.float32)
        assert self.texts_by_id is not None
        for start in range(0, a.size, _FETCH_PAIRS):
            part = slice(start, start + _FETCH_PAIRS)
            pair = np.stack([self.index_by_rank[a[part]], self.index_by_rank[b[part]]])
            wanted, inverse = np.unique(pair.reshape(-1), return_inverse=True)
            with self.lock:
                texts = self.texts_by_id(wanted.astype(np.int64))
            if len(texts) != wanted.size:
                raise ValueError(
                    f"texts_by_id: expected {wanted.size} texts, got {len(texts)}; give one for each position"
                )
            values, offsets = shingle_hashes(texts, self.minhash)
            sizes = np.empty(wanted.size, np.int64)
            _buckets.sort_sets(values, offsets, sizes)
            left, right = inverse.reshape(2, -1).astype(np.int64)
            _buckets.jaccard_of_sets(values, offsets, sizes, left, right, out[part])
        return out

    def similar(self, exact: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which exact similarities reach the threshold, in single precision as they are written."""
        return exact >= np.float32(self.threshold)


def _judge_block(
    documents: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
    root: NDArray[np.uint32],
    compare: _Comparison,
    settings: DedupSettings,
) -> _Judged:
    """The rule, for a block: whole sets of documents that share bands, with their signatures."""
    order = np.lexsort((documents, root[documents]))
    documents, signatures = documents[order], signatures[order]
    small, members, sizes = _bucket_members(signatures, compare, settings)
    a, b = (small >> np.uint64(32)).astype(np.uint32), (small & np.uint64(NOBODY)).astype(np.uint32)
    equal, bands = _compared(signatures, a, b, compare)
    accepted = equal >= compare.accept_from
    exact = np.full(small.size, np.nan, np.float32)
    if compare.texts_by_id is not None:
        doubtful = np.flatnonzero((equal >= compare.doubt_from) & ~accepted)
        exact[doubtful] = compare.exact(documents[a[doubtful]], documents[b[doubtful]])
        accepted[doubtful] = compare.similar(exact[doubtful])

    duplicate_of, stars = _greedy(documents, signatures, root, a[accepted], b[accepted], members, sizes, compare)
    star_a, star_b = (
        (stars.pairs >> np.uint64(32)).astype(np.uint32),
        (stars.pairs & np.uint64(NOBODY)).astype(np.uint32),
    )
    star_equal, star_bands = _compared(signatures, star_a, star_b, compare)
    packed, first = np.unique(np.concatenate([small, stars.pairs]), return_index=True)
    pairs = _Pairs(
        np.concatenate([a, star_a])[first],
        np.concatenate([b, star_b])[first],
        np.concatenate([equal, star_equal])[first],
        np.concatenate([bands, star_bands])[first],
        np.concatenate([exact, stars.exact])[first],
        np.concatenate([accepted, stars.accepted])[first],
    )
    dropped = np.flatnonzero(duplicate_of >= 0)
    which = np.searchsorted(
        packed, (duplicate_of[dropped].astype(np.uint64) << np.uint64(32)) | dropped.astype(np.uint64)
    )
    estimated = pairs.equal[which].astype(np.float32) / np.float32(signatures.shape[1])
    similarity = np.where(np.isnan(pairs.exact[which]), estimated, pairs.exact[which])
    return _Judged(
        documents[dropped],
        documents[duplicate_of[dropped]],
        similarity,
        _Pairs(documents[pairs.a], documents[pairs.b], pairs.equal, pairs.bands, pairs.exact, pairs.accepted),
        stars.unwritten,
    )


def _compared(
    signatures: NDArray[np.uint32], a: NDArray[np.uint32], b: NDArray[np.uint32], compare: _Comparison
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    equal, shared = np.empty(a.size, np.uint16), np.empty(a.size, np.uint16)
    _buckets.compare_pairs(signatures, a, b, compare.bands, compare.rows, equal, shared)
    return equal, shared


def _bucket_members(
    signatures: NDArray[np.uint32], compare: _Comparison, settings: DedupSettings
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """(pairs of small buckets i << 32 | j, sorted and distinct; members of large buckets; their sizes)."""
    count = len(signatures)
    keys = np.empty((compare.bands, count), np.uint64)
    _buckets.band_keys(signatures, compare.bands, compare.rows, keys)
    pairs = np.zeros(0, np.uint64)
    waiting: list[NDArray[np.uint64]] = []
    members, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for band in range(compare.bands):
        order = np.argsort(keys[band])
        out = np.empty(_buckets.settle_buckets(keys[band], order, settings.star_bucket), np.uint64)
        band_members, band_sizes = np.empty(count, np.int64), np.empty(count, np.int64)
        buckets, total = _buckets.bucket_pairs(keys[band], order, settings.star_bucket, out, band_members, band_sizes)
        members.append(band_members[:total].copy())
        sizes.append(band_sizes[:buckets].copy())
        waiting.append(out)
        if sum(map(len, waiting)) > max(1 << 20, 2 * pairs.size):
            pairs, waiting = _distinct(np.concatenate([pairs, *waiting])), []
    return _distinct(np.concatenate([pairs, *waiting])), np.concatenate(members), np.concatenate(sizes)


def _distinct(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted and distinct; NumPy's `unique` hashes first, which is several times slower for millions of pairs."""
    values.sort()
    first = np.ones(values.size, np.bool_)
    first[1:] = values[1:] != values[:-1]
    return values[first]


@dataclass(frozen=True, slots=True)
class _Stars:
    pairs: NDArray[np.uint64]
    accepted: NDArray[np.bool_]
    exact: NDArray[np.float32]
    unwritten: int


def _greedy(
    documents: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
    root: NDArray[np.uint32],
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    members: NDArray[np.int64],
    sizes: NDArray[np.int64],
    compare: _Comparison,
) -> tuple[NDArray[np.int64], _Stars]:
    """(the kept document each one is a duplicate of, or -1; the pairs compared in large buckets)."""
    count = len(documents)
    roots = root[documents]
    starts = np.flatnonzero(np.concatenate([[True], roots[1:] != roots[:-1]])[:count])
    cursor, ends = starts.copy(), np.append(starts[1:], count)
    small_offsets = np.searchsorted(a, np.arange(count + 1)).astype(np.int64)  # `a` is sorted
    bucket_starts = np.cumsum(sizes) - sizes
    bucket_left = sizes.copy()
    bucket_of_member = np.repeat(np.arange(sizes.size), sizes)
    by_document = np.argsort(members, kind="stable")
    bucket_offsets = np.searchsorted(members[by_document], np.arange(count + 1)).astype(np.int64)
    buckets = bucket_of_member[by_document]
    members = members.copy()
    stamp = np.full(count, -1, np.int64)
    status = np.zeros(count, np.uint8)
    duplicate_of = np.full(count, -1, np.int64)
    pairs, outcome = np.empty(2 * members.size + 1, np.uint64), np.empty(2 * members.size + 1, np.uint8)
    exact = np.full(pairs.size, np.nan, np.float32)
    active, left, at, unwritten = np.arange(starts.size), starts.size, 0, 0
    while left:
        before = at
        left, at, refused, room, doubtful = _buckets.greedy(
            signatures, active, left, cursor, ends, small_offsets, b.astype(np.int64), bucket_offsets, buckets,
            bucket_starts, bucket_left, members, stamp, compare.accept_from, compare.doubt_from, compare.note_from,
            True, status, duplicate_of, pairs, outcome, at,
        )  # fmt: skip
        unwritten += refused
        if doubtful:
            waiting = before + np.flatnonzero(outcome[before:at] == 2)
            centre = (pairs[waiting] >> np.uint64(32)).astype(np.int64)
            other = (pairs[waiting] & np.uint64(NOBODY)).astype(np.int64)
            exact[waiting] = compare.exact(documents[centre], documents[other])
            outcome[waiting] = similar = compare.similar(exact[waiting])
            status[other[similar]] = DROPPED
            duplicate_of[other[similar]] = centre[similar]
        if room > pairs.size:
            grown = 2 * room
            pairs, outcome, exact = (
                np.concatenate([old, np.full(grown - old.size, fill, old.dtype)])
                for old, fill in ((pairs, 0), (outcome, 0), (exact, np.nan))
            )
    return duplicate_of, _Stars(pairs[:at].copy(), outcome[:at] == 1, exact[:at].copy(), unwritten)


# ---- all blocks together


def _sorted_pairs(found: Sequence[_Pairs]) -> _Pairs:
    def joined(name: str, kind: Any) -> Any:
        return np.concatenate([np.zeros(0, kind), *(getattr(pairs, name) for pairs in found)])

    a, b = joined("a", np.uint32), joined("b", np.uint32)
    order = np.argsort((a.astype(np.uint64) << np.uint64(32)) | b)
    return _Pairs(
        a[order],
        b[order],
        joined("equal", np.uint16)[order],
        joined("bands", np.uint16)[order],
        joined("exact", np.float32)[order],
        joined("accepted", np.bool_)[order],
    )


def _sets(representative: NDArray[np.uint32], a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """uint32[n]: the lowest rank that exact duplicates and the pairs lead to."""
    parent = representative.copy()  # exact duplicates point at their lowest rank already
    _buckets.union_pairs(parent, a, b)
    _buckets.flatten(parent)
    return parent


def _name_by_smallest(component: NDArray[np.uint32], survivors: _Survivors) -> None:
    """Replaces each set's lowest rank by the position, in the order of ids, of its smallest id."""
    position = np.empty(survivors.count, np.uint32)
    position[survivors.ranks[survivors.index_by_id]] = np.arange(survivors.count, dtype=np.uint32)
    smallest = np.full(survivors.count, NOBODY, np.uint32)
    np.minimum.at(smallest, component, position)
    component[:] = smallest[component]


def _masked(array: Any, null: NDArray[np.bool_]) -> Any:
    import pyarrow.compute as pc

    return pc.if_else(pa.array(null), pa.scalar(None, pa.string()), array)


# ---- for the report


def cluster_sizes(result: Verdicts) -> NDArray[np.int64]:
    """The sizes of all clusters of two and more documents, largest first."""
    sizes = np.bincount(result.cluster, minlength=1)
    return np.sort(sizes[sizes > 1])[::-1].astype(np.int64)


def cluster_size_histogram(result: Verdicts) -> Any:
    """Table(at_least, at_most, clusters, documents): cluster sizes in powers of two, from 2."""
    sizes = cluster_sizes(result)
    bits = np.floor(np.log2(sizes)).astype(np.int64) if sizes.size else np.zeros(0, np.int64)
    powers = range(1, int(bits.max(initial=0)) + 1)
    return pa.table(
        {
            "at_least": pa.array([1 << power for power in powers], pa.int64()),
            "at_most": pa.array([(1 << (power + 1)) - 1 for power in powers], pa.int64()),
            "clusters": pa.array([int((bits == power).sum()) for power in powers], pa.int64()),
            "documents": pa.array([int(sizes[bits == power].sum()) for power in powers], pa.int64()),
        }
    )


def similarity_histogram(result: Verdicts, width: float = 0.05) -> Any:
    """Table(at_least, below, accepted, refused): compared pairs by similarity (exact where known, else estimated)."""
    estimated = result.pairs_equal / np.float32(result.permutations)
    similarity = np.where(np.isnan(result.pairs_exact), estimated, result.pairs_exact)
    edges = np.linspace(0, 1, round(1 / width) + 1)
    cell = np.minimum((similarity / width + 1e-6).astype(np.int64), edges.size - 2)
    return pa.table(
        {
            "at_least": edges[:-1],
            "below": edges[1:],
            "accepted": np.bincount(cell[result.pairs_accepted], minlength=edges.size - 1),
            "refused": np.bincount(cell[~result.pairs_accepted], minlength=edges.size - 1),
        }
    )


def giant_clusters(result: Verdicts, settings: DedupSettings) -> Any:
    """Table(cluster, documents) of the clusters of at least `giant_cluster` documents, largest first: look at them."""
    sizes = np.bincount(result.cluster, minlength=1)
    giant = np.flatnonzero(sizes >= settings.giant_cluster)
    giant = giant[np.argsort(-sizes[giant], kind="stable")]
    return pa.table(
        {
            "cluster": ids_to_hex(result.ids[result.index_by_rank[giant]]),
            "documents": pa.array(sizes[giant], pa.int64()),
        }
    )


def planted_recall(
    texts: Any,
    minhash: MinHashSettings,
    *,
    edits: Sequence[float] = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4),
    seed: int = 1,
) -> Any:
    """How often edited copies of real texts are found: what the candidate curve promises, and what happens.

    Each text (Arrow string array) is copied with each share of its words replaced by words drawn from all texts; its
    exact Jaccard similarity to the original and whether they share a band are measured. Table(edited, pairs, jaccard:
    the mean, expected: candidates by `candidate_probability`, found: candidates seen, standard_error: of `found`).
    """
    from dedup.words import normal_form

    random = np.random.Generator(np.random.PCG64(seed))
    bands, rows = minhash.banding()
    originals = [words for text in texts.to_pylist() if (words := normal_form(text or "").split())]
    vocabulary = np.array(sorted({word for words in originals for word in words}), dtype=object)
    rows_out = []
    for share in edits:
        copies = []
        for words in originals:
            copy = np.array(words, dtype=object)
            hit = random.random(copy.size) < share
            copy[hit] = random.choice(vocabulary, int(hit.sum()))
            copies.append(" ".join(copy))
        both = pa.array([" ".join(words) for words in originals] + copies, pa.large_string())
        jaccard, found = pair_similarities(both, minhash, np.arange(len(copies)), np.arange(len(copies)) + len(copies))
        chance = candidate_probability(jaccard, bands, rows)
        rows_out.append(
            {
                "edited": share,
                "pairs": len(copies),
                "jaccard": float(jaccard.mean()),
                "expected": float(chance.sum()),
                "found": int(found.sum()),
                "standard_error": float(np.sqrt((chance * (1 - chance)).sum())),
            }
        )
    return pa.Table.from_pylist(rows_out)


def pair_similarities(
    texts: Any, minhash: MinHashSettings, a: NDArray[np.int64], b: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(exact Jaccard similarity, whether they share a band) of the texts a[i] and b[i]."""
    from dedup.minhash import sign

    values, offsets = shingle_hashes(texts, minhash)
    sizes = np.empty(len(texts), np.int64)
    _buckets.sort_sets(values, offsets, sizes)
    jaccard = np.empty(a.size, np.float32)
    _buckets.jaccard_of_sets(values, offsets, sizes, a.astype(np.int64), b.astype(np.int64), jaccard)
    bands, rows = minhash.banding()
    equal, shared = np.empty(a.size, np.uint16), np.empty(a.size, np.uint16)
    _buckets.compare_pairs(sign(texts, minhash), a.astype(np.uint32), b.astype(np.uint32), bands, rows, equal, shared)
    return jaccard, shared > 0
