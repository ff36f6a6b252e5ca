"""Overlap: the paper's Table 6 rows, evaluation sets against a corpus, exact against Bloom, and planted passages.

    python benchmarks/overlap.py --data ../shared/data
    python benchmarks/overlap.py --corpus 'fineweb/*.parquet' --sets my-evaluations/

Rates are in CPU seconds of this process, all threads added.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # fastokens on one core

import pyarrow as pa

from pipelines.steps import gpt2_encode


def report(sets: list[Any], batches: list[Any], encode: Any) -> None:
    from dedup.bloom import build
    from dedup.overlap import (
        EvaluationIndex,
        OverlapSettings,
        filter_matches,
        match_texts,
        overlap_tables,
        protocols,
        spill_texts,
    )

    size = sum(batch.column("text").nbytes for batch in batches)
    print(f"{len(sets)} sets; corpus of {size / 1e6:.0f} MB in {sum(map(len, batches)):,} documents")
    rows = []
    for protocol in protocols(OverlapSettings(), encode):
        start = time.process_time()
        index = EvaluationIndex(sets, protocol)
        indexed = time.process_time()
        exact = match_texts(batches, [index])
        matched = time.process_time()
        tables = overlap_tables([index], exact.found, documents=exact.documents, corpus=exact.corpus, quoted_examples=3)
        told = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            spill_texts(batches, protocol, Path(folder) / "spill")
            built = build([Path(folder) / "spill"], Path(folder) / "filter")
            filtered = time.process_time()
            found = filter_matches([index], {protocol.name: built})
            asked = time.process_time()
            bloom = overlap_tables([index], found)
        grams = exact.corpus["ngrams"][0].as_py()
        print(
            f"{protocol.name}: index of {len(index.table.grams):,} n-grams {indexed - start:.1f} s; exact: corpus "
            f"{grams / (matched - indexed) / 1e6:.1f} M n-grams/s, {size / (matched - indexed) / 1e6:.0f} MB/s, tables "
            f"{told - matched:.1f} s; bloom: build {grams / (filtered - told) / 1e6:.1f} M/s, ask "
            f"{len(index.table.grams) / (asked - filtered) / 1e6:.1f} M/s"
        )
        wrong = len(found) - len(exact.found)
        print(f"{protocol.name}: {wrong} n-grams in the filter only; rows equal: {tables.rows.equals(bloom.rows)}")
        rows += tables.rows.to_pylist()
        for row in tables.worst.to_pylist()[:3]:
            print(f"  {row['set']} {row['example']}: {row['found']}/{row['ngrams']} in {row['id']} {row['url']}")
            print(f"    {row['passage'][:200]!r}")
    print(
        f"\n{'set':32} {'protocol':12} {'against':10} {'whole file':>10} {'distinct':>9} {'paper':>6} {'examples':>16}"
    )
    cells = {(row["set"], row["protocol"], row["against"], row["unit"]): row for row in rows}
    for (name, protocol, against, unit), row in cells.items():
        if unit == "file":
            each = cells[name, protocol, against, "examples"]
            paper = "" if row["paper_percent"] is None else f"{row['paper_percent']:.2f}"
            print(
                f"{name:32} {protocol:12} {against:10} {100 * (row['share'] or 0):10.2f} "
                f"{100 * (row['distinct_share'] or 0):9.2f} {paper:>6} "
                f"{each['examples_touched']:8,}/{each['examples']:,}"
            )


def planted(data: Path, sets: list[Any], batches: list[Any]) -> None:
    from dedup.overlap import DecontaminateSettings, DecontaminationIndex, decontaminate

    wanted = [one for one in sets if one.name in ("lambada", "hellaswag")]
    index = DecontaminationIndex(wanted, DecontaminateSettings(evaluation_sets=("given",)))
    passages = [text for one in wanted for text in one.texts.to_pylist()[:2_000] if len(text.split()) >= 25]
    table = pa.Table.from_batches(batches)
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    generator = random.Random(0)
    places = generator.sample(range(len(texts)), 500)
    natural = set(decontaminate(table, index).verdicts["id"].to_pylist())
    for rank, place in enumerate(places):
        passage = generator.choice(passages)
        if rank % 2:
            passage = re.sub(r"\w+", lambda word: "edited" if generator.random() < 0.03 else word.group(), passage)
        half = len(texts[place]) // 2
        texts[place] = f"{texts[place][:half]}\n\n{passage}\n\n{texts[place][half:]}"
    start = time.process_time()
    result = decontaminate(pa.table({"id": ids, "text": texts}), index)
    took = time.process_time() - start
    flagged = set(result.verdicts["id"].to_pylist())
    truth = {ids[place] for place in places}
    print(
        f"\nplanted passages (3% of words edited in half) in 500 of {len(texts):,} documents: recall "
        f"{len(flagged & truth) / len(truth):.3f}, precision {len(flagged & truth) / len(flagged):.3f} "
        f"({len(natural)} documents share a 13-gram without planting); {sum(map(len, texts)) / took / 1e6:.0f} MB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="real data")
    parser.add_argument("--corpus", nargs="+", help="files, folders or globs (default: DATA/text)")
    parser.add_argument("--sets", nargs="+", help="evaluation sets (default: DATA/eval)")
    options = parser.parse_args()

    start = time.perf_counter()
    from dedup.overlap import read_evaluation_sets
    from dedup.texts import read_texts

    print(f"import and compilation (cached after the first): {time.perf_counter() - start:.1f} s")
    sets = read_evaluation_sets(options.sets or [options.data / "eval"])
    batches = list(read_texts(options.corpus or [options.data / "text"]))
    report(sets, batches, gpt2_encode(str(options.data / "bpe" / "gpt2_vocab")))
    if not options.sets:
        planted(options.data, sets, batches)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
