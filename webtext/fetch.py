"""Fetching pages from the open web: one page (`download`) or very many (`Fetcher`), politely and without trust.

- What a link's fetch ends in is one word of `FINAL`, `TRANSIENT` or `UNTRIED`; everything else is detail.
- The network is off unless a settings file turns it on and says whom to write to.
- One thread decides, the others wait for servers. Every hop of every redirect, and robots.txt, is a request of its own
  that waits its turn at its host: the gap between two requests to a host is kept whoever caused them.
- Every hop goes through the same checks: scheme, port, filters, robots.txt, and the guard's look at the address.
- The body of a redirect is never read. Everything else is read under a budget of seconds and bytes.
- A failure is told only once some server has answered after it. So when it is our own network that is down, no link is
  charged with a try: `NetworkDownError` ends the run, and what failed since the last answer has no result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import heapq
import http.client
import itertools
import queue
import random
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urldefrag, urljoin, urlsplit

import urllib3

from webtext import archives, robots
from webtext.archives import REDIRECTS, Capture, Headers, header
from webtext.commoncrawl import Remote, open_capture
from webtext.guard import BlockedError, Budget, Guard

FINAL: Final = frozenset(
    {
        "ok",
        "not_found",  # 404
        "gone",  # 410
        "http_error",  # any other 4xx, or a 3xx that leads nowhere
        "disallowed",  # by robots.txt
        "opt_out",  # the page says that it is not for this
        "blocked",  # an address or port that may not be connected to
        "bad_url",
        "rejected",  # a redirect led to a URL that is never fetched
        "too_many_redirects",
        "too_large",
        "content_type",
        "decode_error",
        "empty",
        "damaged",  # an archive's record that cannot be read
    }
)
TRANSIENT: Final = frozenset(
    {
        "dns",
        "connect",
        "tls",
        "timeout",
        "protocol",  # not HTTP, or a connection closed in the middle of it
        "truncated",
        "server_error",  # 5xx, 408, 425
        "rate_limited",  # 429
        "robots_unreachable",
        "host_down",  # the circuit breaker: not tried because its host had failed too often
    }
)
UNTRIED: Final = frozenset({"pending", "not_archived"})
MAX_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """[fetch]: where pages come from, and how the network is treated."""

    archives: tuple[str, ...] = field(
        default=(),
        metadata={"help": "WARC files (globs) that links are looked up in before any network, by canonical URL"},
    )
    network: bool = field(
        default=False, metadata={"help": "fetch what no archive holds from the web; needs contact", "bytes": False}
    )
    common_crawl: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "CDXJ index files (globs); their captures are read before the live web, if network is on",
            "bytes": False,
        },
    )
    common_crawl_url: str = field(
        default="https://data.commoncrawl.org/",
        metadata={"help": "where the WARC files that those indexes name are read from", "bytes": False},
    )
    common_crawl_delay_seconds: float = field(
        default=0.1, metadata={"help": "wait between requests to that server", "bytes": False}
    )
    contact: str = field(
        default="",
        metadata={"help": "URL or mail address in the user agent, for those whose servers are asked", "bytes": False},
    )
    user_agent: str = field(
        default="webtext/0.1",
        metadata={"help": "name and version sent to servers; its name is what robots.txt addresses", "bytes": False},
    )
    segment_links: int = field(default=20_000, metadata={"help": "links per segment (one WARC and one ledger)"})
    segment_minutes: float = field(
        default=30.0,
        metadata={
            "help": "a segment is sealed this long after its first result; the rest is planned again",
            "bytes": False,
        },
    )
    stop_after: str | None = field(
        default=None,
        metadata={
            "help": "stop after a time (45s, 30m, 12h) or a share of links (90%) and build from what is there",
            "bytes": False,
        },
    )
    concurrency: int = field(default=64, metadata={"help": "connections at a time", "bytes": False})
    per_host_concurrency: int = field(default=1, metadata={"help": "connections per host at a time", "bytes": False})
    per_host_delay_seconds: float = field(
        default=1.0, metadata={"help": "wait between requests to one host; robots.txt may ask for more", "bytes": False}
    )
    max_crawl_delay_seconds: float = field(
        default=60.0, metadata={"help": "longest Crawl-delay or Retry-After that is waited for", "bytes": False}
    )
    connect_seconds: float = field(default=10.0, metadata={"help": "longest wait for a connection", "bytes": False})
    deadline_seconds: float = field(
        default=60.0, metadata={"help": "longest time for one page, redirects included", "bytes": False}
    )
    max_wire_bytes: int = field(
        default=10_000_000, metadata={"help": "most bytes received for one page", "bytes": False}
    )
    max_decoded_bytes: int = field(default=20_000_000, metadata={"help": "most bytes of a page once decompressed"})
    max_redirects: int = field(default=5, metadata={"help": "redirects followed for one page", "bytes": False})
    content_types: tuple[str, ...] = field(
        default=("text/html", "application/xhtml+xml", "text/plain"), metadata={"help": "media types that are pages"}
    )
    robots: bool = field(default=True, metadata={"help": "obey robots.txt (RFC 9309)", "bytes": False})
    opt_out: tuple[str, ...] = field(
        default=("noai", "noml", "tdm-reservation"),
        metadata={
            "help": "signals of X-Robots-Tag, <meta> and TDMRep by which a page leaves the build; all are recorded"
        },
    )
    retries: int = field(default=1, metadata={"help": "retries within a run of 429 and 5xx answers", "bytes": False})
    host_failures: int = field(
        default=8, metadata={"help": "failures in a row after which a host is left alone for this run", "bytes": False}
    )
    allow_loopback: bool = field(
        default=False, metadata={"help": "allow this machine's own addresses: for tests only", "bytes": False}
    )

    def __post_init__(self) -> None:
        for name in (
            "segment_links",
            "concurrency",
            "per_host_concurrency",
            "max_wire_bytes",
            "max_decoded_bytes",
            "host_failures",
        ):
            _expect(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        for name in ("segment_minutes", "connect_seconds", "deadline_seconds"):
            _expect(getattr(self, name) > 0, name, "a number above 0", getattr(self, name))
        for name in (
            "per_host_delay_seconds",
            "common_crawl_delay_seconds",
            "max_crawl_delay_seconds",
            "max_redirects",
            "retries",
        ):
            _expect(getattr(self, name) >= 0, name, "a number of at least 0", getattr(self, name))
        _expect(bool(self.content_types), "content_types", "at least one media type", "none")
        _expect(
            bool(re.match(r"[A-Za-z_-]+(/\S+)?", self.user_agent)),
            "user_agent",
            "a name of letters, - and _, then /version",
            repr(self.user_agent),
        )
        if self.stop_after is not None:
            stop_rule(self.stop_after)
        if self.network and not self.allow_loopback:
            _expect(
                bool(re.search(r"[^@\s]+@[^@\s]+\.\w|https?://\S+\.\w", self.contact)),
                "contact",
                "a mail address or a URL, since network is on: those whose servers you ask must be able to reach you",
                repr(self.contact),
            )

    @property
    def agent(self) -> str:
        """The User-Agent header."""
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent


def stop_rule(text: str) -> tuple[str, float]:
    """("share", 0..1) or ("seconds", n) of a `stop_after` setting. Raises ValueError."""
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if share and float(share.group(1)) <= 100:
        return "share", float(share.group(1)) / 100
    time = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if time:
        return "seconds", float(time.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[time.group(2)]
    raise ValueError(f"[fetch] stop_after: expected a share such as 90% or a time such as 45s, 30m, 12h, got {text!r}")


def _expect(holds: bool, key: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"[fetch] {key}: expected {expected}, got {got}")


@dataclass(frozen=True, slots=True)
class Job:
    """A link to fetch, and where its result belongs."""

    segment: int
    row: int
    url: str
    attempts: int = 0
    remote: Remote | None = None  # a capture to read instead of the page itself, which is asked where that is none


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of a job."""

    job: Job
    outcome: str
    detail: str = ""
    final_url: str | None = None
    status: int | None = None
    content_type: str = ""
    redirect: str = ""  # "permanent", "temporary", or "" where there was none
    canonical_url: str = ""
    opt_out: str = ""
    payload_sha256: str | None = None
    payload_bytes: int | None = None
    fetched_at: int = 0
    source: str = "network"  # or "commoncrawl"
    record: bytes = b""  # the capture as a WARC record, where the outcome is "ok"


class NetworkDownError(RuntimeError):
    """Nearly everything fails on many hosts: it is us. No attempt of the failing stretch is counted."""


def gate(content_type: str, opt_out: str, settings: FetchSettings) -> tuple[str, str]:
    """(outcome, detail) of a page by its Content-Type and opt-out signals: ("ok", "") or why it is left out."""
    media_type = content_type.split(";", 1)[0].strip().lower()
    if media_type and media_type not in settings.content_types:
        return "content_type", media_type[:100]
    refused = sorted(set(opt_out.split(",")) & set(settings.opt_out))
    if refused:
        return "opt_out", ",".join(refused)
    return "ok", ""


def download(
    url: str,
    settings: FetchSettings,
    *,
    reject: Callable[[str], str | None] | None = None,
    guard: Guard | None = None,
) -> Fetched:
    """One page, as `Fetcher` gets it (robots.txt first), without waiting between requests."""
    alone = dataclasses.replace(settings, concurrency=1, per_host_delay_seconds=0.0)
    fetcher = Fetcher(alone, reject=reject, guard=guard)
    try:
        return next(result for result in fetcher.run(iter([Job(0, 0, url)])) if result is not None)
    finally:
        fetcher.close()


# One exchange ---------------------------------------------------------------------------------------------------------

_CONNECTION_FAILURES: Final = frozenset({"dns", "connect", "tls", "timeout", "protocol"})
_ACCEPT: Final = "text/html,application/xhtml+xml;q=0.9,text/plain;q=0.5,*/*;q=0.1"
_RETRY_STATUSES: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gave: an HTTP answer, or an `outcome` that says why there is none."""

    url: str
    outcome: str = ""  # "" where a server answered
    detail: str = ""
    status: int = 0
    headers: Headers = ()
    body: bytes = b""  # as received, less chunked framing; b"" for redirects and refused types
    ip_address: str = ""
    seconds: float = 0.0


def exchange(
    pool: urllib3.PoolManager,
    guard: Guard,
    url: str,
    settings: FetchSettings,
    *,
    seconds: float,
    wire_bytes: int,
    wanted: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request, no redirect followed. A body over `wire_bytes` is `too_large`, with what of it was read.

    Never raises what a server or a URL can cause.
    Ends within `seconds` (and the time a name server takes), and takes at most `wire_bytes` from the wire. The body is
    read only for a status in the 200s and, where `wanted` is given, only for those media types.
    """
    started = time.monotonic()
    with guard.budget(seconds=seconds, wire_bytes=wire_bytes + 65_536) as budget:  # the header's share
        try:
            answer = _exchange(pool, guard, url, settings, wire_bytes, wanted, headers or {}, seconds)
        except BlockedError as error:
            answer = Answer(url, "blocked", str(error))
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            outcome, detail = _failure(error, budget)
            answer = Answer(url, outcome, detail)
        else:
            # Shut down by the reaper, a body that ends with its connection looks like a whole one.
            if budget.expired:
                answer = Answer(url, "timeout", f"over {seconds:.1f} s")
    return dataclasses.replace(answer, seconds=time.monotonic() - started)


def _exchange(
    pool: urllib3.PoolManager,
    guard: Guard,
    url: str,
    settings: FetchSettings,
    wire_bytes: int,
    wanted: tuple[str, ...],
    extra: Mapping[str, str],
    seconds: float,
) -> Answer:
    guard.check_url(url)
    sent = {"User-Agent": settings.agent, "Accept": _ACCEPT, "Accept-Encoding": "gzip, deflate, br, zstd", **extra}
    raw: Any = pool.urlopen(
        "GET",
        urldefrag(url).url,
        headers=sent,
        redirect=False,
        retries=False,
        preload_content=False,
        decode_content=False,
        timeout=seconds,
    )
    try:
        answer = Answer(
            url,
            status=raw.status,
            headers=tuple((str(name), str(value)) for name, value in raw.headers.items()),
            ip_address=_peer(raw),
        )
        if not 200 <= raw.status < 300:
            return answer
        if wanted and gate(header(answer.headers, "content-type"), "", settings)[0] != "ok":
            return answer
        length = header(answer.headers, "content-length")
        if wanted and length.isdigit() and int(length) > wire_bytes:
            return dataclasses.replace(answer, outcome="too_large", detail=f"Content-Length {length[:20]}")
        parts: list[bytes] = []
        total = 0
        for part in raw.stream(65_536, decode_content=False):
            parts.append(part)
            total += len(part)
            if total > wire_bytes:
                detail = f"over {wire_bytes} bytes received"
                return dataclasses.replace(answer, outcome="too_large", detail=detail, body=b"".join(parts))
        return dataclasses.replace(answer, body=b"".join(parts))
    finally:
        raw.close()


def _peer(raw: Any) -> str:
    try:
        return str(raw.connection.sock.getpeername()[0])
    except (AttributeError, OSError):
        return ""


def _failure(error: Exception, budget: Budget) -> tuple[str, str]:
    """(outcome, detail) of an exception of urllib3 or the socket below them."""
    detail = " ".join(str(error).split())[:200]
    if budget.over:
        return "too_large", "more bytes than a page may have on the wire"
    if budget.expired or budget.seconds_left <= 0:
        return "timeout", "over its deadline"
    chain: list[BaseException] = []
    follow: list[BaseException | None] = [error]
    while follow:
        one = follow.pop()
        if one is None or any(one is seen for seen in chain):
            continue
        chain.append(one)
        follow += [one.__cause__, one.__context__, getattr(one, "reason", None)]
        follow += [part for part in one.args if isinstance(part, BaseException)]
    for kinds, outcome in _FAILURES:
        if any(isinstance(one, kinds) for one in chain):
            return outcome, detail
    return "protocol", detail


_FAILURES: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((BlockedError,), "blocked"),
    ((urllib3.exceptions.NameResolutionError, socket.gaierror), "dns"),
    ((urllib3.exceptions.SSLError, ssl.SSLError), "tls"),
    ((urllib3.exceptions.NewConnectionError, ConnectionRefusedError), "connect"),  # urllib3 has it under its time-outs
    ((urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ReadTimeoutError, TimeoutError), "timeout"),
    ((urllib3.exceptions.IncompleteRead,), "truncated"),
    ((urllib3.exceptions.LocationParseError, UnicodeError, http.client.InvalidURL), "bad_url"),
)


def retry_after_seconds(value: str, now: float) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3), at `now` (Unix time), or None.

    >>> retry_after_seconds("120", 0.0)
    120.0
    """
    value = value.strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now)


# Very many ------------------------------------------------------------------------------------------------------------

MAX_QUEUED: Final = 100_000  # links held at a time; the others wait in their plan
MIN_HOSTS: Final = 20_000  # hosts remembered though they have nothing to do
DOWN_WINDOW: Final = 500  # attempts looked back on
DOWN_SHARE: Final = 0.9
DOWN_HOSTS: Final = 20


class _Task:
    """A link on its way, perhaps through redirects."""

    __slots__ = ("job", "permanent", "remote", "seconds", "tries", "url", "visited")

    def __init__(self, job: Job, base: str) -> None:
        self.job = job
        self.remote = job.remote
        self.url = job.url if job.remote is None else urljoin(base, job.remote.filename)
        self.visited: list[str] = []
        self.permanent = True
        self.seconds = 0.0
        self.tries = 0


class _Host:
    """One host's queue, and when it may be asked again."""

    __slots__ = ("busy", "listed", "name", "next_at", "queue")

    def __init__(self, name: str) -> None:
        self.name = name  # scheme://host:port
        self.queue: deque[_Task] = deque()
        self.busy = 0
        self.next_at = 0.0
        self.listed = False  # in the heap of hosts that have something to do


class Fetcher:
    """Fetches links from very many hosts. `run` draws on its jobs only as fast as hosts come free.

    `reject(url)` gives the reason why the target of a redirect is not fetched, or None.
    `send(url, seconds, wire_bytes, wanted)` replaces the network in tests and benchmarks of the schedule.
    """

    def __init__(
        self,
        settings: FetchSettings,
        *,
        reject: Callable[[str], str | None] | None = None,
        guard: Guard | None = None,
        send: Callable[[str, float, int, tuple[str, ...]], Answer] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._reject = reject
        self._guard = guard or Guard(allow_loopback=settings.allow_loopback, connect_seconds=settings.connect_seconds)
        self._owns_guard = guard is None
        # More hosts than connections: who is asked again within its delay is often still on the line.
        self._pool = self._guard.pool(hosts=max(64, 4 * settings.concurrency), per_host=settings.per_host_concurrency)
        self._send = send or self._exchange
        self._now = now
        self._robots = robots.Cache()
        self._hosts: dict[str, _Host] = {}
        self._most_hosts = MIN_HOSTS
        self._failures: dict[str, int] = {}  # in a row, by host: what is known of a host while it has nothing to do
        self._down: set[str] = set()
        self._heap: list[tuple[float, int, _Host]] = []
        self._number = itertools.count()
        self._jitter = random.Random()
        self._queued = 0
        self._busy = 0
        self._forgotten: set[int] = set()
        self._ready: deque[Fetched] = deque()
        self._held: list[Fetched] = []
        self._window: deque[tuple[str, bool]] = deque(maxlen=DOWN_WINDOW)
        self._todo: queue.SimpleQueue[tuple[_Host, _Task, bool] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[_Host, _Task, bool, Answer, Fetched | None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    # What pages.Transport asks for

    def run(self, jobs: Iterator[Job]) -> Iterator[Fetched | None]:
        """Results in order of arrival, and None at least twice a second. Raises NetworkDownError."""
        drawn_all = False
        while True:
            while not drawn_all and self._queued < MAX_QUEUED and len(self._heap) < 4 * self._settings.concurrency:
                batch = list(itertools.islice(jobs, 256))
                drawn_all = not batch
                for job in batch:
                    self._enqueue(_Task(job, self._settings.common_crawl_url))
            wait = self._dispatch()
            yield from self._take_ready()
            if drawn_all and not self._queued and not self._busy:
                if not self._ready:
                    self._ready.extend(self._held)
                    self._held.clear()
                yield from self._take_ready()
                return
            try:
                self._finish(*self._done.get(timeout=wait))
                while True:
                    self._finish(*self._done.get_nowait())
            except queue.Empty:
                pass
            self._check_network()
            yield from self._take_ready()
            yield None

    def forget(self, segment: int) -> None:
        """Drops a segment's queued links; they have no result."""
        self._forgotten.add(segment)
        self._held = [result for result in self._held if result.job.segment != segment]
        for host in self._hosts.values():
            kept = [task for task in host.queue if task.job.segment != segment]
            self._queued -= len(host.queue) - len(kept)
            host.queue = deque(kept)

    def waiting(self) -> dict[str, int]:
        """How many links are queued, hosts have work, and connections are in use."""
        return {"queued": self._queued, "hosts_waiting": len(self._heap), "connections": self._busy}

    def close(self) -> None:
        """Ends every exchange and every thread."""
        if self._owns_guard:
            self._guard.close()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._pool.clear()

    # The schedule: one thread

    def _enqueue(self, task: _Task, *, first: bool = False) -> None:
        try:
            self._guard.check_url(task.url)
            parts = urlsplit(task.url)
            name = f"{parts.scheme}://{parts.netloc}".lower()
        except BlockedError as error:
            self._result(task, "blocked", str(error))
            return
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._most_hosts:
                self._forget_idle_hosts()
            host = self._hosts[name] = _Host(name)
        (host.queue.appendleft if first else host.queue.append)(task)
        self._queued += 1
        self._list(host)

    def _list(self, host: _Host) -> None:
        if host.queue and not host.listed and host.busy < self._settings.per_host_concurrency:
            host.listed = True
            heapq.heappush(self._heap, (host.next_at, next(self._number), host))

    def _forget_idle_hosts(self) -> None:
        """Each host is looked at once for every host that came since the last time, so this costs nothing a link."""
        now = self._now()
        self._hosts = {
            name: host for name, host in self._hosts.items() if host.queue or host.busy or host.next_at > now
        }
        self._most_hosts = max(MIN_HOSTS, 2 * len(self._hosts))

    def _dispatch(self) -> float:
        """Hands out what may be asked now; returns how long there is nothing to do."""
        while self._heap and self._busy < self._settings.concurrency:
            due, _, host = self._heap[0]
            now = self._now()
            if due > now:
                return min(0.25, due - now)
            heapq.heappop(self._heap)
            host.listed = False
            if host.next_at > now:  # it has been told to wait since it was listed
                self._list(host)
                continue
            self._dispatch_host(host, now)
        return 0.25

    def _dispatch_host(self, host: _Host, now: float) -> None:
        rules = self._robots.get(host.name, now) if self._settings.robots else None
        while host.queue:
            task = host.queue[0]
            if task.job.segment in self._forgotten:
                self._pop(host)
            elif host.name in self._down:
                self._result(self._pop(host), "host_down", f"{self._settings.host_failures} failures in a row")
            elif not self._settings.robots or task.remote is not None:
                break
            elif rules is None:
                self._hand_out(host, task, True)
                return
            elif rules.allows(task.url):
                break
            elif rules.access == "unreachable":
                self._result(self._pop(host), rules.reason or "robots_unreachable", f"{host.name}/robots.txt")
            else:
                self._result(self._pop(host), "disallowed", f"{host.name}/robots.txt")
        if host.queue:
            self._hand_out(host, self._pop(host), False)

    def _delay(self, task: _Task) -> float:
        if task.remote is not None:
            return self._settings.common_crawl_delay_seconds
        return self._settings.per_host_delay_seconds

    def _pop(self, host: _Host) -> _Task:
        self._queued -= 1
        return host.queue.popleft()

    def _hand_out(self, host: _Host, task: _Task, for_robots: bool) -> None:
        host.busy += 1
        self._busy += 1
        if for_robots:
            host.busy += self._settings.per_host_concurrency  # no page before its rules are known
        host.next_at = self._now() + self._delay(task)
        if len(self._threads) < min(self._settings.concurrency, self._busy):
            thread = threading.Thread(target=self._work, name=f"fetch-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._todo.put((host, task, for_robots))
        self._list(host)

    def _finish(self, host: _Host, task: _Task, for_robots: bool, answer: Answer, page: Fetched | None) -> None:
        """Takes up what a worker brought: a result, a hop to follow, or something to try again."""
        host.busy -= 1
        self._busy -= 1
        now = self._now()
        failed = answer.outcome in _CONNECTION_FAILURES
        self._note(host, failed)
        if for_robots:
            host.busy -= self._settings.per_host_concurrency
            found = (
                robots.unreachable(self._settings.user_agent, _host_reason(answer.outcome))
                if answer.outcome
                else robots.from_status(answer.status, answer.body, self._settings.user_agent)
            )
            self._robots.put(host.name, found, now)
        delay = self._delay(task)
        rules = self._robots.get(host.name, now) if task.remote is None else None
        if rules is not None:
            delay = max(delay, min(rules.crawl_delay_seconds, self._settings.max_crawl_delay_seconds))
        host.next_at = now + delay * self._jitter.uniform(1.0, 1.2)
        if not for_robots and task.job.segment not in self._forgotten:
            self._finish_page(host, task, answer, page, now)
        self._list(host)

    def _finish_page(self, host: _Host, task: _Task, answer: Answer, page: Fetched | None, now: float) -> None:
        failed = answer.outcome in _CONNECTION_FAILURES
        task.seconds += answer.seconds
        if not answer.outcome and answer.status in REDIRECTS:
            self._follow(task, answer)
        elif not answer.outcome and answer.status in _RETRY_STATUSES and task.tries < self._settings.retries:
            asked = retry_after_seconds(header(answer.headers, "retry-after"), time.time())
            pause = asked if asked is not None else 2.0**task.tries * self._jitter.uniform(1.0, 2.0)
            host.next_at = max(host.next_at, now + min(pause, self._settings.max_crawl_delay_seconds))
            if pause > self._settings.max_crawl_delay_seconds:
                self._result(task, archives.status_outcome(answer.status), f"asks for {pause:.0f} s", answer)
            else:
                task.tries += 1
                self._enqueue(task, first=True)
        elif task.remote is not None and (page is None or page.outcome != "ok") and not failed:
            task.remote, task.url = None, task.job.url  # no page there: ask the page itself
            self._enqueue(task)
        elif page is not None:
            self._emit(page, failed=False)
        else:
            self._result(task, answer.outcome, answer.detail, answer)

    def _follow(self, task: _Task, answer: Answer) -> None:
        location = header(answer.headers, "location").strip()
        with contextlib.suppress(UnicodeError):
            location = location.encode("latin-1").decode("utf-8")
        try:
            target = urldefrag(urljoin(task.url, location)).url
        except ValueError as error:
            self._result(task, "bad_url", f"Location: {error}", answer)
            return
        task.visited.append(task.url)
        task.permanent = task.permanent and answer.status in (301, 308)
        reason = self._reject(target) if self._reject is not None else None
        if not location:
            self._result(task, "http_error", f"status {answer.status} without Location", answer)
        elif len(task.visited) > self._settings.max_redirects or target in task.visited:
            self._result(task, "too_many_redirects", target[:200], answer)
        elif reason is not None:
            self._result(task, "rejected", f"{reason}: {target}"[:200], answer)
        elif task.seconds >= self._settings.deadline_seconds:
            self._result(task, "timeout", "over its deadline", answer)
        else:
            task.url = target
            self._enqueue(task, first=True)

    def _result(self, task: _Task, outcome: str, detail: str, answer: Answer | None = None) -> None:
        answered = answer is not None and not answer.outcome
        fetched = Fetched(
            job=task.job,
            outcome=outcome,
            detail=detail,
            final_url=task.url if answered else None,
            status=answer.status if answer is not None and answered else None,
            content_type=header(answer.headers, "content-type")[:200] if answer is not None else "",
            redirect=_redirect(task),
            fetched_at=int(time.time()),
        )
        self._emit(fetched, failed=outcome in _CONNECTION_FAILURES or outcome in ("host_down", "robots_unreachable"))

    def _emit(self, result: Fetched, *, failed: bool) -> None:
        if result.job.segment in self._forgotten:
            return
        (self._held if failed else self._ready).append(result)

    def _note(self, host: _Host, failed: bool) -> None:
        self._window.append((host.name, failed))
        if not failed:
            self._failures.pop(host.name, None)
            self._ready.extend(self._held)  # the network is up: those failures were the servers' own
            self._held.clear()
            return
        failures = self._failures[host.name] = self._failures.get(host.name, 0) + 1
        if failures >= self._settings.host_failures:
            self._down.add(host.name)

    def _check_network(self) -> None:
        if len(self._held) < DOWN_WINDOW // 2 or len(self._window) < DOWN_WINDOW:
            return  # nothing is held back while servers answer: this is asked after every page
        failed = [name for name, bad in self._window if bad]
        if len(failed) > DOWN_SHARE * DOWN_WINDOW and len(set(failed)) >= DOWN_HOSTS:
            raise NetworkDownError(
                f"{len(failed)} of the last {DOWN_WINDOW} requests, to {len(set(failed))} hosts, failed:"
                " the network seems to be down. No try was counted; run the same command again"
            )

    def _take_ready(self) -> Iterable[Fetched]:
        while self._ready:
            yield self._ready.popleft()

    # The workers

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            host, task, for_robots = item
            page = None
            try:
                answer = self._ask_robots(host) if for_robots else self._ask(task)
                if not for_robots and not answer.outcome and answer.status not in REDIRECTS:
                    page = self._page(task, answer)
            except Exception as error:  # one page must never cost the others
                answer, page = Answer(task.url, "protocol", f"{type(error).__name__}: {error}"[:200]), None
            self._done.put((host, task, for_robots, answer, page))

    def _exchange(self, url: str, seconds: float, wire_bytes: int, wanted: tuple[str, ...]) -> Answer:
        return exchange(
            self._pool, self._guard, url, self._settings, seconds=seconds, wire_bytes=wire_bytes, wanted=wanted
        )

    def _ask(self, task: _Task) -> Answer:
        seconds = max(0.01, self._settings.deadline_seconds - task.seconds)
        if task.remote is not None:
            if task.remote.length > self._settings.max_wire_bytes:
                return Answer(task.url, status=413)  # as its server might say: the page itself is asked
            ranged = {"Range": task.remote.byte_range, "Accept-Encoding": "identity"}
            return exchange(
                self._pool,
                self._guard,
                task.url,
                self._settings,
                seconds=seconds,
                wire_bytes=task.remote.length,
                headers=ranged,
            )
        return self._send(task.url, seconds, self._settings.max_wire_bytes, self._settings.content_types)

    def _ask_robots(self, host: _Host) -> Answer:
        """robots.txt, at most five redirects away (RFC 9309, 2.3.1.2), in one go and under one deadline."""
        url = f"{host.name}/robots.txt"
        left = self._settings.deadline_seconds
        for _ in range(6):
            answer = self._send(url, max(0.01, left), robots.MAX_BYTES, ())
            left -= answer.seconds
            location = header(answer.headers, "location").strip()
            if answer.outcome == "too_large":
                answer = dataclasses.replace(answer, outcome="")  # what was read is all that counts
            if answer.outcome or answer.status not in REDIRECTS or not location or left <= 0:
                break
            url = urljoin(url, location)
        if not answer.outcome and answer.status in REDIRECTS:
            return dataclasses.replace(answer, status=404)  # too many redirects: as if there were none
        if not answer.outcome and 200 <= answer.status < 300:
            encoding = header(answer.headers, "content-encoding")
            try:
                answer = dataclasses.replace(answer, body=archives.decode(answer.body, encoding, 4 * robots.MAX_BYTES))
            except archives.DecodeError as error:
                answer = dataclasses.replace(answer, outcome="decode_error", detail=error.detail)
        return answer

    def _page(self, task: _Task, answer: Answer) -> Fetched:
        """The result of an answer that is not a redirect."""
        if task.remote is not None:
            return self._remote_page(task, task.remote, answer)
        content_type = header(answer.headers, "content-type")[:200]
        now = int(time.time())
        facts: dict[str, Any] = {
            "job": task.job,
            "final_url": task.url,
            "status": answer.status,
            "content_type": content_type,
            "redirect": _redirect(task),
            "fetched_at": now,
        }
        if archives.status_outcome(answer.status) == "ok":
            outcome, detail = gate(content_type, ",".join(archives.header_signals(answer.headers)), self._settings)
            if outcome != "ok":
                opt_out = ",".join(archives.header_signals(answer.headers))
                return Fetched(outcome=outcome, detail=detail, opt_out=opt_out, **facts)
        capture = Capture(task.url, now, answer.status, answer.headers, answer.body)
        judged = archives.judge(capture, self._settings.max_decoded_bytes)
        facts |= {"canonical_url": judged.canonical_url, "opt_out": judged.opt_out}
        outcome, detail = judged.outcome, judged.detail
        if outcome == "ok":
            outcome, detail = gate(content_type, judged.opt_out, self._settings)
        if outcome != "ok":
            return Fetched(outcome=outcome, detail=detail, **facts)
        return Fetched(
            outcome="ok",
            payload_sha256=judged.payload_sha256,
            payload_bytes=len(judged.payload),
            record=archives.warc_record(capture, ip_address=answer.ip_address),
            **facts,
        )

    def _remote_page(self, task: _Task, remote: Remote, answer: Answer) -> Fetched:
        """The result of a ranged read from somebody's WARC file."""
        detail = f"{remote.filename}: byte {remote.offset}"
        if answer.status != 206:
            return Fetched(task.job, "damaged", f"{detail}: status {answer.status}, not 206", source="commoncrawl")
        try:
            capture = open_capture(remote, answer.body)
        except ValueError as error:
            return Fetched(task.job, "damaged", f"{detail}: {error}"[:300], source="commoncrawl")
        judged = archives.judge(capture, self._settings.max_decoded_bytes)
        outcome = judged.outcome
        if outcome == "ok":
            outcome = gate(capture.content_type, judged.opt_out, self._settings)[0]
        return Fetched(
            task.job,
            outcome,
            detail,
            final_url=capture.url,
            status=capture.status,
            content_type=capture.content_type[:200],
            canonical_url=judged.canonical_url,
            opt_out=judged.opt_out,
            payload_sha256=judged.payload_sha256 or None,
            payload_bytes=len(judged.payload),
            fetched_at=capture.date,
            source="commoncrawl",
            record=archives.warc_record(capture) if outcome == "ok" else b"",
        )


def _host_reason(outcome: str) -> str:
    """`outcome` of asking for robots.txt, where it says something about the whole host."""
    return outcome if outcome in _CONNECTION_FAILURES or outcome == "blocked" else ""


def _redirect(task: _Task) -> str:
    if not task.visited:
        return ""
    return "permanent" if task.permanent else "temporary"
