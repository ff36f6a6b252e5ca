"""Bodies are decoded under a cap, records are written the same twice, and answers are read as they were meant."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext import archives
from webtext.archives import Capture, DecodeError, dechunk, decode

TEXT = b"<html><body>" + b"<p>words and more words</p>" * 200 + b"</body></html>"
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_the_bytes_back(codec: str) -> None:
    assert decode(CODECS[codec](TEXT), codec, 10**6) == TEXT
    assert decode(CODECS[codec](TEXT), codec.upper(), len(TEXT)) == TEXT


def test_variants_that_servers_send() -> None:
    raw = zlib.compressobj(wbits=-15)
    assert decode(raw.compress(TEXT) + raw.flush(), "deflate", 10**6) == TEXT
    assert decode(gzip.compress(TEXT) + gzip.compress(b"tail"), "gzip", 10**6) == TEXT + b"tail"
    assert decode(gzip.compress(TEXT) + b"\0\0\0", "gzip", 10**6) == TEXT
    assert decode(brotli.compress(gzip.compress(TEXT)), "gzip, br", 10**6) == TEXT
    assert decode(zstandard.compress(TEXT) + zstandard.compress(b"tail"), "zstd", 10**6) == TEXT + b"tail"
    for codec in ("gzip", "deflate", "br", "zstd", "identity", "none", "", "unheard-of"):
        assert decode(TEXT, codec, 10**6) == TEXT  # named, but not applied: archives do that


@pytest.mark.parametrize("codec", CODECS)
def test_caps_and_cuts_are_told_apart(codec: str) -> None:
    with pytest.raises(DecodeError) as error:
        decode(CODECS[codec](TEXT), codec, len(TEXT) - 1)
    assert error.value.outcome == "too_large"
    noise = random.Random(1).randbytes(5_000)
    with pytest.raises(DecodeError) as error:
        decode(CODECS[codec](noise)[:-20], codec, 10**6)
    assert error.value.outcome == "truncated"


@pytest.mark.parametrize("before", [b"", zstandard.compress(b""), zstandard.compress(b"a page")])
def test_a_kilobyte_of_zstd_that_is_32_megabytes_takes_no_more_memory_than_the_cap(before: bytes) -> None:
    bomb = before + zstandard.compress(bytes(100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="over 1000000 bytes") as caught:
            decode(bomb, "zstd", 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.outcome == "too_large"
    assert peak < 1_000_000


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=300), st.sampled_from([*CODECS, "gzip, br", "zstd, deflate", "a, b, c, d, e"]))
def test_no_bytes_break_a_decoder(body: bytes, codec: str) -> None:
    outcome = "ok"
    try:
        assert len(decode(body, codec, 1_000)) <= 1_000
    except DecodeError as error:
        outcome = error.outcome
    assert outcome in ("ok", "too_large", "truncated", "decode_error")


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.booleans())
def test_chunks_are_joined(parts: list[bytes], extension: bool) -> None:
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(part), b";a=b" if extension else b"", part) for part in parts)
    assert dechunk(framed + b"0\r\n\r\n") == b"".join(parts)


def test_chunks_that_are_none_and_chunks_that_are_cut() -> None:
    assert dechunk(TEXT) == TEXT
    with pytest.raises(DecodeError, match="ends after"):
        dechunk(b"ff\r\nshort")
    with pytest.raises(DecodeError, match="chunk header expected"):
        dechunk(b"3\r\nabc\r\nwhat?")


def test_a_record_is_the_same_bytes_twice_and_reads_back() -> None:
    capture = Capture(
        "http://a.example/ü?q=1",
        1_600_000_000,
        200,
        (("Content-Type", "text/html"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Transfer-Encoding", "chunked")),
        TEXT,
    )
    record = archives.warc_record(capture, ip_address="192.0.2.1")
    assert record == archives.warc_record(capture, ip_address="192.0.2.1")
    back = archives.read_capture(io.BytesIO(record), 0)
    assert (back.url, back.date, back.status, back.body) == (capture.url, capture.date, 200, TEXT)
    assert [value for name, value in back.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert archives.header(back.headers, "transfer-encoding") == ""
    assert archives.header(back.headers, "x-crawler-transfer-encoding") == "chunked"


def test_a_header_cannot_smuggle_another_line_into_a_record() -> None:
    capture = Capture("http://a.example/", 0, 200, (("X", "a\r\nContent-Type: text/evil\r\n\r\nbody"),), b"real")
    back = archives.read_capture(io.BytesIO(archives.warc_record(capture)), 0)
    assert back.body == b"real"
    assert archives.header(back.headers, "content-type") == ""


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.binary(max_size=500),
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from(["A", "B-C"]), st.text("abc é;=", max_size=20)), max_size=4),
)
def test_any_body_survives_a_record(body: bytes, date: int, headers: list[tuple[str, str]]) -> None:
    capture = Capture("http://a.example/", date, 200, tuple(headers), body)
    back = archives.read_capture(io.BytesIO(archives.warc_record(capture)), 0)
    assert (back.body, back.date) == (body, date)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", (200, (("A", "b"),), b"body")),
        (b"HTTP/1.0 404\nA:b\n\nbody", (404, (("A", "b"),), b"body")),
        (b"HTTP/2 301\r\nLocation: /x\r\n\r\n", (301, (("Location", "/x"),), b"")),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", (200, (("A", "b folded"),), b"")),
        (b"HTTP/1.1 200 OK\r\nno colon\r\nA: b", (200, (("A", "b"),), b"")),
    ],
)
def test_http_answers_of_many_writers(block: bytes, expected: object) -> None:
    assert archives.parse_http(block) == expected


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="status line"):
        archives.parse_http(b"<html>")
    with pytest.raises(ValueError, match="not a date"):
        archives.parse_date("yesterday")
    assert archives.parse_date("2020-01-01T00:00:00Z") == archives.parse_date("2020-01-01T00:00:00.123456Z")
    assert archives.format_date(archives.parse_date("2020-01-01T00:00:00Z")) == "2020-01-01T00:00:00Z"
