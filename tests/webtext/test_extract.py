"""What becomes of pages, and what pages cannot do to the process that reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from helpers.hostile import families

from webtext import extract
from webtext.extract import Extraction, ExtractSettings, Killed, append_killed, extract_pages, read_killed
from webtext.parser import (
    Job,
    Parsed,
    Refused,
    clean_text,
    decode,
    detect_language,
    gated,
    html_tree,
    page_kind,
    page_metas,
    page_title,
    parse,
    unwrap_layout_tables,
)
from webtext.records import Page

SETTINGS = ExtractSettings()
CAPTURED = 1_500_000_000  # 2017-07-14
ARTICLE = (
    "<!DOCTYPE html><html><head><title>Tides | The Harbour Post</title>"
    '<meta property="og:site_name" content="The Harbour Post"><meta name="date" content="2016-03-04T10:00:00Z"></head>'
    "<body><nav><a href='/'>Home</a> <a href='/about'>About</a></nav><article><h1>Tides</h1>"
    "<p>The tide in the harbour rises twice a day, and the boats that lie on the mud in the morning float at noon.</p>"
    "<p>Fishermen have kept tables of it for centuries; the oldest that is left was written by a monk in the abbey.</p>"
    "<p>Whoever wants to cross the bay on foot asks at the harbour master's office, and listens to the answer.</p>"
    "</article><footer>Imprint and privacy</footer></body></html>"
)


def page(
    payload: bytes | str, content_type: str = "text/html; charset=utf-8", url: str = "http://example.org/a"
) -> Page:
    data = payload.encode() if isinstance(payload, str) else payload
    digest = hashlib.sha256(data).hexdigest()
    return Page(digest[:32], url, url, content_type, data, digest, CAPTURED)


def run(
    pages: Iterable[Page], settings: ExtractSettings = SETTINGS, command: Sequence[str] = extract.CHILD_COMMAND
) -> list[Extraction]:
    return list(extract_pages(pages, settings, command=command))


def child(parse: str) -> tuple[str, ...]:
    """Command of a parser child whose `parse(job, settings)` has this body. `real` stands for the true parse: it takes
    the page as its text, and a child that needs no libraries starts in a tenth of the time."""
    code = "import ctypes, os, signal, time\nfrom webtext.parser import Parsed, serve\n"
    code += "def real(job, settings):\n    return Parsed(job.number, text=job.payload.decode())\n"
    code += "def parse(job, settings):\n" + textwrap.indent(textwrap.dedent(parse), "    ")
    return (sys.executable, "-c", code + "\nserve(parse, load=lambda settings: None)\n")


ECHO = child("return real(job, settings)")
PERSONAL = ARTICLE.replace(
    "listens to", "writes to jane.doe@harbour-post.org, from 8.8.8.8, or calls +44 20 7946 0958, for"
)
CONTROL_TOKEN = ARTICLE.replace("twice", "&lt;|endoftext|&gt; twice")


@pytest.fixture(scope="module")
def extractions() -> list[Extraction]:
    """What one true child makes of the article, the one with personal data, the one with a control token."""
    return run([page(ARTICLE), page(PERSONAL), page(CONTROL_TOKEN)])


# --- what a document is ---


def test_a_page_becomes_a_document_with_its_title_date_language_and_counts(extractions: list[Extraction]) -> None:
    extraction = extractions[0]
    document = extraction.document
    assert extraction.drop is None
    assert extraction.killed is None
    assert document is not None
    assert document.text.startswith("Tides\nThe tide in the harbour rises twice a day")
    assert "Imprint" not in document.text
    assert "About" not in document.text
    assert (document.title, document.date, document.language) == ("Tides", "2016-03-04", "en")
    assert document.language_score > 0.9
    assert document.num_words == len(document.text.split())
    assert document.num_bytes == len(document.text.encode())
    assert document.extractor.startswith("trafilatura 2")
    assert document.fetched_at == CAPTURED


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
def test_the_text_of_a_page_does_not_depend_on_what_came_before_it(extractor: str) -> None:
    settings = dataclasses.replace(SETTINGS, extractor=extractor)
    texts = [
        ARTICLE,
        ARTICLE.replace("harbour", "port"),
        ARTICLE.replace("tide", "flood"),
        "<p>" + "Nothing at all here. " * 9,
    ]
    pages = [job(text) for text in texts] * 3  # trafilatura's own duplicate test would drop a text at its third sight
    forwards = [parse(one, settings) for one in pages]
    backwards = [parse(one, settings) for one in pages[::-1]][::-1]
    assert forwards == backwards
    assert all(one.text for one in forwards)
    assert forwards[:4] == forwards[8:]


def test_extractions_come_in_the_order_of_the_pages_across_batches_and_children() -> None:
    pages = [page(ARTICLE.replace("Tides", f"Tides {i}")) for i in range(150)]
    settings = dataclasses.replace(SETTINGS, recycle_pages=100)
    found = run(pages, settings, ECHO)
    assert [one.id for one in found] == [one.id for one in pages]
    assert [one.document.text for one in found if one.document] == [one.payload.decode() for one in pages]


def test_a_child_is_renewed_after_its_pages_or_its_memory() -> None:
    who = child("return Parsed(job.number, text=str(os.getpid()))")
    pages = [page(f"{i}") for i in range(3)]

    def children(settings: ExtractSettings) -> list[int]:
        texts = [one.document.text for one in run(pages, settings, who) if one.document]
        return [len(list(group)) for _, group in itertools.groupby(texts)]

    assert children(SETTINGS) == [3]
    assert children(dataclasses.replace(SETTINGS, recycle_pages=2)) == [2, 1]
    assert children(dataclasses.replace(SETTINGS, recycle_bytes=1)) == [1] * 3


def test_settings_that_cannot_affect_bytes_do_not_affect_them(extractions: list[Extraction]) -> None:
    other = dataclasses.replace(SETTINGS, recycle_pages=9, recycle_bytes=10**10, timeout_seconds=7.0, memory_bytes=0)
    assert run([page(ARTICLE), page(PERSONAL), page(CONTROL_TOKEN)], other) == extractions


def test_control_tokens_in_a_page_stay_text(extractions: list[Extraction]) -> None:
    document = extractions[2].document
    assert document is not None
    assert "rises <|endoftext|> twice" in document.text


def test_comments_tables_and_links_follow_their_settings() -> None:
    body = ARTICLE.replace("</article>", "<table><tr><td>high water</td><td>noon today</td></tr></table></article>")
    with_table = parse(job(body), SETTINGS)
    without = parse(job(body), dataclasses.replace(SETTINGS, tables=False))
    assert "high water" in with_table.text
    assert "high water" not in without.text


@pytest.mark.parametrize(
    ("payload", "content_type", "reason"),
    [
        (b"", "text/html", "empty"),
        (b"  \n ", "text/html", "empty"),
        (b"<html><body></body></html>", "text/html", "no_text"),
        (b"%PDF-1.7 ...", "text/html", "not_html"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "", "not_html"),
        (b'{"a": 1}', "application/json", "not_html"),
        (b'{"a": 1}', "", "not_html"),
        (b"<?xml version='1.0'?><rss></rss>", "application/rss+xml", "not_html"),
        (b"x" * 5_000_001, "text/html", "too_large"),
        (b"<" * 50_001, "text/html", "too_many_tags"),
        (b"<p " + b"x" * 40_000 + b">text", "text/html", "tag_too_long"),
        (b"<p " + b" ".join(b"a%d=1" % i for i in range(300)) + b">text", "text/html", "too_many_attributes"),
        (b"<div>" * 5_000 + b"text", "text/html", "parse_limit"),
        (b"<p>" + b"long " * 410_000, "text/html", "text_too_large"),
        (bytes(range(128, 160)) * 50, "text/html; charset=shift_jis", None),
    ],
)
def test_each_loss_has_its_reason(payload: bytes, content_type: str, reason: str | None) -> None:
    parsed = parse(job(payload, content_type), SETTINGS)
    if reason is None:  # rubbish without a law: refused or empty or text, but answered
        assert parsed.reason is None or parsed.text == ""
    else:
        assert parsed.reason == reason
        assert parsed.text == ""


def job(payload: bytes | str, content_type: str = "text/html; charset=utf-8") -> Job:
    return Job(
        0, "http://example.org/a", content_type, payload.encode() if isinstance(payload, str) else payload, CAPTURED
    )


def test_plain_text_pages_are_text_and_a_setting_drops_them() -> None:
    text = "Call me Ishmael. Some years ago, never mind how long precisely.\r\n\r\nIt is a way I have."
    parsed = parse(job(text, "text/plain; charset=utf-8"), SETTINGS)
    assert parsed.text == text.replace("\r\n", "\n")
    dropped = parse(job(text, "text/plain"), dataclasses.replace(SETTINGS, plain_text=False))
    assert (dropped.reason, dropped.detail) == ("not_html", "text/plain")


LAYOUT = (
    "<HTML><HEAD><TITLE>Cobb History Society - The Bell</TITLE></HEAD><BODY BGCOLOR='#FFFFEE'>"
    "<TABLE WIDTH=780 CELLPADDING=4><TR><TD COLSPAN=2>Cobb History Society</TD></TR><TR><TD WIDTH=150><FONT SIZE='-1'>"
    "<A HREF='/'>Home</A><BR><A HREF='/m'>Meetings</A><BR><A HREF='/g'>Guest book</A></FONT></TD><TD WIDTH=630>"
    "<H2>The Bell</H2><P>The priory had four bells, and when it was closed the king's men made a list that survives."
    "<P>In 1786 the pond was drained in order to mend the sluice, and the vicar came every evening to look."
    "<P>My own belief is that the fourth bell hangs in the next village, which has one more than it can explain."
    "<TABLE BORDER=1><TR><TD>Treble</TD><TD>6 cwt</TD></TR><TR><TD>Tenor</TD><TD>14 cwt</TD></TR></TABLE>"
    "<P>The churchwardens there have declined to comment on the question since the summer of the year 1911."
    "</TD></TR></TABLE></BODY></HTML>"
)


def test_a_page_laid_out_with_tables_gives_paragraphs_and_no_menu_and_keeps_its_table_of_data() -> None:
    parsed = parse(job(LAYOUT), SETTINGS)
    lines = parsed.text.split("\n")
    assert any(line.startswith("In 1786 the pond was drained") and line.endswith("to look.") for line in lines)
    assert "| Treble | 6 cwt |" in lines
    assert "Guest book" not in parsed.text
    assert "| The" not in parsed.text


@pytest.mark.parametrize(
    ("table", "is_layout"),
    [
        ("<table><tr><td>a<td>1<tr><td>b<td>2</table>", False),
        ("<table role=presentation><tr><td>a<td>b</table>", True),
        ("<table><tr><td>" + "long prose " * 30 + "<td>menu</table>", True),
        ("<table><tr><th>name<td>" + "long prose " * 30 + "</table>", False),
        ("<table><caption>t</caption><tr><td>" + "long prose " * 30 + "</table>", False),
        ("<table><tr><td>menu<td><h1>t</h1><p>text</table>", True),
        ("<table><tr><td><h3>Monday</h3><td><h3>Tuesday</h3><tr><td><p>soup<p>fish<td><p>eggs<p>rice</table>", False),
        ("<table><tr>" + "<td>" + "long prose " * 30 + "<td>" + "long prose " * 30 + "</table>", False),
        ("<table><tr><td>a<td><table><tr><td>1</table></table>", True),
    ],
)
def test_a_table_is_layout_by_what_its_cells_hold(table: str, is_layout: bool) -> None:
    tree = html_tree(f"<body>{table}</body>")
    outer = tree.find(".//table")
    unwrap_layout_tables(tree)
    assert (outer.tag == "div") == is_layout
    assert is_layout == (next(outer.iterchildren("tbody", "tr"), None) is None)


def test_hundreds_of_nested_tables_are_judged_in_linear_time() -> None:
    tree = html_tree("<table><tr><td>x" * 600 + "y" * 4_000_000)
    started = time.process_time()
    unwrap_layout_tables(tree)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("head", "body", "title"),
    [
        ("<title>Tides - The Harbour Post</title>", "<h1>Tides</h1>", "Tides"),
        ("<title>The Harbour Post » Tides</title>", "<h2>Tides</h2>", "Tides"),
        ("<title>Tides - The Harbour Post</title>", "<h1><a href=/>The Harbour Post</a></h1><h2>Tides</h2>", "Tides"),
        ("<title>Tides - The Post</title>", "<h1><a href=/>The Post</a></h1>", "Tides - The Post"),
        ("<title>Tides - a history</title>", "<h1>Tides - a history</h1>", "Tides - a history"),
        ("<title>Tides &amp; ebbs | Post</title>", "<h1 class=x><span>Tides</span> &amp; ebbs</h1>", "Tides & ebbs"),
        ("<meta property=og:title content='Tides | P'><meta property=og:site_name content=P>", "", "Tides"),
        ("<title>Tides</title>", "", "Tides"),
        ("", "<h1>Tides</h1>", None),
    ],
)
def test_a_title_goes_without_the_name_of_the_site_where_the_page_tells_them_apart(
    head: str, body: str, title: str | None
) -> None:
    html = f"<html><head>{head}</head><body>{body}</body></html>"
    assert page_title(html, page_metas(html)) == title


def test_links_of_headings_to_themselves_leave_no_mark() -> None:
    body = ARTICLE.replace("Tides</h1>", "Tides<a class=headerlink href=#t>¶</a></h1>").replace(
        "<p>W", "<p>A ¶ sign. W"
    )
    text = parse(job(body), SETTINGS).text
    assert text.startswith("Tides\n")
    assert "A ¶ sign. Whoever" in text


def test_an_image_written_into_the_page_and_preloaded_data_do_not_cost_the_page() -> None:
    image = f'<img src="data:image/png;base64,{"iVBORw0KGgo" * 9_000}">'
    data = f"<div data-preloaded='{{&quot;posts&quot;: {'[1, 2, 3],' * 9_000}}}'></div>"
    plain = parse(job(ARTICLE), SETTINGS)
    assert parse(job(ARTICLE.replace("<article>", f"{image}{data}<article>")), SETTINGS).text == plain.text


def test_a_long_script_is_not_a_long_tag() -> None:
    script = f"<script>for(i=0;i<n;i++){{{'call(a,b); ' * 9_000}}}</script>"
    assert gated(script.encode(), SETTINGS) == script.encode()


def test_the_gates_let_through_what_is_at_the_limit() -> None:
    at_limit = b"<p " + b"x" * (SETTINGS.max_tag_bytes - 4) + b">"
    assert gated(at_limit, SETTINGS) == at_limit
    with pytest.raises(Refused, match="tag_too_long"):
        gated(b"<p " + b"x" * (SETTINGS.max_tag_bytes - 3) + b">", SETTINGS)
    attributes = b" ".join(b"a%d='b c'" % i for i in range(250))
    assert gated(b"<p " + attributes + b">", SETTINGS)
    with pytest.raises(Refused, match="too_many_attributes"):
        gated(b"<p " + attributes + b" one=more>", SETTINGS)


def test_personal_data_is_counted_always_and_replaced_by_setting(extractions: list[Extraction]) -> None:
    counted, replaced = extractions[1], parse(job(PERSONAL), dataclasses.replace(SETTINGS, replace_pii=True))
    assert (counted.pii.emails, counted.pii.ips, counted.pii.phones) == (1, 1, 1)
    assert (replaced.emails, replaced.ips, replaced.phones) == (1, 1, 1)
    assert counted.document is not None
    assert "jane.doe@harbour-post.org" in counted.document.text
    assert "jane.doe" not in replaced.text
    assert "harbour master's office" in replaced.text


def test_the_form_of_text() -> None:
    assert clean_text("a\r\nb\rc\u2028d \t\n\n\n\n e\xa0f\x00\x9f\xad\ufeff\ue000 ") == "a\nb\nc\nd\n\n e f"
    assert clean_text("e\u0301 \u200dمی\u200cخواهم 👩\u200d👩") == "é \u200dمی\u200cخواهم 👩\u200d👩"
    assert clean_text("\ud800x") == "x"


@pytest.mark.parametrize(
    ("header", "payload", "kind"),
    [
        ("text/html", b"hello", "html"),
        ("application/xhtml+xml", b"<html/>", "html"),
        ("application/xml", b"<?xml version='1.0'?>\n<html xmlns='x'>", "html"),
        ("application/xml", b"<?xml version='1.0'?>\n<feed>", "other"),
        ("text/plain", b"hello <b>", "text"),
        ("text/plain", b"\n<!DOCTYPE HTML>", "html"),
        ("", b"<P>hello", "html"),
        ("", b"hello", "text"),
        ("", b"hel\x00lo", "other"),
        ("image/png", b"<html>", "other"),
        ("text/html", b"PK\x03\x04", "other"),
    ],
)
def test_what_a_payload_is_read_as(header: str, payload: bytes, kind: str) -> None:
    assert page_kind(header, payload) == kind


# --- characters ---


@pytest.mark.parametrize(
    ("payload", "content_type", "text"),
    [
        ("Füße".encode(), "", "Füße"),
        ("Füße".encode(), "text/html; charset=iso-8859-1", "Füße"),  # valid UTF-8 outweighs the header
        (b"\xef\xbb\xbfx", "", "x"),
        ("Füße 漢".encode("utf-16"), "", "Füße 漢"),
        ("<p>Füße".encode("utf-16-le"), "", "<p>Füße"),
        ("<p>Füße".encode("utf-16-be"), "text/html; charset=utf-8", "<p>Füße"),
        ("<p>Füße".encode("utf-32-le"), "", "<p>Füße"),
        ("„Füße“ €".encode("cp1252"), "text/html; charset=ISO-8859-1", "„Füße“ €"),  # WHATWG's alias
        ("Привет, мир".encode("koi8-r"), "text/html; charset=KOI8-R", "Привет, мир"),
        ('<meta charset="windows-1251">Привет'.encode("cp1251"), "text/html", '<meta charset="windows-1251">Привет'),
        ("日本語の文".encode("iso2022_jp"), "text/html; charset=iso-2022-jp", "日本語の文"),
        ("镕基".encode("gb18030"), "text/html; charset=gb2312", "镕基"),  # not in GB2312 proper
        ("①漢字".encode("cp932"), "text/html; charset=Shift_JIS", "①漢字"),
    ],
)
def test_characters_are_decoded_by_the_order_of_precedence(payload: bytes, content_type: str, text: str) -> None:
    assert decode(payload, content_type) == (text, 0.0)


def test_where_header_and_page_contradict_each_other_the_detector_decides() -> None:
    text = "<meta charset=windows-1251>" + "Тихий вечер над рекой, и лодки возвращаются домой. " * 8
    assert decode(text.encode("cp1251"), "text/html; charset=iso-8859-1")[0] == text


def test_a_page_of_utf8_with_some_broken_bytes_stays_utf8() -> None:
    text, share = decode("Müde Füße gehören hochgelegt. ".encode() * 20 + b"\xff\xc3", "text/html; charset=utf-8")
    assert text.startswith("Müde Füße")
    assert 0 < share < 0.01


def test_unknown_charsets_and_codecs_that_are_no_charset_are_ignored() -> None:
    for label in ("klingon", "base64", "rot13", "zlib", "undefined", "idna", "\x00", "utf-7"):
        assert decode("Füße".encode("cp1252"), f"text/html; charset={label}")[0].startswith("F")


def test_real_files_in_dozens_of_encodings_decode_with_their_label(shared_data: Path) -> None:
    codec = {
        "Johab": "johab",
        "CP932": "cp932",
        "CP949": "cp949",
        "MacCyrillic": "mac_cyrillic",
        "IBM855": "cp855",
        "IBM866": "cp866",
    }
    checked = 0
    for path in sorted((shared_data / "encoding").glob("*/*"))[::3]:
        label = path.parent.name
        label = (
            label
            if label in codec or not label.count("-")
            else "-".join(label.split("-")[: 3 if label[0] == "i" else 2])
        )
        payload = path.read_bytes()
        text, share = decode(payload, f"text/html; charset={label}")
        assert share < 0.06, path
        try:
            want = payload.decode(codec.get(label, label)).lstrip("\ufeff")
        except (LookupError, UnicodeDecodeError):
            continue
        same = sum(map(str.__eq__, text, want))
        assert same > 0.9 * len(want), path
        checked += 1
    assert checked > 100


def test_language_is_told_with_a_score_and_not_told_of_next_to_nothing() -> None:
    assert detect_language("The tide in the harbour rises twice a day, and the boats float at noon.")[0] == "en"
    assert detect_language("Die Flut im Hafen kommt zweimal am Tag, und mittags schwimmen die Boote.")[0] == "de"
    assert detect_language("1234 5678 !!! ok, yes") == ("und", 0.0)
    long = "Der Hafen liegt still, und die Boote warten auf das Wasser. " * 3_000
    started = time.perf_counter()
    assert detect_language(long)[0] == "de"
    assert time.perf_counter() - started < 0.5


# --- isolation ---


def test_a_page_that_crashes_the_parser_costs_itself_alone() -> None:
    crash = child("if b'CRASH' in job.payload: ctypes.string_at(0)\nreturn real(job, settings)")
    pages = [page(ARTICLE.replace("tide", f"tide {i}" if i != 70 else "CRASH")) for i in range(100)]
    found = run(pages, command=crash)
    assert [one.id for one in found] == [one.id for one in pages]
    lost = [i for i, one in enumerate(found) if one.document is None]
    assert lost == [70]
    assert found[70].drop is not None
    assert (found[70].drop.reason, found[70].drop.detail) == ("parse_crash", "SIGSEGV")
    assert found[70].killed == Killed(
        pages[70].payload_sha256, extract.extractor_version(SETTINGS), "parse_crash SIGSEGV"
    )


def test_a_page_that_loops_in_c_is_ended_by_its_cpu_time() -> None:
    loop = child(
        "if b'LOOP' in job.payload:\n    import re\n    re.match(r'(a*)*b', 'a' * 60)\nreturn real(job, settings)"
    )
    settings = dataclasses.replace(SETTINGS, timeout_seconds=0.2)
    started = time.monotonic()
    found = run([page(ARTICLE), page("LOOP" + ARTICLE), page(ARTICLE)], settings, loop)
    assert time.monotonic() - started < 30
    assert [one.document is None for one in found] == [False, True, False]
    assert found[1].drop is not None
    assert found[1].drop.reason == "parse_timeout"


def test_a_page_that_waits_forever_is_ended_by_the_clock() -> None:
    wait = child("if b'WAIT' in job.payload: time.sleep(1000)\nreturn real(job, settings)")
    found = run([page("WAIT" + ARTICLE), page(ARTICLE)], dataclasses.replace(SETTINGS, timeout_seconds=0.3), wait)
    assert [one.drop.reason if one.drop else None for one in found] == ["parse_timeout", None]


def test_a_page_that_takes_all_memory_is_ended_by_its_limit() -> None:
    bomb = child(
        "if b'BOMB' in job.payload:\n    hold = [bytearray(10**9) for _ in range(3)]\nreturn real(job, settings)"
    )
    settings = dataclasses.replace(SETTINGS, memory_bytes=1_500_000_000)
    found = run([page(ARTICLE), page("BOMB" + ARTICLE), page(ARTICLE + " ")], settings, bomb)
    assert [one.drop.reason if one.drop else None for one in found] == [None, "parse_memory", None]


def test_a_page_that_fails_once_is_tried_again_alone_with_more_time(tmp_path: Path) -> None:
    once = child(
        f"if b'ONCE' in job.payload and not os.path.exists({str(tmp_path / 'seen')!r}):\n"
        f"    open({str(tmp_path / 'seen')!r}, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"open({str(tmp_path / 'patience')!r}, 'a').write(str(job.patience) + ' ')\n"
        "return real(job, settings)"
    )
    found = run([page(ARTICLE), page("ONCE" + ARTICLE), page(ARTICLE + " ")], command=once)
    assert all(one.document is not None and one.killed is None for one in found)
    assert (tmp_path / "patience").read_text().split() == ["1.0", "3.0", "1.0"]


def test_pages_that_killed_before_are_dropped_with_the_same_words_and_without_parsing() -> None:
    crash = child("if b'CRASH' in job.payload: os.abort()\nreturn real(job, settings)")
    pages = [page("CRASH" + ARTICLE), page(ARTICLE)]
    first = run(pages, command=crash)
    assert first[0].killed is not None
    verdicts = {first[0].killed.payload_sha256: first[0].killed.limit}
    never = child("if b'CRASH' in job.payload: raise SystemExit(3)\nreturn real(job, settings)")
    second = list(extract_pages(pages, SETTINGS, killed=verdicts, command=never))
    assert second == [dataclasses.replace(first[0], killed=None), first[1]]


def test_an_answer_that_is_no_answer_costs_the_page() -> None:
    lie = child("if b'LIE' in job.payload: job.number += 1\nreturn real(job, settings)")
    found = run([page("LIE" + ARTICLE), page(ARTICLE)], command=lie)
    assert found[0].drop is not None
    assert (found[0].drop.reason, found[0].drop.detail) == ("parse_crash", "bad answer")
    assert found[1].document is not None


def test_a_child_that_cannot_start_is_said_in_one_line() -> None:
    with pytest.raises(RuntimeError, match=r"expected a parser process that starts.*no libraries today"):
        run([page(ARTICLE)], command=(sys.executable, "-c", "raise ImportError('no libraries today')"))


def test_a_library_that_prints_does_not_break_the_answers() -> None:
    prints = child("print('x' * 100_000, flush=True)\nos.write(1, b'y' * 100_000)\nreturn real(job, settings)")
    assert run([page(ARTICLE)], command=prints) == run([page(ARTICLE)], command=ECHO)


def test_no_child_is_left_when_the_iterator_is_dropped_or_its_process_is_killed(tmp_path: Path) -> None:
    iterator = extract_pages((page(ARTICLE) for _ in itertools.count()), SETTINGS, command=ECHO)
    next(iterator)
    before = children_of(os.getpid())
    assert before
    iterator.close()
    assert not before & children_of(os.getpid())
    script = (
        "import sys, time\nfrom webtext.extract import *\nfrom webtext.records import Page\n"
        "p = Page('a' * 32, 'u', 'u', 'text/html', b'<p>hello', 'x', 0)\n"
        f"it = extract_pages(iter(lambda: p, None), ExtractSettings(), command={ECHO!r})\nnext(it)\n"
        "print('up', flush=True)\ntime.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    orphans = children_of(process.pid)
    assert len(orphans) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in orphans):
        assert time.monotonic() < deadline, "the parser child outlived its parent"
        time.sleep(0.05)


def children_of(pid: int) -> set[int]:
    return {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_the_child_loads_neither_arrow_nor_numba() -> None:
    code = (
        "import sys, webtext.parser as p; p.detect_language('x' * 50); print({'pyarrow', 'numba'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_extraction_works_inside_a_daemonic_forkserver_worker() -> None:
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(sender,), daemon=True)
    worker.start()
    assert receiver.poll(60)
    assert receiver.recv() == 1
    worker.join(10)
    assert worker.exitcode == 0


def _work(sender: object) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # what a host program may have set must not disarm the child's limits
    sender.send(sum(one.document is not None for one in run([page(ARTICLE)], command=ECHO)))  # type: ignore[attr-defined]


# --- hostile pages ---


def check_family_answers(share: float, seconds: float, *extractors: str) -> None:
    pages = {name: page(payload) for name, payload in families(share).items()}
    assert len(pages) >= 19
    for extractor in extractors:
        settings = dataclasses.replace(SETTINGS, extractor=extractor, timeout_seconds=seconds)
        for name, one in zip(pages, run(pages.values(), settings), strict=True):
            assert one.killed is None, (extractor, name)
            assert (one.document is None) != (one.drop is None), (extractor, name)


def test_hostile_families_far_below_the_gates_end_in_time() -> None:
    check_family_answers(0.01, 5.0, "trafilatura")


@pytest.mark.slow
def test_hostile_families_at_the_gates_end_in_time() -> None:
    check_family_answers(1.0, 20.0, "trafilatura", "resiliparse")


@pytest.mark.slow
def test_fuzzed_inputs_never_kill_the_parser(shared_data: Path) -> None:
    with tarfile.open(shared_data / "fuzz" / "inputs.tar.gz") as archive:
        payloads = [
            archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile() and any(part in member.name for part in ("html", "xml", "url", "http"))
        ]
    assert len(payloads) > 1_000
    found = run([page(payload, "text/html") for payload in payloads])
    assert len(found) == len(payloads)
    assert not [one for one in found if one.killed]


@pytest.mark.slow
def test_mutated_pages_never_kill_the_parser() -> None:
    generator = random.Random(0)
    pages = []
    for _ in range(3_000):
        mutated = bytearray(ARTICLE.encode())
        for _ in range(generator.randrange(1, 30)):
            position = generator.randrange(len(mutated))
            action = generator.randrange(3)
            if action == 0:
                mutated[position] = generator.randrange(256)
            elif action == 1:
                del mutated[position : position + generator.randrange(1, 20)]
            else:
                mutated[position:position] = mutated[: generator.randrange(1, 60)]
        pages.append(page(bytes(mutated)))
    found = run(pages)
    assert not [one for one in found if one.killed]
    assert {one.drop.reason for one in found if one.drop} == {"no_text"}  # a <title> that does not end holds it all
    assert sum(one.document is not None for one in found) > 2_000


# --- killed.jsonl ---


def test_killed_verdicts_are_read_back_for_their_extractor_version_only(tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    version = extract.extractor_version(SETTINGS)
    assert read_killed(path, SETTINGS) == {}
    append_killed(
        path, [Killed("a" * 64, version, "parse_timeout"), Killed("b" * 64, "trafilatura 1.0", "parse_memory")]
    )
    append_killed(path, [Killed("c" * 64, version, "parse_crash SIGSEGV"), Killed("a" * 64, version, "parse_memory")])
    assert read_killed(path, SETTINGS) == {"a" * 64: "parse_timeout", "c" * 64: "parse_crash SIGSEGV"}


def test_a_torn_last_line_of_killed_verdicts_does_not_count_and_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    version = extract.extractor_version(SETTINGS)
    append_killed(path, [Killed("a" * 64, version, "parse_timeout")])
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole + whole[:length])
        assert read_killed(path, SETTINGS) == {"a" * 64: "parse_timeout"}
        append_killed(path, [Killed("b" * 64, version, "parse_memory")])
        assert read_killed(path, SETTINGS) == {"a" * 64: "parse_timeout", "b" * 64: "parse_memory"}


def test_a_bad_line_among_killed_verdicts_is_located(tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    append_killed(path, [Killed("a" * 64, "x", "parse_timeout")])
    path.write_bytes(path.read_bytes() + b"{}\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"killed\.jsonl line 2: expected a killed page as JSON"):
        read_killed(path, SETTINGS)


# --- settings ---


@pytest.mark.parametrize(
    ("name", "value"), [("max_bytes", 0), ("timeout_seconds", -1.0), ("memory_bytes", 1000), ("recycle_pages", 0)]
)
def test_bad_settings_are_refused_in_one_line(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^\[extract\] {name}: expected .*, got {value}; ."):
        dataclasses.replace(SETTINGS, **{name: value})  # type: ignore[arg-type]


def test_a_parsed_answer_that_is_refused_carries_its_measure() -> None:
    assert parse(job(b"x" * 5_000_001), SETTINGS) == Parsed(0, reason="too_large", detail="5000001 bytes > 5000000")
