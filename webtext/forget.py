"""Take pages out of pages/ for good: captures, ledgers, plans and indexes, as if they had never been fetched.

- A ledger row keeps its id and gets the outcome `removed`: plans and ledgers stay parallel, row for row. Everything
  else that it said is gone.
- Captures are cut out of a segment's WARC by copying the members around them into a WARC of another name; the ledger
  then points there, and the old file goes last. Killed at any moment, calling it again ends the work.
- Segments under way are sealed first; what they had not settled is pending, and planned anew by the next build.
- Archives that the user gave are the user's: only our indexes of them are cut.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from webtext import pages
from webtext.fetch import FetchSettings
from webtext.pages import LEDGER_SCHEMA, PLAN_SCHEMA, Publish

REMOVED: Final = "removed"
_KEPT: Final = frozenset({"id", "outcome", "attempts"})  # of a removed row


@dataclass(slots=True)
class Forgotten:
    """What was taken out."""

    rows: int = 0  # of ledgers
    captures: int = 0  # from our own WARC files
    payloads: set[str] = field(default_factory=set)  # SHA-256 of what they held
    urls: set[str] = field(default_factory=set)  # that they named


def ids_of(directory: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Ids of pages whose requested or final URL is `wanted`."""
    for segment in pages.sealed_segments(directory):
        for row in pages.read_ledger(segment, ["id", "url", "final_url"]).to_pylist():
            if any(url and wanted(url) for url in (row["url"], row["final_url"])):
                yield row["id"]


def forget(directory: Path, ids: Collection[str], settings: FetchSettings, *, publish: Publish) -> Forgotten:
    """Take the pages `ids` out of the pages in `directory`; nobody else may work there. Safe to call again."""
    found = Forgotten()
    if not directory.is_dir():
        return found
    gone = pa.array(sorted(ids), pa.string())
    _seal_open(directory, settings, publish)
    for segment in pages.sealed_segments(directory):
        _forget_in_segment(segment, gone, found, publish)
    for plan in pages.plan_files(directory):
        _forget_in_plan(plan, gone, found, publish)
    return found


def forget_in_indexes(cache: Path, ids: Collection[str], *, publish: Publish) -> int:
    """Take `ids` out of the indexes of archives below `cache`; the number of entries that went.

    A file keeps its name, which stands for the archive's content: the index is what we know of it, no longer all.
    """
    gone = pa.array(sorted(ids), pa.string())
    total = 0
    for path in sorted(cache.glob("*.arrow")):
        with pa.OSFile(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        hit = pc.is_in(table["id"], value_set=gone)
        count = pc.sum(hit).as_py() or 0
        if count:
            temporary = path.with_suffix(".tmp")
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.filter(pc.invert(hit)), max_chunksize=65_536)
            publish(temporary, path)
            total += count
    return total


class _NoArchives:
    """An index that knows nothing: a segment that is sealed here takes up no more captures."""

    def find(self, ids: Sequence[str], created_at: Sequence[int | None] | None = None) -> list[None]:
        return [None] * len(ids)


def _seal_open(directory: Path, settings: FetchSettings, publish: Publish) -> None:
    opened = directory / "open"
    numbers = {int(path.name.split(".")[0].removeprefix("segment-")) for path in opened.glob("segment-*")}
    numbers |= {int(path.name.split(".")[0].removeprefix("segment-")) for path in directory.glob("segment-*.warc.gz")}
    numbers -= {segment.number for segment in pages.sealed_segments(directory)}
    # As with the network on: what is left over is pending, not absent from archives.
    networked = dataclasses.replace(settings, network=True, contact=settings.contact or "https://example.org/")
    for plan in pages.plan_files(directory) if numbers else []:
        file = pq.ParquetFile(plan, page_checksum_verification=True)
        first = int(plan.stem.removeprefix("plan-"))
        for number in sorted(numbers & set(range(first, first + file.num_row_groups))):
            rows = file.read_row_group(number - first).to_pylist()
            segment = pages._OpenSegment(directory, number, rows, _NoArchives(), networked)  # type: ignore[arg-type]
            segment.seal(publish)


def _forget_in_segment(segment: pages.Segment, gone: pa.Array, found: Forgotten, publish: Publish) -> None:
    directory = segment.ledger.parent
    ledger = pages.read_ledger(segment)
    hit = pc.and_(pc.is_in(ledger["id"], value_set=gone), pc.not_equal(ledger["outcome"], REMOVED))
    count = pc.sum(hit).as_py() or 0
    rows = ledger.to_pylist()
    if count:
        leaving = [row for row, out in zip(rows, hit.to_pylist(), strict=True) if out]
        found.rows += count
        for row in leaving:
            found.urls |= {url for url in (row["url"], row["final_url"], row["canonical_url"]) if url}
            if row["payload_sha256"]:
                found.payloads.add(row["payload_sha256"])
        ours = {row["warc"] for row in leaving if row["warc"] and row["source"] != "archive"}
        assert len(ours) <= 1, f"{segment.name} has captures in {sorted(ours)}"
        moved: dict[int, int] = {}
        old = next(iter(ours), None)
        new = None
        if old is not None:
            new = _next_name(segment.name, old)
            lost = {row["offset"] for row in leaving if row["warc"] == old}
            moved = _cut(directory / old, directory / new, lost, _offsets(rows, old), publish)
            found.captures += len(lost)
        for row, out in zip(rows, hit.to_pylist(), strict=True):
            if out:
                row.update(dict.fromkeys(LEDGER_SCHEMA.names) | {"id": row["id"], "url": "", "outcome": REMOVED})
                row["attempts"] = 0
            elif old is not None and row["warc"] == old and row["source"] != "archive":
                row["warc"], row["offset"] = new, moved[row["offset"]]
        _publish_table(pa.Table.from_pylist(rows, LEDGER_SCHEMA), segment.ledger, publish)
    pointed = {row["warc"] for row in rows if row["warc"] and row["source"] != "archive"}
    content = segment.ledger.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != segment.ledger_sha256:  # also where an earlier call was killed here
        seal = {
            "rows": len(rows),
            "ledger_sha256": digest,
            "outcomes": dict(sorted(Counter(row["outcome"] for row in rows).items())),
            "warc": bool(pointed),
        }
        final = directory / f"{segment.name}.json"
        temporary = final.with_name(f"{final.name}.tmp")
        temporary.write_text(json.dumps(seal, indent=1) + "\n")
        publish(temporary, final)
    for path in directory.glob(f"{segment.name}.*warc.gz"):
        if path.name not in pointed:
            path.unlink()


def _offsets(rows: Sequence[dict[str, Any]], warc: str) -> list[int]:
    """Where the captures of a WARC begin, ascending."""
    return sorted(row["offset"] for row in rows if row["warc"] == warc and row["source"] != "archive")


def _next_name(segment: str, old: str) -> str:
    """segment-000007.warc.gz -> segment-000007.1.warc.gz -> segment-000007.2.warc.gz"""
    middle = old.removeprefix(segment).removesuffix(".warc.gz").lstrip(".")
    return f"{segment}.{int(middle or 0) + 1}.warc.gz"


def _cut(old: Path, new: Path, lost: Collection[int], offsets: Sequence[int], publish: Publish) -> dict[int, int]:
    """Copy a WARC without the captures at the offsets `lost`; old offset -> new offset of the others."""
    ends = [*offsets[1:], old.stat().st_size]
    moved: dict[int, int] = {}
    temporary = new.with_name(f"{new.name}.tmp")
    with old.open("rb") as source, temporary.open("wb") as target:
        target.write(source.read(offsets[0]))  # the warcinfo record
        for start, end in zip(offsets, ends, strict=True):
            if start not in lost:
                moved[start] = target.tell()
                source.seek(start)
                target.write(source.read(end - start))
    publish(temporary, new)
    return moved


def _forget_in_plan(plan: Path, gone: pa.Array, found: Forgotten, publish: Publish) -> None:
    """Blank the URLs of planned links; the rows stay, so that plans and ledgers agree row for row."""
    file = pq.ParquetFile(plan, page_checksum_verification=True)
    groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
    file.close()
    touched = False
    for number, group in enumerate(groups):
        hit = pc.and_(pc.is_in(group["id"], value_set=gone), pc.not_equal(group["url"], ""))
        if pc.any(hit).as_py():
            touched = True
            found.urls |= set(group["url"].filter(hit).to_pylist())
            blank = {"url": pc.if_else(hit, "", group["url"])}
            blank["created_at"] = pc.if_else(hit, pa.scalar(None, pa.int64()), group["created_at"])
            groups[number] = pa.table({name: blank.get(name, group[name]) for name in PLAN_SCHEMA.names}, PLAN_SCHEMA)
    if touched:
        temporary = plan.with_suffix(".parquet.tmp")
        with pq.ParquetWriter(temporary, PLAN_SCHEMA, **pages._PARQUET) as writer:
            for group in groups:
                writer.write_table(group)
        publish(temporary, plan)


def _publish_table(table: pa.Table, final: Path, publish: Publish) -> None:
    temporary = final.with_name(f"{final.name}.tmp")
    pq.write_table(table, temporary, **pages._PARQUET)
    publish(temporary, final)
