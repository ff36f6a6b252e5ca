"""The fault table: each test adds rows; at the end it is printed, and written where WEBTEXT_FAULT_REPORT says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.webs import built, server, web

__all__ = ["built", "server", "web"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: the small form of a fault that is also tried at its full count")


ROWS = pytest.StashKey[list["Row"]]()


@dataclass(frozen=True)
class Row:
    """One fault: how often it was tried, survived, and what was lost or went unseen."""

    number: int  # in the list of twelve
    fault: str
    tried: int
    survived: int

    @property
    def lost(self) -> int:
        return self.tried - self.survived


@dataclass
class Faults:
    """What a test tells the table."""

    rows: list[Row] = field(default_factory=list)

    def add(self, number: int, fault: str, tried: int, survived: int) -> None:
        """A row; a fault that was not survived fails the test."""
        self.rows.append(Row(number, fault, tried, survived))
        assert tried > 0
        assert survived == tried, f"{fault}: {tried - survived} of {tried} not survived"


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    found = Faults()
    yield found
    request.config.stash.setdefault(ROWS, []).extend(found.rows)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| # | fault | tried | survived | lost |", "|---|---|---:|---:|---:|"]
    lines += [
        f"| {row.number} | {row.fault} | {row.tried:,} | {row.survived:,} | {row.lost:,} |"
        for row in sorted(rows, key=lambda row: (row.number, row.fault, row.tried))
    ]
    return "\n".join(lines) + "\n"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    text = table(rows)
    terminalreporter.section("faults")
    terminalreporter.write(text)
    if where := os.environ.get("WEBTEXT_FAULT_REPORT"):
        Path(where).write_text(text, encoding="utf-8")
