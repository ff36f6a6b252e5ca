"""A look before a long job: links, pages, hours, disk and memory per stage, from a sample. Changes nothing.

- Dumps and archives are read from their beginnings: `share` of each file, at least `MIN_SAMPLE_BYTES`. Counts are
  scaled by bytes of the files as they lie on disk.
- Links are posted again: of the distinct ones there are fewer in all than a sample scaled up would have. How they grow
  from half of the sample to all of it says how they go on growing (Heaps' law).
- The links of the sample that the sampled captures answer, scaled by both shares, are the pages of an offline build.
- A few hundred of these pages go through the parser, the filters and the signatures, with a clock: rates and sizes
  per page are measured here and now, on this machine, with these settings.
- Measured against a build of 300,000 posts and 10,000 pages, from a third of its dumps and a twentieth of its archive:
  links 6% too many, pages and texts 3%, disk 7%, processor time 8%; tokens a third too many, a seventh of them because
  duplicates were still among the documents.
- What a sample cannot see is said: how many near-duplicates there are shows only when all is there, so they count as
  documents; the network's speed is taken from the politeness settings.
"""

from __future__ import annotations

import math
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.build import Build, expand
from pipelines.documents import document_batch
from pipelines.engine import physical_memory_bytes

MIN_SAMPLE_BYTES = 16 << 20
MAX_SAMPLE_BYTES = 1 << 30  # over all files of a kind
SAMPLE_PAGES = 400
NETWORK_OK = 0.6  # of links of the early years that still lead to a page; reference: two thirds of 2015's are alive
NETWORK_PAGE_BYTES = 25_000  # a compressed page and its headers in a WARC
BYTES_PER_TOKEN = 4.4  # of English under GPT-2's vocabulary; fewer under a smaller one, as its logarithm
GPT2_VOCABULARY = 50_257


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage is expected to take."""

    stage: str
    what: str  # "1,234 links"
    count: float
    seconds: float
    disk_bytes: float  # that stay
    memory_bytes: float
    scratch_bytes: float = 0.0  # that are there while it works: the map side of a shuffle


@dataclass(slots=True)
class Plan:
    """The stages in order, and what the sample could not know."""

    stages: list[StagePlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sampled: str = ""

    @property
    def disk_bytes(self) -> float:
        """The most that lies on the disk at any time."""
        held = peak = 0.0
        for stage in self.stages:
            held += stage.disk_bytes
            peak = max(peak, held + stage.scratch_bytes)
        return peak

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def count(self, stage: str) -> float:
        return next(one.count for one in self.stages if one.stage == stage)


def free_bytes(root: Path) -> int:
    """Room on the disk that `root` is, or would be, on."""
    existing = root.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def check_disk(build: Build) -> None:
    """ValueError where a first build would not fit on the disk. Costs a small sample; nothing once one has begun."""
    if (build.root / "selected").exists():
        return
    needed = make_plan(build, share=0.002, pages=60).disk_bytes
    free = free_bytes(build.root)
    if needed > free:
        raise ValueError(
            f"[corpus] root: expected about {needed / 1e9:,.1f} GB free for this build, got {free / 1e9:,.1f} GB at "
            f"{build.root}: {(needed - free) / 1e9:,.1f} GB too little; choose another disk (details: webtext plan)"
        )


def make_plan(build: Build, *, share: float = 0.01, pages: int = SAMPLE_PAGES) -> Plan:
    """The plan of a build with these settings, from `share` of its sources and `pages` pages."""
    plan = Plan()
    settings = build.settings
    workers = settings["engine"].workers_for(1 << 30)
    with tempfile.TemporaryDirectory(prefix="webtext-plan-") as name:
        scratch = Path(name)
        links = _sample_links(build, share, scratch)
        found = _sample_archives(build, share, links, pages)
        documents = _sample_documents(build, found.pages)
    scale = 1 / links.share
    growth = scale**links.exponent
    submissions, selected = links.submissions * scale, links.unique * growth
    archived = found.matches * scale**found.exponent / found.share if found.share else 0.0
    network = 0.0
    fetching = 0.0
    if settings["fetch"].network:
        network = (selected - archived) * NETWORK_OK
        fetching = _network_seconds(selected - archived, links.hosts * growth, settings["fetch"])
        plan.notes.append(
            f"network: {NETWORK_OK:.0%} of links are taken to answer, at {settings['fetch'].concurrency} connections "
            f"and {settings['fetch'].per_host_delay_seconds:g} s a host"
        )
    fetched = archived + network
    texts = fetched * documents.extracted
    kept = texts * documents.kept
    text_bytes = kept * documents.text_bytes
    vocabulary = settings["tokenizer"].vocab_size
    tokens = text_bytes / (BYTES_PER_TOKEN * math.log(vocabulary) / math.log(GPT2_VOCABULARY))
    shards = settings["corpus"].num_shards
    permutations = settings["minhash"].permutations
    cores = max(1, workers)

    def add(
        stage: str, what: str, count: float, seconds: float, disk: float, memory: float, scratch: float = 0.0
    ) -> None:
        plan.stages.append(StagePlan(stage, what, count, seconds, disk, memory, scratch))

    add("links", "submissions", submissions, links.read_seconds * scale / cores, links.links_bytes * scale, 3e8 * cores)
    add("selected", "links", selected, links.key_seconds * scale / cores, links.selected_bytes * scale, 5e8 * cores)
    ledger = selected * 110
    index = found.captures / found.share * 210 if found.share else 0.0
    add(
        "pages",
        "pages",
        fetched,
        found.read_seconds / found.share + fetching if found.share else fetching,
        ledger + index + network * NETWORK_PAGE_BYTES,
        3e8 + selected * 60,
    )
    add(
        "documents",
        "texts",
        texts,
        fetched * documents.extract_seconds / cores,
        texts * (documents.stored_bytes + 120),
        1.2e9 * cores,
    )
    add("filtered", "documents", kept, texts * documents.filter_seconds / cores, texts * 35, 5e8 * cores)
    signatures = texts * (4 * permutations + 36)
    add("dedup", "documents", kept, texts * documents.sign_seconds / cores, signatures + kept * 110, 5e8 + kept * 600)
    add("corpus", "documents", kept, kept * 2e-5, kept * (documents.stored_bytes + 150), 5e8 * cores)
    # A shard's distinct pieces grow as the 0.6th power of its text (Heaps' law; 290 KB of counts for 7.5 MB).
    counts = shards * 22 * (text_bytes / shards) ** 0.6
    add("tokenizer", "pieces", tokens / 20, text_bytes / 25e6 / cores, counts + vocabulary * 110, 1.5e9 * cores)
    add("tokens", "tokens", tokens, text_bytes / 25e6 / cores, tokens * 2 + kept * 20, 5e8 * cores, tokens * 2)
    add("overlap", "n-grams", text_bytes / 5, text_bytes / 20e6 / cores, text_bytes * 0.08, 1e9 * cores)
    add("report", "reports", 1, 5 + text_bytes / 50e6 / cores, 3e5 + shards * 4e4, 5e8)
    plan.sampled = (
        f"{links.submissions:,} of about {submissions:,.0f} submissions, {found.captures:,} captures, "
        f"{documents.pages:,} pages parsed"
    )
    if documents.pages < 30:
        plan.notes.append(f"only {documents.pages} pages were there to parse; sizes and rates of text are rough")
    plan.notes.append("near-duplicates cannot be seen in a sample: the corpus will be smaller by them")
    return plan


# Links ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Links:
    share: float  # of the sources' bytes that was read
    submissions: int = 0
    unique: int = 0
    exponent: float = 1.0  # distinct links grow as the submissions to the power of this
    hosts: int = 0
    read_seconds: float = 0.0
    key_seconds: float = 0.0
    links_bytes: float = 0.0  # tables of links/, of the sample
    selected_bytes: float = 0.0
    ids: set[str] = field(default_factory=set)
    half_ids: set[str] = field(default_factory=set)  # of these, what every other submission leads to


def _sample_links(build: Build, share: float, scratch: Path) -> _Links:
    """Read the beginnings of the sources, key and aggregate what is in them."""
    from webtext import links, reddit
    from webtext.records import DROP_SCHEMA, KEYED_SCHEMA, SUBMISSION_SCHEMA

    sources, select = build.settings["links"], build.settings["select"]
    removals = reddit.read_removals(list(expand(sources.removals, "[links] removals")))
    rules = links.url_rules(select)
    dumps = list(expand(sources.dumps, "[links] dumps"))
    lists = list(expand(sources.url_lists, "[links] url_lists"))
    total = sum(path.stat().st_size for path in dumps) or 1
    portions = _portions(dumps, share)
    found = _Links(share=sum(portions) / total if dumps else 1.0)
    keyed: list[Any] = []
    batches: list[Any] = []
    drops: list[Any] = []

    def take(batch: Any) -> None:
        found.submissions += batch.submissions.num_rows + batch.drops.num_rows
        batches.append(batch.submissions)
        drops.append(batch.drops)

    for number, (path, size) in enumerate(zip(dumps, portions, strict=True)):
        part = scratch / f"{number}-{path.name}"
        with path.open("rb") as source, part.open("wb") as target:
            for start in range(0, size, 1 << 20):
                target.write(source.read(min(1 << 20, size - start)))
        started = time.process_time()
        for batch in reddit.read_dump(part):
            take(batch)
        found.read_seconds += time.process_time() - started
        part.unlink()
    for path in lists:
        for batch in reddit.read_url_list(path):
            take(batch)
    found.links_bytes = _stored(scratch, SUBMISSION_SCHEMA, batches) + _stored(scratch, DROP_SCHEMA, drops)
    drops.clear()
    started = time.process_time()
    for batch in batches:
        good, dropped = links.key_submissions(batch, select, removals, rules=rules)
        keyed.append(good)
        drops.append(dropped)
    selected, dropped = links.aggregate(pa.Table.from_batches(keyed, KEYED_SCHEMA), select)
    drops.append(dropped)
    found.key_seconds = time.process_time() - started
    found.selected_bytes = sum(
        _stored(scratch, schema, tables)
        for schema, tables in ((KEYED_SCHEMA, keyed), (DROP_SCHEMA, drops), (selected.schema, [selected]))
    )
    found.unique = selected.num_rows
    posted = [id for batch in keyed for id in batch.column("id").to_pylist()]
    half = set(posted[::2])
    found.exponent = _exponent(len(half), len(set(posted)))
    found.ids = set(selected.column("id").to_pylist())
    found.half_ids = found.ids & half
    found.hosts = len(set(selected.column("domain").to_pylist()))
    return found


def _exponent(half: int, whole: int) -> float:
    """How a number grows with the sample, from what half of it and all of it gave: 1 in proportion, 0 not at all."""
    return min(1.0, math.log2(whole / half)) if half else 1.0


def _stored(folder: Path, schema: Any, batches: Sequence[Any]) -> int:
    """Bytes of a table as a build stores it."""
    path = folder / "table.parquet"
    rows = storage.write_parquet(path, schema, batches)
    return path.stat().st_size if rows else 0


def _portions(paths: Sequence[Path], share: float) -> list[int]:
    """How many bytes of each file to read: `share` of it, within the bounds on samples."""
    sizes = [path.stat().st_size for path in paths]
    wanted = [min(size, max(MIN_SAMPLE_BYTES, int(size * share))) for size in sizes]
    over = sum(wanted) / MAX_SAMPLE_BYTES
    return [int(size / over) for size in wanted] if over > 1 else wanted


# Pages ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Archives:
    share: float = 0.0
    captures: int = 0
    matches: int = 0
    exponent: float = 1.0  # of the links that archives answer: these are posted more often than the others
    read_seconds: float = 0.0
    pages: list[Any] = field(default_factory=list)


def _sample_archives(build: Build, share: float, links: _Links, pages: int) -> _Archives:
    """Read the beginnings of the archives; which of the sampled links do they answer?"""
    from webtext import archives, urls
    from webtext.pages import archive_paths
    from webtext.records import Page

    fetch = build.settings["fetch"]
    paths = [Path(path) for path in archive_paths(fetch)]
    found = _Archives()
    if not paths:
        return found
    portions = _portions(paths, share)
    found.share = sum(portions) / sum(path.stat().st_size for path in paths)
    matched: set[str] = set()
    started = time.process_time()
    for path, size in zip(paths, portions, strict=True):
        for capture in archives.read_captures(path):
            if capture.offset >= size:
                break
            if isinstance(capture, archives.Damage):
                continue
            found.captures += 1
            try:
                id = urls.document_id(urls.canonical_url(capture.url))
            except ValueError:
                continue
            if id not in links.ids or id in matched:
                continue
            judged = archives.judge(capture, fetch.max_decoded_bytes)
            if judged.outcome != "ok":
                continue
            matched.add(id)
            if len(found.pages) < pages:
                found.pages.append(
                    Page(id, capture.url, capture.url, capture.content_type, judged.payload, judged.payload_sha256, 0)
                )
    found.read_seconds = time.process_time() - started
    found.matches = len(matched)
    found.exponent = _exponent(len(matched & links.half_ids), len(matched))
    return found


def _network_seconds(links: float, hosts: float, fetch: Any) -> float:
    """Seconds to ask `links` pages of `hosts` hosts: bounded by connections, and by the delay at the largest host."""
    by_connections = links * 2.0 / fetch.concurrency  # two seconds an answer is usual
    largest = links * 0.02  # the largest host of WebText had 2% of its links
    by_host = max(largest, links / max(1.0, hosts)) * (fetch.per_host_delay_seconds + 0.5)
    return float(max(by_connections, by_host))


# Documents -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Documents:
    pages: int = 0
    extracted: float = 0.9  # texts a page
    kept: float = 0.7  # documents a text
    text_bytes: float = 4700.0  # WebText: 40 GB in 8 million documents
    stored_bytes: float = 2100.0  # of a text, compressed
    extract_seconds: float = 0.018
    filter_seconds: float = 0.0005
    sign_seconds: float = 0.0001


def _sample_documents(build: Build, pages: Sequence[Any]) -> _Documents:
    """Take the sampled pages as far as signatures, with a clock."""
    from dedup import minhash
    from webtext import extract, quality

    found = _Documents()
    if not pages:
        return found
    settings = build.settings["extract"]
    found.pages = len(pages)
    before = _children_seconds()
    list(extract.extract_pages(pages[:1], settings))
    start = _children_seconds() - before
    documents = [one.document for one in extract.extract_pages(pages, settings) if one.document]
    if len(pages) > 1:  # a parser starts once for thousands of pages
        found.extract_seconds = max(0.0, _children_seconds() - before - 2 * start) / (len(pages) - 1)
    found.extracted = len(documents) / len(pages)
    if not documents:
        return found
    batch = document_batch(documents)
    quality.drop_reasons(batch.slice(0, 1), build.settings["filter"])  # compiles
    started = time.process_time()
    reasons = quality.drop_reasons(batch, build.settings["filter"])
    found.filter_seconds = (time.process_time() - started) / len(documents)
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    found.kept = len(kept) / len(documents)
    started = time.process_time()
    minhash.sign(batch.column("text"), build.settings["minhash"])
    found.sign_seconds = (time.process_time() - started) / len(documents)
    sizes = np.array([document.num_bytes for document in documents], np.float64)
    if kept:
        found.text_bytes = float(sizes[kept].mean())
    with tempfile.TemporaryDirectory(prefix="webtext-plan-") as name:
        path = Path(name) / "documents.parquet"
        storage.write_parquet(path, batch.schema, [batch])
        found.stored_bytes = path.stat().st_size / len(documents)
    return found


def _children_seconds() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Words ---------------------------------------------------------------------------------------------------------------


def rows(plan: Plan) -> Iterator[tuple[str, str, str, str, str]]:
    """(stage, what it makes, time, disk, memory) as text."""
    for stage in plan.stages:
        yield (
            stage.stage,
            f"{stage.count:,.0f} {stage.what}",
            duration(stage.seconds),
            size(stage.disk_bytes),
            size(stage.memory_bytes),
        )
    peak = max(stage.memory_bytes for stage in plan.stages)
    yield "all", "", duration(plan.seconds), size(plan.disk_bytes), size(peak)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def size(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:,.1f} GB"


def memory_warning(plan: Plan) -> str | None:
    """A line where a stage needs more memory than the machine has."""
    have = physical_memory_bytes()
    worst = max(plan.stages, key=lambda stage: stage.memory_bytes)
    if worst.memory_bytes <= have:
        return None
    wanted = size(worst.memory_bytes)
    return f"{worst.stage} wants {wanted} of memory, this machine has {size(have)}: lower [engine] workers"
