"""robots.txt: the rules of RFC 9309 and of google/robotstxt, and what real files hold."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext import robots

BASE = "http://foo.bar"


def allowed(text: str | bytes, path: str, agent: str = "FooBot") -> bool:
    body = text if isinstance(text, bytes) else text.encode()
    return robots.parse(body, agent).allows(path if "://" in path else BASE + path)


RULES = [
    # lines
    ("user-agent: FooBot\ndisallow: /\n", "/x", False),
    ("foo: FooBot\nbar: /\n", "/x", True),
    ("user-agent FooBot\ndisallow /\n", "/x", False),
    ("USER-AGENT: FooBot\nDISALLOW: /\n", "/x", False),
    ("user-agent: FooBot\ndisallow: / # because\n", "/x", False),
    ("user-agent: FooBot # that one\ndisallow: /\n", "/x", False),
    ("  user-agent :  FooBot  \n\tdisallow\t:\t/\t\n", "/x", False),
    ("user-agent: FooBot\ndisallow: /x", "/x", False),
    ("user-agent: FooBot\ndisallow:\n", "/x", True),
    ("", "/x", True),
    # line ends
    ("user-agent: FooBot\rdisallow: /\r", "/x", False),
    ("user-agent: FooBot\r\ndisallow: /\r\n", "/x", False),
    ("user-agent: FooBot\r\n\r\n\rdisallow: /a\rdisallow: /x\n", "/x", False),
    ("user-agent: FooBot\x0bdisallow: /\n", "/x", True),
    # byte order mark, whole and in part
    (b"\xef\xbb\xbfuser-agent: FooBot\ndisallow: /\n", "/x", False),
    (b"\xef\xbbuser-agent: FooBot\ndisallow: /\n", "/x", False),
    (b"\xefuser-agent: FooBot\ndisallow: /\n", "/x", False),
    # groups
    ("user-agent: FooBot\nuser-agent: BarBot\ndisallow: /\n", "/x", False),
    ("user-agent: BarBot\ndisallow: /\n\nuser-agent: FooBot\nallow: /\n", "/x", True),
    ("user-agent: FooBot\ndisallow: /a\nuser-agent: BarBot\ndisallow: /x\n", "/x", True),
    ("user-agent: FooBot\ndisallow: /a\nuser-agent: B\ndisallow: /b\nuser-agent: FooBot\ndisallow: /x", "/x", False),
    ("user-agent: FooBot\nsitemap: http://foo.bar/s\nuser-agent: BarBot\ndisallow: /\n", "/x", False),
    ("user-agent: FooBot\nunknown: value\nuser-agent: BarBot\ndisallow: /\n", "/x", False),
    ("user-agent: FooBot\n\nuser-agent: BarBot\n\ndisallow: /\n", "/x", False),
    ("disallow: /\nuser-agent: FooBot\nallow: /y\n", "/x", True),
    # names
    ("user-agent: foobot\ndisallow: /\n", "/x", False),
    ("user-agent: FOOBOT\ndisallow: /\n", "/x", False),
    ("user-agent: FooBot/2.0\ndisallow: /\n", "/x", False),
    ("user-agent: FooBot bar\ndisallow: /\n", "/x", False),
    ("user-agent: FooBotter\ndisallow: /\n", "/x", True),
    ("user-agent: Foo\ndisallow: /\n", "/x", True),
    ("user-agent: *\ndisallow: /\n", "/x", False),
    ("user-agent: * baz\ndisallow: /\n", "/x", False),
    ("user-agent: *\ndisallow: /\nuser-agent: FooBot\nallow: /\n", "/x", True),
    ("user-agent: FooBot\nallow: /\nuser-agent: *\ndisallow: /\n", "/x", True),
    ("user-agent: FooBot\ndisallow:\nuser-agent: *\ndisallow: /\n", "/x", True),
    ("user-agent: BarBot\ndisallow: /\nuser-agent: QuxBot\ndisallow: /\n", "/x", True),
    # values are case sensitive
    ("user-agent: FooBot\ndisallow: /X/\n", "/x/y", True),
    ("user-agent: FooBot\ndisallow: /x/\n", "/x/y", False),
    # the longest match decides, and a tie is an allow
    ("user-agent: FooBot\ndisallow: /x/page.html\nallow: /x/\n", "/x/page.html", False),
    ("user-agent: FooBot\nallow: /x/page.html\ndisallow: /x/\n", "/x/page.html", True),
    ("user-agent: FooBot\nallow: /x/page.html\ndisallow: /x/\n", "/x/", False),
    ("user-agent: FooBot\ndisallow: \nallow: \n", "/x/page.html", True),
    ("user-agent: FooBot\ndisallow: /\nallow: /\n", "/x/page.html", True),
    ("user-agent: FooBot\ndisallow: /x\nallow: /x/\n", "/x", False),
    ("user-agent: FooBot\ndisallow: /x\nallow: /x/\n", "/x/", True),
    ("user-agent: FooBot\ndisallow: /x/page.html\nallow: /x/page.html\n", "/x/page.html", True),
    ("user-agent: FooBot\nallow: /page\ndisallow: /*.html\n", "/page.html", False),
    ("user-agent: FooBot\nallow: /page\ndisallow: /*.html\n", "/page", True),
    ("user-agent: FooBot\nallow: /x/page.\ndisallow: /*.html\n", "/x/page.html", True),
    ("user-agent: *\ndisallow: /x/\nuser-agent: FooBot\ndisallow: /y/\n", "/x/page", True),
    # percent-encoding
    ("user-agent: FooBot\ndisallow: /\nallow: /foo/bar?qux=taz&baz=http://foo.bar?tar&par\n",
     "/foo/bar?qux=taz&baz=http://foo.bar?tar&par", True),
    ("user-agent: FooBot\ndisallow: /\nallow: /foo/bar/ツ\n", "/foo/bar/%E3%83%84", True),
    ("user-agent: FooBot\ndisallow: /\nallow: /foo/bar/%E3%83%84\n", "/foo/bar/%E3%83%84", True),
    ("user-agent: FooBot\ndisallow: /\nallow: /foo/bar/%e3%83%84\n", "/foo/bar/%E3%83%84", True),
    ("user-agent: FooBot\ndisallow: /\nallow: /foo/bar/%62%61%7A\n", "/foo/bar/%62%61%7A", True),
    # wildcards
    ("user-agent: FooBot\ndisallow: /foo/bar/quz\nallow: /foo/*/qux\n", "/foo/bar/quz", False),
    ("user-agent: FooBot\ndisallow: /foo/bar/quz\nallow: /foo/*/qux\n", "/foo/quz", True),
    ("user-agent: FooBot\ndisallow: /foo/bar$\nallow: /foo/bar/qux\n", "/foo/bar", False),
    ("user-agent: FooBot\ndisallow: /foo/bar$\nallow: /foo/bar/qux\n", "/foo/bar/", True),
    ("user-agent: FooBot\ndisallow: /foo/bar$\nallow: /foo/bar/qux\n", "/foo/bar/baz", True),
    ("user-agent: FooBot\ndisallow: /**/**/x**y\n", "/a/b/xzy", False),
    ("user-agent: FooBot\n# disallow: /\nallow: /foo/quz#qux\ndisallow: /\n", "/foo/quz", True),
    ("user-agent: FooBot\ndisallow: /fish*\n", "/fish.html", False),
    ("user-agent: FooBot\ndisallow: /fish\n", "/Fish.asp", True),
    ("user-agent: FooBot\ndisallow: /fish/\n", "/fish", True),
    ("user-agent: FooBot\ndisallow: /*.php$\n", "/filename.php?parameters", True),
    ("user-agent: FooBot\ndisallow: /*.php$\n", "/folder/filename.php", False),
    ("user-agent: FooBot\ndisallow: /fish*.php\n", "/fishheads/catfish.php?parameters", False),
    # misspellings that webmasters have made often enough for Google to know them
    ("useragent: FooBot\ndisallow: /\n", "/x", False),
    ("user agent: FooBot\ndisallow: /\n", "/x", False),
    ("user-agent: FooBot\ndissallow: /\n", "/x", False),
    ("user-agent: FooBot\ndissalow: /\n", "/x", False),
    ("user-agent: FooBot\ndisalow: /\n", "/x", False),
    ("user-agent: FooBot\ndiasllow: /\n", "/x", False),
    ("user-agent: FooBot\ndisallaw: /\n", "/x", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "expected"), RULES)
def test_a_rule_holds(text: str | bytes, path: str, expected: bool) -> None:
    assert allowed(text, path) is expected


def test_a_version_in_our_own_name_does_not_hide_our_group() -> None:
    text = "user-agent: webtext/2.0\ndisallow: /\n"
    assert not allowed(text, "/x", "webtext")
    assert not allowed(text, "/x", "webtext/0.1 (+mailto:a@example.com)")
    assert allowed(text, "/x", "other/1.0")


def test_robots_txt_itself_may_always_be_asked_for() -> None:
    assert robots.parse(b"user-agent: *\ndisallow: /", "x").allows("http://a.example/robots.txt")
    assert robots.unreachable("x").allows("http://a.example/robots.txt")


@pytest.mark.parametrize(
    ("status", "access", "allows"),
    [
        (200, "rules", False), (204, "rules", False), (400, "allow", True), (401, "allow", True), (403, "allow", True),
        (404, "allow", True), (410, "allow", True), (429, "unreachable", False), (500, "unreachable", False),
        (503, "unreachable", False), (599, "unreachable", False),
    ],
)  # fmt: skip
def test_absence_allows_and_inability_forbids(status: int, access: str, allows: bool) -> None:
    found = robots.from_status(status, b"user-agent: *\ndisallow: /", "x")
    assert (found.access, found.allows("http://a.example/x")) == (access, allows)


def test_only_the_first_500_kib_count_to_the_last_whole_line() -> None:
    filler = b"# " + b"x" * 96 + b"\n"
    head = b"user-agent: *\n"
    body = head + filler * ((robots.MAX_BYTES - len(head)) // len(filler))
    assert not allowed(body[:-200] + b"\ndisallow: /in\n", "/in")
    straddling = body + b"disallow: /p" + b"a" * 200 + b"\n"
    assert len(straddling) > robots.MAX_BYTES
    assert allowed(straddling, "/p")
    assert allowed(body + b"\n" * 200 + b"disallow: /\n", "/x")


def test_delays_are_read() -> None:
    assert robots.parse(b"user-agent: *\ncrawl-delay: 7.5\n", "x").crawl_delay_seconds == 7.5
    assert robots.parse(b"user-agent: x/1\ncrawl-delay: 3\nuser-agent: *\ncrawl-delay: 9", "x").crawl_delay_seconds == 3
    assert robots.parse(b"user-agent: *\nrequest-rate: 1/20\n", "x").crawl_delay_seconds == 20
    assert robots.parse(b"user-agent: *\ncrawl-delay: soon\n", "x").crawl_delay_seconds == 0
    assert robots.unreachable("x").crawl_delay_seconds == 0


def test_an_answer_is_good_for_a_day_a_failure_for_an_hour_and_the_cache_stays_small() -> None:
    cache = robots.Cache(hosts=3, size_bytes=1_000)
    cache.put("http://a", robots.parse(b"user-agent: *\ndisallow: /", "x"), now=0.0)
    cache.put("http://b", robots.unreachable("x"), now=0.0)
    assert cache.get("http://a", 86_399.0) is not None
    assert cache.get("http://a", 86_400.0) is None
    assert cache.get("http://b", 3_599.0) is not None
    assert cache.get("http://b", 3_601.0) is None
    for number in range(10):
        cache.put(f"http://h{number}", robots.parse(b"user-agent: *\ndisallow: /" + b"x" * 400, "x"), now=0.0)
    assert len(cache) == 2
    assert cache.get("http://h9", 1.0) is not None


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    found = robots.parse(b"user-agent: *\n" + body, "x")
    found.allows("http://a.example/%zz?x=%00")
    assert found.crawl_delay_seconds >= 0


def test_wildcards_without_end_do_not_take_time_without_end() -> None:
    body = b"user-agent: *\ndisallow: /" + b"*a" * 50 + b"$\n"
    started = time.monotonic()
    robots.parse(body, "x").allows("http://a.example/" + "a" * 2_000)
    assert time.monotonic() - started < 1.0


def test_all_real_files_parse(shared_data: Path) -> None:
    count = refused = 0
    with tarfile.open(shared_data / "robots" / "real-robots-txt.tar.gz") as archive:
        for number, member in enumerate(archive):
            if not member.isfile() or number % 8:
                continue
            body = archive.extractfile(member)
            assert body is not None
            found = robots.parse(body.read(), "webtext/0.1")
            refused += not found.allows("https://example.com/some/article?page=2")
            assert found.crawl_delay_seconds >= 0
            count += 1
    assert count == 528
    assert 10 < refused < 150
