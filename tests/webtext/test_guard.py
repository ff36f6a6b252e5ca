"""No connection leaves for an address that is not public, however it is spelled; nothing outlives its budget."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3
from helpers.loopback import LoopbackWeb, answer, drip, redirect
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext.fetch import FetchSettings, download, exchange
from webtext.guard import BlockedError, Budget, Guard, is_public

CONNECTS: list[tuple[Any, ...]] = []


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:
    """Every connect of this process is written down by the interpreter itself. Hooks cannot be taken away again."""
    sys.addaudithook(lambda event, args: CONNECTS.append(args[1]) if event == "socket.connect" else None)


@pytest.fixture
def connects() -> list[tuple[Any, ...]]:
    CONNECTS.clear()
    return CONNECTS


PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "192.0.1.1"]
PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.9",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:0:4136:e378::1", "2001:2::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::",
    "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_all_other_addresses_are_not(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(0, 2**128 - 1))
def test_an_ipv6_address_is_public_only_within_the_one_block_that_is_handed_out(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if is_public(address):
        assert number >> 125 == 1 or number >> 32 == 0xFFFF


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_means_the_same_when_mapped_and_is_never_private(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    mapped = ipaddress.IPv6Address(number | 0xFFFF << 32)
    assert is_public(address) == is_public(mapped)
    if is_public(address):
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


# What spells this machine, to one resolver or another.
SPELLINGS = [
    "127.0.0.1", "127.1", "127.0.1", "0x7f.0.0.1", "0x7f000001", "0177.0.0.1", "017700000001", "2130706433",
    "0x7f.1", "127.0.0.1.", "127.000.000.001", "0", "0.0.0.0", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost",
    "LOCALHOST", "localhost.", "ip6-localhost", "%6cocalhost", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1",
    "10.0.0.1", "0xa.0.0.1", "167772161", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0xa9fea9fe",
    "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "224.0.0.1", "255.255.255.255", "192.0.0.192",
    "100.100.100.200", "198.18.0.1", "[2001:db8::1]", "[::ffff:169.254.169.254]", "[::ffff:0:127.0.0.1]",
    "127.127.127.127", "0177.1", "0x7F.0x0.0x0.0x1", "00000177.0.0.1", "127.0.0.1%00.example.com",
]  # fmt: skip


def no_dns(host: str, port: int, **kwargs: Any) -> list[Any]:
    """getaddrinfo for what needs no server: literals in all their forms, and the names of this machine."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        host = "127.0.0.1"
    return socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, **kwargs)


@pytest.mark.parametrize("how", ["direct", "redirect", "rebinding", "mixed"])
def test_no_spelling_of_a_forbidden_address_is_ever_connected_to(
    how: str, connects: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 spellings x direct, by redirect, by a name that changes its mind, by one of several addresses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    settings = FetchSettings(robots=False, deadline_seconds=5, connect_seconds=0.2)
    calls = 0

    with LoopbackWeb(lambda request: redirect(f"http://{SPELLINGS[int(request.path[1:])]}/")) as web:

        def resolve(host: str, port: int, **kwargs: Any) -> list[Any]:
            nonlocal calls
            calls += 1
            here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", web.port))
            public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))
            if host == "rebinding.example":
                return [public] if calls % 2 else [here]
            return [public, here] if host == "mixed.example" else no_dns(host, port, **kwargs)

        class FirstHopOpen(Guard):
            """Lets the first hop through, as if it were a public server: what it leads to is under test."""

            first_hop = False

            def addresses(self, host: str, port: int) -> list[Any]:
                self.first_hop = host == "first.example"
                return web.resolve(host, port) if self.first_hop else super().addresses(host, port)

            def allows(self, address: str) -> bool:
                return self.first_hop or super().allows(address)

        for number, spelling in enumerate(SPELLINGS):
            guard = (FirstHopOpen if how == "redirect" else Guard)(connect_seconds=0.2, resolve=resolve)
            host = {"direct": f"{spelling}:8080", "redirect": "first.example"}.get(how, f"{how}.example")
            calls = 1  # the name has been looked at once already, and was public then
            result = download(f"http://{host}/{number}", settings, guard=guard)
            guard.close()
            assert result.outcome in ("blocked", "dns", "bad_url"), (spelling, result)
        assert len(web.log) == (len(SPELLINGS) if how == "redirect" else 0)
        assert {address[:2] for address in connects} == ({("127.0.0.1", web.port)} if how == "redirect" else set())


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        LoopbackWeb(lambda request: answer(b"<p>proxy</p>")) as proxy,
        LoopbackWeb(lambda request: answer(b"x")) as web,
    ):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        session = guard.session()
        assert session.get("http://here.example/").content == b"x"
        with pytest.raises(BlockedError, match="proxy"):
            session.get("http://here.example/", proxies={"http": f"http://127.0.0.1:{proxy.port}"})
        guard.close()
        assert not proxy.log


def test_the_requests_session_is_guarded_keeps_no_cookies_and_reads_no_redirect() -> None:
    def handler(request: Any) -> Any:
        if request.path == "/moved":
            return answer(b"x" * 100_000, 302, [("Location", "/target")])
        return answer(b"ok", headers=[("Set-Cookie", "a=b")])

    with LoopbackWeb(handler) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        session = guard.session()
        assert session.get("http://one.example/").status_code == 200
        assert session.get("http://one.example/").text == "ok"
        assert all("cookie" not in request.headers for request in web.log)
        moved = session.get("http://one.example/moved", stream=True)
        assert moved.status_code == 302
        assert not moved._content_consumed
        assert [request.path for request in web.log] == ["/", "/", "/moved"]
        guard.close()
    with pytest.raises(BlockedError):
        Guard().session().get("http://127.0.0.1/")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com:22/",
        "http://example.com:6379/",
        "http://example.com:99999/",
        "http:///path",
        "javascript:alert(1)",
        "//example.com/",
        "http://[::1",
    ],
)
def test_urls_that_no_page_has_are_refused_before_any_name_is_looked_up(url: str) -> None:
    def resolve(*args: Any, **kwargs: Any) -> list[Any]:
        raise AssertionError("looked up")

    guard = Guard(resolve=resolve)
    with pytest.raises(BlockedError):
        guard.check_url(url)
    assert download(url, FetchSettings(robots=False), guard=guard).outcome == "blocked"
    guard.close()


def ask(web: LoopbackWeb, *, seconds: float = 1.0, wire_bytes: int = 100_000) -> tuple[str, float]:
    guard = Guard(allow_loopback=True, resolve=web.resolve, connect_seconds=1.0)
    settings = FetchSettings(allow_loopback=True)
    started = time.monotonic()
    found = exchange(
        guard.pool(),
        guard,
        "http://slow.example/",
        settings,
        seconds=seconds,
        wire_bytes=wire_bytes,
        wanted=("text/html",),
    )
    elapsed = time.monotonic() - started
    guard.close()
    return found.outcome, elapsed


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
SLOW = {
    "header": drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100, 0.1),
    "many headers": drip(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50, 0.1, size=6),
    "body": drip(HEAD + b"Content-Length: 600\r\n\r\n" + b"b" * 600, 0.1, size=20),
    "body to the end of the connection": drip(HEAD + b"\r\n" + b"b" * 300, 0.1, size=10),
    "chunks": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nc\r\n" * 100, 0.1, size=6),
    "chunk size": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 400, 0.1, size=20),
    "nothing": lambda conn: time.sleep(2.0),
    "continue": drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 40, 0.1, size=25),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_server_that_drips_is_left_at_the_deadline(kind: str) -> None:
    with LoopbackWeb(lambda request: SLOW[kind]) as web:
        outcome, elapsed = ask(web, seconds=1.0)
    assert outcome == "timeout"
    assert elapsed < 1.5


def test_a_tls_handshake_that_drips_is_left_at_the_deadline() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve() -> None:
        conn, _ = listener.accept()
        with conn:
            try:
                conn.recv(4096)
                for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + b"\x00" * 60:
                    conn.sendall(bytes([byte]))
                    time.sleep(0.1)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    guard = Guard(allow_loopback=True)
    started = time.monotonic()
    found = exchange(guard.pool(), guard, f"https://127.0.0.1:{port}/", FetchSettings(), seconds=1.0, wire_bytes=1000)
    assert found.outcome == "timeout"
    assert time.monotonic() - started < 1.5
    guard.close()
    listener.close()


def endless(head: bytes, block: bytes) -> Any:
    def send(conn: socket.socket) -> None:
        conn.sendall(head)
        while True:
            conn.sendall(block)

    return send


ENDLESS = {
    "body": endless(HEAD + b"\r\n", b"x" * 65_536),
    "chunked": endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "one chunk size": endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65_536),
    "one header": endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536),
    "100 Continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_server_that_never_ends_is_cut_off_by_bytes_not_by_time(kind: str) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LoopbackWeb(lambda request: ENDLESS[kind]) as web:
        outcome, elapsed = ask(web, seconds=20.0, wire_bytes=2_000_000)
    assert outcome in ("too_large", "protocol")
    assert elapsed < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_redirect_body_is_not_read() -> None:
    sent = 0

    def send(conn: socket.socket) -> None:
        nonlocal sent
        conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n")
        while True:
            sent += conn.send(b"x" * 65_536)

    with LoopbackWeb(lambda request: send) as web:
        outcome, elapsed = ask(web, seconds=5.0, wire_bytes=50_000_000)
    assert outcome == ""
    assert elapsed < 1
    assert sent < 10_000_000  # what fits into the kernel's buffers


def test_a_connection_that_is_used_again_is_under_the_new_budget() -> None:
    with LoopbackWeb(lambda request: answer(b"x" * 1000) if len(web.log) < 5 else SLOW["body"]) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        pool = guard.pool()
        for _ in range(4):
            with guard.budget(seconds=0.6, wire_bytes=2_000):
                assert pool.urlopen("GET", "http://again.example/", retries=False).data == b"x" * 1000
            time.sleep(0.2)
        started = time.monotonic()
        with (
            guard.budget(seconds=0.6, wire_bytes=2_000) as budget,
            pytest.raises((OSError, urllib3.exceptions.HTTPError)),
        ):
            pool.urlopen("GET", "http://again.example/", retries=False)
        assert budget.expired
        assert time.monotonic() - started < 1.1
        guard.close()


def test_a_closed_guard_ends_what_is_under_way_and_refuses_more() -> None:
    with LoopbackWeb(lambda request: SLOW["nothing"]) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        threading.Timer(0.3, guard.close).start()
        started = time.monotonic()
        found = exchange(guard.pool(), guard, "http://x.example/", FetchSettings(), seconds=10, wire_bytes=1000)
        assert found.outcome in ("timeout", "protocol")
        assert time.monotonic() - started < 1.0
    with pytest.raises(RuntimeError, match="closed"), guard.budget(seconds=1, wire_bytes=1):
        pass


def test_no_thread_no_socket_and_no_descriptor_is_left_behind() -> None:
    threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    kinds = [*SLOW.values(), answer(b"<p>x</p>"), redirect("/"), lambda conn: None]
    with LoopbackWeb(lambda request: kinds[len(web.log) % len(kinds)]) as web:
        guard = Guard(allow_loopback=True, resolve=web.resolve)
        pool = guard.pool()
        for number in range(60):
            exchange(pool, guard, f"http://h{number % 7}.example/", FetchSettings(), seconds=0.1, wire_bytes=9_999)
        guard.close()
        pool.clear()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (
        threading.active_count() > threads or len(list(Path("/proc/self/fd").iterdir())) > descriptors
    ):
        time.sleep(0.05)
    assert threading.active_count() <= threads
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


def test_certificates_are_checked_and_names_are_asked_quickly() -> None:
    guard = Guard()
    assert guard._ssl_context.check_hostname
    assert guard._ssl_context.verify_mode.name == "CERT_REQUIRED"
    assert "timeout" in os.environ["RES_OPTIONS"]
    guard.close()


def test_a_budget_refuses_the_byte_after_its_last() -> None:
    budget = Budget(10.0, 100)
    budget.count(100)
    with pytest.raises(OSError, match="more bytes"):
        budget.count(1)
    assert budget.over
