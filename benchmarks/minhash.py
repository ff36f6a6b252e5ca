"""Signatures per second and core: ours beside datasketch, rensa and datatrove, 112 permutations of 5-word shingles.

    python benchmarks/minhash.py                                    # ours and datasketch
    python benchmarks/minhash.py --make-peers DIRECTORY             # an environment with rensa and datatrove, then all
    python benchmarks/minhash.py --peers-python DIRECTORY/bin/python

Texts go from an Arrow array (ours) or a list of str (the others) to signatures, in one thread. Seconds are of CPU, the
best of several runs, so that what else the machine does counts little; compilation is printed apart. Peers at their
fastest documented use: datasketch's `update_batch` over hashes of shingles made by str.split and a rolling window, with
xxhash as its hash function; rensa's RMinHash over the same shingles; datatrove's MinhashDedupSignature.get_signature
with its own word tokenizer and simplification, which are its signature step, in the shape 14 x 8.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

PEERS = ["datatrove[processing]", "rensa", "zstandard", "nltk", "spacy"]


def read_texts(folder: Path, megabytes: float) -> list[str]:
    """Texts of the folder's *.jsonl.zst in order of names, about as many megabytes of UTF-8."""
    import zstandard

    texts: list[str] = []
    size = 0
    for path in sorted(folder.glob("*.jsonl.zst"), reverse=True):
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file)
            for line in io.TextIOWrapper(reader, encoding="utf-8"):
                texts.append(json.loads(line)["text"])
                size += len(texts[-1].encode())
                if size > megabytes * 1e6:
                    return texts
    if not texts:
        raise SystemExit(f"{folder}: expected *.jsonl.zst files with a text each line; pass --data")
    return texts


def best_seconds(function: Callable[[], object], runs: int) -> float:
    """CPU seconds of the fastest of several runs."""
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def peer_rates(name: str, texts: list[str]) -> float:
    """MB/s of a peer; run by the Python that has it."""
    size = sum(len(text.encode()) for text in texts)
    if name == "rensa":
        from rensa import RMinHash

        def sign() -> None:
            for text in texts:
                words = text.lower().split()
                minhash = RMinHash(num_perm=112, seed=1)
                minhash.update([" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))])
                minhash.digest()

    elif name == "datatrove":
        from datatrove.data import Document
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
        from datatrove.utils.hashing import HashConfig

        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
        step = MinhashDedupSignature("unused", config=config)
        step.get_signature(step.get_shingles("the first call loads the tokenizer and it is not counted here"))

        def sign() -> None:
            for number, text in enumerate(texts):
                document = Document(text=text, id=str(number))
                step.get_signature(step.get_shingles(document.text))

    else:
        raise SystemExit(f"--peer: expected rensa or datatrove, got {name}")
    return size / 1e6 / best_seconds(sign, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve()
    parser.add_argument("--data", type=Path, default=here.parents[2] / "shared" / "data", help="folder with text/")
    parser.add_argument(
        "--megabytes", type=float, default=80, help="of text for ours; the peers get what they can chew"
    )
    parser.add_argument("--peers-python", type=Path, help="a Python that has rensa and datatrove")
    parser.add_argument("--make-peers", type=Path, help="make that environment in this directory first")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(peer_rates(options.peer, read_texts(options.data / "text", options.megabytes))))
        return
    if options.make_peers:
        venv.create(options.make_peers, with_pip=True)
        options.peers_python = options.make_peers / "bin" / "python"
        subprocess.run([options.peers_python, "-m", "pip", "install", "-q", *PEERS], check=True)

    start = time.perf_counter()
    import dedup.minhash as ours  # its kernels are compiled here, once per machine

    compiled = time.perf_counter() - start
    import datasketch
    import pyarrow as pa
    import xxhash

    texts = read_texts(options.data / "text", options.megabytes)
    settings = ours.MinHashSettings()
    arrow = pa.array(texts, pa.large_string())
    size = sum(len(text.encode()) for text in texts) / 1e6
    rate = size / best_seconds(lambda: ours.sign(arrow, settings), 5)
    print(f"{len(texts):,} texts, {size:.1f} MB; importing (and compiling, where not cached) took {compiled:.1f} s")
    print(f"{'dedup.minhash.sign':<40}{rate:9.1f} MB/s")
    ids = [f"{number:032x}" for number in range(len(texts))]
    table = size / best_seconds(lambda: ours.signature_table(ids, arrow, settings), 3)
    print(f"{'  with ids, exact hashes and the table':<40}{table:9.1f} MB/s")

    few = read_texts(options.data / "text", 4)

    def sign_with_datasketch() -> None:
        for text in few:
            words = text.lower().split()
            minhash = datasketch.MinHash(112, seed=1, scheme="affine32", hashfunc=xxhash.xxh32_intdigest)
            minhash.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])

    def show(name: str, peer: float) -> None:
        print(f"{name:<40}{peer:9.2f} MB/s   ours is {rate / peer:,.0f} times as fast")

    show(
        "datasketch " + datasketch.__version__,
        sum(len(text.encode()) for text in few) / 1e6 / best_seconds(sign_with_datasketch, 3),
    )
    if options.peers_python is None:
        print("rensa and datatrove need an environment of their own: --make-peers DIRECTORY")
        return
    for name, megabytes in (("rensa", 8), ("datatrove", 1)):
        command = [options.peers_python, here, "--data", options.data, "--megabytes", str(megabytes), "--peer", name]
        answer = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
        version = subprocess.run(
            [str(options.peers_python), "-c", f"import importlib.metadata as m; print(m.version('{name}'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        show(f"{name} {version}", json.loads(answer.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
