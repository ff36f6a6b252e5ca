"""Sizes, recipes and settings of the trainer; torch is not imported here.

- A preset is a size and the recipe that published reproductions used at that size; any field set beside it wins.
- `None` means "what the preset's recipe says" (learning rate, warm-up) or off (clipping, evaluation).
- Settings marked `bytes: False` change the speed, the memory or the rounding of a run, never which samples a step
  sees nor what is computed with them; a run may be resumed with other values of these and of no other field.
- A job is what one process group needs to know, as one JSON file: settings and paths.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

PRESETS = {  # layers, width, heads: the four models of the paper, by the names they were released under
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a size was trained by those who published their runs."""

    learning_rate: float
    warmup_steps: int
    batch_sequences: int


# llm.c's and nanoGPT's published runs: AdamW 0.9/0.95, clip 1.0, weight decay 0.1, 0.5M tokens a step (1M for xl).
RECIPES = {
    "gpt2": Recipe(6e-4, 700, 512),
    "gpt2-medium": Recipe(3e-4, 700, 512),
    "gpt2-large": Recipe(2.5e-4, 700, 512),
    "gpt2-xl": Recipe(6e-4, 700, 1024),
}


def _setting(default: Any, help: str, *, bytes: bool = True) -> Any:
    metadata: dict[str, Any] = {"help": help}
    if not bytes:
        metadata["bytes"] = False
    return field(default=default, metadata=metadata)


def _check(ok: bool, section: str, key: str, expected: str, got: object, remedy: str) -> None:
    if not ok:
        raise ValueError(f"[{section}] {key}: expected {expected}, got {got!r}; {remedy}")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """`[model]`: the architecture. A GPT-2 in every bit unless `attention` is changed."""

    preset: str | None = _setting("gpt2", "gpt2, gpt2-medium, gpt2-large or gpt2-xl; empty: layers, width and heads")
    layers: int | None = _setting(None, "transformer blocks; empty: the preset's")
    width: int | None = _setting(None, "channels of the residual stream; empty: the preset's")
    heads: int | None = _setting(None, "attention heads, a divisor of width; empty: the preset's")
    context: int = _setting(1024, "tokens a sample holds, and positions the model knows")
    attention: Literal["dense", "alternating_banded", "strided"] = _setting(
        "dense", "dense is GPT-2; alternating_banded is GPT-3's; only dense can be exported to transformers"
    )
    band: int = _setting(128, "tokens a banded layer looks back, or the stride of strided attention")
    pad_vocabulary_to: int = _setting(64, "rows of the embedding are a multiple of this; pads stay out of the softmax")

    def __post_init__(self) -> None:
        known = ", ".join(PRESETS)
        _check(self.preset is None or self.preset in PRESETS, "model", "preset", f"one of {known}", self.preset,
               "or leave it empty and set layers, width and heads")  # fmt: skip
        for key in ("layers", "width", "heads"):
            value = getattr(self, key)
            if self.preset is None:
                _check(value is not None, "model", key, "a number, as preset is empty", value, "set it or a preset")
            _check(value is None or value > 0, "model", key, "a number above 0", value, "give a positive number")
        for key in ("context", "band", "pad_vocabulary_to"):
            _check(getattr(self, key) > 0, "model", key, "a number above 0", getattr(self, key),
                   "give a positive number")  # fmt: skip
        _check(self.attention in ("dense", "alternating_banded", "strided"), "model", "attention",
               "dense, alternating_banded or strided", self.attention, "dense is GPT-2")  # fmt: skip
        _, width, heads = self.shape
        _check(width % heads == 0, "model", "heads", f"a divisor of the width {width}", heads,
               "GPT-2 has 64 channels a head")  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, width, heads), the preset's where a field is not set."""
        layers, width, heads = PRESETS[self.preset] if self.preset else (0, 0, 0)
        return self.layers or layers, self.width or width, self.heads or heads


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """`[train]`: what is done to the model."""

    name: str = _setting("gpt2", "the run's directory is runs/NAME")
    seed: int = _setting(0, "keys the initial weights and the order of the samples")
    steps: int | None = _setting(None, "optimizer steps; empty: as many as `epochs` takes")
    epochs: float = _setting(1.0, "passes over the train split, where steps is empty")
    batch_sequences: int | None = _setting(None, "samples of one step, over all processes; empty: the preset's (512)")
    learning_rate: float | None = _setting(None, "peak learning rate; empty: the preset's recipe")
    warmup_steps: int | None = _setting(None, "steps of linear warm-up; empty: the preset's, at most a tenth of all")
    schedule: Literal["cosine", "wsd"] = _setting("cosine", "cosine, or warm-up, stable, decay (linear)")
    decay_fraction: float = _setting(0.2, "the part of all steps in which wsd decays")
    final_learning_rate: float = _setting(0.1, "the last step's learning rate, as a part of the peak")
    optimizer: Literal["adamw", "muon"] = _setting("adamw", "muon: for the blocks' matrices, AdamW for all else")
    muon_learning_rate: float = _setting(0.02, "peak learning rate of the matrices under muon")
    muon_momentum: float = _setting(0.95, "Nesterov momentum of muon")
    weight_decay: float = _setting(0.1, "decoupled, on tensors of two or more dimensions")
    beta1: float = _setting(0.9, "AdamW's decay of the mean gradient")
    beta2: float = _setting(0.95, "AdamW's decay of the mean squared gradient")
    epsilon: float = _setting(1e-8, "AdamW's denominator floor")
    gradient_clip: float | None = _setting(1.0, "largest norm of the gradient; empty: no clipping")
    document_mask: bool = _setting(False, "attend within a document only, positions from its start")
    dtype: Literal["auto", "bfloat16", "float32", "float64"] = _setting(
        "auto", "of the arithmetic; auto: bfloat16 autocast on CUDA, float32 on CPU; weights are float32 or float64"
    )
    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "auto: CUDA where there is one", bytes=False)
    micro_batch: int = _setting(8, "samples of one forward pass on one process", bytes=False)
    compile: Literal["auto", "on", "off"] = _setting("auto", "torch.compile; auto: on CUDA", bytes=False)
    loss_chunk: int | None = _setting(1024, "tokens whose logits exist at once; empty: all of them", bytes=False)
    fully_shard: bool = _setting(False, "FSDP2: shard weights and optimizer over the processes", bytes=False)
    deterministic: bool = _setting(False, "only deterministic kernels on CUDA (slower)", bytes=False)
    evaluate_every: int | None = _setting(250, "steps between evaluations on the validation split; empty: at the end")
    evaluate_sequences: int | None = _setting(1024, "validation samples of one evaluation; empty: all")
    checkpoint_every: int | None = _setting(1000, "steps between checkpoints; empty: at the end only", bytes=False)
    keep_checkpoints: int = _setting(2, "newest checkpoints that are kept", bytes=False)
    log_every: int = _setting(10, "steps between progress lines; metrics.jsonl has every step", bytes=False)
    tensorboard: bool = _setting(True, "also write TensorBoard events, where it is installed", bytes=False)
    verify_shards: bool = _setting(True, "compare every shard's SHA-256 with meta.json before the first step",
                                   bytes=False)  # fmt: skip

    def __post_init__(self) -> None:
        def above(key: str, floor: float = 0) -> None:
            value = getattr(self, key)
            _check(value is None or value > floor, "train", key, f"a number above {floor:g}", value, "see luigi.cfg")

        def within(key: str, low: float, high: float) -> None:
            value = getattr(self, key)
            _check(low <= value <= high, "train", key, f"a number from {low:g} to {high:g}", value, "see luigi.cfg")

        _check(bool(self.name) and not set(self.name) & set("/\\\0") and self.name not in (".", ".."), "train", "name",
               "a folder name", self.name, "it becomes runs/NAME")  # fmt: skip
        for key in ("steps", "epochs", "batch_sequences", "learning_rate", "muon_learning_rate", "epsilon",
                    "gradient_clip", "micro_batch", "loss_chunk", "evaluate_every", "evaluate_sequences",
                    "checkpoint_every", "keep_checkpoints", "log_every"):  # fmt: skip
            above(key)
        _check(self.warmup_steps is None or self.warmup_steps >= 0, "train", "warmup_steps", "0 or more",
               self.warmup_steps, "leave it empty for the recipe's")  # fmt: skip
        _check(self.weight_decay >= 0, "train", "weight_decay", "0 or more", self.weight_decay, "GPT-2 runs use 0.1")
        _check(0 <= self.seed < 2**63, "train", "seed", "a number from 0 to 2^63 - 1", self.seed, "any will do")
        within("decay_fraction", 0, 1)
        within("final_learning_rate", 0, 1)
        within("muon_momentum", 0, 0.9999)
        within("beta1", 0, 0.999999)
        within("beta2", 0, 0.999999)
        for key, values in {"schedule": ("cosine", "wsd"), "optimizer": ("adamw", "muon"), "device": DEVICES,
                            "dtype": ("auto", "bfloat16", "float32", "float64"),
                            "compile": ("auto", "on", "off")}.items():  # fmt: skip
            got = getattr(self, key)
            _check(got in values, "train", key, " or ".join(values), got, "choose one of these")
        _check(not (self.fully_shard and self.optimizer == "muon"), "train", "optimizer", "adamw with fully_shard",
               self.optimizer, "muon needs whole matrices: switch fully_shard off")  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """`[evaluate]`: which texts the model is scored on, and how."""

    sets: tuple[str, ...] = _setting((), "NAME=PATH or NAME:PROTOCOL=PATH; protocols: plain, ptb, wikitext, 1bw, "
                                         "enwik8, text8, lambada (default: by NAME, else plain)")  # fmt: skip
    stride: int | None = _setting(None, "new tokens a sliding window scores (512 is usual); empty: no overlap")
    validation: bool = _setting(True, "also score the whole validation split of the token shards")
    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "auto: CUDA where there is one", bytes=False)
    dtype: Literal["auto", "bfloat16", "float32", "float64"] = _setting(
        "auto", "of the arithmetic; auto: bfloat16 autocast on CUDA, float32 on CPU"
    )
    micro_batch: int = _setting(8, "windows scored at once on one process", bytes=False)

    def __post_init__(self) -> None:
        for entry in self.sets:
            name, _, path = entry.partition("=")
            _check(bool(name.strip() and path.strip()), "evaluate", "sets", "NAME=PATH or NAME:PROTOCOL=PATH", entry,
                   "separate several by commas")  # fmt: skip
        _check(self.stride is None or self.stride > 0, "evaluate", "stride", "a number above 0", self.stride,
               "512 is usual")  # fmt: skip
        _check(self.micro_batch > 0, "evaluate", "micro_batch", "a number above 0", self.micro_batch, "try 8")
        _check(self.device in DEVICES, "evaluate", "device", " or ".join(DEVICES), self.device, "choose one of these")
        _check(self.dtype in ("auto", "bfloat16", "float32", "float64"), "evaluate", "dtype",
               "auto, bfloat16, float32 or float64", self.dtype, "choose one of these")  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """`[sample]`: how text is drawn from a model."""

    temperature: float = _setting(1.0, "0 is greedy; 1 the model's own distribution")
    top_k: int | None = _setting(None, "draw from the k most likely tokens only (the paper's samples: 40)")
    top_p: float | None = _setting(None, "draw from the smallest set with this much probability")
    max_tokens: int = _setting(100, "tokens to draw at most; end-of-text ends earlier")
    seed: int = _setting(0, "the draws of prompt i depend on the seed and i alone")
    batch: int = _setting(16, "prompts continued at once", bytes=False)

    def __post_init__(self) -> None:
        _check(self.temperature >= 0, "sample", "temperature", "0 or more", self.temperature, "0 is greedy")
        _check(self.top_k is None or self.top_k > 0, "sample", "top_k", "a number above 0", self.top_k,
               "leave it empty for all tokens")  # fmt: skip
        _check(self.top_p is None or 0 < self.top_p <= 1, "sample", "top_p", "above 0 and at most 1", self.top_p,
               "leave it empty for all tokens")  # fmt: skip
        for key in ("max_tokens", "batch"):
            value = getattr(self, key)
            _check(value > 0, "sample", key, "a number above 0", value, "give a positive number")


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training run: `python -m model.train JOB.json`, alone or under torchrun."""

    model: ModelSettings
    train: TrainSettings
    tokens: str  # folder of token shards with meta.json
    run: str  # folder of checkpoints, metrics.jsonl and summary.json; resumed when it has a checkpoint
    tokenizer: str | None = None  # tokenizer.json: for bits per byte, and copied beside checkpoints on export


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """One evaluation: `python -m model.evals JOB.json`, alone or under torchrun. Writes `run`/results.json."""

    evaluate: EvaluateSettings
    run: str  # folder of a training run, or where results.json goes if `weights` is given
    tokenizer: str  # tokenizer.json that made the shards
    tokens: str | None = None  # token shards, for the validation split
    weights: str | None = None  # a transformers directory in place of the run's newest checkpoint
    examples: str | None = None  # overlap/examples.parquet: overlapping examples are left out, both scores shown


Job = TypeVar("Job", TrainJob, EvaluateJob)

_SECTIONS: dict[str, type] = {"model": ModelSettings, "train": TrainSettings, "evaluate": EvaluateSettings}


def job_json(job: TrainJob | EvaluateJob) -> str:
    """The JSON text that `read_job` reads."""
    return json.dumps(dataclasses.asdict(job), indent=1, sort_keys=True) + "\n"


def read_job(path: str | Path, kind: type[Job]) -> Job:
    """The job of a JSON file. Raises ValueError, one line, for an unknown key, a wrong type or a missing one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a job as JSON, {error}; job_json() writes one") from error
    return cast(Job, fill(kind, content, str(path)))


def fill(kind: type[Any], content: Any, place: str) -> Any:
    """A settings or job dataclass of JSON `content`; `place` names it in errors."""
    if not isinstance(content, dict):
        raise ValueError(f"{place}: expected an object with the fields of {kind.__name__}, got {content!r:.60}")
    names = {entry.name: entry for entry in dataclasses.fields(kind)}
    if unknown := sorted(set(content) - set(names)):
        raise ValueError(f"{place}: expected the fields {', '.join(names)}, got also {', '.join(unknown)}; remove them")
    required = [name for name, entry in names.items()
                if entry.default is dataclasses.MISSING and name not in content]  # fmt: skip
    if required:
        raise ValueError(f"{place}: expected {', '.join(required)}, got none; add what is missing")
    values = {}
    for name, value in content.items():
        if name in _SECTIONS:
            value = fill(_SECTIONS[name], value, f"{place} [{name}]")
        elif isinstance(value, list):
            value = tuple(value)
        _check_type(value, str(names[name].type), f"{place} {name}")
        values[name] = float(value) if _is_float(str(names[name].type)) and isinstance(value, int) else value
    return kind(**values)


def _is_float(annotation: str) -> bool:
    return annotation in ("float", "float | None")


_JSON_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}


def _check_type(value: object, annotation: str, place: str) -> None:
    base = annotation.removesuffix(" | None")
    if base not in _JSON_TYPES or (value is None and base != annotation):
        return
    wanted = _JSON_TYPES[base]
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise ValueError(f"{place}: expected {annotation}, got {value!r}; correct the value")
