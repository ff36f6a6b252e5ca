"""The miniature web of examples/: that it is what its sources say, holds what it claims to, and can be read."""

from __future__ import annotations

import bz2
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import zstandard

from webtext.archives import Capture, DecodeError, decode, header, judge, read_captures
from webtext.extract import Extraction, ExtractSettings, extract_pages
from webtext.links import SelectSettings, aggregate, key_submissions
from webtext.quality import QualitySettings, drop_reasons
from webtext.records import Page
from webtext.reddit import ReadSummary, read_dump, read_removals, read_url_list
from webtext.urls import canonical_url, document_id

MINIWEB = Path(__file__).parents[1] / "examples" / "miniweb"
DUMPS = ("submissions-2005-2012.ndjson.bz2", "submissions-2013-2024.zst")
MAX_DECODED_BYTES = 20_000_000


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    name = "examples_miniweb_build"
    spec = importlib.util.spec_from_file_location(name, MINIWEB / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gold() -> dict[str, dict[str, Any]]:
    return {row["url"]: row for row in _rows(MINIWEB / "gold.jsonl")}


@pytest.fixture(scope="module")
def captures() -> list[Capture]:
    found = list(read_captures(MINIWEB / "pages.warc.gz"))
    damaged = [item for item in found if not isinstance(item, Capture)]
    assert not damaged, damaged
    return [item for item in found if isinstance(item, Capture)]


@pytest.fixture(scope="module")
def pages(captures: list[Capture]) -> list[Page]:
    judged = [(capture, judge(capture, MAX_DECODED_BYTES)) for capture in captures]
    return [
        Page(
            document_id(canonical_url(capture.url)),
            capture.url,
            capture.url,
            capture.content_type,
            verdict.payload,
            verdict.payload_sha256,
            capture.date,
        )
        for capture, verdict in judged
        if verdict.outcome == "ok"
    ]


@pytest.fixture(scope="module")
def extracted(pages: list[Page]) -> dict[str, Extraction]:
    return {page.url: found for page, found in zip(pages, extract_pages(pages, ExtractSettings()), strict=True)}


def f1(found: str, expected: str) -> float:
    """F1 over words as a multiset; over characters where words are not parted by blanks."""
    unit = r"\w" if re.search("[\u3040-\u30ff]", expected) else r"\w+"
    a, b = Counter(re.findall(unit, found)), Counter(re.findall(unit, expected))
    return 2 * (a & b).total() / (a.total() + b.total())


def grams(text: str, n: int = 8) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


# What is committed ----------------------------------------------------------------------------------------------------


def test_committed_artefacts_hold_what_the_sources_give(builder: ModuleType) -> None:
    assert builder.stale(MINIWEB) == []


def test_check_names_an_artefact_that_is_out_of_date(builder: ModuleType, tmp_path: Path, capsys: Any) -> None:
    builder.build(tmp_path)
    assert builder.main(["--check", "--output", str(tmp_path)]) == 0
    (tmp_path / "removals.txt").write_text("example.com\n")
    assert builder.main(["--check", "--output", str(tmp_path)]) == 1
    assert "removals.txt is out of date" in capsys.readouterr().err


def test_a_second_build_gives_the_same_bytes_in_another_process(builder: ModuleType, tmp_path: Path) -> None:
    builder.build(tmp_path / "a")
    command = [sys.executable, str(MINIWEB / "build.py"), "--output", str(tmp_path / "b")]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    for name in builder.ARTEFACTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_example_is_small_enough_to_clone() -> None:
    sizes = {path: path.stat().st_size for path in MINIWEB.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert sum(sizes.values()) < 1_500_000
    assert max(sizes.values()) < 500_000


def test_the_readme_counts_what_is_there() -> None:
    truth = json.loads((MINIWEB / "truth.json").read_text(encoding="utf-8"))
    readme = " ".join((MINIWEB / "README.md").read_text(encoding="utf-8").split())
    assert f"{truth['captures']} captures from {truth['hosts']} hosts" in readme


def test_no_page_repeats_another_that_is_not_its_copy(gold: dict[str, dict[str, Any]]) -> None:
    """What a person reads on two pages is different: no filler, no sentence in turns."""
    seen: Counter[tuple[str, ...]] = Counter()
    for row in gold.values():
        if row["text"] and row["kind"] not in ("duplicate", "near_duplicate"):
            seen.update(grams(row["text"]))
    repeated = sum(count > 1 for count in seen.values())
    assert len(seen) > 25_000
    assert repeated / len(seen) < 0.001


def test_there_are_a_hundred_and_twenty_pages_from_a_dozen_sites(gold: dict[str, dict[str, Any]]) -> None:
    read = [row for row in gold.values() if row["text"] and row["kind"] not in ("duplicate", "near_duplicate")]
    assert len(read) >= 120
    assert len({row["site"] for row in read}) >= 12
    assert {row["language"] for row in read} >= {"en", "fr", "de", "es", "ja", "ru", "pl"}
    words = sorted(len(row["text"].split()) for row in read if row["language"] == "en")
    assert words[0] > 80
    assert words[-1] > 1.8 * words[0]


def test_natural_demonstrations_occur(gold: dict[str, dict[str, Any]]) -> None:
    texts = [row["text"] for row in gold.values()]
    assert sum("TL;DR" in text for text in texts) >= 5
    assert sum(bool(re.search(r"^Q: .+\?\nA: ", text, re.MULTILINE)) for text in texts) >= 5
    assert sum(bool(re.search(r"French: .+ English: ", text)) for text in texts) >= 1


# The archive ----------------------------------------------------------------------------------------------------------


def test_bodies_come_in_every_coding_and_chunked(captures: list[Capture]) -> None:
    codings = Counter(header(item.headers, "content-encoding") for item in captures)
    assert set(codings) == {"", "gzip", "br", "zstd"}
    assert any(key.lower() == "transfer-encoding" for item in captures for key, _ in item.headers)


def test_charsets_are_declared_rightly_wrongly_and_not_at_all(captures: list[Capture]) -> None:
    declared = {item.content_type.partition("charset=")[2] for item in captures}
    assert declared >= {"", "utf-8", "windows-1252", "iso-8859-1", "iso-8859-2"}
    silent = [item for item in captures if urlsplit(item.url).netloc == "machikado-kissa.example"]
    assert {item.content_type for item in silent} == {"text/html"}


def test_outcomes_of_captures_are_those_planted(captures: list[Capture], gold: dict[str, dict[str, Any]]) -> None:
    outcomes = {item.url: judge(item, MAX_DECODED_BYTES).outcome for item in captures}
    assert set(outcomes) == set(gold)
    assert {outcomes[url] for url, row in gold.items() if row["text"]} == {"ok"}
    assert {outcomes[url] for url, row in gold.items() if row["kind"] == "redirect"} == {"redirect"}
    hostile = {urlsplit(url).path: outcomes[url] for url in outcomes if urlsplit(url).netloc == "hostile.example"}
    assert hostile["/gone"] == "gone"
    assert hostile["/missing"] == "not_found"
    assert hostile["/bomb"] == "too_large"
    assert hostile["/cut"] == "truncated"


def test_a_mirror_serves_the_very_bytes_of_its_original(pages: list[Page], gold: dict[str, dict[str, Any]]) -> None:
    by_digest: dict[str, list[str]] = {}
    for page in pages:
        by_digest.setdefault(page.payload_sha256, []).append(page.url)
    for url in (url for url, row in gold.items() if row["kind"] == "duplicate"):
        assert any(url in urls and len(urls) == 2 for urls in by_digest.values()), url


# Extraction -----------------------------------------------------------------------------------------------------------


def test_extraction_finds_the_gold_text(extracted: dict[str, Extraction], gold: dict[str, dict[str, Any]]) -> None:
    scores = {}
    for url, row in gold.items():
        if row["text"]:
            document = extracted[url].document
            scores[url] = f1(document.text, row["text"]) if document else 0.0
    assert sum(scores.values()) / len(scores) >= 0.9
    assert min(scores.items(), key=lambda item: item[1])[1] >= 0.7, min(scores.items(), key=lambda item: item[1])


def test_the_language_of_each_page_is_found(extracted: dict[str, Extraction], gold: dict[str, dict[str, Any]]) -> None:
    found = {url: extracted[url].document for url, row in gold.items() if row["text"]}
    wrong = {url: item.language for url, item in found.items() if item and item.language != gold[url]["language"]}
    assert wrong == {}


def test_comments_and_banners_stay_out_of_most_texts(extracted: dict[str, Extraction]) -> None:
    texts = {url: found.document.text for url, found in extracted.items() if found.document}
    for boilerplate in ("We use cookies", "Powered by", "Leave a Reply", "Most read", "partners store information"):
        assert not [url for url, text in texts.items() if boilerplate in text], boilerplate
    comment = "My grandad polished that lens every morning"
    assert not [url for url, text in texts.items() if comment in text]


def test_hostile_pages_are_dropped_with_a_reason_and_kill_nothing(extracted: dict[str, Extraction]) -> None:
    reasons = {
        urlsplit(url).path: found.drop.reason
        for url, found in extracted.items()
        if urlsplit(url).netloc == "hostile.example" and found.drop
    }
    assert reasons.keys() >= {"/nested", "/attributes", "/tables", "/bold", "/random", "/shell", "/pdf", "/photo"}
    assert not [reason for reason in reasons.values() if "crash" in reason or "timeout" in reason]


# Submissions ----------------------------------------------------------------------------------------------------------


def raw_lines(name: str) -> list[bytes]:
    return list(_contents(MINIWEB / name).splitlines())


def _contents(path: Path) -> bytes:
    if path.suffix == ".bz2":
        return bz2.decompress(path.read_bytes())
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj().decompress(path.read_bytes())


def records(name: str) -> Iterator[dict[str, Any]]:
    for line in raw_lines(name):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def test_the_new_dump_has_the_window_of_the_published_ones() -> None:
    raw = (MINIWEB / DUMPS[1]).read_bytes()
    assert zstandard.get_frame_parameters(raw).window_size == 2**31
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompressobj().decompress(raw)


def test_dumps_hold_every_variant_of_the_fields_from_2005_to_2024() -> None:
    found = [record for name in DUMPS for record in records(name)]
    assert {type(record.get("created_utc")) for record in found} == {int, str, float}
    assert {type(record.get("edited")) for record in found} >= {bool, float}
    assert any(record.get("score", 0) is None for record in found)
    assert any(record.get("url", "") is None for record in found)
    assert any(record.get("domain", "") is None for record in found)
    assert any("retrieved_on" not in record for record in found)
    assert any(record.get("url_overridden_by_dest") not in (None, record.get("url")) for record in found)
    assert any(record.get("crosspost_parent_list") for record in found)
    assert {"moderator", "deleted"} <= {record.get("removed_by_category") for record in found}
    assert any(record.get("is_self") for record in found)
    assert any(record.get("over_18") for record in found)
    assert any(record.get("is_video") for record in found)
    assert any(record.get("author") == "[deleted]" for record in found)
    ids = Counter(record["id"] for record in found if "title" in record)
    assert sum(count > 1 for count in ids.values()) == 1  # one submission is in the dump twice
    karma = [record["score"] for record in found if isinstance(record.get("score"), int)]
    assert min(karma) <= 0
    assert max(karma) > 100_000
    years = {int(float(record["created_utc"])) // 31_556_952 + 1970 for record in found if "created_utc" in record}
    assert {2006, 2012, 2014, 2018, 2023} <= years


def test_variants_of_an_address_have_one_key(builder: ModuleType) -> None:
    for site in builder.SITES:
        for source in builder.read_sources(site):
            keys = {canonical_url(url) for url in (source.url, *builder.variants(source.url))}
            assert len(keys) == 1, keys


def test_every_line_of_the_dumps_is_a_submission_or_a_located_drop() -> None:
    reasons: Counter[str] = Counter()
    for name in DUMPS:
        summary = ReadSummary()
        rows = 0
        for batch in read_dump(MINIWEB / name, summary=summary):
            rows += batch.submissions.num_rows + batch.drops.num_rows
            reasons.update(batch.drops.column("reason").to_pylist())
        assert rows == summary.lines == len(raw_lines(name))
    assert reasons["bad_line"] >= 4
    assert reasons["self_post"] >= 3
    assert reasons["no_url"] >= 1


def test_enough_english_pages_survive_selection_and_filters(
    extracted: dict[str, Extraction], gold: dict[str, dict[str, Any]]
) -> None:
    settings = SelectSettings()
    removals = read_removals([MINIWEB / "removals.txt"])
    batches = [batch for name in DUMPS for batch in read_dump(MINIWEB / name)]
    batches += list(read_url_list(MINIWEB / "links.csv"))
    keyed, dropped = [], Counter[str]()
    for batch in batches:
        kept, drops = key_submissions(batch.submissions, settings, removals)
        keyed.append(pa.Table.from_batches([kept]))
        dropped.update(drops.column("reason").to_pylist())
    links, merged = aggregate(pa.concat_tables(keyed), settings)
    assert dropped["removal"] == 5  # two pages (one of them posted twice), a domain and a post
    assert set(merged.column("reason").to_pylist()) == {"karma", "merged", "same_submission"}

    selected = set(links.column("id").to_pylist())
    documents = [
        found.document
        for url, found in extracted.items()
        if found.document and found.id in selected and gold[url]["kind"] in ("article", "thread", "documentation")
    ]
    columns = {
        name: [getattr(document, name) for document in documents]
        for name in ("id", "text", "language", "language_score")
    }
    reasons = drop_reasons(pa.table(columns), QualitySettings())
    assert len(reasons) - sum(map(bool, reasons)) >= 110


# Evaluation -----------------------------------------------------------------------------------------------------------


def test_evaluation_texts_overlap_with_the_pages_they_name_and_with_no_other(
    gold: dict[str, dict[str, Any]],
) -> None:
    """Its README documents the overlaps: an example that names a page shares eight words in a row with it."""
    page_grams = {url: grams(row["text"]) for url, row in gold.items() if row["text"]}
    copies = {url for url, row in gold.items() if row["kind"] in ("duplicate", "near_duplicate")}
    examples = 0
    for path in sorted(MINIWEB.glob("evaluation/*/test.jsonl")):
        for row in _rows(path):
            examples += 1
            text = " ".join(str(row[name]) for name in ("text", "question", "answer") if name in row)
            hit = {url for url, known in page_grams.items() if known & grams(text)}
            expected = row["copied_from"]
            assert (expected in hit) if expected else not hit, (path, row["id"], hit)
            assert hit <= {expected, *copies}, (path, row["id"], hit)
    assert examples >= 24


def test_an_evaluation_set_shares_some_examples_with_its_own_training_file() -> None:
    folder = MINIWEB / "evaluation" / "quiz"
    train = set().union(*(grams(f"{row['question']} {row['answer']}") for row in _rows(folder / "train.jsonl")))
    shared = [row["id"] for row in _rows(folder / "test.jsonl") if grams(f"{row['question']} {row['answer']}") & train]
    assert shared == ["quiz-03", "quiz-09"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_cut_body_is_refused_by_its_own_codec(captures: list[Capture]) -> None:
    cut = next(item for item in captures if item.url.endswith("/cut"))
    with pytest.raises(DecodeError):
        decode(cut.body, "gzip", MAX_DECODED_BYTES)


# The paper's settings -------------------------------------------------------------------------------------------------


def settings_of_webtext_cfg(folder: Path, more: str) -> subprocess.CompletedProcess[str]:
    """The settings that a build with examples/webtext.cfg has, as JSON, read by a process of its own."""
    text = (MINIWEB.parent / "webtext.cfg").read_text(encoding="utf-8").replace("network = true\n", f"{more}\n")
    (folder / "webtext.cfg").write_text(text, encoding="utf-8")
    program = (
        "import dataclasses, json, pipelines.tasks\n"
        "from pipelines.config import SECTIONS, read_settings\n"
        "found = read_settings()\n"
        "print(json.dumps({name: dataclasses.asdict(found[name]) for name in SECTIONS}))\n"
    )
    environment = os.environ | {"LUIGI_CONFIG_PATH": str(folder / "webtext.cfg")}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=MINIWEB.parents[1], env=environment
    )


def test_webtext_cfg_gives_the_papers_settings_over_those_of_the_miniature_web(tmp_path: Path) -> None:
    answer = settings_of_webtext_cfg(tmp_path, "network = true\ncontact = https://example.org/crawler")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert (found["select"]["min_karma"], found["select"]["karma_rule"]) == (3, "max")
    assert found["select"]["until"] == "2017-12-31"
    assert found["select"]["allow_wikipedia"] is False
    assert found["filter"]["languages"] == ["en"]
    assert found["corpus"]["validation_fraction"] == 0.05
    assert found["tokenizer"]["vocab_size"] == 50257
    assert (found["model"]["preset"], found["model"]["layers"], found["model"]["context"]) == ("gpt2", None, 1024)
    assert "miniweb" not in answer.stdout


def test_webtext_cfg_asks_for_a_contact_before_it_fetches_from_anyone(tmp_path: Path) -> None:
    answer = settings_of_webtext_cfg(tmp_path, "network = true")
    assert answer.returncode != 0
    assert "[fetch] contact: expected a mail address or a URL" in answer.stderr.splitlines()[-1]
