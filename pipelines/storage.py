"""The only place that publishes a file.

- A file is written under a temporary name beside its place, fsynced, renamed over its place, and the directory is
  fsynced: after a power loss there is the old file or the new one, never half of one.
- What a dead process left under a temporary name is swept by the next one, under the root's lock.
- Parquet is written with zstd and a CRC on every page, and the CRC is checked on every read: without it 149 to 169 of
  200 flipped bits read as wrong values and no error.
- Steps of the protocol are failpoints: the environment variable WEBTEXT_FAILPOINT names the event at which a process
  dies or the disk fails, so that tests can stop a build at every single one of them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY_SUFFIX = ".tmp"
MAX_ROW_GROUP_BYTES = 100 << 20
MAX_ROW_GROUP_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class File:
    """A published file as a seal records it. `rows` is None where the file has no rows."""

    name: str
    sha256: str
    size_bytes: int
    rows: int | None = None


def failpoint(event: str, path: Path | None = None, detail: str = "") -> None:
    """Die or fail here if WEBTEXT_FAILPOINT says so; does nothing otherwise.

    The variable reads `EVENT@N=ACTION`: at the N-th (from 1) EVENT of all processes together, ACTION is `kill`
    (SIGKILL to this process), `killgroup` (to the whole process group), `enospc` or `eio` (an OSError). `*` stands
    for any event. `EVENT@each=ACTION` acts at each event once, told apart by file and `detail`, however often the
    build is run again: so every event of a build can be tried in one root. WEBTEXT_FAILPOINT_COUNTER names the file
    in which the processes count together.
    """
    wanted = os.environ.get("WEBTEXT_FAILPOINT")
    if not wanted:
        return
    where, _, action = wanted.partition("=")
    name, _, number = where.partition("@")
    if name not in (event, "*"):
        return
    counter = Path(os.environ["WEBTEXT_FAILPOINT_COUNTER"])
    acts = (
        _is_new(counter, f"{event} {_lasting(path)} {detail}\n")
        if number == "each"
        else _count(counter) == int(number or 1)
    )
    if not acts:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "killgroup":
        os.killpg(0, signal.SIGKILL)
    elif action in ("enospc", "eio"):
        code = errno.ENOSPC if action == "enospc" else errno.EIO
        raise OSError(code, os.strerror(code), str(path) if path else None)
    else:
        raise ValueError(f"WEBTEXT_FAILPOINT: expected the action kill, killgroup, enospc or eio, got {action!r}")


def _lasting(path: Path | None) -> str:
    """The path without what only this process calls it."""
    return str(path).replace(f".{os.getpid()}{TEMPORARY_SUFFIX}", TEMPORARY_SUFFIX)


def _count(counter: Path) -> int:
    """One more event of all processes together: how many there are now."""
    stream = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(stream, b".")
        return os.lseek(stream, 0, os.SEEK_CUR)
    finally:
        os.close(stream)


def _is_new(counter: Path, event: str) -> bool:
    """Whether no process has met this event before; it has been met from now on."""
    with counter.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        if event in stream:
            return False
        stream.write(event)
        return True


def fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Make `temporary` be `final`, durably: fsync, rename, fsync of the directory."""
    failpoint("fsync", final)
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    failpoint("rename", final)
    temporary.replace(final)
    failpoint("renamed", final)
    fsync_directory(final.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on `directory` against other processes: for files that several append to."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def temporary_path(final: Path) -> Path:
    """The name that `final` has while it is being written: beside it, hidden, with the writer's pid."""
    return final.with_name(f".{final.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


@contextmanager
def writing(final: Path) -> Iterator[Path]:
    """Give a temporary path to write to; publish it as `final` if the body succeeds, remove it if it does not."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(final)
    try:
        failpoint("write", final)
        yield temporary
        publish(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(final: Path, text: str) -> None:
    with writing(final) as temporary:
        temporary.write_text(text, encoding="utf-8")


def canonical_json(value: object) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_json(final: Path, value: object) -> None:
    write_text(final, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_parquet(path: Path, schema: Any, batches: Iterable[Any]) -> int:
    """Write record batches or tables of `schema` as Parquet and return the number of rows.

    Row groups hold at most MAX_ROW_GROUP_BYTES of Arrow memory and MAX_ROW_GROUP_ROWS rows, and their borders depend
    on the rows only, not on how the rows arrive in batches: so equal rows give equal bytes.
    """
    rows = 0
    with pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=3, write_page_checksum=True, write_page_index=True
    ) as writer:
        for group in regrouped(batches, schema):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
            rows += group.num_rows
    return rows


def regrouped(batches: Iterable[Any], schema: Any) -> Iterator[Any]:
    """Tables of one row group each, cut by a rule that sees rows and not batches."""
    waiting: list[Any] = []
    waiting_rows = waiting_bytes = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        if table.num_rows == 0:
            continue
        sizes = row_sizes(table)
        start = 0
        for row, size in enumerate(sizes):
            if waiting_rows and (waiting_rows >= MAX_ROW_GROUP_ROWS or waiting_bytes + size > MAX_ROW_GROUP_BYTES):
                yield pa.concat_tables([*waiting, table.slice(start, row - start)]).cast(schema).combine_chunks()
                waiting, waiting_rows, waiting_bytes, start = [], 0, 0, row
            waiting_rows += 1
            waiting_bytes += size
        waiting.append(table.slice(start))
    if waiting_rows:
        yield pa.concat_tables(waiting).cast(schema).combine_chunks()


def row_sizes(table: Any) -> list[int]:
    """Bytes of each row that vary: its strings and binaries, plus eight for every other column."""
    import pyarrow.compute as pc

    total: Any = None
    fixed = 0
    for column in table.columns:
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
            lengths = pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), 0)
            total = lengths if total is None else pc.add(total, lengths)
        else:
            fixed += 8
    if total is None:
        return [fixed] * table.num_rows
    sizes: list[int] = pc.add(total, fixed).to_pylist()
    return sizes


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """A whole Parquet file, page CRCs checked."""
    return pq.read_table(path, columns=columns, page_checksum_verification=True, partitioning=None)


def read_batches(path: Path, columns: list[str] | None = None, batch_rows: int = 8192) -> Iterator[Any]:
    """The record batches of a Parquet file, page CRCs checked."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=columns)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(root: Path) -> int:
    """Remove what dead writers left under temporary names anywhere below `root`; the caller holds the root's lock."""
    leftovers = sorted(root.rglob(f".*{TEMPORARY_SUFFIX}"))
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)
