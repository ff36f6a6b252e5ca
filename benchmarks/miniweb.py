"""Generate a web of any size, with what is hidden in it written down: dumps, archives and the truth about both.

- Sentences are real: from `--data` (a folder of news as JSON lines; the field `text`), or from this project's own
  examples where there is none. A page is a draw of sentences without replacement, so that two pages are alike only
  where they were planted alike, at any size; as a whole it makes no sense and is not meant to be read.
- Every page, link and date is a function of the seed and its own number. Nothing is kept but the sentences (a fixed
  number of them) and one byte a page: memory does not grow with the number of links, and hardly with that of pages.
- What is planted is what a build should find again: `Truth` counts it and `truth.jsonl` names it page by page, so that
  a test of scale compares counts rather than hopes.

    python benchmarks/miniweb.py --links 1000000 --pages 100000 --output /tmp/web
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import html
import io
import json
import lzma
import random
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "text"
GOLD = ROOT / "examples" / "miniweb" / "gold.jsonl"

FIRST_POST = int(datetime(2011, 1, 1, tzinfo=UTC).timestamp())
LAST_POST = int(datetime(2021, 12, 31, tzinfo=UTC).timestamp())
FETCHED = int(datetime(2022, 3, 1, tzinfo=UTC).timestamp())
SENTENCE = re.compile(r"(?<=[.!?])[\"”’]?\s+(?=[\"“A-ZÀ-ÝА-Я])")
MIN_KARMA = 3

KINDS = ("article", "near_duplicate", "exact_duplicate", "foreign", "dead", "not_html", "hostile", "empty")
POSTS = ("page", "self", "media", "wikipedia", "private", "over_18", "removed", "malformed")


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of pages first (the rest are articles), then of posts (the rest lead to pages)."""

    near_duplicate: float = 0.08
    exact_duplicate: float = 0.04
    foreign: float = 0.10
    dead: float = 0.08  # half of them answer 404, half are in no archive
    not_html: float = 0.01
    hostile: float = 0.005
    empty: float = 0.01
    self: float = 0.25
    media: float = 0.10
    wikipedia: float = 0.02
    private: float = 0.002
    over_18: float = 0.02
    removed: float = 0.01
    malformed: float = 0.001
    low_karma: float = 0.35  # of posts: a score below 3

    def __post_init__(self) -> None:
        for names in (KINDS[1:], POSTS[1:]):
            total = sum(getattr(self, name) for name in names)
            if min(getattr(self, name) for name in names) < 0 or total > 0.95:
                raise ValueError(f"shares of {', '.join(names)}: expected 0 or more and 0.95 in sum, got {total:.3f}")


@dataclass(slots=True)
class Truth:
    """What was planted, pages and posts by kind. `selected` are the pages that pass karma >= 3 per post.

    Posts that are `over_18` or `removed` lead to hosts of their own that no archive holds; where a build's settings let
    them in, it selects that many links more.
    """

    num_links: int = 0
    num_pages: int = 0
    posts: dict[str, int] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)  # of all pages
    linked: int = 0  # pages with at least one post
    selected: int = 0  # of these, at least one with a karma of 3 or more
    selected_pages: dict[str, int] = field(default_factory=dict)  # the kinds of those
    captures: int = 0
    hosts: int = 0
    dumps: list[str] = field(default_factory=list)  # file names
    archives: list[str] = field(default_factory=list)
    dump_bytes: int = 0  # of JSON, before compression
    html_bytes: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the web: what it is, where it lies and what it says."""

    number: int
    kind: str
    url: str
    title: str
    paragraphs: tuple[str, ...]
    copy_of: int | None = None  # the page that an exact or near-duplicate was made from
    language: str = "en"


def generate(
    directory: Path,
    *,
    num_links: int,
    num_pages: int,
    seed: int = 0,
    data: Path | None = None,
    shares: Shares | None = None,
    num_dumps: int = 3,
    pages_per_archive: int = 20_000,
    max_sentences: int = 200_000,
) -> Truth:
    """Write `dumps/`, `archives/`, `truth.jsonl` (a line a page) and `truth.json` into `directory`; return the truth.

    The same arguments give the same bytes. `data` is a folder or file of JSON lines (.jsonl, .zst, .gz).
    """
    if num_pages < 1 or num_links < 0 or num_dumps < 1:
        raise ValueError(
            f"expected at least one page and one dump and no fewer than 0 links, got {num_pages} pages, "
            f"{num_dumps} dumps, {num_links} links"
        )
    shares = shares or Shares()
    web = Web(seed, num_pages, shares, Sentences.read(data, max_sentences))
    truth = Truth(num_links=num_links, num_pages=num_pages, hosts=web.num_hosts)
    for folder in ("dumps", "archives"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    best = _write_dumps(web, directory / "dumps", truth, num_links, num_dumps)
    _write_archives(web, directory, truth, best, pages_per_archive)
    (directory / "truth.json").write_text(truth.to_json() + "\n", "utf-8")
    return truth


# Sentences -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences to build pages of: English ones, and some of other languages for pages that a build should drop."""

    english: tuple[str, ...]
    foreign: dict[str, tuple[str, ...]]

    @staticmethod
    def read(data: Path | None, limit: int) -> Sentences:
        """The first `limit` distinct English sentences of `data`, or of the examples' gold text."""
        rows = list(_json_lines(GOLD))
        foreign: dict[str, list[str]] = {}
        for row in rows:
            if row["text"] and row["language"] not in ("en", "ja"):
                foreign.setdefault(row["language"], []).extend(split_sentences(row["text"]))
        texts: Iterator[str]
        if data is None:
            texts = (row["text"] for row in rows if row["language"] == "en")
        else:
            files = sorted(data.glob("*.jsonl*")) if data.is_dir() else [data]
            if not files:
                raise ValueError(f"--data: expected a file or a folder of .jsonl files, found none at {data}")
            texts = (row["text"] for file in files for row in _json_lines(file))
        english: dict[str, None] = {}
        for text in texts:
            english.update(dict.fromkeys(split_sentences(text)))
            if len(english) >= limit:
                break
        if len(english) < 200:
            raise ValueError(f"--data: expected at least 200 sentences, found {len(english)}; give more text")
        return Sentences(
            tuple(english)[:limit], {name: tuple(dict.fromkeys(foreign[name])) for name in sorted(foreign)}
        )


def split_sentences(text: str) -> list[str]:
    """Whole sentences of a readable length; wrapped lines are joined, datelines and tables fall out."""
    joined = re.sub(r"[ \t]+\n", "\n", text)
    return [
        sentence
        for paragraph in re.split(r"\n\s*\n|\n(?=\S)", joined)
        for sentence in SENTENCE.split(" ".join(paragraph.split()))
        if 40 <= len(sentence) <= 400 and sentence[-1] in ".!?" and not set(sentence) & set("{}|<>")
    ]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(path.open("rb"))
        if path.suffix == ".zst":
            raw = stack.enter_context(zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(raw))
        elif path.suffix == ".gz":
            raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
        for line in stack.enter_context(io.TextIOWrapper(raw, "utf-8")):
            if line.strip():
                yield json.loads(line)


# The web -------------------------------------------------------------------------------------------------------------


class Web:
    """Pages and posts by number. A number's page is the same whoever asks, and in whatever order."""

    def __init__(self, seed: int, num_pages: int, shares: Shares, sentences: Sentences) -> None:
        self.seed, self.num_pages, self.shares, self.sentences = seed, num_pages, shares, sentences
        self.num_hosts = max(8, int(num_pages**0.6))
        self._kinds = _cumulative(shares, KINDS[1:])
        self._posts = _cumulative(shares, POSTS[1:])

    def kind(self, number: int) -> str:
        """The kind of a page. Page 0 is an article, so that every copy finds something to copy."""
        return "article" if number == 0 else _pick(self._kinds, self._random("kind", number).random(), "article")

    def page(self, number: int) -> Page:
        kind = self.kind(number)
        draw = self._random("page", number)
        url = self.url(number)
        if kind in ("near_duplicate", "exact_duplicate"):
            base = self._source_of(number)
            original = self.page(base)
            if kind == "exact_duplicate":
                return Page(number, kind, url, original.title, original.paragraphs, base)
            return Page(number, kind, url, original.title, self._edited(original.paragraphs, draw), base)
        if kind == "foreign":
            language = draw.choice(sorted(self.sentences.foreign))
            pool: Sequence[str] = self.sentences.foreign[language]
            return Page(number, kind, url, *_compose(pool, min(12, len(pool)), draw), language=language)
        if kind != "article":
            return Page(number, kind, url, f"Page {number}", ())
        return Page(number, kind, url, *_compose(self.sentences.english, draw.randint(12, 45), draw))

    def host(self, number: int) -> int:
        """The host of a page, by rank: a few hold most pages, as on the web."""
        return int(self.num_hosts * self._random("host", number).random() ** 3)

    def url(self, number: int) -> str:
        host = self.host(number)
        scheme = "https" if _hash(self.seed, "scheme", host) % 3 else "http"
        name = f"{'www.' if host % 2 else ''}site-{host}.example"
        path = (f"/{number}", f"/articles/{number}.html", f"/read.php?id={number}", f"/a/b/{number}")[host % 4]
        return f"{scheme}://{name}{path}"

    def post_kind(self, number: int) -> str:
        """The kind of a post. The first post of a page is never spent on anything else (see `target`)."""
        return _pick(self._posts, self._random("post", number).random(), "page")

    def karma(self, number: int) -> int:
        draw = self._random("karma", number)
        if draw.random() < self.shares.low_karma:
            return draw.randint(-1, MIN_KARMA - 1)
        return min(int(MIN_KARMA / (1 - draw.random()) ** 0.9), 150_000)

    def target(self, number: int, turn: int) -> int:
        """The page of the `turn`-th post that leads to one: each page once, in a fixed order, then the popular ones."""
        if turn < self.num_pages:
            return turn
        return int(self.num_pages * self._random("target", number).random() ** 3)

    def variant(self, url: str, number: int) -> str:
        """`url` as this post spells it; half of the posts spell it as the site does."""
        draw = self._random("variant", number)
        more = "&" if "?" in url else "?"
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        other = host.removeprefix("www.") if host.startswith("www.") else f"www.{host}"
        spellings = (
            f"{'http' if scheme == 'https' else 'https'}://{rest}",
            f"{scheme}://{other}{slash}{path}",
            f"{url}{more}utm_source=feed&utm_campaign={number}",
            f"{url}#part-{number % 9}",
            f"{scheme}://{host}:{443 if scheme == 'https' else 80}{slash}{path}",
        )
        return url if draw.random() < 0.5 else draw.choice(spellings)

    def _source_of(self, number: int) -> int:
        """The article that page `number` copies: an earlier one near a random place."""
        at = self._random("source", number).randrange(number)
        while self.kind(at) != "article":
            at -= 1
        return at

    def _edited(self, paragraphs: tuple[str, ...], draw: random.Random) -> tuple[str, ...]:
        """What another desk makes of an article: a new first sentence, and the last paragraph cut by one sentence."""
        first = f"{draw.choice(self.sentences.english)} {paragraphs[0]}"
        last = SENTENCE.split(paragraphs[-1])
        kept = (" ".join(last[:-1]),) if len(last) > 1 else (paragraphs[-1],)
        return (first, *paragraphs[1:-1], *kept) if len(paragraphs) > 1 else (first,)

    def _random(self, what: str, number: int) -> random.Random:
        return random.Random(_hash(self.seed, what, number))


def _hash(seed: int, what: str, number: int) -> int:
    return int.from_bytes(blake2b(f"{seed} {what} {number}".encode(), digest_size=8).digest(), "big")


def _cumulative(shares: Shares, names: tuple[str, ...]) -> tuple[tuple[float, str], ...]:
    total, steps = 0.0, []
    for name in names:
        total += getattr(shares, name)
        steps.append((total, name))
    return tuple(steps)


def _pick(steps: tuple[tuple[float, str], ...], uniform: float, otherwise: str) -> str:
    return next((name for limit, name in steps if uniform < limit), otherwise)


def _compose(pool: Sequence[str], count: int, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """(title, paragraphs) from a draw of `count` sentences."""
    sentences = [pool[at] for at in draw.sample(range(len(pool)), min(count, len(pool)))]
    paragraphs, at = [], 0
    while at < len(sentences):
        size = draw.randint(2, 5)
        paragraphs.append(" ".join(sentences[at : at + size]))
        at += size
    return " ".join(sentences[0].split()[:9]).rstrip(".,;:!?"), tuple(paragraphs)


# HTML ----------------------------------------------------------------------------------------------------------------


def render(page: Page, host: int) -> bytes:
    """The page in its host's template, one of four that share nothing."""
    if page.kind == "empty":
        return b"" if page.number % 2 else b"<html><body><div id='app'></div></body></html>"
    if page.kind == "hostile":
        return (b"<div>" * 60_000, b"<table><tr><td>" * 9_000, b"<p " + b"a" * 200_000 + b">")[page.number % 3]
    if page.kind == "not_html":
        return b"%PDF-1.4\n%%EOF\n"
    title = html.escape(page.title)
    paragraphs = [html.escape(text, quote=False) for text in page.paragraphs]
    return TEMPLATES[host % len(TEMPLATES)](title, paragraphs, page.language, page.number).encode()


def _semantic(title: str, paragraphs: list[str], language: str, number: int) -> str:
    text = "\n".join(f"<p>{text}</p>" for text in paragraphs)
    return (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title></head><body>'
        '<div class="cookie">We use cookies.<button>OK</button></div><header><nav><a href="/">Home</a> '
        f'<a href="/news">News</a> <a href="/login">Log in</a></nav></header><main><article><h1>{title}</h1>{text}'
        f'</article></main><aside><h3>Most read</h3><ul><li><a href="/{number + 1}">Next</a></li></ul></aside>'
        '<footer><a href="/privacy">Privacy</a> <a href="/terms">Terms</a></footer></body></html>'
    )


def _blog(title: str, paragraphs: list[str], language: str, number: int) -> str:
    text = "\n".join(f"<p>{text}</p>" for text in paragraphs)
    return (
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN">\n<html><head>'
        f"<title>{title} | A blog</title></head><body><div id=header><a href=/>A blog</a></div><div id=content>"
        f'<div class="post hentry"><h2 class=entry-title>{title}</h2><div class=entry-content>{text}</div>'
        f"<p class=meta>Posted in <a href=/cat/{number % 7}>Notes</a></p></div></div><div id=sidebar><ul>"
        "<li><a href=/archive>Archive</a></li><li><a href=/feed>RSS</a></li></ul></div></body></html>"
    )


def _forum(title: str, paragraphs: list[str], language: str, number: int) -> str:
    posts = "\n".join(
        f'<div class="post" id="p{at}"><div class="postprofile"><a href="/u/{at}">member{(number + at) % 97}</a></div>'
        f'<div class="postbody"><div class="content"><p>{text}</p></div></div></div>'
        for at, text in enumerate(paragraphs)
    )
    return (
        f"<html><head><title>View topic - {title}</title></head><body id=phpbb><ul class=nav><li><a href=/>Board index"
        f"</a></li><li><a href=/faq>FAQ</a></li></ul><h2>{title}</h2>{posts}"
        "<p class=copyright>Powered by a forum</p></body></html>"
    )


def _bare(title: str, paragraphs: list[str], language: str, number: int) -> str:
    return f"<title>{title}</title>\n<h1>{title}</h1>\n" + "\n".join(f"<p>{text}" for text in paragraphs)


TEMPLATES: tuple[Callable[[str, list[str], str, int], str], ...] = (_semantic, _blog, _forum, _bare)


# Writing -------------------------------------------------------------------------------------------------------------


def _write_dumps(web: Web, folder: Path, truth: Truth, num_links: int, num_dumps: int) -> bytearray:
    """Dumps in order of time, of all four compressions. Returns a byte a page: 0 no post, 1 low karma, 2 selected."""
    best = bytearray(web.num_pages)
    kinds: Counter[str] = Counter()
    turn = 0
    for number_of_dump in range(num_dumps):
        suffix = (".zst", ".gz", ".bz2", ".xz")[number_of_dump % 4]
        path = folder / f"RS_{number_of_dump:03d}{suffix}"
        truth.dumps.append(path.name)
        start, end = (num_links * at // num_dumps for at in (number_of_dump, number_of_dump + 1))
        with contextlib.ExitStack() as stack:
            file = _open(path, stack)
            for number in range(start, end):
                kind = web.post_kind(number)
                kinds[kind] += 1
                if kind == "page":
                    target = web.target(number, turn)
                    turn += 1
                    karma = web.karma(number)
                    best[target] = max(best[target], 2 if karma >= MIN_KARMA else 1)
                    line = _post(web, number, num_links, kind, web.variant(web.url(target), number), karma)
                else:
                    line = _post(web, number, num_links, kind, "", web.karma(number))
                truth.dump_bytes += len(line)
                file.write(line)
    truth.posts = dict(sorted(kinds.items()))
    return best


def _open(path: Path, stack: contextlib.ExitStack) -> Any:
    if path.suffix == ".bz2":
        return stack.enter_context(bz2.open(path, "wb", 5))
    if path.suffix == ".xz":
        return stack.enter_context(lzma.open(path, "wb", preset=1))
    raw = stack.enter_context(path.open("wb"))
    if path.suffix == ".gz":
        return stack.enter_context(gzip.GzipFile("", "wb", 5, raw, mtime=0))
    return stack.enter_context(zstandard.ZstdCompressor(level=3).stream_writer(raw))


def _post(web: Web, number: int, num_links: int, kind: str, url: str, karma: int) -> bytes:
    created = FIRST_POST + (LAST_POST - FIRST_POST) * number // max(num_links, 1)
    post_id = _base36(36**5 + number)
    subreddit = f"sub{int(200 * web._random('subreddit', number).random() ** 2)}"
    if kind == "malformed":
        return b'{"id": "%s", "created_utc": %d, "title": "the line that was cu\n' % (post_id.encode(), created)
    links = {
        "self": f"https://www.reddit.com/r/{subreddit}/comments/{post_id}/",
        "media": f"https://i.imgur.com/{post_id}.jpg" if number % 2 else f"https://www.youtube.com/watch?v={post_id}",
        "wikipedia": f"https://{('en', 'de', 'fr')[number % 3]}.wikipedia.org/wiki/Page_{number % 5000}",
        "private": f"http://192.168.{number % 250}.{number // 250 % 250}/",
        "over_18": f"https://adults-{number % 50}.example/{number}",
        "removed": f"https://spam-{number % 50}.example/{number}",
    }
    record: dict[str, Any] = {
        "id": post_id,
        "created_utc": str(created) if 1388534400 <= created < 1448928000 else created,
        "retrieved_on": created + 5_000_000,
        "subreddit": subreddit,
        "title": f"Post {number}",
        "url": url or links[kind],
        "score": karma,
        "is_self": kind == "self",
        "over_18": kind == "over_18",
        "selftext": "Some words of the poster's own." if kind == "self" else "",
        "author": "[deleted]" if number % 11 == 0 else f"user{number % 9973}",
        "num_comments": number % 400,
        "edited": False,
        "removed_by_category": "moderator" if kind == "removed" else None,
    }
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits


def _write_archives(web: Web, directory: Path, truth: Truth, best: bytearray, per_archive: int) -> None:
    """One WARC for every `per_archive` pages, a gzip member a record, and a line of truth.jsonl for every page."""
    pages: Counter[str] = Counter()
    selected: Counter[str] = Counter()
    with (directory / "truth.jsonl").open("w", encoding="utf-8", newline="\n") as log:
        for start in range(0, web.num_pages, per_archive):
            path = directory / "archives" / f"pages-{start // per_archive:05d}.warc.gz"
            truth.archives.append(path.name)
            with path.open("wb") as file:
                for number in range(start, min(start + per_archive, web.num_pages)):
                    page = web.page(number)
                    pages[page.kind] += 1
                    selected[page.kind] += best[number] == 2
                    row = {
                        "page": number,
                        "url": page.url,
                        "kind": page.kind,
                        "copy_of": page.copy_of,
                        "language": page.language,
                        "linked": best[number] > 0,
                        "selected": best[number] == 2,
                    }
                    log.write(json.dumps(row) + "\n")
                    if page.kind == "dead" and number % 2:
                        continue  # in no archive at all
                    truth.captures += 1
                    if page.kind == "exact_duplicate" and page.copy_of is not None:
                        payload = render(web.page(page.copy_of), web.host(page.copy_of))  # a mirror: the same bytes
                    else:
                        payload = render(page, web.host(number))
                    truth.html_bytes += _write_capture(file, page, payload)
    truth.pages, truth.selected_pages = dict(sorted(pages.items())), dict(sorted(selected.items()))
    truth.linked, truth.selected = sum(map(bool, best)), best.count(2)


def _write_capture(file: BinaryIO, page: Page, payload: bytes) -> int:
    """A WARC/1.1 response record (RFC 9112 message inside) as one gzip member; returns the bytes of the payload."""
    status = "404 Not Found" if page.kind == "dead" else "200 OK"
    kind = "application/pdf" if page.kind == "not_html" else "text/html; charset=utf-8"
    body = gzip.compress(payload, 5, mtime=0) if page.number % 3 == 0 else payload
    coding = "Content-Encoding: gzip\r\n" if page.number % 3 == 0 else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{coding}Content-Length: {len(body)}\r\n\r\n".encode()
    date = datetime.fromtimestamp(FETCHED + page.number, UTC)
    unique = blake2b(page.url.encode(), digest_size=16).hexdigest()
    record_id = f"{unique[:8]}-{unique[8:12]}-{unique[12:16]}-{unique[16:20]}-{unique[20:]}"
    warc = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{record_id}>\r\n"
        f"WARC-Date: {date:%Y-%m-%dT%H:%M:%SZ}\r\nWARC-Target-URI: {page.url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(head) + len(body)}\r\n\r\n"
    ).encode()
    packer = zlib.compressobj(5, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    file.write(packer.compress(warc + head + body + b"\r\n\r\n") + packer.flush())
    return len(payload)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--links", type=int, default=100_000, help="submissions (default 100,000)")
    parser.add_argument("--pages", type=int, default=10_000, help="pages (default 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default 0)")
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA if DATA.is_dir() else None,
        help="file or folder of JSON lines (default: ../shared/data/text, or the examples' own text)",
    )
    parser.add_argument("--dumps", type=int, default=3, help="dump files, in turns zst, gz, bz2, xz (default 3)")
    parser.add_argument("--pages-per-archive", type=int, default=20_000, help="default 20,000")
    parser.add_argument("--sentences", type=int, default=200_000, help="most sentences kept in memory (200,000)")
    for name, default in asdict(Shares()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, metavar="SHARE",
                            help=f"share of {name.replace('_', ' ')} (default {default})")  # fmt: skip
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        truth = generate(
            options.output,
            num_links=options.links,
            num_pages=options.pages,
            seed=options.seed,
            data=options.data,
            shares=Shares(**{name: getattr(options, name) for name in asdict(Shares())}),
            num_dumps=options.dumps,
            pages_per_archive=options.pages_per_archive,
            max_sentences=options.sentences,
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(truth.to_json())
    print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
