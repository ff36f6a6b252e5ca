"""A web on the loopback interface: any host name, any answer, also those that no server should give.

One socket server; a guard made with `resolve=web.resolve` sends every name there. What was asked is in `web.log`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    at: float
    host: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)


Answer = bytes | Callable[[socket.socket], None]
Handler = Callable[[Request], Answer]


def answer(
    body: bytes = b"", status: int = 200, headers: Sequence[tuple[str, str]] = (), content_type: str = "text/html"
) -> bytes:
    """The bytes of an HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(target: str, status: int = 302) -> bytes:
    return answer(b"", status, [("Location", target)])


def drip(data: bytes, seconds: float, size: int = 1) -> Callable[[socket.socket], None]:
    """Sends `data` a little at a time, then closes."""

    def send(conn: socket.socket) -> None:
        for at in range(0, len(data), size):
            conn.sendall(data[at : at + size])
            time.sleep(seconds)

    return send


class LoopbackWeb:
    """`with LoopbackWeb(handler) as web:` serves until the block ends."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.log: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def resolve(self, host: str, port: int, **kwargs: Any) -> list[Any]:
        """Like socket.getaddrinfo, for a guard: every name is here, and dead ones ("nowhere.*") are nowhere."""
        if host.startswith("nowhere"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", self.port))]

    def __enter__(self) -> LoopbackWeb:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for conn in self._open:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._closed:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(conn)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                thread = threading.Thread(target=self._serve, args=(conn,), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, conn: socket.socket) -> None:
        buffer = b""
        try:
            while not self._closed:
                while b"\r\n\r\n" not in buffer:
                    block = conn.recv(65_536)
                    if not block:
                        return
                    buffer += block
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
                }
                request = Request(time.monotonic(), headers.get("host", ""), lines[0].split(" ")[1], headers)
                with self._lock:
                    self.log.append(request)
                given = self.handler(request)
                if not isinstance(given, bytes):
                    given(conn)
                    return
                conn.sendall(given)
        except OSError:
            return
        finally:
            with self._lock:
                self._open.discard(conn)
            conn.close()
