"""Real files of strangers: each is read, or refused with a reason; skipped where ../shared/data is not."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webtext import archives, robots
from webtext.archives import Capture
from webtext.extract import ExtractSettings, extract_pages
from webtext.records import Page
from webtext.reddit import ReadSummary, read_dump
from webtext.urls import UrlRules, canonical_url, registered_domain, rejection

quick, slow = pytest.mark.quick, pytest.mark.slow
some_or_all = pytest.mark.parametrize("step", [pytest.param(20, marks=quick), pytest.param(1, marks=slow)])


def members(path: Path, step: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every `step`-th file of an archive."""
    with tarfile.open(path) as archive:
        for member in [one for one in archive if one.isfile()][::step]:
            content = archive.extractfile(member)
            assert content is not None
            yield member.name, content.read()


@some_or_all
def test_11_real_robots_files_are_read(shared_data: Path, faults, step: int) -> None:
    files = list(members(shared_data / "robots" / "real-robots-txt.tar.gz", step))
    files += [(str(path), path.read_bytes()) for path in (shared_data / "robots" / "cases").rglob("robots.txt")]
    read = 0
    for _, body in files:
        found = robots.parse(body, "webtext/0.1")
        answers = {found.allows(f"https://example.com{path}") for path in ("/", "/some/article?page=2", "/%zz")}
        read += answers <= {True, False} and found.crawl_delay_seconds >= 0
    assert len(files) * step > 4_000
    faults.add(11, "real robots.txt files read", len(files), read)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from strings(item)


@some_or_all
def test_4_real_urls_have_a_key_or_a_reason(shared_data: Path, faults, step: int) -> None:
    """Suites of the URL standard, of IDNA and of two parsers; each string as it is, and as a host."""
    found: dict[str, None] = {}
    for path in sorted((shared_data / "url").rglob("*")):
        if path.suffix == ".json":
            found |= dict.fromkeys(strings(json.loads(path.read_bytes())))
        elif path.suffix == ".txt":
            found |= dict.fromkeys(path.read_text("utf-8").replace(";", "\n").splitlines())
    urls = [*found, *(f"http://{text}/" for text in found)][::step]
    told = 0
    rules = UrlRules()
    for url in urls:
        try:
            key = canonical_url(url)
        except ValueError as error:
            told += "expected" in str(error) and "\n" not in str(error)
            continue
        told += canonical_url(key) == key and bool(registered_domain(url))
        rejection(url, rules)
    faults.add(4, "real URLs of test suites: a stable key, or refused with a reason", len(urls), told)


def test_8_real_archives_are_read_or_refused(shared_data: Path, faults) -> None:
    paths = [path for path in sorted((shared_data / "warc").rglob("*")) if path.is_file()]
    told = captures = 0
    for path in paths:
        try:
            items = list(archives.read_captures(path))
        except ValueError as error:
            told += "expected a WARC file" in str(error)
            continue
        reasons = [archives.judge(one, 10_000_000).outcome if isinstance(one, Capture) else one.detail for one in items]
        captures += len(items)
        told += all(reasons)
    assert captures > 200
    faults.add(8, "real WARC files of many writers: read, or refused with a reason", len(paths), told)


def test_8_real_dumps_are_read_to_the_last_line(shared_data: Path, faults) -> None:
    folder = shared_data / "reddit"
    paths = [*sorted(folder.glob("*.*z*")), *sorted(folder.glob("machinelearning/RS_20*"))]
    assert len(paths) > 10
    told = 0
    for path in paths:
        summary = ReadSummary()
        rows = sum(one.submissions.num_rows + one.drops.num_rows for one in read_dump(path, summary=summary))
        whole = summary.truncated_at is None
        told += rows == summary.lines > 0 and (whole or bool(summary.truncated_why))
    faults.add(8, "real dumps: every line a row or a drop", len(paths), told)


def told_of(pages: list[Page]) -> int:
    """How many pages came back as a text or a loss with its reason, and cost no parser its life."""
    answers = list(extract_pages(pages, ExtractSettings()))
    assert [one.id for one in answers] == [one.id for one in pages]
    return sum((one.document is None) != (one.drop is None) and one.killed is None for one in answers)


def page(number: int, payload: bytes, content_type: str = "text/html") -> Page:
    return Page(f"{number:032x}", "http://a.example/", "http://a.example/", content_type, payload, f"{number:064x}", 0)


@some_or_all
def test_7_real_encodings_are_texts_or_labelled_losses(shared_data: Path, faults, step: int) -> None:
    paths = [path for path in sorted((shared_data / "encoding").glob("*/*")) if path.is_file()][::step]
    pages = [
        page(number, path.read_bytes(), f"text/{kind}; charset={path.parent.name}")
        for number, path in enumerate(paths)
        for kind in ["plain" if path.suffix in (".txt", ".srt") else "html"]
    ]
    faults.add(7, "real files in dozens of encodings: text, or a loss with its reason", len(pages), told_of(pages))


@pytest.mark.parametrize("step", [pytest.param(50, marks=quick), pytest.param(1, marks=slow)])
def test_7_fuzzed_inputs_kill_nothing(shared_data: Path, tmp_path: Path, faults, step: int) -> None:
    """Each as a page; and to each reader of files that might meet it as what it is."""
    files = list(members(shared_data / "fuzz" / "inputs.tar.gz", step))
    assert len(files) * step > 10_000
    told = told_of([page(number, data) for number, (_, data) in enumerate(files)])
    faults.add(7, "fuzzed inputs as pages: text, or a loss with its reason", len(files), told)
    survived = 0
    for name, data in files:
        path = tmp_path / f"RS.{'bz2' if 'bzip2' in name else 'gz' if 'gzip' in name else 'ndjson'}"
        path.write_bytes(data)
        robots.parse(data, "webtext/0.1").allows("https://example.com/a")
        survived += decodes(data) and reads(path)
    faults.add(8, "fuzzed inputs as bodies, dumps and WARC files: read, or refused", len(files), survived)


def decodes(data: bytes) -> bool:
    """Whether every content coding gives bytes within the cap, or says why not."""
    for coding in ("gzip", "deflate", "br", "zstd"):
        try:
            if len(archives.decode(data, coding, 1_000_000)) > 1_000_000:
                return False
        except archives.DecodeError as error:
            if error.outcome not in ("too_large", "truncated", "decode_error"):
                return False
    return True


def reads(path: Path) -> bool:
    """Whether all of a file is told of as a dump, and as an archive."""
    summary = ReadSummary()
    try:
        told = sum(one.submissions.num_rows + one.drops.num_rows for one in read_dump(path, summary=summary))
        whole = told == summary.lines
    except ValueError as error:
        whole = "expected" in str(error)
    try:
        return whole and all(isinstance(one, Capture) or one.detail for one in archives.read_captures(path))
    except ValueError as error:
        return whole and "expected a WARC file" in str(error)
