"""One page's bytes -> its text, in this process; and the loop that a parser child runs.

`extract.py` starts `serve()` in a child process and talks to it; `parse()` is what the child does to a page. This
module imports neither pyarrow nor numba, so that a child starts quickly and stays small; trafilatura, resiliparse and
py3langid are loaded on first use.

- Gates come first and look at bytes alone, so that what they refuse is the same on every machine: size, number of "<",
  length of the longest tag, number of its attributes. They bound what the libraries behind them can be made to do. In
  tags that are too long, long attribute values are emptied first (images in the page, a forum's preloaded data).
- We decode, by the order written at `decode`. We parse, with libxml2's `huge_tree`, because without it text nodes over
  10 MB and depth over 256 are cut silently; where libxml2 still reports a limit the page is dropped and said so.
- trafilatura gets the tree, with `deduplicate=False` always: its duplicate test remembers earlier pages, and the text
  of a page must not depend on what came before it.
- Text is inert: "<|endoftext|>" in a page stays those thirteen characters; the tokenizer has to keep it so.
- Language is py3langid's, on at most 2,000 characters (half from the start, half from the middle), with a probability;
  "und" for texts with under 20 letters.
- Time is limited by the kernel, per page: ITIMER_PROF (CPU) and ITIMER_REAL (wall) with their default action, which is
  death of the process. That needs no cooperation from a library that loops in C.
- The child's answers are msgpack decoded to declared types: a parser that hostile bytes took over can give wrong text,
  and nothing else, to its parent.
"""

from __future__ import annotations

import codecs
import functools
import importlib.metadata
import itertools
import logging
import os
import queue
import re
import resource
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from webtext.pii import count_pii, replace_pii

MAX_FRAME_BYTES = 1 << 30
MAX_ATTRIBUTES = 250  # of a tag; the most on 1,490 real pages is under 70
MAX_UNCHECKED_TAGS = 5_000
LANGUAGE_SAMPLE_CHARACTERS = 2_000
LANGUAGE_MIN_LETTERS = 20
WALL_FACTOR = 4.0  # the clock's limit, in CPU limits: a busy machine must not cost pages
EARLIEST_DATE = "1995-01-01"  # htmldate's: before it, a date on a page is not the page's


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """Section [extract]: what becomes of a page, and what it may cost."""

    extractor: Literal["trafilatura", "resiliparse"] = field(
        default="trafilatura", metadata={"help": "trafilatura (better text) or resiliparse (about ten times faster)"}
    )
    fast: bool = field(default=False, metadata={"help": "trafilatura without its fallback extractors: a third faster"})
    focus: Literal["balanced", "precision", "recall"] = field(
        default="balanced", metadata={"help": "trafilatura: less but surer text, balanced, or more text"}
    )
    comments: bool = field(default=False, metadata={"help": "readers' comments are part of the text"})
    tables: bool = field(default=True, metadata={"help": "tables are part of the text"})
    links: bool = field(default=False, metadata={"help": "keep the targets of links in the text"})
    plain_text: bool = field(default=True, metadata={"help": "take text/plain pages as they are; false drops them"})
    replace_pii: bool = field(
        default=False, metadata={"help": "replace e-mail addresses, public IPv4 addresses and phone numbers"}
    )
    max_bytes: int = field(default=5_000_000, metadata={"help": "a page of more bytes is dropped"})
    max_tags: int = field(default=50_000, metadata={"help": "a page with more '<' is dropped"})
    max_tag_bytes: int = field(default=32_768, metadata={"help": "a page with a longer tag is dropped"})
    max_text_bytes: int = field(default=2_000_000, metadata={"help": "a text of more bytes is dropped"})
    timeout_seconds: float = field(
        default=20.0,
        metadata={"help": "CPU time for one page, four times that on the clock; one retry with 3x", "bytes": False},
    )
    memory_bytes: int = field(
        default=4_000_000_000, metadata={"help": "address space of a parser process (0: no limit)", "bytes": False}
    )
    recycle_pages: int = field(
        default=5_000, metadata={"help": "a parser process is renewed after so many", "bytes": False}
    )
    recycle_bytes: int = field(
        default=1_000_000_000,
        metadata={"help": "a parser process is renewed when it holds so much memory", "bytes": False},
    )

    def __post_init__(self) -> None:
        for name in (
            "max_bytes",
            "max_tags",
            "max_tag_bytes",
            "max_text_bytes",
            "timeout_seconds",
            "recycle_pages",
            "recycle_bytes",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"[extract] {name}: expected more than 0, got {getattr(self, name)}; raise it or remove the line"
                )
        if self.memory_bytes and self.memory_bytes < 500_000_000:
            raise ValueError(
                f"[extract] memory_bytes: expected 0 (no limit) or at least 500000000, got {self.memory_bytes}; "
                "the libraries alone take 300 MB of address space"
            )


class Job(msgspec.Struct, array_like=True):
    """A page on its way to the child."""

    number: int  # running, in the order of the answers
    url: str
    content_type: str
    payload: bytes
    fetched_at: int
    patience: float = 1.0  # times the time limit


class Parsed(msgspec.Struct, array_like=True):
    """The child's answer: text, or a reason why there is none."""

    number: int
    text: str = ""
    title: str | None = None
    date: str | None = None
    language: str = "und"
    language_score: float = 0.0
    reason: str | None = None
    detail: str | None = None
    emails: int = 0
    ips: int = 0
    phones: int = 0
    rss_bytes: int = 0


class Refused(Exception):  # noqa: N818
    """The page gives no text: `reason` is a stable word, `detail` what was measured."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@functools.cache
def extractor_version(settings: ExtractSettings) -> str:
    """What `Document.extractor` says of a page's text, e.g. "trafilatura 2.3.1"."""
    return f"{settings.extractor} {importlib.metadata.version(settings.extractor)}"


def parse(job: Job, settings: ExtractSettings) -> Parsed:
    """The text of one page, or the reason why there is none. Pure: the same job and settings give the same answer."""
    try:
        return _parse(job, settings)
    except Refused as refused:
        return Parsed(job.number, reason=refused.reason, detail=refused.detail)
    except MemoryError:
        raise
    except Exception as error:  # a library's bug costs this page; the type alone, since messages may hold addresses
        return Parsed(job.number, reason="extractor_error", detail=type(error).__name__)


def _parse(job: Job, settings: ExtractSettings) -> Parsed:
    kind = page_kind(job.content_type, job.payload)
    if kind == "other" or (kind == "text" and not settings.plain_text):
        raise Refused("not_html", job.content_type.split(";")[0].strip().lower()[:100] or "no Content-Type")
    payload = gated(job.payload, settings) if kind == "html" else job.payload
    if kind == "text" and len(payload) > settings.max_bytes:
        raise Refused("too_large", f"{len(payload)} bytes > {settings.max_bytes}")
    html, replaced = decode(payload, job.content_type)
    if replaced > 0.02:
        raise Refused("undecodable", f"{replaced:.1%} of the characters > 2%")
    latest = datetime.fromtimestamp(job.fetched_at, UTC).date().isoformat()
    if kind == "text":
        text, title, day = html, None, None
    else:
        metas = page_metas(html)
        title, day = page_title(html, metas), page_date(html, metas, job.url, latest)
        text = (
            _trafilatura(html_tree(html), settings)
            if settings.extractor == "trafilatura"
            else _resiliparse(html, settings)
        )
        if "¶" in text:
            text = _PERMALINKS.sub("", text)
    text = clean_text(text)
    if not text:
        raise Refused("no_text")
    num_bytes = len(text.encode())
    if num_bytes > settings.max_text_bytes:
        raise Refused("text_too_large", f"{num_bytes} bytes > {settings.max_text_bytes}")
    if settings.replace_pii:
        text, pii = replace_pii(text)
    else:
        pii = count_pii(text)
    language, score = detect_language(text)
    return Parsed(
        job.number,
        text=text,
        title=title,
        date=day,
        language=language,
        language_score=score,
        emails=pii.emails,
        ips=pii.ips,
        phones=pii.phones,
    )


_PERMALINKS = re.compile(r"(?<=\S)[ \xa0]?¶(?=[ \xa0]*$)", re.MULTILINE)  # links to the heading that they end

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml", "text/xhtml"})
_UNSURE_TYPES = frozenset({"", "application/octet-stream", "unknown/unknown", "application/unknown", "*/*", "text"})
_BINARY = (
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"RIFF",
    b"OggS",
    b"\x7fELF",
    b"BZh",
    b"Rar!",
)
_LOOKS_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|style|table|div|p|h1|a|br|font|center|iframe)[\s>/]",
    re.IGNORECASE,
)


def page_kind(content_type: str, payload: bytes) -> Literal["html", "text", "other"]:
    """What a payload is to be read as: by its first bytes where they are a known binary format, then by its header, and
    by its look where the header says nothing (a small part of https://mimesniff.spec.whatwg.org)."""
    start = payload[:2048]
    if start.lstrip()[:8].startswith(_BINARY) or start[4:8] == b"ftyp":
        return "other"
    kind = content_type.split(";")[0].strip().lower()
    if kind in _HTML_TYPES:
        return "html"
    looks_html = _LOOKS_HTML.search(start) is not None
    if kind == "text/plain":  # a page sent as plain text is one that no browser shows as a page; its author meant one
        return (
            "html"
            if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html"))
            else "text"
        )
    if kind.endswith(("/xml", "+xml")):
        return "html" if re.search(rb"<html[\s>]", start, re.IGNORECASE) else "other"
    if kind in _UNSURE_TYPES:
        if looks_html:
            return "html"
        if not start.strip() or start.lstrip()[:1] in (b"{", b"[") or start.lstrip().startswith(b"<?xml"):
            return "other"
        return "text" if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", start) else "other"
    return "other"


# A value that no layout needs: an image written into the page, a forum's preloaded data. Up to its end or to a ">".
_LONG_VALUE = re.compile(rb"([\"'])[^\"'>]{2048,}+")


def gated(payload: bytes, settings: ExtractSettings) -> bytes:
    """`payload` if it passes the gates, with the longest attribute values emptied; raises Refused if it does not."""
    if len(payload) > settings.max_bytes:
        raise Refused("too_large", f"{len(payload)} bytes > {settings.max_bytes}")
    tags = payload.count(b"<")
    if tags > settings.max_tags:
        raise Refused("too_many_tags", f"{tags} tags > {settings.max_tags}")
    # No tag can be longer than what lies between two ">".
    suspicious = max(map(len, payload.split(b">"))) >= settings.max_tag_bytes or _MANY_ATTRIBUTES.search(payload)
    return _gated_tags(payload, settings) if suspicious else payload


def _gated_tags(payload: bytes, settings: ExtractSettings) -> bytes:
    pieces, position = [], 0
    for start, end in tags_in(payload):
        tag = payload[start:end]
        if len(tag) > settings.max_tag_bytes:
            tag = _LONG_VALUE.sub(rb"\1", tag)
            if len(tag) > settings.max_tag_bytes:
                raise Refused("tag_too_long", f"{len(tag)} bytes > {settings.max_tag_bytes}")
            pieces += [payload[position:start], tag]
            position = end
        # libxml2 compares each attribute of a tag with those before it: long rows of them take quadratic time.
        if len(tag) > 2 * MAX_ATTRIBUTES:
            attributes = len(_QUOTED.sub(b"", tag).replace(b"/", b" ").split()) - 1
            if attributes > MAX_ATTRIBUTES:
                raise Refused("too_many_attributes", f"{attributes} in a tag > {MAX_ATTRIBUTES}")
    return b"".join([*pieces, payload[position:]])


_TAG_OPEN = re.compile(
    rb"<(?:(!--)|(script|style|textarea|title|xmp|iframe|noframes)(?=[\s/>])|[a-z/!?])", re.IGNORECASE
)


_ATTRIBUTE_ROW = rb"(?:[\s/]++[^\s\"'<>=]++(?:\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s\"'<>]++))?+)"
_MANY_ATTRIBUTES = re.compile(rb"<[a-zA-Z][a-zA-Z0-9:-]{0,30}+" + _ATTRIBUTE_ROW + b"{%d}" % (MAX_ATTRIBUTES + 1))
_QUOTED = re.compile(rb"\"[^\"]*+\"|'[^']*+'")


def tags_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each tag, comments and the content of raw text elements (scripts, styles) left out. Linear."""
    lowered = payload.lower()
    position = 0
    absent: set[bytes] = set()  # ends that no longer occur: looking for them again would cost quadratic time

    def after(closing: bytes, start: int) -> int:
        found = lowered.find(closing, start) if closing not in absent else -1
        if found < 0:
            absent.add(closing)
        return found

    while (match := _TAG_OPEN.search(lowered, position)) is not None:
        if match.group(1):  # a comment; libxml2 gives up one that has no end: what follows counts as markup
            position = max(after(b"-->", match.end()), match.end())
            continue
        end = after(b">", match.end()) + 1 or len(payload)
        yield match.start(), end
        position = end
        if match.group(2):
            position = max(after(b"</" + match.group(2), end), end)


_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:()-]{1,40})", re.IGNORECASE)
_META_CHARSET = re.compile(
    rb"<meta\b[^>]{0,1000}?charset\s{0,10}=\s{0,10}[\"']?\s{0,10}([\w.:()-]{1,40})|<\?xml[^>]{1,200}?encoding\s{0,10}=\s{0,10}[\"']([\w.:()-]{1,40})",
    re.IGNORECASE,
)
# WHATWG's names for larger sets than Python's codecs of the same name.
_LARGER_CODEC = {
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "big5": "big5hkscs",
    "iso-8859-8-i": "iso-8859-8",
}
# Not in the web's standard, but on the web.
_BEYOND_WHATWG = {
    "iso-2022-kr": "iso2022_kr",
    "johab": "johab",
    "euc-tw": "",
    "hz-gb-2312": "hz",
    "utf-32": "utf-32",
    "x-mac-cyrillic": "mac_cyrillic",
}
# Python's codecs are more than charsets (idna, unicode_escape, base64, utf-7): these families alone.
_CHARSETS = re.compile(r"(?:utf-(?:8|16|32)|ascii|cp\d|iso|koi8|mac|big5|gb|euc|shift|johab|hz|tis|ptcp|kz1048|hp)")
_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def decode(payload: bytes, content_type: str = "") -> tuple[str, float]:
    """The characters of `payload`, and the share of them that could not be read (U+FFFD).

    The first that applies:

    1. a byte order mark (UTF-8, UTF-16, UTF-32);
    2. ISO-2022 by declaration and escape sequence (seven-bit text that would pass for ASCII);
    3. zeros where UTF-16 or UTF-32 have them;
    4. UTF-8, if every byte is valid: other encodings hardly ever are, and headers lie more often;
    5. UTF-8 with errors, if ten valid sequences stand against each invalid one: a cut or mixed page;
    6. the charset of the Content-Type header, the one in the page (first 4,096 bytes), the one uchardet detects
       (through resiliparse): the first under which at most 1 character in 1,000 is unreadable, but if header and page
       contradict each other, the one which the detector holds with. WHATWG's aliases apply: iso-8859-1 is
       windows-1252;
    7. the best of these.
    """
    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if payload.startswith(mark):
            return _decoded(payload[len(mark) :], codec)
    declared = [match.group(1) for match in [_HEADER_CHARSET.search(content_type)] if match]
    if meta := _META_CHARSET.search(payload[:4096]):
        declared.append((meta.group(1) or meta.group(2)).decode("ascii", "replace"))
    if b"\x1b" in payload and payload.isascii():
        for label in [*declared, "iso-2022-jp", "iso-2022-kr"]:
            codec = _codec(label)
            if codec.startswith("iso2022") and (escaped := _decoded(payload, codec))[1] == 0.0:
                return escaped
    if wide := _zeros(payload[:4096]):
        return _decoded(payload, wide)
    try:
        return payload.decode("utf-8"), 0.0
    except UnicodeDecodeError:
        text, replaced = _decoded(payload, "utf-8")
        if len(_MULTIBYTE.findall(payload)) > 10 * text.count("\ufffd"):
            return text, replaced
    from resiliparse.parse.encoding import detect_encoding

    detected = _codec(detect_encoding(payload, html5_compatible=False) or "") or "cp1252"
    candidates = [
        codec for codec in dict.fromkeys(map(_codec, declared)) if codec and not codec.startswith(("utf", "ascii"))
    ]
    if len(candidates) == 2 and detected == candidates[1]:
        candidates.reverse()
    best: tuple[str, float] | None = None
    for codec in dict.fromkeys([*candidates, detected, "cp1252"]):
        found = _decoded(payload, codec)
        if found[1] <= 0.001:
            return found
        if best is None or found[1] < best[1]:
            best = found
    assert best is not None
    return best


def _codec(label: str) -> str:
    """Python's name of the codec for a label of the web; "" if there is none."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    label = label.strip().lower()
    name = (
        _BEYOND_WHATWG.get(label)
        if label in _BEYOND_WHATWG
        else map_encoding_to_html5(label, fallback_utf8=False) or label
    )
    name = _LARGER_CODEC.get((name or "").lower(), name or "")
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return ""
    return info.name if _CHARSETS.match(info.name) else ""


def _decoded(payload: bytes, codec: str) -> tuple[str, float]:
    text = payload.decode(codec, "replace")
    return text, text.count("\ufffd") / max(1, len(text))


def _zeros(start: bytes) -> str:
    """UTF-16 or UTF-32 without a mark, told from where the zeros of its ASCII characters stand; "" if neither."""
    if len(start) < 8 or start.count(0) < len(start) // 5:
        return ""
    size = len(start) // 4
    zeros = [start[offset::4].count(0) / size for offset in range(4)]
    if zeros[3] > 0.9 and zeros[2] > 0.9 and zeros[0] < 0.2:
        return "utf-32-le"
    if zeros[0] > 0.9 and zeros[1] > 0.9 and zeros[3] < 0.2:
        return "utf-32-be"
    if zeros[1] + zeros[3] > 4 * (zeros[0] + zeros[2]):
        return "utf-16-le"
    if zeros[0] + zeros[2] > 4 * (zeros[1] + zeros[3]):
        return "utf-16-be"
    return ""


_INVALID_BYTES = bytes([*range(9), 0x0B, *range(0x0E, 0x20)])  # what XML 1.0 has no place for

_INVALID_REFERENCE = re.compile(r"&#(?:[xX]0{0,4}[fF]{3}[eEfF]|0{0,4}6553[45]);?")


def html_tree(html: str) -> Any:
    """The page as libxml2 reads it (an lxml.html element named html). Raises Refused where there is no page to read, or
    where libxml2 stopped at one of its limits."""
    from lxml import etree
    from lxml.html import HTMLParser, document_fromstring

    html = _INVALID_REFERENCE.sub("", html)
    if "\ufffe" in html or "\uffff" in html:
        html = html.replace("\ufffe", "").replace("\uffff", "")
    payload = html.encode("utf-8", "replace").translate(None, _INVALID_BYTES)
    if not payload.strip():
        raise Refused("empty")
    parser = HTMLParser(
        collect_ids=False,
        default_doctype=False,
        encoding="utf-8",
        remove_comments=True,
        remove_pis=True,
        huge_tree=True,
    )
    try:
        tree = document_fromstring(payload, parser=parser)
    except etree.ParserError:  # no element in it
        raise Refused("empty") from None
    except etree.XMLSyntaxError as error:
        raise Refused("unparsable", str(error.code)) from None
    for entry in parser.error_log:
        if entry.type == etree.ErrorTypes.ERR_NO_MEMORY:
            raise MemoryError
        if entry.type_name in _LIMITS or "Excessive depth" in entry.message or "huge" in entry.message:
            raise Refused("parse_limit", entry.type_name)
    return tree


_LIMITS = frozenset({"ERR_RESOURCE_LIMIT", "ERR_NAME_TOO_LONG", "ERR_ENTITY_LOOP"})

# Two spellings each instead of IGNORECASE, which would cost these searches their literal start and ten times the time.
_META_TAG = re.compile(r"<(?:meta|META)\b([^>]{1,2000})>")
_ATTRIBUTE = re.compile(r"([\w:.-]{1,40})\s{0,5}=\s{0,5}(?:\"([^\"]{0,1500})\"|'([^']{0,1500})'|([^\s\"'>]{1,500}))")
_TITLE_TAG = re.compile(r"<(?:title|TITLE|Title)\b[^>]{0,200}>([^<]{1,2000})")
_HEAD_CHARACTERS = 200_000


def page_title(html: str, metas: Mapping[str, str]) -> str | None:
    """What the page calls itself: og:title, else twitter:title, else <title>; without the site's name, where
    og:site_name says what that is, or where the rest is a heading of the page."""
    title = metas.get("og:title") or metas.get("twitter:title") or ""
    if not title and (match := _TITLE_TAG.search(html[:_HEAD_CHARACTERS])):
        title = match.group(1)
    title = one_line(title)
    site = one_line(metas.get("og:site_name") or metas.get("application-name") or "")
    for separator in _TITLE_SEPARATORS:
        if site and title.endswith(separator + site):
            title = title[: -len(separator + site)]
    if any(separator in title for separator in _TITLE_SEPARATORS):
        title = _heading_in(title, html) or title
    return title[:500].strip() or None


_TITLE_SEPARATORS = (" | ", " - ", " – ", " — ", " :: ", " · ", " » ", " « ")
_HEADING_TAG = re.compile(r"<[hH][12]\b[^>]{0,500}>((?:[^<]|<(?!/[hH][12])){1,1000})</[hH][12]")
_ANY_TAG = re.compile(r"<[^>]{0,1000}>")


def _heading_in(title: str, html: str) -> str | None:
    """The heading of the page that stands before the site's name in `title`, or else after it. A heading that is a link
    does not count there: it is the site's own name, at the top of each of its pages."""
    found = [match.group(1) for match in itertools.islice(_HEADING_TAG.finditer(html), 10)]
    headings = [(one_line(_ANY_TAG.sub("", markup)), "<a" in markup) for markup in found]
    for heading, _ in headings:
        if heading and title.startswith(tuple(heading + separator for separator in _TITLE_SEPARATORS)):
            return heading
    for heading, linked in headings:
        if heading and not linked and title.endswith(tuple(separator + heading for separator in _TITLE_SEPARATORS)):
            return heading
    return None


def page_metas(html: str) -> dict[str, str]:
    """Content of the page's first <meta> of each name, property or itemprop, in lower case."""
    found: dict[str, str] = {}
    for tag in _META_TAG.finditer(html[:_HEAD_CHARACTERS]):
        attributes = {name.lower(): a or b or c for name, a, b, c in _ATTRIBUTE.findall(tag.group(1))}
        content = attributes.get("content")
        if content:
            for key in ("property", "name", "itemprop"):
                if key in attributes:
                    found.setdefault(attributes[key].lower(), content)
    return found


def one_line(text: str) -> str:
    """`text` with HTML entities resolved, cleaned, on one line."""
    from html import unescape

    return " ".join(clean_text(unescape(text)).split())


_DATE_METAS = (
    "article:published_time", "og:published_time", "datepublished", "dc.date.issued", "dcterms.created", "dc.date",
    "dcterms.date", "citation_publication_date", "citation_date", "date", "pubdate", "publishdate", "publish_date",
    "parsely-pub-date", "sailthru.date", "datecreated",
)  # fmt: skip
_JSON_DATE = re.compile(r'"(?:datePublished|dateCreated|uploadDate)"\s{0,9}:\s{0,9}"(\d{4}-\d\d-\d\d)')
_ITEMPROP_DATE = re.compile(
    r"itemprop\s{0,5}=\s{0,5}[\"']?datePublished[\"']?[^>]{0,200}?(?:content|datetime)\s{0,5}=\s{0,5}[\"']?(\d{4}-\d\d-\d\d)"
)
_TIME_TAG = re.compile(r"<(?:time|TIME|abbr)\b[^>]{0,300}?(?:datetime|title)\s{0,5}=\s{0,5}[\"']?(\d{4}-\d\d-\d\d)")
_URL_DATE = re.compile(r"/((?:19|20)\d\d)[/_-](\d\d?)[/_-](\d\d?)(?=[/_.-]|$)")
_ISO_DATE = re.compile(r"(\d{4})[-/.](\d\d)[-/.](\d\d)")


def page_date(html: str, metas: Mapping[str, str], url: str, latest: str) -> str | None:
    """The day of publication, as YYYY-MM-DD, if the page states it in a machine-readable place; else None.

    In this order: meta elements, JSON-LD, microdata, the path of the URL, the first <time>. Days before 1995 or after
    `latest` (the day of the capture, so that the answer does not change with the clock) are not believed.
    """
    stated = [metas[name] for name in _DATE_METAS if name in metas]
    for word, pattern in (('"date', _JSON_DATE), ("datePublished", _ITEMPROP_DATE)):
        if word in html and (match := pattern.search(html)):
            stated.append(match.group(1))
    if match := _URL_DATE.search(url):
        stated.append(f"{match.group(1)}-{int(match.group(2)):02d}-{int(match.group(3)):02d}")
    if match := _TIME_TAG.search(html):
        stated.append(match.group(1))
    for value in stated:
        if (match := _ISO_DATE.search(value)) is None:
            continue
        day = "-".join(match.groups())
        try:
            date.fromisoformat(day)
        except ValueError:
            continue
        if EARLIEST_DATE <= day <= latest:
            return day
    return None


_BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "div", "ul", "ol", "dl", "blockquote", "pre"})
_TABLE_PARTS = ("table", "caption", "thead", "th", "tbody", "tfoot", "tr", "td", *sorted(_BLOCKS))
MAX_NESTED_TABLES = 30
PROSE_CHARACTERS = 300


def unwrap_layout_tables(tree: Any) -> None:
    """Make divisions of the tables that only place things on the page, as HTML 4 sites did; in place.

    trafilatura writes every table as rows of cells, so that such a page comes out as "| menu | article |" on one line.
    A table is layout if its role says so, or if it names no column (th, thead, caption) and holds what data hardly ever
    does: another table, or a cell with half of all its text that is divided into blocks or as long as a paragraph.
    """
    from lxml.etree import iterwalk

    if tree.find(".//table") is None:
        return
    open_tables: list[_Table] = []
    layout: list[_Table] = []
    for event, element in iterwalk(tree, events=("start", "end"), tag=_TABLE_PARTS):
        tag = element.tag
        if tag == "table":
            if event == "start":
                if open_tables:
                    open_tables[-1].nests = True
                open_tables.append(_Table([element]))
            elif (table := open_tables.pop()).is_layout() and len(open_tables) < MAX_NESTED_TABLES:
                layout.append(table)
        elif not open_tables:
            continue
        elif event == "start":
            if tag in _BLOCKS:
                open_tables[-1].blocks += 1
            elif tag in ("caption", "thead", "th"):
                open_tables[-1].named = True
            else:
                open_tables[-1].parts.append(element)
        elif tag == "td" and len(open_tables) < MAX_NESTED_TABLES:  # a limit, since text counts once for each
            open_tables[-1].end_cell(element, len("".join(element.itertext())))
    for table in layout:
        for part in table.parts:
            part.tag = "div"
        for cell in table.prose:
            cell.tag = "p"


@dataclass(slots=True)
class _Table:
    """What is known of a table at its end tag; tables inside it count for themselves."""

    parts: list[Any]  # it, its rows, its cells
    prose: list[Any] = field(default_factory=list)  # cells of text without blocks
    named: bool = False
    nests: bool = False
    blocks: int = 0  # since the last cell ended
    characters: int = 0
    largest: int = 0  # characters of the largest cell
    divided: bool = False  # the largest cell holds blocks

    def end_cell(self, cell: Any, characters: int) -> None:
        if characters > self.largest:
            self.largest, self.divided = characters, self.blocks > 1
        if characters >= PROSE_CHARACTERS and not self.blocks and not self.nests:
            self.prose.append(cell)
        self.characters += characters
        self.blocks = 0

    def is_layout(self) -> bool:
        if self.parts[0].get("role") in ("presentation", "none"):
            return True
        main = self.largest > self.characters / 2 and (self.divided or self.largest >= PROSE_CHARACTERS)
        return not self.named and (self.nests or main)


def _trafilatura(tree: Any, settings: ExtractSettings) -> str:
    from trafilatura.core import bare_extraction
    from trafilatura.settings import Extractor

    unwrap_layout_tables(tree)
    for script in tree.iterfind('.//script[@type="application/ld+json"]'):
        # trafilatura looks for forums here, with a pattern that is quadratic in the number of types.
        if script.text and script.text.count('"@type"') * len(script.text) > 100_000_000:
            script.text = None
    options = Extractor(
        output_format="python",
        fast=settings.fast,
        precision=settings.focus == "precision",
        recall=settings.focus == "recall",
        comments=settings.comments,
        tables=settings.tables,
        links=settings.links,
        dedup=False,
        date_params={"max_date": EARLIEST_DATE},  # not used without metadata; the default asks the clock
    )
    document: Any = bare_extraction(tree, options=options)
    if document is None:
        return ""
    return f"{document.text or ''}\n{document.comments or ''}" if settings.comments else document.text or ""


def _resiliparse(html: str, settings: ExtractSettings) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    if html.count("<") > MAX_UNCHECKED_TAGS:
        html_tree(html)  # refuses what is too deep: this extractor's time is quadratic in depth (50,000 divs: 110 s)
    text: str = extract_plain_text(
        html,
        preserve_formatting=True,
        main_content=True,
        list_bullets=True,
        alt_texts=False,
        links=settings.links,
        comments=settings.comments,
        skip_elements=None if settings.tables else ["table"],
    )
    return text


_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Control characters but tab and line feed, soft hyphen, zero width space, word joiner, byte order mark, interlinear and
# object marks, non-characters, lone surrogates, private use (icon fonts). Joiners stay: scripts and emoji need them.
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ufff9-\ufffc\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\ue000-\uf8ff"
    "\U000f0000-\U0010ffff]"
)
_SPACES = re.compile("[\xa0\u2000-\u200a\u202f\u205f]")
_BLANK_LINES = re.compile("\n{3,}")


def clean_text(text: str) -> str:
    """`text` in the one form that documents have.

    - Unicode NFC; lines end in "\\n", not in spaces; at most one blank line in a row, none at the ends;
    - every kind of space but tab and the ideographic one is U+0020;
    - no control, zero-width space, soft hyphen, private-use, non-character or lone surrogate.
    Nothing else is changed: quotes, dashes, case, and what looks like a tokenizer's control token stay as they are.

    >>> clean_text("Caf\\u0065\\u0301\\xa0au\\xad lait \\r\\n\\n\\n\\n<|endoftext|>\\x00")
    'Café au lait\\n\\n<|endoftext|>'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        text = _SPACES.sub(" ", text)
    text = _REMOVED.sub("", _LINE_ENDS.sub("\n", text))
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n", text).strip()


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639-1 code and probability, by py3langid; ("und", 0.0) for texts with under 20 letters."""
    if len(text) > LANGUAGE_SAMPLE_CHARACTERS:
        half = LANGUAGE_SAMPLE_CHARACTERS // 2
        middle = (len(text) - half) // 2
        text = f"{text[:half]}\n{text[max(half, middle) : max(half, middle) + half]}"
    if sum(map(str.isalpha, text)) < LANGUAGE_MIN_LETTERS:
        return "und", 0.0
    language, score = _identifier().classify(text)
    return (str(language), round(float(score), 4)) if language else ("und", 0.0)


# --- the child ---

MEMORY_EXIT_STATUS = 77
_PR_SET_PDEATHSIG = 1


class Hello(msgspec.Struct, array_like=True):
    """First message to a child."""

    settings: ExtractSettings
    parent_pid: int


def load(settings: ExtractSettings) -> None:
    """Load what parse() needs, before any clock runs or limit holds."""
    detect_language("The libraries and the model are loaded before any clock runs or limit holds.")
    if settings.extractor == "trafilatura":
        import trafilatura.core  # noqa: F401


def serve(
    parse: Callable[[Job, ExtractSettings], Parsed] = parse, *, load: Callable[[ExtractSettings], None] = load
) -> None:
    """Answer the jobs that come in on descriptor 0 on descriptor 1, until there are no more. Never returns.

    Messages are frames: eight bytes of length, then msgpack. In: a Hello, then lists of jobs. Out: an empty frame when
    ready, then one Parsed a job, in order.
    """
    inbox, outbox = os.fdopen(os.dup(0), "rb", 1 << 16), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # a library that prints must not break the frames
    first = read_frame(inbox)
    if first is None:
        os._exit(0)
    hello = msgspec.msgpack.decode(first, type=Hello)
    _die_with(hello.parent_pid)
    settings = hello.settings
    logging.disable(logging.CRITICAL)
    load(settings)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (settings.memory_bytes, settings.memory_bytes))
    for signum in (signal.SIGPROF, signal.SIGALRM, signal.SIGSEGV, signal.SIGABRT):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF, signal.SIGALRM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the parent decides
    batches: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
    # Read ahead in a thread: the parent never waits for this process to take a batch, parsing never for input.
    threading.Thread(target=_read_ahead, args=(inbox, batches), daemon=True).start()
    encoder = msgspec.msgpack.Encoder()
    os.write(outbox, bytes(8))
    while (batch := batches.get()) is not None:
        for job in batch:
            seconds = settings.timeout_seconds * job.patience
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds)
            try:
                answer = encoder.encode(_with_rss(parse(job, settings)))
            except MemoryError:
                os._exit(MEMORY_EXIT_STATUS)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            write_all(outbox, len(answer).to_bytes(8, "little") + answer)
        del batch, job
    os._exit(0)  # no atexit work of libraries: there is nothing to save


def _with_rss(parsed: Parsed) -> Parsed:
    parsed.rss_bytes = int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    return parsed


def _read_ahead(inbox: BinaryIO, batches: queue.SimpleQueue[list[Job] | None]) -> None:
    decoder = msgspec.msgpack.Decoder(list[Job])
    while (frame := read_frame(inbox)) is not None:
        batches.put(decoder.decode(frame))
    batches.put(None)


def _die_with(parent_pid: int) -> None:
    """SIGKILL for this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def read_frame(file: BinaryIO) -> bytes | None:
    """The next frame, None at the end; a frame that is cut off counts as the end."""
    header = file.read(8)
    if len(header) < 8:
        return None
    size = int.from_bytes(header, "little")
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got one of {size}")
    frame = file.read(size)
    return frame if len(frame) == size else None


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however small the pieces that the pipe takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
