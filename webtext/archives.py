"""WARC files: captures read from any writer's archives, found by canonical URL, and written by us.

- fastwarc reads. It notices a flipped bit only after it has given the record that holds it, and a cut one not at all:
  so a record counts once the next one has been reached, and once its length is what its header says.
- Damage costs the records it touches. It is located (`Damage.offset`), the next gzip member or `WARC/` line is looked
  for, and reading goes on.
- A body is decoded under a cap: chunked, then gzip, deflate, br and zstd in any order, at most four deep. Memory is the
  cap plus 64 KiB, whatever the bytes pretend.
- The index of an archive is an Arrow file named by path, size and time of change (so that a status check need not read
  it) and by its own content (so that two machines agree on what it says). It is a cache: deleting it costs one reading.
- Records are written byte for byte the same from the same capture: the record id is a hash of it, the gzip header has
  no time, and no clock but the capture's is asked.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urljoin

import brotli
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard
from isal import isal_zlib

INDEX_VERSION: Final = 1
MAX_CODINGS: Final = 4
MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
HEAD_BYTES: Final = 65_536  # how far into a page its <meta> and <link> are looked for
_CHUNK: Final = 65_536

Headers = tuple[tuple[str, str], ...]


class DecodeError(ValueError):
    """A body that its codings do not fit; `outcome` is the ledger's word for it."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Capture:
    """One answer of a server, as an archive holds it."""

    url: str  # WARC-Target-URI
    date: int  # seconds since 1970, UTC
    status: int
    headers: Headers
    body: bytes  # as received, less chunked framing
    truncated: str = ""  # WARC-Truncated: "length", "time", "disconnect", ...
    offset: int = -1

    @property
    def content_type(self) -> str:
        return header(self.headers, "content-type")


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of an archive that cannot be read."""

    offset: int
    detail: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What a capture holds, before any setting has its say."""

    outcome: str  # "ok", or why there is no page
    detail: str
    payload: bytes
    payload_sha256: str  # "" unless ok
    location: str  # absolute target of a redirect, or ""
    canonical_url: str  # of <link rel=canonical> or the Link header, or ""
    opt_out: str  # signals, sorted, comma-separated: "noai,noindex"


def header(headers: Headers, name: str) -> str:
    """The first value of `name` (lower case), or ""."""
    return next((value for key, value in headers if key.lower() == name), "")


# Bodies ---------------------------------------------------------------------------------------------------------------


def dechunk(body: bytes) -> bytes:
    """`body` without chunked framing (RFC 9112, 7.1); as it is where it has none, which many archives' have not."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.find(b"\n", at, at + 1024)
        line = body[at:end].split(b";", 1)[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", line):
            if not parts:
                return body
            raise DecodeError("truncated", f"chunk header expected at byte {at} of the body")
        size = int(line, 16)
        at = end + 1
        if size == 0:
            return b"".join(parts)
        if at + size > len(body):
            raise DecodeError("truncated", f"a chunk of {size} bytes ends after {len(body) - at}")
        parts.append(body[at : at + size])
        at += size
        at += 2 if body[at : at + 2] == b"\r\n" else 1


def decode(body: bytes, content_encoding: str, limit: int) -> bytes:
    """`body` without its content codings (RFC 9110, 8.4), at most `limit` bytes at any step.

    A coding that is named but was not applied (archives often store decoded bodies under the old header) is ignored.
    Raises DecodeError: `too_large`, `truncated`, `decode_error`.
    """
    codings = [coding for part in content_encoding.lower().split(",") if (coding := part.strip())]
    if len(codings) > MAX_CODINGS:
        raise DecodeError("decode_error", f"{len(codings)} content codings")
    for coding in reversed(codings):
        if coding in ("identity", "none", "utf-8"):
            continue
        decoder = _DECODERS.get(coding)
        if decoder is None:
            if looks_like_text(body):
                continue
            raise DecodeError("decode_error", f"content coding {coding[:40]!r} is not known")
        body = decoder(body, limit)
    if len(body) > limit:
        raise DecodeError("too_large", f"over {limit} bytes")
    return body


def looks_like_text(body: bytes) -> bool:
    """Whether the first bytes are markup or text rather than compressed."""
    head = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"<") or (bool(head) and not any(byte < 9 or 13 < byte < 27 for byte in head))


def _inflate(body: bytes, limit: int, window: int, coding: str) -> bytes:
    parts: list[bytes] = []
    total = 0
    rest = body
    while rest:
        stream = zlib.decompressobj(window)
        while not stream.eof:
            try:
                part = stream.decompress(rest, min(_CHUNK, limit + 1 - total))
            except zlib.error as error:
                raise DecodeError("decode_error", f"{coding}: {error}") from None
            total += len(part)
            parts.append(part)
            if total > limit:
                raise DecodeError("too_large", f"{coding}: over {limit} bytes when decoded")
            rest = stream.unconsumed_tail
            if not part and not rest and not stream.eof:
                raise DecodeError("truncated", f"{coding}: ends after {total} decoded bytes")
        rest = stream.unused_data if window == 31 else b""
        if rest[:2] != b"\x1f\x8b":
            break  # what follows the last member is padding: gzip(1) ignores it too
    return b"".join(parts)


def _gzip(body: bytes, limit: int) -> bytes:
    if body[:2] != b"\x1f\x8b":
        if body and not looks_like_text(body):
            raise DecodeError("decode_error", "gzip: no gzip header")
        return body
    return _inflate(body, limit, 31, "gzip")


def _deflate(body: bytes, limit: int) -> bytes:
    if not body:
        return body
    if body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0:
        return _inflate(body, limit, 15, "deflate")
    try:
        return _inflate(body, limit, -15, "deflate")
    except DecodeError as error:
        if error.outcome == "too_large" or not looks_like_text(body):
            raise
        return body


def _br(body: bytes, limit: int) -> bytes:
    stream = brotli.Decompressor()
    parts: list[bytes] = []
    total = 0
    feed = body
    try:
        while not stream.is_finished():
            part = stream.process(feed, output_buffer_limit=_CHUNK)
            feed = b""
            total += len(part)
            parts.append(part)
            if total > limit:
                raise DecodeError("too_large", f"br: over {limit} bytes when decoded")
            if not part and stream.can_accept_more_data():
                raise DecodeError("truncated", f"br: ends after {total} decoded bytes")
    except brotli.error as error:
        if looks_like_text(body):
            return body
        raise DecodeError("decode_error", f"br: {error}") from None
    except DecodeError as error:
        if error.outcome == "truncated" and looks_like_text(body):
            return body
        raise
    return b"".join(parts)


def _zstd(body: bytes, limit: int) -> bytes:
    if body[:4] != b"\x28\xb5\x2f\xfd" and looks_like_text(body):
        return body
    parts: list[bytes] = []
    total = 0
    rest = body
    decompressor = zstandard.ZstdDecompressor(max_window_size=8 << 20)  # RFC 9659: a content coding's window
    try:
        # The reader stops at any size and does not tell a cut frame; the object tells it, and does not stop: a kilobyte
        # can be 32 MB. So the size comes first, then the bytes.
        with decompressor.stream_reader(body, read_across_frames=True) as measured:
            while size := len(measured.read(_CHUNK)):
                total += size
                if total > limit:
                    raise DecodeError("too_large", f"zstd: over {limit} bytes when decoded")
        while rest:
            stream = decompressor.decompressobj()
            parts.append(stream.decompress(rest))
            if not stream.eof:
                raise DecodeError("truncated", f"zstd: ends after {total} decoded bytes")
            rest = stream.unused_data
    except zstandard.ZstdError as error:
        raise DecodeError("decode_error", f"zstd: {error}") from None
    return b"".join(parts)


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _br,
    "zstd": _zstd,
}


# What a capture says --------------------------------------------------------------------------------------------------

_META = re.compile(rb"<meta\s[^>]{0,1000}>", re.IGNORECASE)
_LINK = re.compile(rb"<link\s[^>]{0,2000}>", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([a-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_LINK_CANONICAL = re.compile(r"""<([^>]+)>\s*;[^,]*\brel\s*=\s*"?canonical\b""", re.IGNORECASE)
_DIRECTIVES: Final = frozenset({"noai", "noimageai", "noml", "noindex", "none", "noarchive", "nosnippet", "nocache"})


def judge(capture: Capture, limit: int) -> Judged:
    """What `capture` holds: its page, or why there is none. Decoded bytes are at most `limit`."""
    if capture.status in REDIRECTS:
        location = urljoin(capture.url, header(capture.headers, "location").strip()) if capture.headers else ""
        return Judged("redirect", location, b"", "", location, "", "")
    outcome = status_outcome(capture.status)
    if outcome != "ok":
        return Judged(outcome, f"status {capture.status}", b"", "", "", "", "")
    signals = header_signals(capture.headers)
    if capture.truncated:
        return Judged("truncated", f"WARC-Truncated: {capture.truncated[:40]}", b"", "", "", "", ",".join(signals))
    try:
        payload = decode(capture.body, header(capture.headers, "content-encoding"), limit)
    except DecodeError as error:
        return Judged(error.outcome, error.detail, b"", "", "", "", ",".join(signals))
    if not payload.strip():
        return Judged("empty", "no bytes", b"", "", "", "", ",".join(signals))
    canonical, meta = head_facts(payload, capture.url)
    link = _LINK_CANONICAL.search(header(capture.headers, "link"))
    if link:
        canonical = urljoin(capture.url, link.group(1))
    opt_out = ",".join(sorted({*signals, *meta}))
    return Judged("ok", "", payload, hashlib.sha256(payload).hexdigest(), "", canonical[:2000], opt_out)


def status_outcome(status: int) -> str:
    """The ledger's word for an HTTP status that is not a redirect."""
    if status == 200:
        return "ok"
    if status in (404, 410):
        return "not_found" if status == 404 else "gone"
    if status == 429:
        return "rate_limited"
    if status in (408, 425) or status >= 500:
        return "server_error"
    return "http_error"


def header_signals(headers: Headers) -> list[str]:
    """Opt-out signals of X-Robots-Tag and TDM-Reservation (W3C TDMRep), sorted."""
    found: set[str] = set()
    for name, value in headers:
        lower = name.lower()
        if lower == "x-robots-tag":
            # "mybot: noindex, noai" addresses one crawler; taking it to heart costs little and offends nobody.
            words = re.split(r"[,:;\s]+", value.lower())
            found.update(word for word in words if word in _DIRECTIVES)
        elif lower == "tdm-reservation" and value.strip() == "1":
            found.add("tdm-reservation")
    return sorted(found)


def head_facts(payload: bytes, base: str) -> tuple[str, list[str]]:
    """(canonical URL or "", opt-out signals) of a page's first 64 KiB, without parsing it."""
    head = payload[:HEAD_BYTES]
    canonical = ""
    found: set[str] = set()
    for tag in _LINK.findall(head):
        facts = _attributes(tag)
        if not canonical and "canonical" in facts.get("rel", "").lower().split() and facts.get("href"):
            try:
                canonical = urljoin(base, facts["href"].strip())
            except ValueError:
                canonical = ""
    for tag in _META.findall(head):
        facts = _attributes(tag)
        name = facts.get("name", "").lower()
        if name in ("robots", "googlebot", "ccbot", "gptbot"):
            words = re.split(r"[,\s]+", facts.get("content", "").lower())
            found.update(word for word in words if word in _DIRECTIVES)
        elif name == "tdm-reservation" and facts.get("content", "").strip() == "1":
            found.add("tdm-reservation")
    return canonical, sorted(found)


def _attributes(tag: bytes) -> dict[str, str]:
    return {
        name.lower().decode("ascii"): (double or single or bare).decode("utf-8", "replace")
        for name, double, single, bare in _ATTRIBUTE.findall(tag)
    }


# Reading --------------------------------------------------------------------------------------------------------------

_MAGICS: Final = {b"\x1f\x8b": b"\x1f\x8b\x08", b"WA": b"WARC/"}


def read_captures(path: Path) -> Iterator[Capture | Damage]:
    """Every HTTP answer (`response` and `resource` records) of the WARC file `path`, in file order.

    Raises ValueError where `path` is not a WARC file at all; damage inside one is given as Damage.
    """
    magic = _check_magic(path)
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        at: int | None = 0
        while at is not None and at < size:
            at = yield from _read_stretch(file, at, magic)


def _read_stretch(file: BinaryIO, start: int, magic: bytes | None) -> Any:
    """Captures from `start` up to damage or the end; returns where to go on, or None."""
    from fastwarc.warc import ArchiveIterator

    file.seek(start)
    held: Capture | None = None
    at = start
    try:
        for record in ArchiveIterator(file, parse_http=False):
            if held is not None:
                yield held
                held = None
            at = record.stream_pos
            block = record.reader.read()
            if len(block) != record.content_length:
                raise OSError(f"{record.content_length} bytes expected, {len(block)} found")
            try:
                held = _capture(record, block, at)
            except ValueError as error:
                yield Damage(at, str(error))
        if held is not None:
            yield held
        # A member whose header was hit ends the stream as if the file ended there.
        if magic == _MAGICS[b"\x1f\x8b"]:
            end = _member_end(file, at)
            if end is None:  # a header that is cut reads as an empty record of no kind, or as none
                yield Damage(at, "the file ends within a record, or the record is damaged")
                return _next_record(file, at + 1, magic)
            file.seek(end)
            if file.read(1 << 16).strip(b"\0\r\n"):
                yield Damage(end, "bytes that begin no record")
                return _next_record(file, end + 1, magic or b"")
    except OSError as error:
        # Was it the record held back that is bad, or what follows it?
        end = _member_end(file, held.offset) if held is not None and magic == _MAGICS[b"\x1f\x8b"] else None
        if held is not None and end is not None:
            yield held
            at = end
        yield Damage(at, " ".join(str(error).split())[:200])
        return _next_record(file, at + 1, magic) if magic else None
    return None


def _member_end(file: BinaryIO, offset: int) -> int | None:
    """Where the gzip member at `offset` ends, if it is whole and its checksum holds."""
    file.seek(offset)
    stream = zlib.decompressobj(31)
    try:
        while block := file.read(1 << 18):
            feed = block
            while feed and not stream.eof:
                stream.decompress(feed, 1 << 20)
                feed = stream.unconsumed_tail
            if stream.eof:
                return file.tell() - len(stream.unused_data)
    except zlib.error:
        return None
    return None


def _next_record(file: BinaryIO, start: int, magic: bytes) -> int | None:
    """Offset of the next gzip member or WARC header line at or after `start`."""
    at = start
    file.seek(start)
    tail = b""
    while block := file.read(1 << 20):
        window = tail + block
        found = window.find(magic)
        if found >= 0:
            return at - len(tail) + found
        at += len(block)
        tail = window[-len(magic) + 1 :]
    return None


def read_capture(file: BinaryIO, offset: int) -> Capture:
    """The capture at byte `offset` of an open WARC file. Raises ValueError where there is none that can be read."""
    from fastwarc.warc import ArchiveIterator

    file.seek(offset)
    try:
        record = next(iter(ArchiveIterator(file, parse_http=False)), None)
        block = b"" if record is None else record.reader.read()
    except OSError as error:
        raise ValueError(f"byte {offset}: {error}") from None
    if record is None or len(block) != record.content_length:
        raise ValueError(f"byte {offset}: expected a whole WARC record, found {len(block)} bytes of one")
    capture = _capture(record, block, offset)
    if capture is None:
        raise ValueError(f"byte {offset}: the record holds no HTTP answer")
    return capture


def _check_magic(path: Path) -> bytes | None:
    """How records of `path` begin, for finding the next one after damage; None where they cannot be found."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[:2] == b"\x1f\x8b":
        try:
            start = zlib.decompressobj(31).decompress(head, 64)
        except zlib.error:
            start = b"WARC/"  # a damaged first member: the reader will say so
        kind, what = b"\x1f\x8b", start
    elif head[:4] in (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18") or head[:4] == b"\x5d\x2a\x4d\x18":
        return None  # zstd (with or without a dictionary frame) and lz4
    else:
        kind, what = b"WA", head
    if what.startswith(b"WARC/") or not what:
        return _MAGICS[kind]
    if what.startswith(b"filedesc:"):
        raise ValueError(
            f"{path}: expected a WARC file, got an ARC file; convert it with `warcio recompress IN.arc.gz OUT.warc.gz`"
        )
    raise ValueError(
        f"{path}: expected a WARC file, got one that begins {what[:24]!r}; take it out of [fetch] archives"
    )


def _capture(record: Any, block: bytes, offset: int) -> Capture | None:
    """The answer that a fastwarc record holds, or None where it is of another kind. Raises ValueError on bad fields."""
    kind = record.headers.get("WARC-Type", "").lower()
    if kind not in ("response", "resource"):
        return None
    content_type = record.headers.get("Content-Type", "")
    if kind == "response" and content_type and "application/http" not in content_type.lower():
        return None  # text/dns and the like
    url = record.headers.get("WARC-Target-URI", "").strip().strip("<>")
    _check_digest(record.headers.get("WARC-Block-Digest", ""), block)
    date = parse_date(record.headers.get("WARC-Date", ""))
    truncated = record.headers.get("WARC-Truncated", "")
    if kind == "resource" and "application/http" not in content_type.lower():
        return Capture(url, date, 200, (("Content-Type", content_type),), block, truncated, offset)
    status, headers, body = parse_http(block)
    if "chunked" in header(headers, "transfer-encoding").lower():
        try:
            body = dechunk(body)
        except DecodeError as error:
            truncated = truncated or error.detail
    return Capture(url, date, status, headers, body, truncated, offset)


def _check_digest(stated: str, block: bytes) -> None:
    """Raises ValueError where the SHA-1 that a record states (base 32 or hex) is not its block's."""
    name, _, value = stated.strip().partition(":")
    if name.lower() not in ("sha1", "sha-1"):
        return
    digest = hashlib.sha1(block).digest()
    if value.upper() != base64.b32encode(digest).decode("ascii") and value.lower() != digest.hex():
        raise ValueError("the block does not have the digest that its record states")


def parse_date(text: str) -> int:
    """Seconds since 1970 of a W3C date. Raises ValueError."""
    try:
        date = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"WARC-Date {text[:40]!r} is not a date") from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return int(date.timestamp())


def format_date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?\s+(\d{3})")


def parse_http(block: bytes) -> tuple[int, Headers, bytes]:
    """(status, headers, body) of an HTTP/1 answer; header bytes as Latin-1. Raises ValueError without a status line."""
    status = _STATUS.match(block)
    if not status:
        raise ValueError(f"an HTTP status line expected, got {block[:24]!r}")
    end = _HEAD_END.search(block)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    headers: list[tuple[str, str]] = []
    for line in head.split(b"\n")[1:]:
        if line[:1] in (b" ", b"\t") and headers:  # obsolete folding
            headers[-1] = (headers[-1][0], f"{headers[-1][1]} {line.strip().decode('latin-1')}")
            continue
        name, colon, value = line.partition(b":")
        if colon:
            headers.append((name.strip().decode("latin-1"), value.strip().decode("latin-1")))
    return int(status.group(1)), tuple(headers), body


# Writing --------------------------------------------------------------------------------------------------------------


def warc_record(capture: Capture, *, ip_address: str = "", reason: str = "OK") -> bytes:
    """`capture` as one gzip member holding a WARC/1.1 response record: same capture, same bytes.

    The body is stored as received except for its chunked framing, so `Transfer-Encoding` is renamed as Common Crawl
    does (a reader would otherwise look for chunks).
    """
    lines = [f"HTTP/1.1 {capture.status} {reason}"]
    for name, value in capture.headers:
        lower = name.lower()
        if lower in ("transfer-encoding", "content-length"):
            name = f"X-Crawler-{name}"
        lines.append(f"{name}: {value}")
    lines.append(f"Content-Length: {len(capture.body)}")
    head = "\r\n".join(_one_line(line) for line in lines).encode("latin-1", "replace") + b"\r\n\r\n"
    block = head + capture.body
    digest = base64.b32encode(hashlib.sha1(block).digest()).decode("ascii")
    payload = base64.b32encode(hashlib.sha1(capture.body).digest()).decode("ascii")
    fields = [
        ("WARC-Type", "response"),
        ("WARC-Target-URI", capture.url),
        ("WARC-Date", format_date(capture.date)),
        ("WARC-Record-ID", _record_id(f"{capture.url} {capture.date} {digest}")),
        ("WARC-Payload-Digest", f"sha1:{payload}"),
        ("WARC-Block-Digest", f"sha1:{digest}"),
    ]
    if ip_address:
        fields.append(("WARC-IP-Address", ip_address))
    if capture.truncated:
        fields.append(("WARC-Truncated", capture.truncated))
    return _member(fields, "application/http; msgtype=response", block)


def warcinfo_record(facts: dict[str, str], date: int) -> bytes:
    """The record that opens a WARC file."""
    block = "".join(f"{name}: {_one_line(value)}\r\n" for name, value in facts.items()).encode()
    fields = [
        ("WARC-Type", "warcinfo"),
        ("WARC-Date", format_date(date)),
        ("WARC-Record-ID", _record_id(f"warcinfo {date} {block!r}")),
    ]
    return _member(fields, "application/warc-fields", block)


def _member(fields: list[tuple[str, str]], content_type: str, block: bytes) -> bytes:
    fields = [*fields, ("Content-Type", content_type), ("Content-Length", str(len(block)))]
    head = "WARC/1.1\r\n" + "".join(f"{name}: {_one_line(value)}\r\n" for name, value in fields) + "\r\n"
    # ISA-L's level 2 takes a quarter of the time of zlib's level 1, and 3% less room on real pages; its header has no
    # time of its own.
    return isal_zlib.compress(head.encode("utf-8", "replace") + block + b"\r\n\r\n", 2, 31)


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n\x00]+", " ", text)


def _record_id(name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"


# The index ------------------------------------------------------------------------------------------------------------

INDEX_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("date", pa.int64(), nullable=False),
        pa.field("status", pa.int16(), nullable=False),
        pa.field("content_type", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("location_id", pa.string()),  # where a redirect leads, as a document id
        pa.field("permanent", pa.bool_(), nullable=False),
        pa.field("canonical_url", pa.string(), nullable=False),
        pa.field("opt_out", pa.string(), nullable=False),
        pa.field("payload_sha256", pa.string(), nullable=False),
        pa.field("payload_bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Found:
    """A capture that answers a link: the fields of INDEX_SCHEMA that a ledger row needs, and where it lies."""

    archive: str  # path of the WARC file as the settings name it
    url: str
    offset: int
    date: int
    status: int
    content_type: str
    outcome: str
    detail: str
    canonical_url: str
    opt_out: str
    payload_sha256: str
    payload_bytes: int
    redirect: str = ""  # "permanent" or "temporary" where it was reached through archived redirects


@dataclass(frozen=True, slots=True)
class ArchiveDamage:
    """What of an archive could not be indexed."""

    archive: str
    offset: int
    detail: str


class ArchiveIndex:
    """Captures of many WARC files, by document id. 16 bytes of memory per capture; the rest stays in mapped files.

    Of several captures of a page the one that gives a page wins over those that do not, then the one nearest in time
    to the link's post (`created_at`), or the latest where that is not known; then the later, then the smaller digest
    of its payload, then the place in the archives. A redirect that an archive holds is followed in the archives.
    """

    def __init__(self, archives: Sequence[str], tables: Sequence[pa.Table], damage: Sequence[ArchiveDamage]) -> None:
        self.archives = tuple(archives)
        self.damage = tuple(damage)
        self._tables = tuple(tables)
        keys = [id_keys(table["id"]) for table in tables]
        sizes = [len(part) for part in keys]
        key = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self._file = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)[order]
        self._row = np.concatenate([np.arange(n, dtype=np.uint32) for n in sizes] or [np.zeros(0, np.uint32)])[order]

    def __len__(self) -> int:
        return len(self._key)

    def find(self, ids: Sequence[str], created_at: Sequence[int | None] | None = None) -> list[Found | None]:
        """The capture that answers each of `ids` (32 hex digits), or None."""
        if not len(ids) or not len(self):
            return [None] * len(ids)
        keys = id_keys(pa.array(ids, pa.string()))
        low = np.searchsorted(self._key, keys, "left")
        high = np.searchsorted(self._key, keys, "right")
        hits = np.flatnonzero(high > low).tolist()
        rows = iter(self._rows([place for at in hits for place in range(low[at], high[at])]))
        found: list[Found | None] = [None] * len(ids)
        for at in hits:
            candidates = [next(rows) for _ in range(low[at], high[at])]
            found[at] = self._best(
                ids[at], candidates, created_at[at] if created_at is not None else None, MAX_REDIRECTS
            )
        return found

    def has_page(self, ids: Sequence[str]) -> list[bool]:
        """Whether an archive holds an `ok` capture for each of `ids`."""
        return [found is not None and found.outcome == "ok" for found in self.find(ids)]

    def _rows(self, places: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
        """(archive, its index row) at each place, in order; each index file is asked once."""
        rows: list[tuple[int, dict[str, Any]]] = [(0, {})] * len(places)
        files = self._file[np.asarray(places, np.int64)]
        for file in np.unique(files).tolist():
            at = np.flatnonzero(files == file)
            wanted = self._row[np.asarray(places, np.int64)[at]]
            for where, row in zip(at.tolist(), self._tables[file].take(wanted).to_pylist(), strict=True):
                rows[where] = (file, row)
        return rows

    def _best(
        self, id: str, candidates: Iterable[tuple[int, dict[str, Any]]], when: int | None, hops: int
    ) -> Found | None:
        best: tuple[Any, Found] | None = None
        for file, row in candidates:
            found = self._found(self.archives[file], row, when, hops) if row["id"] == id else None
            if found is None:
                continue
            distance = abs(row["date"] - when) if when is not None else 0
            rank = (found.outcome != "ok", distance, -row["date"], found.payload_sha256, file, row["offset"])
            if best is None or rank < best[0]:
                best = (rank, found)
        return best[1] if best else None

    def _found(self, archive: str, row: dict[str, Any], when: int | None, hops: int) -> Found | None:
        if row["outcome"] != "redirect":
            return Found(archive=archive, **{name: row[name] for name in Found.__slots__ if name in row})
        target = row["location_id"]
        if hops == 0 or target is None or target == row["id"]:
            return None
        key = np.uint64(int(target[:16], 16))
        places = range(int(np.searchsorted(self._key, key)), int(np.searchsorted(self._key, key, "right")))
        reached = self._best(target, self._rows(places) if places else [], when, hops - 1)
        if reached is None or reached.outcome != "ok":
            return None
        permanent = row["permanent"] and reached.redirect != "temporary"
        return replace(reached, redirect="permanent" if permanent else "temporary")

    @classmethod
    def open(
        cls,
        archives: Sequence[str],
        cache: Path,
        *,
        max_decoded_bytes: int,
        publish: Callable[[Path, Path], None],
        stop: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ArchiveIndex:
        """The index of `archives`, read where `cache` has not got it. Raises ValueError where a file is no WARC file.

        `progress` gets (archives done, archives). When `stop` turns true, InterruptedError is raised between archives.
        """
        tables: list[pa.Table] = []
        damage: list[ArchiveDamage] = []
        for at, archive in enumerate(archives):
            if stop is not None and stop():
                raise InterruptedError("stopped while archives were being indexed")
            path = cached_index(Path(archive), cache, max_decoded_bytes)
            if path is None:
                path = _build_index(Path(archive), cache, max_decoded_bytes, publish)
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
            notes = json.loads((table.schema.metadata or {}).get(b"damage", b"[]"))
            damage.extend(ArchiveDamage(archive, offset, detail) for offset, detail in notes)
            tables.append(table.replace_schema_metadata(None))
            if progress is not None:
                progress(at + 1, len(archives))
        return cls(archives, tables, damage)


def cached_index(archive: Path, cache: Path, max_decoded_bytes: int) -> Path | None:
    """The cached index of `archive` as it is now, or None. Its name ends in 32 hex digits of its content's SHA-256."""
    found = sorted(cache.glob(f"{_cache_key(archive, max_decoded_bytes)}-*.arrow"))
    return found[0] if found else None


def _cache_key(archive: Path, max_decoded_bytes: int) -> str:
    try:
        stat = archive.stat()
    except FileNotFoundError:
        raise ValueError(f"[fetch] archives: expected a WARC file at {archive}, found none") from None
    facts = [str(archive.absolute()), stat.st_size, stat.st_mtime_ns, INDEX_VERSION, max_decoded_bytes]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _build_index(archive: Path, cache: Path, limit: int, publish: Callable[[Path, Path], None]) -> Path:
    key = _cache_key(archive, limit)
    columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
    damage: list[tuple[int, str]] = []
    for item in read_captures(archive):
        if isinstance(item, Damage):
            damage.append((item.offset, item.detail))
            continue
        judged = judge(item, limit)
        row = {
            "id": _document_id(item.url),
            "url": item.url,
            "offset": item.offset,
            "date": item.date,
            "status": item.status,
            "content_type": item.content_type[:200],
            "outcome": judged.outcome,
            "detail": judged.detail[:200],
            "location_id": _document_id(judged.location) if judged.location else None,
            "permanent": item.status in (301, 308),
            "canonical_url": judged.canonical_url,
            "opt_out": judged.opt_out,
            "payload_sha256": judged.payload_sha256,
            "payload_bytes": len(judged.payload),
        }
        if row["id"] is None:
            damage.append((item.offset, f"no link can lead to {item.url[:100]!r}"))
            continue
        for name, value in row.items():
            columns[name].append(value)
    table = pa.table(columns, schema=INDEX_SCHEMA).sort_by([("id", "ascending"), ("offset", "ascending")])
    table = table.replace_schema_metadata({b"damage": json.dumps(damage).encode()})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    content = sink.getvalue()
    cache.mkdir(parents=True, exist_ok=True)
    final = cache / f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    temporary = final.with_suffix(".tmp")
    temporary.write_bytes(content)
    publish(temporary, final)
    return final


def _document_id(url: str) -> str | None:
    from webtext.urls import canonical_url, document_id

    try:
        return document_id(canonical_url(url))
    except ValueError:
        return None


def id_keys(ids: Any) -> npt.NDArray[np.uint64]:
    """The first 16 of each id's hex digits as numbers."""
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    parts = [
        np.frombuffer(bytes.fromhex("".join(id[:16] for id in chunk.to_pylist())), ">u8").astype(np.uint64)
        for chunk in chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)
