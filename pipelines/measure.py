"""What the reports count: one small file for each corpus shard, source of posts and token shard, added up afterwards.

- A corpus of 40 GB is never in memory: a shard is read in batches, what is counted is counters, what is quoted is a
  bounded sample chosen by a hash of the id, so that it depends on the documents and on nothing else.
- Languages are counted twice: as the build's own detector said, and as a second detector says of the finished text.
- Natural demonstrations are what the GPT-2 paper points at (its table 1 and section 2): texts that happen to hold a
  task. The patterns are made for precision: a document is counted if a person would see the task in the passage.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from webtext.records import KEYED_SCHEMA, LINK_SCHEMA

BATCH_ROWS = 512
QUOTES = 10  # kept for each kind of demonstration
CONTEXT = 140  # characters quoted on either side of a demonstration
TOP_NAMES = 200_000  # domains and subreddits that a shard hands on, by documents; the rest is added up as OTHER
OTHER = "(others)"

NAME_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # "domain" or "subreddit"
        pa.field("name", pa.string(), nullable=False),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)

LENGTH_EDGES = tuple(round(2 ** (quarter / 4)) for quarter in range(8, 97))  # 4 to 16 million words, four an octave
"""A document of n words falls into the last cell whose edge is <= n, or into the one before the first."""

Tally = dict[str, list[int]]  # name -> [documents, bytes]


# Natural demonstrations ----------------------------------------------------------------------------------------------

_LANGUAGES = (
    "English|French|German|Spanish|Italian|Portuguese|Dutch|Swedish|Danish|Norwegian|Finnish|Polish|Czech|Russian|"
    "Ukrainian|Greek|Latin|Turkish|Arabic|Hebrew|Persian|Hindi|Chinese|Mandarin|Japanese|Korean|Vietnamese"
)
_QUOTE = "[\"“«„']"
_TRANSLATION = "|".join(
    (
        # ... translated into English as "..."; and "...", translated to English
        rf"\btranslat(?:ed|es|ion|ing)\b[^.\n]{{0,40}}?\b(?:in)?to (?:{_LANGUAGES})\b[^.\n]{{0,12}}?\s?{_QUOTE}",
        rf"{_QUOTE},?[^.\n\"“”]{{0,30}}\btranslat(?:ed|es|ing) (?:in)?to (?:{_LANGUAGES})\b",
        # like they say in French: ...
        rf"\b(?:[Ss]a(?:y|id)|[Cc]all(?:ed)?|[Ww]ritten) (?:it |that )?in (?:{_LANGUAGES}) ?[:,] ?{_QUOTE}?\w",
        rf"\b[Ii]n (?:{_LANGUAGES}): ?{_QUOTE}",
        # French: ... and on the next line English: ...
        rf"(?:^|\n)(?:{_LANGUAGES}): [^\n]{{3,300}}\n+(?:{_LANGUAGES}): ",
    )
)
_QUESTION = (
    r"(?i)(?:^|\n)[ \t]{0,8}(?:q|question)[ \t]{0,2}[:.][ \t]{0,4}[^\n]{4,400}"
    r"\n{1,3}[ \t]{0,8}(?:a|answer)[ \t]{0,2}[:.][ \t]"
)


@dataclass(frozen=True)
class Kind:
    """A task that a text can hold."""

    name: str
    title: str
    note: str
    pattern: str  # means the same to RE2, which is asked first and of whole batches, and to Python

    @functools.cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.ASCII)


DEMONSTRATIONS = (
    Kind(
        "translation",
        "Translation pairs",
        "a passage said to be translated, or quoted as another language says it (“like they say in French: …”), "
        "or lines labelled by language",
        _TRANSLATION,
    ),
    Kind(
        "summary",
        "TL;DR",
        "a text and its own summary",
        r"(?i)\btl ?;? ?dr\b:?",
    ),
    Kind(
        "question",
        "Q: and A:",
        "a line that asks and the next that answers",
        _QUESTION,
    ),
)


def sample_key(id: str) -> str:
    """An order of documents that is nobody's choice: for samples."""
    return hashlib.blake2b(id.encode(), digest_size=8).hexdigest()


def find_demonstrations(ids: list[str], urls: list[str], texts: Any) -> dict[str, list[tuple[int, dict[str, str]]]]:
    """For each kind: (occurrences, quote of the first) of every text (Arrow string array) that holds one."""
    found: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for kind in DEMONSTRATIONS:
        rows = np.flatnonzero(pc.match_substring_regex(texts, kind.pattern).to_numpy(zero_copy_only=False))
        hits = found.setdefault(kind.name, [])
        for row in rows.tolist():
            text = texts[row].as_py()
            matches = list(kind.compiled.finditer(text))
            if not matches:
                continue
            start, end = matches[0].span()
            start += len(text[start:end]) - len(text[start:end].lstrip())
            quote = {
                "id": ids[row],
                "url": urls[row],
                "before": _before(text, start),
                "passage": text[start:end],
                "after": _after(text, end),
            }
            hits.append((len(matches), quote))
    return found


def _before(text: str, end: int) -> str:
    """CONTEXT characters up to `end`, from the beginning of a word."""
    start = max(0, end - CONTEXT)
    if start == 0:
        return text[:end]
    blank = text.find(" ", start, end)
    return "… " + text[blank + 1 if blank >= 0 else start : end]


def _after(text: str, start: int) -> str:
    """CONTEXT characters from `start`, to the end of a word."""
    end = start + CONTEXT
    if end >= len(text):
        return text[start:]
    blank = text.rfind(" ", start, end)
    return text[start : blank if blank > start else end] + " …"


# One corpus shard ----------------------------------------------------------------------------------------------------


def measure_shard(path: Path) -> tuple[dict[str, Any], Any]:
    """(counts and quotes as JSON values, table of NAME_SCHEMA) of one corpus shard."""
    from webtext.quality import audit_language

    totals = {"documents": 0, "bytes": 0, "words": 0, "agreeing": 0}
    lengths = np.zeros((len(LENGTH_EDGES) + 1, 2), np.int64)
    languages: Tally = {}
    audited: Tally = {}
    years: Tally = {}
    names: dict[str, Tally] = {"domain": {}, "subreddit": {}}
    demonstrations: dict[str, dict[str, int]] = {
        kind.name: {"documents": 0, "occurrences": 0} for kind in DEMONSTRATIONS
    }
    quotes: dict[str, list[tuple[str, dict[str, str]]]] = {kind.name: [] for kind in DEMONSTRATIONS}
    columns = ["id", "url", "text", "language", "domain", "subreddit", "created_at", "num_words", "num_bytes"]
    for batch in storage.read_batches(path, columns, BATCH_ROWS):
        sizes = batch.column("num_bytes").to_numpy(zero_copy_only=False)
        words = batch.column("num_words").to_numpy(zero_copy_only=False)
        cells = np.searchsorted(LENGTH_EDGES, words, side="right")
        np.add.at(lengths, (cells, 0), 1)
        np.add.at(lengths, (cells, 1), sizes)
        totals["documents"] += batch.num_rows
        totals["bytes"] += int(sizes.sum())
        totals["words"] += int(words.sum())
        each = sizes.tolist()
        own = batch.column("language").to_pylist()
        second = audit_language(batch.column("text").to_pylist())
        totals["agreeing"] += sum(size for a, b, size in zip(own, second, each, strict=True) if a == b)
        add(languages, own, each)
        add(audited, second, each)
        add(years, [time[:4] if time else "unknown" for time in _strings(batch, "created_at")], each)
        add(names["domain"], batch.column("domain").to_pylist(), each)
        add(names["subreddit"], [name or "(none)" for name in _strings(batch, "subreddit")], each)
        ids, urls = batch.column("id").to_pylist(), batch.column("url").to_pylist()
        for name, hits in find_demonstrations(ids, urls, batch.column("text")).items():
            demonstrations[name]["documents"] += len(hits)
            demonstrations[name]["occurrences"] += sum(occurrences for occurrences, _ in hits)
            keyed = [(sample_key(quote["id"]), quote) for _, quote in hits]
            quotes[name] = heapq.nsmallest(QUOTES, [*quotes[name], *keyed], key=lambda item: item[0])
    facts = {
        **totals,
        "lengths": lengths.tolist(),
        "languages": dict(sorted(languages.items())),
        "audited": dict(sorted(audited.items())),
        "years": dict(sorted(years.items())),
        "demonstrations": demonstrations,
        "quotes": {name: [quote for _, quote in kept] for name, kept in quotes.items()},
    }
    rows = [
        {"kind": kind, "name": name, "documents": documents, "bytes": size}
        for kind, tally in names.items()
        for name, (documents, size) in largest(tally, TOP_NAMES)
    ]
    return facts, pa.Table.from_pylist(rows, NAME_SCHEMA)


def _strings(batch: Any, column: str) -> list[str | None]:
    found: list[str | None] = batch.column(column).to_pylist()
    return found


def add(tally: Tally, names: Iterable[str], sizes: Iterable[int]) -> None:
    """Count documents and bytes by name."""
    for name, size in zip(names, sizes, strict=True):
        counts = tally.setdefault(name, [0, 0])
        counts[0] += 1
        counts[1] += size


def largest(tally: Mapping[str, list[int]], limit: int) -> list[tuple[str, list[int]]]:
    """The `limit` names with the most documents, the rest together as OTHER; by documents, then by name."""
    ranked = sorted(tally.items(), key=lambda item: (-item[1][0], item[0]))
    rest = ranked[limit:]
    if not rest:
        return ranked
    return [*ranked[:limit], (OTHER, [sum(counts[part] for _, counts in rest) for part in (0, 1)])]


# Adding up -----------------------------------------------------------------------------------------------------------


def added_up(shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several shards together; quotes are the QUOTES smallest by `sample_key` of all."""
    whole: dict[str, Any] = {
        **dict.fromkeys(("documents", "bytes", "words", "agreeing"), 0),
        "lengths": np.zeros((len(LENGTH_EDGES) + 1, 2), np.int64),
        "languages": {},
        "audited": {},
        "years": {},
        "demonstrations": {kind.name: {"documents": 0, "occurrences": 0} for kind in DEMONSTRATIONS},
        "quotes": {kind.name: [] for kind in DEMONSTRATIONS},
    }
    for shard in shards:
        for key in ("documents", "bytes", "words", "agreeing"):
            whole[key] += shard[key]
        whole["lengths"] += np.array(shard["lengths"], np.int64)
        for key in ("languages", "audited", "years"):
            for name, (documents, size) in shard[key].items():
                counts = whole[key].setdefault(name, [0, 0])
                counts[0] += documents
                counts[1] += size
        for name, counts in shard["demonstrations"].items():
            for key, number in counts.items():
                whole["demonstrations"][name][key] += number
        for name, quotes in shard["quotes"].items():
            whole["quotes"][name] = heapq.nsmallest(
                QUOTES, [*whole["quotes"][name], *quotes], key=lambda quote: sample_key(quote["id"])
            )
    return whole


def length_percentile(lengths: Any, share: float) -> int:
    """About how many words the document at `share` of all has: the lower edge of its cell, a quarter of an octave."""
    counts = np.asarray(lengths)[:, 0]
    if not counts.sum():
        return 0
    cell = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return 0 if cell == 0 else LENGTH_EDGES[cell - 1]


def length_octaves(lengths: Any) -> list[tuple[str, int, int]]:
    """(words from, documents, bytes) in powers of two, from the first to the last that has documents."""
    cells = np.asarray(lengths)
    rows = [("under 4", int(cells[0, 0]), int(cells[0, 1]))]
    for start in range(1, len(LENGTH_EDGES) + 1, 4):
        part = cells[start : start + 4].sum(axis=0)
        rows.append((f"{LENGTH_EDGES[start - 1]:,}", int(part[0]), int(part[1])))
    used = [index for index, row in enumerate(rows) if row[1]]
    return rows[used[0] : used[-1] + 1] if used else []


# Posts and tokens ----------------------------------------------------------------------------------------------------


def karma_months(path: Path) -> Any:
    """webtext.links.karma_by_month of one file of keyed submissions."""
    from webtext import links

    months = links.karma_by_month(KEYED_SCHEMA.empty_table())
    for batch in storage.read_batches(path, ["created_at", "karma"], 1 << 18):
        months = links.summed([months, links.karma_by_month(pa.Table.from_batches([batch]))])
    return months


def score_ages(path: Path) -> Any:
    """webtext.links.score_age_histogram of one file of selected links."""
    from webtext import links

    ages = links.score_age_histogram(LINK_SCHEMA.empty_table())
    counts = np.zeros(ages.num_rows, np.int64)
    for batch in storage.read_batches(path, ["score_age_seconds"], 1 << 18):
        counts += links.score_age_histogram(pa.Table.from_batches([batch])).column("links").to_numpy()
    return ages.set_column(1, ages.schema.field("links"), pa.array(counts))


def token_usage(path: Path, size: int, header_bytes: int, dtype: Any) -> Any:
    """How often each id occurs in the tokens of one shard: uint64[size]."""
    counts = np.zeros(size, np.uint64)
    if path.stat().st_size <= header_bytes:
        return counts
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=header_bytes)
    for start in range(0, len(tokens), 1 << 24):
        counts += np.bincount(tokens[start : start + (1 << 24)], minlength=size).astype(np.uint64)
    return counts


def batches_of(texts: Iterator[Any], budget_bytes: int) -> Iterator[Any]:
    """Arrow string arrays from `texts` until `budget_bytes` of text have passed; the last one is cut."""
    left = budget_bytes
    for array in texts:
        sizes = np.cumsum(pc.binary_length(array).to_numpy(zero_copy_only=False))
        fit = int(np.searchsorted(sizes, left, side="right"))
        if fit < len(array):
            if fit:
                yield array.slice(0, fit)
            return
        left -= int(sizes[-1]) if len(sizes) else 0
        yield array
