"""The shipped configuration, from links to a trained model, as the documentation shows it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from model.config import TrainJob, read_job
from model.evals.baseline import compare

REPOSITORY = Path(__file__).parents[2]


def luigi(task: str, settings: Path) -> float:
    """`luigi --module pipelines TASK` in the checkout, whose luigi.cfg holds; the CPU seconds that it took.

    On one thread: several that wait for each other on a busy machine burn CPU seconds.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [Path(sys.executable).with_name("luigi"), "--module", "pipelines", task],
        cwd=REPOSITORY,
        env={**os.environ, "LUIGI_CONFIG_PATH": str(settings), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_the_example_beats_a_bigram_model_of_the_tokens_it_saw_without_overfitting_in_two_minutes(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    settings = tmp_path / "root.cfg"
    settings.write_text(f"[corpus]\nroot = {root}\n")
    luigi("BuildCorpus", settings)
    assert luigi("TrainModel", settings) < 120
    run = root / "runs" / "miniweb"
    found = compare(read_job(run / "train.json", TrainJob))
    assert found["model"] < 0.985 * found["bigram"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line["validation_bits_per_byte"] for line in lines if "validation_bits_per_byte" in line]
    assert len(evaluations) > 3
    assert evaluations[-1] < 1.005 * min(evaluations)
