"""The reports: their numbers are the seals', they open offline, and nothing of the web escapes into them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import builds

from dedup.lsh import PAIR_SCHEMA, VERDICT_SCHEMA
from dedup.overlap import ROWS_SCHEMA, WORST_SCHEMA
from pipelines import charts, measure, report, storage
from pipelines.config import settings_class
from pipelines.funnel import funnel, split_sizes
from pipelines.stage import sealed_records
from webtext.records import CORPUS_SCHEMA, DOCUMENT_SCHEMA, KEYED_SCHEMA

PAGES = ("report/index.html", "report/dedup/index.html", "overlap/index.html")
CORE = {"no_lock": "true"}  # Luigi's lock is on the command line, and other tests run the same one elsewhere
NO_GIT = {"GIT_DIR": "/nowhere"}  # somebody may commit between two builds that are compared
HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\x1b\u202e"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished build of the miniature web, for reading only."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "domains.txt").write_text("90 thelantern\n50\n40 example\n")
    settings = builds.write_settings(
        folder / "settings.cfg", folder / "root", corpus={"webtext_domains": folder / "domains.txt"}, core=CORE
    )
    done = builds.run(settings, environment=NO_GIT)
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder / "root"


@pytest.fixture(scope="module")
def facts(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "report" / "report.json").read_text())
    return found


def test_the_readme_shows_the_funnel_of_the_miniature_web(built: Path) -> None:
    """Up to the last filter: its settings split train and validation otherwise, the numbers before are the same."""

    def rows(text: str) -> dict[str, int]:
        return {
            name: int(n.replace(",", "")) for name, n in re.findall(r"^ *(?:- )?([a-z_ ]+?)  +([\d,]+)\b", text, re.M)
        }

    shown = rows((builds.REPOSITORY / "README.md").read_text().split("Funnel of data")[1].split("report   ")[0])
    found = rows((built.parent / "output.txt").read_text())
    splits = ("train documents", "validation documents")
    assert len(shown) > 8
    assert sum(shown.pop(name) for name in splits) == sum(found.pop(name) for name in splits)
    assert shown.items() <= found.items()


class Page(html.parser.HTMLParser):
    """The elements of a page, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# The corpus ----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_report_are_those_of_the_seals(built: Path, facts: dict[str, Any]) -> None:
    steps = funnel(built)
    assert [(step["stage"], step["entered"], step["left"]) for step in facts["funnel"]] == [
        (step.stage, step.entered, step.left) for step in steps
    ]
    sizes = split_sizes(built)
    tokens = sealed_records(built / "tokens")["meta"][0].counts
    assert {split["name"]: split["tokens"] for split in facts["splits"]} == tokens
    assert facts["documents"] == sum(size["documents"] for size in sizes.values()) == steps[-1].left
    assert facts["bytes"] == sum(size["bytes"] for size in sizes.values())
    for key in ("languages", "audited"):
        assert sum(row["bytes"] for row in facts[key]) == facts["bytes"]
    assert sum(row[1] for row in facts["lengths"]) == sum(row[1] for row in facts["domains"]) == facts["documents"]
    extracted = sealed_records(built / "documents")["extract"]
    assert facts["personal"]["emails"] == sum(record.counts["emails"] for record in extracted)
    dropped = sealed_records(built / "dedup")["decide"][0].drops
    assert {reason: facts["dedup"]["documents"][reason] for reason in dropped} == dropped
    keyed = sealed_records(built / "selected")["key"]
    assert sum(row["posts"] for row in facts["months"]) == sum(record.counts["links"] for record in keyed) > 0
    assert sum(links for _, links in facts["ages"]) == steps[3].entered
    page = Page((built / "report" / "index.html").read_text())
    for step in steps:
        assert f"{step.entered:,} {step.entered - step.left:,} {step.left:,}" in page.text


def test_the_use_of_the_vocabulary_is_counted_on_every_token(built: Path, facts: dict[str, Any]) -> None:
    from model import data

    use = np.zeros(600, np.int64)
    for split in ("train", "validation"):
        for path in (built / "tokens").glob(f"{split}-*.bin"):
            use += np.bincount(np.fromfile(path, np.uint16, offset=data.HEADER_BYTES), minlength=600)
    assert facts["tokenizer"]["unused"] == (use[:599] == 0).sum()
    assert facts["tokenizer"]["used_once"] == (use[:599] == 1).sum()
    train = next(row for row in facts["tokenizer"]["sets"] if row["name"] == "train")
    size = split_sizes(built)["train"]
    assert (train["texts"], train["text_bytes"]) == (size["documents"], size["bytes"])
    documents_end = size["documents"]  # each has one end-of-text, which is no token of its text
    assert train["tokens"] == sealed_records(built / "tokens")["meta"][0].counts["train"] - documents_end


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_offline_and_its_links_lead_somewhere(built: Path, page: str) -> None:
    path = built / page
    text = path.read_text()
    seen = Page(text)
    assert not {tag for tag, _ in seen.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "video",
        "base",
    }
    ids = {attributes["id"] for _, attributes in seen.elements if "id" in attributes}
    for tag, attributes in seen.elements:
        assert not {name for name in attributes if name.startswith("on")}
        assert not set(attributes) & {"src", "srcset", "background", "xlink:href"}
        if tag == "a":
            href = attributes["href"] or ""
            if href.startswith("#"):
                assert href[1:] in ids
            elif not href.startswith(("http://", "https://")):
                assert (path.parent / href).exists(), href
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("page", [*PAGES, "report/manifest.json", "report/report.json", "corpus/README.md"])
def test_an_output_names_no_folder_of_this_machine(built: Path, page: str) -> None:
    text = (built / page).read_text()
    assert str(built.parent) not in text
    assert str(builds.REPOSITORY) not in text
    assert str(Path.home()) not in text


def test_reports_are_the_same_bytes_in_another_folder_and_with_other_hash_seeds(built: Path, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere" / "data"
    shutil.copytree(built, root)
    shutil.rmtree(root / "report")
    (root / "corpus" / "README.md").unlink()
    (root / "corpus" / "_seal.json").write_text(_without_card(root / "corpus" / "_seal.json"))
    settings = builds.write_settings(
        tmp_path / "settings.cfg",
        root,
        corpus={"webtext_domains": built.parent / "domains.txt"},
        engine={"workers": 1},
        core=CORE,
    )
    done = builds.run(settings, environment={**NO_GIT, "PYTHONHASHSEED": "77"})
    assert done.returncode == 0, done.stderr
    work = builds.work_done(done.stderr)
    assert "report/report" in work
    assert "corpus/card" in work
    assert "corpus/shard" not in work
    assert builds.hashes(root) == builds.hashes(built)


def _without_card(path: Path) -> str:
    seal = json.loads(path.read_text())
    seal["phases"] = [phase for phase in seal["phases"] if phase["phase"] != "card"]
    return json.dumps(seal)


def test_hostile_titles_texts_and_addresses_stay_text(facts: dict[str, Any]) -> None:
    bad = copy.deepcopy(facts)
    bad["domains"][0][0] = bad["subreddits"][0][0] = HOSTILE
    quote = {"id": "0" * 32, "url": "javascript:alert(3)", "before": HOSTILE, "passage": HOSTILE, "after": HOSTILE}
    bad["demonstrations"][0]["quotes"] = [quote]
    bad["tokenizer"]["samples"] = [[HOSTILE, [HOSTILE]]]
    bad["settings"]["links"]["dumps"] = [HOSTILE]
    text = report.corpus_page(bad)
    plain, seen = Page(report.corpus_page(facts)), Page(text)
    assert {tag for tag, _ in seen.elements} <= {tag for tag, _ in plain.elements} | {"mark", "blockquote", "cite"}
    assert not [href for _, attributes in seen.elements if (href := attributes.get("href") or "").startswith("java")]
    assert "alert(1)" in seen.text
    assert "\x1b" not in text


def test_the_console_says_where_the_pages_are(built: Path) -> None:
    output = (built.parent / "output.txt").read_text()
    for page in PAGES:
        assert str(built / page) in output


def test_shards_measured_apart_add_up_to_the_whole(built: Path, tmp_path: Path) -> None:
    paths = sorted((built / "corpus" / "data").glob("train-*.parquet"))
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in paths]), whole)

    def values(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "lengths": np.asarray(found["lengths"]).tolist()}

    apart = measure.added_up(measure.measure_shard(path)[0] for path in reversed(paths))
    assert values(apart) == values(measure.added_up([measure.measure_shard(whole)[0]]))
    assert apart["documents"] > 50


# Natural demonstrations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        # Sentences in the form of those that the paper's table 1 quotes.
        ("translation", "I am no genius, but as they say in French: Je ne suis pas un imbecile, and that will do."),
        ("translation", 'The plate reads "Brevet Sans Garantie Du Gouvernement", translated to English: "Patented".'),
        ("translation", "a word that can be translated into English as “the one who waits”, more or less"),
        ("translation", "French: Il pleut depuis hier.\nEnglish: It has rained since yesterday."),
        ("summary", "A long story about a boat.\n\nTL;DR: do not buy a boat."),
        ("summary", "tldr it sank"),
        ("question", "Q: Where did it sink?\nA: Off the point."),
        ("question", "Question: Where did it sink?\n\nAnswer: Off the point, at night."),
    ],
)
def test_a_text_that_holds_a_task_is_found(kind: str, text: str) -> None:
    found = measure.find_demonstrations(["a" * 32], ["u"], pa.array([f"Before.\n{text}\nAfter."]))
    assert [occurrences for occurrences, _ in found[kind]] == [1]
    assert {other for other, hits in found.items() if hits} == {kind}


@pytest.mark.parametrize(
    "text",
    [
        "The talks in English, French and German were translated for everyone.",
        "He was educated in French schools and moved to English county cricket.",
        "Questions: none. A: the first letter. The Q: line runs downtown.",
        "The tl;drs of this world; a title; draft.",
        "Q: Is anyone there?\nNobody said a word.",
    ],
)
def test_a_text_that_only_looks_like_a_task_is_not_counted(text: str) -> None:
    assert not any(measure.find_demonstrations(["a" * 32], ["u"], pa.array([text])).values())


def test_quotes_are_a_sample_that_order_and_sharding_do_not_change(tmp_path: Path) -> None:
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(60)]
    halves = []
    for part in (ids[:20], ids[20:]):
        rows = [_row(id, f"Something long.\nTL;DR: {id}") for id in part]
        path = tmp_path / f"{part[0]}.parquet"
        storage.write_parquet(path, CORPUS_SCHEMA, [pa.Table.from_pylist(rows, CORPUS_SCHEMA)])
        halves.append(measure.measure_shard(path)[0])
    one, other = measure.added_up(halves), measure.added_up(reversed(halves))
    assert one["quotes"] == other["quotes"]
    assert [quote["id"] for quote in one["quotes"]["summary"]] == sorted(ids, key=measure.sample_key)[: measure.QUOTES]
    assert one["demonstrations"]["summary"] == {"documents": 60, "occurrences": 60}


def _row(id: str, text: str) -> dict[str, Any]:
    return {
        **{"id": id, "url": f"https://a.example/{id}", "text": text, "title": None, "language": "en"},
        **{"language_score": 1.0, "domain": "a.example", "subreddit": None, "post_id": "x", "karma": 3, "num_posts": 1},
        **{"created_at": None, "fetched_at": "2020-01-01T00:00:00Z", "extractor": "t"},
        **{"num_words": len(text.split()), "num_bytes": len(text.encode())},
    }


# Karma, domains, charts ----------------------------------------------------------------------------------------------


def test_a_month_whose_scores_are_all_one_is_named(tmp_path: Path) -> None:
    rows = [
        {"id": "a" * 32, "domain": "a.example", "post_id": str(number), "url": "u", "karma": karma, "created_at": when}
        for when, karmas in ((1_300_000_000, [1] * 12), (1_400_000_000, [1] * 11 + [2]), (1_500_000_000, [1] * 3))
        for number, karma in enumerate(karmas)
    ]
    path = tmp_path / "keyed.parquet"
    storage.write_parquet(path, KEYED_SCHEMA, [pa.Table.from_pylist(rows, KEYED_SCHEMA)])
    months = measure.karma_months(path).to_pylist()
    assert [row["posts"] for row in months] == [12, 12, 3]
    assert report.silent_months(months) == ["2011-03"]


def test_spearman_compares_domains_without_their_suffix(tmp_path: Path) -> None:
    listed = tmp_path / "domains.txt"
    listed.write_text("400 bbc\n300 cnn\n\n250\n200 nytimes\n100 github\n")
    ours = [["nytimes.com", 5, 1], ["bbc.co.uk", 6, 1], ["cnn.com", 6, 1], ["bbc.com", 3, 1], ["new.example", 90, 1]]
    found = report.compare_domains(ours, listed)
    assert (found["listed"], found["present"]) == (4, 3)
    assert found["spearman"] == 1.0
    assert found["top"][0] == ["bbc", 400, 9]
    reverse = [["github.com", 9, 1], ["nytimes.com", 6, 1], ["cnn.com", 2, 1]]
    assert report.compare_domains(reverse, listed)["spearman"] == -1.0
    assert report.compare_domains([], listed)["spearman"] is None
    listed.write_text("google 400\n")
    with pytest.raises(ValueError, match=r"domains\.txt line 1: expected a count and a domain"):
        report.compare_domains(ours, listed)


@pytest.mark.parametrize("largest", [0, 1, 3, 7, 10, 99, 1_000, 123_456_789])
def test_axes_end_at_a_round_number_above_the_largest(largest: int) -> None:
    ticks = charts.nice_ticks(largest)
    assert ticks[0] == 0
    assert largest <= ticks[-1] <= max(1, 2 * largest)
    assert 2 <= len(ticks) <= 7
    assert all(tick == int(tick) for tick in ticks)


def test_columns_stand_as_high_as_their_numbers_on_top_of_each_other() -> None:
    chart = charts.columns("t", ["a", "b", "c"], [[10, 5], [0, 20], [0, 0]], names=("x", "y"))
    first, second, third = chart.boxes
    assert first.height == pytest.approx(2 * second.height, abs=0.02)
    assert third.height == pytest.approx(4 * second.height, abs=0.02)
    assert second.y + second.height == pytest.approx(first.y, abs=0.02)
    assert first.x == second.x < third.x
    assert third.title == "b: y, 20"


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (1234567, "count", "1,234,567"),
        (None, "count", "–"),
        (0, "bytes", "0 bytes"),
        (1_234_567, "bytes", "1.2 MB"),
        (0.5, "percent", "50.0%"),
        (0.00012, "percent", "0.012%"),
        (1.0, "percent", "100%"),
        (0.0267, "hundredths", "2.67"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: float | None, kind: str, text: str) -> None:
    environment = report._templates()
    assert environment.from_string("{{ value | show_as(kind) }}").render(value=value, kind=kind) == text


# Duplicates ----------------------------------------------------------------------------------------------------------


def _id(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Twelve documents: a cluster of six (four near, one exact), a pair, and four alone; one more was filtered."""
    folder = tmp_path_factory.mktemp("dedup")
    leader = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 7, 8: 7}
    verdicts = [
        {
            "id": _id(number),
            "kept": leader.get(number, number) == number,
            "reason": None if leader.get(number, number) == number else "exact" if number == 6 else "near",
            "duplicate_of": None,
            "similarity": None if leader.get(number, number) == number else 0.9,
            "component": _id(leader.get(number, number)),
            "cluster": _id(leader.get(number, number)),
            "transitive": False,
        }
        for number in range(1, 13)
    ]
    pairs = [
        {"a": _id(1), "b": _id(number), "estimated": 0.88, "exact": None, "bands": 3, "accepted": True}
        for number in range(2, 7)
    ]
    pairs.append({"a": _id(9), "b": _id(10), "estimated": 0.76, "exact": 0.71, "bands": 1, "accepted": False})
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    documents = [
        {
            **dict.fromkeys((field.name for field in DOCUMENT_SCHEMA), None),
            **{"id": _id(number), "url": f"https://www.site{number % 2}.example/{number}"},
            **{"text": f"{HOSTILE} {' '.join(words * 5)} {number}", "language": "en", "language_score": 1.0},
            **{"fetched_at": 0, "extractor": "t", "num_words": 60, "num_bytes": 100 + number},
        }
        for number in range(1, 14)
    ]
    for name, schema, rows in (
        ("verdicts", VERDICT_SCHEMA, verdicts),
        ("pairs", PAIR_SCHEMA, pairs),
        ("documents", DOCUMENT_SCHEMA, documents),
    ):
        storage.write_parquet(folder / name, schema, [pa.Table.from_pylist(rows, schema)])
    return {name: [folder / name] for name in ("verdicts", "pairs", "documents")}


def test_the_report_on_duplicates_counts_what_is_planted(planted: dict[str, list[Path]], tmp_path: Path) -> None:
    dedup = settings_class("dedup")(giant_cluster=6)
    minhash = settings_class("minhash")()
    report.write_dedup(planted, tmp_path, dedup, minhash)
    found = json.loads((tmp_path / "dedup.json").read_text())
    assert found["documents"] == {"kept": 6, "near": 5, "exact": 1}
    assert found["bytes"] == {"kept": 600 + 1 + 7 + 9 + 10 + 11 + 12, "near": 500 + 2 + 3 + 4 + 5 + 8, "exact": 106}
    assert (found["clusters"], found["largest"]) == (2, 6)
    assert found["giant"] == [{"cluster": _id(1), "documents": 6}]
    assert [(row["at_least"], row["clusters"], row["documents"]) for row in found["cluster_sizes"]] == [
        (2, 1, 2),
        (4, 1, 6),
    ]
    assert found["pairs"] == {"compared": 6, "accepted": 5, "refused": 1, "exact": 1}
    cells = {row["at_least"]: (row["accepted"], row["refused"]) for row in found["similarities"]}
    assert cells[0.85] == (5, 0)
    assert cells[0.7] == (0, 1)
    assert found["domains"] == [["site0.example", 4], ["site1.example", 2]]
    assert [cluster["documents"] for cluster in found["quoted"]] == [6, 2]
    assert [member["kept"] for member in found["quoted"][0]["members"]] == [True, False, False, False]
    page = Page((tmp_path / "index.html").read_text())
    assert "Giant clusters" in page.text
    assert "script" not in {tag for tag, _ in page.elements}
    for row in found["planted"]:
        assert row["pairs"] == 12  # the thirteenth document was not looked at
        assert abs(row["found"] - row["expected"]) <= 4 * max(1.0, row["standard_error"])


def test_a_build_without_duplicates_has_its_report_too(planted: dict[str, list[Path]], tmp_path: Path) -> None:
    alone = tmp_path / "verdicts"
    table = pq.read_table(planted["verdicts"][0])
    pq.write_table(table.slice(8), alone)
    empty = tmp_path / "pairs"
    pq.write_table(PAIR_SCHEMA.empty_table(), empty)
    inputs = {**planted, "verdicts": [alone], "pairs": [empty]}
    report.write_dedup(inputs, tmp_path, settings_class("dedup")(), settings_class("minhash")())
    page = Page((tmp_path / "index.html").read_text())
    assert "No document is a duplicate of another." in page.text
    assert "Giant clusters" not in page.text


def test_duplicates_of_somebodys_own_text_are_reported_and_the_page_is_named(tmp_path: Path) -> None:
    texts = [f"{number} " + "the same long enough story of a boat that sank at night " * 9 for number in (1, 1, 2)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = builds.write_settings(tmp_path / "settings.cfg", tmp_path / "root", core=CORE)
    done = builds.run(settings, "--input", str(tmp_path / "*.jsonl"), task="DedupReport")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "root" / "own" / "report" / "dedup"
    assert str(folder / "index.html") in done.stdout
    found = json.loads((folder / "dedup.json").read_text())
    assert found["documents"]["exact"] == 1
    assert found["domains"][0][0] == "mine.jsonl"


# Overlap -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Tables:
    rows: Any
    worst: Any
    corpus: Any


def _overlap_row(**values: Any) -> dict[str, Any]:
    given = {"file": "f", "file_sha256": "0", "n": 8, "ngrams": 1000, "found": 27, "share": 0.0267, "distinct": 900}
    given |= {"distinct_found": 20, "distinct_share": 20 / 900, "protocol": "gpt2-tokens", "unit": "file"}
    return {**dict.fromkeys(ROWS_SCHEMA.names, None), **given, **values}


def _tables(rows: list[dict[str, Any]], worst: list[dict[str, Any]]) -> Tables:
    corpus = pa.table({"protocol": pa.array([], pa.string())})
    return Tables(pa.Table.from_pylist(rows, ROWS_SCHEMA), pa.Table.from_pylist(worst, WORST_SCHEMA), corpus)


def test_the_papers_table_stands_beside_ours(tmp_path: Path) -> None:
    rows = [
        _overlap_row(set="PennTreebank", against="own train", paper_percent=2.67),
        _overlap_row(set="PennTreebank", against="corpus", share=0.0093, paper_percent=0.88),
        _overlap_row(set="mine", against="corpus", share=0.5),
    ]
    found = {row["set"]: row["numbers"] for row in report.paper_rows(rows)}
    assert found["ptb"] == [pytest.approx(2.67), 2.67, pytest.approx(0.93), 0.88]
    assert found["mine"] == [None, None, 50.0, None]
    assert found["enwik8"] == [None, 7.5, None, 6.31]
    report.write_overlap(tmp_path / "index.html", _tables(rows, []), settings_class("overlap")())
    assert "ptb 2.67 2.67 0.93 0.88" in Page((tmp_path / "index.html").read_text()).text


def test_worst_examples_are_quoted_with_their_documents(tmp_path: Path) -> None:
    one = {"protocol": "words", "set": HOSTILE, "example": 7, "example_id": "q7", "ngrams": 9, "found": 8}
    one["passage"] = f"seen before {HOSTILE}"
    worst = [
        {**one, "id": _id(number), "url": url, "document_ngrams": number}
        for number, url in ((5, "https://a.example/x"), (3, "javascript:alert(1)"))
    ]
    report.write_overlap(tmp_path / "index.html", _tables([], worst), settings_class("overlap")())
    page = Page((tmp_path / "index.html").read_text())
    assert "8 of 9 n-grams" in page.text
    assert f"5 in {_id(5)}" in page.text
    assert [
        attributes["href"] for tag, attributes in page.elements if tag == "a" and "#" not in attributes["href"]
    ] == ["https://a.example/x"]
    assert "script" not in {tag for tag, _ in page.elements}
    exact, bloom = (
        (report.write_overlap(tmp_path / "p", _tables([], []), settings_class("overlap")(mode=mode)), tmp_path / "p")[1]
        .read_text()
        .count("names no documents")
        for mode in ("exact", "bloom")
    )
    assert (exact, bloom) == (0, 1)


# Manifest and card ---------------------------------------------------------------------------------------------------


def test_the_manifest_lists_every_file_with_its_digest(built: Path) -> None:
    manifest = json.loads((built / "report" / "manifest.json").read_text())
    own = {"report/manifest.json", "report/_seal.json"}  # written after it
    expected = {name: digest for name, digest in builds.hashes(built).items() if name not in own}
    expected = {name: digest for name, digest in expected.items() if not name.startswith("pages/.archives/")}
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == expected
    for name, file in manifest["files"].items():
        assert file["bytes"] == (built / name).stat().st_size
        if name.startswith("corpus/data/"):
            assert file["rows"] == pq.read_metadata(built / name).num_rows
    assert manifest["versions"]["pyarrow"] == pa.__version__
    assert set(manifest["unicode"]) == {"words", "tokens", "python"}
    assert "engine" not in manifest["settings"]
    assert manifest["settings"]["tokenizer"]["vocab_size"] == 600


def test_settings_are_shown_without_secrets_and_folders() -> None:
    given = {"links": {"client_secret": "x", "praw_site": "y", "dumps": ["/home/me/a.zst", "b/*.zst"], "api_limit": 7}}
    assert report.public_settings(given) == {"links": {"dumps": ["a.zst", "b/*.zst"], "api_limit": 7}}


def test_the_commit_is_that_of_the_checkout_or_nothing(tmp_path: Path) -> None:
    assert report.git_commit(tmp_path) is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@e.example", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert report.git_commit(tmp_path) is None
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert report.git_commit(tmp_path) == head


def test_the_corpus_loads_with_datasets(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(built / "corpus"), cache_dir=str(tmp_path))
    sizes = split_sizes(built)
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: size["documents"] for split, size in sizes.items()
    }
    assert loaded["train"].column_names == CORPUS_SCHEMA.names
    assert {name: feature.dtype for name, feature in loaded["train"].features.items()} == {
        one.name: str(one.type).replace("float", "float32") if str(one.type) == "float" else str(one.type)
        for one in CORPUS_SCHEMA
    }


def test_the_corpus_loads_with_duckdb_and_polars(built: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    pattern = f"{built}/corpus/data/train-*.parquet"
    size = split_sizes(built)["train"]
    counted = duckdb.sql(f"SELECT count(*), sum(num_bytes), sum(strlen(text)) FROM '{pattern}'").fetchall()
    assert counted == [(size["documents"], size["bytes"], size["bytes"])]
    frame = polars.scan_parquet(pattern).select(polars.len(), polars.col("num_bytes").sum()).collect()
    assert frame.row(0) == (size["documents"], size["bytes"])


def test_the_card_tells_fields_counts_and_what_left(built: Path) -> None:
    card = (built / "corpus" / "README.md").read_text()
    assert set(report.MEANINGS) == set(CORPUS_SCHEMA.names)
    for name in CORPUS_SCHEMA.names:
        assert f"| `{name}` |" in card
    lost = {(step.stage, reason): number for step in funnel(built)[3:] for reason, number in step.drops.items()}
    for (stage, reason), number in lost.items():
        assert f"| {stage} | {reason} | {number:,} |" in card
    for split, size in split_sizes(built).items():
        assert f"| {split} | {size['documents']:,} | {size['bytes']:,} |" in card


def test_templates_are_part_of_the_package() -> None:
    folder = Path(report.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} >= {
        "base.html.j2",
        "card.md.j2",
        "index.html.j2",
        "overlap.html.j2",
    }


def test_a_budget_of_text_ends_between_texts() -> None:
    arrays = [pa.array(["aaaa", "bb"]), pa.array(["cc", "d"])]
    assert [part.to_pylist() for part in measure.batches_of(iter(arrays), 9)] == [["aaaa", "bb"], ["cc", "d"]]
    assert [part.to_pylist() for part in measure.batches_of(iter(arrays), 8)] == [["aaaa", "bb"], ["cc"]]
    assert [part.to_pylist() for part in measure.batches_of(iter(arrays), 5)] == [["aaaa"]]
    assert list(measure.batches_of(iter(arrays), 3)) == []
