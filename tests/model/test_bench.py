"""The bench: what it prints is what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import bench
from model.gpt2 import Architecture

SIZE = ["--layers", "1", "--width", "16", "--heads", "2", "--context", "8", "--vocabulary", "40", "--device", "cpu"]


def test_rates_are_tokens_over_the_median_of_the_turns_that_count() -> None:
    now = 0.0
    lasting = {"ours": iter([9.0, 9.0, 1.0, 2.0, 6.0]), "theirs": iter([9.0, 9.0, 4.0, 4.0, 4.0])}
    order: list[str] = []

    def step(name: str) -> None:
        nonlocal now
        now += next(lasting[name])
        order.append(name)

    results = bench.measure(
        {"ours": lambda: step("ours"), "theirs": lambda: step("theirs")}, 100, rounds=3, device=torch.device("cpu"),
        architecture=Architecture(), preset="gpt2", micro_batch=1, dtype=torch.float32, clock=lambda: now,
    )  # fmt: skip
    assert order == ["ours", "theirs"] * 5
    assert [result.tokens_per_second for result in results] == [50.0, 25.0]
    assert results[0].mfu is None
    assert bench.report(results)[-1].endswith("2.00")


def test_contestants_run_at_equal_settings_and_results_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "bench.json"
    arguments = [*SIZE, "--transformers", "--rounds", "1", "--micro-batches", "1", "2", "--json", str(out)]
    assert bench.main(arguments) == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["micro_batch"]) for row in rows] == [
        ("ours", 1), ("transformers", 1), ("ours", 2), ("transformers", 2),
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert "ours/theirs" in capsys.readouterr().out


def test_a_checkout_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*SIZE, "--nanogpt", str(tmp_path)]) == 2
    assert "model.py" in capsys.readouterr().err


def test_the_gpu_check_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "gpu_check"
    interpreter = Path(sys.executable).parent
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OUT": str(tmp_path / "out"),
                   "PATH": f"{interpreter}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
    for arguments, message in ((["bench"], "expected a CUDA device, found none"), (["tea"], "or evaluate, got tea")):
        done = subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
