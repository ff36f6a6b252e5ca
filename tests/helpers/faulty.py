"""A web with every fault mixed in, and what each of its links must end in."""

from __future__ import annotations

import gzip
import socket
from typing import Any

from helpers.loopback import Request, answer, redirect

PAGE = b"<html><head><title>t</title></head><body><p>some words</p></body></html>"


def cut(conn: socket.socket) -> None:
    """Says 500 bytes, sends 4 and closes."""
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500\r\n\r\nhalf")


def hang_up(conn: socket.socket) -> None:
    """Closes without a word."""


WEB_RULES = b"user-agent: *\ndisallow: /private/\n"


def faulty_web(request: Request) -> Any:
    """What a path says is what it gives; the host's number decides on its robots.txt."""
    kind = request.path.split("/")[1]
    if request.path == "/robots.txt":
        number = int(request.host.split(".")[0][1:])
        return answer(WEB_RULES) if number % 2 else answer(b"", 404)
    return {
        "ok": answer(PAGE + request.path.encode()),
        "gz": answer(gzip.compress(PAGE + request.path.encode()), headers=[("Content-Encoding", "gzip")]),
        "gone": answer(b"", 410),
        "missing": answer(b"", 404),
        "error": answer(b"", 500),
        "pdf": answer(b"%PDF", content_type="application/pdf"),
        "moved": redirect("/ok/" + request.path.split("/")[2], 301),
        "inside": redirect("http://10.0.0.1/"),
        "noai": answer(PAGE, headers=[("X-Robots-Tag", "noai")]),
        "cut": cut,
        "close": hang_up,
        "private": answer(PAGE),
    }[kind]


EXPECTED = {
    "ok": "ok", "gz": "ok", "gone": "gone", "missing": "not_found", "error": "server_error", "pdf": "content_type",
    "moved": "ok", "inside": "blocked", "noai": "opt_out", "cut": "truncated", "close": "protocol",
}  # fmt: skip
KINDS = [*EXPECTED, "private"]


def faulty_urls(hosts: int, pages: int) -> dict[str, str]:
    """URL -> the outcome that it must have."""
    urls = {}
    for number in range(pages):
        host, kind = number % hosts, KINDS[number // hosts % len(KINDS)]
        expected = EXPECTED.get(kind) or ("disallowed" if host % 2 else "ok")
        urls[f"http://h{host}.example/{kind}/{number}"] = expected
    return urls
