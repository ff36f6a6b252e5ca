"""`python -m model.evals JOB.json`, alone or under torchrun; JOB.json is a model.config.EvaluateJob."""

from __future__ import annotations

import sys

from model.command import run_job
from model.config import EvaluateJob
from model.evals import evaluate


def main(arguments: list[str]) -> int:
    about = evaluate.__doc__ or ""
    return run_job(arguments, EvaluateJob, evaluate.run, prog="python -m model.evals", about=about, timed=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
