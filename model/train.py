"""The training loop: `python -m model.train JOB.json`, alone or under torchrun.

- One step takes `batch_sequences` samples, whatever the number of processes and the micro-batch; what it takes is a
  function of the seed and the step. Gradients are summed over micro-batches and averaged over processes once a step.
- Before the first step everything that can fail is tried: settings, shards, the checkpoint, one forward and backward
  pass with the optimizer's state in place. An error there is one line. The pass also makes DDP choose its buckets,
  so that a resumed run adds gradients in the order of a run that never stopped.
- metrics.jsonl holds what is reproducible, a line for every step, and is cut back to the checkpoint on resume;
  speed.jsonl holds what is not (tokens per second, MFU, memory).
- A step whose gradient is not finite is skipped and counted. SIGTERM ends the step, saves, and ends the run cleanly.
- MFU is 6N + 12LCT FLOPs a token (PaLM's convention; N without the positions) over the device's dense peak.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from model import checkpoint
from model.command import run_job
from model.config import RECIPES, TrainJob, TrainSettings
from model.data import Shards, open_shards, read_meta
from model.gpt2 import GPT2, Architecture
from model.loader import Prefetcher, Samples, micro_batches
from model.optim import Optimizers, learning_rate_factor
from model.parallel import Processes, arithmetic, autocast, peak_flops, processes

log = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 50
SUMMARY = "summary.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What the settings come to on this data and these processes."""

    architecture: Architecture
    steps: int
    warmup: int
    batch: int
    accumulation: int
    learning_rate: float
    dtype: torch.dtype

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.architecture.context


def finished(run: str | Path) -> bool:
    """True once the run in folder `run` has taken all its steps."""
    return (Path(run) / SUMMARY).is_file()


def run(job: TrainJob) -> bool:
    """Trains, going on from the newest checkpoint in `job.run` if there is one.

    Writes checkpoints/, metrics.jsonl, speed.jsonl and, at the end, summary.json. Returns True when all steps are
    taken, False when SIGTERM ended the run before (call again to go on). Raises ValueError or OSError, in one line,
    for what is wrong with settings, shards, checkpoint or memory, before the first step.
    """
    with processes(job.train.device) as group:
        return Trainer(job, group).train()


def plan(job: TrainJob, vocab_size: int, samples: int, group: Processes) -> Plan:
    """Fills in what the settings leave open. Raises ValueError where they do not fit the data or the processes."""
    settings = job.train
    recipe = RECIPES.get(job.model.preset or "gpt2", RECIPES["gpt2"])
    batch = settings.batch_sequences or recipe.batch_sequences
    if samples == 0:
        raise ValueError(
            f"{job.tokens}: expected a shard of more than {job.model.context} tokens in the train split, got none; "
            "lower [model] context or build a larger corpus"
        )
    per_pass = settings.micro_batch * group.world
    if batch % per_pass:
        fits = [size for size in range(1, settings.micro_batch + 1) if batch % (size * group.world) == 0]
        remedy = f"set micro_batch = {fits[-1]}" if fits else f"use a multiple of {group.world} as batch_sequences"
        raise ValueError(
            f"[train] micro_batch: expected batch_sequences ({batch}) to be a multiple of micro_batch x processes "
            f"({settings.micro_batch} x {group.world}), got a remainder of {batch % per_pass}; {remedy}"
        )
    steps = settings.steps or max(1, math.floor(settings.epochs * samples / batch))
    warmup = settings.warmup_steps if settings.warmup_steps is not None else min(recipe.warmup_steps, steps // 10)
    if warmup > steps:
        raise ValueError(f"[train] warmup_steps: expected at most the {steps} steps of the run, got {warmup}; lower it")
    rate = settings.learning_rate or recipe.learning_rate
    architecture = Architecture.of(job.model, vocab_size)
    dtype = arithmetic(settings.dtype, group.device)
    return Plan(architecture, steps, warmup, batch, batch // per_pass, rate, dtype)


class Trainer:
    """A run's state: model, optimizers, data, and how many steps are behind."""

    def __init__(self, job: TrainJob, group: Processes) -> None:
        settings = job.train
        self.job, self.settings, self.group = job, settings, group
        self.run = Path(job.run)
        tokenizer = Path(job.tokenizer) if job.tokenizer else None
        # Every byte is hashed once, not once a process.
        verify = settings.verify_shards and group.first
        shards = open_shards(Path(job.tokens), "train", tokenizer=tokenizer, verify=verify)
        self.samples = Samples([shard.tokens for shard in shards.shards], job.model.context)
        self.plan = plan(job, shards.vocab_size, len(self.samples), group)
        self.validation = validation_samples(Path(job.tokens), job.model.context, verify=verify)
        self.token_bytes = None
        if tokenizer is not None:
            self.token_bytes = torch.from_numpy(token_bytes(tokenizer, shards.vocab_size)).to(group.device)
        self.identity = _identity(job, shards)
        self._describe(shards)

        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        self.step = 0
        self.skipped = 0
        self.elapsed_seconds = 0.0
        if group.first:
            checkpoint.sweep(self.run / "checkpoints")
        group.wait()
        newest = checkpoint.latest(self.run / "checkpoints")
        if newest is not None:
            _check_identity(newest, checkpoint.read_state(newest)["identity"], self.identity)
        with _memory_errors(settings.micro_batch):
            self._build(shards.end_of_text)
            self._rehearse()
        torch.manual_seed(settings.seed)
        self.metrics_bytes = 0
        if newest is not None:
            self._resume(newest)
        elif group.first:
            self.run.mkdir(parents=True, exist_ok=True)
            (self.run / "metrics.jsonl").write_bytes(b"")
            (self.run / "speed.jsonl").write_bytes(b"")
        group.wait()

    # Construction ---------------------------------------------------------------------------------------------

    def _describe(self, shards: Shards) -> None:
        if not self.group.first:
            return
        p = self.plan
        log.info(
            "%s parameters, %s tokens in %s samples of %d (%s tokens are tails), %d steps of %d x %d, %.2f epochs",
            f"{p.architecture.parameters:,}", f"{shards.num_tokens:,}", f"{len(self.samples):,}",
            p.architecture.context, f"{self.samples.tail_tokens:,}", p.steps, p.batch, p.architecture.context,
            p.steps * p.batch / len(self.samples),
        )  # fmt: skip

    def _build(self, end_of_text: int) -> None:
        settings, group = self.settings, self.group
        model = GPT2(
            self.plan.architecture,
            loss_chunk=settings.loss_chunk,
            end_of_text=end_of_text if settings.document_mask else None,
        )
        model.initialise(settings.seed)
        if self.plan.dtype == torch.float64:
            model.double()
        model.to(group.device)
        if settings.compile == "on" or (settings.compile == "auto" and group.device.type == "cuda"):
            if settings.fully_shard:  # a graph for each block, between the gathers of weights
                for block in model.transformer.h:
                    block.compile(dynamic=False)
            else:
                model.compile(dynamic=False)
        self.model = model
        self.parallel: nn.Module = model
        if settings.fully_shard:
            from torch.distributed.fsdp import fully_shard

            if group.world == 1:
                raise ValueError("[train] fully_shard: expected several processes, got one; start them with torchrun")
            for block in model.transformer.h:
                fully_shard(block)
            fully_shard(model)
        elif group.world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(
                model, device_ids=[group.device.index] if group.device.type == "cuda" else None,
                gradient_as_bucket_view=True, broadcast_buffers=False,
            )  # fmt: skip
        self.optimizers = Optimizers(model, settings, self.plan.learning_rate)

    def _rehearse(self) -> None:
        """One forward and backward pass whose gradient is thrown away, as many tokens as a real one."""
        shape = (self.settings.micro_batch, self.plan.architecture.context)
        tokens = torch.zeros(shape, dtype=torch.int64, device=self.group.device)
        self._backward(tokens, tokens, last=True)
        self._gradient_norm()
        self.model.zero_grad(set_to_none=True)

    def _resume(self, path: Path) -> None:
        saved = checkpoint.read(path)
        _fill(self.model.state_dict(), saved.weights, path)
        _fill(self.optimizers.state(), saved.optimizer, path)
        checkpoint.restore_random_states(saved.random)
        self.step = int(saved.state["step"])
        self.skipped = int(saved.state["skipped_steps"])
        self.metrics_bytes = int(saved.state["metrics_bytes"])
        if self.group.first:
            _cut(self.run / "metrics.jsonl", self.metrics_bytes)
            log.info("going on from %s", path)

    # Steps ----------------------------------------------------------------------------------------------------

    def train(self) -> bool:
        """Takes the steps that are left; True when none is left."""
        settings, group, p = self.settings, self.group, self.plan
        position = self.step * p.batch
        batches = micro_batches(
            self.samples, position, seed=settings.seed, batch=p.batch, micro_batch=settings.micro_batch,
            rank=group.rank, world=group.world,
        )  # fmt: skip
        speed = _Speed(p, group)
        skipped_in_a_row = 0
        saved_at = self.step
        with _Log(self.run, group, settings, self.step) as logs, Prefetcher(batches, group.device) as ahead, \
                _sigterm() as stopped:  # fmt: skip
            self._logs = logs
            while self.step < p.steps:
                record = self._take_step(ahead)
                self.step += 1
                skipped_in_a_row = 0 if record["loss"] is not None else skipped_in_a_row + 1
                if skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
                    raise ValueError(
                        f"step {self.step}: expected finite gradients, got none in {skipped_in_a_row} steps; lower "
                        "[train] learning_rate and go on from the last checkpoint under another name"
                    )
                logs.metrics(record)
                speed.count()
                done = self.step == p.steps
                if self.step % settings.log_every == 0 or done:
                    logs.speed(speed.record(self.step), record)
                stop = self._any(stopped())
                due = settings.evaluate_every is not None and self.step % settings.evaluate_every == 0
                if len(self.validation) and (done or due):
                    with speed.paused():
                        logs.metrics({"step": self.step, **self.evaluate()}, evaluation=True)
                every = settings.checkpoint_every
                if done or stop or (every is not None and self.step % every == 0):
                    with speed.paused():
                        self.save()
                    saved_at = self.step
                if stop and not done:
                    log.info("stopped by SIGTERM after step %d, which is saved; run again to go on", saved_at)
                    return False
            self._summarise(logs)
        return True

    def _take_step(self, ahead: Prefetcher) -> dict[str, Any]:
        p = self.plan
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        for micro in range(p.accumulation):
            tokens, targets = next(ahead)
            total += self._backward(tokens, targets, last=micro == p.accumulation - 1)
        norm = self._gradient_norm()
        loss = self.group.sum(total).item() / self.group.world
        factor = learning_rate_factor(self.step, p.steps, p.warmup, self.settings)
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            self.optimizers.step(factor)
        else:
            self.skipped += 1
            if self.group.first:
                log.warning("step %d is skipped: loss %s, gradient norm %s", self.step + 1, loss, norm)
        self.optimizers.zero_grad()
        return {
            "step": self.step + 1,
            "tokens": (self.step + 1) * p.tokens_per_step,
            "loss": loss if finite else None,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "learning_rate": factor * p.learning_rate,
            "skipped_steps": self.skipped,
        }

    def _backward(self, tokens: Tensor, targets: Tensor, *, last: bool) -> Tensor:
        """Adds this micro-batch's gradient; returns its part of the step's mean loss."""
        if isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            self.parallel.require_backward_grad_sync = last  # must be set before forward
        elif self.settings.fully_shard:
            self.parallel.set_requires_gradient_sync(last)  # type: ignore[operator]
        with autocast(self.plan.dtype, self.group.device):
            loss: Tensor = self.parallel(tokens, targets) / self.plan.accumulation
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().double()

    def _gradient_norm(self) -> float:
        """The norm before clipping; clips if asked to."""
        clip = self.settings.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if clip is None else clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _any(self, flag: bool) -> bool:
        if self.group.world == 1:
            return flag
        return bool(self.group.sum(torch.tensor(int(flag), device=self.group.device)).item())

    # Evaluation and saving ------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> dict[str, float | int]:
        """Loss on the first `evaluate_sequences` validation samples, spread over the processes."""
        limit = self.settings.evaluate_sequences
        count = len(self.validation) if limit is None else min(limit, len(self.validation))
        group, size = self.group, self.settings.micro_batch
        sums = torch.zeros(3, dtype=torch.float64, device=group.device)  # nats, tokens, bytes
        for begin in range(0, count, size * group.world):
            numbers = np.arange(begin + group.rank * size, begin + (group.rank + 1) * size)
            used = numbers < count
            # Sharded weights are gathered by all processes together, so one without samples goes along.
            rows = torch.from_numpy(self.validation[np.where(used, numbers, 0)]).to(group.device)
            tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].clone()
            targets[~torch.from_numpy(used).to(group.device)] = -100
            counted = targets != -100
            with autocast(self.plan.dtype, group.device):
                loss = self.model(tokens, targets).double()
            if used.any():
                sums[0] += loss * counted.sum()
                sums[1] += counted.sum()
                if self.token_bytes is not None:
                    sums[2] += self.token_bytes[targets[counted]].sum()
        nats, tokens_seen, bytes_seen = group.sum(sums).tolist()
        result: dict[str, float | int] = {
            "validation_loss": nats / tokens_seen,
            "validation_tokens": int(tokens_seen),
        }
        if bytes_seen:
            result["validation_bits_per_byte"] = nats / math.log(2) / bytes_seen
            result["validation_bytes"] = int(bytes_seen)
        return result

    def save(self) -> None:
        """Writes a checkpoint of the steps so far."""
        self.metrics_bytes = self._logs.sync()
        weights = _gather(self.model.state_dict(), keep=self.group.first)
        optimizer = _gather(self.optimizers.state(), keep=self.group.first)
        if self.group.first:
            checkpoint.save(
                self.run / "checkpoints",
                self.step,
                weights=weights,
                optimizer=optimizer,
                random=checkpoint.random_states(),
                state={
                    "samples_seen": self.step * self.plan.batch,
                    "skipped_steps": self.skipped,
                    "metrics_bytes": self.metrics_bytes,
                    "identity": self.identity,
                    "architecture": dataclasses.asdict(self.plan.architecture),
                },
                keep=self.settings.keep_checkpoints,
            )
        self.group.wait()

    def _summarise(self, logs: _Log) -> None:
        if not self.group.first:
            return
        p = self.plan
        summary = {
            "architecture": dataclasses.asdict(p.architecture),
            "parameters": p.architecture.parameters,
            "steps": p.steps,
            "skipped_steps": self.skipped,
            "tokens_seen": p.steps * p.tokens_per_step,
            "train_samples": len(self.samples),
            "tail_tokens": self.samples.tail_tokens,
            "epochs": p.steps * p.batch / len(self.samples),
            **last_evaluation(self.run),
        }
        _publish(self.run / SUMMARY, json.dumps(summary, indent=1, sort_keys=True) + "\n")


# Data ------------------------------------------------------------------------------------------------------------


def validation_samples(tokens: Path, context: int, *, verify: bool = False) -> Samples:
    """The validation split's samples, in their order; none if the corpus has no such split or a tiny one."""
    if "validation" not in read_meta(tokens)["splits"]:
        return Samples([], context)
    shards = open_shards(tokens, "validation", verify=verify)
    return Samples([shard.tokens for shard in shards.shards], context)


def token_bytes(tokenizer: Path, vocab_size: int) -> npt.NDArray[np.int64]:
    """Bytes of text behind each token id, int64[vocab_size]; 0 for special tokens.

    A byte-level tokenizer writes each byte of a token as one character, so its length is its bytes.
    """
    try:
        content = json.loads(tokenizer.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        special = {entry["id"] for entry in content.get("added_tokens", []) if entry.get("special")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{tokenizer}: expected a byte-level BPE tokenizer.json, {error!r}; TrainTokenizer writes one"
        ) from error
    lengths = np.zeros(vocab_size, np.int64)
    for token, number in vocabulary.items():
        if number not in special and number < vocab_size:
            lengths[number] = len(token)
    return lengths


# Resume ----------------------------------------------------------------------------------------------------------


def _identity(job: TrainJob, shards: Shards) -> dict[str, Any]:
    """What must be the same for a run to go on: every setting that matters, and the data."""
    identity: dict[str, Any] = {"tokens": _digest_of(job), "tokenizer_sha256": shards.tokenizer_sha256}
    for section, settings in (("model", job.model), ("train", job.train)):
        for entry in dataclasses.fields(settings):
            if entry.metadata.get("bytes", True) and entry.name != "name":
                identity[f"[{section}] {entry.name}"] = getattr(settings, entry.name)
    return identity


def _digest_of(job: TrainJob) -> str:
    splits = read_meta(Path(job.tokens))["splits"]
    return ",".join(shard["sha256"]["bin"][:16] for shard in splits["train"]["shards"])


def _check_identity(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in now.items():
        if saved.get(key) != value:
            raise ValueError(
                f"{key}: expected {saved.get(key)!r} as in {path}, got {value!r}; set it back, or train under another "
                "[train] name"
            )


def _fill(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    if set(targets) != set(saved):
        odd = sorted(set(targets) ^ set(saved))
        raise ValueError(f"{path}: expected the tensors of this model, got others ({', '.join(odd[:3])}...); remove it")
    with torch.no_grad():
        for name, target in targets.items():
            source = saved[name]
            if source.shape != target.shape:
                raise ValueError(
                    f"{path}: expected {name} of {tuple(target.shape)}, got {tuple(source.shape)}; remove it"
                )
            if isinstance(target, DTensor):
                source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
            target.copy_(source)


def _gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one at a time; every process takes part, the others keep nothing."""
    gathered = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            gathered[name] = whole.detach().cpu()
    return gathered


# Logs, speed, signals --------------------------------------------------------------------------------------------


class _Log:
    """metrics.jsonl, speed.jsonl, TensorBoard and the progress line; silent but on the first process."""

    def __init__(self, run: Path, group: Processes, settings: TrainSettings, step: int) -> None:
        self._first = group.first
        self._board: Any = None
        if self._first:
            self._metrics = (run / "metrics.jsonl").open("ab")
            self._speed = (run / "speed.jsonl").open("ab")
            if settings.tensorboard:
                with contextlib.suppress(ImportError):
                    from torch.utils.tensorboard import SummaryWriter

                    self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def metrics(self, record: Mapping[str, Any], *, evaluation: bool = False) -> None:
        if not self._first:
            return
        self._metrics.write(json.dumps(record).encode() + b"\n")
        self._to_board(record)
        if evaluation:
            log.info("step %d: %s", record["step"], ", ".join(f"{k} {v:.4f}" for k, v in record.items()
                                                              if isinstance(v, float)))  # fmt: skip

    def speed(self, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        if not self._first:
            return
        self._speed.write(json.dumps(record).encode() + b"\n")
        self._speed.flush()
        self._metrics.flush()
        self._to_board(record)
        loss = metrics["loss"]
        log.info(
            "step %d/%d  loss %s  norm %s  lr %.2e  %s tok/s%s  ETA %s",
            record["step"], record["steps"], "-" if loss is None else f"{loss:.4f}",
            "-" if metrics["gradient_norm"] is None else f"{metrics['gradient_norm']:.2f}", metrics["learning_rate"],
            f"{record['tokens_per_second']:,.0f}", "" if record["mfu"] is None else f"  MFU {record['mfu']:.1%}",
            _duration(record["eta_seconds"]),
        )  # fmt: skip

    def _to_board(self, record: Mapping[str, Any]) -> None:
        if self._board is not None:
            for key, value in record.items():
                if key != "step" and value is not None:
                    self._board.add_scalar(key, value, record["step"])

    def sync(self) -> int:
        """Puts metrics.jsonl on disk; its length."""
        if not self._first:
            return 0
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._first:
            self._metrics.close()
            self._speed.close()
            if self._board is not None:
                self._board.close()


class _Speed:
    """Tokens per second over the steps since the last record, without evaluations and checkpoints."""

    def __init__(self, plan: Plan, group: Processes) -> None:
        self._plan, self._group = plan, group
        self._peak = peak_flops(group.device, plan.dtype)
        self._steps = 0
        self._begun = time.perf_counter()

    def count(self) -> None:
        self._steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._begun += time.perf_counter() - before

    def record(self, step: int) -> dict[str, Any]:
        seconds = (time.perf_counter() - self._begun) / max(1, self._steps)
        self._steps, self._begun = 0, time.perf_counter()
        rate = self._plan.tokens_per_step / seconds
        flops = rate * self._plan.architecture.flops_per_token / self._group.world
        device = self._group.device
        return {
            "step": step,
            "steps": self._plan.steps,
            "tokens_per_second": rate,
            "mfu": None if self._peak is None else flops / self._peak,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "eta_seconds": (self._plan.steps - step) * seconds,
        }


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM has come; without effect outside the main thread."""
    seen: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    except ValueError:  # not the main thread: whoever owns the signals decides
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _memory_errors(micro_batch: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in text:
            raise
        remedy = f"try micro_batch = {micro_batch // 2}" if micro_batch > 1 else "try a smaller model or fully_shard"
        raise ValueError(
            f"[train] micro_batch: expected the model and {micro_batch} samples to fit in memory, got out of memory; "
            f"{remedy}"
        ) from error


def last_evaluation(run: Path) -> dict[str, Any]:
    """The last evaluation in metrics.jsonl, empty if there is none."""
    found: dict[str, Any] = {}
    with (run / "metrics.jsonl").open("rb") as lines:
        for line in lines:
            if b'"validation_loss"' in line:
                found = json.loads(line)
    found.pop("step", None)
    return found


def _cut(path: Path, size: int) -> None:
    if path.stat().st_size < size:
        raise ValueError(f"{path}: expected at least {size} bytes as the checkpoint says, got fewer; remove the run")
    with path.open("r+b") as file:
        file.truncate(size)


def _publish(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def main(arguments: list[str]) -> int:
    return run_job(arguments, TrainJob, run, prog="python -m model.train", about=__doc__ or "", timed=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
