"""Fetching pages from the open web: one page (`download`) or very many (`Fetcher`), politely and without trust.

- What a link's fetch ends in is one word of `FINAL`, `TRANSIENT` or `UNTRIED`; everything else is detail.
- The network is off unless a settings file turns it on and says whom to write to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

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
        metadata={"help": "a segment is sealed after this long; the rest is planned again", "bytes": False},
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
        for name in ("per_host_delay_seconds", "max_crawl_delay_seconds", "max_redirects", "retries"):
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
