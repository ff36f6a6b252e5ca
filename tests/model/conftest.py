"""A small corpus as token shards, and jobs over it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install -e .[train]")

from model.config import ModelSettings, TrainJob, TrainSettings  # noqa: E402
from model.data import ShardSettings, TokenBatch, write_shards  # noqa: E402

VOCAB = 97
END_OF_TEXT = 96
TINY = ModelSettings(preset=None, layers=2, width=32, heads=2, context=16, pad_vocabulary_to=32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def documents(count: int, seed: int, length: int = 60) -> list[np.ndarray]:
    """Texts of a two-state language: predictable enough that a model learns, random enough that it must."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        text = np.zeros(random.integers(5, length), np.uint16)
        text[0] = random.integers(0, END_OF_TEXT)
        for place in range(1, len(text)):
            text[place] = (text[place - 1] * 5 + 7) % END_OF_TEXT if random.random() < 0.7 else random.integers(0, 9)
        texts.append(text)
    return texts


def batch(texts: list[np.ndarray], key: str) -> TokenBatch:
    ids = [hashlib.sha256(f"{key} {number}".encode()).digest()[:16] for number in range(len(texts))]
    return TokenBatch(
        np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16),
        np.concatenate(texts).astype(np.uint16),
        np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64),
    )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer.json of VOCAB tokens: printable ASCII singles, and end-of-text."""
    singles = [chr(33 + number) for number in range(94)] + ["Ġ", "Ċ"]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": END_OF_TEXT, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {**{text: i for i, text in enumerate(singles)}, "<|endoftext|>": END_OF_TEXT},
                  "merges": []},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """Shards: two for train (about 5,000 tokens), one for validation."""
    directory = tmp_path_factory.mktemp("tokens")
    write_shards(
        directory,
        {"train": [batch(documents(160, 1), "train")], "validation": [batch(documents(20, 2), "validation")]},
        text_bytes={"train": 2000, "validation": 500},
        settings=ShardSettings(shard_text_bytes=1000),
        tokenizer_sha256=hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
        vocab_size=VOCAB,
        end_of_text=END_OF_TEXT,
    )
    return directory


@pytest.fixture
def job(tokens: Path, tokenizer: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """`job(run="a", model={...}, steps=20, ...)`: a tiny job with [train] fields changed."""

    def make(run: str = "run", model: dict[str, Any] | None = None, **train: Any) -> TrainJob:
        settings = {
            "steps": 20, "batch_sequences": 8, "micro_batch": 4, "learning_rate": 1e-2, "warmup_steps": 3,
            "evaluate_every": 10, "checkpoint_every": 10, "tensorboard": False, "device": "cpu", "dtype": "float32",
            "log_every": 5, **train,
        }  # fmt: skip
        return TrainJob(
            dataclasses.replace(TINY, **(model or {})),
            TrainSettings(**settings),
            str(tokens),
            str(tmp_path / run),
            str(tokenizer),
        )

    return make
