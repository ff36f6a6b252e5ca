"""Pages: links are planned into segments, looked up in archives, fetched, and sealed.

    plan-000000.parquet      which links segments 0, 1, ... hold; one row group per segment; never rewritten
    segment-000000.warc.gz   what the network gave (WARC/1.1), in order of arrival; absent where all came from archives
    segment-000000.parquet   the ledger: one row per planned link, in id order (LEDGER_SCHEMA)
    segment-000000.json      the seal, written last: rows, digest, outcomes
    open/                    WARC and log of segments that are being fetched

- A link is planned once. It is planned again, into a new segment, when there is something new to try: it was never
  tried (`pending`); an archive that now has its page has come; the network is on and only archives were asked so far
  (`not_archived`, or a capture without a page); or a transient failure is left with tries. Its newest row counts.
- `not_archived` is no attempt, and no failure: adding an archive, or turning the network on, takes such links up again.
- A sealed segment never changes. New links, new archives and new tries make new segments.
- Archived pages are ledger rows that point into the archive: nothing is copied. With archives alone every byte here is
  a function of links, archives and settings, whenever the build was killed.
- Captures and log are synced every few seconds, captures first; after a crash both are cut to the last record that both
  hold whole, and the segment goes on.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from webtext import archives, fetch
from webtext.archives import ArchiveDamage, ArchiveIndex, DecodeError, Found
from webtext.commoncrawl import CaptureIndex
from webtext.fetch import FINAL, MAX_ATTEMPTS, TRANSIENT, Fetched, FetchSettings, Job
from webtext.records import Drop, Page

PLAN_SCHEMA: Final = pa.schema(
    [
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("created_at", pa.int64()),  # of the post: the capture nearest to it is taken
        pa.field("attempts", pa.int16(), nullable=False),  # in earlier segments
    ]
)

LEDGER_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),  # requested
        pa.field("final_url", pa.string()),  # null where nothing answered
        pa.field("outcome", pa.string(), nullable=False),  # fetch.FINAL, TRANSIENT or UNTRIED
        pa.field("detail", pa.string()),
        pa.field("source", pa.string()),  # "archive", "commoncrawl", "network"; null if none of them had it
        pa.field("status", pa.int16()),
        pa.field("content_type", pa.string()),
        pa.field("redirect", pa.string()),  # "permanent" (301 and 308 all the way) or "temporary"; null if none
        pa.field("canonical_url", pa.string()),  # as the page states it
        pa.field("opt_out", pa.string()),  # signals seen: "noai,noindex"
        pa.field("payload_sha256", pa.string()),  # of the decoded payload; set where the outcome is "ok"
        pa.field("payload_bytes", pa.int64()),
        pa.field("warc", pa.string()),  # an archive's path as the settings name it, or a file beside this ledger
        pa.field("offset", pa.int64()),
        pa.field("fetched_at", pa.int64()),  # of the capture, not of this build
        pa.field("attempts", pa.int16(), nullable=False),  # by network, in all runs
    ]
)

SYNC_SECONDS: Final = 5.0
MAX_OPEN_SEGMENTS: Final = 12
"""At most this many segments are in memory. Some hosts have links in every segment and are never done with theirs: the
oldest segment is then sealed, and what those hosts still have of it is planned again."""
_OPEN: Final = "open"

Publish = Callable[[Path, Path], None]


class Transport(Protocol):
    """What fetches: `fetch.Fetcher`, or a stand-in in tests."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Fetched | None]:
        """Results in order of arrival, and None at least twice a second. `jobs` is drawn on as room comes free."""
        ...

    def forget(self, segment: int) -> None:
        """Drops the queued jobs of a segment: they will have no result."""
        ...

    def waiting(self) -> Mapping[str, int]:
        """What there is to show: queued links, hosts waiting, connections in use."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed segment."""

    number: int
    name: str
    ledger: Path
    warc: Path | None
    rows: int
    ledger_sha256: str
    outcomes: tuple[tuple[str, int], ...]  # sorted by name


@dataclass(frozen=True, slots=True)
class FetchSummary:
    """What one `update` did."""

    planned: int  # links in all plans, each once
    replanned: int  # links that this run planned again
    sealed: int  # segments that this run sealed
    outcomes: dict[str, int] = field(default_factory=dict)  # of the links that this run settled
    damage: tuple[ArchiveDamage, ...] = ()  # what of the archives could not be read
    stopped: str | None = None  # why some links are left: "stop_after", "asked to stop"


# The stage ------------------------------------------------------------------------------------------------------------


def update(
    directory: Path,
    links: Iterable[pa.RecordBatch],
    settings: FetchSettings,
    *,
    publish: Publish,
    progress: Callable[[dict[str, int]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    transport: Transport | None = None,
    reject: Callable[[str], str | None] | None = None,
    cache: Path | None = None,
) -> FetchSummary:
    """Plans `links`, settles every link that can be settled, and seals the segments.

    `links`: batches with `id` and `url` (and `created_at`, if known), sorted by id, no id twice.
    `publish(temporary, final)` makes a file permanent: synced, renamed, its folder synced.
    `stop` is asked several times a second; once true, open segments are left as they are, for the next run.
    `cache`: a folder for the indexes of archives, default `directory/.archives`.
    `transport` replaces the network in tests. `reject(url)` names why the target of a redirect is not fetched.

    Raises ValueError where the links are not sorted or an archive is no WARC file, and fetch.NetworkDownError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in [*directory.glob("*.tmp"), *(cache or directory / ".archives").glob("*.tmp")]:
        leftover.unlink()
    index = ArchiveIndex.open(
        archive_paths(settings),
        cache or directory / ".archives",
        max_decoded_bytes=settings.max_decoded_bytes,
        publish=publish,
        stop=stop,
    )
    remote = CaptureIndex.open(
        index_paths(settings) if settings.network else (), cache or directory / ".archives", publish=publish, stop=stop
    )
    planned, replanned = _plan(directory, links, index, settings, publish)
    run = _Run(directory, index, remote, settings, publish, progress, stop, planned)
    run.settle((transport or fetch.Fetcher(settings, reject=reject)) if settings.network else None)
    return FetchSummary(
        planned=planned,
        replanned=replanned,
        sealed=run.sealed,
        outcomes=dict(sorted(run.outcomes.items())),
        damage=index.damage,
        stopped=run.stopped,
    )


def archive_paths(settings: FetchSettings) -> tuple[str, ...]:
    """The WARC files that `[fetch] archives` names, sorted, each once. Raises ValueError where a glob names none."""
    return _files("archives", settings.archives, "WARC files")


def index_paths(settings: FetchSettings) -> tuple[str, ...]:
    """The CDXJ files that `[fetch] common_crawl` names."""
    return _files("common_crawl", settings.common_crawl, "CDXJ files")


def _files(key: str, patterns: Iterable[str], what: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (keeps paths as the user wrote them)
        paths = [path for path in paths if Path(path).is_file()]
        if not paths:
            raise ValueError(f"[fetch] {key}: expected {what} at {pattern!r}, found none; check path and glob")
        found.update(dict.fromkeys(paths))
    return tuple(sorted(found))


def archive_stamp(settings: FetchSettings, cache: Path) -> str:
    """A digest of the archives' content as indexed, or "unread" where one has no index yet. Reads no archive.

    The same on every machine for the same archives; changes when an archive is added, changed or taken away.
    """
    digest = hashlib.sha256()
    for path in archive_paths(settings):
        found = archives.cached_index(Path(path), cache, settings.max_decoded_bytes)
        if found is None:
            return "unread"
        digest.update(f"{path}\0{found.stem.rsplit('-', 1)[1]}\n".encode())
    return digest.hexdigest()


# Reading --------------------------------------------------------------------------------------------------------------


def sealed_segments(directory: Path) -> list[Segment]:
    """The sealed segments, by number. Reads one small file each."""
    segments: list[Segment] = []
    for path in sorted(directory.glob("segment-*.json")):
        seal = json.loads(path.read_bytes())
        name = path.stem
        segments.append(
            Segment(
                number=int(name.removeprefix("segment-")),
                name=name,
                ledger=directory / f"{name}.parquet",
                warc=directory / f"{name}.warc.gz" if seal["warc"] else None,
                rows=seal["rows"],
                ledger_sha256=seal["ledger_sha256"],
                outcomes=tuple(sorted(seal["outcomes"].items())),
            )
        )
    return segments


def read_ledger(segment: Segment, columns: list[str] | None = None) -> pa.Table:
    """The segment's ledger (LEDGER_SCHEMA), in id order."""
    return pq.read_table(segment.ledger, columns=columns, page_checksum_verification=True, partitioning=None)


def read_pages(segment: Segment, *, max_decoded_bytes: int = 20_000_000) -> Iterator[Page | Drop]:
    """The segment's pages in id order; a page that is not what the ledger says is a Drop with the reason `damaged`.

    Raises ValueError where a whole archive is missing, which putting it back mends.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for batch in read_ledger(segment).to_batches():
            for row in batch.filter(pc.equal(batch["outcome"], "ok")).to_pylist():
                if row["warc"] not in files:
                    path = Path(row["warc"]) if row["source"] == "archive" else segment.ledger.parent / row["warc"]
                    if len(files) == 64:
                        stack.close()
                        files.clear()
                    try:
                        files[row["warc"]] = stack.enter_context(path.open("rb"))
                    except FileNotFoundError:
                        raise ValueError(
                            f"{path}: expected the archive that {segment.ledger} points to, found no file;"
                            " put it back, or remove pages/ to plan anew"
                        ) from None
                yield _read_page(row, files[row["warc"]], max_decoded_bytes)


def _read_page(row: dict[str, Any], file: BinaryIO, limit: int) -> Page | Drop:
    try:
        capture = archives.read_capture(file, row["offset"])
        payload = archives.decode(capture.body, archives.header(capture.headers, "content-encoding"), limit)
    except DecodeError as error:
        return Drop("damaged", f"{row['warc']}: byte {row['offset']}: {error.outcome}: {error.detail}", row["id"])
    except ValueError as error:
        return Drop("damaged", f"{row['warc']}: {error}", row["id"])
    if hashlib.sha256(payload).hexdigest() != row["payload_sha256"]:
        return Drop("damaged", f"{row['warc']}: byte {row['offset']}: payload has another SHA-256", row["id"])
    return Page(
        id=row["id"],
        url=row["url"],
        final_url=row["final_url"],
        content_type=row["content_type"] or "",
        payload=payload,
        payload_sha256=row["payload_sha256"],
        fetched_at=row["fetched_at"],
    )


OUTCOME_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),  # null: not planned yet
        pa.field("detail", pa.string()),
        pa.field("source", pa.string()),
        pa.field("attempts", pa.int16()),
        pa.field("segment", pa.int32()),
    ]
)


def outcomes(directory: Path, links: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What became of each of `links` (sorted by id): one row each, in their order (OUTCOME_SCHEMA).

    A link in a segment that is not sealed is `pending`. This is where the funnel's rows come from: every link is in it
    exactly once, whatever its number of tries.
    """
    for batch, state in _states(directory, links):
        columns = [
            batch["id"],
            batch["url"],
            pc.if_else(pc.and_(state["planned"], pc.is_null(state["outcome"])), "pending", state["outcome"]),
            state["detail"],
            state["source"],
            state["attempts"],
            state["segment"],
        ]
        yield pa.record_batch(columns, schema=OUTCOME_SCHEMA)


_STATE: Final = {
    "outcome": pa.string(),
    "detail": pa.string(),
    "source": pa.string(),
    "attempts": pa.int16(),
    "segment": pa.int32(),
}


def _states(directory: Path, links: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, dict[str, pa.Array]]]:
    """Each batch of links with the newest state of its rows: `planned`, and null outcomes where not sealed.

    A merge of sorted streams: within a plan, segments follow each other in id order.
    """
    sealed = {segment.number: segment for segment in sealed_segments(directory)}
    plans = [_PlanCursor(path, sealed) for path in plan_files(directory)]
    last = ""
    for batch in links:
        if not batch.num_rows:
            continue
        ids = batch["id"]
        before = pa.concat_arrays([pa.array([last]), ids.slice(0, len(ids) - 1)])
        if not pc.all(pc.less(before, ids)).as_py():
            raise ValueError("selected/: expected links sorted by id, each id once; rebuild SelectLinks")
        last = ids[-1].as_py()
        planned = pa.array([False] * len(ids))
        state = {name: pa.nulls(len(ids), kind) for name, kind in _STATE.items()}
        for plan in plans:
            rows = plan.take_through(last)
            at = pc.index_in(ids, value_set=rows["id"])
            hit = pc.is_valid(at)
            planned = pc.or_(planned, hit)
            for name in _STATE:
                newer = rows[name].combine_chunks().take(at)
                state[name] = pc.if_else(hit, newer, state[name])
        yield batch, {**state, "planned": planned}


class _PlanCursor:
    """The rows of one plan in id order, each with its state."""

    def __init__(self, path: Path, sealed: Mapping[int, Segment]) -> None:
        self._file = pq.ParquetFile(path, page_checksum_verification=True)
        self._sealed = sealed
        self._group = 0
        self._held: pa.Table | None = None

    def take_through(self, last: str) -> pa.Table:
        """The rows not yet taken whose id is at most `last`."""
        parts: list[pa.Table] = []
        while True:
            if self._held is None:
                if self._group == self._file.num_row_groups:
                    break
                self._held = self._read(self._group)
                self._group += 1
            below = pc.less_equal(self._held["id"], last)
            count = pc.sum(below).as_py() or 0
            parts.append(self._held.slice(0, count))
            if count < self._held.num_rows:
                self._held = self._held.slice(count)
                break
            self._held = None
        empty = pa.schema([pa.field("id", pa.string()), *(pa.field(name, kind) for name, kind in _STATE.items())])
        return pa.concat_tables(parts).combine_chunks() if parts else empty.empty_table()

    def _read(self, group: int) -> pa.Table:
        plan = self._file.read_row_group(group, columns=["segment", "id", "attempts"])
        segment = self._sealed.get(plan["segment"][0].as_py())
        if segment is None:
            unknown = {name: pa.nulls(plan.num_rows, _STATE[name]) for name in ("outcome", "detail", "source")}
            table = pa.table({"id": plan["id"], **unknown, "attempts": plan["attempts"], "segment": plan["segment"]})
        else:
            ledger = read_ledger(segment, ["id", "outcome", "detail", "source", "attempts"])
            table = ledger.append_column("segment", plan["segment"])
        return table.cast(pa.schema([pa.field("id", pa.string()), *(pa.field(n, k) for n, k in _STATE.items())]))


# Planning -------------------------------------------------------------------------------------------------------------


def plan_files(directory: Path) -> list[Path]:
    """The plan files, oldest first."""
    return sorted(directory.glob("plan-*.parquet"))


def _plan(
    directory: Path,
    links: Iterable[pa.RecordBatch],
    index: ArchiveIndex,
    settings: FetchSettings,
    publish: Publish,
) -> tuple[int, int]:
    """Writes a plan of the links that have something new to try, if any: (links in all plans, links planned again)."""
    next_segment = _next_segment(directory)
    total = replanned = 0

    def wanted() -> Iterator[pa.Table]:
        nonlocal total, replanned
        for batch, state in _states(directory, links):
            again = _retryable(batch, state, index, settings)
            keep = pc.or_(pc.invert(state["planned"]), again)
            total += batch.num_rows
            replanned += pc.sum(again).as_py() or 0
            created = batch["created_at"] if "created_at" in batch.schema.names else pa.nulls(len(keep), pa.int64())
            columns = {
                "id": batch["id"],
                "url": batch["url"],
                "created_at": created,
                "attempts": pc.fill_null(state["attempts"], 0),
            }
            yield pa.table(columns).filter(keep)

    _write_plan(directory, wanted(), next_segment, settings.segment_links, publish)
    return total, replanned


def _retryable(
    batch: pa.RecordBatch, state: Mapping[str, pa.Array], index: ArchiveIndex, settings: FetchSettings
) -> pa.Array:
    """Which planned and sealed links have something new to try."""
    outcome = state["outcome"]
    settled = pc.fill_null(pc.is_valid(outcome), False)
    missing = pc.and_(settled, pc.fill_null(pc.not_equal(outcome, "ok"), False))
    again = pc.fill_null(pc.equal(outcome, "pending"), False)
    if settings.network:
        archived_only = pc.and_(missing, pc.fill_null(pc.equal(state["source"], "archive"), False))
        untried = pc.fill_null(pc.equal(outcome, "not_archived"), False)
        transient = pc.and_(
            pc.is_in(outcome, value_set=pa.array(sorted(TRANSIENT))),
            pc.fill_null(pc.less(state["attempts"], MAX_ATTEMPTS), False),
        )
        again = pc.or_(again, pc.or_(archived_only, pc.or_(untried, transient)))
    rows = [row for row, miss in enumerate(missing.to_pylist()) if miss]
    if rows and len(index):
        part = batch.take(pa.array(rows))
        created = part["created_at"].to_pylist() if "created_at" in batch.schema.names else None
        found = index.find(part["id"].to_pylist(), created)
        mask = [False] * len(missing)
        for row, was, capture in zip(rows, outcome.take(pa.array(rows)).to_pylist(), found, strict=True):
            tells = capture is not None and (was == "not_archived" or archived_outcome(capture, settings)[0] == "ok")
            mask[row] = tells
        again = pc.or_(again, pa.array(mask))
    return again


def _write_plan(
    directory: Path, parts: Iterable[pa.Table], next_segment: int, segment_links: int, publish: Publish
) -> None:
    final = directory / f"plan-{next_segment:06d}.parquet"
    temporary = final.with_suffix(".parquet.tmp")
    writer: pq.ParquetWriter | None = None
    segment = next_segment
    try:
        for rows in _pieces(parts, segment_links):
            if writer is None:
                writer = pq.ParquetWriter(temporary, PLAN_SCHEMA, **_PARQUET)
            number = pa.array([segment] * rows.num_rows, pa.int32())
            writer.write_table(rows.add_column(0, PLAN_SCHEMA.field(0), number).cast(PLAN_SCHEMA))
            segment += 1
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        publish(temporary, final)


def _pieces(parts: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """`parts` cut anew into tables of `size` rows, the last one smaller."""
    held: list[pa.Table] = []
    count = 0
    for part in parts:
        held.append(part)
        count += part.num_rows
        if count >= size:
            table = pa.concat_tables(held)
            whole = count // size * size
            for at in range(0, whole, size):
                yield table.slice(at, size)
            held = [table.slice(whole)]
            count -= whole
    if count:
        yield pa.concat_tables(held)


def _next_segment(directory: Path) -> int:
    plans = plan_files(directory)
    if not plans:
        return 0
    file = pq.ParquetFile(plans[-1])
    groups: int = file.num_row_groups
    return int(plans[-1].stem.removeprefix("plan-")) + groups


_PARQUET: Final[dict[str, Any]] = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}


# Settling -------------------------------------------------------------------------------------------------------------


class _Run:
    """One run over the segments that are not sealed."""

    def __init__(
        self,
        directory: Path,
        index: ArchiveIndex,
        remote: CaptureIndex,
        settings: FetchSettings,
        publish: Publish,
        progress: Callable[[dict[str, int]], None] | None,
        stop: Callable[[], bool] | None,
        planned: int,
    ) -> None:
        self.directory = directory
        self.index = index
        self.remote = remote
        self.settings = settings
        self.publish = publish
        self.stopped: str | None = None
        self.sealed = 0
        self.outcomes: Counter[str] = Counter()
        self._progress = progress
        self._stop = stop
        self._planned = planned
        # Rows of segments sealed on time that were never tried; Arrow, for they may be millions.
        self._left: list[pa.Table] = []
        self._open: dict[int, _OpenSegment] = {}
        self._started = time.monotonic()
        self._shown = 0.0
        segments = sealed_segments(directory)
        self._settled = sum(n for segment in segments for name, n in segment.outcomes if name in FINAL)
        self._sealed_numbers = {segment.number for segment in segments}

    def settle(self, transport: Transport | None) -> None:
        """Archives first, then the network, segment after segment."""
        (self.directory / _OPEN).mkdir(exist_ok=True)
        self._sweep()
        if transport is None:
            for segment in self._unsealed():
                if self._asked_to_stop():
                    break
                self._seal(segment)
        else:
            try:
                self._fetch(transport)
                while self._left and self.stopped is None:
                    settled = self._settled
                    self._plan_left()
                    self._fetch(transport)
                    if self._settled == settled:
                        break
            finally:
                transport.close()
                for segment in self._open.values():
                    segment.close()
        with contextlib.suppress(OSError):
            (self.directory / _OPEN).rmdir()
        self._show(force=True)

    def _sweep(self) -> None:
        """Takes away what a crash between a seal and the end of its clean-up has left."""
        for path in (self.directory / _OPEN).iterdir():
            if int(path.name.split(".")[0].removeprefix("segment-")) in self._sealed_numbers:
                path.unlink()

    def _unsealed(self) -> Iterator[_OpenSegment]:
        for plan in plan_files(self.directory):
            file = pq.ParquetFile(plan, page_checksum_verification=True)
            first = int(plan.stem.removeprefix("plan-"))
            for group in range(file.num_row_groups):
                if first + group not in self._sealed_numbers:
                    rows = file.read_row_group(group).to_pylist()
                    yield _OpenSegment(self.directory, first + group, rows, self.index, self.settings)

    def _plan_left(self) -> None:
        left = pa.concat_tables(self._left).drop_columns("segment").sort_by("id")
        self._left = []
        _write_plan(self.directory, [left], _next_segment(self.directory), self.settings.segment_links, self.publish)

    def _fetch(self, fetcher: Transport) -> None:
        synced = time.monotonic()
        share = seconds = None
        if self.settings.stop_after is not None:
            kind, amount = fetch.stop_rule(self.settings.stop_after)
            share, seconds = (amount, None) if kind == "share" else (None, amount)
        for result in fetcher.run(self._jobs(fetcher)):
            now = time.monotonic()
            if result is not None:
                segment = self._open.get(result.job.segment)
                if segment is not None:
                    if segment.begun is None:
                        segment.begun = now
                    segment.add(result)
                    self._settled += result.outcome in FINAL
                    if segment.done:
                        self._seal(segment)
            if now - synced >= SYNC_SECONDS:
                for segment in self._open.values():
                    segment.sync()
                synced = now
            for segment in list(self._open.values()):
                if segment.begun is not None and now - segment.begun >= self.settings.segment_minutes * 60:
                    fetcher.forget(segment.number)
                    self._seal(segment)
            self._show(fetcher.waiting())
            if self._asked_to_stop():
                return
            if (seconds is not None and now - self._started >= seconds) or (
                share is not None and self._settled >= share * self._planned
            ):
                self.stopped = "stop_after"
                for segment in list(self._open.values()):
                    fetcher.forget(segment.number)
                    self._seal(segment)
                return

    def _jobs(self, fetcher: Transport) -> Iterator[Job]:
        for segment in self._unsealed():
            if len(self._open) == MAX_OPEN_SEGMENTS:
                oldest = next(iter(self._open.values()))
                fetcher.forget(oldest.number)
                self._seal(oldest)
            if segment.interrupted or segment.done:
                self._seal(segment)
                continue
            self._open[segment.number] = segment
            yield from segment.jobs(self.remote)

    def _seal(self, segment: _OpenSegment) -> None:
        counts = segment.seal(self.publish)
        self._open.pop(segment.number, None)
        self._sealed_numbers.add(segment.number)
        if self.settings.network and not segment.done:
            self._left.append(segment.left())
        self.sealed += 1
        self.outcomes.update(counts)
        if not self.settings.network:
            self._settled += sum(n for name, n in counts.items() if name in FINAL)
        self._show()

    def _asked_to_stop(self) -> bool:
        if self._stop is not None and self._stop():
            self.stopped = "asked to stop"
            return True
        return False

    def _show(self, waiting: Mapping[str, int] | None = None, *, force: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (now - self._shown < 0.5 and not force):
            return
        self._shown = now
        counts = Counter(self.outcomes)
        for segment in self._open.values():
            counts.update(segment.counts)
        self._progress({"planned": self._planned, "settled": self._settled, **(waiting or {}), **counts})


class _OpenSegment:
    """A segment that is being settled: what archives gave, and what the log and the network gave."""

    def __init__(
        self,
        directory: Path,
        number: int,
        rows: list[dict[str, Any]],
        index: ArchiveIndex,
        settings: FetchSettings,
    ) -> None:
        self.number = number
        self.begun: float | None = None  # when its first result came: until then it waits for others' hosts
        self.counts: Counter[str] = Counter()
        self._name = f"segment-{number:06d}"
        self._directory = directory
        self._settings = settings
        self._rows = rows
        self._results: dict[int, dict[str, Any]] = {}
        self._left = 0
        self._log_path = directory / _OPEN / f"{self._name}.log"
        self._open_warc = directory / _OPEN / f"{self._name}.warc.gz"
        self._final_warc = directory / f"{self._name}.warc.gz"
        self._log: BinaryIO | None = None
        self._warc: BinaryIO | None = None
        self._warc_bytes = 0
        # Killed between the publication of its captures and its seal: nothing more may be added to them.
        self.interrupted = self._final_warc.exists()
        self._recover()
        found = index.find([row["id"] for row in rows], [row["created_at"] for row in rows])
        for at, capture in enumerate(found):
            if capture is not None and self._results.get(at, {}).get("outcome") != "ok":
                archived = _archived(capture, settings)
                if archived["outcome"] == "ok" or not settings.network:
                    self._results[at] = archived
        for at, row in enumerate(rows):
            if not row["url"]:  # webtext.forget has been here
                self._results[at] = {"outcome": "removed"}
        self._left = len(rows) - len(self._results)
        self.counts.update(result["outcome"] for result in self._results.values())

    @property
    def done(self) -> bool:
        return self._left == 0

    def jobs(self, remote: CaptureIndex) -> Iterator[Job]:
        """What is left for the network."""
        left = [(at, row) for at, row in enumerate(self._rows) if at not in self._results]
        found = remote.find([row["id"] for _, row in left], [row["created_at"] for _, row in left])
        for (at, row), capture in zip(left, found, strict=True):
            yield Job(segment=self.number, row=at, url=row["url"], attempts=row["attempts"], remote=capture)

    def left(self) -> pa.Table:
        """The rows that nothing was learnt of (PLAN_SCHEMA)."""
        return pa.Table.from_pylist([row for at, row in enumerate(self._rows) if at not in self._results], PLAN_SCHEMA)

    def add(self, fetched: Fetched) -> None:
        """Writes a result down: its capture first, then its line in the log."""
        at = fetched.job.row
        if at in self._results:
            return
        if self._log is None:
            self._log = self._log_path.open("ab")
        result: dict[str, Any] = {
            "final_url": fetched.final_url,
            "outcome": fetched.outcome,
            "detail": fetched.detail or None,
            "source": fetched.source,
            "status": fetched.status,
            "content_type": fetched.content_type or None,
            "redirect": fetched.redirect or None,
            "canonical_url": fetched.canonical_url or None,
            "opt_out": fetched.opt_out or None,
            "fetched_at": fetched.fetched_at,
        }
        line: dict[str, Any] = {"row": at, "result": result}
        if fetched.record:
            if self._warc is None:
                self._warc = self._open_warc.open("ab")
            if self._warc_bytes == 0:
                self._warc_bytes = self._warc.write(_warcinfo(self._settings, fetched.fetched_at))
            offset = self._warc_bytes
            self._warc.write(fetched.record)
            self._warc_bytes += len(fetched.record)
            result["warc"] = self._final_warc.name
            result["offset"] = offset
            result["payload_sha256"] = fetched.payload_sha256
            result["payload_bytes"] = fetched.payload_bytes
            line["bytes"] = len(fetched.record)
            line["crc"] = zlib.crc32(fetched.record)
        self._log.write(_log_line(line))
        self._results[at] = result
        self._left -= 1
        self.counts[fetched.outcome] += 1

    def sync(self) -> None:
        """Captures, then log: a line that is there speaks of bytes that are there."""
        for file in (self._warc, self._log):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        self.sync()
        for file in (self._warc, self._log):
            if file is not None:
                file.close()
        self._warc = self._log = None

    def seal(self, publish: Publish) -> dict[str, int]:
        """Publishes captures, ledger and seal, in this order; returns how often each outcome came."""
        self.close()
        if self._open_warc.exists():
            publish(self._open_warc, self._final_warc)
        unsettled = "pending" if self._settings.network else "not_archived"
        columns: dict[str, list[Any]] = {name: [] for name in LEDGER_SCHEMA.names}
        for at, row in enumerate(self._rows):
            result = self._results.get(at, {"outcome": unsettled})
            attempts = row["attempts"] + (result.get("source") in ("network", "commoncrawl"))
            facts = {**result, "id": row["id"], "url": row["url"], "attempts": attempts}
            for name, column in columns.items():
                column.append(facts.get(name))
        table = pa.table(columns, schema=LEDGER_SCHEMA)
        sink = io.BytesIO()
        pq.write_table(table, sink, **_PARQUET)
        content = sink.getvalue()
        _write(self._directory / f"{self._name}.parquet", content, publish)
        counts = dict(sorted(Counter(columns["outcome"]).items()))
        seal = {
            "rows": table.num_rows,
            "ledger_sha256": hashlib.sha256(content).hexdigest(),
            "outcomes": counts,
            "warc": self._final_warc.exists(),
        }
        _write(self._directory / f"{self._name}.json", (json.dumps(seal, indent=1) + "\n").encode(), publish)
        self._log_path.unlink(missing_ok=True)
        return counts

    def _recover(self) -> None:
        """Cuts log and captures to the last record that both hold whole, and takes up what they say."""
        warc_path = self._final_warc if self.interrupted else self._open_warc
        if not self._log_path.exists():
            self._open_warc.unlink(missing_ok=True)
            return
        good = 0
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log_path.open("rb"))
            warc = stack.enter_context(warc_path.open("rb")) if warc_path.exists() else io.BytesIO()
            for line in log:
                entry = _log_entry(line)
                if entry is None:
                    break
                if "bytes" in entry:
                    offset, length = entry["result"]["offset"], entry["bytes"]
                    warc.seek(offset)
                    if zlib.crc32(warc.read(length)) != entry["crc"]:
                        break
                    self._warc_bytes = offset + length
                self._results[entry["row"]] = entry["result"]
                good += len(line)
        os.truncate(self._log_path, good)
        if not self.interrupted and self._open_warc.exists():
            os.truncate(self._open_warc, self._warc_bytes)


def _log_line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%s\t%08x\n" % (text, zlib.crc32(text))


def _log_entry(line: bytes) -> dict[str, Any] | None:
    """The entry of a whole log line, or None."""
    text, tab, crc = line.rpartition(b"\t")
    if not tab or crc != b"%08x\n" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _write(final: Path, content: bytes, publish: Publish) -> None:
    temporary = final.with_name(f"{final.name}.tmp")
    temporary.write_bytes(content)
    publish(temporary, final)


def _warcinfo(settings: FetchSettings, date: int) -> bytes:
    facts = {
        "software": settings.user_agent,
        "format": "WARC File Format 1.1",
        "http-header-user-agent": settings.agent,
        "robots": "obey" if settings.robots else "ignore",
    }
    return archives.warcinfo_record(facts, date)


# Archives -------------------------------------------------------------------------------------------------------------


def archived_outcome(found: Found, settings: FetchSettings) -> tuple[str, str]:
    """(outcome, detail) of an archived capture under `settings`."""
    if found.outcome != "ok":
        return found.outcome, found.detail
    return fetch.gate(found.content_type, found.opt_out, settings)


def _archived(found: Found, settings: FetchSettings) -> dict[str, Any]:
    outcome, detail = archived_outcome(found, settings)
    result: dict[str, Any] = {
        "final_url": found.url,
        "outcome": outcome,
        "detail": detail or None,
        "source": "archive",
        "status": found.status,
        "content_type": found.content_type or None,
        "redirect": found.redirect or None,
        "canonical_url": found.canonical_url or None,
        "opt_out": found.opt_out or None,
        "warc": found.archive,
        "offset": found.offset,
        "fetched_at": found.date,
    }
    if outcome == "ok":
        result |= {"payload_sha256": found.payload_sha256, "payload_bytes": found.payload_bytes}
    return result
