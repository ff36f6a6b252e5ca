"""The fetcher against a loopback web: what every answer ends in, politeness, and a web with every fault mixed in."""

from __future__ import annotations

import gzip
import io
import itertools
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from helpers.faulty import cut, faulty_urls, faulty_web, hang_up
from helpers.links import link_batches, publish
from helpers.loopback import LoopbackWeb, Request, answer, redirect

from webtext import archives, fetch
from webtext.fetch import Answer, Fetched, Fetcher, FetchSettings, Job, NetworkDownError, download
from webtext.guard import Guard
from webtext.pages import read_ledger, sealed_segments, update

HTML = b"<html><head><title>t</title></head><body><p>some words</p></body></html>"
NO_ROBOTS = answer(b"", 404)


def loopback(**changes: Any) -> FetchSettings:
    return FetchSettings(
        **{
            "network": True,
            "allow_loopback": True,
            "deadline_seconds": 5.0,
            "connect_seconds": 2.0,
            "per_host_delay_seconds": 0.0,
            **changes,
        }
    )


def get(given: Any, url: str = "http://a.example/page", **changes: Any) -> Fetched:
    """What fetching `url` ends in, where every page answers `given` (bytes, or a function of the request)."""

    def handler(request: Request) -> Any:
        if request.path == "/robots.txt":
            return NO_ROBOTS
        return given(request) if callable(given) and not isinstance(given, bytes) else given

    with LoopbackWeb(handler) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        try:
            return download(url, loopback(**changes), guard=guard)
        finally:
            guard.close()


def stored(fetched: Fetched) -> archives.Capture:
    return archives.read_capture(io.BytesIO(fetched.record), 0)


# One page -------------------------------------------------------------------------------------------------------------


def test_a_page_is_stored_as_received_with_its_digest() -> None:
    body = gzip.compress(HTML)
    found = get(answer(body, headers=[("Content-Encoding", "gzip"), ("X-Server", "é")]))
    assert (found.outcome, found.status, found.payload_bytes) == ("ok", 200, len(HTML))
    capture = stored(found)
    assert (capture.url, capture.body) == ("http://a.example/page", body)
    assert archives.decode(capture.body, "gzip", 10**6) == HTML
    assert archives.header(capture.headers, "content-encoding") == "gzip"


STATUSES = [
    (201, "http_error"), (204, "http_error"), (304, "http_error"), (400, "http_error"), (401, "http_error"),
    (403, "http_error"), (404, "not_found"), (408, "server_error"), (410, "gone"), (418, "http_error"),
    (429, "rate_limited"), (451, "http_error"), (500, "server_error"), (503, "server_error"), (599, "server_error"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "outcome"), STATUSES)
def test_every_status_has_its_outcome(status: int, outcome: str) -> None:
    found = get(answer(HTML, status), retries=0)
    assert (found.outcome, found.status) == (outcome, status)
    assert not found.record


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (answer(HTML, content_type="application/pdf"), "content_type"),
        (answer(HTML, content_type="image/png"), "content_type"),
        (answer(HTML, content_type="Text/HTML; charset=latin1"), "ok"),
        (answer(HTML, content_type="application/xhtml+xml"), "ok"),
        (answer(HTML, content_type=""), "ok"),
        (answer(b""), "empty"),
        (answer(b" \r\n "), "empty"),
        (answer(HTML, headers=[("X-Robots-Tag", "noai")]), "opt_out"),
        (answer(HTML, headers=[("X-Robots-Tag", "webtext: noindex, noai")]), "opt_out"),
        (answer(HTML, headers=[("TDM-Reservation", "1")]), "opt_out"),
        (answer(HTML, headers=[("TDM-Reservation", "0")]), "ok"),
        (answer(HTML, headers=[("X-Robots-Tag", "noarchive")]), "ok"),
        (answer(b'<meta name="robots" content="index, NoAI">' + HTML), "opt_out"),
        (answer(b"<meta content=1 name=tdm-reservation>" + HTML), "opt_out"),
        (answer(b"x" * 70_000 + b'<meta name="robots" content="noai">'), "ok"),
        (cut, "truncated"),
        (answer(gzip.compress(HTML)[:-12], headers=[("Content-Encoding", "gzip")]), "truncated"),
        (answer(gzip.compress(HTML * 99)[:90], headers=[("Content-Encoding", "gzip")]), "truncated"),
        (answer(b"\x1f\x8b\x08" + b"junk" * 9, headers=[("Content-Encoding", "gzip")]), "decode_error"),
        (answer(b"\x93\x01\x02", headers=[("Content-Encoding", "compress")]), "decode_error"),
        (answer(HTML, headers=[("Content-Encoding", "gzip")]), "ok"),  # named, but not applied
        (b"220 smtp.example ESMTP\r\n", "protocol"),
        (hang_up, "protocol"),
        (answer(b"y" * 3_000_000), "too_large"),
        (redirect(""), "http_error"),
        (redirect("http://[::1/"), "bad_url"),
        (redirect("ftp://a.example/"), "blocked"),
        (redirect("http://user:pass@b.example/"), "blocked"),
        (redirect("http://nowhere.example/"), "dns"),
    ],
)  # fmt: skip
def test_what_is_no_page_has_its_outcome(given: bytes, outcome: str) -> None:
    def once(request: Request) -> Any:
        return given

    assert get(once, max_wire_bytes=2_000_000).outcome == outcome


def test_signals_and_canonical_link_are_recorded() -> None:
    found = get(answer(b'<meta name=robots content="noarchive"><link href="/real?a=1&b=2" rel="canonical">' + HTML))
    assert (found.opt_out, found.canonical_url) == ("noarchive", "http://a.example/real?a=1&b=2")


def test_redirects_are_followed_with_what_they_were() -> None:
    def handler(request: Request) -> bytes:
        return {
            "http://short.example/x": redirect("http://long.example/a", 301),
            "http://long.example/a": redirect("/b", 308),
            "http://long.example/b": answer(HTML),
            "http://long.example/t": redirect("b?x#frag", 307),
            "http://long.example/b?x": answer(HTML),
        }[f"http://{request.host}{request.path}"]

    found = get(handler, "http://short.example/x")
    assert (found.outcome, found.final_url, found.redirect) == ("ok", "http://long.example/b", "permanent")
    assert stored(found).url == "http://long.example/b"
    found = get(handler, "http://long.example/t")
    assert (found.final_url, found.redirect) == ("http://long.example/b?x", "temporary")


def test_redirects_end_after_five_or_when_they_go_round() -> None:
    found = get(lambda request: redirect(f"/{int(request.path[1:]) + 1}"), "http://a.example/1")
    assert (found.outcome, found.final_url) == ("too_many_redirects", "http://a.example/6")
    assert get(redirect("/page")).outcome == "too_many_redirects"


def test_the_target_of_a_redirect_may_be_rejected() -> None:
    with LoopbackWeb(
        lambda request: NO_ROBOTS if request.path == "/robots.txt" else redirect("http://b.example/")
    ) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        found = download(
            "http://a.example/", loopback(), guard=guard, reject=lambda url: "wikipedia" if "b.example" in url else None
        )
        guard.close()
        assert (found.outcome, found.detail) == ("rejected", "wikipedia: http://b.example/")
        assert {request.host for request in web.log} == {"a.example"}


CODECS = {
    "gzip": lambda data: gzip.compress(data, 9),
    "deflate": lambda data: zlib.compress(data, 9),
    "br": lambda data: brotli.compress(data, quality=5),
    "zstd": lambda data: zstandard.compress(data, 19),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("chained", [False, True])
def test_a_bomb_is_stopped_at_its_cap(codec: str, chained: bool) -> None:
    import resource

    bomb = CODECS[codec](b"\0" * 50_000_000)
    encoding = codec
    if chained:
        bomb, encoding = CODECS[codec](bomb), f"{codec}, {codec}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = get(answer(bomb, headers=[("Content-Encoding", encoding)]), max_decoded_bytes=1_000_000)
    assert found.outcome == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


@pytest.mark.parametrize("value", ["120", " 7 "])
def test_retry_after_in_seconds(value: str) -> None:
    assert fetch.retry_after_seconds(value, 0.0) == float(value)


def test_retry_after_as_a_date_and_as_nonsense() -> None:
    assert fetch.retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777.0 - 30) == 30
    assert fetch.retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", 2e9) == 0
    assert fetch.retry_after_seconds("later", 0.0) is None


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": True}, r"\[fetch\] contact: expected a mail address or a URL"),
        ({"network": True, "contact": "me"}, r"\[fetch\] contact"),
        ({"segment_links": 0}, r"\[fetch\] segment_links: expected a whole number of at least 1, got 0"),
        ({"stop_after": "soon"}, r"\[fetch\] stop_after: expected a share such as 90%"),
        ({"stop_after": "101%"}, r"\[fetch\] stop_after"),
        ({"user_agent": "/1.0"}, r"\[fetch\] user_agent"),
        ({"deadline_seconds": 0.0}, r"\[fetch\] deadline_seconds"),
        ({"content_types": ()}, r"\[fetch\] content_types"),
    ],
)
def test_bad_settings_are_said_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FetchSettings(**changes)


def test_stop_rules() -> None:
    assert fetch.stop_rule("90%") == ("share", 0.9)
    assert fetch.stop_rule("45s") == ("seconds", 45.0)
    assert fetch.stop_rule(" 1.5 h ") == ("seconds", 5400.0)


def test_the_agent_says_whom_to_write_to() -> None:
    with LoopbackWeb(lambda request: answer(HTML)) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        download("http://a.example/", loopback(contact="crawl@example.com"), guard=guard)
        guard.close()
        assert {request.headers["user-agent"] for request in web.log} == {"webtext/0.1 (+crawl@example.com)"}


# Many pages -----------------------------------------------------------------------------------------------------------


def crawl(web: LoopbackWeb, urls: list[str], **changes: Any) -> dict[str, Fetched]:
    guard = Guard(allow_loopback=True, resolve=web.resolve, connect_seconds=2.0)
    fetcher = Fetcher(loopback(**changes), guard=guard)
    try:
        jobs = (Job(0, row, url) for row, url in enumerate(urls))
        results = [result for result in fetcher.run(jobs) if result is not None]
    finally:
        guard.close()
        fetcher.close()
    assert Counter(result.job.row for result in results) == Counter(range(len(urls)))
    return {result.job.url: result for result in results}


def gaps(web: LoopbackWeb) -> dict[str, float]:
    """Host -> the smallest time between two of its requests."""
    times: dict[str, list[float]] = defaultdict(list)
    for request in web.log:
        times[request.host].append(request.at)
    return {host: min(b - a for a, b in itertools.pairwise(at)) for host, at in times.items() if len(at) > 1}


def test_hosts_are_asked_at_once_but_each_of_them_slowly() -> None:
    with LoopbackWeb(lambda request: NO_ROBOTS if request.path == "/robots.txt" else answer(HTML)) as web:
        urls = [f"http://h{number % 10}.example/{number}" for number in range(40)]
        started = time.monotonic()
        found = crawl(web, urls, per_host_delay_seconds=0.2, concurrency=16)
        elapsed = time.monotonic() - started
    assert {result.outcome for result in found.values()} == {"ok"}
    assert min(gaps(web).values()) >= 0.195
    assert elapsed < 3.0  # 4 pages and a robots.txt each; one after the other they would take 10 s


def test_redirects_wait_their_turn_at_the_host_they_lead_to() -> None:
    def handler(request: Request) -> bytes:
        if request.path == "/robots.txt":
            return NO_ROBOTS
        return answer(HTML) if request.host == "hub.example" else redirect(f"http://hub.example{request.path}")

    with LoopbackWeb(handler) as web:
        found = crawl(web, [f"http://s{number}.example/{number}" for number in range(8)], per_host_delay_seconds=0.15)
    assert {result.outcome for result in found.values()} == {"ok"}
    assert gaps(web)["hub.example"] >= 0.145


def test_what_robots_txt_forbids_is_never_asked_for_also_behind_a_redirect() -> None:
    rules = b"user-agent: webtext/9\ndisallow: /private\nuser-agent: *\ndisallow: /\n"

    def handler(request: Request) -> bytes:
        if request.path == "/robots.txt":
            return {"strict.example": answer(rules), "broken.example": answer(b"", 503)}.get(request.host, NO_ROBOTS)
        return redirect("http://strict.example/private/2") if request.path == "/moved" else answer(HTML)

    with LoopbackWeb(handler) as web:
        found = crawl(
            web,
            [
                "http://strict.example/public",
                "http://strict.example/private/1",
                "http://free.example/moved",
                "http://broken.example/x",
                "http://nowhere.example/x",
            ],
        )
    assert [result.outcome for _, result in sorted(found.items())] == [
        "robots_unreachable", "disallowed", "dns", "disallowed", "ok",
    ]  # fmt: skip
    asked = [(request.host, request.path) for request in web.log if request.path != "/robots.txt"]
    assert sorted(asked) == [("free.example", "/moved"), ("strict.example", "/public")]


def test_crawl_delay_is_kept_up_to_the_longest_that_is_waited_for() -> None:
    def handler(request: Request) -> bytes:
        delay = b"0.3" if request.host == "slow.example" else b"900"
        return answer(b"user-agent: *\ncrawl-delay: " + delay) if request.path == "/robots.txt" else answer(HTML)

    with LoopbackWeb(handler) as web:
        urls = [f"http://{host}.example/{number}" for host in ("slow", "slower") for number in range(3)]
        crawl(web, urls, max_crawl_delay_seconds=0.5)
    assert 0.29 <= gaps(web)["slow.example"] < 0.48
    assert gaps(web)["slower.example"] >= 0.49


def test_too_many_requests_is_tried_again_when_the_server_says() -> None:
    def handler(request: Request) -> bytes:
        if request.path == "/robots.txt":
            return NO_ROBOTS
        seen = sum(one.path == request.path for one in web.log)
        if request.path == "/never":
            return answer(b"", 429, [("Retry-After", "9999")])
        return answer(b"", 503, [("Retry-After", "1")]) if seen == 1 else answer(HTML)

    with LoopbackWeb(handler) as web:
        started = time.monotonic()
        found = crawl(web, ["http://a.example/once", "http://b.example/never"])
        assert 1.0 <= time.monotonic() - started < 3.0
    assert found["http://a.example/once"].outcome == "ok"
    assert found["http://b.example/never"].outcome == "rate_limited"


def test_a_dead_host_is_left_alone_after_some_failures_in_a_row() -> None:
    def handler(request: Request) -> Any:
        if request.path == "/robots.txt" or request.host == "alive.example":
            return NO_ROBOTS if request.path == "/robots.txt" else answer(HTML)
        return hang_up

    with LoopbackWeb(handler) as web:
        urls = [f"http://dead.example/{number}" for number in range(30)] + ["http://alive.example/x"]
        found = crawl(web, urls, host_failures=4)
    counts = Counter(result.outcome for result in found.values())
    assert counts == {"protocol": 4, "host_down": 26, "ok": 1}
    assert sum(request.host == "dead.example" and request.path != "/robots.txt" for request in web.log) == 4


def test_one_page_that_breaks_the_worker_costs_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(url: str, seconds: float, wire_bytes: int, wanted: tuple[str, ...]) -> Answer:
        if url.endswith("/3"):
            raise RecursionError("what nobody thought of")
        return Answer(url, status=200, headers=(("Content-Type", "text/html"),), body=HTML)

    fetcher = Fetcher(loopback(robots=False), send=send)
    jobs = [Job(0, number, f"http://h{number}.example/{number}") for number in range(6)]
    results = [result for result in fetcher.run(iter(jobs)) if result is not None]
    fetcher.close()
    assert Counter(result.outcome for result in results) == {"ok": 5, "protocol": 1}


def offline_send(url: str, seconds: float, wire_bytes: int, wanted: tuple[str, ...]) -> Answer:
    number = int(url.rsplit("/", 1)[1])
    if number < 200:
        return Answer(url, status=200, headers=(("Content-Type", "text/html"),), body=HTML)
    return Answer(url, outcome="dns")


def test_when_nearly_everything_fails_the_run_ends_and_those_failures_have_no_result() -> None:
    fetcher = Fetcher(loopback(robots=False, concurrency=4), send=offline_send)
    results: list[Fetched | None] = []
    jobs = (Job(0, number, f"http://h{number % 900}.example/{number}") for number in range(3000))
    with pytest.raises(NetworkDownError, match="No try was counted"):
        results.extend(fetcher.run(jobs))
    fetcher.close()
    outcomes = Counter(result.outcome for result in results if result is not None)
    assert outcomes["ok"] == 200
    assert outcomes["dns"] <= 100  # those that overtook the last answers; were none held back, it would be over 450


def test_few_hosts_that_fail_are_not_a_network_that_is_down() -> None:
    fetcher = Fetcher(loopback(robots=False, host_failures=10_000), send=offline_send)
    jobs = (Job(0, number, f"http://h{number % 10}.example/{number}") for number in range(1000))
    outcomes = Counter(result.outcome for result in fetcher.run(jobs) if result is not None)
    fetcher.close()
    assert outcomes == {"ok": 200, "dns": 800}


def test_jobs_are_drawn_only_as_hosts_come_free() -> None:
    drawn = 0
    gate = threading.Event()

    def send(url: str, seconds: float, wire_bytes: int, wanted: tuple[str, ...]) -> Answer:
        gate.wait(5)
        return offline_send(url, seconds, wire_bytes, wanted)

    def jobs() -> Iterator[Job]:
        nonlocal drawn
        for number in range(100_000):
            drawn += 1
            yield Job(0, number, f"http://h{number}.example/1")

    fetcher = Fetcher(loopback(robots=False, concurrency=8), send=send)
    run = fetcher.run(jobs())
    assert next(run) is None
    assert drawn < 1000
    assert fetcher.waiting()["connections"] == 8
    gate.set()
    fetcher.close()


def test_hosts_with_nothing_to_do_are_forgotten_but_not_their_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webtext.fetch.MIN_HOSTS", 8)
    asked: list[str] = []

    def send(url: str, seconds: float, wire_bytes: int, wanted: tuple[str, ...]) -> Answer:
        asked.append(url)
        return offline_send("/999" if "dead" in url else "/1", seconds, wire_bytes, wanted)

    fetcher = Fetcher(loopback(robots=False, concurrency=1, host_failures=2, per_host_delay_seconds=0.0), send=send)
    most = 0

    def jobs() -> Iterator[Job]:
        nonlocal most
        for number in range(4_000):
            name = "dead" if number % 1000 == 999 else f"h{number}"
            most = max(most, len(fetcher._hosts))
            yield Job(0, number, f"http://{name}.example/1")

    outcomes = Counter(result.outcome for result in fetcher.run(jobs()) if result is not None)
    fetcher.close()
    assert outcomes == {"ok": 3_996, "dns": 2, "host_down": 2}
    assert sum("dead" in url for url in asked) == 2
    assert most < 1_000


def test_a_forgotten_segment_has_no_more_results() -> None:
    fetcher = Fetcher(loopback(robots=False, concurrency=2, per_host_delay_seconds=0.01), send=offline_send)
    results = []
    for result in fetcher.run(iter([Job(number % 2, number, "http://one.example/1") for number in range(60)])):
        results += [result] if result is not None else []
        if len(results) == 10:
            fetcher.forget(1)
    fetcher.close()
    after = [result.job.segment for result in results[11:]]
    assert len(after) >= 20
    assert set(after) == {0}


# A web with every fault -----------------------------------------------------------------------------------------------


def half_resolve(web: LoopbackWeb) -> Any:
    """Sends names to the loopback web, and takes a literal address for what it is."""

    def resolve(host: str, port: int, **kwargs: Any) -> list[Any]:
        if host == "10.0.0.1":
            return [(2, 1, 6, "", ("10.0.0.1", port))]
        return web.resolve(host, port, **kwargs)

    return resolve


@pytest.mark.parametrize(("hosts", "pages"), [(10, 240), pytest.param(50, 10_000, marks=pytest.mark.slow)])
def test_the_ledger_of_a_web_with_every_fault_is_exact_and_the_web_was_treated_well(
    tmp_path: Path, hosts: int, pages: int
) -> None:
    expected = faulty_urls(hosts, pages)
    settings = loopback(per_host_delay_seconds=0.03, retries=0, segment_links=max(100, pages // 5), host_failures=1000)
    with LoopbackWeb(faulty_web) as web:
        guard = Guard(allow_loopback=True, resolve=half_resolve(web))
        fetcher = Fetcher(settings, guard=guard)
        update(tmp_path / "p", link_batches(expected), settings, publish=publish, transport=fetcher)
        guard.close()
    rows = [row for segment in sealed_segments(tmp_path / "p") for row in read_ledger(segment).to_pylist()]
    assert {row["url"]: row["outcome"] for row in rows} == expected
    assert min(gaps(web).values()) >= 0.029
    assert not [r for r in web.log if r.path.startswith("/private") and int(r.host.split(".")[0][1:]) % 2]
    assert max(Counter((r.host, r.path) for r in web.log).values()) <= 2  # a moved page may be another link's too
