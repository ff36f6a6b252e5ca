"""Common Crawl as a source of pages: CDXJ index files, and ranged reads of its WARC files over HTTP.

How a WebText of 2015's links is rebuilt when a third of them are dead: of a page's captures the one nearest to the
link's post is taken, and the ledger says which it was.

- Index files are local: what `cdx-00000.gz` of a crawl or an index server's answer holds, whole or cut down to one's
  own hosts. A line is `urlkey timestamp {json}`; the key is not used, since this project has its own.
- Only captures that can be pages are kept (status 200, a text type): the others would cost a request each to learn so.
- A capture is one gzip member, asked for by its range; what comes must be that member, of the URL that the index says,
  with the digest that the index says. Anything else is `damaged`.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from webtext.archives import Capture, id_keys, read_capture

INDEX_VERSION: Final = 1
TEXT_TYPES: Final = frozenset({"text/html", "application/xhtml+xml", "text/plain"})

CDX_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("date", pa.int64(), nullable=False),
        pa.field("filename", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Remote:
    """A capture in a WARC file on some server."""

    url: str  # of the page
    date: int
    filename: str  # path below the server's base URL
    offset: int
    length: int
    digest: str  # SHA-1 of the body as stored, base 32; "" if the index has none

    @property
    def byte_range(self) -> str:
        """The Range header that asks for it.

        >>> Remote("http://a.example/", 0, "x.warc.gz", 100, 50, "").byte_range
        'bytes=100-149'
        """
        return f"bytes={self.offset}-{self.offset + self.length - 1}"


class _Entry(msgspec.Struct):
    url: str
    filename: str
    offset: str | int
    length: str | int
    status: str | int = ""
    mime: str = ""
    digest: str = ""
    mime_detected: str = msgspec.field(name="mime-detected", default="")


_DECODER: Final = msgspec.json.Decoder(_Entry)


def parse_line(line: bytes) -> Remote | None:
    """The capture of a CDXJ line, None where it cannot be a page. Raises ValueError where it is no such line."""
    start = line.find(b"{")
    fields = line[: max(start, 0)].split()
    if start < 0 or not fields or not fields[-1].isdigit() or len(fields[-1]) != 14:
        raise ValueError(f"expected `key timestamp {{json}}`, got {line[:60]!r}")
    try:
        entry = _DECODER.decode(line[start:])
        offset, length = int(entry.offset), int(entry.length)
        moment = datetime.datetime.strptime(fields[-1].decode("ascii"), "%Y%m%d%H%M%S").replace(tzinfo=datetime.UTC)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{error} in {line[:60]!r}") from None
    if str(entry.status) != "200" or (entry.mime_detected or entry.mime) not in TEXT_TYPES:
        return None
    if offset < 0 or length <= 0 or ".." in entry.filename or entry.filename.startswith("/"):
        raise ValueError(f"a range or file name that no capture has in {line[:60]!r}")
    digest = entry.digest.removeprefix("sha1:")
    return Remote(entry.url, int(moment.timestamp()), entry.filename, offset, length, digest)


def read_index(path: Path) -> Iterator[Remote | ValueError]:
    """The captures of a CDXJ file (plain or gzip) that can be pages; for a bad line, a ValueError with its number."""
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        if file.peek(2)[:2] == b"\x1f\x8b":
            file = stack.enter_context(gzip.open(file))
        number = 0
        try:
            for number, line in enumerate(file, 1):
                if not line.strip() or line.startswith((b"!", b" CDX")):
                    continue
                try:
                    found = parse_line(line)
                except ValueError as error:
                    yield ValueError(f"line {number}: {error}")
                    continue
                if found is not None:
                    yield found
        except (OSError, EOFError) as error:
            yield ValueError(f"after line {number}: {error}")


class CaptureIndex:
    """Captures by document id. 12 bytes of memory each; the rest stays in mapped files under `cache`."""

    def __init__(self, tables: Sequence[pa.Table], damage: Sequence[tuple[str, str]] = ()) -> None:
        table = pa.concat_tables(tables) if tables else CDX_SCHEMA.empty_table()
        keys = id_keys(table["id"])
        order = np.argsort(keys, kind="stable")
        self.damage = tuple(damage)
        self._table = table
        self._keys = keys[order]
        self._rows = order.astype(np.uint32)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, ids: Sequence[str], created_at: Sequence[int | None]) -> list[Remote | None]:
        """For each id the capture nearest to its post, the latest where that is not known, or None."""
        found: list[Remote | None] = [None] * len(ids)
        if not len(self) or not len(ids):
            return found
        keys = id_keys(pa.array(ids, pa.string()))
        low, high = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        for at in np.flatnonzero(high > low).tolist():
            rows = self._table.take(self._rows[low[at] : high[at]]).to_pylist()
            when = created_at[at]
            rows = [row for row in rows if row.pop("id") == ids[at]]
            rows.sort(
                key=lambda row: (abs(row["date"] - when) if when is not None else 0, -row["date"], row["filename"])
            )
            if rows:
                found[at] = Remote(**rows[0])
        return found

    @classmethod
    def open(
        cls,
        paths: Sequence[str],
        cache: Path,
        *,
        publish: Callable[[Path, Path], None],
        stop: Callable[[], bool] | None = None,
    ) -> CaptureIndex:
        """The captures of CDXJ files, read where `cache` has not got them."""
        tables, damage = [], []
        for path in paths:
            if stop is not None and stop():
                raise InterruptedError("stopped while indexes were being read")
            stat = Path(path).stat()
            facts = json.dumps([str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns, INDEX_VERSION])
            final = cache / f"cdx-{hashlib.sha256(facts.encode()).hexdigest()[:32]}.arrow"
            if not final.exists():
                _build(Path(path), final, publish)
            with pa.memory_map(str(final)) as source:
                table = pa.ipc.open_file(source).read_all()
            damage += [(path, note) for note in json.loads(table.schema.metadata[b"damage"])]
            tables.append(table.replace_schema_metadata(None))
        return cls(tables, damage)


def _build(path: Path, final: Path, publish: Callable[[Path, Path], None]) -> None:
    from webtext.urls import canonical_url, document_id

    columns: dict[str, list[Any]] = {name: [] for name in CDX_SCHEMA.names}
    damage: list[str] = []
    for item in read_index(path):
        if isinstance(item, ValueError):
            damage.append(str(item))
            continue
        try:
            id = document_id(canonical_url(item.url))
        except ValueError as error:
            damage.append(str(error))
            continue
        columns["id"].append(id)
        for name in CDX_SCHEMA.names[1:]:
            columns[name].append(getattr(item, name))
    table = pa.table(columns, schema=CDX_SCHEMA).replace_schema_metadata({b"damage": json.dumps(damage).encode()})
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    publish(temporary, final)


def open_capture(remote: Remote, data: bytes) -> Capture:
    """The capture that a ranged read gave. Raises ValueError where it is not what the index says."""
    capture = read_capture(io.BytesIO(data), 0)
    if capture.url != remote.url:
        raise ValueError(f"the record is of {capture.url[:100]!r}, the index says {remote.url[:100]!r}")
    digest = base64.b32encode(hashlib.sha1(capture.body).digest()).decode("ascii")
    if remote.digest and len(remote.digest) == 32 and remote.digest.upper() != digest:
        raise ValueError("the body does not have the digest that the index states")
    return capture
