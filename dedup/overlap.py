"""How much of evaluation sets a corpus holds, by shared n-grams; and taking it out of the corpus.

Report
- A protocol says what an n-gram is. `gpt2-tokens` is the paper's: text is lower-cased and reduced to runs of [a-z0-9]
  joined by single blanks, that string is encoded with GPT-2's released vocabulary, and the n-grams are of tokens.
  `words` has n-grams of the words themselves. The encoder is an argument: this package knows no tokenizer.
- A set is measured as a whole file (one string, as in the paper's Table 6) and example by example (n-grams within an
  example only); each with repeats (every n-gram of the test text counts) and distinct (every different one once).
- Exact mode keeps the evaluation n-grams in memory and streams the corpus over them: map one shard -> the n-grams found
  and, for each example, the documents that share most with it; reduce -> tables. A bitmap lets nearly all n-grams
  of the corpus pass without a look into the table. Bloom mode asks a filter of the corpus (dedup.bloom) instead:
  no documents are named, and a share may be too high by the filter's error rate.
- Results do not depend on how the corpus is cut into shards and batches: counts add up, and the documents of an
  example are the first by n-grams shared, then by id.

Decontamination
- A document is contaminated when it shares an n-gram (13 words, as GPT-3 did) with an example. Examples of 8 to 12
  words are looked for whole. Words are those of the "unicode" form, so any language works.
- "drop" leaves the document out; "cut" takes the shared words and 200 characters on either side, and drops what would
  fall into more than ten pieces, both as GPT-3 did.
- A reference corpus (Wikipedia, say) is a filter of its n-grams; a document most of whose n-grams are in it is a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dedup._grams import GramTable, word_spans
from dedup.bloom import Hashes, PartitionedBloomFilter, spill
from dedup.evaluation import EvaluationSet, evaluation_set, joined, read_evaluation_sets
from dedup.settings import DecontaminateSettings, OverlapSettings
from dedup.words import Form, Short, hash_tokens, hash_words, ngram_hashes, normal_forms, string_buffers

__all__ = [
    "CORPUS_SCHEMA",
    "DOCUMENTS_SCHEMA",
    "EVIDENCE_SCHEMA",
    "EXAMPLES_SCHEMA",
    "FOUND_SCHEMA",
    "PAPER_TABLE_6",
    "ROWS_SCHEMA",
    "VERDICT_SCHEMA",
    "WORST_SCHEMA",
    "DecontaminateSettings",
    "Decontaminated",
    "DecontaminationIndex",
    "Encode",
    "EvaluationIndex",
    "EvaluationSet",
    "Matches",
    "OverlapSettings",
    "OverlapTables",
    "Protocol",
    "decontaminate",
    "evaluation_set",
    "filter_matches",
    "match_texts",
    "normal_texts",
    "overlap_tables",
    "protocols",
    "read_evaluation_sets",
    "reference_share",
    "spill_reference",
    "spill_texts",
    "validation_set",
    "word_spans",
]

Encode = Callable[[Any], tuple[NDArray[Any], NDArray[np.int64]]]
"""pa.Array of large_string -> (token ids uint16 or uint32, offsets int64[n + 1]); the tokenizer is GPT-2's own."""

PAPER_TABLE_6: dict[str, tuple[float, float]] = {
    "ptb": (2.67, 0.88),
    "wikitext-2": (0.66, 1.63),
    "enwik8": (7.50, 6.31),
    "text8": (2.34, 3.94),
    "wikitext-103": (9.09, 2.42),
    "1bw": (13.19, 3.75),
}
"""Set -> (% of test 8-grams in the set's own train, in WebText): the paper's Table 6."""

_PAPER_NAMES = {"penntreebank": "ptb", "penn-treebank": "ptb", "wikitext2": "wikitext-2", "wikitext103": "wikitext-103"}

MAX_EXAMPLES_OF_NGRAM = 64
"""An n-gram of more examples than this is boilerplate of its set: it counts, but names no documents."""

_BATCH_TEXT_BYTES = 16 << 20  # normal forms handed to the encoder at once


# ----------------------------------------------------------------------------------------------------------- protocols


@dataclass(frozen=True, slots=True)
class Protocol:
    """What an n-gram is. With `encode`, n-grams are of tokens of the ASCII normal form; without, of its words."""

    name: str
    n: int = 8
    form: Form = "ascii"
    encode: Encode | None = None

    def ngrams(self, texts: Any, *, short: Short = "none") -> tuple[Hashes, NDArray[np.int64]]:
        """(hashes uint64[grams], offsets int64[texts + 1]) of an Arrow string array, in text order, with repeats."""
        if self.encode is None:
            return ngram_hashes(*hash_words(texts, self.form), self.n, short=short)
        hashes, bounds, total = [], [np.zeros(1, np.int64)], 0
        for part in normal_texts(texts, self.form):
            ids, offsets = self.encode(part)
            tokens, starts = ngram_hashes(hash_tokens(ids), np.asarray(offsets, np.int64), self.n, short=short)
            hashes.append(tokens)
            bounds.append(starts[1:] + total)
            total += len(tokens)
        return _concatenated(hashes), np.concatenate(bounds)


def protocols(settings: OverlapSettings, encode: Encode | None) -> list[Protocol]:
    """The protocols of `settings`; `encode` is needed for gpt2-tokens."""
    if "gpt2-tokens" in settings.protocols and encode is None:
        raise ValueError(
            "[overlap] protocols: gpt2-tokens needs GPT-2's released vocabulary; give it, or use words alone"
        )
    return [
        Protocol(name, settings.n, "ascii", encode if name == "gpt2-tokens" else None) for name in settings.protocols
    ]


def normal_texts(texts: Any, form: Form = "ascii") -> Iterator[Any]:
    """pa.Array of large_string: the normal forms of `texts` (words joined by one blank), some 16 MB at a time."""
    for data, offsets in normal_forms(texts, form):
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        yield pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The different values, sorted. np.unique hashes integers since NumPy 2.3, far slower at some millions."""
    values = np.sort(values)
    new = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return values[new]


def _concatenated(parts: Sequence[Hashes]) -> Hashes:
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.uint64), *parts])


# --------------------------------------------------------------------------------------------------------------- index

FOUND_SCHEMA = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("gram", pa.uint64(), nullable=False),  # hash of an evaluation n-gram that the corpus holds
        pa.field("occurrences", pa.int64()),  # in the corpus, with repeats; null from a Bloom filter
        pa.field("documents", pa.int64()),  # that hold it; null from a Bloom filter
    ]
)
DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("example", pa.int64(), nullable=False),
        pa.field("ngrams", pa.int64(), nullable=False),  # different n-grams of the example that the document holds
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string()),
    ]
)
CORPUS_SCHEMA = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("ngrams", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
    ]
)


class Matches(NamedTuple):
    """What one shard of the corpus shares with the evaluation sets; concatenated over shards for `overlap_tables`."""

    found: pa.Table  # FOUND_SCHEMA
    documents: pa.Table  # DOCUMENTS_SCHEMA
    corpus: pa.Table  # CORPUS_SCHEMA


@dataclass(frozen=True, slots=True)
class _SetGrams:
    """The n-grams of one set as indices into the table, and which of them its own train holds."""

    source: EvaluationSet
    first_example: int  # the set's example 0 among all examples
    file: NDArray[np.int32] | None  # of the whole file, with repeats, in order; None where there is no such text
    examples: NDArray[np.int32]  # of the examples, one after another
    offsets: NDArray[np.int64]  # [examples + 1]
    own_file: NDArray[np.bool_] | None  # for each of `file`: is it in the set's own train
    own_examples: NDArray[np.bool_] | None


class EvaluationIndex:
    """All n-grams of all evaluation sets under one protocol. Read-only once made; shared by threads."""

    def __init__(self, sets: Sequence[EvaluationSet], protocol: Protocol) -> None:
        self.protocol = protocol
        files = [protocol.ngrams(one.whole())[0] if one.whole_file else None for one in sets]
        examples = [protocol.ngrams(one.texts) for one in sets]
        everything = [grams for grams in files if grams is not None] + [grams for grams, _ in examples]
        self.table = GramTable(_distinct(_concatenated(everything)))
        self.sets: list[_SetGrams] = []
        first = 0
        for one, file, (grams, offsets) in zip(sets, files, examples, strict=True):
            own_file = own_examples = None
            if one.train is not None:
                train = GramTable(_distinct(protocol.ngrams(joined(one.train))[0]))
                own_file = None if file is None else _present(train, file)
                own_examples = _present(train, grams)
            self.sets.append(
                _SetGrams(
                    one,
                    first,
                    None if file is None else self.table.index(file),
                    self.table.index(grams),
                    offsets,
                    own_file,
                    own_examples,
                )
            )
            first += len(one.texts)
        self.num_examples = first
        self._starts, self._examples = self._postings()

    def _postings(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The examples of n-gram g are examples[starts[g]:starts[g + 1]]."""
        pairs = [np.zeros(0, np.int64)]
        for one in self.sets:
            example = np.repeat(np.arange(len(one.offsets) - 1), np.diff(one.offsets)) + one.first_example
            pairs.append(one.examples.astype(np.int64) << 32 | example)
        pair = _distinct(np.concatenate(pairs))
        counts = np.bincount(pair >> 32, minlength=len(self.table.grams))
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), pair & 0xFFFFFFFF

    def examples_of(self, grams: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(which of `grams`, example) for each example of each; not for those of over MAX_EXAMPLES_OF_NGRAM."""
        counts = self._starts[grams + 1] - self._starts[grams]
        counts[counts > MAX_EXAMPLES_OF_NGRAM] = 0
        which = np.repeat(np.arange(len(grams)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._examples[self._starts[grams[which]] + within]

    def set_of(self, examples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The set (its position) of each example."""
        firsts = np.array([one.first_example for one in self.sets], np.int64)
        return np.searchsorted(firsts, examples, "right") - 1


def validation_set(batches: Iterable[pa.RecordBatch], limit: int, *, name: str = "corpus validation") -> EvaluationSet:
    """The corpus's own held-out documents as a set: the `limit` with the smallest ids, whatever their order."""
    kept: list[tuple[str, str]] = []
    for batch in batches:
        kept += zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True)
        kept = sorted(kept)[:limit]
    return evaluation_set(name, [text for _, text in kept], ids=[key for key, _ in kept])


def _present(table: GramTable, hashes: Hashes) -> NDArray[np.bool_]:
    present = np.zeros(len(hashes), np.bool_)
    present[table.find(hashes)[1]] = True
    return present


# ----------------------------------------------------------------------------------------------------------------- map


def match_texts(
    batches: Iterable[pa.RecordBatch], indexes: Sequence[EvaluationIndex], *, documents_per_example: int = 5
) -> Matches:
    """What the documents of one corpus shard share with the evaluation sets, exactly.

    `batches` have the columns id and text, and url if there is one. Memory: about 8 bytes for each n-gram of a batch,
    16 for each of the index, and the rows that come out.
    """
    tallies = [_Tally(index, documents_per_example) for index in indexes]
    for batch in batches:
        for tally in tallies:
            tally.add(batch)
    return _concat_matches([tally.tables() for tally in tallies])


def _concat_matches(parts: Sequence[Matches]) -> Matches:
    return Matches(
        pa.concat_tables([FOUND_SCHEMA.empty_table(), *(part.found for part in parts)]),
        pa.concat_tables([DOCUMENTS_SCHEMA.empty_table(), *(part.documents for part in parts)]),
        pa.concat_tables([CORPUS_SCHEMA.empty_table(), *(part.corpus for part in parts)]),
    )


class _Tally:
    """The matches of one index, batch after batch."""

    def __init__(self, index: EvaluationIndex, documents_per_example: int) -> None:
        self._index = index
        self._limit = documents_per_example
        self._occurrences = np.zeros(len(index.table.grams), np.int64)
        self._documents = np.zeros(len(index.table.grams), np.int64)
        self._best: list[pa.Table] = []
        self._num_documents = self._num_ngrams = self._num_bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        texts = batch.column("text")
        hashes, offsets = self._index.protocol.ngrams(texts)
        self._num_documents += len(texts)
        self._num_ngrams += len(hashes)
        self._num_bytes += sum(int((ends - starts).sum()) for _, starts, ends in string_buffers(texts))
        grams, at = self._index.table.find(hashes)
        np.add.at(self._occurrences, grams, 1)
        document = np.searchsorted(offsets, at, "right") - 1
        pair = _distinct(document << 32 | grams)
        document, gram = pair >> 32, pair & 0xFFFFFFFF
        np.add.at(self._documents, gram, 1)
        if self._limit:
            which, example = self._index.examples_of(gram)
            shared = np.sort(example << 32 | document[which])
            first = np.flatnonzero(np.append(True, shared[1:] != shared[:-1])) if len(shared) else np.zeros(0, np.int64)
            count = np.diff(np.append(first, len(shared)))
            self._name(batch, shared[first] >> 32, shared[first] & 0xFFFFFFFF, count)

    def _name(
        self, batch: pa.RecordBatch, example: NDArray[np.int64], document: NDArray[np.int64], count: NDArray[np.int64]
    ) -> None:
        rows = pa.array(document)
        urls = batch.column("url").take(rows) if "url" in batch.schema.names else pa.nulls(len(rows), pa.string())
        columns = {
            "example": pa.array(example),
            "ngrams": pa.array(count, pa.int64()),
            "id": batch.column("id").take(rows).cast(pa.string()),
            "url": urls.cast(pa.string()),
        }
        self._best.append(first_documents(pa.table(columns), self._limit))
        if len(self._best) > 32:
            self._best = [first_documents(pa.concat_tables(self._best), self._limit)]

    def tables(self) -> Matches:
        name = self._index.protocol.name
        hit = np.flatnonzero(self._occurrences)
        found = pa.table(
            [
                pa.array([name] * len(hit), pa.string()),
                pa.array(self._index.table.grams[hit]),
                pa.array(self._occurrences[hit]),
                pa.array(self._documents[hit]),
            ],
            schema=FOUND_SCHEMA,
        )
        documents = DOCUMENTS_SCHEMA.empty_table()
        if self._best:
            best = first_documents(pa.concat_tables(self._best), self._limit)
            example = best["example"].to_numpy()
            position = self._index.set_of(example)
            firsts = np.array([one.first_example for one in self._index.sets], np.int64)
            names = pa.array([one.source.name for one in self._index.sets], pa.string())
            documents = pa.table(
                [
                    pa.array([name] * len(best), pa.string()),
                    names.take(pa.array(position)),
                    pa.array(example - firsts[position]),
                    best["ngrams"],
                    best["id"],
                    best["url"],
                ],
                schema=DOCUMENTS_SCHEMA,
            )
        corpus = pa.table([[name], [self._num_documents], [self._num_ngrams], [self._num_bytes]], schema=CORPUS_SCHEMA)
        return Matches(found, documents, corpus)


def first_documents(table: pa.Table, limit: int, keys: Sequence[str] = ("example",)) -> pa.Table:
    """The `limit` rows of each example with the most n-grams, then the smallest id, in that order."""
    order = [*((key, "ascending") for key in keys), ("ngrams", "descending"), ("id", "ascending")]
    table = table.take(pc.sort_indices(table, order))
    new = np.zeros(len(table), np.bool_)
    new[:1] = True
    for key in keys:
        column = table[key].to_numpy(zero_copy_only=False)
        new[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(new)
    rank = np.arange(len(table)) - np.repeat(first, np.diff(np.append(first, len(table))))
    return table.filter(pa.array(rank < limit))


def spill_texts(batches: Iterable[pa.RecordBatch], protocol: Protocol, path: Path) -> int:
    """Bloom mode's map: the n-grams of one corpus shard -> a spill file for `dedup.bloom.build_file`; how many."""
    return spill((protocol.ngrams(batch.column("text"))[0] for batch in batches), path)


def filter_matches(indexes: Sequence[EvaluationIndex], filters: Mapping[str, PartitionedBloomFilter]) -> pa.Table:
    """Bloom mode: FOUND_SCHEMA of the evaluation n-grams that the corpus's filter (by protocol name) holds."""
    tables = [FOUND_SCHEMA.empty_table()]
    for index in indexes:
        name = index.protocol.name
        if name not in filters:
            raise ValueError(f"filters: expected one for protocol {name}, got {', '.join(filters) or 'none'}; build it")
        grams = index.table.grams[filters[name].contains(index.table.grams)]
        unknown = pa.nulls(len(grams), pa.int64())
        tables.append(
            pa.table([pa.array([name] * len(grams), pa.string()), grams, unknown, unknown], schema=FOUND_SCHEMA)
        )
    return pa.concat_tables(tables)


# -------------------------------------------------------------------------------------------------------------- reduce

ROWS_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("file_sha256", pa.string(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("n", pa.int32(), nullable=False),
        pa.field("against", pa.string(), nullable=False),  # "corpus" or "own train"
        pa.field("unit", pa.string(), nullable=False),  # "file": one text; "examples": within examples only
        pa.field("ngrams", pa.int64(), nullable=False),  # with repeats
        pa.field("found", pa.int64(), nullable=False),
        pa.field("share", pa.float64()),  # found / ngrams: what the paper reports; null without n-grams
        pa.field("distinct", pa.int64(), nullable=False),
        pa.field("distinct_found", pa.int64(), nullable=False),
        pa.field("distinct_share", pa.float64()),
        pa.field("examples", pa.int64()),  # null for unit "file"
        pa.field("examples_measured", pa.int64()),  # long enough to have an n-gram
        pa.field("examples_touched", pa.int64()),  # with at least one n-gram found
        pa.field("paper_percent", pa.float64()),  # Table 6, where it has the set
    ]
)
EXAMPLES_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("file_sha256", pa.string(), nullable=False),
        pa.field("example", pa.int64(), nullable=False),  # from 0, in file order
        pa.field("id", pa.string()),  # the record's own name
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("ngrams", pa.int64(), nullable=False),  # with repeats
        pa.field("found", pa.int64(), nullable=False),  # of these, in the corpus
    ]
)
WORST_SCHEMA = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("example", pa.int64(), nullable=False),
        pa.field("example_id", pa.string()),
        pa.field("ngrams", pa.int64(), nullable=False),
        pa.field("found", pa.int64(), nullable=False),
        pa.field("passage", pa.string(), nullable=False),  # of the example: the longest stretch that the corpus holds
        pa.field("id", pa.string()),  # a document that holds most of it; null in bloom mode
        pa.field("url", pa.string()),
        pa.field("document_ngrams", pa.int64()),
    ]
)


class OverlapTables(NamedTuple):
    """The overlap report's content."""

    rows: pa.Table  # ROWS_SCHEMA
    examples: pa.Table  # EXAMPLES_SCHEMA: overlap/examples.parquet
    worst: pa.Table  # WORST_SCHEMA: for each protocol, by n-grams found; one row for each document named
    corpus: pa.Table  # CORPUS_SCHEMA, summed; empty in bloom mode


def overlap_tables(
    indexes: Sequence[EvaluationIndex],
    found: pa.Table,
    *,
    documents: pa.Table | None = None,
    corpus: pa.Table | None = None,
    quoted_examples: int = 20,
    documents_per_example: int = 5,
) -> OverlapTables:
    """The report of all shards: `found`, `documents` and `corpus` are the concatenated tables of their `Matches`."""
    rows: list[dict[str, Any]] = []
    examples = [EXAMPLES_SCHEMA.empty_table()]
    worst = [WORST_SCHEMA.empty_table()]
    for index in indexes:
        name = index.protocol.name
        grams = found.filter(pc.equal(found["protocol"], name))["gram"].to_numpy()
        held = np.zeros(len(index.table.grams), np.bool_)
        held[index.table.find(np.ascontiguousarray(grams))[0]] = True
        for one in index.sets:
            rows += _rows(one, index.protocol, held)
            examples.append(_example_table(one, name, held))
        worst.append(_worst(index, held, documents, quoted_examples, documents_per_example))
    totals = CORPUS_SCHEMA.empty_table()
    if corpus is not None:
        columns = ["documents", "ngrams", "num_bytes"]
        grouped = corpus.group_by("protocol", use_threads=False).aggregate([(column, "sum") for column in columns])
        totals = pa.table(
            [grouped["protocol"], *(grouped[f"{column}_sum"] for column in columns)], schema=CORPUS_SCHEMA
        )
    return OverlapTables(
        pa.Table.from_pylist(rows, schema=ROWS_SCHEMA),
        pa.concat_tables(examples).combine_chunks(),
        pa.concat_tables(worst).combine_chunks(),
        totals,
    )


def _rows(one: _SetGrams, protocol: Protocol, held: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    measured: list[tuple[str, str, NDArray[np.int32], NDArray[np.bool_]]] = []
    if one.file is not None:
        measured.append(("corpus", "file", one.file, held[one.file]))
    measured.append(("corpus", "examples", one.examples, held[one.examples]))
    if one.file is not None and one.own_file is not None:
        measured.append(("own train", "file", one.file, one.own_file))
    if one.own_examples is not None:
        measured.append(("own train", "examples", one.examples, one.own_examples))
    for against, unit, grams, hit in measured:
        distinct, hits = _count_distinct(grams, len(held)), _count_distinct(grams[hit], len(held))
        touched: dict[str, int | None] = {"examples": None, "examples_measured": None, "examples_touched": None}
        if unit == "examples":
            touched = {
                "examples": len(one.offsets) - 1,
                "examples_measured": int((np.diff(one.offsets) > 0).sum()),
                "examples_touched": int((_sums(hit, one.offsets) > 0).sum()),
            }
        paper = PAPER_TABLE_6.get(_PAPER_NAMES.get(one.source.name.lower(), one.source.name.lower()))
        yield {
            "set": one.source.name,
            "file": one.source.path,
            "file_sha256": one.source.file_sha256,
            "protocol": protocol.name,
            "n": protocol.n,
            "against": against,
            "unit": unit,
            "ngrams": len(grams),
            "found": int(hit.sum()),
            "share": float(hit.sum()) / len(grams) if len(grams) else None,
            "distinct": distinct,
            "distinct_found": hits,
            "distinct_share": hits / distinct if distinct else None,
            **touched,
            "paper_percent": paper[against == "corpus"] if paper and unit == "file" and protocol.n == 8 else None,
        }


def _count_distinct(grams: NDArray[np.int32], size: int) -> int:
    """How many different indices below `size` there are."""
    seen = np.zeros(size, np.bool_)
    seen[grams] = True
    return int(seen.sum())


def _sums(flags: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[n]: how many of flags[offsets[i]:offsets[i + 1]] are set."""
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags, dtype=np.int64)])
    return np.asarray(totals[offsets[1:]] - totals[offsets[:-1]])


def _example_table(one: _SetGrams, protocol: str, held: NDArray[np.bool_]) -> pa.Table:
    size = len(one.offsets) - 1
    return pa.table(
        [
            pa.array([one.source.name] * size, pa.string()),
            pa.array([one.source.file_sha256] * size, pa.string()),
            pa.array(np.arange(size, dtype=np.int64)),
            pa.array(one.source.ids, pa.string()),
            pa.array([protocol] * size, pa.string()),
            pa.array(np.diff(one.offsets)),
            pa.array(_sums(held[one.examples], one.offsets)),
        ],
        schema=EXAMPLES_SCHEMA,
    )


def _worst(
    index: EvaluationIndex, held: NDArray[np.bool_], documents: pa.Table | None, limit: int, documents_per_example: int
) -> pa.Table:
    """The examples with the most n-grams found, each with its documents."""
    found = np.concatenate([np.zeros(0, np.int64), *(_sums(held[one.examples], one.offsets) for one in index.sets)])
    ngrams = np.concatenate([np.zeros(0, np.int64), *(np.diff(one.offsets) for one in index.sets)])
    order = np.lexsort((np.arange(len(found)), ngrams, -found))[:limit]
    name = index.protocol.name
    if documents is not None:
        documents = documents.filter(pc.equal(documents["protocol"], name))
    rows: list[dict[str, Any]] = []
    for example in order[found[order] > 0].tolist():
        one = index.sets[int(index.set_of(np.array([example]))[0])]
        number = example - one.first_example
        row = {
            "protocol": name,
            "set": one.source.name,
            "example": number,
            "example_id": one.source.ids[number],
            "ngrams": int(ngrams[example]),
            "found": int(found[example]),
            "passage": _passage(one, number, held, index.protocol),
        }
        named = []
        if documents is not None:
            mine = pc.and_(pc.equal(documents["set"], one.source.name), pc.equal(documents["example"], number))
            named = first_documents(documents.filter(mine), documents_per_example).to_pylist()
        rows += [
            {**row, "id": document["id"], "url": document["url"], "document_ngrams": document["ngrams"]}
            for document in named
        ] or [row]
    return pa.Table.from_pylist(rows, schema=WORST_SCHEMA)


def _passage(one: _SetGrams, number: int, held: NDArray[np.bool_], protocol: Protocol) -> str:
    """The stretch of example `number` under its longest run of n-grams that are held."""
    hit = held[one.examples[one.offsets[number] : one.offsets[number + 1]]]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hit, [False]]).astype(np.int8)))
    runs = edges.reshape(-1, 2)
    begin, end = runs[int(np.argmax(runs[:, 1] - runs[:, 0]))].tolist()
    text = one.source.texts[number].as_py()
    starts, ends = word_spans(text, protocol.form)
    first, last = begin, end + protocol.n - 2  # units of the first n-gram's first, and the last one's last
    if protocol.encode is not None:
        # A token never crosses a blank of the normal form, so the words' own encodings line up with the text's.
        raw = text.encode()
        words = [
            next(normal_texts(pa.array([raw[a:b].decode()])))[0].as_py() for a, b in zip(starts, ends, strict=True)
        ]
        spelled = [word if place == 0 else f" {word}" for place, word in enumerate(words)]
        _, offsets = protocol.encode(pa.array(spelled, pa.large_string()))
        bounds = np.asarray(offsets, np.int64)
        first = int(np.searchsorted(bounds, first, "right")) - 1
        last = min(int(np.searchsorted(bounds, last, "right")) - 1, len(starts) - 1)
    return str(text.encode()[starts[first] : ends[last]].decode())


# ------------------------------------------------------------------------------------------------------ decontamination

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),  # "drop" or "cut"
        pa.field("reason", pa.string(), nullable=False),  # "evaluation", "pieces", "short", "reference"
        pa.field("detail", pa.string(), nullable=False),  # what was seen, for the drop table
        pa.field("ngrams", pa.int64(), nullable=False),  # different n-grams shared with evaluation sets
        pa.field("reference_share", pa.float64()),  # of its n-grams in the reference; null without a reference
        pa.field("text", pa.string()),  # what is left after a cut; null when dropped
    ]
)
EVIDENCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("example", pa.int64(), nullable=False),
        pa.field("ngrams", pa.int64(), nullable=False),  # different n-grams of the example in the document
        pa.field("start", pa.int64(), nullable=False),  # byte position of the first shared word in the document
        pa.field("end", pa.int64(), nullable=False),  # after the last shared word
        pa.field("passage", pa.string(), nullable=False),  # the document's text there, at most 500 characters
    ]
)
MAX_EVIDENCE = 10
"""Examples named for one document: those that share most with it."""


class Decontaminated(NamedTuple):
    """What is to be done with some documents, and why; a document without a row stays as it is."""

    verdicts: pa.Table  # VERDICT_SCHEMA, in the documents' order
    evidence: pa.Table  # EVIDENCE_SCHEMA


class DecontaminationIndex:
    """The n-grams of examples that shall not be trained on. Read-only once made; shared by threads."""

    def __init__(self, sets: Sequence[EvaluationSet], settings: DecontaminateSettings) -> None:
        self.sets = list(sets)
        self.settings = settings
        self.firsts = np.cumsum([0, *(len(one.texts) for one in sets)])
        hashed = [hash_words(one.texts) for one in sets]
        lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for _, offsets in hashed)])
        self.num_too_short = int((lengths < min(settings.min_words, settings.n)).sum())
        short = lengths[(lengths >= settings.min_words) & (lengths < settings.n)]
        self.lengths = [*np.unique(short).tolist(), settings.n]
        self.tables: list[GramTable] = []
        self._starts: list[NDArray[np.int64]] = []
        self._examples: list[NDArray[np.int64]] = []
        for length in self.lengths:
            grams, examples = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
            for first, (words, offsets) in zip(self.firsts.tolist(), hashed, strict=False):
                hashes, starts = ngram_hashes(words, offsets, length)
                example = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
                if length < settings.n:  # whole examples only
                    whole = np.diff(offsets)[example] == length
                    hashes, example = hashes[whole], example[whole]
                grams.append(hashes)
                examples.append(example + first)
            table = GramTable(_distinct(np.concatenate(grams)))
            pairs = _distinct(table.index(np.concatenate(grams)).astype(np.int64) << 32 | np.concatenate(examples))
            counts = np.bincount(pairs >> 32, minlength=len(table.grams))
            self.tables.append(table)
            self._starts.append(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
            self._examples.append(pairs & 0xFFFFFFFF)

    def examples_of(self, length: int, gram: int) -> NDArray[np.int64]:
        """The examples (numbered over all sets) of n-gram `gram` of the length at position `length`."""
        starts = self._starts[length]
        return self._examples[length][starts[gram] : starts[gram + 1]][:MAX_EXAMPLES_OF_NGRAM]

    def name(self, example: int) -> tuple[str, int]:
        """(set, example in it)."""
        position = int(np.searchsorted(self.firsts, example, "right")) - 1
        return self.sets[position].name, example - int(self.firsts[position])


def decontaminate(
    batch: pa.RecordBatch | pa.Table,
    index: DecontaminationIndex,
    *,
    reference: PartitionedBloomFilter | None = None,
) -> Decontaminated:
    """The verdicts on documents (columns id and text). `reference` is a filter of `spill_reference`'s n-grams."""
    settings = index.settings
    texts = batch.column("text")
    words, offsets = hash_words(texts)
    shared: dict[int, list[tuple[int, int, int]]] = {}  # document -> (length's position, n-gram, word)
    for position, (length, table) in enumerate(zip(index.lengths, index.tables, strict=True)):
        hashes, starts = ngram_hashes(words, offsets, length)
        grams, at = table.find(hashes)
        document = np.searchsorted(starts, at, "right") - 1
        word = at - starts[document]
        for d, gram, w in zip(document.tolist(), grams.tolist(), word.tolist(), strict=True):
            shared.setdefault(d, []).append((position, gram, w))
    shares = np.full(len(texts), np.nan)
    if reference is not None:
        shares = reference_share(texts, reference, settings.reference_n)
    verdicts: list[dict[str, Any]] = []
    evidence: list[dict[str, Any]] = []
    copies = set(np.flatnonzero(shares >= settings.reference_share).tolist())
    for row_number in sorted(shared.keys() | copies):
        hits = shared.get(row_number, [])
        ngrams = len({(position, gram) for position, gram, _ in hits})
        key, text = str(batch.column("id")[row_number]), str(texts[row_number])
        share = None if np.isnan(shares[row_number]) else float(shares[row_number])
        row: dict[str, Any] = {"id": key, "ngrams": ngrams, "reference_share": share}
        contaminated = ngrams >= settings.min_ngrams
        proof = _evidence(key, text, hits, index) if contaminated else []
        evidence += proof
        if row_number in copies:
            detail = f"{share:.3f} of its {settings.reference_n}-grams are in the reference"
            verdicts.append({**row, "action": "drop", "reason": "reference", "detail": detail})
        elif contaminated:
            best = proof[0]
            detail = f"{best['set']} example {best['example']}: {best['ngrams']} n-grams at byte {best['start']}"
            verdict: dict[str, Any] = {"action": "drop", "reason": "evaluation", "detail": detail}
            if settings.action == "cut":
                verdict = {**verdict, **_cut(text, hits, index)}
            verdicts.append({**row, **verdict})
    return Decontaminated(
        pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA), pa.Table.from_pylist(evidence, schema=EVIDENCE_SCHEMA)
    )


def _evidence(
    key: str, text: str, hits: Sequence[tuple[int, int, int]], index: DecontaminationIndex
) -> list[dict[str, Any]]:
    """EVIDENCE_SCHEMA rows of one document: the examples that share most with it, most first."""
    grams: dict[int, set[tuple[int, int]]] = {}
    words: dict[int, list[tuple[int, int]]] = {}
    for position, gram, word in hits:
        for example in index.examples_of(position, gram).tolist():
            grams.setdefault(example, set()).add((position, gram))
            words.setdefault(example, []).append((word, word + index.lengths[position] - 1))
    starts, ends = word_spans(text)
    raw = text.encode()
    rows = []
    for example in sorted(grams, key=lambda example: (-len(grams[example]), example))[:MAX_EVIDENCE]:
        first, last = _longest_stretch(words[example])
        name, number = index.name(example)
        begin, end = int(starts[first]), int(ends[last])
        rows.append(
            {
                "id": key,
                "set": name,
                "example": number,
                "ngrams": len(grams[example]),
                "start": begin,
                "end": end,
                "passage": raw[begin:end].decode()[:500],
            }
        )
    return rows


def _stretches(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Inclusive intervals, sorted, those that overlap or touch merged."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _longest_stretch(spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
    return max(_stretches(spans), key=lambda span: (span[1] - span[0], -span[0]))


def _cut(text: str, hits: Sequence[tuple[int, int, int]], index: DecontaminationIndex) -> dict[str, Any]:
    """{"action": "cut", "text": what is left}, or why the document is dropped after all."""
    settings = index.settings
    starts, ends = word_spans(text)
    raw = text.encode()
    spans = _stretches((word, word + index.lengths[position] - 1) for position, _, word in hits)
    removed = []
    for first, last in spans:
        begin = len(raw[: starts[first]].decode()) - settings.cut_margin_characters
        end = len(raw[: ends[last]].decode()) + settings.cut_margin_characters
        removed.append((_to_blank(text, max(begin, 0), -1), _to_blank(text, min(end, len(text)), 1) - 1))
    pieces, at = [], 0
    for begin, end in _stretches(removed):
        pieces.append(text[at:begin].strip())
        at = end + 1
    pieces = [piece for piece in [*pieces, text[at:].strip()] if piece]
    left = "\n\n".join(pieces)
    if len(pieces) > settings.max_pieces:
        detail = f"cutting {len(spans)} passages leaves {len(pieces)} pieces > {settings.max_pieces}"
        return {"action": "drop", "reason": "pieces", "detail": detail}
    words = len(hash_words(pa.array([left], pa.large_string()))[0])
    if words < settings.min_words_left:
        detail = f"cutting {len(spans)} passages leaves {words} words < {settings.min_words_left}"
        return {"action": "drop", "reason": "short", "detail": detail}
    return {"action": "cut", "text": left}


def _to_blank(text: str, at: int, step: int) -> int:
    """The nearest position from `at`, going outwards for at most 40 characters, that does not split a word."""
    for moved in range(40):
        position = at + step * moved
        if position <= 0 or position >= len(text) or text[position - 1].isspace() or text[position].isspace():
            return min(max(position, 0), len(text))
    return at


def spill_reference(batches: Iterable[pa.RecordBatch], settings: DecontaminateSettings, path: Path) -> int:
    """The n-grams of reference texts -> a spill file for `dedup.bloom.build_file`; how many."""
    return spill_texts(batches, Protocol("reference", settings.reference_n, "unicode"), path)


def reference_share(texts: Any, reference: PartitionedBloomFilter, n: int) -> NDArray[np.float64]:
    """float64[texts]: the share of each text's n-grams, with repeats, that are in `reference`; nan without n-grams."""
    hashes, offsets = Protocol("reference", n, "unicode").ngrams(texts)
    held = _sums(reference.contains(hashes), offsets)
    sizes = np.diff(offsets)
    shares = np.full(len(sizes), np.nan)
    np.divide(held, sizes, out=shares, where=sizes > 0)
    return shares
