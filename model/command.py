"""What the commands of this package share: a job file, one line for what the user can mend, an exit status.

- 0: done, also where SIGTERM ended a run that saved; 2: an error, said in one line on stderr.
- Under torchrun every process reads the same job, so each says the error that it met.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from model.config import Job, read_job


def run_job(
    arguments: Sequence[str], kind: type[Job], run: Callable[[Job], object], *, prog: str, about: str, timed: bool
) -> int:
    """`prog JOB.json`: `run` of the job in the file; `timed` puts the time before each line of the log."""
    parser = parser_of(prog, about)
    parser.add_argument("job", metavar="JOB.json", help=f"model.config.{kind.__name__} as JSON: settings and paths")
    options = parser.parse_args(arguments)
    layout = "%(asctime)s %(message)s" if timed else "%(message)s"
    logging.basicConfig(level=logging.INFO, format=layout, datefmt="%H:%M:%S")
    return status_of(lambda: run(read_job(options.job, kind)))


def parser_of(prog: str, about: str) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def status_of(work: Callable[[], object]) -> int:
    """0, or 2 where `work` raises what the user can mend, which goes to stderr in one line."""
    try:
        work()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0
