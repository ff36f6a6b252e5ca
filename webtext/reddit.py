"""Submissions of Reddit: from dumps, from the API, from lists of URLs; and what was asked to be removed.

- Every line that is read becomes a row or a drop, never both, never neither: `rows + drops == summary.lines`.
- A bad line costs itself. It is located (line, byte) in its drop. What a dump loses at its end is one more drop,
  `truncated`, and `ReadSummary.truncated_at`: the good prefix is kept, and the caller decides whether to go on.
- The format is what the first bytes say, not the name: zstd with windows up to 2^31 (`--long=31`, as the dumps use),
  gzip, bzip2, xz, plain; several frames or streams in one file are read through, and the last one must be complete.
- Lines are decoded a block at a time by msgspec into one typed struct of the few fields that matter, and columns are
  made from lists of a block: no object outlives its block, so memory does not depend on the size or kind of a dump.
- Reddit escapes `&`, `<` and `>` in the URLs it answers with (unless asked not to), so dumps hold `&amp;`: undone here.
- `removed` is what the dump itself says: `removed_by_category` (from 2019-09), Arctic Shift's `_meta`, or an author
  `[deleted]` on a post that robots may not index (2018-2019). Before that a deleted account and a deleted post look
  the same: not removed.

Field history, 2005 to 2026: `created_utc` integer, float or string; `score` null in 2017-10 and 2017-11; `url` null
in 2022-08 and 2022-09; `retrieved_on` missing in 36 months, `retrieved_utc` in late Pushshift,
`_meta.retrieved_2nd_on` in Arctic Shift, when the score was read again; `url_overridden_by_dest` from 2020-05;
crossposts from 2017-08 (they count for the page that their parent links).
"""

from __future__ import annotations

import bz2
import csv
import lzma
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from webtext.records import DROP_SCHEMA, SUBMISSION_SCHEMA, Drop, drop_batch
from webtext.urls import canonical_url, document_id, matching_domain, url_host

if TYPE_CHECKING:
    import praw
    import requests

__all__ = [
    "LinkSources",
    "ReadSummary",
    "RedditApiError",
    "Removals",
    "SubmissionBatch",
    "read_api",
    "read_dump",
    "read_removals",
    "read_url_list",
]

STAGE = "links"
LIST_PREFIX = "list:"  # of the post ids of URL lists
BLOCK_BYTES = 1 << 20  # decoded at once: with its structs it stays in the L2 and L3 cache
MAX_LINE_BYTES = 16 << 20  # the longest real submissions have 0.3 MB
ZSTD_MAX_WINDOW = 1 << 31
LINE_FEED = 10

Listing = Literal["hot", "new", "rising", "top", "controversial"]
LISTINGS = ("hot", "new", "rising", "top", "controversial")
TIMED_LISTINGS = ("top", "controversial")
TIME_FILTERS = ("hour", "day", "week", "month", "year", "all")


def _setting(default: Any, help_text: str, *, changes_bytes: bool = True) -> Any:
    return field(
        default=default, metadata={"help": help_text} if changes_bytes else {"help": help_text, "bytes": False}
    )


@dataclass(frozen=True, slots=True)
class LinkSources:
    """Section [links]: where submissions come from. Credentials are never settings: environment or praw.ini."""

    dumps: tuple[str, ...] = _setting((), "dump files of submissions (RS_*.zst, .xz, .bz2, .gz, NDJSON); globs")
    url_lists: tuple[str, ...] = _setting((), "lists of URLs (.txt, .csv, .tsv, .parquet with a column url); globs")
    removals: tuple[str, ...] = _setting(
        (), "files of URLs, domains and post ids (t3_...) that must not be in the corpus"
    )
    subreddits: tuple[str, ...] = _setting((), "subreddits to read through Reddit's API; needs credentials")
    listings: tuple[str, ...] = _setting(("top",), "listings of each subreddit: hot, new, rising, top, controversial")
    time_filters: tuple[str, ...] = _setting(("all",), "for top and controversial: hour, day, week, month, year, all")
    api_limit: int = _setting(1000, "submissions per listing; Reddit ends every listing at 1000")
    api_snapshot: str = _setting("1", "change this label to read the API again; the same label keeps what was read")
    user_agent: str | None = _setting(
        None, "what Reddit asks for: <platform>:<app id>:<version> (by u/<name>); empty: praw_user_agent or praw.ini"
    )
    praw_site: str | None = _setting(
        None, "section of praw.ini with the credentials; empty: DEFAULT", changes_bytes=False
    )
    reddit_url: str = _setting("https://www.reddit.com", "where access tokens come from", changes_bytes=False)
    oauth_url: str = _setting("https://oauth.reddit.com", "where listings come from", changes_bytes=False)
    allow_truncated: bool = _setting(False, "go on with the good part of a dump that is cut or corrupt")

    def __post_init__(self) -> None:
        for name, allowed in (("listings", LISTINGS), ("time_filters", TIME_FILTERS)):
            for value in getattr(self, name):
                if value not in allowed:
                    raise ValueError(f"[links] {name}: expected some of {', '.join(allowed)}, got {value!r}")
        for value in self.subreddits:
            if not re.fullmatch(r"[A-Za-z0-9_+-]{1,200}", value):
                raise ValueError(f"[links] subreddits: expected names as in MachineLearning, without r/, got {value!r}")
        if not 1 <= self.api_limit <= 1000:
            raise ValueError(f"[links] api_limit: expected 1 to 1000 (Reddit gives no more), got {self.api_limit}")


@dataclass(slots=True)
class ReadSummary:
    """What was read so far; hand one to a reader and look at it when the reader is through."""

    lines: int = 0  # submissions met: rows + drops; a cut tail counts as one
    bad_lines: int = 0
    blank_lines: int = 0  # not lines: nothing was in them
    size_bytes: int = 0  # decompressed
    truncated_at: int | None = None  # byte of the file as it lies on disk; None if it is complete
    truncated_why: str | None = None


@dataclass(frozen=True, slots=True)
class SubmissionBatch:
    submissions: pa.RecordBatch  # SUBMISSION_SCHEMA, in the order of the source
    drops: pa.RecordBatch  # DROP_SCHEMA


class RedditApiError(RuntimeError):
    """Reddit's API refused or failed; the message is one line and holds no credential."""


# --- the line --------------------------------------------------------------------------------------------------------

_Number = int | float | str | None


class _Parent(msgspec.Struct, gc=False):
    url: str | None = None
    url_overridden_by_dest: str | None = None
    is_self: bool | None = None


class _Meta(msgspec.Struct, gc=False):
    retrieved_2nd_on: _Number = None
    removal_type: str | None = None
    was_deleted_later: bool | None = None


class _Line(msgspec.Struct, gc=False, rename={"meta": "_meta"}):
    """The fields of a submission that matter, in the order that dumps tend to have: msgspec finds keys faster so."""

    meta: _Meta | None = None
    author: str | None = None
    created_utc: _Number = None
    crosspost_parent_list: list[_Parent] | None = None
    id: str | int | None = None
    is_robot_indexable: bool | None = None
    is_self: bool | None = None
    over_18: bool | None = None
    removed_by_category: str | None = None
    retrieved_on: _Number = None
    retrieved_utc: _Number = None
    score: _Number = None
    subreddit: str | None = None
    url: str | None = None
    url_overridden_by_dest: str | None = None


_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
_BLOCK_ERRORS = (*_DECODE_ERRORS, TypeError)  # Arrow's, for values that are not yet of their type
# An escaped surrogate without its partner: JSON may hold it, UTF-8 cannot.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)((?:\\\\)*)\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_REDDIT_URL = re.compile(r"/|https?://(?:[a-z0-9-]+\.)?reddit\.com/", re.IGNORECASE)


def _decode_line(decoder: msgspec.json.Decoder[_Line], line: bytes) -> _Line:
    """The struct of one line, its values checked and of their proper types; ValueError or a msgspec error if bad."""
    try:
        record = decoder.decode(line)
    except msgspec.DecodeError:
        # A lone surrogate in a title is no reason to lose a link, so those become U+FFFD; in the URL it is one.
        repaired = _LONE_SURROGATE.sub(rb"\1\\ufffd", line)
        if repaired == line:
            raise
        record = decoder.decode(repaired)
        if "\ufffd" in (record.url or ""):
            raise ValueError("lone surrogate in url") from None
    if isinstance(record.id, int):
        record.id = str(record.id)
    if not record.id:
        raise ValueError("no id")
    if record.is_self or _outbound(record)[0]:
        return record  # a drop: its numbers are nobody's business, here as in `_build`
    record.score = _whole(record.score, "score", 31)
    record.created_utc = _whole(record.created_utc, "created_utc", 63)
    record.retrieved_on = _whole(_retrieved(record), "retrieved_on", 63)
    record.meta, record.retrieved_utc = _keep_removal(record.meta), None
    return record


def _keep_removal(meta: _Meta | None) -> _Meta | None:
    return None if meta is None else _Meta(removal_type=meta.removal_type, was_deleted_later=meta.was_deleted_later)


def _retrieved(record: _Line) -> _Number:
    """When the score was read: the second look counts."""
    if record.meta is not None and record.meta.retrieved_2nd_on is not None:
        return record.meta.retrieved_2nd_on
    return record.retrieved_on if record.retrieved_on is not None else record.retrieved_utc


def _whole(value: _Number, name: str = "number", bits: int = 63) -> int | None:
    """A whole number out of 3, 3.0, "3" or "3.0"; "" and null are None."""
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except ValueError:
        number = int(float(value))
    if not -(1 << bits) <= number < 1 << bits:
        raise ValueError(f"{name} does not fit {bits + 1} bits")
    return number


def _is_removed(record: _Line) -> bool:
    if record.removed_by_category:
        return True
    if record.is_robot_indexable is False and record.author == "[deleted]":
        return True
    return record.meta is not None and bool(record.meta.removal_type or record.meta.was_deleted_later)


def _outbound(record: _Line) -> tuple[str, str]:
    """("", url) as the submission links it, or (reason, "")."""
    url = record.url
    parent = record.crosspost_parent_list[0] if record.crosspost_parent_list else None
    if record.url_overridden_by_dest and not _REDDIT_URL.match(record.url_overridden_by_dest):
        url = record.url_overridden_by_dest
    elif parent is not None:
        if parent.is_self:
            return "self_post", ""
        url = parent.url_overridden_by_dest or parent.url or url
    if not url or url.isspace():
        return "no_url", ""
    if url.startswith("/"):
        url = "https://www.reddit.com" + url
    return "", _unescaped(url)


def _unescaped(url: str) -> str:
    """The three characters that Reddit escapes; nothing else of HTML, which could be meant."""
    return url.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if "&" in url else url


def _build(records: list[_Line], drops: list[Drop]) -> SubmissionBatch:
    """The columns of `records`, whose order they keep; ValueError (or a subclass) if any value needs `_decode_line`.

    `drops` come first in the batch's drops.
    """
    links = [record for record in records if not record.is_self]
    dropped = [record.id for record in records if record.is_self]
    reasons = pa.repeat("self_post", len(dropped))
    urls = [record.url for record in links]
    gone: dict[int, str] = {}
    for i, record in enumerate(links):
        url = record.url
        if (
            not url
            or url[0] not in "hH"
            or (
                record.url_overridden_by_dest != url
                and (record.url_overridden_by_dest is not None or record.crosspost_parent_list)
            )
            or "&" in url
        ):
            reason, urls[i] = _outbound(record)
            if reason:
                gone[i] = reason
    if gone:
        dropped += [links[i].id for i in gone]
        reasons = pa.concat_arrays([reasons, pa.array(gone.values(), pa.string())])
        links = [record for i, record in enumerate(links) if i not in gone]
        urls = [url for i, url in enumerate(urls) if i not in gone]
    ids = [record.id for record in links]
    if not all(ids) or not all(dropped):
        raise ValueError("no id")
    submissions = pa.record_batch(
        [
            _post_ids(ids),
            pa.array(urls, pa.string()),
            pa.array([record.score for record in links], pa.int32()),
            _times([record.created_utc for record in links]),
            _times(
                [
                    record.retrieved_on
                    if record.meta is None and record.retrieved_on is not None
                    else _retrieved(record)
                    for record in links
                ]
            ),
            pa.array([record.subreddit for record in links], pa.string()),
            pa.array([record.over_18 is True for record in links], pa.bool_()),
            pa.array(
                [
                    (
                        record.removed_by_category is not None
                        or record.is_robot_indexable is False
                        or record.meta is not None
                    )
                    and _is_removed(record)
                    for record in links
                ],
                pa.bool_(),
            ),
        ],
        schema=SUBMISSION_SCHEMA,
    )
    columns = [
        pa.nulls(len(dropped), pa.string()),
        _post_ids(dropped),
        pa.repeat(STAGE, len(dropped)),
        reasons,
        pa.nulls(len(dropped), pa.string()),
    ]
    batch = pa.record_batch(columns, schema=DROP_SCHEMA)
    if drops:
        batch = pa.concat_batches([drop_batch(STAGE, drops), batch])
    return SubmissionBatch(submissions, batch)


def _post_ids(ids: list[Any]) -> pa.Array:
    names = pa.array(ids, pa.string())
    if pc.any(pc.starts_with(names, "t3_")).as_py():
        names = pc.replace_substring_regex(names, "^t3_", "")
    return names


def _times(values: list[_Number]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except (ValueError, TypeError):  # strings (2014-01 to 2015-11) or fractions
        return pa.array([value if type(value) is int else _whole(value) for value in values], pa.int64())


def _combined(batches: list[SubmissionBatch]) -> SubmissionBatch:
    if len(batches) == 1:
        return batches[0]
    return SubmissionBatch(
        pa.concat_batches([batch.submissions for batch in batches]),
        pa.concat_batches([batch.drops for batch in batches]),
    )


# --- dumps -----------------------------------------------------------------------------------------------------------


def read_dump(
    path: str | Path, *, batch_rows: int = 65_536, summary: ReadSummary | None = None
) -> Iterator[SubmissionBatch]:
    """The submissions of a dump: NDJSON, plain or compressed, of any year.

    Batches cover about `batch_rows` lines each; `summary` (one for each file) is up to date after each batch. Drops
    are `self_post`, `no_url`, `bad_line` (detail: line, byte, why) and, at most once and last, `truncated`. OSError
    if the file cannot be read; nothing that is in it raises.
    """
    summary = ReadSummary() if summary is None else summary
    decoder = msgspec.json.Decoder(_Line)
    waiting: list[SubmissionBatch] = []
    waiting_lines = 0
    line, offset = 1, 0  # of the next block
    for block in _blocks(_chunks(Path(path))):
        before = summary.lines
        batch, physical_lines = _read_block(decoder, block, line, offset, summary)
        waiting.append(batch)
        waiting_lines += summary.lines - before
        line += physical_lines
        offset += block.size_bytes
        summary.size_bytes = offset
        if waiting_lines >= batch_rows:
            yield _combined(waiting)
            waiting, waiting_lines = [], 0
    if waiting_lines:
        yield _combined(waiting)


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole lines; or, where `problem` says why, one that cannot be had."""

    data: bytes | memoryview
    size_bytes: int
    problem: str | None = None
    truncated_at: int | None = None
    last: bool = False  # the end of the file, without a line feed


def _read_block(
    decoder: msgspec.json.Decoder[_Line], block: _Block, line: int, offset: int, summary: ReadSummary
) -> tuple[SubmissionBatch, int]:
    """The submissions of a block that begins at `line` and byte `offset`, and how many lines of text it has."""
    if block.problem is not None:
        summary.lines += 1
        if block.truncated_at is not None:
            summary.truncated_at, summary.truncated_why = block.truncated_at, block.problem
            detail = f"byte {block.truncated_at} of the file, line {line} at byte {offset}: {block.problem}"
            return _build([], [Drop("truncated", detail)]), 1
        summary.bad_lines += 1
        return _build([], [Drop("bad_line", f"line {line} at byte {offset}: {block.problem}")]), 1
    if not block.last:
        try:
            records = decoder.decode_lines(block.data)
            if len(records) == np.count_nonzero(np.frombuffer(block.data, np.uint8) == LINE_FEED):
                batch = _build(records, [])
                summary.lines += len(records)
                return batch, len(records)
        except _BLOCK_ERRORS:
            pass  # somewhere in it is a line that wants a closer look
    records, drops = [], []
    lines = bytes(block.data).split(b"\n")
    if not block.last:
        lines.pop()  # what follows the last line feed
    for i, text in enumerate(lines):
        if not text or text.isspace():
            summary.blank_lines += 1
        else:
            summary.lines += 1
            try:
                records.append(_decode_line(decoder, text))
            except _DECODE_ERRORS as error:
                where = f"line {line + i} at byte {offset}"
                why = _one_line(error)
                if block.last and i + 1 == len(lines) and not text.rstrip().endswith(b"}"):
                    summary.truncated_at, summary.truncated_why = offset, f"the last line is cut: {why}"
                    drops.append(Drop("truncated", f"byte {offset} of the text, {where}: {summary.truncated_why}"))
                else:
                    summary.bad_lines += 1
                    drops.append(Drop("bad_line", f"{where}: {why}"))
        offset += len(text) + 1
    return _build(records, drops), len(lines)


def _one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).replace("\n", " ")[:200]


class _CutError(Exception):
    """A compressed file ends, or breaks, before its end."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(why)
        self.offset = offset
        self.why = why


def _blocks(chunks: Iterator[bytes]) -> Iterator[_Block]:
    """`chunks` cut at line feeds into blocks of about BLOCK_BYTES; lines over MAX_LINE_BYTES are passed over."""
    parts: list[bytes] = []
    size = 0
    skipped = 0  # bytes of the overlong line we are in
    cut: _CutError | None = None
    while True:
        try:
            chunk = next(chunks, b"")
        except _CutError as error:
            cut, chunk = error, b""
        if chunk and skipped:
            end = chunk.find(b"\n") + 1
            skipped += end or len(chunk)
            if not end:
                continue
            yield _Block(b"", skipped, f"longer than {MAX_LINE_BYTES} bytes")
            skipped, chunk = 0, chunk[end:]
            if not chunk:
                continue
        if chunk:
            parts.append(chunk)
            size += len(chunk)
            if size < BLOCK_BYTES:
                continue
        data = b"".join(parts)
        end = data.rfind(b"\n") + 1
        if end:
            yield _Block(memoryview(data)[:end], end)
        rest = data[end:]
        parts, size = [rest] if rest else [], len(rest)
        if size > MAX_LINE_BYTES:
            parts, size, skipped = [], 0, size
        if not chunk:
            break
    if cut is not None:
        yield _Block(b"", size + skipped, cut.why, truncated_at=cut.offset)
    elif skipped:
        yield _Block(b"", skipped, f"longer than {MAX_LINE_BYTES} bytes")
    elif parts:
        yield _Block(parts[0], size, last=True)


_MAGIC = {"zst": b"\x28\xb5\x2f\xfd", "gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00"}


def _chunks(path: Path) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces of about 1 MB or less; `_CutError` after the last good piece."""
    with path.open("rb") as file:
        head = file.peek(8)[:8]  # a pipe can be read too
        kinds = [kind for kind, magic in _MAGIC.items() if head.startswith(magic)]
        if head[:4] != _MAGIC["zst"] and head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5:
            kinds = ["zst"]  # begins with a skippable frame
        named = path.suffix.lower().lstrip(".")
        if not kinds and named in _MAGIC:
            raise _CutError(0, f"the file is named .{named} and does not begin like one")
        if not kinds:
            while chunk := file.read(BLOCK_BYTES):
                yield chunk
        elif kinds[0] == "zst":
            yield from _zstd_chunks(file)
        elif kinds[0] == "gz":
            yield from _stream_chunks(file, "gzip", _Gzip)
        elif kinds[0] == "bz2":
            yield from _stream_chunks(file, "bzip2", bz2.BZ2Decompressor)
        else:
            yield from _stream_chunks(file, "xz", lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ))


def _zstd_chunks(file: BinaryIO) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW)
    frame: Any = None
    position = 0
    # What a call gives cannot be bounded, so what it gets is: little where the text repeats itself much.
    slice_bytes = 1 << 10
    while data := file.read(slice_bytes):
        given = 0
        while data:
            if frame is None:
                frame = decompressor.decompressobj()
            try:
                text = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise _CutError(position, f"zstd: {_one_line(error)}") from None
            given += len(text)
            if text:
                yield text
            rest = frame.unused_data if frame.eof else b""
            position += len(data) - len(rest)
            data = rest
            if frame.eof:
                frame = None
        if given > BLOCK_BYTES and slice_bytes > 64:
            slice_bytes //= 2
        elif given < BLOCK_BYTES // 4 and slice_bytes < 1 << 14:
            slice_bytes *= 2
    if frame is not None:
        raise _CutError(position, "zstd: the file ends inside a frame")


class _Gzip:
    """One gzip member with the interface of the decompressors of bz2 and lzma."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._full = False  # the last call gave all it was allowed to: there may be more without more input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        text = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        self._full = len(text) == max_length
        return text

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data


def _stream_chunks(file: BinaryIO, name: str, decompressor: Callable[[], Any]) -> Iterator[bytes]:
    stream: Any = None
    position = 0
    data = b""
    while True:
        if stream is None:
            data = data.lstrip(b"\0")  # zeros between streams are padding
            while not data:
                more = file.read(1 << 16)
                if not more:
                    return
                data = more.lstrip(b"\0")
            stream = decompressor()
        elif stream.needs_input:
            data = file.read(1 << 16)
            if not data:
                raise _CutError(file.tell(), f"{name}: the file ends inside a stream")
        position = file.tell() - len(data)
        try:
            text = stream.decompress(data, BLOCK_BYTES)
        except (OSError, zlib.error, lzma.LZMAError, EOFError) as error:
            raise _CutError(position, f"{name}: {_one_line(error)}") from None
        data = b""
        if text:
            yield text
        if stream.eof:
            data, stream = stream.unused_data, None


# --- lists of URLs ---------------------------------------------------------------------------------------------------

_LIST_COLUMNS = {
    "url": ("url",),
    "karma": ("karma", "score"),
    "created_at": ("created_at", "created_utc", "created", "date"),
    "subreddit": ("subreddit",),
}
_LOOKS_LIKE_HOST = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}(?::[0-9]+)?(?:[/?#]|$)", re.IGNORECASE)


def read_url_list(
    path: str | Path, *, batch_rows: int = 65_536, summary: ReadSummary | None = None
) -> Iterator[SubmissionBatch]:
    """The URLs of a list as submissions: text (one URL a line, `#` begins a comment), csv or tsv, Parquet.

    A table needs a column `url`; `karma` or `score`, `created_at`, `created_utc` or `date` (seconds or ISO 8601) and
    `subreddit` are read where they exist. `post_id` is `list:<file name>:<line>`; karma is null where the list has
    none, and such links are free of the karma rule. A URL without a scheme gets `http://`. ValueError if a table has
    no column `url`.
    """
    path = Path(path)
    summary = ReadSummary() if summary is None else summary
    kind = Path(path.stem).suffix.lower() if path.suffix.lower().lstrip(".") in _MAGIC else path.suffix.lower()
    rows: Iterable[tuple[int, Mapping[str, Any] | Drop]]
    if kind == ".parquet":
        rows = _parquet_rows(path)
    elif kind in (".csv", ".tsv"):
        rows = _csv_rows(path, "\t" if kind == ".tsv" else ",", summary)
    else:
        rows = _text_rows(path, summary)
    good: list[tuple[str, str, int | None, int | None, str | None]] = []
    drops: list[Drop] = []
    for number, row in rows:
        summary.lines += 1
        post_id = f"{LIST_PREFIX}{path.name}:{number}"
        if isinstance(row, Drop):
            summary.bad_lines += row.reason == "bad_line"
            drops.append(Drop(row.reason, row.detail, post_id=post_id))
        else:
            try:
                url = str(row["url"] or "").strip()
                if not url:
                    drops.append(Drop("no_url", post_id=post_id))
                else:
                    karma = _whole(row.get("karma"), "karma", 31)
                    created = _seconds(row.get("created_at"))
                    subreddit = row.get("subreddit")
                    url = "http://" + url if _LOOKS_LIKE_HOST.match(url) else url
                    good.append((post_id, url, karma, created, None if not subreddit else str(subreddit)))
            except (ValueError, OverflowError) as error:
                summary.bad_lines += 1
                drops.append(Drop("bad_line", f"line {number}: {_one_line(error)}", post_id=post_id))
        if len(good) + len(drops) >= batch_rows:
            yield _list_batch(good, drops)
            good, drops = [], []
    if good or drops:
        yield _list_batch(good, drops)


def _list_batch(rows: list[tuple[str, str, int | None, int | None, str | None]], drops: list[Drop]) -> SubmissionBatch:
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], [], []]
    post_id, url, karma, created_at, subreddit = columns
    never = pa.array([False] * len(rows), pa.bool_())
    submissions = pa.record_batch(
        [
            pa.array(post_id, pa.string()),
            pa.array(url, pa.string()),
            pa.array(karma, pa.int32()),
            pa.array(created_at, pa.int64()),
            pa.nulls(len(rows), pa.int64()),
            pa.array(subreddit, pa.string()),
            never,
            never,
        ],
        schema=SUBMISSION_SCHEMA,
    )
    return SubmissionBatch(submissions, drop_batch(STAGE, drops))


def _seconds(value: Any) -> int | None:
    """Seconds since 1970 from a number, a string of one, a date or a time (UTC if it does not say)."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            return _whole(value)
        except ValueError:
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return int((value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp())
    if hasattr(value, "toordinal"):
        return int(value.toordinal() - datetime(1970, 1, 1).toordinal()) * 86_400
    return _whole(value)


def _text_lines(path: Path, summary: ReadSummary) -> Iterator[tuple[int, bytes | Drop]]:
    """Numbered lines of a text file, compressed or not; a Drop for what cannot be had."""
    line = 1
    for block in _blocks(_chunks(path)):
        if block.problem is not None:
            reason = "bad_line" if block.truncated_at is None else "truncated"
            if block.truncated_at is not None:
                summary.truncated_at, summary.truncated_why = block.truncated_at, block.problem
            yield line, Drop(reason, f"line {line}: {block.problem}")
            line += 1
            continue
        lines = bytes(block.data).split(b"\n")
        if not block.last:
            lines.pop()
        for text in lines:
            yield line, text
            line += 1


def _text_rows(path: Path, summary: ReadSummary) -> Iterator[tuple[int, Mapping[str, Any] | Drop]]:
    for number, text in _text_lines(path, summary):
        if isinstance(text, Drop):
            yield number, text
            continue
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        text = text.strip()
        if not text or text.startswith(b"#"):
            summary.blank_lines += 1
            continue
        try:
            yield number, {"url": text.decode()}
        except UnicodeDecodeError as error:
            yield number, Drop("bad_line", f"line {number}: {_one_line(error)}")


def _columns(path: Path, names: list[str]) -> dict[str, str]:
    """Which of the table's column `names` holds what."""
    lower = {name.strip().lower(): name for name in names}
    found = {
        ours: lower[candidate]
        for ours, candidates in _LIST_COLUMNS.items()
        for candidate in reversed(candidates)
        if candidate in lower
    }
    if "url" not in found:
        raise ValueError(
            f"[links] url_lists: expected a column named url in {path.name}, got {', '.join(names) or 'none'}"
        )
    return found


def _csv_rows(path: Path, delimiter: str, summary: ReadSummary) -> Iterator[tuple[int, Mapping[str, Any] | Drop]]:
    problems: list[tuple[int, Drop]] = []

    def lines() -> Iterator[str]:
        for number, text in _text_lines(path, summary):
            if isinstance(text, Drop):
                problems.append((number, text))
            else:
                decoded = text.decode("utf-8", "replace").removesuffix("\r") + "\n"
                yield decoded.removeprefix("\ufeff") if number == 1 else decoded

    reader = csv.reader(lines(), delimiter=delimiter)
    try:
        header = next(reader)
    except (StopIteration, csv.Error):
        header = []
    places = {ours: header.index(name) for ours, name in _columns(path, header).items()}
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield reader.line_num, Drop("bad_line", f"line {reader.line_num}: {_one_line(error)}")
            continue
        if row:
            yield reader.line_num, {ours: row[i] if i < len(row) else None for ours, i in places.items()}
    yield from problems


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Drop]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = _columns(path, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=8192, columns=list(columns.values())):
            values = {ours: batch.column(name).to_pylist() for ours, name in columns.items()}
            for i in range(batch.num_rows):
                number += 1
                yield number, {ours: column[i] for ours, column in values.items()}


# --- removals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Removals:
    """What must not be in the corpus."""

    ids: frozenset[str] = frozenset()  # of pages, by canonical URL
    domains: frozenset[str] = frozenset()  # with their subdomains
    post_ids: frozenset[str] = (
        frozenset()
    )  # without "t3_": that submission does not count, the page may stay by another

    def __bool__(self) -> bool:
        return bool(self.ids or self.domains or self.post_ids)

    def reason(self, url: str, post_id: str | None = None) -> str | None:
        """What of the list asks for the removal of the page at `url`, posted as `post_id`; None if nothing does."""
        if post_id is not None and post_id in self.post_ids:
            return f"post {post_id}"
        try:
            key = canonical_url(url)
        except ValueError:
            return None
        if document_id(key) in self.ids:
            return f"url {key}"
        # Both the host as posted and the host of the key: a list may name m.example.com or example.com
        for host in (url_host(url), url_host(key)):
            domain = matching_domain(host, self.domains)
            if domain is not None:
                return f"domain {domain}"
        return None


def read_removals(paths: Iterable[str | Path]) -> Removals:
    """The removals of text files: a line each, `#` begins a comment. Anything with `://` or a path is a URL (all
    variants of the page go), 32 hex digits a page by its id, `t3_abc` a post, anything else with a dot a domain (its
    subdomains go too). ValueError for what is none of these: a removal that is not understood must not be passed over.
    """
    ids: set[str] = set()
    domains: set[str] = set()
    post_ids: set[str] = set()
    for path in map(Path, paths):
        for number, text in _text_lines(path, ReadSummary()):
            if isinstance(text, Drop):
                raise ValueError(f"[links] removals: {path.name}: {text.detail}")
            entry = re.sub(r"(?:^|\s)#.*", "", text.decode("utf-8", "replace").removeprefix("\ufeff")).strip()
            if not entry:
                continue
            try:
                if re.fullmatch(r"t3_[0-9a-z]+", entry.lower()):
                    post_ids.add(entry.lower()[3:])
                elif re.fullmatch(r"[0-9a-f]{32}", entry):
                    ids.add(entry)
                elif "://" in entry:
                    ids.add(document_id(canonical_url(entry)))
                elif "." not in entry or re.search(r"\s", entry):
                    raise ValueError
                elif "/" in entry.rstrip("/"):
                    ids.add(document_id(canonical_url("http://" + entry)))
                else:
                    domains.add(url_host("http://" + entry.removeprefix("*.").rstrip("/")))
            except ValueError:
                raise ValueError(
                    f"[links] removals: {path.name} line {number}: expected a URL, a domain or a post id (t3_...), "
                    f"got {entry!r}"
                ) from None
    return Removals(frozenset(ids), frozenset(domains), frozenset(post_ids))


# --- the API ---------------------------------------------------------------------------------------------------------

_PAGE_ROWS = 100  # the most that Reddit gives at once
_MAX_WAITS = 5  # times a request is repeated after 429
_MAX_WAIT_SECONDS = 600.0


def read_api(
    settings: LinkSources,
    *,
    session: requests.Session | None = None,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    summary: ReadSummary | None = None,
) -> Iterator[SubmissionBatch]:
    """The submissions of subreddits x listings x time filters, a batch for each page of a listing, through PRAW.

    A submission met in an earlier listing is the drop `same_submission`. PRAW and prawcore authorise, renew tokens,
    pace themselves and repeat failed requests; 429 is waited out here. `session` carries every request, `now` gives
    `retrieved_at`. ValueError without credentials, `RedditApiError` for what Reddit refuses; neither shows a
    credential.
    """
    summary = ReadSummary() if summary is None else summary
    reddit = _reddit(settings, session)
    seen: set[str] = set()
    for subreddit in settings.subreddits:
        for listing in settings.listings:
            for time_filter in settings.time_filters if listing in TIMED_LISTINGS else (None,):
                path = f"r/{subreddit}/{listing}"
                params: dict[str, str | int] = {"limit": _PAGE_ROWS} if time_filter is None else {"t": time_filter}
                left = settings.api_limit
                while left > 0:
                    params["limit"] = min(left, _PAGE_ROWS)
                    children, after = _listing_page(_request(reddit, path, params, sleep))
                    if children:
                        yield _api_batch(children[:left], int(now()), seen, path, summary)
                    left -= len(children)
                    if after is None or not children:
                        break
                    params["after"] = after


def _reddit(settings: LinkSources, session: requests.Session | None) -> praw.Reddit:
    import praw
    from praw.exceptions import PRAWException
    from prawcore.exceptions import PrawcoreException

    overrides: dict[str, Any] = {} if settings.user_agent is None else {"user_agent": settings.user_agent}
    try:
        reddit = praw.Reddit(
            settings.praw_site,
            requestor_kwargs=None if session is None else {"session": session},
            check_for_updates=False,
            check_for_async=False,
            reddit_url=settings.reddit_url,
            oauth_url=settings.oauth_url,
            **overrides,
        )
        reddit.read_only = True
    except (PRAWException, PrawcoreException, AttributeError, KeyError) as error:
        missing = re.search(r"client_id|client_secret|user_agent", str(error))
        raise ValueError(
            f"[links] subreddits: expected Reddit credentials, {missing[0] if missing else 'one'} is missing; set "
            "praw_client_id, praw_client_secret and praw_user_agent in the environment or in praw.ini, or leave "
            "subreddits empty"
        ) from None
    return reddit


def _request(reddit: praw.Reddit, path: str, params: dict[str, str | int], sleep: Callable[[float], None]) -> Any:
    from prawcore.exceptions import PrawcoreException, TooManyRequests

    waits = 0
    while True:
        try:
            return reddit.request(method="GET", path=path, params=params)
        except TooManyRequests as error:
            waits += 1
            if waits > _MAX_WAITS:
                raise RedditApiError(
                    f"Reddit's API: {path}: still too many requests after {_MAX_WAITS} waits"
                ) from None
            sleep(_retry_after(error.response.headers.get("retry-after"), 2.0**waits))
        except PrawcoreException as error:
            # prawcore's errors may carry the whole request, credentials included: say what happened, chain nothing.
            status = getattr(getattr(error, "response", None), "status_code", None)
            why = f"HTTP {status}" if status is not None else type(getattr(error, "original_exception", error)).__name__
            advice = "; are the credentials right?" if status in (401, 403) else ""
            raise RedditApiError(f"Reddit's API: {path}: {why}{advice}") from None


def _retry_after(header: str | None, default: float) -> float:
    try:
        return min(max(float(header or default), 0.0), _MAX_WAIT_SECONDS)
    except ValueError:
        return default


def _listing_page(answer: Any) -> tuple[list[Any], str | None]:
    """The submissions and the next page's name in a Listing; anything else is an error."""
    try:
        data = answer["data"]
        children, after = [child["data"] for child in data["children"] if child["kind"] == "t3"], data.get("after")
    except (TypeError, KeyError, AttributeError):
        raise RedditApiError("Reddit's API: expected a listing, got something else; is oauth_url right?") from None
    return children, after


def _api_batch(
    children: list[Any], retrieved_at: int, seen: set[str], path: str, summary: ReadSummary
) -> SubmissionBatch:
    records: list[_Line] = []
    drops: list[Drop] = []
    decoder = msgspec.json.Decoder(_Line)
    for child in children:
        summary.lines += 1
        try:
            record = _decode_line(decoder, msgspec.json.encode(child))
        except _DECODE_ERRORS as error:
            summary.bad_lines += 1
            drops.append(Drop("bad_line", f"{path}: {_one_line(error)}"))
            continue
        name = str(record.id)
        if name in seen:
            drops.append(Drop("same_submission", path, post_id=name))
            continue
        seen.add(name)
        record.retrieved_on = retrieved_at
        records.append(record)
    return _build(records, drops)
