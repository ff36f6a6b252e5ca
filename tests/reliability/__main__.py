"""`python tests/reliability [--full] [--output FILE]`: every fault, and the table of what was survived."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/reliability", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the full counts (hours on two cores) instead of minutes")
    parser.add_argument("--output", type=Path, help="write the table (Markdown) to this file too")
    arguments = parser.parse_args()
    if arguments.output is not None:
        os.environ["WEBTEXT_FAULT_REPORT"] = str(arguments.output.absolute())
    here = Path(__file__).parent
    os.chdir(here.parents[1])
    return int(pytest.main([str(here), "-q", "-m", "not quick" if arguments.full else "not slow"]))


if __name__ == "__main__":
    sys.exit(main())
