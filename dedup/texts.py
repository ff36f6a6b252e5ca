"""Anyone's text as batches of (id, text, url, name): Parquet, JSON lines or plain files.

- A path may be a file, a folder (searched through and through) or a glob; files are read in the order of their names.
- Formats by suffix: .parquet; .jsonl, .ndjson, .json (one object a line); .txt, .text, .md and files without suffix
  (one document a file, or a line with txt="line"); each of the last two also as .zst, .gz, .bz2, .xz.
- `name` is what the user calls the document: the value of the id column, else FILE:ROW (FILE as seen from the
  folder that all inputs share). `id` is the name itself where it is 32 hexadecimal digits, as in this project's
  corpora, else the first 32 of its SHA-256.
- What cannot be read (a broken line, a text that is null or not a string) is handed to `on_bad` and counted there;
  without `on_bad` it is an error. A column that is not there at all is always an error that names the columns that are.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import io
import lzma
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

TEXT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("name", pa.string(), nullable=False),
    ]
)

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TXT_SUFFIXES = (".txt", ".text", ".md", "")
COMPRESSIONS = (".zst", ".gz", ".bz2", ".xz")
MAX_TEXT_BYTES = (1 << 31) - 1  # Arrow string offsets

_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class BadText:
    """A record that could not be read."""

    path: str
    row: int  # from 0: the line, or the row of the Parquet file
    reason: str


def expand_paths(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` (files, folders, globs) name, sorted, each once. ValueError where one names nothing."""
    if not paths:
        raise ValueError("paths: expected at least one file, folder or glob, got none")
    found: set[Path] = set()
    for given in paths:
        path = Path(given)
        if path.is_dir():
            matched = [file for file in path.rglob("*") if file.is_file() and readable(file)]
        elif path.is_file():
            matched = [path]
        else:
            matched = [Path(name) for name in glob.glob(str(given), recursive=True)]  # noqa: PTH207 - absolute patterns
            matched = [file for file in matched if file.is_file()]
        if not matched:
            raise ValueError(
                f"{given}: expected a file, a folder with texts or a glob that matches, found nothing there"
            )
        found.update(matched)
    return sorted(found)


def suffixes(path: Path) -> tuple[str, str]:
    """(format, compression) suffixes in lower case: x.jsonl.zst -> (".jsonl", ".zst")."""
    last = path.suffix.lower()
    if last in COMPRESSIONS:
        return Path(path.stem).suffix.lower(), last
    return last, ""


def readable(path: Path) -> bool:
    """Whether the name says that `read_texts` can read the file."""
    kind, _ = suffixes(path)
    return not path.name.startswith((".", "_")) and kind in (".parquet", *JSON_SUFFIXES, *TXT_SUFFIXES)


def open_bytes(path: Path) -> BinaryIO:
    """`path` for reading, decompressed by its suffix; zstd with windows up to 2^31."""
    match suffixes(path)[1]:
        case ".zst":
            decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            reader = decompressor.stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
            return cast(BinaryIO, io.BufferedReader(cast(Any, reader), 1 << 20))
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
    return path.open("rb")


def document_id(name: str) -> str:
    """`name` where it is an id already, else the first 32 hexadecimal digits of its SHA-256."""
    return name if _ID.match(name) else hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_texts(
    paths: Sequence[str | Path],
    *,
    text_column: str = "text",
    id_column: str | None = None,
    url_column: str = "url",
    txt: Literal["file", "line"] = "file",
    root: Path | None = None,
    batch_bytes: int = 64 << 20,
    on_bad: Callable[[BadText], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of TEXT_SCHEMA, of about `batch_bytes` of text, in the order of the files and of their rows.

    `id_column` defaults to "id" where there is one. A url column that is missing gives nulls. `root` is the folder that
    names start from, where the files are read a few at a time; it defaults to the one that they share.
    """
    files = expand_paths(paths)
    for path in files:
        if not readable(path):
            raise ValueError(
                f"{path}: expected .parquet, .jsonl or .txt (also .zst, .gz, .bz2, .xz), got another suffix"
            )
    parents = [str(path.absolute().parent) for path in files]
    root = Path(os.path.commonpath(parents)) if root is None else root.absolute()
    columns = _Columns(text_column, id_column, url_column)
    for path in files:
        batch = _Batch(path.absolute().relative_to(root).as_posix(), batch_bytes, on_bad)
        match suffixes(path)[0]:
            case ".parquet":
                yield from _read_parquet(path, columns, batch)
            case kind if kind in JSON_SUFFIXES:
                yield from _read_json_lines(path, columns, batch)
            case _:
                yield from _read_plain(path, txt, batch)
        yield from batch.flush()


@dataclass(frozen=True, slots=True)
class _Columns:
    text: str
    id: str | None
    url: str


class _Batch:
    """Rows of one file on their way into record batches."""

    def __init__(self, file: str, limit: int, on_bad: Callable[[BadText], None] | None) -> None:
        self.file = file
        self._limit = limit
        self._on_bad = on_bad
        self._rows: list[tuple[str, str, str | None, str]] = []
        self._size = 0

    def bad(self, row: int, reason: str) -> None:
        if self._on_bad is None:
            raise ValueError(f"{self.file}, row {row}: {reason}")
        self._on_bad(BadText(self.file, row, reason))

    def add(self, row: int, text: Any, name: Any, url: Any) -> Iterator[pa.RecordBatch]:
        if not isinstance(text, str):
            self.bad(row, f"expected a text, got {'null' if text is None else type(text).__name__}")
            return
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > MAX_TEXT_BYTES:
            self.bad(row, f"expected a text below 2 GiB, got {size} bytes")
            return
        if self._rows and self._size + size > self._limit:
            yield from self.flush()
        label = f"{self.file}:{row}" if name is None else str(name)
        self._rows.append((document_id(label), text, url if isinstance(url, str) else None, label))
        self._size += size

    def flush(self) -> Iterator[pa.RecordBatch]:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, TEXT_SCHEMA, strict=True)]
            yield pa.record_batch(arrays, schema=TEXT_SCHEMA)
        self._rows, self._size = [], 0


def _read_parquet(path: Path, columns: _Columns, batch: _Batch) -> Iterator[pa.RecordBatch]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file, got one that cannot be opened ({error})") from error
    with file:
        names = file.schema_arrow.names
        for wanted in (columns.text, columns.id):
            if wanted is not None and wanted not in names:
                raise ValueError(f"{path}: expected a column {wanted!r}, got {', '.join(names)}; name one of these")
        key = columns.id or ("id" if "id" in names else None)
        used = [name for name in (columns.text, key, columns.url) if name in names]
        row = 0
        for part in file.iter_batches(batch_size=8192, columns=list(dict.fromkeys(used))):
            texts = part.column(columns.text).to_pylist()
            keys = part.column(key).to_pylist() if key else [None] * len(texts)
            urls = part.column(columns.url).to_pylist() if columns.url in names else [None] * len(texts)
            for text, name, url in zip(texts, keys, urls, strict=True):
                yield from batch.add(row, text, name, url)
                row += 1


def _read_json_lines(path: Path, columns: _Columns, batch: _Batch) -> Iterator[pa.RecordBatch]:
    key = columns.id or "id"
    fields = list(dict.fromkeys([columns.text, key, columns.url]))
    names = {name: f"c{index}" for index, name in enumerate(fields)}
    record = msgspec.defstruct(
        "Record", [(python, Any, None) for python in names.values()], rename={v: k for k, v in names.items()}
    )
    decoder: Any = msgspec.json.Decoder(record)
    first = True
    row = -1
    try:
        with open_bytes(path) as lines:
            for row, line in enumerate(lines):
                if not line.strip():
                    continue
                try:
                    value = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    batch.bad(row, f"expected a JSON object on one line: {error}")
                    continue
                text = getattr(value, names[columns.text])
                if first and text is None:
                    present = sorted(msgspec.json.decode(line))
                    if columns.text not in present:
                        raise ValueError(
                            f"{path}: expected a field {columns.text!r}, got {', '.join(present)}; name one of these"
                        )
                first = False
                yield from batch.add(row, text, getattr(value, names[key]), getattr(value, names[columns.url]))
    except (EOFError, OSError, zstandard.ZstdError, lzma.LZMAError) as error:
        batch.bad(row + 1, f"the file ends early or is damaged: {error}")


def _read_plain(path: Path, txt: str, batch: _Batch) -> Iterator[pa.RecordBatch]:
    try:
        with open_bytes(path) as file:
            if txt == "line":
                for row, line in enumerate(file):
                    if line.strip():
                        yield from batch.add(row, line.decode("utf-8", "replace").rstrip("\r\n"), None, None)
            else:
                yield from batch.add(0, file.read().decode("utf-8", "replace"), None, None)
    except (EOFError, OSError, zstandard.ZstdError, lzma.LZMAError) as error:
        batch.bad(0, f"the file ends early or is damaged: {error}")
