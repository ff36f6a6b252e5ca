"""benchmarks/miniweb.py: a generated web holds what its truth says."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from webtext.archives import Capture, judge, read_captures
from webtext.links import SelectSettings, aggregate, key_submissions
from webtext.reddit import Removals, read_dump
from webtext.urls import canonical_url, document_id

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "miniweb.py"


@pytest.fixture(scope="module")
def miniweb() -> ModuleType:
    name = "benchmarks_miniweb"
    spec = importlib.util.spec_from_file_location(name, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def web(miniweb: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("web")
    shares = miniweb.Shares(hostile=0.02, empty=0.03, not_html=0.03, malformed=0.01, private=0.01)
    truth = miniweb.generate(
        directory, num_links=1500, num_pages=300, seed=3, shares=shares, num_dumps=4, pages_per_archive=128
    )
    return directory, truth


def rows_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def captures_of(directory: Path) -> dict[str, Capture]:
    found = [item for path in sorted((directory / "archives").iterdir()) for item in read_captures(path)]
    captures = {item.url: item for item in found if isinstance(item, Capture)}
    assert len(captures) == len(found)  # no damage, and no page twice
    return captures


def words(text: str) -> set[tuple[str, ...]]:
    found = text.lower().split()
    return {tuple(found[at : at + 5]) for at in range(len(found) - 4)}


def test_the_same_arguments_give_the_same_bytes_and_another_seed_does_not(miniweb: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        miniweb.generate(tmp_path / name, num_links=60, num_pages=20, seed=seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert files_of(tmp_path / "a") != files_of(tmp_path / "c")


def test_posts_are_counted_by_kind_as_a_reader_of_dumps_finds_them(web: tuple[Path, Any]) -> None:
    directory, truth = web
    assert len({Path(name).suffix for name in truth.dumps}) == 4
    read, drops = 0, Counter[str]()
    for name in truth.dumps:
        for batch in read_dump(directory / "dumps" / name):
            read += batch.submissions.num_rows
            drops.update(batch.drops.column("reason").to_pylist())
    assert sum(truth.posts.values()) == truth.num_links == read + drops.total()
    assert drops["bad_line"] == truth.posts["malformed"] > 0
    assert drops["self_post"] == truth.posts["self"] > 0


def test_selection_finds_the_pages_that_the_truth_calls_selected(web: tuple[Path, Any]) -> None:
    """Through every spelling of an address: the number of distinct pages is exact."""
    directory, truth = web
    settings, keyed, drops = SelectSettings(allow_over_18=False), [], Counter[str]()
    for name in truth.dumps:
        for batch in read_dump(directory / "dumps" / name):
            kept, dropped = key_submissions(batch.submissions, settings, Removals())
            keyed.append(pa.Table.from_batches([kept]))
            drops.update(dropped.column("reason").to_pylist())
    links, _ = aggregate(pa.concat_tables(keyed), settings)
    expected = {document_id(canonical_url(row["url"])) for row in rows_of(directory) if row["selected"]}
    assert set(links.column("id").to_pylist()) == expected
    assert links.num_rows == truth.selected == sum(truth.selected_pages.values())
    assert drops["wikipedia"] == truth.posts["wikipedia"] > 0
    assert drops["private_host"] == truth.posts["private"] > 0
    assert drops["removed"] == truth.posts["removed"] > 0
    assert drops["over_18"] == truth.posts["over_18"] > 0


def test_captures_answer_as_their_kind_says(web: tuple[Path, Any]) -> None:
    directory, truth = web
    captures = captures_of(directory)
    rows = rows_of(directory)
    assert Counter(row["kind"] for row in rows) == truth.pages
    assert len(captures) == truth.captures
    assert len(list((directory / "archives").iterdir())) == 3
    outcomes: dict[str, set[str]] = {}
    for row in rows:
        capture = captures.get(row["url"])
        outcome = judge(capture, 20_000_000).outcome if capture else "in no archive"
        outcomes.setdefault(row["kind"], set()).add(outcome)
    for kind in ("article", "near_duplicate", "exact_duplicate", "foreign"):
        assert outcomes[kind] == {"ok"}, kind
    assert outcomes["dead"] == {"not_found", "in no archive"}


def test_exact_duplicates_are_the_bytes_and_near_duplicates_the_words_of_their_source(
    miniweb: ModuleType, web: tuple[Path, Any]
) -> None:
    directory, _ = web
    captures = captures_of(directory)
    rows = rows_of(directory)
    exact = [row for row in rows if row["kind"] == "exact_duplicate"]
    assert exact
    for row in exact:
        source = rows[row["copy_of"]]
        assert judge(captures[row["url"]], 1 << 24).payload == judge(captures[source["url"]], 1 << 24).payload
        assert source["kind"] == "article"

    web_of = miniweb.Web(3, 300, miniweb.Shares(hostile=0.02, empty=0.03, not_html=0.03, malformed=0.01, private=0.01),
                         miniweb.Sentences.read(None, 200_000))  # fmt: skip
    text = {number: words(" ".join(web_of.page(number).paragraphs)) for number in range(300)}
    near = [row for row in rows if row["kind"] == "near_duplicate"]
    alike = [
        len(text[row["page"]] & text[row["copy_of"]]) / len(text[row["page"]] | text[row["copy_of"]]) for row in near
    ]
    assert min(alike) > 0.5
    assert max(alike) < 1
    articles = [row["page"] for row in rows if row["kind"] == "article"][:60]
    chance = [len(text[a] & text[b]) / len(text[a] | text[b]) for a in articles for b in articles if a < b]
    assert max(chance) < 0.3  # two pages that were not planted alike are not


def test_shares_come_out_as_asked_for(miniweb: ModuleType, tmp_path: Path) -> None:
    shares = miniweb.Shares(near_duplicate=0.3, self=0.6)
    truth = miniweb.generate(tmp_path, num_links=2000, num_pages=400, seed=9, shares=shares)
    assert truth.pages["near_duplicate"] / 400 == pytest.approx(0.3, abs=0.08)
    assert truth.posts["self"] / 2000 == pytest.approx(0.6, abs=0.05)


def test_fewer_links_than_pages_leave_pages_without_a_post(miniweb: ModuleType, tmp_path: Path) -> None:
    truth = miniweb.generate(tmp_path, num_links=10, num_pages=50, seed=4)
    assert truth.linked == truth.posts["page"] <= 10
    assert sum(row["linked"] for row in rows_of(tmp_path)) == truth.linked


def test_bad_arguments_are_said_in_one_line(miniweb: ModuleType, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="at least one page"):
        miniweb.generate(tmp_path, num_links=1, num_pages=0)
    with pytest.raises(ValueError, match="in sum"):
        miniweb.Shares(dead=0.5, foreign=0.5)
    assert miniweb.main(["--output", str(tmp_path), "--data", str(tmp_path / "missing.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_text_may_come_from_a_file_of_ones_own(miniweb: ModuleType, tmp_path: Path) -> None:
    lines = [
        json.dumps(
            {"text": f"The sentence number {n} of this file is told here. It has the sister {n} beside it, too."}
        )
        for n in range(300)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    web = miniweb.Web(0, 5, miniweb.Shares(), miniweb.Sentences.read(tmp_path / "own.jsonl", 1000))
    assert "of this file is told here." in web.page(0).paragraphs[0] or "beside it" in web.page(0).paragraphs[0]


def test_real_news_gives_whole_sentences(miniweb: ModuleType, shared_data: Path) -> None:
    sentences = miniweb.Sentences.read(shared_data / "text" / "bbc-news.jsonl.zst", 5000)
    assert len(sentences.english) == 5000
    assert all(40 <= len(text) <= 400 and text[-1] in ".!?" for text in sentences.english)
