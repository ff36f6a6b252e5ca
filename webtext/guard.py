"""The guard: which addresses may be connected to, for how long, and for how many bytes.

URLs come from strangers, so a name may stand for an address inside the house, and a server may answer for ever.

- One door: every connection to a posted URL, a robots.txt, an index or a remote WARC, and PRAW's, is made by `Guard`.
  Exceptions, by design: object storage and the cluster engine, whose addresses the user gives.
- The check sits between resolution and connect, on the very address that is connected to, so neither a redirect nor a
  name that resolves differently the second time goes round it. *Every* address of a name must be public, and the peer
  is looked at again after connecting. Host header, SNI, certificate check and pooling stay as they are.
- `is_global` of the standard library is not enough: it lets 6to4, NAT64, site-local and multicast through.
- No proxy, no .netrc: `trust_env` is off.
- A read time-out starts anew with every byte. So a `Budget` counts bytes as they leave the kernel, before anybody
  buffers them, and a single thread shuts the socket down when its time is over, TLS handshake included.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import ipaddress
import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn, cast
from urllib.parse import urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PUBLIC_IPV6: Final = ipaddress.IPv6Network("2000::/3")
EXCLUDED_IPV6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments, Teredo among them: it carries IPv4 addresses
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: it carries IPv4 addresses
        "3fff::/20",  # documentation
    )
)
EXCLUDED_IPV4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "192.0.0.0/24",  # IETF protocol assignments; cloud metadata services live at .192
        "192.88.99.0/24",  # 6to4 relays
    )
)
PORTS: Final = frozenset({80, 443, 8000, 8008, 8080, 8081, 8443, 8888})
"""What web servers listen on. Any other port is more likely a service that was not meant to be asked."""


class BlockedError(ValueError):
    """An address, port or URL that may not be connected to."""


class OverBudgetError(OSError):
    """A server's answer has more bytes than it may have."""


def is_public(address: IPAddress) -> bool:
    """Whether `address` belongs to the open Internet.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("93.184.216.34", "10.0.0.1", "::ffff:127.0.0.1")]
    [True, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        return address in PUBLIC_IPV6 and not any(address in network for network in EXCLUDED_IPV6)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in EXCLUDED_IPV4)
    )


@functools.lru_cache(maxsize=4096)
def _classified(address: str) -> tuple[bool, bool]:
    """(public, loopback) of a numeric address; neither, where it is none. Asked twice a connection."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False, False
    return is_public(parsed), (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


# Budgets --------------------------------------------------------------------------------------------------------------


class Budget:
    """The time and the bytes that one exchange may take, redirects included. Used by one thread."""

    def __init__(self, seconds: float, wire_bytes: int) -> None:
        self.ends = time.monotonic() + seconds
        self.bytes_left = wire_bytes
        self.expired = False
        self.over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def count(self, received: int) -> None:
        """Called for every read from the wire. Raises OverBudgetError or TimeoutError."""
        self.bytes_left -= received
        if self.bytes_left < 0:
            self.over = True
            raise OverBudgetError("more bytes than the budget has")
        if self.expired or time.monotonic() > self.ends:
            self.expired = True
            raise TimeoutError("the time of the budget is over")

    def watch(self, sock: socket.socket) -> None:
        """Puts a connection under this budget: it is shut down when the time is over."""
        with self._lock:
            self._sockets.append(sock)
            if self.expired:
                _shut_down(sock)

    def expire(self) -> None:
        """Ends everything under this budget now."""
        with self._lock:
            self.expired = True
            for sock in self._sockets:
                _shut_down(sock)

    def close(self) -> None:
        """Leaves the connections alone from now on: they may serve another exchange."""
        with self._lock:
            self._sockets.clear()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have been closed in the meantime
        sock.shutdown(socket.SHUT_RDWR)


class _Reaper:
    """One thread that ends budgets when their time is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Budget]] = []
        self._number = itertools.count()
        self._live: set[int] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, budget: Budget) -> int:
        with self._changed:
            if self._closed:
                raise RuntimeError("this guard is closed")
            number = next(self._number)
            self._live.add(number)
            heapq.heappush(self._queue, (budget.ends, number, budget))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="guard-reaper", daemon=True)
                self._thread.start()
            if self._queue[0][1] == number:
                self._changed.notify()
            return number

    def remove(self, number: int) -> None:
        with self._changed:
            self._live.discard(number)
            if len(self._queue) > 64 + 2 * len(self._live):  # most exchanges end long before their time
                self._queue = [entry for entry in self._queue if entry[1] in self._live]
                heapq.heapify(self._queue)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
            live = [budget for _, number, budget in self._queue if number in self._live]
        for budget in live:
            budget.expire()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            due: list[Budget] = []
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                while self._queue and (self._queue[0][0] <= now or self._queue[0][1] not in self._live):
                    _, number, budget = heapq.heappop(self._queue)
                    if number in self._live:
                        self._live.discard(number)
                        due.append(budget)
                if not due:
                    self._changed.wait(self._queue[0][0] - now if self._queue else None)
            for budget in due:
                budget.expire()


# The guard ------------------------------------------------------------------------------------------------------------


class Guard:
    """Opens connections to public addresses only. Shared by any number of threads; close it when done.

    `resolve` has the signature of `socket.getaddrinfo` and replaces it in tests.
    """

    def __init__(
        self,
        *,
        allow_loopback: bool = False,
        connect_seconds: float = 10.0,
        resolve: Callable[..., list[Any]] = socket.getaddrinfo,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        # glibc asks each name server for 5 s, twice, and getaddrinfo takes no time-out: ask for less, unless told.
        os.environ.setdefault("RES_OPTIONS", "timeout:3 attempts:2")
        self.allow_loopback = allow_loopback
        self.connect_seconds = connect_seconds
        self._resolve = resolve
        self._reaper = _Reaper()
        self._current = threading.local()
        self._ssl_context = ssl_context or _default_context()
        self._ssl_context.sslsocket_class = _CountingSSLSocket

    def check_url(self, url: str) -> None:
        """Raises BlockedError where no request may be made for `url`, whatever its name resolves to."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BlockedError(f"not a URL: {error}") from None
        if parts.scheme.lower() not in ("http", "https"):
            raise BlockedError(f"scheme {parts.scheme[:20]!r}")
        if parts.username is not None or parts.password is not None:
            raise BlockedError("a user name in the URL")
        if not parts.hostname:
            raise BlockedError("no host in the URL")
        self.check_port(port or (443 if parts.scheme.lower() == "https" else 80))

    def check_port(self, port: int) -> None:
        if port not in PORTS and not self.allow_loopback:
            raise BlockedError(f"port {port}")

    def addresses(self, host: str, port: int) -> list[Any]:
        """What `host` resolves to, as `socket.getaddrinfo` gives it.

        Raises BlockedError if any of the addresses may not be connected to, socket.gaierror if there is none.
        """
        self.check_port(port)
        found = self._resolve(host, port, type=socket.SOCK_STREAM)
        for _, _, _, _, address in found:
            if not self.allows(address[0]):
                raise BlockedError(f"{host[:200]} is at {address[0]}")
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return found

    def allows(self, address: str) -> bool:
        """Whether a numeric address may be connected to."""
        public, loopback = _classified(address)
        return public or (self.allow_loopback and loopback)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connected socket under the current thread's budget."""
        budget = self.budget_now
        last: OSError | None = None
        for family, kind, protocol, _, address in self.addresses(host, port):
            sock = _Counting(family, kind, protocol)
            try:
                seconds = self.connect_seconds
                if budget is not None:
                    seconds = min(seconds, budget.seconds_left)
                    if seconds <= 0:
                        raise TimeoutError("the time of the budget is over")
                sock.settimeout(seconds)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
                peer = sock.getpeername()[0]
                if not self.allows(peer):
                    raise BlockedError(f"{host[:200]} is at {peer}")
            except OSError as error:
                last = error
                sock.close()
                continue
            except BaseException:
                sock.close()
                raise
            return sock
        assert last is not None
        raise last

    @property
    def budget_now(self) -> Budget | None:
        return getattr(self._current, "budget", None)

    @contextlib.contextmanager
    def budget(self, *, seconds: float, wire_bytes: int) -> Iterator[Budget]:
        """Everything that this thread sends and receives in the block is under one budget."""
        budget = Budget(seconds, wire_bytes)
        number = self._reaper.add(budget)
        self._current.budget = budget
        try:
            yield budget
        finally:
            self._current.budget = None
            self._reaper.remove(number)
            budget.close()

    def pool(self, *, hosts: int = 16, per_host: int = 1) -> urllib3.PoolManager:
        """A urllib3 pool all of whose connections go through this guard: what the fetcher uses (half of requests' CPU).

        It keeps connections to as many `hosts`, `per_host` of each; more are opened and not kept.
        Ask it with `redirect=False, retries=False, preload_content=False`.
        """
        plain = type("GuardedConnection", (_Guarded,), {"guard": self})
        secure = type("GuardedTLSConnection", (_Guarded, HTTPSConnection), {"guard": self})
        pool = urllib3.PoolManager(hosts, maxsize=per_host, ssl_context=self._ssl_context)
        pool.pool_classes_by_scheme = {
            "http": cast(Any, type("GuardedPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain})),
            "https": cast(Any, type("GuardedTLSPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure})),
        }
        return pool

    def session(self, *, connections: int = 16) -> requests.Session:
        """A requests session all of whose connections go through this guard.

        It keeps no cookies, asks no proxy and follows no redirect.
        """
        session = _Session()
        session.trust_env = False
        session.cookies = _NoCookies()
        adapter = _Adapter(self, connections)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def close(self) -> None:
        """Ends what is under way; later exchanges are refused."""
        self._reaper.close()


@functools.cache
def _default_context() -> ssl.SSLContext:
    """Certificates of certifi, read once: that takes longer than many a page."""
    context = create_urllib3_context()
    context.load_verify_locations(certifi.where())
    return context


class _Counting(socket.socket):
    """Tells its budget of every byte that comes."""

    budget: Budget | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        received = super().recv_into(*args, **kwargs)
        if self.budget is not None:
            self.budget.count(received)
        return received


class _CountingSSLSocket(_Counting, ssl.SSLSocket):
    """The same over TLS: what counts is what was decrypted."""


class _Guarded(HTTPConnection):
    """The part that both kinds of connection share."""

    guard: Guard  # set by the class made for a guard
    _watched: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        try:
            sock = self.guard.connect(self._dns_host, self.port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"connecting to {self.host} took too long") from error
        except OSError as error:
            raise NewConnectionError(self, f"connecting to {self.host}: {error}") from error
        # TLS takes the socket away from its object, and the reaper needs one that stays: a second descriptor.
        self._watched = sock.dup()
        budget = self.guard.budget_now
        if budget is not None:
            budget.watch(self._watched)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        reused = self.sock is not None
        if not reused:
            self.connect()
        budget = self.guard.budget_now
        if isinstance(self.sock, _Counting):
            self.sock.budget = budget
        if reused and budget is not None and self._watched is not None:
            budget.watch(self._watched)
        super().request(*args, **kwargs)

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._watched is not None:
                self._watched.close()
                self._watched = None


class _Adapter(HTTPAdapter):
    """The adapter of requests over connections of a guard."""

    def __init__(self, guard: Guard, connections: int) -> None:
        self._guard = guard
        super().__init__(pool_connections=connections, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        self.poolmanager = self._guard.pool(hosts=connections, per_host=maxsize)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        # requests would load its bundle again for every connection; the context has it already. There is no way to
        # ask for less: certificates are always checked.
        conn.cert_reqs = "CERT_REQUIRED"

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> NoReturn:
        raise BlockedError(f"a proxy ({urlsplit(proxy).hostname}) would connect in our stead")


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, always: to find out, requests would read the redirect's body to its end, however long it is."""
        return


class _NoCookies(RequestsCookieJar):
    """Takes none and gives none: a crawler is nobody's returning visitor."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        return None

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> None:
        return None
