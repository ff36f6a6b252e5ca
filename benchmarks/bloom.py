"""Bloom filter: n-grams inserted per second and core from Arrow text, beside pybloom-live; and false positives.

    python benchmarks/bloom.py --data ../shared/data                  # speed
    python benchmarks/bloom.py --absent 1000000000 --real             # false positives at full capacity

Seconds are CPU seconds of this process, all its threads added, so a rate is per core whatever else the machine does;
compilation happens on import and is printed apart. The peer inserts the same hashes at the same
error rate and capacity.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # fastokens on one core

import numpy as np
import pyarrow as pa

from pipelines.steps import gpt2_encode


def cpu() -> float:
    return time.process_time()


def speed(data: Path, batches: list[Any], rounds: int) -> None:
    from dedup.bloom import Spill, build, build_file, count_distinct, plan_filter, spill
    from dedup.overlap import Protocol

    encode = gpt2_encode(str(data / "bpe" / "gpt2_vocab"))
    size = sum(batch.column("text").nbytes for batch in batches)
    print(f"\ntext: {size / 1e6:.0f} MB in {sum(map(len, batches))} documents; best of {rounds} rounds")
    print(f"{'protocol':12} {'8-grams':>12} {'hash':>8} {'spill':>8} {'plan':>8} {'fill':>8} {'all':>8}   M/s/core")
    rates = {}
    hashes = np.zeros(0, np.uint64)
    for protocol in (Protocol("words"), Protocol("gpt2-tokens", encode=encode)):
        best = [float("inf")] * 4
        grams = 0
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "shard.spill"
                start = cpu()
                parts = [protocol.ngrams(batch.column("text"))[0] for batch in batches]
                hashed = cpu()
                grams = spill(parts, path)
                spilled = cpu()
                spills = [Spill(path)]
                plan = plan_filter(count_distinct(spills), 1e-8)
                planned = cpu()
                for index in range(plan.num_files):
                    build_file(spills, plan, index, Path(folder) / plan.file_name(index))
                filled = cpu()
                took = (hashed - start, spilled - hashed, planned - spilled, filled - planned)
                best = [min(a, b) for a, b in zip(best, took, strict=True)]
                hashes = parts[0] if protocol.name == "words" else hashes
        total = sum(best)
        rates[protocol.name] = grams / total
        print(f"{protocol.name:12} {grams:12,} " + " ".join(f"{grams / t / 1e6:8.1f}" for t in (*best, total)))

    from pybloom_live import BloomFilter

    sample = hashes[:100_000].tolist()
    peer = BloomFilter(len(sample), 1e-8)
    start = cpu()
    for key in sample:
        peer.add(key, skip_check=True)
    insertion = len(sample) / (cpu() - start)
    print(f"\npybloom-live {insertion / 1e6:.3f} million insertions a second (hashes given, skip_check: its fastest)")
    try:
        import rbloom
    except ImportError:
        print("rbloom       not installed (pip install rbloom, to have its row)")
    else:
        other = rbloom.Bloom(len(sample), 1e-8)
        start = cpu()
        for key in sample:
            other.add(key)
        print(f"rbloom       {len(sample) / (cpu() - start) / 1e6:.3f} million insertions a second")
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0).integers(0, 1 << 64, 16_000_000, np.uint64)
        spill([random], Path(folder) / "s")
        start = cpu()
        build([Path(folder) / "s"], Path(folder) / "f")
        ours = len(random) / (cpu() - start)
    print(f"ours         {ours / 1e6:.3f} million insertions a second (hashes given)")
    print(f"ratio to pybloom-live: {ours / insertion:.0f}x with hashes given; from text (its own hashing left out): "
          + ", ".join(f"{name} {rate / insertion:.0f}x" for name, rate in rates.items()))  # fmt: skip


def random_false_positives(capacity: int, absent: int) -> None:
    from dedup.bloom import PartitionedBloomFilter

    members = np.random.default_rng(1).integers(0, 1 << 64, capacity, np.uint64)
    built = PartitionedBloomFilter.create(capacity, 1e-8)
    built.add(members)
    print(
        f"\nrandom: {len(built):,} hashes, {built.plan.num_partitions} partitions of {built.plan.partition_capacity:,}"
    )
    others = np.random.default_rng(2)
    hits = asked = 0
    start = cpu()
    while asked < absent:
        hits += int(built.contains(others.integers(0, 1 << 64, min(1 << 24, absent - asked), np.uint64)).sum())
        asked += min(1 << 24, absent - asked)
    print(f"{hits} hits in {asked:,} absent random hashes (bound: {asked * 1e-8:.1f}; allowed {2 * asked * 1e-8:.0f})")
    print(f"{asked / (cpu() - start) / 1e6:.1f} million queries a second")


def real_false_positives(data: Path, batches: list[Any]) -> None:
    """The corpus is the first quarter of the text; the rest, and longer n-grams, are asked for."""
    from dedup.bloom import PartitionedBloomFilter
    from dedup.overlap import Protocol

    encode = gpt2_encode(str(data / "bpe" / "gpt2_vocab"))
    asked = hits = 0
    for protocol in (
        Protocol("words"),
        Protocol("gpt2-tokens", encode=encode),
        Protocol("words", 9),
        Protocol("words", 10),
        Protocol("words", 11),
    ):
        table = pa.Table.from_batches(batches)
        quarter = len(table) // 4
        corpus = _distinct(_grams(protocol, table.slice(0, quarter)))
        built = PartitionedBloomFilter.create(len(corpus), 1e-8)
        built.add(corpus)
        grams = _distinct(_grams(protocol, table.slice(quarter)))
        at = np.minimum(np.searchsorted(corpus, grams), len(corpus) - 1)
        absent = grams[corpus[at] != grams]
        wrong = int(built.contains(absent).sum())
        print(f"real {protocol.name:12} {protocol.n}-grams: {len(corpus):,} in, {wrong} hits in {len(absent):,} absent")
        asked += len(absent)
        hits += wrong
    print(f"real: {hits} hits in {asked:,} absent n-grams of real text (bound {asked * 1e-8:.2f} expected)")


def _grams(protocol: Any, table: Any) -> Any:
    return np.concatenate([protocol.ngrams(batch.column("text"))[0] for batch in table.to_batches()])


def _distinct(grams: Any) -> Any:
    grams = np.sort(grams)
    return grams[np.append(True, grams[1:] != grams[:-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="real data")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts")
    parser.add_argument("--absent", type=int, default=0, help="absent random hashes to ask for (0: none)")
    parser.add_argument("--capacity", type=int, default=20_000_000, help="hashes in the filter that is asked")
    parser.add_argument("--real", action="store_true", help="ask for absent n-grams of real text")
    options = parser.parse_args()

    start = time.perf_counter()
    import dedup.overlap  # noqa: F401 - compiles the kernels
    from dedup.texts import read_texts

    print(f"import and compilation (cached after the first): {time.perf_counter() - start:.1f} s")
    if options.absent:
        random_false_positives(options.capacity, options.absent)
    if options.real or not options.absent:
        batches = list(read_texts([str(options.data / "text" / "*.jsonl.zst")]))
        if options.real:
            real_false_positives(options.data, batches)
        else:
            speed(options.data, batches, options.rounds)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
