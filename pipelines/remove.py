"""webtext remove: documents leave everything that a build has made, and stay out of everything that it will make.

    webtext remove https://example.com/page other.example t3_1ab022

- A URL (in any spelling), a domain (with its subdomains), a post or an id is turned into the ids of pages: all that a
  submission of it, a requested or a final URL leads to. What is written down for later builds, in `removals.txt` under
  the root, are ids, domains and posts: never the URL.
- links/ and pages/ cannot be made again cheaply, so rows and captures are taken out of them where they lie: dumps are
  not read again, and nothing is fetched. Everything after them follows by the ordinary fingerprints: documents,
  signatures, verdicts, corpus, tokenizer, tokens, overlap, reports.
- What stays is an id with the reason `removal` or `removed`, so that the funnel still adds up to the last link.
- Killed at any moment, the same command again ends the work.
- Dumps and archives named in the settings are the user's: they are not changed. Models trained before are not either.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import steps, storage
from pipelines.build import ARCHIVE_INDEX, GRAPH, Build
from pipelines.engine import LocalEngine
from pipelines.stage import JOURNAL, SEAL, Record, StageError, read_seal, record_from, record_to, sealed_records
from webtext.records import DROP_SCHEMA, SUBMISSION_SCHEMA, drop_batch

log = logging.getLogger("webtext.build")


@dataclass(slots=True)
class Removed:
    """What a removal found and took out."""

    ids: frozenset[str] = frozenset()
    submissions: int = 0
    captures: int = 0  # from our own WARC files
    ledger_rows: int = 0
    index_entries: int = 0
    documents: int = 0  # texts that were there
    copies: frozenset[str] = frozenset()  # pages with the same text elsewhere, which stay unless asked for
    urls: set[str] = field(default_factory=set)


def read_entries(entries: Sequence[str]) -> Any:
    """webtext.reddit.Removals from what the user wrote; ValueError for what is no URL, domain, post or id."""
    from webtext import reddit

    with tempfile.TemporaryDirectory(prefix="webtext-remove-") as folder:
        path = Path(folder) / "removals"
        path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
        return reddit.read_removals([path])


def resolve(build: Build, entries: Sequence[str], *, copies: bool = False) -> tuple[Any, Removed]:
    """The removals that `entries` stand for, with the ids of every page they lead to. Changes nothing."""
    from webtext import forget, urls

    asked = read_entries(entries)
    if not asked:
        raise ValueError("remove: expected URLs, domains, posts (t3_...) or ids, got none")
    ids = set(asked.ids)
    found = Removed()
    for path in submission_files(build.root):
        for batch in storage.read_batches(path, ["url", "post_id"]):
            for url, post_id in zip(*(batch.column(name).to_pylist() for name in ("url", "post_id")), strict=True):
                if steps.is_removed(url, post_id, asked):
                    found.submissions += 1
                    found.urls.add(url)
                    try:
                        ids.add(urls.document_id(urls.canonical_url(url)))
                    except ValueError:
                        continue
    by_url = dataclasses.replace(asked, ids=frozenset(ids), post_ids=frozenset())
    if (build.root / "pages").is_dir():
        ids |= set(forget.ids_of(build.root / "pages", lambda url: by_url.reason(url) is not None))
    same = _copies(build, ids)
    if copies:
        ids |= same
    else:
        found.copies = frozenset(same)
    found.ids = frozenset(ids)
    for path in sorted((build.root / "documents").glob("segment-*.parquet")):
        found.documents += len(ids & set(storage.read_table(path, ["id"]).column("id").to_pylist()))
    return dataclasses.replace(asked, ids=found.ids), found


def _copies(build: Build, ids: set[str]) -> set[str]:
    """Other pages that deduplication found to have the same text as one of `ids`, or nearly."""
    path = build.root / "dedup" / "verdicts.parquet"
    if not path.is_file():
        return set()
    rows = storage.read_table(path, ["id", "duplicate_of"]).to_pylist()
    first = {row["id"]: row["duplicate_of"] or row["id"] for row in rows}
    groups = {first[id] for id in ids if id in first}
    return {id for id, kept in first.items() if kept in groups} - ids


def submission_files(root: Path) -> list[Path]:
    """The sealed tables of links/."""
    return [
        root / "links" / record.file(f"{record.name}.parquet").name
        for record in sealed_records(root / "links").get("collect", [])
    ]


def remove(build: Build, entries: Sequence[str], engine: LocalEngine, *, copies: bool = False) -> Removed:
    """Take out what `entries` name, then make anew what depends on it. The caller holds the root's lock."""
    from webtext import forget

    removals, found = resolve(build, entries, copies=copies)
    _remember(build, removals)
    _purge_submissions(build, removals)
    pages = build.root / "pages"
    forgotten = forget.forget(pages, found.ids, build.settings["fetch"], publish=storage.publish)
    found.captures, found.ledger_rows = forgotten.captures, forgotten.rows
    found.urls |= forgotten.urls
    found.index_entries = forget.forget_in_indexes(pages / ARCHIVE_INDEX, found.ids, publish=storage.publish)
    _purge_killed(build, forgotten.payloads)
    rebuild(build, engine)
    scrub_logs(build.logs, found.urls)
    return found


def rebuild(build: Build, engine: LocalEngine) -> None:
    """Every stage that had been built, as it is now. Fetches nothing."""
    for name in GRAPH:
        if not (build.root / name / SEAL).exists() and not (build.root / name / JOURNAL).exists():
            continue
        build.take_pages_as_they_are()
        if any(build.records(one) is None for one in GRAPH[name]):
            raise StageError(
                f"{name}: expected what it reads to be built, found it is not; run BuildCorpus, it goes on"
            )
        build.stage(name).run(engine)


def _remember(build: Build, removals: Any) -> None:
    """Add to the list that every later build of this root honours."""
    path = build.removals_file
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = {line for line in before if line and not line.startswith("#")}
    lines |= removals.ids | removals.domains | {f"t3_{post}" for post in removals.post_ids}
    head = "# Taken out by `webtext remove`: ids of pages, domains, posts. Later builds leave them out too."
    storage.write_text(path, "".join(f"{line}\n" for line in (head, *sorted(lines))))


def _purge_submissions(build: Build, removals: Any) -> None:
    """Move removed submissions from the tables of links/ to their drops, without reading a dump again.

    The seal loses the units that change before their files do, and gets them back after: killed in between, the next
    build collects these sources again, which gives the same files.
    """
    folder = build.root / "links"
    seal = read_seal(folder)
    if seal is None:
        return
    for phase in seal["phases"]:
        for name, value in list(phase["units"].items()):
            record = record_from(value)
            table = storage.read_table(folder / record.file(f"{name}.parquet").name)
            kept, drops = steps.without_removed(table, removals)
            if not drops:
                continue
            del phase["units"][name]
            storage.write_json(folder / SEAL, seal)
            phase["units"][name] = record_to(_rewritten(folder, record, kept, drops))
            storage.write_json(folder / SEAL, seal)


def _rewritten(folder: Path, record: Record, kept: Any, drops: Sequence[Any]) -> Record:
    """A record of links/ whose table is now `kept` and whose drops have `drops` too."""
    old = storage.read_table(folder / record.file("drops-").name)
    new = pa.concat_tables([old, pa.Table.from_batches([drop_batch("links", list(drops))])])
    files = []
    for file in record.files:
        with storage.writing(folder / file.name) as temporary:
            if file.name.startswith("drops-"):
                rows = storage.write_parquet(temporary, DROP_SCHEMA, [new])
            else:
                rows = storage.write_parquet(temporary, SUBMISSION_SCHEMA, [kept])
            size = temporary.stat().st_size
            files.append(dataclasses.replace(file, sha256=storage.sha256_of(temporary), size_bytes=size, rows=rows))
    counts = {**record.counts, "links": kept.num_rows}
    dropped = {**record.drops, "removal": record.drops.get("removal", 0) + len(drops)}
    return dataclasses.replace(record, files=tuple(files), counts=counts, drops=dict(sorted(dropped.items())))


def _purge_killed(build: Build, payloads: set[str]) -> None:
    """Take verdicts about removed captures out of documents/killed.jsonl."""
    path = build.root / "documents" / steps.KILLED
    if not payloads or not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not any(payload in line for payload in payloads)]
    if len(kept) != len(lines):
        storage.write_text(path, "".join(kept))


def scrub_logs(folder: Path, urls: set[str]) -> int:
    """Replace removed URLs below logs/, where nothing of a page's text ever is; how many there were."""
    if not urls or not folder.is_dir():
        return 0
    pattern = re.compile("|".join(re.escape(url) for url in sorted(urls, key=lambda url: (-len(url), url))))
    total = 0
    for path in _files(folder):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        cleaned, count = pattern.subn("[removed]", text)
        if count:
            total += count
            with path.open("r+", encoding="utf-8", errors="surrogateescape") as stream:  # it may be open for appending
                stream.write(cleaned)
                stream.truncate()
                stream.flush()
                os.fsync(stream.fileno())
    return total


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
