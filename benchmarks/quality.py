"""What each rule of webtext.quality drops of pages that people picked, and how fast the rules run.

    python benchmarks/quality.py              # drop rates of each rule alone and of the defaults, gold texts and news
    python benchmarks/quality.py --extracted  # the same on what our extraction makes of the pages (minutes)
    python benchmarks/quality.py --speed      # MB/s of all rules on one core, beside datatrove's rules in pure Python

The gold: human-reviewed main texts of articles, documentation and forums (English by the detector). A rule that drops a
page which people chose as an article is wrong about it; the defaults may drop at most 1%. The defaults were chosen on
these texts, so their rate there is no forecast. Held out from that choice: 2,225 articles of the BBC and every 40th of
Reuters' collection; these say what the defaults do to prose that nobody tuned them on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from webtext.parser import clean_text, detect_language
from webtext.quality import QualitySettings, drop_reasons, measures

HELD_OUT = ("BBC", "Reuters")
COLUMNS = ("id", "text", "language", "language_score", "kind")
OFF: dict[str, Any] = {"languages": (), "c4_lorem_ipsum": False, "c4_curly_bracket": False, "c4_bad_words": ()}
PAPERS: dict[str, Any] = {  # what the papers say, where the default says something else or nothing
    "min_language_score": 0.65,
    "gopher_min_words_with_letter": 0.8,
    "gopher_max_duplicate_lines": 0.3,
    "gopher_max_duplicate_line_chars": 0.2,
    "gopher_max_duplicate_5grams": 0.15,
    "gopher_max_duplicate_6grams": 0.14,
    "gopher_max_duplicate_7grams": 0.13,
    "gopher_max_duplicate_8grams": 0.12,
    "gopher_max_duplicate_9grams": 0.11,
    "gopher_max_duplicate_10grams": 0.1,
    "fineweb_min_punctuated_lines": 0.12,
    "fineweb_max_duplicate_line_chars": 0.1,
    "fineweb_max_short_lines": 0.67,
    "c4_min_sentences": 5,
    "c4_curly_bracket": True,
    "c4_min_kept_words": 0.5,
}


def gold_documents(data: Path, *, extracted: bool) -> pa.Table:
    """id, text, language, language_score and kind of each page with a gold text (or of each extracted page)."""
    rows = []
    if extracted:
        from extract import read_pages  # benchmarks/extract.py, beside this file

        from webtext.extract import ExtractSettings, extract_pages

        pages = read_pages(data, None)
        found = extract_pages([page for page, _ in pages], ExtractSettings())
        for (_, gold), extraction in zip(pages, found, strict=True):
            if document := extraction.document:
                rows.append((document.id, document.text, document.language, document.language_score, gold.kind))
    else:
        with (data / "pages" / "gold.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row.get("text"):
                    text = clean_text(row["text"])
                    rows.append((row["url"], text, *detect_language(text), row["page_type"]))
    return pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))


def news_documents(data: Path) -> pa.Table:
    """The same columns for articles that had no part in the choice of the defaults."""
    rows = []
    for kind, pattern, step in (("BBC", "bbc-news.jsonl.zst", 1), ("Reuters", "reuters-*.jsonl.zst", 40)):
        number = 0
        for path in sorted((data / "text").glob(pattern)):
            with zstandard.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    if number % step == 0:
                        row = json.loads(line)
                        text = clean_text(_WIRE_HEADER.sub("", row["text"]) if kind == "Reuters" else row["text"])
                        rows.append((row["id"], text, *detect_language(text), kind))
                    number += 1
    return pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))


_WIRE_HEADER = re.compile(r"\A(?:-- .*\n)+")  # title, author, date and address, which the collection put there


def off() -> QualitySettings:
    """Every rule off."""
    numbers = {f.name: None for f in dataclasses.fields(QualitySettings) if f.type in ("int | None", "float | None")}
    return QualitySettings(**{**numbers, **OFF})


def rates(documents: pa.Table) -> bool:
    """Print the table; whether at most 1% of English articles fall to the defaults."""
    documents = documents.filter(pc.equal(documents["language"], "en"))
    kinds = Counter(documents["kind"].to_pylist())
    print(
        f"{'rule alone':40}{'default':>9}{'limit':>8}" + "".join(f"{f'{kind} ({n})':>22}" for kind, n in kinds.items())
    )
    defaults = QualitySettings()
    for field in dataclasses.fields(QualitySettings):
        default = getattr(defaults, field.name)
        limit = PAPERS.get(field.name, default)
        if field.name in ("languages", "c4_bad_words") or field.name.startswith("c4_line") or limit is None:
            continue
        print_row(documents, kinds, field.name, default, limit, dataclasses.replace(off(), **{field.name: limit}))
        if limit != default and default not in (None, False):
            print_row(documents, kinds, "", default, default, dataclasses.replace(off(), **{field.name: default}))
    dropped = print_row(documents, kinds, "all defaults", "", "", defaults)
    print_row(documents, kinds, "all, at the papers' limits", "", "", dataclasses.replace(defaults, **PAPERS))
    articles = kinds["article"]
    survive = 1 - dropped["article"] / articles
    print(f"English articles that survive the defaults: {survive:.2%} of {articles} (wanted: at least 99%)")
    for kind in HELD_OUT:
        if kinds[kind]:
            print(f"Held out, {kind}: {1 - dropped[kind] / kinds[kind]:.2%} of {kinds[kind]} survive the defaults")
    for drop, kind, url in zip(
        drop_reasons(documents, defaults), documents["kind"].to_pylist(), documents["id"].to_pylist(), strict=True
    ):
        if drop and kind in ("article", *HELD_OUT):
            print(f"  {drop.reason}: {drop.detail}  {url}")
    return survive >= 0.99


def print_row(
    documents: pa.Table, kinds: Counter[str], name: str, default: Any, limit: Any, settings: QualitySettings
) -> Counter[str]:
    drops = drop_reasons(documents, settings)
    dropped = Counter(kind for kind, drop in zip(documents["kind"].to_pylist(), drops, strict=True) if drop)
    shown = "off" if default in (None, False) else str(default)
    print(
        f"{name:40}{shown:>9}{limit!s:>8}"
        + "".join(f"{f'{dropped[kind]} ({dropped[kind] / n:.1%})':>22}" for kind, n in kinds.items())
    )
    return dropped


def speed(documents: pa.Table, rounds: int) -> bool:
    """Print MB/s of one core, all rules on, beside datatrove's filters where they are installed."""
    table = pa.concat_tables([documents] * 10).combine_chunks()
    size = pc.sum(pc.binary_length(table["text"])).as_py()
    everything = dataclasses.replace(
        QualitySettings(), languages=(), min_language_score=None, c4_min_kept_words=0.1, c4_curly_bracket=True
    )
    measures(table["text"].chunk(0).slice(0, 1), everything)  # compile, or load from the cache
    best = 1e9
    for _ in range(rounds):
        started = time.process_time()
        drop_reasons(table, everything)
        best = min(best, time.process_time() - started)
    ours = size / best / 1e6
    print(f"webtext.quality, all rules, one core: {ours:.0f} MB/s ({size / 1e6:.1f} MB, {len(table)} documents)")
    try:
        from datatrove.data import Document
        from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    except ImportError:
        print("datatrove is not installed here; `pip install datatrove[processing]` shows it beside ours")
        return bool(ours >= 10)
    filters = [GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter()]
    texts = documents["text"].to_pylist()
    started = time.process_time()
    for text in texts:
        for one in filters:
            one.filter(Document(text=text, id=""))
    theirs = sum(len(text.encode()) for text in texts) / (time.process_time() - started) / 1e6
    print(f"datatrove, Gopher and FineWeb filters:  {theirs:.2f} MB/s; ours is {ours / theirs:.0f} times as fast")
    return bool(ours >= 10)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with pages/ (default: %(default)s)")
    parser.add_argument("--extracted", action="store_true", help="rates on extracted pages instead of gold texts")
    parser.add_argument("--speed", action="store_true", help="measure speed instead of rates")
    parser.add_argument("--rounds", type=int, default=5, help="of --speed")
    options = parser.parse_args(arguments)
    documents = gold_documents(options.data, extracted=options.extracted)
    if options.speed:
        return 0 if speed(documents, options.rounds) else 1
    return 0 if rates(pa.concat_tables([documents, news_documents(options.data)])) else 1


if __name__ == "__main__":
    sys.exit(main())
