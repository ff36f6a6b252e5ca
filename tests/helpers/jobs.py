"""Top-level functions for the engine's and the stages' tests: a worker imports them by name."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.engine import report
from pipelines.stage import Work
from webtext.records import Drop, drop_batch

NUMBERS = pa.schema([pa.field("number", pa.int64())])


def square(number: int) -> int:
    return number * number


def slow_square(number: int) -> int:
    time.sleep(0.05)
    return number * number


def divide(number: int) -> float:
    return 1 / number


def die_if_told(item: tuple[str, str]) -> str:
    """("once", FILE) kills the worker the first time, ("always", _) every time."""
    what, marker = item
    if what == "always" or (what == "once" and not Path(marker).exists()):
        if what == "once":
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return what


def pid(_: int) -> int:
    return os.getpid()


def tell(number: int) -> int:
    report(number, 10)
    return number


def warn(text: str) -> None:
    logging.getLogger("webtext.somewhere").warning("%s", text)


def sleep_forever(marker: str) -> None:
    Path(marker).write_text(str(os.getpid()))
    time.sleep(600)


def write_numbers(work: Work) -> Mapping[str, Any]:
    """Numbers of the input file times a factor; odd ones are dropped; a log beside the root says that it ran."""
    with Path(work.unit.extras["log"]).open("a") as log:
        log.write(f"{work.unit.name}\n")
    numbers = [int(line) * work.unit.arguments.get("factor", 1) for line in work.unit.inputs[0].read_text().split()]
    if -1 in numbers:
        raise ValueError("found -1")
    even = [number for number in numbers if number % 2 == 0]
    work.table(f"{work.unit.name}.parquet", NUMBERS, [pa.table({"number": even}, NUMBERS)])
    work.drops([drop_batch("numbers", [Drop("odd", str(number)) for number in numbers if number % 2])])
    return {"even": len(even)}


def write_sum(work: Work) -> Mapping[str, Any]:
    from pipelines import storage

    with Path(work.unit.extras["log"]).open("a") as log:
        log.write("sum\n")
    total = sum(sum(storage.read_table(path).column("number").to_pylist()) for path in work.unit.inputs)
    with work.writing("sum.txt") as path:
        path.write_text(str(total))
    return {"sum": total}
