"""Links as SelectLinks gives them, and the seam through which files are published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from webtext.urls import canonical_url, document_id


def publish(temporary: Path, final: Path) -> None:
    temporary.replace(final)


def link_batches(urls: Iterable[str], *, size: int = 7, created_at: int | None = None) -> list[pa.RecordBatch]:
    rows = sorted({document_id(canonical_url(url)): url for url in urls}.items())
    batches = []
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        times = pa.array([created_at] * len(part), pa.int64())
        batches.append(
            pa.record_batch({"id": [id for id, _ in part], "url": [url for _, url in part], "created_at": times})
        )
    return batches
