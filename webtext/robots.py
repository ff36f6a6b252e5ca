"""robots.txt as RFC 9309 has it: what a file allows, what its absence means, and how long an answer is good for.

- Protego matches paths. It is given our own groups only, in plain form: left to itself it takes a byte order mark into
  the first name, does not see that `User-agent: mybot/2.0` means `mybot`, takes `my` for it, and ends a list of names
  at any line that it does not know. A host's rules also take little memory this way.
- Only the first 500 KiB count, to the last whole line.
- Unreachable means disallowed, and absent means allowed (RFC 9309, 2.3.1); 429 is a server that cannot answer now.
- An answer is used for 24 hours at most; what has failed, for less.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from protego import Protego

MAX_BYTES: Final = 500 * 1024
GOOD_SECONDS: Final = 24 * 3600.0
FAILED_SECONDS: Final = 3600.0

Access = Literal["rules", "allow", "disallow", "unreachable"]


@dataclass(frozen=True, slots=True)
class Robots:
    """What a host's robots.txt says to one agent."""

    access: Access
    agent: str
    rules: Protego | None = None
    size_bytes: int = 0
    reason: str = ""  # the ledger's word for why the host could not be asked, where there is one

    def allows(self, url: str) -> bool:
        """Whether `url` of that host may be fetched. /robots.txt itself always may (RFC 9309, 2.2.2)."""
        if urlsplit(url).path == "/robots.txt":
            return True
        if self.rules is None:
            return self.access == "allow"
        return bool(self.rules.can_fetch(url, self.agent))

    @property
    def crawl_delay_seconds(self) -> float:
        """Crawl-delay, or what Request-rate comes to; 0.0 where the file asks for neither."""
        if self.rules is None:
            return 0.0
        delay = self.rules.crawl_delay(self.agent) or 0.0
        rate = self.rules.request_rate(self.agent)
        if rate is not None and rate.requests > 0:
            delay = max(delay, rate.seconds / rate.requests)
        return float(delay)

    @property
    def good_seconds(self) -> float:
        return FAILED_SECONDS if self.access == "unreachable" else GOOD_SECONDS


def robots_url(url: str) -> str:
    """Where the robots.txt for `url` lies.

    >>> robots_url("https://example.com:8443/a?b#c")
    'https://example.com:8443/robots.txt'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, "/robots.txt", "", ""))


def parse(body: bytes, agent: str) -> Robots:
    """The rules of a robots.txt file for the crawler `agent` (its name, with or without a version). Never raises."""
    name = product(agent)
    text = normalise(body, name)
    return Robots("rules", name, Protego.parse(text), len(text))


def from_status(status: int, body: bytes, agent: str) -> Robots:
    """What an answer means: rules, or the meaning of its status (RFC 9309, 2.3.1)."""
    if 200 <= status < 300:
        return parse(body, agent)
    if 400 <= status < 500 and status != 429:
        return Robots("allow", product(agent))
    return unreachable(agent)


def unreachable(agent: str, reason: str = "") -> Robots:
    """Complete disallow: the server could not say what it wants."""
    return Robots("unreachable", product(agent), reason=reason)


def product(agent: str) -> str:
    """The product token of a user agent (RFC 9309, 2.2.1).

    >>> product("webtext/0.1 (+mailto:a@example.com)")
    'webtext'
    """
    token = re.match(r"[A-Za-z_-]+", agent.strip())
    return token.group().lower() if token else ""


_LINE = re.compile(r"\s*([^:#]*?)\s*:\s*([^#]*)")
_LINE_WITHOUT_COLON = re.compile(r"\s*([^\s:#]+)\s+([^\s#]+)\s*(?:#.*)?$")
_NAMES: Final = {
    **dict.fromkeys(("user-agent", "useragent", "user agent"), "user-agent"),
    # misspelt often enough for google/robotstxt to know them
    **dict.fromkeys(("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"), "disallow"),
    "allow": "allow",
    "crawl-delay": "crawl-delay",
    "request-rate": "request-rate",
}


def normalise(body: bytes, agent: str) -> str:
    """The two groups of `body` that may concern the product token `agent`, as Protego reads them rightly.

    Its own and `*`, each with the rules of all its groups; lines that are no rules end no list of user agents.
    """
    if len(body) > MAX_BYTES:
        body = body[:MAX_BYTES]
        body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
    body = re.sub(rb"\A\xef(?:\xbb\xbf?)?", b"", body)  # a byte order mark, or what an editor has left of one
    groups: dict[str, list[str]] = {}
    current: set[str] = set()
    undelayed: set[str] = set()  # of `current`, those named since the last delay
    listing = False  # the last line that counted was a User-agent
    # Not str.splitlines: form feeds and Unicode's separators end no line of RFC 9309.
    for line in re.split(r"\r\n?|\n", body.decode("utf-8", "replace")):
        match = _LINE.match(line) or _LINE_WITHOUT_COLON.match(line)
        name = _NAMES.get(match.group(1).lower()) if match else None
        if match is None or name is None:
            continue
        value = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", match.group(2)).strip()
        if name == "user-agent":
            if not listing:
                current, undelayed = set(), set()
            listing = True
            token = "*" if re.match(r"\*(?:\s|$)", value) else product(value)
            if token in ("*", agent):
                current.add(token)
                undelayed.add(token)
                groups.setdefault(token, [])
            continue
        if name in ("allow", "disallow"):
            listing = False
            value = re.sub(r"\*{2,}", "*", value)  # the same to a reader, dear to a matcher that goes back
            concerned = current
        else:
            concerned, undelayed = undelayed or current, set()
        for token in concerned:
            groups[token].append(f"{name}: {value}")
    # "disallow:" forbids nothing, but makes a group of a name that has no rules.
    return "".join(f"user-agent: {token}\ndisallow:\n" + "\n".join(rules) + "\n" for token, rules in groups.items())


class Cache:
    """The robots.txt answers of the last hosts asked, bounded in number and in size. Not thread-safe."""

    def __init__(self, *, hosts: int = 20_000, size_bytes: int = 32_000_000) -> None:
        self._hosts = hosts
        self._size_bytes = size_bytes
        self._held: OrderedDict[str, tuple[float, Robots]] = OrderedDict()
        self._bytes = 0

    def get(self, host: str, now: float) -> Robots | None:
        """What `host` said, if it is still good at `now` (seconds of any steady clock)."""
        entry = self._held.get(host)
        if entry is None:
            return None
        if entry[0] <= now:
            self._drop(host)
            return None
        self._held.move_to_end(host)
        return entry[1]

    def put(self, host: str, robots: Robots, now: float) -> None:
        self._drop(host)
        self._held[host] = (now + robots.good_seconds, robots)
        self._bytes += robots.size_bytes
        while len(self._held) > self._hosts or (self._bytes > self._size_bytes and len(self._held) > 1):
            self._drop(next(iter(self._held)))

    def __len__(self) -> int:
        return len(self._held)

    def _drop(self, host: str) -> None:
        entry = self._held.pop(host, None)
        if entry is not None:
            self._bytes -= entry[1].size_bytes
