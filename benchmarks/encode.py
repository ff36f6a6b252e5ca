"""Encoding, from Parquet to token shards on disk, beside what tokenizers and tiktoken do in memory.

    python benchmarks/encode.py --data ../shared/data --megabytes 100

Ours is the whole way: read Parquet, encode, compare a sample with tokenizers, put documents in their order, hash
and write NAME.bin, NAME.idx, NAME.ids; then open the shards with every byte verified. One process and one encoding
thread, so a rate is per core; CPU seconds, so that it is what the work costs whatever else the machine does. The peers
only encode, into lists; they are given a part of the text, and must give the same ids.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # before fastokens and tokenizers start their threads

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard


def write_corpus(data: Path, path: Path, size: int) -> tuple[int, int]:
    """Reuters articles, again and again with another id, as corpus/ has them; returns (documents, bytes)."""
    articles = []
    for source in sorted((data / "text").glob("reuters-*.jsonl.zst")):
        with source.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
            articles += [json.loads(line)["text"] for line in io.TextIOWrapper(raw, encoding="utf-8")]
    texts: list[str] = []
    written = 0
    while written < size:
        texts.append(articles[len(texts) % len(articles)])
        written += len(texts[-1].encode())
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts}), path, compression="zstd", row_group_size=2000)
    return len(texts), written


def encode_shard(source: Path, directory: Path, tokenizer: Any, size: int, shard_bytes: int) -> dict[str, float]:
    """Parquet to shards; CPU seconds of each part."""
    from model import data as shards
    from webtext import bpe

    spent = {"read": 0.0, "encode": 0.0}

    def batches() -> Iterator[shards.TokenBatch]:
        with pq.ParquetFile(source) as file:
            start = time.process_time()
            for batch in file.iter_batches(2000, columns=["id", "text"]):
                spent["read"] += time.process_time() - start
                start = time.process_time()
                encoded = bpe.encode(batch.column("text"), tokenizer, where=source.name)
                spent["encode"] += time.process_time() - start
                ids = np.frombuffer(bytes.fromhex("".join(batch.column("id").to_pylist())), np.uint8).reshape(-1, 16)
                yield shards.TokenBatch(ids, encoded.ids, encoded.offsets)
                start = time.process_time()

    start = time.process_time()
    shards.write_shards(
        directory,
        {"train": batches()},
        text_bytes={"train": size},
        settings=shards.ShardSettings(shard_text_bytes=shard_bytes),
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.size,
        end_of_text=tokenizer.end_of_text,
    )
    spent["all"] = time.process_time() - start
    start = time.process_time()
    shards.open_shards(directory, "train", tokenizer=tokenizer.sha256, verify=True)
    spent["verify"] = time.process_time() - start
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=100, help="text to encode (default: 100)")
    parser.add_argument("--peer-megabytes", type=int, default=5, help="part of it that the peers encode (default: 5)")
    parser.add_argument("--shard-megabytes", type=int, default=25, help="text of a token shard (default: 25)")
    arguments = parser.parse_args()

    import tiktoken

    from webtext import bpe

    tokenizer = bpe.load_tokenizer(arguments.data / "bpe" / "gpt2_vocab")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "train.parquet"
        documents, size = write_corpus(arguments.data, source, arguments.megabytes * 10**6)
        spent = encode_shard(source, Path(folder) / "tokens", tokenizer, size, arguments.shard_megabytes * 10**6)
        texts = pq.read_table(source, columns=["text"])["text"]
    few: list[str] = []
    few_size = 0
    for text in texts:
        if few_size >= arguments.peer_megabytes * 10**6:
            break
        few.append(text.as_py())
        few_size += len(few[-1].encode())
    rates = {"ours, Parquet to shards": size / spent["all"], "ours, encode alone": size / spent["encode"]}
    part = pa.array(few)
    ids = bpe.encode(part, tokenizer).ids.tolist()
    ranks = {token: rank for rank, token in enumerate(tokenizer.vocabulary.tokens)}
    tik = tiktoken.Encoding("gpt2", pat_str=bpe.GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    start = time.process_time()
    theirs = [token for text in few for token in tik.encode_ordinary(text)]
    rates["tiktoken, encode alone"] = few_size / (time.process_time() - start)
    assert theirs == ids, "tiktoken gives other ids"
    start = time.process_time()
    theirs = bpe.encode(part, tokenizer, fallback=True).ids.tolist()
    rates["tokenizers, encode alone"] = few_size / (time.process_time() - start)
    assert theirs == ids, "tokenizers gives other ids"

    print(f"{size / 1e6:,.0f} MB in {documents:,} documents; MB per CPU second, one thread; ids equal")
    for name, rate in rates.items():
        print(f"{name:28}{rate / 1e6:8.1f}{rate / next(iter(rates.values())):8.2f}x of ours")
    rest = spent["all"] - spent["read"] - spent["encode"]
    print(
        f"of {spent['all']:.2f} CPU s: Parquet {spent['read']:.2f}, encoding {spent['encode']:.2f}, order, hashes and "
        f"files {rest:.2f}; opening with every byte verified {spent['verify']:.2f}"
    )


if __name__ == "__main__":
    main()
