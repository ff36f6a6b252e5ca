"""Faults 4 to 8, 11 and 12: hostile addresses, servers, bodies, pages and files; robots.txt; secrets.

The faults themselves are those of tests/webtext, whose tests and tables are called from here at their full counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import resource
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from helpers import builds, hostile
from helpers.loopback import LoopbackWeb, answer, redirect
from helpers.webs import Web

from pipelines import storage
from webtext import archives
from webtext.archives import Capture
from webtext.extract import ExtractSettings, extract_pages
from webtext.fetch import FetchSettings, exchange
from webtext.guard import Guard
from webtext.records import Page
from webtext.reddit import ReadSummary, read_dump

quick, slow = pytest.mark.quick, pytest.mark.slow


def load(name: str) -> ModuleType:
    """A test module of another room, for its helpers."""
    path = builds.REPOSITORY / "tests" / "webtext" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"faults_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guards, fetches, rules, api = load("test_guard"), load("test_fetch"), load("test_robots"), load("test_reddit")
kills = load("test_fetch_kills")
reddit = api.reddit  # a fixture

CONNECTS: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:
    sys.addaudithook(lambda event, args: CONNECTS.append(args[1]) if event == "socket.connect" else None)


@pytest.mark.parametrize("how", ["direct", "redirect", "rebinding", "mixed"])
def test_4_no_forbidden_address_is_connected_to(how: str, monkeypatch: pytest.MonkeyPatch, faults) -> None:
    CONNECTS.clear()
    count = len(guards.SPELLINGS)
    assert count >= 50
    guards.test_no_spelling_of_a_forbidden_address_is_ever_connected_to(how, CONNECTS, monkeypatch)
    faults.add(4, f"spellings of private addresses, {how}, proxy variables set", count, count)


def test_5_each_hostile_server_ends_by_its_deadline(faults) -> None:
    kinds = {**guards.SLOW, **guards.ENDLESS}
    deadline, in_time = 0.8, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in kinds.values():
        with LoopbackWeb(lambda request, kind=kind: kind) as web:
            _, elapsed = guards.ask(web, seconds=deadline, wire_bytes=2_000_000)
        in_time += elapsed <= deadline + 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 64 * 1024
    faults.add(5, "hostile servers: over by the deadline + 0.5 s, memory + 64 MB at most", len(kinds), in_time)


@pytest.mark.parametrize("count", [pytest.param(60, marks=quick), pytest.param(1_000, marks=slow)])
def test_5_mixed_servers_leak_nothing(count: int, faults) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    threads, open_before = threading.active_count(), descriptors()
    kinds = [*guards.SLOW.values(), answer(b"<p>x</p>"), redirect("/"), lambda conn: None]
    ended = 0
    with LoopbackWeb(lambda request: kinds[len(web.log) % len(kinds)]) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        pool = guard.pool()
        for number in range(count):
            started = time.monotonic()
            exchange(pool, guard, f"http://h{number % 7}.example/", FetchSettings(), seconds=0.1, wire_bytes=9_999)
            ended += time.monotonic() - started <= 0.1 + 0.5
        guard.close()
        pool.clear()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (threading.active_count() > threads or descriptors() > open_before):
        time.sleep(0.05)
    assert threading.active_count() <= threads
    assert descriptors() <= open_before
    faults.add(5, "mixed servers, no thread, socket or descriptor left", count, ended)


@pytest.mark.parametrize("size", [pytest.param(20_000_000, marks=quick), pytest.param(1_000_000_000, marks=slow)])
@pytest.mark.parametrize("codec", hostile.CODECS)
def test_6_bombs_stop_at_their_cap(codec: str, size: int, faults) -> None:
    """Memory tells how much was decoded: the cap, one step of 64 KiB, and what zlib copies of the wire's bytes."""
    cap = 1_000_000
    bomb = hostile.bomb(codec, size)
    stopped = 0
    for data, encoding in ((bomb, codec), (hostile.compressed(codec, [bomb]), f"{codec}, {codec}")):
        with traced() as held, pytest.raises(archives.DecodeError) as caught:
            archives.decode(data, encoding, cap)
        stopped += caught.value.outcome == "too_large" and held() <= cap + (64 << 10) + 3 * len(bomb) + (32 << 10)
    moved = answer(bomb, 302, [("Location", "/next"), ("Content-Encoding", codec)])
    with LoopbackWeb(lambda request: moved if request.path == "/" else answer(b"<p>there</p>")) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        with traced() as held:
            found = exchange(guard.pool(), guard, "http://a.example/", FetchSettings(), seconds=5, wire_bytes=2_000_000)
        guard.close()
    stopped += found.outcome in ("", "ok") and held() <= cap
    faults.add(6, f"{codec} bombs of {size // 1_000_000:,} MB: plain, chained, in a redirect", 3, stopped)


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Yields a function that says, afterwards, how many bytes more than now Python's objects held at most."""
    tracemalloc.start()
    peak = before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: peak - before
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("share", "limit"), [pytest.param(0.01, 10.0, marks=quick), pytest.param(1.0, 20.0, marks=slow)]
)
def test_7_hostile_families_cost_only_themselves(share: float, limit: float, faults) -> None:
    families = hostile.families(share)
    pages = [page(data) for data in families.values()]
    found = list(extract_pages(pages, ExtractSettings(timeout_seconds=limit)))
    labelled = sum((one.document is None) != (one.drop is None) for one in found)
    faults.add(7, f"hostile page families at {share:.0%} of the gates", len(families), labelled)


LOSSES = {  # what a page without a text may be called
    "empty", "no_text", "not_html", "undecodable", "unparsable", "parse_limit", "extractor_error",
    "too_large", "too_many_tags", "tag_too_long", "too_many_attributes", "text_too_large",
    "parse_timeout", "parse_memory", "parse_crash",
}  # fmt: skip


@pytest.mark.parametrize(
    ("extractor", "parts", "each"),
    [
        pytest.param("trafilatura", 1, 300, marks=quick),
        pytest.param("trafilatura", 5, 5_000, marks=slow),
        pytest.param("resiliparse", 15, 5_000, marks=slow),  # ten times faster
    ],
)
def test_7_mutated_pages_are_text_or_a_labelled_loss(
    extractor: Literal["trafilatura", "resiliparse"], parts: int, each: int, faults, request: pytest.FixtureRequest
) -> None:
    """A twentieth of them are real pages where these are at hand; each part has a parser, as many at once as cores."""
    real = real_pages(request)
    settings = ExtractSettings(extractor=extractor, timeout_seconds=10)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = sum(pool.map(lambda part: mutations(part, each, real, settings), range(parts)), Counter())
    count = parts * each
    assert found["text"] > count // 2  # mutations that leave something to read, not noise
    labelled = sum(found[one] for one in ("text", *LOSSES))
    faults.add(7, f"mutated pages read by {extractor}: text, or a loss with its reason", count, labelled)


def mutations(part: int, count: int, real: list[bytes], settings: ExtractSettings) -> Counter[str]:
    """What became of the pages that this part's numbers mutate."""
    chance = random.Random(f"{part} {settings.extractor}")
    seeds = [data[:8_000] for data in hostile.families(0.001).values()]
    seeds.append(b"<html><body><article>" + b"<p>A sentence that is one.</p>" * 30)
    pages = (page(hostile.mutated(seeds if chance.random() < 0.95 else real or seeds, chance)) for _ in range(count))
    found: Counter[str] = Counter()
    for one in extract_pages(pages, settings):
        assert (one.document is None) != (one.drop is None)
        found[one.drop.reason if one.drop else "text"] += 1
    return found


def real_pages(request: pytest.FixtureRequest, max_bytes: int = 16_000) -> list[bytes]:
    """Small real pages, where real data is at hand."""
    try:
        folder = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return []
    captures = (one for path in sorted((folder / "pages").glob("*.warc.gz")) for one in archives.read_captures(path))
    judged = (archives.judge(one, 5_000_000) for one in captures if isinstance(one, Capture))
    return [one.payload for one in judged if one.outcome == "ok" and len(one.payload) <= max_bytes]


def page(payload: bytes) -> Page:
    return Page("0" * 32, "http://a.example/", "http://a.example/", "text/html", payload, "0" * 64, 0)


@pytest.mark.parametrize("count", [pytest.param(60, marks=quick), pytest.param(1_000, marks=slow)])
def test_8_no_damage_to_a_dump_is_silent(count: int, tmp_path: Path, faults) -> None:
    import zstandard

    chance = random.Random(8)
    lines = b"".join(b'{"id":"%x","url":"http://e%d.example/","score":%d}\n' % (n, n, n % 9) for n in range(400))
    good = zstandard.ZstdCompressor(write_checksum=True).compress(lines)
    path = tmp_path / "RS.zst"
    said = 0
    for _ in range(count):
        path.write_bytes(damaged(good, chance))
        summary = ReadSummary()
        for _batch in read_dump(path, summary=summary):
            pass
        said += summary.truncated_at is not None
    faults.add(8, "cuts and flips of a .zst dump", count, said)


@pytest.mark.parametrize("count", [pytest.param(60, marks=quick), pytest.param(1_000, marks=slow)])
def test_8_no_damage_to_an_archive_is_silent(count: int, tmp_path: Path, faults) -> None:
    chance = random.Random(9)
    path = tmp_path / "a.warc.gz"
    head = (("content-type", "text/html"),)
    pages = [
        Capture(url=f"http://e{n}.example/", date=n, status=200, headers=head, body=b"<p>%d</p>" % n * 40, offset=0)
        for n in range(12)
    ]
    good = b"".join(archives.warc_record(one) for one in pages)
    whole = {one.url: one.body for one in pages}
    said = 0
    for _ in range(count):
        data = damaged(good, chance)
        path.write_bytes(data)
        items: list[Any] = []
        refused = False
        try:
            items = list(archives.read_captures(path))
        except ValueError:
            refused = True
        found = {one.url: one.body for one in items if isinstance(one, Capture)}
        told = refused or any(isinstance(one, archives.Damage) for one in items)
        cut_between = len(data) < len(good) and good[len(data) : len(data) + 2] == b"\x1f\x8b"  # sealed counts tell
        said += found.items() <= whole.items() and (len(found) == len(whole) or told or cut_between)
    faults.add(8, "cuts and flips of a WARC archive", count, said)


@pytest.mark.parametrize("count", [pytest.param(60, marks=quick), pytest.param(1_000, marks=slow)])
def test_8_no_damage_to_a_table_is_silent(count: int, tmp_path: Path, faults) -> None:
    import pyarrow as pa

    chance = random.Random(10)
    schema = pa.schema([pa.field("id", pa.string()), pa.field("text", pa.string())])
    table = pa.table({"id": [f"{n:x}" for n in range(900)], "text": [f"text {n * n}" for n in range(900)]}, schema)
    path = tmp_path / "t.parquet"
    storage.write_parquet(path, schema, [table])
    good = path.read_bytes()
    said = 0
    for _ in range(count):
        path.write_bytes(damaged(good, chance))
        same = False
        try:
            # As stages read: by the names of columns. Damage to statistics alone changes no value.
            same = storage.read_table(path, ["id", "text"]).equals(table)
        except (OSError, ValueError, MemoryError):
            same = True
        said += same
    faults.add(8, "cuts and flips of a Parquet table", count, said)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A cut, or one flipped bit."""
    if chance.random() < 0.5:
        return data[: chance.randrange(1, len(data))]
    found = bytearray(data)
    found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def test_11_the_rules_of_robots_txt_hold(faults) -> None:
    holds = 0
    for text, path, expected in rules.RULES:
        with contextlib.suppress(AssertionError):
            rules.test_a_rule_holds(text, path, expected)
            holds += 1
    faults.add(11, "rules of robots.txt", len(rules.RULES), holds)


@pytest.mark.parametrize(("hosts", "pages"), [pytest.param(6, 90, marks=quick), pytest.param(50, 10_000, marks=slow)])
def test_11_a_web_of_every_fault_is_treated_well_and_its_ledger_is_exact(
    hosts: int, pages: int, tmp_path: Path, faults
) -> None:
    fetches.test_the_ledger_of_a_web_with_every_fault_is_exact_and_the_web_was_treated_well(tmp_path, hosts, pages)
    count = len(fetches.faulty_urls(hosts, pages))
    faults.add(11, "pages of a faulty web: outcome exact, gaps kept, nothing disallowed asked for", count, count)


@pytest.mark.parametrize(
    ("times", "hosts", "pages"), [pytest.param(2, 20, 360, marks=quick), pytest.param(20, 50, 10_000, marks=slow)]
)
def test_11_a_fetcher_killed_at_any_moment_ends_with_the_ledger_of_one_that_was_not(
    times: int, hosts: int, pages: int, tmp_path: Path, faults
) -> None:
    kills.test_killed_at_any_moment_the_ledger_is_the_same_but_for_tries_and_times(tmp_path, times, hosts, pages)
    faults.add(11, f"kill -9 while fetching {pages:,} pages of a faulty web: same ledger", times, times)


def test_12_no_secret_is_ever_shown(
    reddit: Any, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults
) -> None:
    """A build that reads Reddit's API with canaries as credentials; then one whose secret is wrong."""
    reddit.listings["news/top/all"] = api.posts(3)
    source = {
        "dumps": "",
        "subreddits": "news",
        "listings": "top",
        "time_filters": "all",
        "reddit_url": reddit.url,
        "oauth_url": reddit.url,
        "user_agent": "linux:webtext.tests:1 (by u/nobody)",
    }
    shown = ""
    for secret, status in ((api.CLIENT_SECRET, 0), ("canary-wrong-secret", 1)):
        monkeypatch.setenv("praw_client_secret", secret)
        root = tmp_path / f"root-{status}"
        settings = web.settings_file(
            tmp_path / f"{status}.cfg",
            root,
            links=source,
            fetch={"allow_loopback": "true"},
            core={"log_level": "DEBUG"},
        )
        task = "SelectLinks"
        done = builds.run(settings, task=task)
        assert (done.returncode != 0) == bool(status), done.stderr
        shown += done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    secrets = ["canary", api.CLIENT_ID, api.CLIENT_SECRET, *reddit.tokens]
    assert reddit.tokens
    clean = sum(not any(secret.encode() in path.read_bytes() for secret in secrets) for path in files)
    assert not any(secret in shown for secret in secrets)
    faults.add(12, "files, logs and output without a canary secret", len(files) + 1, clean + 1)
