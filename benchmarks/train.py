"""Ten minutes of training against n-gram models that counted exactly the same tokens.

A tokenizer is trained on the text, the text becomes token shards (one document in fifty held out), a small
GPT-2 is trained, and interpolated bigram and trigram models (Witten-Bell) are counted over the very samples that the
model saw. All are scored on the same held-out samples, in bits per byte. The exit status is 0 if the model beats both.
Runs on CPU or GPU; a killed run goes on, a finished one is only scored again.

    python benchmarks/train.py

The defaults take less than ten minutes on two CPU cores that have bfloat16 arithmetic (AMX or AVX512-BF16); on others
add --dtype float32 and more patience. More text: --megabytes and --steps in proportion, in another --work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.config import ModelSettings, TrainJob, TrainSettings
from model.data import ShardSettings, TokenBatch, write_shards
from model.evals.baseline import compare
from model.train import run

HELD_OUT = 50  # one document in this many, by hash


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data", help="folder of real data")
    parser.add_argument(
        "--work", type=Path, default=here / "runs" / "benchmark-train", help="folder for shards and the run"
    )
    parser.add_argument("--megabytes", type=int, default=4, help="text to take")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens of the tokenizer that is trained")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=256, help="tokens of a sample")
    parser.add_argument("--steps", type=int, default=550, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=16, help="samples of a step")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("auto", "bfloat16", "float32"), help="of the arithmetic"
    )
    parser.add_argument("--compile", default="off", choices=("auto", "on", "off"))
    parser.add_argument("--loss-chunk", type=int, default=1024, help="tokens whose logits exist at once")
    parser.add_argument("--checkpoint-every", type=int, default=50, help="steps; large models: a save takes seconds")
    parser.add_argument("--prepare-only", action="store_true", help="make the token shards and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)

    tokens = options.work / "tokens"
    asked = json.dumps({"megabytes": options.megabytes, "vocabulary": options.vocabulary})
    if not (tokens / "meta.json").is_file():
        prepare(options.data, tokens, options.megabytes * 1_000_000, options.vocabulary)
        (tokens / "asked.json").write_text(asked)
    elif not (tokens / "asked.json").is_file() or (tokens / "asked.json").read_text() != asked:
        raise SystemExit(f"error: {tokens}: expected shards of {asked}, got others; name another folder with --work")
    if options.prepare_only:
        return 0
    job = TrainJob(
        ModelSettings(
            preset=None, layers=options.layers, width=options.width, heads=options.heads, context=options.context
        ),
        TrainSettings(
            name="benchmark",
            steps=options.steps,
            batch_sequences=options.batch,
            micro_batch=options.micro_batch,
            optimizer=options.optimizer,
            learning_rate=options.learning_rate,
            warmup_steps=min(100, options.steps // 10),
            dtype=options.dtype,
            compile=options.compile,
            schedule="wsd",
            decay_fraction=0.4,
            final_learning_rate=0.0,
            evaluate_every=200,
            evaluate_sequences=256,
            checkpoint_every=options.checkpoint_every,
            loss_chunk=options.loss_chunk,
            log_every=25,
            tensorboard=False,
        ),
        str(tokens),
        str(options.work / "run"),
        str(tokens / "tokenizer.json"),
    )
    begun = time.perf_counter()
    run(job)
    print(f"trained in {time.perf_counter() - begun:.0f} s, {time.process_time():.0f} CPU seconds")
    return report(job)


def report(job: TrainJob) -> int:
    """Prints the model beside the n-gram models; 0 if it beats both."""
    found = compare(job)
    print(f"{found['seen']:,} tokens seen, {found['epochs']:.2f} times; {found['scored']:,} held-out tokens scored")
    for name in ("model", "bigram", "trigram"):
        print(f"{name:10}{found[name]:.4f} bits per byte   {found['model'] / found[name]:.3f}")
    return 0 if found["model"] < min(found["bigram"], found["trigram"]) else 1


def prepare(data: Path, tokens: Path, size: int, vocabulary: int) -> None:
    """Token shards of the first `size` bytes of the Reuters articles, with a tokenizer trained on the train part."""
    texts: dict[str, list[str]] = {"train": [], "validation": []}
    for text in read(data / "text", size):
        held_out = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % HELD_OUT == 0
        texts["validation" if held_out else "train"].append(text)
    tokens.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts["train"][:: max(1, size // 20_000_000)], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    path = tokens / "tokenizer.json"
    tokenizer.save(str(path))
    write_shards(
        tokens,
        {split: batches(tokenizer, part) for split, part in texts.items()},
        text_bytes={split: sum(len(text.encode()) for text in part) for split, part in texts.items()},
        settings=ShardSettings(shard_text_bytes=20_000_000),
        tokenizer_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        vocab_size=tokenizer.get_vocab_size(),
        end_of_text=tokenizer.get_vocab_size() - 1,
    )


def read(folder: Path, size: int) -> Iterator[str]:
    """Articles until `size` bytes of text, each once."""
    files = sorted(folder.glob("reuters-*.jsonl.zst"))
    if not files:
        raise SystemExit(f"error: {folder}: expected reuters-*.jsonl.zst, found none; name the data with --data")
    seen: set[bytes] = set()
    for file in files:
        with zstandard.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                digest = hashlib.sha256(text.encode()).digest()
                if digest in seen:
                    continue
                seen.add(digest)
                size -= len(text.encode())
                if size < 0:
                    return
                yield text


def batches(tokenizer: Tokenizer, texts: list[str]) -> Iterator[TokenBatch]:
    for begin in range(0, len(texts), 1000):
        part = texts[begin : begin + 1000]
        ids = [np.array(encoding.ids, np.uint16) for encoding in tokenizer.encode_batch(part)]
        digests = b"".join(hashlib.sha256(text.encode()).digest()[:16] for text in part)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
        yield TokenBatch(np.frombuffer(digests, np.uint8).reshape(-1, 16), np.concatenate(ids), offsets)


if __name__ == "__main__":
    sys.exit(main())
