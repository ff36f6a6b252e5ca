"""Publishing: the old file or the new one, never half of one; and equal rows give equal bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage

SCHEMA = pa.schema([pa.field("id", pa.string()), pa.field("text", pa.string())])


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    final = tmp_path / "file"
    storage.write_text(final, "old")
    with pytest.raises(RuntimeError), storage.writing(final) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise RuntimeError
    assert final.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("event", ["write", "fsync", "rename"])
def test_a_failing_disk_is_an_error_and_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, action: str
) -> None:
    monkeypatch.setenv("WEBTEXT_FAILPOINT", f"{event}@1={action}")
    monkeypatch.setenv("WEBTEXT_FAILPOINT_COUNTER", str(tmp_path / "counter"))
    with pytest.raises(OSError) as caught:  # noqa: PT011
        storage.write_text(tmp_path / "out" / "file", "text")
    assert caught.value.errno == getattr(errno, action.upper())
    assert list((tmp_path / "out").iterdir()) == []


def rows(count: int) -> pa.Table:
    return pa.table({"id": [str(row) for row in range(count)], "text": ["x" * (row % 97) for row in range(count)]})


def test_batches_do_not_decide_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_ROW_GROUP_BYTES", 10_000)
    table = rows(5000).cast(SCHEMA)
    for name, size in [("a", 5000), ("b", 1), ("c", 777)]:
        written = storage.write_parquet(tmp_path / name, SCHEMA, table.to_batches(max_chunksize=size))
        assert written == 5000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert storage.read_table(tmp_path / "a").equals(table)
    metadata = pq.ParquetFile(tmp_path / "a").metadata
    assert metadata.num_row_groups > 10


def test_no_row_group_is_larger_than_the_limit_unless_one_row_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "MAX_ROW_GROUP_BYTES", 1000)
    table = pa.table({"id": ["a", "b", "c"], "text": ["x" * 10, "y" * 5000, "z"]}, SCHEMA)
    groups = list(storage.regrouped([table], SCHEMA))
    assert [group.num_rows for group in groups] == [1, 1, 1]


def test_an_empty_table_has_its_schema(tmp_path: Path) -> None:
    assert storage.write_parquet(tmp_path / "empty", SCHEMA, []) == 0
    assert storage.read_table(tmp_path / "empty").schema.equals(SCHEMA)


def test_a_flipped_bit_in_a_page_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.write_parquet(path, SCHEMA, [rows(1000)])
    data = bytearray(path.read_bytes())
    silent = 0
    for place in range(100, 1500, 50):
        flipped = bytearray(data)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        try:
            read = storage.read_table(path)
        except OSError:
            continue
        silent += not read.equals(rows(1000).cast(SCHEMA))
    assert silent == 0
