"""Submissions: every line is a row or a drop, whatever the year, the container or the damage."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import threading
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext.records import DROP_SCHEMA, SUBMISSION_SCHEMA
from webtext.reddit import (
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    LinkSources,
    ReadSummary,
    RedditApiError,
    Removals,
    SubmissionBatch,
    read_api,
    read_dump,
    read_removals,
    read_url_list,
)

Row = dict[str, Any]


def line(**fields: Any) -> Row:
    """A submission of 2015 with `fields` changed; a field given as ... is missing."""
    record = {
        "id": "3a1b2c",
        "url": "http://example.com/story",
        "domain": "example.com",
        "is_self": False,
        "score": 7,
        "created_utc": 1430000000,
        "retrieved_on": 1432000000,
        "over_18": False,
        "subreddit": "news",
        "author": "someone",
        "title": "A story",
        "selftext": "",
        "edited": False,
    } | fields
    return {name: value for name, value in record.items() if value is not ...}


def ndjson(*records: Row | bytes) -> bytes:
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in records)


def read(path: Path, **options: Any) -> tuple[list[Row], list[Row], ReadSummary]:
    """(rows, drops, summary), reconciled."""
    summary = ReadSummary()
    batches = list(read_dump(path, summary=summary, **options))
    return collected(batches, summary)


def collected(batches: list[SubmissionBatch], summary: ReadSummary) -> tuple[list[Row], list[Row], ReadSummary]:
    for batch in batches:
        batch.submissions.validate(full=True)
        batch.drops.validate(full=True)
        assert batch.submissions.schema == SUBMISSION_SCHEMA
        assert batch.drops.schema == DROP_SCHEMA
    rows = [row for batch in batches for row in batch.submissions.to_pylist()]
    drops = [row for batch in batches for row in batch.drops.to_pylist()]
    assert len(rows) + len(drops) == summary.lines
    assert sum(drop["reason"] == "bad_line" for drop in drops) == summary.bad_lines
    assert {drop["stage"] for drop in drops} <= {"links"}
    return rows, drops, summary


def read_lines(tmp_path: Path, *records: Row | bytes) -> tuple[list[Row], list[Row], ReadSummary]:
    path = tmp_path / "RS_2015-05.ndjson"
    path.write_bytes(ndjson(*records))
    return read(path)


# --- fields of all years ---------------------------------------------------------------------------------------------

PARENT = {"id": "p", "url": "https://example.com/parent", "is_self": False, "domain": "example.com"}


@pytest.mark.parametrize(
    ("fields", "column", "expected"),
    [
        ({"created_utc": "1430000000"}, "created_at", 1430000000),
        ({"created_utc": 1430000000.0}, "created_at", 1430000000),
        ({"created_utc": "1430000000.0"}, "created_at", 1430000000),
        ({"created_utc": None}, "created_at", None),
        ({"created_utc": ...}, "created_at", None),
        ({"score": None}, "karma", None),
        ({"score": ...}, "karma", None),
        ({"score": 3.0}, "karma", 3),
        ({"score": "12"}, "karma", 12),
        ({"score": -5}, "karma", -5),
        ({"retrieved_on": ...}, "retrieved_at", None),
        ({"retrieved_on": ..., "retrieved_utc": 1673000000}, "retrieved_at", 1673000000),
        ({"_meta": {"retrieved_2nd_on": 1706875209}, "retrieved_on": 1706745615}, "retrieved_at", 1706875209),
        ({"edited": 1430000100.0}, "karma", 7),
        ({"edited": True}, "karma", 7),
        ({"over_18": True}, "over_18", True),
        ({"over_18": None}, "over_18", False),
        ({"over_18": ...}, "over_18", False),
        ({"subreddit": None}, "subreddit", None),
        ({"id": "t3_3a1b2c"}, "post_id", "3a1b2c"),
        ({"id": 12345}, "post_id", "12345"),
        ({"is_self": None}, "url", "http://example.com/story"),
        ({"is_self": ...}, "url", "http://example.com/story"),
        ({"url": "http://a.com/?x=1&amp;y=&lt;2&gt;"}, "url", "http://a.com/?x=1&y=<2>"),
        ({"url": "http://a.com/?x=&amp;lt;&amp;gt;"}, "url", "http://a.com/?x=&lt;&gt;"),
        ({"url": "http://a.com/?x=&copy;"}, "url", "http://a.com/?x=&copy;"),
        ({"url": "/r/x/comments/1/", "url_overridden_by_dest": "https://a.com/dest"}, "url", "https://a.com/dest"),
        ({"url": "https://a.com/dest", "url_overridden_by_dest": "https://a.com/dest"}, "url", "https://a.com/dest"),
        ({"url": "https://a.com/x", "url_overridden_by_dest": "/r/x/comments/1"}, "url", "https://a.com/x"),
        ({"url": "https://a.com/x", "url_overridden_by_dest": ""}, "url", "https://a.com/x"),
        ({"url": "/r/x/comments/1/", "crosspost_parent_list": [PARENT]}, "url", "https://example.com/parent"),
        (
            {"url": "https://www.reddit.com/r/x/comments/1/", "crosspost_parent_list": [PARENT]},
            "url",
            "https://example.com/parent",
        ),
        ({"url": None, "crosspost_parent_list": [PARENT]}, "url", "https://example.com/parent"),
        ({"crosspost_parent_list": []}, "url", "http://example.com/story"),
        ({"crosspost_parent_list": None}, "url", "http://example.com/story"),
        (
            {
                "url": "/r/x/1/",
                "crosspost_parent_list": [{"url": "/r/y/2/", "url_overridden_by_dest": "http://b.com/2"}],
            },
            "url",
            "http://b.com/2",
        ),
        ({"url": "/r/x/comments/1/", "crosspost_parent": "t3_p"}, "url", "https://www.reddit.com/r/x/comments/1/"),
        ({"removed_by_category": "moderator"}, "removed", True),
        ({"removed_by_category": "deleted"}, "removed", True),
        ({"removed_by_category": None}, "removed", False),
        ({"author": "[deleted]"}, "removed", False),
        ({"author": "[deleted]", "is_robot_indexable": False}, "removed", True),
        ({"author": None, "is_robot_indexable": False}, "removed", False),
        ({"_meta": {"removal_type": "removed"}}, "removed", True),
        ({"_meta": {"was_deleted_later": True}}, "removed", True),
        ({"title": "line\u2028separator \u0085 and \x00 as an escape"}, "url", "http://example.com/story"),
        ({"huge": 10**400}, "karma", 7),
        ({"media": {"deep": [[[[[[1]]]]]]}}, "karma", 7),
    ],
)
def test_each_field_variant_becomes_a_row(tmp_path: Path, fields: Row, column: str, expected: object) -> None:
    rows, drops, _ = read_lines(tmp_path, line(**fields))
    assert drops == []
    assert rows[0][column] == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"is_self": True}, "self_post"),
        ({"is_self": True, "url": None}, "self_post"),
        ({"url": "/r/x/1/", "crosspost_parent_list": [PARENT | {"is_self": True}]}, "self_post"),
        ({"url": None}, "no_url"),
        ({"url": ...}, "no_url"),
        ({"url": ""}, "no_url"),
        ({"url": "  "}, "no_url"),
    ],
)
def test_what_links_nowhere_is_a_drop_with_its_post(tmp_path: Path, fields: Row, reason: str) -> None:
    rows, drops, summary = read_lines(tmp_path, line(**fields))
    assert (rows, summary.bad_lines) == ([], 0)
    assert [(drop["reason"], drop["post_id"]) for drop in drops] == [(reason, "3a1b2c")]


BAD_LINES = [
    b"not json",
    b'{"id": "x", ',
    b"[1, 2]",
    b"12",
    b"{}",
    b'{"id": ""}',
    b'{"id": null, "url": "http://a.com"}',
    b"\x00" * 300,
    b'{"id": "x", "title": "a \x00 byte"}',
    b'{"id": "x", "url": "http://a.com/\xff\xfe"}',
    b'{"id": "x", "url": "http://a.com/\\ud800"}',
    b'{"id": "x", "score": ' + b"9" * 5000 + b"}",
    b'{"id": "x", "url": "http://a.com", "score": 99999999999}',
    b'{"id": "x", "score": true}',
    b'{"id": "x", "score": 1e400}',
    b'{"id": "x", "url": "http://a.com", "created_utc": "yesterday"}',
    b'{"id": "x", "url": "http://a.com", "created_utc": 1e300}',
    b'{"id": "x", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"id": "x"} {"id": "y"}',
    b'{"id": "x", "url": "http://a.com/", "is_self": "no"}',
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_located_and_costs_only_itself(tmp_path: Path, bad: bytes) -> None:
    good = [line(id="a"), line(id="b")]
    first = ndjson(good[0])
    rows, drops, summary = read_lines(tmp_path, good[0], bad, good[1])
    assert [row["post_id"] for row in rows] == ["a", "b"]
    assert (summary.lines, summary.bad_lines) == (3, 1)
    assert drops[0]["reason"] == "bad_line"
    assert drops[0]["detail"].startswith(f"line 2 at byte {len(first)}: ")
    assert len(drops[0]["detail"]) < 300
    assert "\n" not in drops[0]["detail"]


@pytest.mark.parametrize(
    "title", [rb"\ud800", rb"a \uDC00 b", rb"\ud83d\ud83d\ude00", rb"\ude00\ud83d", rb"\\\\\ud800", rb"\ud800\\ud800"]
)
def test_a_lone_surrogate_in_a_title_does_not_cost_the_link(tmp_path: Path, title: bytes) -> None:
    rows, drops, _ = read_lines(tmp_path, b'{"id":"a","url":"http://a.com/\\ud83d\\ude00","title":"' + title + b'"}')
    assert [row["url"] for row in rows] == ["http://a.com/\U0001f600"]
    assert drops == []


def test_blank_lines_and_carriage_returns_are_no_submissions(tmp_path: Path) -> None:
    path = tmp_path / "RS.ndjson"
    one, two = ndjson(line(id="a")), ndjson(line(id="b"))
    path.write_bytes(b"\n" + one.replace(b"\n", b"\r\n") + b"\r\n  \n" + two + b"bad\n\n")
    rows, drops, summary = read(path)
    assert [row["post_id"] for row in rows] == ["a", "b"]
    assert summary.blank_lines == 4
    assert drops[0]["detail"].startswith(f"line 6 at byte {path.stat().st_size - 5}: ")


def test_locations_hold_beyond_the_first_block(tmp_path: Path) -> None:
    good = ndjson(*(line(id=f"{i:x}", title="x" * 1000) for i in range(2500)))
    assert len(good) > 2 * BLOCK_BYTES
    path = tmp_path / "RS.ndjson"
    path.write_bytes(good + b"broken\n" + good)
    rows, drops, _ = read(path, batch_rows=1000)
    assert len(rows) == 5000
    assert drops[0]["detail"].startswith(f"line 2501 at byte {len(good)}: ")


def test_a_line_without_end_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "RS.ndjson"
    endless = b'{"id": "x", "title": "' + b"x" * (3 * MAX_LINE_BYTES)
    path.write_bytes(ndjson(line(id="a"), endless + b'"}', line(id="b"), b"bad"))
    tracemalloc.start()
    rows, drops, _ = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["post_id"] for row in rows] == ["a", "b"]
    assert [drop["detail"].split(":")[0] for drop in drops] == [
        f"line 2 at byte {len(ndjson(line(id='a')))}",
        f"line 4 at byte {path.stat().st_size - 4}",
    ]
    assert peak < 5 * MAX_LINE_BYTES


def test_batches_are_bounded_and_the_same_rows_come_out_for_any_size(tmp_path: Path) -> None:
    path = tmp_path / "RS.ndjson"
    path.write_bytes(ndjson(*(line(id=f"{i:x}", is_self=i % 3 == 0, title="y" * 3000) for i in range(3000))))
    whole = read(path)
    assert whole == read(path, batch_rows=10)
    sizes = [batch.submissions.num_rows + batch.drops.num_rows for batch in read_dump(path, batch_rows=500)]
    assert len(sizes) > 3
    assert max(sizes) < 500 + BLOCK_BYTES // 3000 + 1


# --- containers and damage -------------------------------------------------------------------------------------------


def _zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def _zstd_long(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()  # without the size in the header, as a stream has it


def _halves(compress: Callable[[bytes], bytes], between: bytes = b"") -> Callable[[bytes], bytes]:
    """Two frames, cut inside a line."""
    return lambda data: compress(data[: len(data) // 2 + 7]) + between + compress(data[len(data) // 2 + 7 :])


SKIPPABLE = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"
CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "RS.zst": _zstd,
    "RS_frames.zst": _halves(_zstd),
    "RS_skippable.zst": lambda data: SKIPPABLE + _halves(_zstd, SKIPPABLE)(data) + SKIPPABLE,
    "RS.gz": gzip.compress,
    "RS_members.gz": _halves(gzip.compress),
    "RS_padded.gz": lambda data: gzip.compress(data) + b"\0" * 512,
    "RS.bz2": bz2.compress,
    "RS_streams.bz2": _halves(bz2.compress),
    "RS.xz": lzma.compress,
    "RS_streams.xz": _halves(lzma.compress, b"\0\0\0\0"),
    "RS_plain": bytes,
    "RS_named_otherwise.json": _zstd,
}


@pytest.fixture(scope="module")
def text() -> bytes:
    return ndjson(*(line(id=f"{i:x}", is_self=i % 4 == 0, url=f"http://a{i * 7919}.com/{i}") for i in range(2000)))


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_submissions(tmp_path: Path, text: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTAINERS[name](text))
    rows, drops, summary = read(path)
    assert (len(rows), len(drops), summary.size_bytes, summary.truncated_at) == (1500, 500, len(text), None)
    assert [row["post_id"] for row in rows] == [f"{i:x}" for i in range(2000) if i % 4]


def test_a_window_of_two_gigabytes_is_read(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "RS.zst"
    path.write_bytes(_zstd_long(text))
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << 31
    assert read(path)[2].lines == 2000


def test_a_last_line_without_line_feed_is_read(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "RS.zst"
    path.write_bytes(_zstd(text.rstrip(b"\n")))
    rows, _, summary = read(path)
    assert (summary.lines, rows[-1]["post_id"], summary.truncated_at) == (2000, f"{1999:x}", None)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "RS_plain"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_a_cut_dump_keeps_its_good_prefix_and_says_where_it_ends(
    tmp_path: Path, text: bytes, name: str, part: float
) -> None:
    whole = CONTAINERS[name](text)
    kept = int((len(whole) - (512 if "padded" in name else 0)) * part)
    path = tmp_path / name
    path.write_bytes(whole[:kept])
    rows, drops, summary = read(path)
    assert summary.truncated_at is not None
    assert 0 <= summary.truncated_at <= kept
    assert [drop["reason"] for drop in drops].count("truncated") == 1
    assert drops[-1]["reason"] == "truncated"
    assert f"byte {summary.truncated_at} of the file" in drops[-1]["detail"]
    assert [row["post_id"] for row in rows] == [f"{i:x}" for i in range(2000) if i % 4][: len(rows)]
    assert summary.lines < 2000


def test_no_cut_of_a_dump_is_silent(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "RS.zst"
    whole = _halves(_zstd)(text[: 40 * 300])
    second = whole.rindex(b"\x28\xb5\x2f\xfd")
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        summary = read(path)[2]
        # After the first whole frame nothing tells that there was to be a second one, except the line that is cut.
        assert summary.truncated_at is not None, kept
        assert kept != second or "last line" in (summary.truncated_why or "")


@pytest.mark.parametrize("name", ["RS.zst", "RS.gz", "RS.bz2", "RS.xz"])
def test_a_flipped_bit_is_never_fatal(tmp_path: Path, text: bytes, name: str) -> None:
    whole = _zstd(text, write_checksum=True) if name == "RS.zst" else CONTAINERS[name](text)
    path = tmp_path / name
    for place in range(20, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        summary = read(path)[2]
        assert summary.truncated_at is not None


@pytest.mark.parametrize("name", ["RS.zst", "RS.gz", "RS.bz2", "RS.xz"])
def test_a_file_that_is_not_what_its_name_says_is_said(tmp_path: Path, name: str) -> None:
    for content in (b"", b"<html>rate limited</html>\n"):
        (tmp_path / name).write_bytes(content)
        rows, drops, summary = read(tmp_path / name)
        assert (rows, summary.truncated_at) == ([], 0)
        assert [drop["reason"] for drop in drops] == ["truncated"]


def test_a_plain_dump_that_is_cut_is_said(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "RS.ndjson"
    path.write_bytes(text[: len(text) // 2])
    assert not path.read_bytes().endswith(b"\n")
    _, drops, summary = read(path)
    assert summary.truncated_at == text[: len(text) // 2].rindex(b"\n") + 1
    assert drops[-1]["reason"] == "truncated"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_dump(tmp_path / "no.zst"))


def test_memory_does_not_grow_with_a_dump_of_repeated_self_posts(tmp_path: Path) -> None:
    """A gigabyte would do the same; the ratio of this dump (over 5,000 to 1) is the worst for a streaming reader."""

    def peak(num_lines: int) -> int:
        path = tmp_path / "RS.zst"
        compressor = zstandard.ZstdCompressor().compressobj()
        block = ndjson(line(is_self=True, selftext="z" * 4000)) * 100
        path.write_bytes(b"".join(compressor.compress(block) for _ in range(num_lines // 100)) + compressor.flush())
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        count = most = 0
        for batch in read_dump(path, batch_rows=2000):
            count += batch.drops.num_rows
            most = max(most, pa.total_allocated_bytes() - before)
        result = tracemalloc.get_traced_memory()[1] + most
        tracemalloc.stop()
        assert count == num_lines
        return result

    small = peak(5_000)
    assert peak(40_000) < small + (16 << 20)


LINES = st.one_of(
    st.builds(
        line,
        id=st.sampled_from(["a", "t3_b", 5, "", None, ...]),
        url=st.sampled_from(["http://a.com/", "/r/x", "", None, ..., 5, "http://a.com/?a&amp;b"]),
        is_self=st.sampled_from([True, False, None, ..., "no"]),
        score=st.sampled_from([1, -3, 2.5, "7", None, ..., True, 1 << 40]),
        created_utc=st.sampled_from([1, 1.0, "1", None, ..., "x", [1]]),
        crosspost_parent_list=st.sampled_from([[], None, ..., [PARENT], [{}], "x"]),
    ),
    st.binary(max_size=30).filter(lambda data: b"\n" not in data),
    st.just(b""),
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(LINES, max_size=12))
def test_rows_and_drops_are_all_lines_and_one_bad_line_changes_no_other(
    tmp_path_factory: pytest.TempPathFactory, records: list[Row | bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "hypothesis.ndjson"
    path.write_bytes(ndjson(*records))
    rows, drops, summary = read(path)
    texts = [text for text in path.read_bytes().split(b"\n") if text and not text.isspace()]
    assert summary.lines == len(texts)
    apart: list[Row] = []
    apart_drops: list[Row] = []
    for text in texts:
        path.write_bytes(text + b"\n")
        more, more_drops, _ = read(path)
        apart += more
        apart_drops += more_drops
    assert rows == apart
    assert Counter((drop["reason"], drop["post_id"]) for drop in drops) == Counter(
        (drop["reason"], drop["post_id"]) for drop in apart_drops
    )
    assert len(rows) + len(drops) == len(texts)


# --- real dumps ------------------------------------------------------------------------------------------------------

REAL = [
    ("RS_v2_2005-06.xz", 103, 0),
    ("RS_v2_2005-07.xz", 1079, 0),
    ("RS_2006-01.bz2", 145, 0),
    ("RS_2006-02.bz2", 427, 0),
    ("RS_2006-03.bz2", 206, 0),
    ("RS_2019-10.zst", 8271, 8271),
    ("AskMen_submissions.zst", 13050, 13050),
    ("RS_pages.zst", 6422, 1887),
    ("test_submissions.json", 31, 12),
    ("machinelearning/RS_2011.bz2", 724, 248),
    ("machinelearning/RS_2012.xz", 997, 494),
    ("machinelearning/RS_2013.gz", 1550, 808),
    ("machinelearning/RS_2014.zst", 3031, 1488),
    ("machinelearning/RS_2015.zst", 6954, 3272),
]


@pytest.mark.parametrize(("name", "num_lines", "num_self_posts"), REAL)
def test_real_dumps_are_read_to_the_last_line(
    shared_data: Path, name: str, num_lines: int, num_self_posts: int
) -> None:
    rows, drops, summary = read(shared_data / "reddit" / name)
    assert (summary.lines, summary.bad_lines, summary.truncated_at) == (num_lines, 0, None)
    assert Counter(drop["reason"] for drop in drops)["self_post"] == num_self_posts
    for row in rows:
        assert 1_118_000_000 < row["created_at"] < 1_800_000_000
        assert row["karma"] is not None
    # Some people post a URL that is escaped already, so that the dump's is escaped twice.
    assert sum("&amp;" in row["url"] for row in rows) <= len(rows) // 200


def test_real_dumps_agree_with_the_plain_reader(shared_data: Path) -> None:
    """The json module as the slow twin."""
    path = shared_data / "reddit" / "machinelearning" / "RS_2013.gz"
    expected = []
    with gzip.open(path) as lines:
        for text in lines:
            record = json.loads(text)
            if not record["is_self"]:
                expected.append(
                    {
                        "post_id": record["id"],
                        "url": record["url"].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"),
                        "karma": record["score"],
                        "created_at": int(record["created_utc"]),
                        "retrieved_at": record.get("retrieved_on"),
                        "subreddit": record["subreddit"],
                        "over_18": record["over_18"],
                        "removed": False,
                    }
                )
    assert read(path)[0] == expected


# --- lists of URLs ---------------------------------------------------------------------------------------------------


def read_list(path: Path) -> tuple[list[Row], list[Row], ReadSummary]:
    summary = ReadSummary()
    return collected(list(read_url_list(path, summary=summary)), summary)


def test_a_text_list_gives_a_row_a_line(tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    path.write_bytes(
        b"\xef\xbb\xbfhttp://a.com/1\r\n# comment\n\nexample.com/page\nhttp://b.com/\xff\n  http://c.com/#x  "
    )
    rows, drops, summary = read_list(path)
    assert [(row["post_id"], row["url"]) for row in rows] == [
        ("list:urls.txt:1", "http://a.com/1"),
        ("list:urls.txt:4", "http://example.com/page"),
        ("list:urls.txt:6", "http://c.com/#x"),
    ]
    assert all(row["karma"] is None and row["created_at"] is None and not row["removed"] for row in rows)
    assert [(drop["reason"], drop["post_id"]) for drop in drops] == [("bad_line", "list:urls.txt:5")]
    assert summary.blank_lines == 2


def test_a_table_gives_what_its_columns_say(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "Score,URL,created_utc,Subreddit\n5,http://a.com/,1430000000,news\n,b.com/x,2015-05-01,\n"
        'x,http://c.com/,,\n7,,,\n8,"http://d.com/a,b",2015-05-01T00:00:01Z,pics\n'
    )
    rows, drops, _ = read_list(tmp_path / "a.csv")
    assert [(row["url"], row["karma"], row["created_at"], row["subreddit"]) for row in rows] == [
        ("http://a.com/", 5, 1430000000, "news"),
        ("http://b.com/x", None, 1430438400, None),
        ("http://d.com/a,b", 8, 1430438401, "pics"),
    ]
    assert [(drop["reason"], drop["post_id"]) for drop in drops] == [
        ("bad_line", "list:a.csv:4"),
        ("no_url", "list:a.csv:5"),
    ]


def test_a_parquet_list_is_read_with_typed_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array(["http://a.com/", None, "http://b.com/"], pa.large_string()),
            "karma": pa.array([3, 4, None], pa.int64()),
            "date": pa.array([0, 86_400, None], pa.timestamp("s")),
            "text": ["x", "y", "z"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=True)
    rows, drops, _ = read_list(tmp_path / "a.parquet")
    assert [(row["url"], row["karma"], row["created_at"]) for row in rows] == [
        ("http://a.com/", 3, 0),
        ("http://b.com/", None, None),
    ]
    assert [drop["reason"] for drop in drops] == ["no_url"]


def test_lists_may_be_compressed_and_a_cut_one_is_said(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"http://a%d.com/\n" % (i * 7919) for i in range(5000)))
    (tmp_path / "a.txt.gz").write_bytes(whole)
    assert read_list(tmp_path / "a.txt.gz")[2].truncated_at is None
    assert len(read_list(tmp_path / "a.txt.gz")[0]) == 5000
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    rows, drops, summary = read_list(tmp_path / "a.txt.gz")
    assert len(rows) > 1000
    assert summary.truncated_at is not None
    assert drops[-1]["reason"] == "truncated"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_table_without_urls_is_one_clear_line(tmp_path: Path, name: str) -> None:
    if name == "a.csv":
        (tmp_path / name).write_text("link,score\nhttp://a.com/,1\n")
    else:
        pq.write_table(pa.table({"link": ["x"], "score": [1]}), tmp_path / name)
    with pytest.raises(ValueError, match=r"^\[links\] url_lists: expected a column named url in .*, got link, score$"):
        list(read_url_list(tmp_path / name))


# --- removals --------------------------------------------------------------------------------------------------------


def test_removals_match_variants_subdomains_and_posts(tmp_path: Path) -> None:
    path = tmp_path / "removals.txt"
    path.write_text(
        "# asked for by mail\nhttps://www.a.com/story/?utm_source=x  # one page\n*.B.com\nm.c.com\nt3_ABC\nd.com/page\n"
    )
    removals = read_removals([path])
    assert removals.reason("http://a.com/story") == "url http://a.com/story"
    assert removals.reason("http://m.a.com/story#x") == "url http://a.com/story"
    assert removals.reason("http://a.com/other") is None
    assert removals.reason("https://x.y.b.com/1") == "domain b.com"
    assert removals.reason("http://notb.com/") is None
    assert removals.reason("http://m.c.com/") == "domain m.c.com"
    assert removals.reason("http://c.com/") is None
    assert removals.reason("http://d.com/page/") == "url http://d.com/page"
    assert removals.reason("http://e.com/", "abc") == "post abc"
    assert removals.reason("http://e.com/", "abd") is None
    assert removals.reason("no url") is None
    assert bool(removals)
    assert not Removals()


@pytest.mark.parametrize("entry", ["what is this", "abc", "http://", "ftp://a.com/x", "a..b"])
def test_a_removal_that_is_not_understood_is_an_error(tmp_path: Path, entry: str) -> None:
    (tmp_path / "r.txt").write_text(f"a.com\n{entry}\n")
    with pytest.raises(ValueError, match=r"^\[links\] removals: r.txt line 2: expected a URL, a domain or a post id"):
        read_removals([tmp_path / "r.txt"])


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (
            {"listings": ("best",)},
            "[links] listings: expected some of hot, new, rising, top, controversial, got 'best'",
        ),
        ({"time_filters": ("decade",)}, "[links] time_filters: expected some of hour, day, week, month, year, all"),
        ({"subreddits": ("r/news",)}, "[links] subreddits: expected names"),
        ({"api_limit": 5000}, "[links] api_limit: expected 1 to 1000"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        LinkSources(**settings_)
    assert str(caught.value).startswith(message)


# --- the API, against a Reddit on the loopback -----------------------------------------------------------------------

CLIENT_ID, CLIENT_SECRET = "canary-id-5f1e", "canary-secret-9c2d"


@dataclass
class FakeReddit:
    """What the loopback Reddit serves and what it saw."""

    listings: dict[str, list[Row]] = field(default_factory=dict)  # "news/top/all" -> submissions
    too_many: int = 0  # next listing requests answered 429
    expire_after: int | None = None  # requests that a token lasts
    status: int | None = None  # answer of every listing
    tokens: list[str] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    seen: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    reddit: FakeReddit
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        right = "Basic " + requests.auth._basic_auth_str(CLIENT_ID, CLIENT_SECRET).split()[1]
        if self.path != "/api/v1/access_token" or self.headers["Authorization"] != right:
            self._answer(401, {"message": "Unauthorized", "error": 401})
            return
        assert "grant_type=client_credentials" in form
        token = f"canary-token-{len(self.reddit.tokens)}"
        self.reddit.tokens.append(token)
        self._answer(200, {"access_token": token, "token_type": "bearer", "expires_in": 3600, "scope": "*"})

    def do_GET(self) -> None:
        reddit = self.reddit
        reddit.seen.append(self.path)
        reddit.agents.add(self.headers["User-Agent"])
        token = self.headers.get("Authorization", "").removeprefix("bearer ")
        reddit.uses[token] += 1
        if token not in reddit.tokens or (reddit.expire_after is not None and reddit.uses[token] > reddit.expire_after):
            self._answer(401, {"message": "Unauthorized", "error": 401})
            return
        if reddit.too_many > 0:
            reddit.too_many -= 1
            self._answer(429, {"message": "Too Many Requests", "error": 429}, Retry_After="17")
            return
        if reddit.status is not None:
            self._answer(reddit.status, {"message": "no", "error": reddit.status})
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert query["raw_json"] == "1"
        name = parts.path.removeprefix("/r/").strip("/") + ("/" + query["t"] if "t" in query else "")
        posts = reddit.listings[name]
        names = [f"t3_{post['id']}" for post in posts]
        start = names.index(query["after"]) + 1 if "after" in query else 0
        end = start + int(query.get("limit", 25))
        children = [{"kind": "t3", "data": post | {"name": f"t3_{post['id']}"}} for post in posts[start:end]]
        after = names[end - 1] if end < len(posts) else None
        self._answer(200, {"kind": "Listing", "data": {"children": children, "after": after, "before": None}})


@pytest.fixture
def reddit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeReddit]:
    monkeypatch.chdir(tmp_path)  # no praw.ini
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("praw_client_id", CLIENT_ID)
    monkeypatch.setenv("praw_client_secret", CLIENT_SECRET)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeReddit()
    handler = type("Handler", (_Handler,), {"reddit": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


def api_settings(reddit: FakeReddit, **options: Any) -> LinkSources:
    defaults: dict[str, Any] = {"subreddits": ("news",), "user_agent": "linux:webtext.tests:1 (by u/nobody)"}
    return LinkSources(reddit_url=reddit.url, oauth_url=reddit.url, **(defaults | options))


def read_reddit(settings_: LinkSources, waits: list[float] | None = None) -> tuple[list[Row], list[Row], ReadSummary]:
    summary = ReadSummary()
    with requests.Session() as session:
        sleep = (lambda seconds: None) if waits is None else waits.append
        batches = list(read_api(settings_, session=session, now=lambda: 1_500_000_000.9, sleep=sleep, summary=summary))
    return collected(batches, summary)


def posts(count: int, prefix: str = "p") -> list[Row]:
    return [line(id=f"{prefix}{i}", url=f"http://example.com/{prefix}{i}") for i in range(count)]


def test_listings_are_read_page_by_page_to_their_end(reddit: FakeReddit) -> None:
    reddit.listings["news/top/all"] = posts(250)
    rows, drops, _ = read_reddit(api_settings(reddit))
    assert [row["post_id"] for row in rows] == [f"p{i}" for i in range(250)]
    assert {row["retrieved_at"] for row in rows} == {1_500_000_000}
    assert drops == []
    assert len(reddit.seen) == 3
    assert len(reddit.tokens) == 1
    assert all(agent.startswith("linux:webtext.tests:1 (by u/nobody)") for agent in reddit.agents)


def test_the_limit_is_kept(reddit: FakeReddit) -> None:
    reddit.listings["news/top/all"] = posts(250)
    assert len(read_reddit(api_settings(reddit, api_limit=130))[0]) == 130


def test_every_subreddit_listing_and_time_filter_is_asked_and_a_post_counts_once(reddit: FakeReddit) -> None:
    for name in ("news", "science"):
        reddit.listings[f"{name}/top/all"] = posts(3, name)
        reddit.listings[f"{name}/top/year"] = posts(2, name)
        reddit.listings[f"{name}/new"] = posts(4, name)
    rows, drops, _ = read_reddit(
        api_settings(reddit, subreddits=("news", "science"), listings=("top", "new"), time_filters=("all", "year"))
    )
    assert len(rows) == 8
    assert Counter(drop["reason"] for drop in drops) == {"same_submission": 10}
    assert len(reddit.seen) == 6


def test_deleted_removed_self_and_broken_posts_are_told_apart(reddit: FakeReddit) -> None:
    reddit.listings["news/top/all"] = [
        line(id="ok"),
        line(id="gone", author=None, removed_by_category="deleted"),
        line(id="self", is_self=True),
        line(id="bad", score="many"),
        line(id="cross", url="/r/x/comments/1/", crosspost_parent_list=[PARENT]),
    ]
    rows, drops, summary = read_reddit(api_settings(reddit))
    assert [(row["post_id"], row["removed"]) for row in rows] == [("ok", False), ("gone", True), ("cross", False)]
    assert sorted(drop["reason"] for drop in drops) == ["bad_line", "self_post"]
    assert summary.lines == 5


def test_too_many_requests_are_waited_out_as_long_as_reddit_says(reddit: FakeReddit) -> None:
    reddit.listings["news/top/all"] = posts(5)
    reddit.too_many = 2
    waits: list[float] = []
    assert len(read_reddit(api_settings(reddit), waits)[0]) == 5
    assert waits == [17.0, 17.0]


def test_too_many_requests_for_ever_are_an_error(reddit: FakeReddit) -> None:
    reddit.too_many = 1000
    with pytest.raises(RedditApiError, match=r"^Reddit's API: r/news/top: still too many requests after 5 waits$"):
        read_reddit(api_settings(reddit))


def test_an_expired_token_is_renewed_and_nothing_is_lost(reddit: FakeReddit) -> None:
    reddit.listings["news/top/all"] = posts(250)
    reddit.expire_after = 2
    rows, _, _ = read_reddit(api_settings(reddit))
    assert [row["post_id"] for row in rows] == [f"p{i}" for i in range(250)]
    assert len(reddit.tokens) == 2


@pytest.mark.parametrize("status", [403, 404])
def test_what_reddit_refuses_is_one_line(reddit: FakeReddit, status: int) -> None:
    reddit.status = status
    with pytest.raises(RedditApiError, match=rf"^Reddit's API: r/news/top: HTTP {status}"):
        read_reddit(api_settings(reddit))


def test_missing_credentials_are_one_clear_line(reddit: FakeReddit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("praw_client_id")
    with pytest.raises(
        ValueError, match=r"^\[links\] subreddits: expected Reddit credentials, client_id is missing; set praw_"
    ):
        read_reddit(api_settings(reddit))
    assert reddit.seen == []


def test_no_credential_is_ever_shown(
    reddit: FakeReddit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reddit.listings["news/top/all"] = posts(3)
    shown = io.StringIO()
    settings_ = api_settings(reddit)
    read_reddit(settings_)
    monkeypatch.setenv("praw_client_secret", "canary-wrong-secret")
    with pytest.raises(RedditApiError, match="are the credentials right") as caught:
        read_reddit(settings_)
    print(repr(caught.value), *traceback.format_exception(caught.value), file=shown)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    shown.write(caplog.text + repr(settings_))
    assert "are the credentials right?" in shown.getvalue()
    assert "canary" not in shown.getvalue()


def test_real_answers_of_the_api_are_read(shared_data: Path, reddit: FakeReddit) -> None:
    found: dict[str, Row] = {}
    for name in ("subreddit", "user", "thread"):
        answer = json.loads((shared_data / "reddit" / "api" / f"{name}.json").read_bytes())
        listing = answer[0] if isinstance(answer, list) else answer
        found |= {child["data"]["id"]: child["data"] for child in listing["data"]["children"] if child["kind"] == "t3"}
    assert len(found) > 25
    reddit.listings["news/top/all"] = list(found.values())
    rows, drops, summary = read_reddit(api_settings(reddit))
    assert summary.bad_lines == 0
    assert {row["post_id"] for row in rows} == {name for name, post in found.items() if not post["is_self"]}
    assert len(rows) + len(drops) == len(found)
