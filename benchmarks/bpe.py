"""The tokenizer: counting, training and encoding beside tokenizers, tiktoken and rustbpe, and how training grows.

    python benchmarks/bpe.py --data ../shared/data --sizes 100                 # a minute
    python benchmarks/bpe.py --sizes 100 300 1000 --rustbpe DIR                # the note's table
    pip install --no-deps --target DIR rustbpe                                 # where DIR comes from

Text is Reuters and BBC articles; past their 190 MB, edited copies of them: in each copy one word of twelve has two
letters swapped and one number of two is another, so that new pieces keep coming as they do in real text. It lies in
Parquet shards of 50 MB, and every figure of training starts there. Each trainer runs in a process of its own; peak
memory is its own and that of its workers. CPU seconds are those of all threads and workers: on a busy machine compare
these. A trainer is checked against the others: `merges` says whether it learned the merges of `tokenizers`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

SHARD_BYTES = 50_000_000
CORPUS_BYTES = 40_000_000_000  # WebText
WORD = re.compile(r"[A-Za-z]{4,}|[0-9]+")


def articles(data: Path) -> Iterator[str]:
    for path in [*sorted((data / "text").glob("reuters-*.jsonl.zst")), data / "text" / "bbc-news.jsonl.zst"]:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
            for line in io.TextIOWrapper(raw, encoding="utf-8"):
                yield json.loads(line)["text"]


def edited(text: str, rng: random.Random) -> str:
    def edit(match: re.Match[str]) -> str:
        word = match.group()
        if word[0].isdigit():
            return word if rng.random() < 0.5 else str(rng.randrange(10 ** len(word)))
        if rng.random() > 1 / 12:
            return word
        i = rng.randrange(len(word) - 1)
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]

    return WORD.sub(edit, text)


def corpus(data: Path, folder: Path, size: int) -> list[Path]:
    """Parquet shards of `size` bytes of text."""
    texts: list[str] = []
    paths: list[Path] = []
    left, held, copy = size, 0, 0
    while left > 0:
        rng = random.Random(copy)
        for article in articles(data):
            text = article if copy == 0 else edited(article, rng)
            texts.append(text)
            num_bytes = len(text.encode())
            held += num_bytes
            left -= num_bytes
            if held >= SHARD_BYTES or left <= 0:
                paths.append(folder / f"{len(paths):05d}.parquet")
                pq.write_table(pa.table({"text": pa.array(texts)}), paths[-1], compression="zstd")
                texts, held = [], 0
            if left <= 0:
                break
        copy += 1
    return paths


def texts_of(paths: list[Path]) -> Iterator[Any]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["text"]):
                yield batch.column("text")


# One trainer, in a process of its own ------------------------------------------------------------------------------


def count_shard(path: Path) -> tuple[Path, int]:
    """The shard's counts, and the peak memory of this worker."""
    from webtext import bpe

    target = path.with_suffix(".counts")
    pq.write_table(bpe.count_pieces(texts_of([path])), target, compression="zstd")
    return target, peak_bytes()


def peak_bytes() -> int:
    """Of this process since it began; ru_maxrss would start from its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def train_ours(paths: list[Path], vocab_size: int, workers: int) -> dict[str, Any]:
    from webtext import _bpe_kernels, _bpe_training, bpe  # noqa: F401  compiled before the clock starts

    start = time.perf_counter()
    cpu = cpu_seconds()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        shards = pool.map(count_shard, paths, chunksize=1)
        pool.close()
        pool.join()
    counted, cpu_counted = time.perf_counter(), cpu_seconds()
    counts = bpe.merge_counts([table for table, _ in shards])
    merged, cpu_merged = time.perf_counter(), cpu_seconds()
    vocabulary = bpe.train(counts, bpe.TokenizerSettings(vocab_size=vocab_size + 1))
    with tempfile.TemporaryDirectory() as folder:
        bpe.write_tokenizer(Path(folder), vocabulary)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": cpu_seconds() - cpu,
        "count": counted - start,
        "count_cpu": cpu_counted - cpu,
        "merge": merged - counted,
        "train": time.perf_counter() - merged,
        "train_cpu": cpu_seconds() - cpu_merged,
        "pieces": counts.num_rows,
        # The trainer, or the workers while they count: whichever is more.
        "peak": max(peak_bytes(), workers * max(peak for _, peak in shards)),
        "merges": hashlib.sha256(bpe.merges_text(vocabulary).encode()).hexdigest(),
    }


def train_tokenizers(paths: list[Path], vocab_size: int, workers: int) -> dict[str, Any]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=[],
        vocab_size=vocab_size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    start = time.perf_counter()
    cpu = cpu_seconds()
    tokenizer.train_from_iterator((array.to_pylist() for array in texts_of(paths)), trainer)
    seconds, spent = time.perf_counter() - start, cpu_seconds() - cpu
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        digest = hashlib.sha256((Path(folder) / "merges.txt").read_bytes()).hexdigest()
    return {"seconds": seconds, "cpu": spent, "merges": digest}


def train_rustbpe(paths: list[Path], vocab_size: int, workers: int) -> dict[str, Any]:
    import rustbpe  # type: ignore[import-not-found]

    from webtext import bpe

    tokenizer = rustbpe.Tokenizer()
    texts = (text for array in texts_of(paths) for text in array.to_pylist())
    start = time.perf_counter()
    cpu = cpu_seconds()
    tokenizer.train_from_iterator(texts, vocab_size, pattern=bpe.GPT2_PATTERN)
    return {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - cpu, "merges": "its own ties"}


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


TRAINERS = {"ours": train_ours, "tokenizers": train_tokenizers, "rustbpe": train_rustbpe}


def one(name: str, paths: list[Path], vocab_size: int, workers: int) -> None:
    """Runs one trainer and prints its figures as JSON."""
    result = TRAINERS[name](paths, vocab_size, workers)
    print(json.dumps({"peak": peak_bytes(), **result}))


def measure(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--one", name, "--folder", str(folder), "--workers", str(arguments.workers)]
    command += ["--vocab-size", str(arguments.vocab_size)]
    path = os.pathsep.join(filter(None, [str(arguments.rustbpe or ""), os.environ.get("PYTHONPATH", "")]))
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    if result.returncode:
        print(f"{name}: not run: {(result.stderr.strip().splitlines() or [f'exit {result.returncode}'])[-1]}")
        return None
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


# Tables ------------------------------------------------------------------------------------------------------------


def training(arguments: argparse.Namespace, folder: Path, size: int) -> dict[str, Any] | None:
    names = [name for name in TRAINERS if name != "rustbpe" or arguments.rustbpe]
    if size > arguments.peers_up_to * 10**6:
        names = ["ours"]
    results = {name: measure(name, folder, arguments) for name in names}
    ours = results["ours"]
    if ours is None:
        return None
    theirs = results.get("tokenizers")
    print(
        f"\ntraining on {size / 1e6:,.0f} MB in Parquet, {arguments.vocab_size:,} tokens, {arguments.workers} workers"
    )
    print(f"{'':12}{'seconds':>9}{'CPU s':>9}{'MB/s':>8}{'peak GB':>9}{'time':>8}{'CPU':>8}   merges")
    for name, result in results.items():
        if result is None:
            continue
        same = "" if theirs is None else "equal" if result["merges"] == theirs["merges"] else "other"
        print(
            f"{name:12}{result['seconds']:9.1f}{result['cpu']:9.1f}{size / 1e6 / result['seconds']:8.1f}"
            f"{result['peak'] / 1e9:9.2f}{result['seconds'] / ours['seconds']:7.1f}x{result['cpu'] / ours['cpu']:7.1f}x"
            f"   {same}"
        )
    print(
        f"ours: counting {ours['count']:.1f} s ({size / 1e6 / ours['count_cpu']:.0f} MB per CPU second, start of the "
        f"workers included), merging {ours['merge']:.1f} s, training and files {ours['train']:.1f} s "
        f"(CPU {ours['train_cpu']:.1f} s); {ours['pieces']:,} distinct pieces"
    )
    return ours


def counting(texts: Any, size: int) -> None:
    import tokenizers

    from webtext import _bpe_kernels, bpe  # noqa: F401

    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    strings = texts.slice(0, 400).to_pylist()
    start = time.process_time()
    for text in strings:
        split(text)
    theirs = sum(len(text.encode()) for text in strings) / (time.process_time() - start)
    start = time.process_time()
    bpe.count_pieces([texts])
    ours = size / (time.process_time() - start)
    print(
        f"\ncounting, one core: ours {ours / 1e6:.0f} MB/s; tokenizers splits alone (in Python) {theirs / 1e6:.1f} MB/s"
    )


def encoding(texts: Any, size: int, data: Path, rustbpe_folder: Path | None) -> None:
    """GPT-2's vocabulary, one thread each; CPU seconds."""
    import tiktoken

    from webtext import bpe

    vocabulary = bpe.load_vocabulary(data / "bpe" / "gpt2_vocab")
    ours = bpe.Tokenizer(vocabulary)
    few = texts.slice(0, max(1, len(texts) // 20))
    few_size = sum(len(text.encode()) for text in few.to_pylist())
    start = time.process_time()
    encoded = bpe.encode(texts, ours)
    rates = {"ours": size / (time.process_time() - start)}
    ranks = {token: rank for rank, token in enumerate(vocabulary.tokens)}
    tik = tiktoken.Encoding("gpt2", pat_str=bpe.GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    start = time.process_time()
    their_ids = [token for text in few.to_pylist() for token in tik.encode_ordinary(text)]
    rates["tiktoken"] = few_size / (time.process_time() - start)
    assert their_ids == encoded.ids[: len(their_ids)].tolist(), "tiktoken gives other ids"
    start = time.process_time()
    slow = bpe.encode(few, ours, fallback=True)
    rates["tokenizers"] = few_size / (time.process_time() - start)
    assert slow.ids.tolist() == their_ids, "tokenizers gives other ids"
    if rustbpe_folder:
        sys.path.insert(0, str(rustbpe_folder))
        import rustbpe

        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(iter(few.to_pylist()), 5000, pattern=bpe.GPT2_PATTERN)
        start = time.process_time()
        for text in few.to_pylist():
            tokenizer.encode(text)
        rates["rustbpe (5,000 tokens)"] = few_size / (time.process_time() - start)
    print("\nencoding with GPT-2's vocabulary, MB per CPU second (the check against tokenizers included in ours)")
    for name, rate in rates.items():
        print(f"{name:24}{rate / 1e6:8.1f}{rates['ours'] / rate:8.1f}x")


def projection(results: dict[int, dict[str, Any]]) -> None:
    """Heaps' law on what was measured: pieces, training time and memory grow with a power of the text."""
    import math

    sizes = sorted(results)
    if len(sizes) < 2:
        return
    first, last = sizes[0], sizes[-1]
    print(
        f"\ngrowth, and at {CORPUS_BYTES / 1e9:.0f} GB by the power between {first / 1e6:,.0f} and {last / 1e6:,.0f} MB"
    )
    for key, unit, scale in [
        ("count_cpu", "CPU s counting", 1.0),
        ("pieces", "M distinct pieces", 1e6),
        ("train_cpu", "CPU s training", 1.0),
        ("peak", "GB peak", 1e9),
    ]:
        values = [results[size][key] for size in sizes]
        power = math.log(values[-1] / values[0]) / math.log(last / first)
        far = values[-1] * (CORPUS_BYTES / last) ** power
        shown = "".join(f"{value / scale:10.2f}" for value in values)
        print(f"{unit:20}{shown}   power {power:.2f}   at 40 GB {far / scale:,.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100], help="MB of text to train on (default: 100)")
    parser.add_argument("--vocab-size", type=int, default=50_256, help="tokens without <|endoftext|>")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="counting processes")
    parser.add_argument("--peers-up-to", type=int, default=1000, help="MB up to which the peers train too")
    parser.add_argument("--rustbpe", type=Path, help="folder with rustbpe: pip install --no-deps --target DIR rustbpe")
    parser.add_argument("--one", choices=TRAINERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, sorted(arguments.folder.glob("*.parquet")), arguments.vocab_size, arguments.workers)
        return
    os.environ["RAYON_NUM_THREADS"] = "1"  # here; the trainers' processes get all cores
    results = {}
    for number, size in enumerate(size * 10**6 for size in arguments.sizes):
        with tempfile.TemporaryDirectory() as folder:
            paths = corpus(arguments.data, Path(folder), size)
            if number == 0:
                table = pq.read_table(paths[0], columns=["text"])
                texts = table["text"].combine_chunks()
                shard_size = sum(len(text.encode()) for text in texts.to_pylist())
                counting(texts, shard_size)
                encoding(texts, shard_size, arguments.data, arguments.rustbpe)
                os.environ.pop("RAYON_NUM_THREADS")
            result = training(arguments, Path(folder), size)
        if result is not None:
            results[size] = result
    projection(results)


if __name__ == "__main__":
    main()
