"""One model, all its evaluations: results.json, each number with its protocol and the paper's figure beside it.

- Sets are those of `[evaluate] sets` and, if token shards are given, their whole validation split.
- With overlap/examples.parquet, examples that share an n-gram with the training corpus are left out of a second
  score, `without_overlap`; examples are matched by the file's SHA-256 and their number, so renaming does not matter.
- Under torchrun the work is spread over the processes; the first one writes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.config import EvaluateJob
from model.data import open_shards
from model.evals import lambada, published
from model.evals.detokenize import DETOKENIZERS
from model.evals.scoring import Scorer
from model.evals.texts import Text, TextSet, read_bytes, read_records, read_text, segment_of_tokens
from model.hf import end_of_text_of, load_any
from model.loader import Samples
from model.parallel import arithmetic, processes
from model.train import token_bytes

log = logging.getLogger(__name__)

RESULTS = "results.json"
Touched = dict[str, set[int]]  # file SHA-256 -> examples that overlap


def run(job: EvaluateJob) -> dict[str, Any]:
    """Evaluates the model of `job` and writes `job.run`/results.json; returns its content.

    Raises ValueError or OSError, in one line, for settings, files and tokenizers that do not fit.
    """
    settings = job.evaluate
    sets = [TextSet.of(entry) for entry in settings.sets]
    tokenizer = Tokenizer(Path(job.tokenizer))
    touched = read_touched(Path(job.examples)) if job.examples else None
    with processes(settings.device) as group:
        model = load_any(Path(job.weights or job.run)).to(group.device).eval()
        if model.config.vocab_size < tokenizer.size:
            raise ValueError(
                f"{job.tokenizer}: expected at most the {model.config.vocab_size} tokens of the model, got "
                f"{tokenizer.size}; name the tokenizer that it was trained with"
            )
        dtype = arithmetic(settings.dtype, group.device)
        if dtype == torch.float64:
            model.double()
        scorer = Scorer(model, group, dtype, settings.micro_batch, tokenizer.end_of_text)
        results: dict[str, Any] = {
            "model": {"weights": job.weights or job.run, "parameters": model.config.parameters,
                      "context": model.config.context, "arithmetic": str(dtype).removeprefix("torch.")},
            "sets": {},
        }  # fmt: skip
        if settings.validation and job.tokens:
            results["validation"] = validation(scorer, Path(job.tokens), tokenizer)
        for entry in sets:
            if entry.protocol == "lambada":
                scores = lambada_set(scorer, entry, tokenizer, touched)
            else:
                scores = text_set(scorer, entry, tokenizer, settings.stride, touched)
            if (figures := published.beside(entry.name, model.config.parameters)) is not None:
                scores["paper_table_3"] = figures
            results["sets"][entry.name] = scores
        if group.first:
            _write(Path(job.run) / RESULTS, results)
            for line in table(results):
                log.info("%s", line)
    return results


# Sets ------------------------------------------------------------------------------------------------------------


class Tokenizer:
    """A byte-level tokenizer.json: text -> ids, and the bytes behind each id."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Loaded

        try:
            self._loaded = Loaded.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: expected a tokenizer.json, {error}; TrainTokenizer writes one") from error
        self._loaded.encode_special_tokens = True  # the text "<|endoftext|>" is text
        self.size = self._loaded.get_vocab_size()
        self.bytes = token_bytes(path, self.size)
        self.end_of_text = end_of_text_of(path)

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        return np.array(self._loaded.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._loaded.decode(list(ids), skip_special_tokens=True)
        return text


def text_set(
    scorer: Scorer, entry: TextSet, tokenizer: Tokenizer, stride: int | None, touched: Touched | None
) -> dict[str, Any]:
    """Language modelling on one set: bits per byte, token and word perplexity, each per original unit."""
    text = read_text(entry)
    documents = [tokenizer.encode("".join(segments)) for segments in text.documents]
    nats = scorer.documents(documents, stride)
    rows = _per_segment(text, documents, nats, tokenizer)
    windows = f"{stride} new tokens" if stride else "no overlap"
    unit = "de-tokenized (invertible)" if entry.protocol in DETOKENIZERS else "as it is"
    result: dict[str, Any] = {
        "protocol": f"{entry.protocol}: text {unit}, <|endoftext|> first, windows of {scorer.model.config.context} "
                    f"tokens, {windows} each; total -log P over original bytes and words"
                    + (", a line end being a word" if unit != "as it is" else ""),
        "file_sha256": text.file_sha256,
        **_rates(rows),
    }  # fmt: skip
    words = int(rows[:, 3].sum()) + (0 if entry.protocol in DETOKENIZERS else text.line_ends)
    result["count"] = published.completeness(entry.name, {"words": words, "bytes": int(rows[:, 2].sum())})
    if touched is not None:
        numbers = np.concatenate([np.array(document, np.int64) for document in text.examples])
        overlapping = np.isin(numbers, sorted(touched.get(text.file_sha256, ())))
        result["without_overlap"] = {
            **_rates(rows[~overlapping]), "examples_left_out": int(overlapping.sum()),
        }  # fmt: skip
    return result


def _per_segment(
    text: Text,
    documents: Sequence[npt.NDArray[np.int64]],
    nats: Sequence[npt.NDArray[np.float64]],
    tokenizer: Tokenizer,
) -> npt.NDArray[np.float64]:
    """float64[segments, 4]: nats, tokens, bytes and words of each; a token counts where it begins."""
    parts = []
    for segments, ids, scores, words, sizes in zip(
        text.documents, documents, nats, text.words, text.bytes, strict=True
    ):
        part = np.zeros((len(segments), 4))
        owners = segment_of_tokens(segments, tokenizer.bytes[ids])
        np.add.at(part[:, 0], owners, scores)
        np.add.at(part[:, 1], owners, 1)
        part[:, 2], part[:, 3] = sizes, words
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros((0, 4))


def _rates(rows: npt.NDArray[np.float64]) -> dict[str, float | int]:
    nats, tokens, size, words = rows.sum(axis=0).tolist()
    counts = {"tokens": int(tokens), "bytes": int(size), "words": int(words)}
    if not (tokens and size and words):
        return dict(counts)
    return {
        "bits_per_byte": nats / math.log(2) / size,
        "token_perplexity": math.exp(nats / tokens),
        "word_perplexity": math.exp(min(700.0, nats / words)),
        **counts,
    }


def lambada_set(scorer: Scorer, entry: TextSet, tokenizer: Tokenizer, touched: Touched | None) -> dict[str, Any]:
    """LAMBADA's three accuracies on one file."""
    import hashlib

    records = read_records(entry.path)
    if records is not None:
        texts = [record["text"] for record in records]
    else:
        texts = [line for line in read_bytes(entry.path).decode("utf-8").split("\n") if line.strip()]
    outcome = lambada.measure(
        scorer, [lambada.prepare(text) for text in texts], lambda text: tokenizer.encode(text).tolist()
    )
    everything = np.ones(len(texts), np.bool_)
    digest = hashlib.sha256(entry.path.read_bytes()).hexdigest()
    result: dict[str, Any] = {
        "protocol": "lambada: plain quotes, '\\n' + text.strip(); last_token: the last token alone; last_word: "
                    "every token of the last word greedily; filtered: no token that is a stop word by itself",
        "file_sha256": digest,
        **outcome.scores(everything),
        "count": published.completeness("lambada", {"examples": len(texts)}),
    }  # fmt: skip
    if touched is not None:
        overlapping = np.zeros(len(texts), np.bool_)
        overlapping[[number for number in touched.get(digest, ()) if number < len(texts)]] = True
        result["without_overlap"] = {**outcome.scores(~overlapping), "examples_left_out": int(overlapping.sum())}
    return result


def validation(scorer: Scorer, directory: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """The whole validation split in samples of the context's length, as training sees it."""
    shards = open_shards(directory, "validation")
    samples = Samples([shard.tokens for shard in shards.shards], scorer.model.config.context)
    sums = torch.zeros(3, dtype=torch.float64)
    for begin in range(scorer.group.rank * scorer.micro_batch, len(samples), scorer.group.world * scorer.micro_batch):
        rows = samples[np.arange(begin, min(begin + scorer.micro_batch, len(samples)))]
        sums[0] += scorer.nats(rows[:, :-1].copy(), rows[:, 1:].copy()).sum()
        sums[1] += rows[:, 1:].size
        sums[2] += int(tokenizer.bytes[rows[:, 1:]].sum())
    nats, tokens, size = scorer.group.sum(sums.to(scorer.group.device)).tolist()
    return {
        "protocol": f"shards: samples of {scorer.model.config.context} tokens that follow each other, end-of-text "
                    "predicted too; -log P over the bytes of the predicted tokens",
        "loss": nats / tokens if tokens else None,
        "bits_per_byte": nats / math.log(2) / size if size else None,
        "tokens": int(tokens),
        "bytes": int(size),
        "tail_tokens": samples.tail_tokens,
    }  # fmt: skip


# Overlap, output -------------------------------------------------------------------------------------------------


def read_touched(path: Path) -> Touched:
    """The overlapping examples of overlap/examples.parquet (columns file_sha256, example, found), by file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=["file_sha256", "example", "found"])
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise ValueError(
            f"{path}: expected a table with file_sha256, example and found, {error}; OverlapReport writes one"
        ) from error
    touched: Touched = {}
    for digest, example, found in zip(*(rows.column(name).to_pylist() for name in rows.column_names), strict=True):
        if found:
            touched.setdefault(digest, set()).add(example)
    return touched


def table(results: dict[str, Any]) -> list[str]:
    """results.json as lines to read."""
    lines = []
    entries: dict[str, Any] = dict(results["sets"])
    if "validation" in results:
        entries["validation"] = results["validation"]
    for name, scores in entries.items():
        count = scores.get("count", "unknown")
        lines.append(f"{name}{'' if count == 'unknown' else f'  [{count}]'}  {scores['protocol']}")
        lines.append("    " + _figures(scores))
        if "without_overlap" in scores:
            lines.append("    without overlapping examples: " + _figures(scores["without_overlap"]))
        if "paper_table_3" in scores:
            paper = dict(scores["paper_table_3"])
            lines.append(f"    the paper's {paper.pop('model')} (Table 3): " + _figures(paper))
    return lines


def _figures(scores: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.4g}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    hidden: tuple[str, ...] = ("protocol", "file_sha256", "count", "without_overlap", "paper_table_3")
    return "  ".join(f"{key} {shown(value)}" for key, value in scores.items() if key not in hidden)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
