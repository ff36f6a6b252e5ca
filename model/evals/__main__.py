"""`python -m model.evals JOB.json`, alone or under torchrun; JOB.json is a model.config.EvaluateJob."""

from __future__ import annotations

import logging
import sys

from model.config import EvaluateJob, read_job
from model.evals.evaluate import run


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m model.evals JOB.json (see model.config.EvaluateJob)\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(read_job(arguments[0], EvaluateJob))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
