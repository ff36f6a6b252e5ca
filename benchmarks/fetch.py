"""Fetching: pages per second and core with captures written, memory over a long run, and the schedule of many hosts.

    python benchmarks/fetch.py web                    ours beside a thread pool around trafilatura.fetch_url, on servers
                                                      that are as far, slow, broken or silent as those of the web
    python benchmarks/fetch.py pages                  the same on servers that answer at once: what a page costs
    python benchmarks/fetch.py memory --pages 100000  resident memory along one long run
    python benchmarks/fetch.py schedule               10 million links of 500,000 hosts, planned and scheduled

Both fetchers are given one core, the same links in the same order and the same number of connections; the loopback
servers have another core. The peer keeps nothing, checks no robots.txt, looks at no address and writes no capture; ours
does all of it. Rates are given by the clock and by the processor time of the fetching process: on a machine that others
use too, only the second says what a core can do.

The servers of `web`, by host: four in a hundred accept and say nothing, two send a kilobyte a second, two answer 503,
five 404; the others answer after 50 to 400 ms. Time-outs are the peer's own 30 seconds for both. What counts is the
time until 95% of the pages that can be had are there: the last ones wait for the silent servers, whoever asks.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import dataclasses
import functools
import gzip
import logging
import multiprocessing
import os
import random
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from webtext.fetch import Answer, Fetcher, FetchSettings
from webtext.pages import sealed_segments, update

PAGE_BYTES: Final = 50_000
HOSTS: Final = 200


@dataclass(frozen=True)
class Rate:
    """Pages per second, by the clock and by the processor time of this process."""

    clock: float
    core: float

    @classmethod
    def since(cls, pages: int, started: tuple[float, float]) -> Rate:
        return cls(pages / (time.perf_counter() - started[0]), pages / (time.process_time() - started[1]))

    def __str__(self) -> str:
        return f"{self.clock:5.0f}/s, {self.core:5.0f} per core second"


def page() -> bytes:
    """HTML of 50 KB that compresses about as pages do."""
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(2, 11))) for _ in range(3_000)]
    parts = ["<html><head><title>A page</title></head><body>"]
    size = 0
    while size < PAGE_BYTES:
        text = " ".join(chance.choices(words, k=60))
        parts.append(f'<div class="{chance.choice(words)}"><p>{text}</p></div>\n')
        size += len(parts[-1])
    return "".join(parts).encode()[: PAGE_BYTES - 14] + b"</body></html>"


SHARES: Final = {"silent": 0.04, "slow": 0.02, "unavailable": 0.02, "absent": 0.05}


def kinds(hosts: int) -> list[str]:
    """What each host of `web` is: a key of SHARES, or "ok"."""
    found = [kind for kind, share in SHARES.items() for _ in range(round(share * hosts))]
    found += ["ok"] * (hosts - len(found))
    random.Random(1).shuffle(found)
    return found


def serve(port: Any, core: int, encoding: str, web: bool) -> None:
    """Answers every request with the page, and robots.txt with 404, for ever; `web`: as the host's kind says."""
    pin(core)
    body = page()
    coding = b""
    if encoding == "gzip":
        body, coding = gzip.compress(body), b"Content-Encoding: gzip\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n%sContent-Length: %d\r\n\r\n" % (coding, len(body))
    found = head + body
    absent = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    unavailable = absent.replace(b"404 Not Found", b"503 Service Unavailable")
    places = {address: number for number, address in enumerate(addresses())}
    what = kinds(HOSTS) if web else ["at once"] * HOSTS

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = places[writer.get_extra_info("sockname")[0]]
        kind = what[place]
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if kind != "at once":
                    await asyncio.sleep(3_600 if kind == "silent" else 0.05 + 0.35 * place / HOSTS)
                if head.startswith(b"GET /robots.txt ") or kind == "absent":
                    writer.write(absent)
                elif kind == "unavailable":
                    writer.write(unavailable)
                elif kind == "slow":
                    for at in range(0, len(found), 1_000):
                        writer.write(found[at : at + 1_000])
                        await writer.drain()
                        await asyncio.sleep(1)
                else:
                    writer.write(found)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        first = await asyncio.start_server(handle, addresses()[0], 0, backlog=1024)
        chosen = first.sockets[0].getsockname()[1]
        others = await asyncio.start_server(handle, addresses()[1:], chosen, backlog=1024)
        port.value = chosen
        await asyncio.gather(first.serve_forever(), others.serve_forever())

    asyncio.run(main())


def addresses() -> list[str]:
    """One loopback address per host: the same URLs for both fetchers, and no name server in between."""
    return [f"127.0.1.{1 + host}" for host in range(HOSTS)]


def pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def publish(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def link_batches(urls: list[str]) -> Iterator[pa.RecordBatch]:
    """In the order of the list: ids are their places, so no digest is in the time."""
    for at in range(0, len(urls), 10_000):
        part = urls[at : at + 10_000]
        yield pa.record_batch({"id": [f"{at + row:032x}" for row in range(len(part))], "url": part})


def settings(concurrency: int) -> FetchSettings:
    return FetchSettings(
        network=True,
        contact="benchmark@example.com",
        allow_loopback=True,
        per_host_delay_seconds=0.0,
        per_host_concurrency=1,
        concurrency=concurrency,
    )


def ours(port: int, pages: int, concurrency: int, watch: Callable[[dict[str, int]], None] | None = None) -> Rate:
    """The rate of `pages` pages, captures and ledger on disk included."""
    urls = urls_of(port, pages)
    chosen = settings(concurrency)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter(), time.process_time()
        summary = update(Path(folder), link_batches(urls), chosen, publish=publish, progress=watch)
        rate = Rate.since(pages, started)
        assert summary.outcomes == {"ok": pages}, summary
        assert sum(segment.rows for segment in sealed_segments(Path(folder))) == pages
    return rate


def fetch_url() -> Callable[[str], str | None]:
    """trafilatura's, which would refuse the loopback server, as ours does untold."""
    from trafilatura import fetch_url as get
    from trafilatura.settings import use_config

    config = use_config()
    config.set("DEFAULT", "SSRF_PROTECTION", "off")
    return functools.partial(get, config=config)


def urls_of(port: int, pages: int) -> list[str]:
    """From host to host: no fetcher finds two links of one host in a row."""
    hosts = addresses()
    return [f"http://{hosts[n % HOSTS]}:{port}/{n}" for n in range(pages)]


def peer(port: int, pages: int, concurrency: int) -> Rate:
    get = fetch_url()
    started = time.perf_counter(), time.process_time()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        done = sum(text is not None for text in pool.map(get, urls_of(port, pages)))
    assert done == pages
    return Rate.since(pages, started)


class Arrivals:
    """When pages came: seconds since the start, at the counts that were looked at."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._marks: list[tuple[int, float]] = []

    def note(self, pages: int) -> None:
        self._marks.append((pages, time.perf_counter() - self._started))

    def until(self, pages: int) -> float:
        return next(seconds for count, seconds in self._marks if count >= pages)


def bench_web(options: argparse.Namespace, port: int) -> None:
    """Prints how long each took until 95% of the pages were there, and until its last link was done with."""
    urls = urls_of(port, options.pages)
    can_be_had = sum(kinds(HOSTS)[n % HOSTS] == "ok" for n in range(options.pages))
    wanted = can_be_had * 95 // 100
    print(
        f"{options.pages:,} links of {HOSTS} hosts, {can_be_had:,} pages to be had, {options.concurrency} connections"
    )
    chosen = dataclasses.replace(settings(options.concurrency), deadline_seconds=30.0)
    rates: list[float] = []
    for name, run in (
        ("ours", functools.partial(web_ours, settings=chosen)),
        ("fetch_url", functools.partial(web_peer, connections=options.concurrency)),
    ):
        arrivals = Arrivals()
        started = time.perf_counter()
        pages = run(urls, arrivals)
        seconds = arrivals.until(wanted)
        rates.append(wanted / seconds)
        print(
            f"{name:10}{pages:6,} pages; 95% of them after {seconds:5.0f} s, {rates[-1]:4.0f}/s;"
            f" all links done after {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    print(f"pages per second until 95%: {rates[0] / rates[1]:.1f}x")


def web_ours(urls: list[str], arrivals: Arrivals, settings: FetchSettings) -> int:
    with tempfile.TemporaryDirectory() as folder:
        summary = update(
            Path(folder),
            link_batches(urls),
            settings,
            publish=publish,
            progress=lambda counts: arrivals.note(counts.get("ok", 0)),
        )
    arrivals.note(summary.outcomes["ok"])
    return summary.outcomes["ok"]


def web_peer(urls: list[str], arrivals: Arrivals, connections: int) -> int:
    get = fetch_url()
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    pages = 0
    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        for done in concurrent.futures.as_completed([pool.submit(get, url) for url in urls]):
            pages += done.result() is not None
            arrivals.note(pages)
    return pages


def bench_pages(options: argparse.Namespace, port: int) -> None:
    ours(port, 200, options.concurrency)  # imports, threads, first connections
    peer(port, 50, options.concurrency)
    rows: list[tuple[Rate, Rate]] = []
    for number in range(options.rounds):
        mine = ours(port, options.pages, options.concurrency)
        theirs = peer(port, options.pages // 4, options.concurrency)
        rows.append((mine, theirs))
        print(f"round {number + 1}: ours {mine}   fetch_url {theirs}", flush=True)
    for what in ("clock", "core"):
        mine, theirs = (float(np.median([getattr(row[side], what) for row in rows])) for side in (0, 1))
        print(f"pages per second of {what}: ours {mine:.0f}, trafilatura.fetch_url {theirs:.0f}: {mine / theirs:.1f}x")


def bench_memory(options: argparse.Namespace, port: int) -> None:
    marks: list[tuple[int, float]] = []

    def watch(counts: dict[str, int]) -> None:
        done = counts["settled"]
        if not marks or done >= marks[-1][0] + options.pages // 10:
            marks.append((done, resident_mb()))
            print(f"{done:9,} pages  {marks[-1][1]:7.1f} MB resident", flush=True)

    rate = ours(port, options.pages, options.concurrency, watch)
    late = [mb for done, mb in marks if done > options.pages // 5]
    print(f"{rate}; memory from 20% on: {min(late):.1f} to {max(late):.1f} MB")


def bench_schedule(options: argparse.Namespace) -> None:
    """Plan and schedule with a network that answers at once, so that nothing else is measured."""
    answer = Answer("", status=404)

    def send(url: str, seconds: float, wire_bytes: int, wanted: tuple[str, ...]) -> Answer:
        return answer

    def links() -> Iterator[pa.RecordBatch]:
        chance = np.random.default_rng(0)
        for at in range(0, options.links, 65_536):
            rows = range(at, min(options.links, at + 65_536))
            # A few hosts have very many links, as on Reddit: a Zipf law over the hosts.
            hosts = (options.hosts ** chance.random(len(rows))).astype(np.int64)
            urls = [
                f"http://www.site-number-{host}.example/an/article/{row}" for row, host in zip(rows, hosts, strict=True)
            ]
            yield pa.record_batch({"id": [f"{row:032x}" for row in rows], "url": urls})

    chosen = settings(options.concurrency)
    started = time.perf_counter()
    shown = started

    def watch(counts: dict[str, int]) -> None:
        nonlocal shown
        if time.perf_counter() - shown > 20:
            shown = time.perf_counter()
            print(
                f"{counts['settled']:11,} settled, {resident_mb():6.0f} MB resident, {shown - started:5.0f} s",
                flush=True,
            )

    limit = threading.Event()
    if options.seconds:
        threading.Timer(options.seconds, limit.set).start()
    with tempfile.TemporaryDirectory() as folder:
        fetcher = Fetcher(chosen, send=send)
        summary = update(
            Path(folder), links(), chosen, publish=publish, transport=fetcher, progress=watch, stop=limit.is_set
        )
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    done = sum(count for outcome, count in summary.outcomes.items() if outcome != "pending")
    print(f"{summary.planned:,} links planned, {done:,} scheduled in {seconds:.0f} s; peak {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["web", "pages", "memory", "schedule"])
    parser.add_argument("--pages", type=int, default=4_000, help="pages, or links of `web`, per round")
    parser.add_argument("--rounds", type=int, default=3, help="of `pages`")
    parser.add_argument("--concurrency", type=int, default=None, help="connections at a time (web: 64, others: 16)")
    parser.add_argument(
        "--encoding", choices=["identity", "gzip"], default="identity", help="how the server sends pages"
    )
    parser.add_argument("--links", type=int, default=10_000_000)
    parser.add_argument("--hosts", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=None, help="stop scheduling after this long")
    options = parser.parse_args()
    options.concurrency = options.concurrency or (64 if options.what == "web" else 16)
    if options.what == "schedule":
        bench_schedule(options)
        return
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(port, 1, options.encoding, options.what == "web"), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.05)
    pin(0)
    try:
        {"web": bench_web, "pages": bench_pages, "memory": bench_memory}[options.what](options, port.value)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
