"""Extraction beside bare trafilatura and bare resiliparse, on pages whose main text people have marked.

    python benchmarks/extract.py                 # quality of the text, per page type, dropped pages scoring 0
    python benchmarks/extract.py --overhead      # time of isolation, gates, decoding, language against a bare loop
    python benchmarks/extract.py --pages 300     # the first so many pages only

Two kinds of gold. `segments`: strings that the main text must hold, and boilerplate that it must not; F1 over all
segments of the set, as trafilatura's own evaluation counts. `words`: a human-reviewed main text; F1 of the bags of
words of each page, averaged. Every line of the table is from this run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType

from webtext.extract import ExtractSettings, extract_pages
from webtext.records import Page

FETCHED_AT = 1_767_225_600  # 2026-01-01


@dataclass(frozen=True, slots=True)
class Gold:
    kind: str
    present: list[str]
    absent: list[str]
    text: str | None
    title: str | None


def read_pages(data: Path, limit: int | None) -> list[tuple[Page, Gold]]:
    """The pages that have gold, in the order of the archive."""
    gold = {}
    with (data / "pages" / "gold.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            gold[row["url"]] = Gold(
                row.get("page_type") or "evaluation set",
                row["present"],
                row["absent"],
                row.get("text"),
                row.get("title"),
            )
    found = []
    for path in sorted((data / "pages").glob("*.warc.gz")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
                url = record.headers.get("WARC-Target-URI")
                if url is None or url not in gold:
                    continue
                payload = record.reader.read()
                page = Page(
                    id=hashlib.sha256(url.encode()).hexdigest()[:32],
                    url=url,
                    final_url=url,
                    content_type=record.http_headers.get("Content-Type") or "",
                    payload=payload,
                    payload_sha256=hashlib.sha256(payload).hexdigest(),
                    fetched_at=FETCHED_AT,
                )
                found.append((page, gold[url]))
                if limit and len(found) >= limit:
                    return found
    return found


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def flat(text: str) -> str:
    return " ".join(text.split())


def scores(golds: list[Gold], texts: list[str]) -> dict[str, float]:
    """Name of a set -> F1."""
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    pages: dict[str, list[float]] = defaultdict(list)
    for gold, text in zip(golds, texts, strict=True):
        one_line = flat(text)
        tally = counted[f"segments, {gold.kind}"]
        for segment in gold.present:
            tally[0 if flat(segment) in one_line else 2] += 1
        for segment in gold.absent:
            tally[1] += flat(segment) in one_line
        if gold.text is not None:
            ours, theirs = words(text), words(gold.text)
            common = (ours & theirs).total()
            pages[f"words, {gold.kind}"].append(2 * common / max(1, ours.total() + theirs.total()))
    result = {name: 2 * tp / max(1, 2 * tp + fp + fn) for name, (tp, fp, fn) in sorted(counted.items())}
    result |= {name: sum(values) / len(values) for name, values in sorted(pages.items())}
    total = [sum(column) for column in zip(*counted.values(), strict=True)]
    result["segments, all"] = 2 * total[0] / max(1, 2 * total[0] + total[1] + total[2])
    if pages:
        every = [value for values in pages.values() for value in values]
        result["words, all"] = sum(every) / len(every)
    return result


def bare_trafilatura(settings: ExtractSettings) -> Callable[[Page], str]:
    from trafilatura import extract

    def run(page: Page) -> str:
        return (
            extract(
                page.payload,
                url=page.final_url,
                fast=settings.fast,
                favor_precision=settings.focus == "precision",
                favor_recall=settings.focus == "recall",
                include_comments=settings.comments,
                include_tables=settings.tables,
                include_links=settings.links,
            )
            or ""
        )

    return run


def bare_resiliparse(settings: ExtractSettings) -> Callable[[Page], str]:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    def run(page: Page) -> str:
        html = bytes_to_str(page.payload, detect_encoding(page.payload) or "utf-8")
        text: str = extract_plain_text(html, main_content=True, alt_texts=False, comments=settings.comments)
        return text

    return run


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def timed(texts: Callable[[], list[str]]) -> tuple[list[str], float, float]:
    """The texts, seconds on the clock, seconds of CPU."""
    clock, cpu = time.perf_counter(), cpu_seconds()
    result = texts()
    return result, time.perf_counter() - clock, cpu_seconds() - cpu


def ours(pages: list[Page], settings: ExtractSettings, drops: Counter[str] | None = None) -> list[str]:
    texts = []
    for extraction in extract_pages(pages, settings):
        texts.append(extraction.document.text if extraction.document else "")
        if extraction.drop and drops is not None:
            drops[extraction.drop.reason] += 1
    return texts


def quality(pages: list[tuple[Page, Gold]], settings: ExtractSettings) -> bool:
    """Print the table; whether ours holds what is asked of it."""
    only, golds = [page for page, _ in pages], [gold for _, gold in pages]
    columns: dict[str, dict[str, float]] = {}
    rates: dict[str, float] = {}
    for name, extractor in (("trafilatura", "trafilatura"), ("resiliparse", "resiliparse")):
        chosen = _replace(settings, extractor=extractor)
        bare = bare_trafilatura(chosen) if extractor == "trafilatura" else bare_resiliparse(chosen)
        texts, _, cpu = timed(lambda bare=bare: [bare(page) for page in only])  # type: ignore[misc]
        columns[f"bare {name}"], rates[f"bare {name}"] = scores(golds, texts), len(only) / cpu
        drops: Counter[str] = Counter()
        texts, _, cpu = timed(lambda chosen=chosen, drops=drops: ours(only, chosen, drops))  # type: ignore[misc]
        columns[f"ours, {name}"], rates[f"ours, {name}"] = scores(golds, texts), len(only) / cpu
        print(f"{name}: {drops.total()} of {len(only)} pages dropped: {dict(drops)}")
    kinds = Counter(gold.kind for gold in golds)
    print(f"\n{'F1':34}" + "".join(f"{name:>20}" for name in columns))
    for row in columns["bare trafilatura"]:
        count = kinds.get(row.split(", ", 1)[1], len(golds))
        print(f"{row + f' ({count})':34}" + "".join(f"{columns[name][row]:20.4f}" for name in columns))
    print(f"{'pages a second of CPU':34}" + "".join(f"{rates[name]:20.1f}" for name in columns))
    base, got = columns["bare trafilatura"], columns["ours, trafilatura"]
    behind = [row for row in base if got[row] < base[row] - (0.0 if row.endswith("all") else 0.01)]
    print("at least bare trafilatura's F1, no page type more than .01 lower:", "yes" if not behind else f"no: {behind}")
    return not behind


def overhead(pages: list[Page], settings: ExtractSettings, rounds: int) -> bool:
    """Print what isolation costs; whether it is at most 15%. Rounds alternate, the medians count.

    The libraries of the bare loop are loaded before its clock runs. A child loads them on its own clock, once in
    `recycle_pages` pages, so the start of a child is measured apart and counts for its share in that many pages.
    """
    bare = bare_trafilatura(settings)
    bare(pages[0])  # load everything before the clock runs
    rows: dict[str, list[tuple[float, float]]] = {"start": [], "bare": [], "ours": []}
    for _ in range(rounds):
        for name, run in (
            ("start", lambda: ours([pages[0]], settings)),
            ("bare", lambda: [bare(page) for page in pages]),
            ("ours", lambda: ours(pages, settings)),
        ):
            _, clock, cpu = timed(run)
            rows[name].append((clock, cpu))
            print(f"  {name}: {clock:.1f} s, CPU {cpu:.1f} s", flush=True)
    middle = {name: [median(column) for column in zip(*row, strict=True)] for name, row in rows.items()}
    share = max(0.0, 1 - len(pages) / settings.recycle_pages)  # of a start, that these pages do not owe
    ratios = [
        (mine - share * start) / theirs - 1
        for start, mine, theirs in zip(middle["start"], middle["ours"], middle["bare"], strict=True)
    ]
    print(f"{len(pages)} pages, medians of {rounds} rounds")
    print(f"trafilatura.extract in a bare loop: {middle['bare'][0]:.1f} s, CPU {middle['bare'][1]:.1f} s")
    print(f"extract_pages:                      {middle['ours'][0]:.1f} s, CPU {middle['ours'][1]:.1f} s")
    print(f"of these the start of its child:    {middle['start'][0]:.1f} s, CPU {middle['start'][1]:.1f} s")
    print(
        f"overhead, one start in {settings.recycle_pages} pages: {ratios[0]:+.1%} of the clock, {ratios[1]:+.1%} of CPU"
    )
    return max(ratios) <= 0.15


def _replace(settings: ExtractSettings, **changes: Any) -> ExtractSettings:
    import dataclasses

    return dataclasses.replace(settings, **changes)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with pages/ (default: %(default)s)")
    parser.add_argument("--pages", type=int, help="only the first so many")
    parser.add_argument("--overhead", action="store_true", help="measure time instead of text")
    parser.add_argument("--rounds", type=int, default=3, help="of --overhead")
    parser.add_argument("--fast", action="store_true", help="trafilatura without its fallbacks")
    parser.add_argument("--comments", action="store_true", help="with readers' comments")
    parser.add_argument("--focus", choices=("balanced", "precision", "recall"), default="balanced")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    settings = ExtractSettings(fast=options.fast, comments=options.comments, focus=options.focus)
    pages = read_pages(options.data, options.pages)
    if not pages:
        raise SystemExit(f"expected pages/*.warc.gz and pages/gold.jsonl under {options.data}, found none; give --data")
    good = (
        overhead([page for page, _ in pages], settings, options.rounds)
        if options.overhead
        else quality(pages, settings)
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
