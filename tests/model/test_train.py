"""The loop: exact resume, any number of processes, skipped steps, signals, and errors before the first step."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model import checkpoint, train
from model.config import TrainJob, job_json
from model.data import open_shards
from model.evals.baseline import compare
from model.evals.ngram import Ngram, bits_per_byte
from model.loader import Samples, sample_numbers
from model.optim import Optimizers
from model.parallel import processes

Make = Callable[..., TrainJob]


def metrics(job: TrainJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(job.run) / "metrics.jsonl").read_text().splitlines()]


def files(job: TrainJob) -> dict[str, bytes]:
    """Every byte that a run must reproduce."""
    newest = checkpoint.latest(Path(job.run) / "checkpoints")
    assert newest is not None
    found = {path.name: path.read_bytes() for path in sorted(newest.iterdir())}
    return {**found, "metrics": (Path(job.run) / "metrics.jsonl").read_bytes(),
            "summary": (Path(job.run) / "summary.json").read_bytes()}  # fmt: skip


def start(job: TrainJob, world: int = 1, failpoint: str = "") -> list[subprocess.Popen[str]]:
    """`world` processes of the run, as torchrun would start them; `failpoint` is Python run before the run."""
    place = Path(job.run).with_suffix(".json")
    place.write_text(job_json(job))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"import sys, model.train as t\n{failpoint}\nsys.exit(t.main([{str(place)!r}]))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def wait(started: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    outputs = [process.communicate(timeout=240)[0] for process in started]
    return [process.returncode for process in started], "".join(outputs)


def stopped_after(step: int) -> str:
    """A failpoint: SIGKILL when that step has been logged."""
    return f"""
import os, signal
log = t._Log.metrics
def metrics(self, record, **more):
    log(self, record, **more)
    if record["step"] == {step} and "loss" in record:
        self._metrics.flush()
        os.kill(os.getpid(), signal.SIGKILL)
t._Log.metrics = metrics
"""


KILLED_IN_SAVE = """
import os, signal
import model.checkpoint as c
sync = c._sync
def killed(path):
    if path.name == "state.json" and "step-00000020" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
c._sync = killed
"""


def test_a_killed_run_ends_in_every_bit_as_one_never_killed(job: Make) -> None:
    whole, killed, in_save = job("whole"), job("killed"), job("in_save")
    started = [start(killed, failpoint=stopped_after(13)), start(in_save, failpoint=KILLED_IN_SAVE)]
    assert train.run(whole)
    for processes_ in started:
        assert wait(processes_)[0] == [-signal.SIGKILL]
    assert len(metrics(killed)) > len([r for r in metrics(killed) if r["step"] <= 10])  # lines beyond the checkpoint
    assert list((Path(in_save.run) / "checkpoints").glob(".aside-*"))
    expected = files(whole)
    for resumed in (killed, in_save):
        assert not train.finished(resumed.run)
        newest = checkpoint.latest(Path(resumed.run) / "checkpoints")
        assert newest is not None
        assert newest.name == "step-00000010"
        assert train.run(resumed)
        assert files(resumed) == expected
        assert not list((Path(resumed.run) / "checkpoints").glob(".aside-*"))
    assert len([r for r in metrics(whole) if "loss" in r]) == 20


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bfloat16_run_on_a_gpu_resumes_in_every_bit(job: Make) -> None:
    options: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "compile": "on", "deterministic": True}
    model = {"layers": 4, "width": 128, "heads": 2}
    whole, killed = job("whole", model=model, **options), job("killed", model=model, **options)
    assert wait(start(whole))[0] == [0]
    assert wait(start(killed, failpoint=stopped_after(13)))[0] == [-signal.SIGKILL]
    assert wait(start(killed))[0] == [0]
    assert files(killed) == files(whole)


def test_muon_with_document_masks_resumes_in_every_bit(job: Make) -> None:
    options: dict[str, Any] = {"optimizer": "muon", "document_mask": True, "schedule": "wsd", "loss_chunk": None}
    whole, stopped = job("whole", **options), job("stopped", **options)
    train.run(whole)
    stop_after(stopped, 10)
    assert train.run(stopped)
    assert files(stopped) == files(whole)


def taken(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Trains; every row of tokens and last target that a step saw, in order."""
    rows: list[list[int]] = []
    backward = train.Trainer._backward

    def recorded(self: train.Trainer, tokens: torch.Tensor, targets: torch.Tensor, *, last: bool) -> torch.Tensor:
        if hasattr(self, "_logs"):  # not the rehearsal
            rows.extend(torch.cat([tokens, targets[:, -1:]], dim=1).tolist())
        return backward(self, tokens, targets, last=last)

    with monkeypatch.context() as patched:
        patched.setattr(train.Trainer, "_backward", recorded)
        train.run(job)
    return rows


def test_steps_see_the_samples_that_the_seed_says_also_after_a_resume(
    job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = job("whole", seed=5), job("resumed", seed=5)
    shards = open_shards(Path(whole.tokens), "train")
    samples = Samples([shard.tokens for shard in shards.shards], 16)
    expected = samples[sample_numbers(0, 20 * 8, len(samples), seed=5)].tolist()
    assert taken(whole, monkeypatch) == expected
    stop_after(resumed, 7)
    assert taken(resumed, monkeypatch) == expected[7 * 8 :]


def stop_after(job: TrainJob, steps: int) -> None:
    """Trains as if SIGTERM came in that step."""
    with processes("cpu") as group:
        trainer = train.Trainer(job, group)
        answers = iter([False] * (steps - 1) + [True])
        trainer._any = lambda flag: next(answers)  # type: ignore[method-assign]
        assert not trainer.train()


def test_random_draws_go_on_where_they_were(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[float] = []
    take = train.Trainer._take_step

    def drawing(self: train.Trainer, ahead: Any) -> dict[str, Any]:
        draws.append(float(torch.rand(())))
        return take(self, ahead)

    monkeypatch.setattr(train.Trainer, "_take_step", drawing)
    train.run(job("whole"))
    whole = draws[:]
    draws.clear()
    stop_after(job("stopped"), 7)
    torch.rand(5)  # another process would be elsewhere
    train.run(job("stopped"))
    assert draws == whole


def parameters(job: TrainJob) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(Path(job.run) / "checkpoints")
    assert newest is not None
    return load_file(newest / "model.safetensors")


def closest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_accumulation_changes_rounding_only(job: Make) -> None:
    one, four = (job(name, dtype="float64", micro_batch=m, steps=8) for name, m in (("one", 8), ("four", 2)))
    train.run(one)
    train.run(four)
    assert 0 < closest(parameters(one), parameters(four)) < 1e-12


SIX: dict[str, Any] = {"dtype": "float64", "steps": 6, "checkpoint_every": 3, "evaluate_every": 3}


def same_as_alone(this: TrainJob, alone: TrainJob, world: int) -> None:
    codes, output = wait(start(this, world))
    assert codes == [0] * world, output
    assert closest(parameters(this), parameters(alone)) < 1e-12
    for ours, theirs in zip(metrics(this), metrics(alone), strict=True):
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-11), key


def test_two_processes_change_rounding_only_and_their_runs_resume_in_every_bit(job: Make) -> None:
    alone, two, resumed = job("alone", micro_batch=8, **SIX), job("two", micro_batch=2, **SIX), job(
        "resumed", micro_batch=2, **SIX
    )  # fmt: skip
    train.run(alone)
    same_as_alone(two, alone, 2)
    codes, _ = wait(start(resumed, 2, "take = t.Trainer._take_step\n" + DIE_AT_FOUR))
    assert 0 not in codes
    codes, output = wait(start(resumed, 2))
    assert codes == [0, 0], output
    assert "going on from" in output
    assert files(resumed) == files(two)


@pytest.mark.slow
def test_four_processes_change_rounding_only_and_resume_in_every_bit(job: Make) -> None:
    alone, four, resumed = (job(name, micro_batch=m, **SIX) for name, m in (("alone", 8), ("four", 1), ("resumed", 1)))
    train.run(alone)
    same_as_alone(four, alone, 4)
    assert wait(start(resumed, 4, "take = t.Trainer._take_step\n" + DIE_AT_FOUR))[0].count(0) == 0
    assert wait(start(resumed, 4))[0] == [0] * 4
    assert files(resumed) == files(four)


DIE_AT_FOUR = """
def die(self, ahead):
    if self.step == 4:
        import os
        os._exit(9)
    return take(self, ahead)
t.Trainer._take_step = die
"""


@pytest.mark.slow
def test_a_run_may_go_on_with_other_processes(job: Make) -> None:
    alone, moved = job("alone", micro_batch=8, **SIX), job("moved", micro_batch=4, **SIX)
    train.run(alone)
    wait(start(moved, 1, "take = t.Trainer._take_step\n" + DIE_AT_FOUR))
    codes, output = wait(start(dataclasses.replace(moved, train=dataclasses.replace(moved.train, micro_batch=2)), 2))
    assert codes == [0, 0], output
    assert closest(parameters(moved), parameters(alone)) < 1e-12


@pytest.mark.slow
def test_sharded_weights_give_the_same_model_and_resume(job: Make) -> None:
    alone, sharded = job("alone", micro_batch=8, **SIX), job("sharded", micro_batch=2, fully_shard=True, **SIX)
    train.run(alone)
    codes, _ = wait(start(sharded, 2, "take = t.Trainer._take_step\n" + DIE_AT_FOUR))
    assert 0 not in codes
    codes, output = wait(start(sharded, 2))
    assert codes == [0, 0], output
    assert closest(parameters(sharded), parameters(alone)) < 1e-12


SLOWLY = """
import time
take = t.Trainer._take_step
def slow(self, ahead):
    time.sleep(0.1)
    return take(self, ahead)
t.Trainer._take_step = slow
"""


def test_sigterm_saves_and_ends_cleanly(job: Make) -> None:
    options: dict[str, Any] = {"steps": 60, "log_every": 1, "evaluate_every": None, "checkpoint_every": None}
    stopped, whole = job("stopped", **options), job("whole", **options)
    (process,) = start(stopped, failpoint=SLOWLY)
    train.run(whole)
    speed = Path(stopped.run) / "speed.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (speed.is_file() and speed.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    newest = checkpoint.latest(Path(stopped.run) / "checkpoints")
    assert newest is not None
    step = checkpoint.read_state(newest)["step"]
    assert f"stopped by SIGTERM after step {step}" in output
    assert 0 < step < 60
    assert not train.finished(stopped.run)
    train.run(stopped)
    assert files(stopped) == files(whole)


def test_steps_that_are_not_finite_are_skipped_and_counted(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = train.Trainer._gradient_norm

    def broken(self: train.Trainer) -> float:
        return math.nan if hasattr(self, "_logs") and self.step in (4, 7) else norm(self)

    monkeypatch.setattr(train.Trainer, "_gradient_norm", broken)
    this = job(steps=10, evaluate_every=None)
    train.run(this)
    skipped = [record["step"] for record in metrics(this) if record.get("loss", 0) is None]
    assert skipped == [5, 8]
    assert json.loads((Path(this.run) / "summary.json").read_text())["skipped_steps"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in parameters(this).values())


@pytest.mark.parametrize(("clip", "left"), [(0.25, 0.25), (None, None), (1e6, None)])
def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_logged(
    job: Make, monkeypatch: pytest.MonkeyPatch, clip: float | None, left: float | None
) -> None:
    norms: list[float] = []
    step = Optimizers.step

    def recorded(self: Optimizers, factor: float) -> None:
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in self.names if p.grad is not None)))
        step(self, factor)

    monkeypatch.setattr(Optimizers, "step", recorded)
    this = job(steps=3, gradient_clip=clip, evaluate_every=None)
    train.run(this)
    logged = [record["gradient_norm"] for record in metrics(this) if "loss" in record]
    assert min(logged) > 0.25
    assert norms == pytest.approx(logged if left is None else [left] * 3, rel=1e-4)


def test_a_run_that_only_diverges_is_ended_with_a_remedy(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "MOST_SKIPPED_IN_A_ROW", 3)
    monkeypatch.setattr(train.Trainer, "_gradient_norm", lambda self: math.inf)
    with pytest.raises(ValueError, match="lower \\[train\\] learning_rate"):
        train.run(job())


def test_the_last_evaluation_is_that_of_a_plain_loop(job: Make) -> None:
    this = job(steps=3, evaluate_sequences=7, micro_batch=2)
    train.run(this)
    from model.hf import load_any

    model = load_any(Path(this.run))
    shards = open_shards(Path(this.tokens), "validation")
    rows = Samples([shard.tokens for shard in shards.shards], 16)[np.arange(7)]
    nats = size = 0.0
    for row in rows.tolist():
        logits = model(torch.tensor([row[:-1]]))[0].detach()
        for place, target in enumerate(row[1:]):
            nats -= float(logits[place].double().log_softmax(-1)[target])
            size += target != 96  # every token of the test's tokenizer is a byte, end-of-text none
    summary = json.loads((Path(this.run) / "summary.json").read_text())
    assert summary["validation_tokens"] == 7 * 16
    assert summary["validation_loss"] == pytest.approx(nats / (7 * 16), rel=1e-6)
    assert summary["validation_bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_a_trained_model_beats_a_unigram_model_on_the_tokens_it_saw(job: Make) -> None:
    this = job(steps=150, model={"width": 64, "heads": 4}, learning_rate=1e-2, evaluate_every=None)
    train.run(this)
    found = compare(this)
    shards = open_shards(Path(this.tokens), "train")
    samples = Samples([shard.tokens for shard in shards.shards], 16)
    assert found["seen"] == len(samples) * 16  # 150 steps of 8 are several epochs of all samples
    held_out = train.validation_samples(Path(this.tokens), 16)
    scored = held_out[np.arange(len(held_out))]
    lengths = train.token_bytes(Path(str(this.tokenizer)), 97)
    everything = samples[np.arange(len(samples))]
    assert found["bigram"] == bits_per_byte(Ngram(everything, 97, 2), scored, lengths)
    assert found["trigram"] == bits_per_byte(Ngram(everything, 97, 3), scored, lengths)
    assert found["model"] < bits_per_byte(Ngram(everything, 97, 1), scored, lengths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 3}, r"\[train\] micro_batch: expected batch_sequences \(8\) .* set micro_batch = 2"),
        ({"warmup_steps": 21}, r"\[train\] warmup_steps: expected at most the 20 steps"),
        ({"model": {"context": 9000}}, "more than 9000 tokens"),
        ({"fully_shard": True}, "expected several processes"),
    ],
)
def test_what_does_not_fit_is_one_line_before_the_first_step(job: Make, changes: dict[str, Any], message: str) -> None:
    this = job(**changes)
    with pytest.raises(ValueError, match=message) as caught:
        train.run(this)
    assert "\n" not in str(caught.value)
    assert not (Path(this.run) / "metrics.jsonl").exists()


def test_cuda_that_is_not_there_is_said(job: Make) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="expected cuda to be there"):
        train.run(job(device="cuda"))


def test_out_of_memory_names_the_micro_batch_to_try(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(train.Trainer, "_backward", exhausted)
    with pytest.raises(ValueError, match=r"try micro_batch = 2$"):
        train.run(job())


def test_damaged_shards_are_found_before_the_first_step(job: Make, tokens: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "tokens"
    shutil.copytree(tokens, copy)
    shard = next(copy.glob("train-*.bin"))
    raw = bytearray(shard.read_bytes())
    raw[1400] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(ValueError, match="TokenizeCorpus"):
        train.run(dataclasses.replace(job(), tokens=str(copy)))


def test_other_settings_do_not_go_on_from_a_checkpoint(job: Make) -> None:
    train.run(job(steps=10))
    with pytest.raises(ValueError, match=r"\[train\] learning_rate: expected 0.01 .* got 0.02"):
        train.run(job(steps=10, learning_rate=2e-2))
    with pytest.raises(ValueError, match=r"\[model\] heads"):
        train.run(job(steps=10, model={"heads": 4}))


def test_a_finished_run_is_left_as_it_is(job: Make) -> None:
    this = job(steps=10)
    train.run(this)
    before = files(this)
    assert train.run(this)
    assert files(this) == before


def test_the_command_says_errors_in_one_line(job: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "job.json"
    place.write_text(job_json(dataclasses.replace(job(), tokens=str(tmp_path / "none"))))
    assert train.main([str(place)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    place.write_text(job_json(job()).replace('"beta1"', '"beta3"'))
    assert train.main([str(place)]) == 2
    assert "beta3" in capsys.readouterr().err
