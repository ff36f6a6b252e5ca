"""Segments: planned, looked up, fetched, sealed, recovered; with archives alone, byte for byte the same."""

from __future__ import annotations

import hashlib
import io
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.links import link_batches, publish

from webtext import archives, pages
from webtext.archives import Capture
from webtext.fetch import Fetched, FetchSettings, Job, NetworkDownError
from webtext.records import Drop, Page
from webtext.urls import canonical_url, document_id

HTML = (("Content-Type", "text/html; charset=utf-8"),)
DAY = 86_400


def page_of(url: str, word: str = "page") -> bytes:
    return f"<html><head><title>{word}</title></head><body><p>{word} of {url}</p></body></html>".encode()


def capture(url: str, *, date: int = 1_500_000_000, status: int = 200, word: str = "page", headers=HTML) -> Capture:
    return Capture(url, date, status, tuple(headers), page_of(url, word) if status == 200 else b"")


def write_archive(path: Path, captures: Iterable[Capture]) -> list[int]:
    """Writes a WARC file; returns where each record begins."""
    offsets = []
    with path.open("wb") as file:
        file.write(archives.warcinfo_record({"software": "tests"}, 1_400_000_000))
        for one in captures:
            offsets.append(file.tell())
            file.write(archives.warc_record(one))
    return offsets


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".archives" not in path.parts
    }


def ledger(directory: Path) -> dict[str, dict[str, object]]:
    """URL -> the newest row of it."""
    rows: dict[str, dict[str, object]] = {}
    for segment in pages.sealed_segments(directory):
        rows |= {row["url"]: row for row in pages.read_ledger(segment).to_pylist()}
    return rows


def outcome_counts(directory: Path, batches: list[pa.RecordBatch]) -> dict[str, int]:
    found = pa.Table.from_batches(pages.outcomes(directory, batches), pages.OUTCOME_SCHEMA)
    assert found["id"].to_pylist() == [id for batch in batches for id in batch["id"].to_pylist()]
    return dict(Counter(found["outcome"].to_pylist()))


URLS = [f"http://site{n % 9}.example/article-{n}" for n in range(50)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "old.warc.gz"
    write_archive(path, [capture(url) for url in URLS[:40]])
    return path


def offline(archive: Path | str, **changes: object) -> FetchSettings:
    return FetchSettings(**{"archives": (str(archive),), "segment_links": 12, **changes})


# Archives alone -------------------------------------------------------------------------------------------------------


def test_archived_links_are_rows_that_point_into_the_archive_and_the_others_wait(tmp_path: Path, archive: Path) -> None:
    summary = pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    assert summary.outcomes == {"not_archived": 10, "ok": 40}
    assert (summary.planned, summary.sealed, summary.stopped) == (50, 5, None)
    rows = ledger(tmp_path / "pages")
    assert {url for url, row in rows.items() if row["outcome"] == "ok"} == set(URLS[:40])
    row = rows[URLS[3]]
    assert row["warc"] == str(archive)
    assert row["fetched_at"] == 1_500_000_000
    assert row["payload_sha256"] == hashlib.sha256(page_of(URLS[3])).hexdigest()
    assert row["attempts"] == 0
    assert not list((tmp_path / "pages").glob("*.warc.gz"))


def test_pages_are_read_in_id_order_with_the_bytes_that_were_archived(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    found = [page for segment in pages.sealed_segments(tmp_path / "pages") for page in pages.read_pages(segment)]
    assert all(isinstance(page, Page) and page.payload == page_of(page.url) for page in found)
    assert [page.id for page in found] == sorted(document_id(canonical_url(url)) for url in URLS[:40])


def test_ledgers_follow_their_schema_and_segments_their_seals(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    segments = pages.sealed_segments(tmp_path / "pages")
    assert [segment.rows for segment in segments] == [12, 12, 12, 12, 2]
    for segment in segments:
        table = pages.read_ledger(segment)
        assert table.schema.equals(pages.LEDGER_SCHEMA)
        assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
        assert hashlib.sha256(segment.ledger.read_bytes()).hexdigest() == segment.ledger_sha256
        assert dict(segment.outcomes) == Counter(table["outcome"].to_pylist())


def test_the_same_links_and_archives_give_the_same_bytes_however_they_come(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "a", link_batches(URLS, size=3), offline(archive), publish=publish)
    pages.update(tmp_path / "b", link_batches(URLS[::-1], size=50), offline(archive), publish=publish)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_killed_at_any_publication_the_next_run_gives_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "whole", link_batches(URLS), offline(archive), publish=publish)
    whole = contents(tmp_path / "whole")

    class Killed(BaseException):
        pass

    for deadly in range(1, 30):
        for after in (False, True):
            calls = 0

            def deadly_publish(temporary: Path, final: Path, deadly: int = deadly, after: bool = after) -> None:
                nonlocal calls
                calls += 1
                if calls == deadly and not after:
                    raise Killed
                temporary.replace(final)
                if calls == deadly:
                    raise Killed

            directory = tmp_path / f"killed-{deadly}-{after}"
            try:
                pages.update(directory, link_batches(URLS), offline(archive), publish=deadly_publish)
            except Killed:
                pass
            else:
                assert calls < deadly
                continue
            pages.update(directory, link_batches(URLS), offline(archive), publish=publish)
            assert contents(directory) == whole
            assert not list(directory.rglob("*.tmp"))
    assert calls == 12  # index, plan, and two files for each of five segments: all were tried


def test_a_second_run_changes_nothing(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    before = contents(tmp_path / "pages")
    summary = pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    assert (summary.sealed, summary.replanned, contents(tmp_path / "pages")) == (0, 0, before)


def test_a_new_month_adds_segments_and_touches_none(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS[:30]), offline(archive), publish=publish)
    before = contents(tmp_path / "pages")
    summary = pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    after = contents(tmp_path / "pages")
    assert before.items() <= after.items()
    assert (summary.planned, summary.replanned, summary.sealed) == (50, 0, 2)
    assert outcome_counts(tmp_path / "pages", link_batches(URLS)) == {"ok": 40, "not_archived": 10}


def test_a_new_archive_takes_up_what_it_holds_and_touches_no_segment(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    before = contents(tmp_path / "pages")
    write_archive(tmp_path / "new.warc.gz", [capture(url) for url in URLS[40:46]])
    settings = offline(tmp_path / "*.warc.gz")
    summary = pages.update(tmp_path / "pages", link_batches(URLS), settings, publish=publish)
    assert (summary.replanned, summary.sealed, summary.outcomes) == (6, 1, {"ok": 6})
    assert before.items() <= contents(tmp_path / "pages").items()
    assert outcome_counts(tmp_path / "pages", link_batches(URLS)) == {"ok": 46, "not_archived": 4}
    again = pages.update(tmp_path / "pages", link_batches(URLS), settings, publish=publish)
    assert (again.replanned, again.sealed) == (0, 0)


def test_what_a_new_archive_says_of_a_dead_link_is_told_as_if_it_had_been_there_before(
    tmp_path: Path, archive: Path
) -> None:
    pages.update(tmp_path / "p", link_batches(URLS), offline(archive), publish=publish)
    assert ledger(tmp_path / "p")[URLS[45]]["outcome"] == "not_archived"
    write_archive(tmp_path / "b.warc.gz", [capture(URLS[45], status=404)])
    both = FetchSettings(archives=(str(archive), str(tmp_path / "b.warc.gz")), segment_links=20)
    pages.update(tmp_path / "p", link_batches(URLS), both, publish=publish)
    assert ledger(tmp_path / "p")[URLS[45]]["outcome"] == "not_found"
    before = sorted(tmp_path.rglob("p/*"))
    pages.update(tmp_path / "p", link_batches(URLS), both, publish=publish)
    assert sorted(tmp_path.rglob("p/*")) == before  # once


def test_links_that_are_no_longer_selected_are_not_planned_again(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    write_archive(tmp_path / "new.warc.gz", [capture(url) for url in URLS[40:46]])
    settings = offline(tmp_path / "*.warc.gz")
    summary = pages.update(tmp_path / "pages", link_batches(URLS[:43]), settings, publish=publish)
    assert summary.replanned == 3


def test_the_stamp_of_archives_follows_their_content_and_reads_none(tmp_path: Path, archive: Path) -> None:
    cache = tmp_path / "cache"
    settings = offline(archive)
    assert pages.archive_stamp(settings, cache) == "unread"
    pages.update(tmp_path / "pages", link_batches(URLS), settings, publish=publish, cache=cache)
    stamp = pages.archive_stamp(settings, cache)
    assert len(stamp) == 64
    os.utime(archive, ns=(1, 1))
    pages.update(tmp_path / "pages", link_batches(URLS), settings, publish=publish, cache=cache)
    assert pages.archive_stamp(settings, cache) == stamp
    write_archive(archive, [capture(url, word="other") for url in URLS[:40]])
    pages.update(tmp_path / "pages", link_batches(URLS), settings, publish=publish, cache=cache)
    assert pages.archive_stamp(settings, cache) != stamp


@pytest.mark.parametrize(
    ("created_at", "word"), [(None, "latest"), (1_000 * DAY, "early"), (1_999 * DAY, "middle"), (9_999 * DAY, "latest")]
)
def test_of_several_captures_the_nearest_to_the_post_is_taken_or_the_latest(
    tmp_path: Path, created_at: int | None, word: str
) -> None:
    url = "http://example.com/often"
    dates = {"middle": 2_000, "early": 1_100, "latest": 3_000}
    write_archive(tmp_path / "a.warc.gz", [capture(url, date=day * DAY, word=word) for word, day in dates.items()])
    write_archive(tmp_path / "b.warc.gz", [capture(url, date=4_000 * DAY, status=404)])
    batches = link_batches([url], created_at=created_at)
    pages.update(tmp_path / "pages", batches, offline(tmp_path / "*.warc.gz"), publish=publish)
    row = ledger(tmp_path / "pages")[url]
    assert row["payload_sha256"] == hashlib.sha256(page_of(url, word)).hexdigest()


def test_archived_redirects_are_followed_in_the_archives(tmp_path: Path) -> None:
    hops = ["http://a.example/1", "http://b.example/2", "http://c.example/3"]
    moved = [
        capture(hops[0], status=301, headers=[("Location", hops[1])]),
        capture(hops[1], status=302, headers=[("Location", "//c.example/3")]),
        capture(hops[2]),
        capture("http://loop.example/a", status=301, headers=[("Location", "/b")]),
        capture("http://loop.example/b", status=301, headers=[("Location", "/a")]),
    ]
    write_archive(tmp_path / "a.warc.gz", moved)
    batches = link_batches([hops[0], "http://loop.example/a"])
    pages.update(tmp_path / "pages", batches, offline(tmp_path / "a.warc.gz"), publish=publish)
    rows = ledger(tmp_path / "pages")
    assert (rows[hops[0]]["outcome"], rows[hops[0]]["final_url"]) == ("ok", hops[2])
    assert rows[hops[0]]["redirect"] == "temporary"
    assert rows["http://loop.example/a"]["outcome"] == "not_archived"


def test_what_is_no_page_is_left_out_with_its_reason(tmp_path: Path) -> None:
    odd = {
        "http://e.example/pdf": capture("http://e.example/pdf", headers=[("Content-Type", "application/pdf")]),
        "http://e.example/gone": capture("http://e.example/gone", status=410),
        "http://e.example/noai": capture("http://e.example/noai", headers=[*HTML, ("X-Robots-Tag", "noai")]),
        "http://e.example/empty": Capture("http://e.example/empty", 1, 200, HTML, b" \n"),
        "http://e.example/cut": Capture("http://e.example/cut", 1, 200, HTML, b"<p>half", "length"),
        "http://e.example/gz": Capture(
            "http://e.example/gz", 1, 200, (*HTML, ("Content-Encoding", "gzip")), b"\x1f\x8b\x08\x00junkjunkjunk"
        ),
    }
    write_archive(tmp_path / "a.warc.gz", odd.values())
    pages.update(tmp_path / "pages", link_batches(odd), offline(tmp_path / "a.warc.gz"), publish=publish)
    rows = ledger(tmp_path / "pages")
    found = {url.rsplit("/", 1)[1]: rows[url]["outcome"] for url in odd}
    assert found == {
        "pdf": "content_type",
        "gone": "gone",
        "noai": "opt_out",
        "empty": "empty",
        "cut": "truncated",
        "gz": "decode_error",
    }


def test_a_page_damaged_after_it_was_indexed_is_a_drop_and_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    offsets = write_archive(path, [capture(url) for url in URLS[:20]])
    pages.update(tmp_path / "pages", link_batches(URLS[:20]), offline(path, segment_links=50), publish=publish)
    data = bytearray(path.read_bytes())
    data[offsets[7] + 150] ^= 0x10
    path.write_bytes(data)
    (segment,) = pages.sealed_segments(tmp_path / "pages")
    found = list(pages.read_pages(segment))
    drops = [item for item in found if isinstance(item, Drop)]
    assert [(drop.reason, drop.id) for drop in drops] == [("damaged", document_id(canonical_url(URLS[7])))]
    assert len(found) == 20


def test_an_archive_that_has_gone_is_said_in_one_line(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)
    archive.unlink()
    with pytest.raises(ValueError, match=r"old\.warc\.gz.*put it back"):
        list(pages.read_pages(pages.sealed_segments(tmp_path / "pages")[0]))
    with pytest.raises(ValueError, match=r"\[fetch\] archives: expected WARC files at .*old\.warc\.gz"):
        pages.update(tmp_path / "pages", link_batches(URLS), offline(archive), publish=publish)


def test_unsorted_links_are_refused(tmp_path: Path, archive: Path) -> None:
    batches = link_batches(URLS)
    with pytest.raises(ValueError, match="sorted by id"):
        pages.update(tmp_path / "pages", batches[::-1], offline(archive), publish=publish)


def test_no_byte_here_depends_on_a_flipped_bit_going_unseen(tmp_path: Path) -> None:
    """Cuts and flips of an archive: each page is found whole or not at all, and what is lost is said."""
    path = tmp_path / "a.warc.gz"
    write_archive(path, [capture(url) for url in URLS[:12]])
    good = path.read_bytes()
    whole = {one.url: one.body for one in archives.read_captures(path) if isinstance(one, Capture)}
    assert len(whole) == 12
    chance = random.Random(5)
    for trial in range(300):
        data = bytearray(good)
        if trial % 2:
            del data[chance.randrange(1, len(data)) :]
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        items = []
        try:
            items = list(archives.read_captures(path))
        except ValueError:
            assert trial % 2 == 0  # the first bytes were hit: not a WARC file any more
            continue
        found = {one.url: one.body for one in items if isinstance(one, Capture)}
        assert found.items() <= whole.items()
        if len(found) < 12 and trial % 2 == 0:
            assert any(isinstance(item, archives.Damage) for item in items)
            assert len(found) >= 11  # one bit costs one record


def test_a_cut_archive_without_digests_gives_its_whole_records_only(tmp_path: Path) -> None:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>a page of some length</p>"
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2015-01-01T00:00:00Z\r\nWARC-Target-URI: http://{}.example/\r\n"
        "Content-Type: application/http; msgtype=response\r\nContent-Length: {}\r\n\r\n"
    )
    records = [head.format(name, len(block)).encode() + block + b"\r\n\r\n" for name in ("one", "two")]
    path = tmp_path / "plain.warc"
    path.write_bytes(b"".join(records)[:-20])
    first, second = archives.read_captures(path)
    assert isinstance(first, Capture)
    assert first.url == "http://one.example/"
    assert isinstance(second, archives.Damage)
    assert second.offset == len(records[0])


# With a network -------------------------------------------------------------------------------------------------------


class FakeNetwork:
    """A transport that answers from a table; `die` raises in the middle, as a kill would end the run."""

    def __init__(self, answers: Mapping[str, str], *, die_after: int | None = None, only: int | None = None) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.die_after = die_after
        self.only = only
        self.closed = False

    def run(self, jobs: Iterator[Job]) -> Iterator[Fetched | None]:
        waiting: list[Job] = []
        for job in jobs:
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            if self.only is not None and len(self.asked) >= self.only:
                waiting.append(job)
                yield None
                continue
            self.asked.append(job.url)
            outcome = self.answers.get(job.url, "ok")
            if outcome != "ok":
                yield Fetched(job, outcome, "as the table says", status=404 if outcome == "not_found" else None)
                continue
            one = capture(job.url)
            yield Fetched(
                job,
                "ok",
                final_url=job.url,
                status=200,
                content_type="text/html",
                payload_sha256=hashlib.sha256(one.body).hexdigest(),
                payload_bytes=len(one.body),
                fetched_at=one.date,
                record=archives.warc_record(one),
            )
        while waiting:
            yield None

    def forget(self, segment: int) -> None:
        pass

    def waiting(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed = True


def online(**changes: object) -> FetchSettings:
    return FetchSettings(**{"network": True, "contact": "tests@example.com", "segment_links": 12, **changes})


def test_fetched_pages_are_stored_and_read_back(tmp_path: Path) -> None:
    network = FakeNetwork({URLS[1]: "not_found"})
    summary = pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=network)
    assert summary.outcomes == {"not_found": 1, "ok": 49}
    assert network.closed
    found = [page for segment in pages.sealed_segments(tmp_path / "p") for page in pages.read_pages(segment)]
    assert {page.url: page.payload for page in found if isinstance(page, Page)} == {
        url: page_of(url) for url in URLS if url != URLS[1]
    }
    assert not (tmp_path / "p" / "open").exists()


def test_captures_open_with_warcio_and_their_digests_hold(tmp_path: Path) -> None:
    from warcio.archiveiterator import ArchiveIterator

    pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=FakeNetwork({}))
    urls = []
    for path in sorted((tmp_path / "p").glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                if record.rec_type == "response":
                    urls.append(record.rec_headers["WARC-Target-URI"])
                    assert record.http_headers.get_statuscode() == "200"
                    assert record.content_stream().read() == page_of(urls[-1])
                else:
                    assert record.rec_type == "warcinfo"
    assert sorted(urls) == sorted(URLS)


def test_archives_are_asked_first_and_the_network_only_for_the_rest(tmp_path: Path, archive: Path) -> None:
    network = FakeNetwork({})
    settings = online(archives=(str(archive),))
    pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=network)
    assert sorted(network.asked) == sorted(URLS[40:])


def test_turning_the_network_on_takes_up_what_no_archive_held(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "p", link_batches(URLS), offline(archive), publish=publish)
    before = contents(tmp_path / "p")
    network = FakeNetwork({})
    settings = online(archives=(str(archive),))
    summary = pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=network)
    assert (sorted(network.asked), summary.replanned) == (sorted(URLS[40:]), 10)
    assert before.items() <= contents(tmp_path / "p").items()


def test_a_transient_failure_is_final_after_three_runs(tmp_path: Path) -> None:
    for run in range(1, 5):
        network = FakeNetwork({URLS[0]: "timeout", URLS[1]: "not_found"})
        pages.update(tmp_path / "p", link_batches(URLS[:12]), online(), publish=publish, transport=network)
        assert (URLS[0] in network.asked) == (run <= 3)
        assert (URLS[1] in network.asked) == (run == 1)
        assert ledger(tmp_path / "p")[URLS[0]]["attempts"] == min(run, 3)
    assert outcome_counts(tmp_path / "p", link_batches(URLS[:12])) == {"ok": 10, "timeout": 1, "not_found": 1}


def test_killed_while_fetching_the_next_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    first = FakeNetwork({URLS[2]: "gone"}, die_after=30)
    with pytest.raises(KeyboardInterrupt):
        pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=first)
    assert len(pages.sealed_segments(tmp_path / "p")) == 2
    second = FakeNetwork({URLS[2]: "gone"})
    pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=second)
    assert sorted(first.asked + second.asked) == sorted(URLS)
    pages.update(
        tmp_path / "whole", link_batches(URLS), online(), publish=publish, transport=FakeNetwork(first.answers)
    )
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")


def test_whatever_a_crash_leaves_of_captures_and_log_the_ledger_is_the_same(tmp_path: Path) -> None:
    settings = online(segment_links=50)
    pages.update(tmp_path / "whole", link_batches(URLS), settings, publish=publish, transport=FakeNetwork({}))
    whole = contents(tmp_path / "whole")
    network = FakeNetwork({}, die_after=40)
    with pytest.raises(KeyboardInterrupt):
        pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=network)
    warc, log = (tmp_path / "p" / "open" / f"segment-000000.{kind}" for kind in ("warc.gz", "log"))
    captures, lines = warc.read_bytes(), log.read_bytes()
    assert lines.count(b"\n") == 40
    chance = random.Random(3)
    for trial in range(60):
        warc.parent.mkdir(exist_ok=True)
        torn_captures, torn_lines = bytearray(captures), bytearray(lines)
        if trial % 3 != 1:
            del torn_captures[chance.randrange(len(captures)) :]
        if trial % 3 != 0:
            del torn_lines[chance.randrange(len(lines)) :]
        if trial % 5 == 0 and torn_lines:
            torn_lines[chance.randrange(len(torn_lines))] ^= 1
        if trial % 7 == 0 and torn_captures:
            torn_captures[chance.randrange(len(torn_captures))] ^= 1
        warc.write_bytes(torn_captures)
        log.write_bytes(torn_lines)
        pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=FakeNetwork({}))
        assert contents(tmp_path / "p") == whole
        for path in (tmp_path / "p").glob("segment-*"):
            path.unlink()


@pytest.mark.parametrize("reached", ["warc", "ledger", "seal"])
def test_killed_while_sealing_the_next_run_seals(tmp_path: Path, reached: str) -> None:
    class Killed(BaseException):
        pass

    def deadly(temporary: Path, final: Path) -> None:
        temporary.replace(final)
        kind = {".gz": "warc", ".parquet": "ledger", ".json": "seal"}[final.suffix]
        if kind == reached and final.name.startswith("segment"):
            raise Killed

    settings = online(segment_links=50)
    with pytest.raises(Killed):
        pages.update(tmp_path / "p", link_batches(URLS), settings, publish=deadly, transport=FakeNetwork({}))
    network = FakeNetwork({})
    pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=network)
    assert network.asked == []
    pages.update(tmp_path / "whole", link_batches(URLS), settings, publish=publish, transport=FakeNetwork({}))
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")


def test_stop_leaves_open_segments_for_the_next_run(tmp_path: Path) -> None:
    network = FakeNetwork({})
    summary = pages.update(
        tmp_path / "p",
        link_batches(URLS),
        online(),
        publish=publish,
        transport=network,
        stop=lambda: len(network.asked) >= 30,
    )
    assert summary.stopped == "asked to stop"
    assert (tmp_path / "p" / "open" / "segment-000002.log").exists()
    assert outcome_counts(tmp_path / "p", link_batches(URLS)) == {"ok": 24, "pending": 26}
    rest = FakeNetwork({})
    pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=rest)
    assert len(rest.asked) == 20


def test_stop_after_a_share_seals_what_is_there_and_leaves_the_rest_pending(tmp_path: Path) -> None:
    settings = online(stop_after="50%")
    summary = pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=FakeNetwork({}))
    assert summary.stopped == "stop_after"
    assert outcome_counts(tmp_path / "p", link_batches(URLS)) == {"ok": 25, "pending": 25}
    assert len(pages.sealed_segments(tmp_path / "p")) == 3
    rest = FakeNetwork({})
    pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=rest)
    assert len(rest.asked) == 25
    assert outcome_counts(tmp_path / "p", link_batches(URLS)) == {"ok": 50}


def test_a_segment_whose_time_is_over_is_sealed_and_the_rest_planned_again_in_the_same_run(tmp_path: Path) -> None:
    settings = online(segment_links=50, segment_minutes=0.002)

    class Slow(FakeNetwork):
        rounds = 0

        def run(self, jobs: Iterator[Job]) -> Iterator[Fetched | None]:
            self.rounds += 1
            self.done = False
            self.only = 20 * self.rounds
            drawn = list(jobs)
            if not drawn:
                return
            for result in super().run(iter(drawn)):
                yield result
                if result is None and len(self.asked) >= self.only and self.done:
                    return

        done = False

        def forget(self, segment: int) -> None:
            self.done = True

    network = Slow({})
    pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=network)
    assert network.rounds == 3
    assert sorted(network.asked) == sorted(URLS)
    assert outcome_counts(tmp_path / "p", link_batches(URLS)) == {"ok": 50}
    assert len(list((tmp_path / "p").glob("plan-*.parquet"))) == 3


def test_the_time_of_a_segment_that_waits_behind_another_has_not_begun(tmp_path: Path) -> None:
    class OneHost(FakeNetwork):
        forgotten: set[int]

        def run(self, jobs: Iterator[Job]) -> Iterator[Fetched | None]:
            for job in list(jobs):
                if job.segment not in self.forgotten:
                    time.sleep(0.02 if job.segment == 0 else 0)
                    yield from super().run(iter([job]))

        def forget(self, segment: int) -> None:
            self.forgotten.add(segment)

    network = OneHost({})
    network.forgotten = set()
    settings = online(segment_links=25, segment_minutes=0.002)
    pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=network)
    first, second, left = (dict(segment.outcomes) for segment in pages.sealed_segments(tmp_path / "p"))
    assert first["pending"] > 0
    assert second == {"ok": 25}
    assert left == {"ok": first["pending"]}


def test_hosts_that_are_never_done_keep_no_more_than_a_few_segments_open(tmp_path: Path) -> None:
    network = FakeNetwork({}, only=0)
    settings = online(segment_links=2)
    summary = pages.update(
        tmp_path / "p",
        link_batches(URLS),
        settings,
        publish=publish,
        transport=network,
        stop=lambda: len(pages.sealed_segments(tmp_path / "p")) == 25 - pages.MAX_OPEN_SEGMENTS,
    )
    assert summary.stopped == "asked to stop"
    assert network.asked == []
    pages.update(tmp_path / "p", link_batches(URLS), settings, publish=publish, transport=FakeNetwork({}))
    assert outcome_counts(tmp_path / "p", link_batches(URLS)) == {"ok": 50}


def test_a_network_that_is_down_ends_the_run_and_costs_no_attempt(tmp_path: Path) -> None:
    class Down(FakeNetwork):
        def run(self, jobs: Iterator[Job]) -> Iterator[Fetched | None]:
            for at, result in enumerate(super().run(jobs)):
                if at == 20:
                    raise NetworkDownError("the network seems to be down")
                yield result

    with pytest.raises(NetworkDownError):
        pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=Down({}))
    network = FakeNetwork({})
    pages.update(tmp_path / "p", link_batches(URLS), online(), publish=publish, transport=network)
    assert len(network.asked) == 30
    assert {row["attempts"] for row in ledger(tmp_path / "p").values()} == {1}


def test_progress_tells_what_is_settled_and_ends_with_all(tmp_path: Path, archive: Path) -> None:
    seen: list[dict[str, int]] = []
    pages.update(tmp_path / "p", link_batches(URLS), offline(archive), publish=publish, progress=seen.append)
    assert seen[-1] == {"planned": 50, "settled": 40, "ok": 40, "not_archived": 10}


# Real data ------------------------------------------------------------------------------------------------------------


def test_every_real_page_whose_url_is_one_is_found(tmp_path: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "pages").glob("*.warc.gz"))
    captures = [one for path in paths for one in archives.read_captures(path)]
    assert len(captures) == 1490
    urls: list[str] = []
    for one in captures:
        assert isinstance(one, Capture)
        try:
            canonical_url(one.url)
        except ValueError:
            continue  # 38 are named like "https://hard::example.com.html" or "xhttps://example.com"
        urls.append(one.url)
    settings = FetchSettings(archives=(str(shared_data / "pages" / "*.warc.gz"),))
    summary = pages.update(tmp_path / "p", link_batches(urls, size=500), settings, publish=publish)
    assert sum(summary.outcomes.values()) == len(urls) == 1452
    assert summary.outcomes == {"ok": 1447, "opt_out": 5}
    found = [page for segment in pages.sealed_segments(tmp_path / "p") for page in pages.read_pages(segment)]
    assert sum(isinstance(page, Page) for page in found) == 1447


def test_every_real_warc_file_is_read_or_refused_with_its_reason(shared_data: Path) -> None:
    read = 0
    reasons: list[str] = []
    for path in sorted((shared_data / "warc").rglob("*")):
        if not path.is_file():
            continue
        try:
            items = list(archives.read_captures(path))
        except ValueError as error:
            reasons.append(str(error))
            continue
        read += 1
        for item in items:
            if isinstance(item, Capture):
                archives.judge(item, 10_000_000)
            else:
                assert item.detail
    assert all("expected a WARC file" in reason for reason in reasons)
    assert (read, len(reasons)) == (56, 30)


def test_parquet_files_are_checked_when_read(tmp_path: Path, archive: Path) -> None:
    pages.update(tmp_path / "p", link_batches(URLS), offline(archive), publish=publish)
    segment = pages.sealed_segments(tmp_path / "p")[0]
    data = bytearray(segment.ledger.read_bytes())
    data[200] ^= 1
    with pytest.raises(OSError, match=r"(?i)crc|corrupt"):
        pq.read_table(io.BytesIO(bytes(data)), page_checksum_verification=True)
