"""A finished run beside n-gram models that counted exactly the tokens it saw.

The samples of the run's steps are known from its seed, so the interpolated bigram and trigram models (Witten-Bell) are
counted over the same windows, each once however many epochs there were, and scored on the windows of the run's last
evaluation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from model.config import TrainJob
from model.data import open_shards
from model.evals.ngram import Ngram, bits_per_byte
from model.loader import Samples, sample_numbers
from model.train import SUMMARY, finished, token_bytes, validation_samples


def compare(job: TrainJob) -> dict[str, Any]:
    """Bits per byte of the run (`model`), of `bigram` and `trigram`, and how many tokens were `seen` and `scored`.

    Raises ValueError where the run is not finished, or has no validation split or tokenizer to count bytes with.
    """
    if not finished(job.run):
        raise ValueError(f"{job.run}: expected a finished run, got none; train it first")
    summary = json.loads((Path(job.run) / SUMMARY).read_text(encoding="utf-8"))
    if job.tokenizer is None or "validation_bits_per_byte" not in summary:
        raise ValueError(f"{job.run}: expected bits per byte of a validation split, got none; give a tokenizer and one")
    context = job.model.context
    shards = open_shards(Path(job.tokens), "train")
    samples = Samples([shard.tokens for shard in shards.shards], context)
    taken = summary["tokens_seen"] // context
    seen = samples[np.unique(sample_numbers(0, taken, len(samples), seed=job.train.seed))]
    held_out = validation_samples(Path(job.tokens), context)
    scored = held_out[np.arange(summary["validation_tokens"] // context)]
    lengths = token_bytes(Path(job.tokenizer), shards.vocab_size)
    assert int(lengths[scored[:, 1:]].sum()) == summary["validation_bytes"]
    return {
        "model": summary["validation_bits_per_byte"],
        "bigram": bits_per_byte(Ngram(seen, shards.vocab_size, 2), scored, lengths),
        "trigram": bits_per_byte(Ngram(seen, shards.vocab_size, 3), scored, lengths),
        "seen": seen[:, 1:].size,
        "scored": scored[:, 1:].size,
        "epochs": summary["epochs"],
    }
