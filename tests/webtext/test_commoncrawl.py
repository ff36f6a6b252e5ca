"""Common Crawl: index lines, the capture nearest to the post, ranged reads, and the live page where those fail."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.links import link_batches, publish
from helpers.loopback import LoopbackWeb, Request, answer

from webtext import archives, pages
from webtext.archives import Capture
from webtext.commoncrawl import CaptureIndex, Remote, open_capture, parse_line, read_index
from webtext.fetch import Fetcher, FetchSettings
from webtext.guard import Guard
from webtext.urls import canonical_url, document_id

HTML = (("Content-Type", "text/html"),)
DAY = 86_400
URLS = [f"http://www.site{n}.example/a/{n}?utm_source=x" for n in range(6)]


def body(url: str, when: int) -> bytes:
    return f"<html><p>{url} as of day {when // DAY}</p></html>".encode()


def crawl(folder: Path, days: dict[str, list[int]]) -> tuple[bytes, Path]:
    """A WARC file's bytes, and the path of the CDXJ file that describes it."""
    warc, lines = bytearray(), []
    for url, dates in days.items():
        for day in dates:
            one = Capture(url, day * DAY, 200, HTML, body(url, day * DAY))
            record = archives.warc_record(one)
            facts = {
                "url": url,
                "mime": "text/html",
                "mime-detected": "text/html",
                "status": "200",
                "digest": base64.b32encode(hashlib.sha1(one.body).digest()).decode(),
                "length": str(len(record)),
                "offset": str(len(warc)),
                "filename": "crawl-data/CC-MAIN-2015/a.warc.gz",
            }
            stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(day * DAY))
            lines.append(f"example,key)/ {stamp} {json.dumps(facts)}\n")
            warc += record
    path = folder / "cdx-00000.gz"
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    return bytes(warc), path


class Bucket:
    """Serves ranges of one file, and live pages on other hosts."""

    def __init__(self, warc: bytes) -> None:
        self.warc = warc
        self.whole_file = False

    def __call__(self, request: Request) -> bytes:
        if request.host != "data.example":
            return answer(b"", 404) if request.path == "/robots.txt" else answer(b"<p>live</p>")
        assert request.path == "/crawl-data/CC-MAIN-2015/a.warc.gz"
        if self.whole_file:
            return answer(self.warc)
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        return answer(self.warc[int(first) : int(last) + 1], 206, content_type="application/octet-stream")


def build(folder: Path, bucket: Bucket, index: Path, **changes: Any) -> tuple[dict[str, dict[str, Any]], LoopbackWeb]:
    settings = FetchSettings(
        network=True,
        allow_loopback=True,
        common_crawl=(str(index),),
        common_crawl_url="http://data.example/",
        common_crawl_delay_seconds=0.0,
        per_host_delay_seconds=0.0,
    )
    with LoopbackWeb(bucket) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        fetcher = Fetcher(settings, guard=guard)
        batches = link_batches(URLS, created_at=500 * DAY)
        pages.update(folder, batches, settings, publish=publish, transport=fetcher, **changes)
        guard.close()
    (segment,) = pages.sealed_segments(folder)
    return {row["url"]: row for row in pages.read_ledger(segment).to_pylist()}, web


def test_the_capture_nearest_to_the_post_is_read_and_the_ledger_says_which(tmp_path: Path) -> None:
    captured = {url.split("?")[0]: [100, 450, 900] for url in URLS[:5]}
    warc, index = crawl(tmp_path, captured)
    rows, web = build(tmp_path / "p", Bucket(warc), index)
    for url in URLS[:5]:
        row = rows[url]
        plain = url.split("?")[0]
        assert (row["outcome"], row["source"], row["final_url"]) == ("ok", "commoncrawl", plain)
        assert row["fetched_at"] == 450 * DAY
        assert row["detail"].startswith("crawl-data/CC-MAIN-2015/a.warc.gz: byte ")
        assert row["payload_sha256"] == hashlib.sha256(body(plain, 450 * DAY)).hexdigest()
    assert (rows[URLS[5]]["source"], rows[URLS[5]]["outcome"]) == ("network", "ok")
    assert len([request for request in web.log if request.host == "data.example"]) == 5
    (segment,) = pages.sealed_segments(tmp_path / "p")
    found = list(pages.read_pages(segment))
    assert len(found) == 6
    assert all(isinstance(page, pages.Page) for page in found)


@pytest.mark.parametrize("fault", ["digest", "other page", "no range", "cut"])
def test_what_is_not_the_capture_that_the_index_names_is_not_taken(tmp_path: Path, fault: str) -> None:
    warc, index = crawl(tmp_path, {url.split("?")[0]: [450] for url in URLS})
    bucket = Bucket(warc)
    other = tmp_path / "other"
    other.mkdir()
    if fault == "digest":
        bucket.warc = crawl(other, {url.split("?")[0]: [451] for url in URLS})[0]
    elif fault == "other page":
        bucket.warc = crawl(other, {url.split("?")[0]: [450] for url in URLS[::-1]})[0]
    elif fault == "cut":
        bucket.warc = warc[: len(warc) // 2]
    else:
        bucket.whole_file = True
    rows, _ = build(tmp_path / "p", bucket, index)
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    live = [row for row in rows.values() if row["source"] == "network"]
    assert len(live) == (3 if fault == "cut" else 6)
    assert {row["payload_sha256"] for row in live} == {hashlib.sha256(b"<p>live</p>").hexdigest()}


def test_real_lines_are_read() -> None:
    line = (
        b"org,commoncrawl)/ 20150227034505 "
        b'{"url": "http://commoncrawl.org/", "digest": "XFJCTBVMSTNXLTX2RQ2TR2YBJNYXTPTX", "length": "9612",'
        b' "offset": "271180411", "filename": "crawl-data/x.warc.gz", "status": "200", "mime": "text/html"}'
    )
    assert parse_line(line) == Remote(
        "http://commoncrawl.org/",
        1_425_008_705,
        "crawl-data/x.warc.gz",
        271_180_411,
        9_612,
        "XFJCTBVMSTNXLTX2RQ2TR2YBJNYXTPTX",
    )
    assert parse_line(line.replace(b'"200"', b'"404"')) is None
    assert parse_line(line.replace(b"text/html", b"image/png")) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"key 20150227034505",
        b"key 2015 {}",
        b"key 20151327034505 {}",
        b'key 20150227034505 {"url": "http://a.example/"}',
        b"key 20150227034505 {broken",
        b'k 20150227034505 {"url":"u","filename":"../../etc","offset":0,"length":5,"status":200,"mime":"text/html"}',
        b'k 20150227034505 {"url":"u","filename":"f","offset":-1,"length":5,"status":200,"mime":"text/html"}',
        b'k 20150227034505 {"url":"u","filename":"f","offset":"x","length":5,"status":200,"mime":"text/html"}',
    ],
)
def test_bad_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected `key|in b'k"):
        parse_line(line)


def test_a_bad_line_or_a_cut_file_costs_no_other_line(tmp_path: Path) -> None:
    _, index = crawl(tmp_path, {url: [100] for url in URLS})
    whole = list(read_index(index))
    lines = gzip.decompress(index.read_bytes()).splitlines(keepends=True)
    index.write_bytes(gzip.compress(b"".join([*lines[:2], b"nonsense\n", *lines[2:]])))
    found = list(read_index(index))
    assert [item for item in found if isinstance(item, Remote)] == whole
    assert [str(item)[:7] for item in found if isinstance(item, ValueError)] == ["line 3:"]
    index.write_bytes(index.read_bytes()[:-40])
    assert isinstance(list(read_index(index))[-1], ValueError)
    opened = CaptureIndex.open([str(index)], tmp_path / "cache", publish=publish)
    assert opened.damage


def test_real_index_files_are_read_or_refused_line_by_line(shared_data: Path) -> None:
    captures = errors = 0
    for path in sorted((shared_data / "warc" / "pywb").rglob("*.cdx*")):
        for item in read_index(path):
            captures += isinstance(item, Remote)
            errors += isinstance(item, ValueError)
    assert captures == 20
    assert errors > 50  # the older CDX formats have no JSON


def test_the_index_finds_by_canonical_url(tmp_path: Path) -> None:
    _, index = crawl(tmp_path, {"http://www.site0.example/a/0": [100, 200]})
    opened = CaptureIndex.open([str(index)], tmp_path / "cache", publish=publish)
    id = document_id(canonical_url("https://site0.example/a/0/"))
    latest, early, none = opened.find([id, id, "0" * 32], [None, 90 * DAY, None])
    assert latest is not None
    assert early is not None
    assert (latest.date, early.date, none) == (200 * DAY, 100 * DAY, None)


def test_a_range_that_holds_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a whole WARC record|byte 0"):
        open_capture(Remote("http://a.example/", 0, "f", 0, 9, ""), b"not a member")
