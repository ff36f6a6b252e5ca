"""Documents in the tables between stages: ranges of ids, texts by id, and how ids and times are written.

An id is 32 hex digits in tables and uint8[16] in the kernels of dedup/ and model/.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from webtext import records

DOCUMENT_BATCH = 512  # documents that a step holds at a time


def shard_of(id: str, num_shards: int) -> int:
    """Which of `num_shards` equal ranges of ids an id falls into."""
    return int(id[:8], 16) * num_shards >> 32


def range_of(shard: int, num_shards: int) -> tuple[str, str]:
    """(first, end): ids with first <= id < end are in the shard. "g" stands for the end of all ids."""
    first, end = (-(-index * (1 << 32) // num_shards) for index in (shard, shard + 1))
    return f"{first:08x}", f"{end:08x}" if end < 1 << 32 else "g"


def read_range(path: Path, first: str, end: str, columns: list[str] | None = None) -> Any:
    """Rows with first <= id < end of a Parquet file sorted by id or in sorted runs; row groups outside are skipped."""
    return pq.read_table(
        path,
        columns=columns,
        filters=[("id", ">=", first), ("id", "<", end)],
        page_checksum_verification=True,
        partitioning=None,
    )


def document_batch(rows: list[records.Document]) -> Any:
    """DOCUMENT_SCHEMA record batch of `rows`."""
    return pa.record_batch(
        [pa.array([getattr(row, one.name) for row in rows], one.type) for one in records.DOCUMENT_SCHEMA],
        schema=records.DOCUMENT_SCHEMA,
    )


class Documents:
    """Texts of documents by id, from segments' Parquet files sorted by id."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)
        ids, places = [], []
        for number, path in enumerate(self._paths):
            column = storage.read_table(path, ["id"]).column("id")
            ids.append(id_bytes(column))
            place = np.empty((len(column), 2), np.int64)
            place[:, 0] = number
            place[:, 1] = np.arange(len(column))
            places.append(place)
        every = np.concatenate(ids) if ids else np.empty((0, 16), np.uint8)
        keys = every.view(">u8").astype(np.uint64)
        self._order = np.lexsort((keys[:, 1], keys[:, 0])) if len(keys) else np.empty(0, np.int64)
        self._ids = np.ascontiguousarray(every[self._order]).view("V16").ravel()
        self._places = np.concatenate(places)[self._order] if places else np.empty((0, 2), np.int64)

    def texts(self, ids: np.ndarray[Any, Any]) -> Any:
        """Arrow string array of the texts of `ids` (uint8[n, 16]), in their order. KeyError for an unknown id."""
        wanted = np.ascontiguousarray(ids).view("V16").ravel()
        rows = np.searchsorted(self._ids.view("S16"), wanted.view("S16"))
        places = self._places[rows]
        chunks: list[Any] = []
        positions: list[Any] = []
        for number in np.unique(places[:, 0]):
            mine = np.flatnonzero(places[:, 0] == number)
            chunks.append(self._rows(self._paths[number], places[mine, 1]))
            positions.append(mine)
        if not chunks:
            return pa.array([], pa.string())
        back = np.argsort(np.concatenate(positions), kind="stable")
        return pa.chunked_array(chunks).combine_chunks().take(pa.array(back))

    @staticmethod
    def _rows(path: Path, rows: np.ndarray[Any, Any]) -> Any:
        """Texts at `rows` of one file; only the row groups that hold them are read."""
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            group_of = np.searchsorted(starts, rows, side="right") - 1
            texts = np.empty(len(rows), object)
            for group in np.unique(group_of):
                mine = np.flatnonzero(group_of == group)
                column = file.read_row_group(int(group), columns=["text"]).column("text")
                found = column.take(pa.array(rows[mine] - starts[group])).to_pylist()
                for position, text in zip(mine, found, strict=True):
                    texts[position] = text
        return pa.array(texts.tolist(), pa.string())


def id_bytes(column: Any) -> np.ndarray[Any, Any]:
    """uint8[n, 16] of an Arrow column of 32-digit hex ids."""
    text = "".join(column.to_pylist())
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 16)


def iso(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
