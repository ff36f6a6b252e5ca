"""dedup.texts: every format gives the same rows, and what is broken is named."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dedup.texts import TEXT_SCHEMA, BadText, document_id, expand_paths, read_texts

ROWS = [
    {"id": "first", "text": "One text.", "url": "https://example.org/1"},
    {"id": "0123456789abcdef0123456789abcdef", "text": "Zwei, été, 日本 \u2028 one line still", "url": None},
    {"id": "third", "text": "", "url": "https://example.org/3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def rows(*paths: Path | str, **options: object) -> list[dict[str, str | None]]:
    batches = list(read_texts(paths, **options))  # type: ignore[arg-type]
    assert all(batch.schema.equals(TEXT_SCHEMA) for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", lambda data: data),
        (".zst", lambda data: zstandard.compress(data[:50]) + zstandard.compress(data[50:])),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
    ],
)
def test_json_lines_are_read_under_every_compression(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(LINES))
    found = rows(path)
    assert [row["text"] for row in found] == [row["text"] for row in ROWS]
    assert [row["url"] for row in found] == [row["url"] for row in ROWS]
    assert [row["name"] for row in found] == [row["id"] for row in ROWS]
    assert [row["id"] for row in found] == [
        hashlib.sha256(b"first").hexdigest()[:32],
        "0123456789abcdef0123456789abcdef",
        hashlib.sha256(b"third").hexdigest()[:32],
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet_gives_the_rows_that_json_lines_give(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    table = pa.Table.from_pylist(ROWS, pa.schema([("text", kind), ("id", pa.string()), ("url", pa.string())]))
    pq.write_table(table, tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == rows(tmp_path / "a.jsonl")


def test_columns_go_by_the_names_given(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"], "key": [7], "link": ["http://a"]}), tmp_path / "a.parquet")
    (row,) = rows(tmp_path / "a.parquet", text_column="content", id_column="key", url_column="link")
    assert row == {"id": document_id("7"), "text": "x", "url": "http://a", "name": "7"}
    with pytest.raises(ValueError, match="expected a column 'text', got content, key, link; name one of these"):
        rows(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"content": "x", "key": 7}\n')
    with pytest.raises(ValueError, match="expected a field 'text', got content, key; name one of these"):
        rows(tmp_path / "a.jsonl")


def test_without_an_id_a_document_is_named_by_file_and_row(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}\n')
    found = rows(tmp_path)
    assert [row["name"] for row in found] == ["one/a.jsonl:0", "one/a.jsonl:2", "two/a.jsonl:0", "two/a.jsonl:2"]
    assert len({row["id"] for row in found}) == 4


def test_a_plain_file_is_one_document_or_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"first line\nsecond \xff line\n\nlast")
    assert [row["text"] for row in rows(tmp_path / "a.txt")] == ["first line\nsecond \ufffd line\n\nlast"]
    by_line = rows(tmp_path / "a.txt", txt="line")
    assert [row["text"] for row in by_line] == ["first line", "second \ufffd line", "last"]
    assert [row["name"] for row in by_line] == ["a.txt:0", "a.txt:1", "a.txt:3"]


def test_broken_records_are_counted_and_the_others_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "good"}\n{"text": "cut off\n[1]\n{"text": null}\n{"text": 5}\n'
        b'{"text": "\\ud800 lone"}\n\xff\xfe\n{"text": "last"}'
    )
    bad: list[BadText] = []
    assert [row["text"] for row in rows(tmp_path / "a.jsonl", on_bad=bad.append)] == ["good", "last"]
    assert [(one.path, one.row) for one in bad] == [("a.jsonl", row) for row in range(1, 7)]
    assert bad[2].reason == "expected a text, got null"
    with pytest.raises(ValueError, match=r"a\.jsonl, row 1: expected a JSON object"):
        rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_file_cut_short_gives_what_is_left_and_says_so(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(50_000))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(lines)[:-2_000])
    bad: list[BadText] = []
    found = rows(tmp_path / f"a.jsonl{suffix}", on_bad=bad.append)
    assert len(bad) == 1
    assert "expected a JSON object" in bad[0].reason or "damaged" in bad[0].reason
    assert found[100]["text"] == str(100 * 7919)


def test_batches_are_bounded_and_a_long_text_is_one_alone(tmp_path: Path) -> None:
    texts = ["x" * 40] * 5 + ["y" * 1_000] + ["z" * 40] * 5
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    batches = list(read_texts([tmp_path / "a.jsonl"], batch_bytes=100))
    assert [len(batch) for batch in batches] == [2, 2, 1, 1, 2, 2, 1]
    assert [text for batch in batches for text in batch["text"].to_pylist()] == texts


def test_globs_and_folders_are_read_in_the_order_of_names_each_file_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "ignored.png", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [row["text"] for row in rows(tmp_path, str(tmp_path / "*.txt"))] == ["a.txt", "b.txt", "sub/c.txt"]
    assert expand_paths([str(tmp_path / "**" / "c.*")]) == [tmp_path / "sub" / "c.txt"]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing there"):
        rows(tmp_path / "*.parquet")
    with pytest.raises(ValueError, match="expected at least one"):
        rows()
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"expected \.parquet, \.jsonl or \.txt"):
        rows(tmp_path / "a.png")
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="expected a Parquet file"):
        rows(tmp_path / "a.parquet")
