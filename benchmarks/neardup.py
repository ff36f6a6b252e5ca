"""How well duplicates are found in real text: planted articles, revisions of articles, and a news archive to read.

python benchmarks/neardup.py                     # all of it
python benchmarks/neardup.py articles            # true pairs of articles_*.train
python benchmarks/neardup.py revisions           # pair F1 over article revisions, by threshold
python benchmarks/neardup.py text --pairs 20     # time, memory, counts and pairs of text/
python benchmarks/neardup.py curve               # candidates found of edited copies, beside the theory
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import resource
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from dedup import lsh
from dedup.minhash import (
    MinHashSettings,
    ids_to_bytes,
    read_signature_batches,
    signature_table,
    write_signatures,
)

SIGNING = MinHashSettings()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file)
        return [json.loads(line) for line in io.TextIOWrapper(reader, encoding="utf-8")]


def deduplicate(
    texts: pa.Array, options: lsh.DedupSettings, signing: MinHashSettings = SIGNING
) -> tuple[lsh.Verdicts, dict[str, float]]:
    """Verdicts on texts (longer ones rank higher), and the seconds of the steps."""
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(len(texts))]
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start, cpu = time.perf_counter(), time.process_time()
        files = []
        for first in range(0, len(texts), 20_000):
            files.append(folder / f"{first}.arrow")
            part = slice(first, first + 20_000)
            write_signatures(files[-1], signature_table(ids[part], texts[part], signing))
        seconds["sign"], seconds["sign (CPU)"] = time.perf_counter() - start, time.process_time() - cpu
        start, cpu = time.perf_counter(), time.process_time()
        num_words = np.concatenate(
            [batch.num_words for file in files for batch in read_signature_batches(file, signing, values=False)]
        )
        raw = ids_to_bytes(ids)
        nothing = np.zeros(len(ids), np.int64)
        ranks = lsh.rank_documents(nothing, num_words, nothing, raw)
        result = lsh.verdicts(
            raw, ranks, files, lambda wanted: texts.take(pa.array(wanted)), options, minhash=signing, scratch=folder
        )
        seconds["verdicts"], seconds["verdicts (CPU)"] = time.perf_counter() - start, time.process_time() - cpu
    return result, seconds


def accepted_pairs(result: lsh.Verdicts) -> set[tuple[int, int]]:
    """Pairs of positions: accepted near-duplicates, and all pairs of exact duplicates."""
    position = result.index_by_rank
    exact = np.flatnonzero(result.status == lsh.EXACT)
    groups: dict[int, list[int]] = {}
    for rank in exact:
        groups.setdefault(int(result.duplicate_of[rank]), []).append(int(rank))
    copies = {best: [best, *rest] for best, rest in groups.items()}
    found = set()
    for members in copies.values():
        found |= {(i, j) for i in members for j in members if i < j}
    for a, b in zip(result.pairs_a[result.pairs_accepted], result.pairs_b[result.pairs_accepted], strict=True):
        found |= {(i, j) for i in copies.get(int(a), [int(a)]) for j in copies.get(int(b), [int(b)])}
    return {tuple(sorted((int(position[a]), int(position[b])))) for a, b in found}  # type: ignore[misc]


def articles(data: Path) -> None:
    for path in sorted((data / "neardup").glob("articles_*.train")):
        lines = path.read_text().splitlines()
        names, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
        result, _ = deduplicate(pa.array(texts, pa.large_string()), lsh.DedupSettings())
        found = {frozenset((names[a], names[b])) for a, b in accepted_pairs(result)}
        truth = {frozenset(line.split()) for line in path.with_suffix(".truth").read_text().splitlines()}
        print(f"{path.name}: {len(found & truth)} of {len(truth)} true pairs found, {len(found - truth)} others")


def revisions(data: Path) -> None:
    rows = read_jsonl(data / "neardup" / "article-revisions.jsonl.zst")
    clusters = [row["cluster"] for row in rows]
    texts = pa.array([row["text"] for row in rows], pa.large_string())
    members: dict[str, list[int]] = {}
    for number, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(number)
    truth = {(i, j) for each in members.values() for i in each for j in each if i < j}
    print(f"article revisions: {len(rows):,} texts, {len(members):,} articles, {len(truth):,} pairs of one article")
    for signing in (SIGNING, MinHashSettings(bands=28, rows=4)):
        for ngram in (5, 2, 1):
            shape = MinHashSettings(ngram=ngram, bands=signing.bands, rows=signing.rows)
            result, _ = deduplicate(texts, lsh.DedupSettings(threshold=0.05, near_threshold=0.05, doubt=1000.0), shape)
            jaccard = np.where(np.isnan(result.pairs_exact), 0, result.pairs_exact)
            position = result.index_by_rank
            similarity = {
                tuple(sorted((int(position[a]), int(position[b])))): float(value)
                for a, b, value in zip(result.pairs_a, result.pairs_b, jaccard, strict=True)
            }
            scored = [(similarity.get(pair, 1.0), pair in truth) for pair in accepted_pairs(result)]
            best = best_f1(scored, len(truth))
            at_default = f1_from(scored, len(truth), 0.75)
            print(
                f"  {ngram}-word shingles, {shape.bands} x {shape.rows}: best F1 {best[0]:.4f} at {best[1]:.2f} "
                f"(precision {best[2]:.3f}, recall {best[3]:.3f}); at 0.75 F1 {at_default[0]:.4f} "
                f"(precision {at_default[2]:.3f}, recall {at_default[3]:.3f}); candidates hold "
                f"{sum(true for _, true in scored) / len(truth):.3f} of the true pairs"
            )


def f1_from(
    scored: Sequence[tuple[float, bool]], true_pairs: int, threshold: float
) -> tuple[float, float, float, float]:
    """(F1, threshold, precision, recall) of the pairs at least as similar as the threshold."""
    found = [true for value, true in scored if value >= threshold]
    precision, recall = sum(found) / max(len(found), 1), sum(found) / true_pairs
    return 2 * precision * recall / max(precision + recall, 1e-9), threshold, precision, recall


def best_f1(scored: Sequence[tuple[float, bool]], true_pairs: int) -> tuple[float, float, float, float]:
    """`f1_from` at the best of a hundred thresholds."""
    return max(f1_from(scored, true_pairs, step / 100) for step in range(5, 101))


def text(data: Path, show: int) -> None:
    rows = [row for path in sorted((data / "text").glob("*.jsonl.zst")) for row in read_jsonl(path)]
    texts = pa.array([row["text"] for row in rows], pa.large_string())
    size = sum(len(row["text"].encode()) for row in rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result, seconds = deduplicate(texts, lsh.DedupSettings())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"text/: {len(rows):,} documents, {size / 1e6:.1f} MB")
    print("  seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    print(f"  peak memory {peak / 1e6:.2f} GB, of which {before / 1e6:.2f} GB were the texts as Python and Arrow")
    counts = Counter(("kept", "near", "exact")[status] for status in result.status.tolist())
    transitive = sum(result.verdicts["transitive"].to_pylist())
    print(f"  {dict(counts)}, {transitive} kept though a chain leads to a better one")
    print(f"  {len(result.pairs_a):,} candidate pairs, {int(result.pairs_accepted.sum()):,} accepted")
    print("  cluster sizes: " + str(lsh.cluster_size_histogram(result).to_pylist()))
    table = lsh.similarity_histogram(result).to_pylist()
    print("  accepted/refused: " + ", ".join(f"{r['at_least']:.2f} {r['accepted']}/{r['refused']}" for r in table[6:]))
    position = result.index_by_rank
    chosen = random.Random(1).sample(range(len(result.pairs_a)), min(show, len(result.pairs_a)))
    for pair in sorted(chosen, key=lambda k: -int(result.pairs_equal[k])):
        a, b = rows[position[result.pairs_a[pair]]], rows[position[result.pairs_b[pair]]]
        estimated = result.pairs_equal[pair] / result.permutations
        verdict = "accepted" if result.pairs_accepted[pair] else "refused"
        print(f"\n  estimated {estimated:.2f}, exact {result.pairs_exact[pair]:.3f}, {verdict}")
        for row in (a, b):
            body = " ".join(row["text"].split())
            print(textwrap.indent(f"{row['id']} ({len(body):,} characters)\n  {body[-300:]}", "    "))


def curve(data: Path) -> None:
    rows = read_jsonl(data / "text" / "bbc-news.jsonl.zst")
    texts = pa.array([row["text"] for row in rows], pa.large_string())
    print("edited copies of 2,225 BBC articles: candidates found, and what 1 - (1 - J^8)^14 promises")
    for row in lsh.planted_recall(texts, SIGNING).to_pylist():
        off = (row["found"] - row["expected"]) / max(row["standard_error"], 1e-9)
        print(
            f"  {row['edited']:4.0%} of words edited: mean Jaccard {row['jaccard']:.3f}  found {row['found']:5,}  "
            f"expected {row['expected']:8.1f} +- {row['standard_error']:.1f}  ({off:+.2f} standard errors)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help="articles, revisions, curve, text (all by default)")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=20, help="candidate pairs of text/ to show")
    options = parser.parse_args()
    parts = options.parts or ["articles", "revisions", "curve", "text"]
    for part in parts:
        if part == "text":
            text(options.data, options.pairs)
        elif part in ("articles", "revisions", "curve"):
            {"articles": articles, "revisions": revisions, "curve": curve}[part](options.data)
        else:
            parser.error(f"expected articles, revisions, curve or text, got {part}")


if __name__ == "__main__":
    main()
