"""Build the miniature web: two dumps, a list of links, removals, an archive of pages and the gold text of each.

- What a person reads is in `content/*.txt`, one file per site, and what the site puts around it in `templates/`. The
  page and its gold text come from the same source, so the gold cannot drift away from the page.
- Submissions are derived from the pages (one to three per page, through variants of its URL, with the fields that the
  dumps of that month had), and joined by the hand-written odd ones of `posts/`.
- Everything is a function of these sources: ids, dates and karma come from hashes of URLs, compressed streams carry no
  time. The same libraries give the same bytes; `--check` compares contents, so other versions of zlib pass too.

    python examples/miniweb/build.py            # write the artefacts beside this file
    python examples/miniweb/build.py --check    # do the committed ones hold what would be written?
"""

from __future__ import annotations

import argparse
import base64
import bz2
import csv
import gzip
import hashlib
import html
import io
import json
import re
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import brotli
import zstandard
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

HERE = Path(__file__).resolve().parent
ARTEFACTS = (
    "submissions-2005-2012.ndjson.bz2",
    "submissions-2013-2024.zst",
    "links.csv",
    "removals.txt",
    "pages.warc.gz",
    "gold.jsonl",
    "truth.json",
)
NEW_DUMP_FROM = 2013  # posts of this year and later go to the zst dump


@dataclass(frozen=True, slots=True)
class Site:
    """One host: what it serves its pages with, and where they are posted."""

    name: str
    host: str
    template: str
    subreddits: tuple[str, ...]
    title: str
    tagline: str = ""
    scheme: str = "https"
    language: str = "en"
    charset: str = "utf-8"
    server: str = "nginx/1.18.0"
    content_encoding: str = ""
    chunked: bool = False
    http_charset: bool = True  # is the charset in the Content-Type header?
    meta_charset: str = ""  # what the page declares of itself; "" is the truth, "none" nothing


SITES = (
    Site("gazette", "www.saltmarsh-gazette.example", "news", ("worldnews", "news", "UpliftingNews"),
         "The Saltmarsh Gazette", "Wrackley and the coast since 1871", content_encoding="gzip", chunked=True),
    Site("kitchen", "thebluecolander.example", "wordpress", ("Cooking", "recipes", "food"),
         "The Blue Colander", "Cooking for people who come home late", server="Apache/2.4.41 (Ubuntu)",
         content_encoding="gzip"),
    Site("workshop", "forum.benchandvice.example", "phpbb", ("woodworking", "DIY", "Tools"),
         "Bench & Vice", "A forum for people who mend things", scheme="http", server="Apache/2.2.22"),
    Site("tarn", "docs.tarnlib.example", "sphinx", ("Python", "programming"),
         "Tarn 2.3 documentation", "", server="cloudflare", content_encoding="br"),
    Site("orrery", "orrery-notes.example", "markdown", ("askscience", "science", "todayilearned"),
         "Orrery Notes", "Why things are as they are", server="GitHub.com", content_encoding="zstd"),
    Site("pennyford", "www.pennyford-history.example", "tables", ("history", "AskHistorians"),
         "Pennyford Local History Society", "", scheme="http", charset="windows-1252", server="Apache/1.3.33 (Unix)",
         http_charset=False, meta_charset="iso-8859-1"),
    Site("fixwell", "answers.fixwell.example", "answers", ("techsupport", "HomeImprovement", "Frugal"),
         "Fixwell Answers", "Questions about things that broke", content_encoding="gzip"),
    Site("paddock", "longpaddock.example", "bare", ("TrueReddit", "Foodforthought", "books"),
         "The long paddock", "", scheme="http", server="OpenBSD httpd", http_charset=False, meta_charset="none"),
    Site("lettera", "letterahalf.example", "journal", ("languagelearning", "French", "linguistics"),
         "Lettera & Half", "Notes of two translators", chunked=True),
    Site("lantern", "lanternverse.example", "verse", ("Poetry", "shortstories", "WritingPrompts"),
         "Lantern Verse", "Poems and very short stories"),
    Site("waymark", "waymark-walks.example", "app", ("hiking", "CampingandHiking", "Ultralight"),
         "Waymark", "Walks that were walked", server="Caddy", content_encoding="br"),
    Site("candour", "candidcolumn.example", "column", ("personalfinance", "relationships", "AskReddit"),
         "The Candid Column", "Long letters, short answers", content_encoding="gzip", chunked=True),
    Site("overtea", "overtea-transcripts.example", "interview", ("podcasts", "IAmA"), "Over Tea",
         "People and what they do", content_encoding="br", chunked=True),
    Site("almanac", "householdalmanac.example", "almanac", ("explainlikeimfive", "todayilearned"),
         "The Household Almanac", server="Microsoft-IIS/8.5", http_charset=False),
    Site("ledger", "www.coastwireservice.example", "wire", ("news", "worldnews"), "Coast Wire Service"),
    Site("wikipedia", "en.wikipedia.org", "wiki", ("todayilearned", "wikipedia"), "Wikipedia", server="ATS/9.1.4"),
    Site("carnet", "carnetdesquais.example", "wordpress", ("france", "Livres"), "Le carnet des quais",
         "Chroniques d'une ville de port", language="fr", charset="windows-1252", meta_charset="windows-1252",
         scheme="http"),
    Site("garten", "kleingarten-nord.example", "news", ("de", "garten"), "Kleingarten Nord",
         "Aus den Gärten am Kanal", language="de"),
    Site("cuaderno", "cuadernodelrio.example", "bare", ("es", "libros"), "Cuaderno del río", language="es",
         charset="iso-8859-1", scheme="http"),
    Site("kissaten", "machikado-kissa.example", "tables", ("japan", "newsokur"), "街角喫茶だより", language="ja",
         charset="shift_jis", http_charset=False, scheme="http"),
    Site("chaika", "zapiski-chaiki.example", "markdown", ("russia", "ru"), "Записки чайки", language="ru",
         charset="koi8-r", http_charset=False, scheme="http"),
    Site("latarnia", "latarnia-morska.example", "wordpress", ("Polska", "poland"), "Latarnia morska",
         "Opowieści znad zatoki", language="pl", charset="iso-8859-2", scheme="http"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """One page as it is written in content/: header, body blocks, posts of others (threads) and comments."""

    site: Site
    path: str
    date: str
    author: str
    title: str
    options: dict[str, str] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    posts: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # (who, when or votes, blocks)
    comments: tuple[tuple[str, tuple[str, ...]], ...] = ()  # never part of the gold text

    @property
    def url(self) -> str:
        return f"{self.site.scheme}://{self.site.host}{self.path}"


@dataclass(frozen=True, slots=True)
class Capture:
    """What the archive holds for a URL: an HTTP answer, the body as it went over the wire."""

    url: str
    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fetched_at: str  # WARC-Date


@dataclass(frozen=True, slots=True)
class Gold:
    """What an extractor should find on a page; `text` is empty where there is nothing to find."""

    url: str
    site: str
    kind: str  # article, thread, documentation, duplicate, near_duplicate, wikipedia, hostile, empty, ...
    language: str
    title: str
    text: str


# ---------------------------------------------------------------------------------------------------------------------
# Content files


def read_sources(site: Site) -> Iterator[Source]:
    """Pages of `content/<site>.txt`: `=== path | date | author | title`, `key: value` lines, a blank line, the body."""
    text = (HERE / "content" / f"{site.name}.txt").read_text(encoding="utf-8")
    for chunk in re.split(r"(?m)^=== ", text)[1:]:
        head, _, body = chunk.partition("\n\n")
        first, *rest = head.splitlines()
        path, date, author, title = (part.strip() for part in first.split("|", 3))
        options = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in rest)}
        main, posts, comments = _split_voices(body)
        changed: dict[str, Any] = {
            key: options[key] for key in ("charset", "content_encoding", "meta_charset", "template") if key in options
        }
        yield Source(replace(site, **changed), path, date, author, title, options, main, posts, comments)


def _split_voices(
    body: str,
) -> tuple[tuple[str, ...], tuple[tuple[str, str, tuple[str, ...]], ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    main, *others = re.split(r"(?m)^(?=@@ |%% )", body)
    posts, comments = [], []
    for other in others:
        head, _, rest = other.partition("\n")
        if head.startswith("@@ "):
            who, _, when = head[3:].partition("|")
            posts.append((who.strip(), when.strip(), _blocks(rest)))
        else:
            comments.append((head[3:].strip(), _blocks(rest)))
    return _blocks(main), tuple(posts), tuple(comments)


def _blocks(text: str) -> tuple[str, ...]:
    """Blocks are parted by blank lines, except inside ``` fences."""
    blocks: list[str] = []
    for index, part in enumerate(re.split(r"(?ms)^```\n(.*?)^```$", text)):
        if index % 2:
            blocks.append("```\n" + part.rstrip("\n"))
        else:
            blocks.extend(block.strip("\n") for block in re.split(r"\n\s*\n", part) if block.strip())
    return tuple(blocks)


def _kind_of_block(block: str) -> str:
    for prefix, kind in (("```", "code"), ("## ", "heading"), ("- ", "list"), ("1. ", "numbers"), ("> ", "quote"),
                         ("|", "table"), ("~ ", "verse"), ("! ", "image")):  # fmt: skip
        if block.startswith(prefix):
            return kind
    return "paragraph"


def to_html(blocks: tuple[str, ...], heading: str = "h2") -> Markup:
    """The small markup of content/ as HTML."""
    return Markup("\n".join(_block_to_html(block, heading) for block in blocks))


def _block_to_html(block: str, heading: str) -> str:
    kind, lines = _kind_of_block(block), block.splitlines()
    if kind == "code":
        return f"<pre><code>{html.escape(block[4:], quote=False)}</code></pre>"
    if kind == "heading":
        return f"<{heading}>{_inline(block[3:])}</{heading}>"
    if kind in ("list", "numbers"):
        tag = "ul" if kind == "list" else "ol"
        items = "\n".join(f"<li>{_inline(re.sub(r'^(- |[0-9]+[.] )', '', line))}</li>" for line in lines)
        return f"<{tag}>\n{items}\n</{tag}>"
    if kind == "quote":
        return f"<blockquote><p>{_inline(' '.join(line[2:] for line in lines))}</p></blockquote>"
    if kind == "table":
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        out = ["<table>", "<tr>" + "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0]) + "</tr>"]
        out += ["<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:]]
        return "\n".join([*out, "</table>"])
    if kind == "verse":
        return "<p>" + "<br>\n".join(_inline(line[2:]) for line in lines) + "</p>"
    if kind == "image":
        source, _, caption = block[2:].partition(" ")
        return f'<p><img src="{source}" alt="" width="640" height="420"></p>\n<!-- {html.escape(caption)} -->'
    return f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def to_text(blocks: tuple[str, ...]) -> str:
    """The same blocks as a person would copy them: without markup."""
    return "\n".join(_block_to_text(block) for block in blocks if _kind_of_block(block) != "image")


def _block_to_text(block: str) -> str:
    kind = _kind_of_block(block)
    if kind == "code":
        return block[4:]
    if kind == "heading":
        return _plain(block[3:])
    if kind == "table":
        return "\n".join(" | ".join(_plain(cell.strip()) for cell in line.strip("|").split("|"))
                         for line in block.splitlines())  # fmt: skip
    lines = [
        re.sub(r"^(- |[0-9]+[.] |> |~ )", "", line) if kind != "paragraph" else line for line in block.splitlines()
    ]
    return ("\n" if kind in ("list", "numbers", "verse") else " ").join(_plain(line) for line in lines)


def _plain(text: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return re.sub(r"[`*]", "", text)


def gold_of(source: Source) -> Gold:
    parts = [source.title, to_text(source.blocks)]
    parts += [to_text(blocks) for _, _, blocks in source.posts]
    kind = source.options.get("kind") or {"phpbb": "thread", "answers": "thread", "sphinx": "documentation"}.get(
        source.site.template, "article"
    )
    text = "\n".join(part for part in parts if part)
    return Gold(source.url, source.site.name, kind, source.site.language, source.title, text)


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def environment() -> Environment:
    env = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    env.globals["body"] = to_html
    env.filters["date"] = lambda iso, pattern: datetime.fromisoformat(iso).strftime(pattern)
    return env


def render(source: Source, siblings: list[Source], env: Environment) -> bytes:
    """The page's bytes in its site's charset; characters that charset lacks become references."""
    others = [other for other in siblings if other is not source]
    start = _number(source.url) % max(len(others), 1)
    related = (others[start:] + others[:start])[:4]
    declared = source.site.meta_charset or source.site.charset
    page = env.get_template(f"{source.site.template}.html").render(
        page=source, site=source.site, related=related, declared="" if declared == "none" else declared
    )
    return page.encode(source.site.charset, "xmlcharrefreplace")


def capture(source: Source, payload: bytes) -> Capture:
    site = source.site
    content_type = "text/html" + (f"; charset={site.charset}" if site.http_charset else "")
    return answer(source.url, payload, content_type, content_encoding=site.content_encoding, chunked=site.chunked,
                  server=site.server)  # fmt: skip


def answer(
    url: str,
    payload: bytes,
    content_type: str,
    *,
    status: str = "200 OK",
    content_encoding: str = "",
    chunked: bool = False,
    server: str = "nginx",
    location: str = "",
) -> Capture:
    """An HTTP/1.1 answer as a crawler would have stored it: encoded and chunked as the server sent it."""
    fetched = datetime(2024, 11, 2, 6, tzinfo=UTC) + timedelta(seconds=_number(url) % 864_000)
    body = encode_content(payload, content_encoding)
    headers = [("Date", f"{fetched:%a, %d %b %Y %H:%M:%S GMT}"), ("Server", server)]
    if content_type:
        headers.append(("Content-Type", content_type))
    if location:
        headers.append(("Location", location))
    if content_encoding:
        headers.append(("Content-Encoding", content_encoding))
    if chunked:
        headers.append(("Transfer-Encoding", "chunked"))
        body = chunk(body)
    else:
        headers.append(("Content-Length", str(len(body))))
    return Capture(url, status, tuple(headers), body, f"{fetched:%Y-%m-%dT%H:%M:%SZ}")


def encode_content(payload: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.compress(payload, 9, mtime=0)
    if encoding == "br":
        return bytes(brotli.compress(payload, quality=9))
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=12).compress(payload)
    return payload


def chunk(body: bytes, size: int = 4096) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def hostile_pages() -> Iterator[tuple[Capture, Gold]]:
    """Pages that break parsers, budgets or assumptions. Small here, whatever they become when they are read."""
    host = "https://hostile.example"

    def page(path: str, payload: bytes, content_type: str = "text/html; charset=utf-8", text: str = "",
             kind: str = "hostile", **options: Any) -> tuple[Capture, Gold]:  # fmt: skip
        return answer(host + path, payload, content_type, **options), Gold(host + path, "hostile", kind, "en", "", text)

    head = b"<!DOCTYPE html><html><head><title>%b</title></head><body>"
    yield page("/nested", head % b"Nested" + b"<div>" * 60_000 + b"deep" + b"</div>" * 60_000, content_encoding="gzip")
    names = b"".join(b' a%x="%x"' % (number, number) for number in range(10_000))
    yield page("/attributes", head % b"Attributes" + (b"<p" + names + b">x</p>") * 10, content_encoding="zstd")
    yield page("/tables", head % b"Tables" + b"<table><tr><td>" * 8_000, content_encoding="gzip")
    yield page("/bold", head % b"Bold" + b"<b><i><a href=x>" * 20_000 + b"x", content_encoding="gzip")
    yield page("/entities", head % b"Entities" + b"&amp;&notin;&#x110000;&#xD800;&#0;" * 8_000, content_encoding="gzip")
    yield page("/nul", head % b"NUL" + b"<p>A\x00B\x00C</p>\x00" * 500)
    yield page("/comment", head % b"Comment" + b"<!-- " + b"-" * 300_000, content_encoding="gzip")
    yield page("/script", head % b"Script" + b"<script>var s = '<p>' + '</p>';" * 3_000, content_encoding="gzip")
    yield page("/bomb", head % b"Bomb" + b" " * 40_000_000, content_encoding="zstd")
    yield page("/random", hashlib.shake_256(b"random").digest(20_000))
    yield page("/empty", b"", kind="empty")
    yield page("/blank", b"\n\n", "", kind="empty")
    yield page("/shell", head % b"App" + b'<div id="root"></div><script src="/app.js"></script></body></html>',
               kind="empty")  # fmt: skip
    yield page("/lying-gzip", head % b"Not gzip" + b"<p>This body is not compressed, whatever its header says.</p>")
    cut = gzip.compress(head % b"Cut" + b"<p>The rest of this never arrived.</p>" * 200, 9, mtime=0)[:-40]
    fault = answer(host + "/cut", cut, "text/html")
    headers = (*fault.headers, ("Content-Encoding", "gzip"))
    yield replace(fault, headers=headers), Gold(host + "/cut", "hostile", "hostile", "en", "", "")
    yield page("/pdf", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer << /Root 1 0 R >>\n%%EOF\n",
               "application/pdf", kind="not_html")  # fmt: skip
    pixel = base64.b64decode("R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")
    yield page("/photo", pixel, "image/gif", kind="not_html")
    yield page("/data", b'{"not": "a page"}\n', "application/json", kind="not_html")
    yield page("/gone", head % b"Gone" + b"<p>Gone.</p>", status="410 Gone", kind="missing")
    yield page("/missing", head % b"404" + b"<h1>Not found</h1><p>We looked everywhere for this page. It is not here, "
               b"and it may never have been.</p>", status="404 Not Found", kind="missing")  # fmt: skip
    yield page("/error", b"upstream timed out", "text/plain", status="503 Service Unavailable", kind="missing")


def redirects() -> Iterator[Capture]:
    """Links that lead elsewhere: to Wikipedia, to a page of ours, in a circle, to a private address."""
    for path, status, target in (
        ("/tides", "301 Moved Permanently", "https://en.wikipedia.org/wiki/Tide_pool"),
        ("/lighthouse", "302 Found", "https://www.saltmarsh-gazette.example/2014/06/lighthouse-lamp-returns"),
        ("/loop-a", "302 Found", "https://short.example/loop-b"),
        ("/loop-b", "302 Found", "https://short.example/loop-a"),
        ("/inside", "302 Found", "http://192.168.0.1/admin"),
        ("/relative", "307 Temporary Redirect", "/lighthouse"),
    ):
        yield answer("https://short.example" + path, b"", "text/html", status=status, location=target)


def copies(pages: dict[str, tuple[Source, bytes]]) -> Iterator[tuple[Capture, Gold]]:
    """A mirror that serves the Gazette's very bytes, and a wire service's edited versions (content/ledger.txt)."""
    for path in ("/2014/06/lighthouse-lamp-returns", "/2016/02/storm-surge-defences", "/2018/09/last-net-maker"):
        source, payload = pages[f"https://www.saltmarsh-gazette.example{path}"]
        url = f"http://gazette-mirror.example{path}.html"
        yield answer(url, payload, "text/html"), replace(gold_of(source), url=url, site="mirror", kind="duplicate")


def write_warc(captures: list[Capture], stream: BinaryIO) -> None:
    """WARC/1.1 responses; record ids are UUIDs of the URL, since a crawler's random ones would differ every time."""
    writer = WARCWriter(stream, gzip=True, warc_version="1.1")
    info = writer.create_warcinfo_record("pages.warc.gz", {"software": "examples/miniweb/build.py"})
    info.rec_headers.replace_header("WARC-Date", "2024-11-02T00:00:00Z")
    info.rec_headers.replace_header("WARC-Record-ID", _record_id("warcinfo"))
    writer.write_record(info)
    for item in captures:
        http = StatusAndHeaders(item.status, list(item.headers), protocol="HTTP/1.1")
        http.compute_headers_buffer()
        headers = {
            "WARC-Date": item.fetched_at,
            "WARC-Record-ID": _record_id(item.url),
            "WARC-Payload-Digest": _digest(item.body),
            "WARC-Block-Digest": _digest(http.headers_buff + item.body),
        }
        record = writer.create_warc_record(
            item.url, "response", io.BytesIO(item.body), len(item.body), http_headers=http, warc_headers_dict=headers
        )
        writer.write_record(record)


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def _record_id(name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


# ---------------------------------------------------------------------------------------------------------------------
# Submissions


def variants(url: str) -> list[str]:
    """Other spellings of the same page, as people post them."""
    parts = urlsplit(url)
    host, rest = parts.netloc, url[len(parts.scheme) + 3 + len(parts.netloc) :]
    bare = host.removeprefix("www.")
    other = bare if host.startswith("www.") else f"www.{host}"
    port, twin = ("443", "http") if parts.scheme == "https" else ("80", "https")
    more = "&" if parts.query else "?"
    return [
        f"{twin}://{host}{rest}",
        f"{parts.scheme}://{other}{rest}",
        f"{url}{more}utm_source=reddit&utm_medium=social",
        f"{url}{more}fbclid=IwAR0k9aJ2l",
        f"{url}#comments",
        f"{parts.scheme}://{host}:{port}{rest}",
        f"{parts.scheme}://{host}{parts.path}/?{parts.query}".rstrip("?") if not parts.path.endswith("/") else url[:-1],
        f"{parts.scheme}://m.{bare}{rest}",
        f"{parts.scheme}://amp.{bare}{rest}",
        f"{parts.scheme.upper()}://{host.upper()}{rest}",
    ]


def karma(key: str) -> int:
    """Heavy-tailed from 3 up: half of the posts under 10, a few in the thousands."""
    uniform = (_number("karma " + key) % 1_000_000 + 0.5) / 1_000_000
    return int(3 / uniform**1.1) if uniform > 0.0005 else 12_000


def submission(url: str, title: str, subreddit: str, posted: datetime, score: int) -> dict[str, Any]:
    """A line of a dump with the fields that dumps of its month have (2005 to 2024)."""
    month, created = (posted.year, posted.month), int(posted.timestamp())
    key = f"{url} {created}"
    post_id = _base36(_number("id " + key) % (36 ** (5 if posted.year < 2013 else 6)))
    host = urlsplit(url).netloc.lower()
    record: dict[str, Any] = {
        "author": ("tern", "old_kettle", "mudlark77", "[deleted]", "quietgear")[_number("author " + key) % 5],
        "created_utc": str(created) if (2014, 1) <= month <= (2015, 11) else created,
        "domain": host.removeprefix("www."),
        "edited": (False, False, False, float(created + 600), True)[_number("edited " + key) % 5],
        "id": post_id,
        "is_self": False,
        "num_comments": _number("comments " + key) % 400,
        "over_18": False,
        "permalink": f"/r/{subreddit}/comments/{post_id}/",
        "score": None if month in ((2017, 10), (2017, 11)) else score,
        "selftext": "",
        "subreddit": subreddit,
        "title": title,
        "url": url,
    }
    if posted.year not in (2008, 2012):  # some months were never stamped
        record["retrieved_on"] = created + 86_400 * (20 + _number("retrieved " + key) % 200)
    if posted.year < 2015:
        record |= {"ups": score, "downs": 0, "saved": False, "media_embed": {}}
    if month >= (2017, 8):
        record |= {"num_crossposts": 0, "is_crosspostable": True, "author_fullname": "t2_" + _base36(_number(key))[:6]}
    if month >= (2019, 9):
        record |= {"removed_by_category": None, "all_awardings": []}
    if month >= (2020, 5):
        record["url_overridden_by_dest"] = url
    return record


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
        if not number:
            return digits


def posts_of(gold: Gold, date: str, options: dict[str, str], subreddits: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One to three posts of a page: its own URL first, then variants, each a little later."""
    first = datetime.fromisoformat(date).replace(tzinfo=UTC)
    first = max(first, datetime(2005, 6, 24, tzinfo=UTC)) + timedelta(seconds=_number("when " + gold.url) % 864_000)
    title = gold.title or gold.url.rsplit("/", 1)[-1]
    number = int(options.get("posts", 1 + _number("posts " + gold.url) % 3))
    for turn in range(number):
        url = gold.url if turn == 0 else variants(gold.url)[(_number(gold.url) + turn) % 10]
        score = int(options["karma"]) if "karma" in options else karma(f"{gold.url} {turn}")
        posted = first + timedelta(days=turn * (1 + _number(url) % 300))
        subreddit = subreddits[(_number(gold.url) + turn) % len(subreddits)]
        yield submission(url, title, subreddit, min(posted, datetime(2024, 10, 30, tzinfo=UTC)), score)


def dump_lines(pages: list[tuple[Gold, str, dict[str, str], tuple[str, ...]]]) -> tuple[list[bytes], list[bytes]]:
    """Lines of the older and the newer dump, in order of time, with the hand-written ones in their places."""
    old: list[tuple[int, bytes]] = []
    new: list[tuple[int, bytes]] = []
    for gold, date, options, subreddits in pages:
        if options.get("posts") == "0":
            continue
        for record in posts_of(gold, date, options, subreddits):
            line = json.dumps(record, ensure_ascii=_number(record["id"]) % 2 == 0, separators=(",", ":")).encode()
            when = int(record["created_utc"])
            (new if datetime.fromtimestamp(when, UTC).year >= NEW_DUMP_FROM else old).append((when, line))
    for name, lines in (("old", old), ("new", new)):
        last = 0
        for line in (HERE / "posts" / f"{name}.ndjson").read_bytes().splitlines():
            stamp = re.search(rb'"created_utc": ?"?([0-9]+)', line)
            last = int(stamp[1]) if stamp else last  # a damaged line follows the one before it
            lines.append((last, line))
    return [line for _, line in sorted(old, key=lambda item: item[0])], [
        line for _, line in sorted(new, key=lambda item: item[0])
    ]


def compress_like_pushshift(data: bytes) -> bytes:
    """zstd with the 2^31 window of the published dumps: a reader with its default limits must refuse it."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=False, hash_log=17)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


# ---------------------------------------------------------------------------------------------------------------------


def build(directory: Path) -> dict[str, Any]:
    """Write every artefact into `directory` and return the truth about them."""
    env = environment()
    captures: list[Capture] = []
    golds: list[tuple[Gold, str, dict[str, str], tuple[str, ...]]] = []
    pages: dict[str, tuple[Source, bytes]] = {}
    for site in SITES:
        siblings = list(read_sources(site))
        for source in siblings:
            payload = render(source, siblings, env)
            pages[source.url] = (source, payload)
            captures.append(capture(source, payload))
            golds.append((gold_of(source), source.date, source.options, site.subreddits))
    for item, gold in copies(pages):
        captures.append(item)
        golds.append((gold, "2019-03-01", {"posts": "1"}, ("news",)))
    for item, gold in hostile_pages():
        captures.append(item)
        golds.append((gold, "2018-05-05", {"posts": "1", "karma": "9"}, ("InternetIsBeautiful",)))
    for item in redirects():
        captures.append(item)
        gold = Gold(item.url, "short", "redirect", "en", "A short link", "")
        golds.append((gold, "2017-04-01", {"posts": "1", "karma": "21"}, ("todayilearned",)))
    captures.sort(key=lambda item: _number("order " + item.url))

    directory.mkdir(parents=True, exist_ok=True)
    old, new = dump_lines(golds)
    (directory / ARTEFACTS[0]).write_bytes(bz2.compress(b"\n".join(old) + b"\n", 9))
    (directory / ARTEFACTS[1]).write_bytes(compress_like_pushshift(b"\n".join(new) + b"\n"))
    listed = [
        (gold, options)
        for gold, _, options, _ in golds
        if options.get("posts") == "0" or (_number("listed " + gold.url) % 12 == 0 and gold.kind == "article")
    ]
    with (directory / "links.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["url", "title", "karma"])  # a link without karma is free of the karma rule
        writer.writerows((gold.url, gold.title, 25 if options.get("posts") == "0" else "") for gold, options in listed)
    (directory / "removals.txt").write_bytes((HERE / "posts" / "removals.txt").read_bytes())
    with (directory / "pages.warc.gz").open("wb") as stream:
        write_warc(captures, stream)
    with (directory / "gold.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for gold, *_ in golds:
            row = {name: getattr(gold, name) for name in ("url", "site", "kind", "language", "title", "text")}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    truth = {
        "dump_lines": {"old": len(old), "new": len(new)},
        "captures": len(captures),
        "hosts": len({urlsplit(item.url).netloc for item in captures}),
        "listed": len(listed),
        "kinds": dict(sorted(Counter(gold.kind for gold, *_ in golds).items())),
        "languages": dict(sorted(Counter(gold.language for gold, *_ in golds if gold.text).items())),
        "words": sum(len(gold.text.split()) for gold, *_ in golds),
    }
    (directory / "truth.json").write_text(json.dumps(truth, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return truth


def contents(path: Path) -> bytes:
    """What a file holds, without its outer compression: the same for every version of the compressor."""
    data = path.read_bytes()
    openers: dict[str, Callable[[bytes], bytes]] = {
        ".bz2": bz2.decompress,
        ".gz": gzip.decompress,
        ".zst": lambda raw: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj().decompress(raw),
    }
    return openers.get(path.suffix, bytes)(data)


def stale(directory: Path) -> list[str]:
    """Names of the artefacts in `directory` that do not hold what the sources would give now."""
    with tempfile.TemporaryDirectory() as temporary:
        build(Path(temporary))
        return [
            name
            for name in ARTEFACTS
            if not (directory / name).exists() or contents(directory / name) != contents(Path(temporary) / name)
        ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: beside this script)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when an artefact is out of date")
    options = parser.parse_args(arguments)
    if options.check:
        names = stale(options.output)
        for name in names:
            print(f"{options.output / name} is out of date: run {Path(__file__).name}", file=sys.stderr)
        return int(bool(names))
    print(json.dumps(build(options.output), indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
