"""What a person sees of a build: progress while it runs, the funnel and the paths when it ends, one line when it fails.

On a terminal rich draws bars on standard error; elsewhere every step is a log line. What a program may want to read
(the funnel, paths) goes to standard output. The same lines go to `logs/build.log`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

log = logging.getLogger("webtext.build")

SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal


class Console:
    """Progress of one process; safe to use where standard error is a file."""

    def __init__(self) -> None:
        self.err = RichConsole(stderr=True)
        self.out = RichConsole(soft_wrap=True) if not sys.stdout.isatty() else RichConsole()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._fetch_start: tuple[float, int] | None = None

    def attach_logs(self, file: Path | None) -> None:
        """Send this package's log to the terminal and, with its times, to `file`."""
        logger = logging.getLogger("webtext")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        shown: logging.Handler
        if self.err.is_terminal:
            shown = RichHandler(console=self.err, show_path=False, show_level=False, log_time_format="%H:%M:%S")
        else:
            shown = logging.StreamHandler(sys.stderr)
            shown.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        shown.setLevel(logging.INFO)
        logger.addHandler(shown)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = logging.FileHandler(file, encoding="utf-8")
            kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(kept)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show progress of a stage while the body runs."""
        started = time.monotonic()
        if self.err.is_terminal:
            columns = (
                TextColumn("[bold]{task.description:<28}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self.err, transient=True)
            self._progress.start()
        log.debug("%s: begins", name)
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.stop()
            self._progress = None
            self._tasks.clear()
            self._last_line.clear()
            log.debug("%s: %.1f s", name, time.monotonic() - started)

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        """`what` (a phase, a unit) stands at `done` of `total`."""
        if self._progress is not None:
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(escape(what), total=total, note=note)
            self._progress.update(self._tasks[what], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._last_line.setdefault(what, now) >= SECONDS_BETWEEN_LINES:
            log.info("%s: %s of %s %s", what, f"{done:,}", f"{total:,}", note)
            self._last_line[what] = now

    def fetching(self, counts: dict[str, int]) -> None:
        """Pages as they come: settled of planned, pages a second, outcomes by reason."""
        counts = dict(counts)
        settled, planned = counts.pop("settled", 0), counts.pop("planned", 0)
        now = time.monotonic()
        self._fetch_start = self._fetch_start or (now, settled)
        rate = (settled - self._fetch_start[1]) / max(1e-3, now - self._fetch_start[0])
        note = ", ".join(
            f"{number:,} {name}" for name, number in sorted(counts.items(), key=lambda one: -one[1]) if number
        )
        self.update("pages", settled, planned, f"{rate:,.0f}/s; {note}")

    def fail(self, line: str) -> None:
        """The reason of a failure, as one line."""
        log.error("%s", line)

    def funnel(self, title: str, rows: list[tuple[str, int, str]]) -> None:
        """A table of (what, how many, remark)."""
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        table.add_column("", justify="right")
        table.add_column("", overflow="fold")
        for what, number, remark in rows:
            indent = len(what) - len(what.lstrip())
            style = None if indent else "bold"
            table.add_row(escape(what), f"{number:,}", escape(remark), style=style)
        self.out.print(table)

    def paths(self, paths: Mapping[str, Any]) -> None:
        """Where the results are, each on a line that is never cut, to be copied."""
        width = max(map(len, paths), default=0)
        for what, path in paths.items():
            self.out.print(escape(f"{what:<{width}}  {path}"), soft_wrap=True, highlight=False)
