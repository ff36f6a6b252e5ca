"""The pool: what a dead worker costs, and what it does not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import jobs

from pipelines.engine import EngineSettings, LocalEngine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    with LocalEngine(EngineSettings(workers=2), lock=tmp_path / "lock") as pool:
        yield pool


def test_every_item_has_one_outcome(engine: LocalEngine) -> None:
    outcomes = {one.item: one.value for one in engine.map(jobs.square, list(range(20)))}
    assert outcomes == {number: number**2 for number in range(20)}


def test_an_exception_fails_its_item_with_one_line_and_a_traceback(engine: LocalEngine) -> None:
    outcomes = {one.item: one for one in engine.map(jobs.divide, [1, 0, 2])}
    assert outcomes[2].value == 0.5
    assert outcomes[1].error is None
    assert outcomes[0].error == "ZeroDivisionError: division by zero"
    assert "in divide" in outcomes[0].traceback


def test_a_worker_that_dies_once_costs_nothing(engine: LocalEngine, tmp_path: Path) -> None:
    items = [("once", str(tmp_path / "marker")), *[("never", str(number)) for number in range(5)]]
    outcomes = list(engine.map(jobs.die_if_told, items))
    assert sorted(one.value for one in outcomes) == ["never"] * 5 + ["once"]


def test_a_worker_that_dies_twice_costs_its_item_and_no_other(engine: LocalEngine) -> None:
    outcomes = {one.item: one for one in engine.map(jobs.die_if_told, [("always", ""), ("never", "1"), ("never", "2")])}
    assert outcomes["always", ""].error == "its worker died twice, killed by SIGKILL (out of memory?)"
    assert outcomes["never", "1"].value == outcomes["never", "2"].value == "never"


def test_workers_stay_warm_between_maps(engine: LocalEngine) -> None:
    first = {one.value for one in engine.map(jobs.pid, [0, 1, 2, 3])}
    second = {one.value for one in engine.map(jobs.pid, [0, 1, 2, 3])}
    assert second <= first
    assert os.getpid() not in first


def test_memory_bounds_the_workers() -> None:
    settings = EngineSettings(workers=8, memory_bytes=10 << 30)
    assert settings.workers_for(4 << 30) == 2
    assert settings.workers_for(100 << 30) == 1


def test_progress_reaches_the_parent(engine: LocalEngine) -> None:
    seen = []
    engine.on_progress = lambda item, done, total: seen.append((item, done, total))
    assert [one.value for one in engine.map(jobs.tell, [3])] == [3]
    assert seen == [(3, 3, 10)]


def test_warnings_of_workers_are_logged_by_the_parent(engine: LocalEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="webtext.build")
    list(engine.map(jobs.warn, ["the text is too small"]))
    assert "the text is too small" in caplog.text


def test_leaving_a_map_early_leaves_no_work_behind(engine: LocalEngine) -> None:
    for _ in engine.map(jobs.slow_square, list(range(8))):
        break
    assert sorted(one.value for one in engine.map(jobs.square, [5, 6])) == [25, 36]


def _build(lock: str, marker: str) -> None:
    with LocalEngine(EngineSettings(workers=1), lock=Path(lock)) as engine:
        list(engine.map(jobs.sleep_forever, [marker]))


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    parent = multiprocessing.get_context("spawn").Process(target=_build, args=(str(tmp_path / "lock"), str(marker)))
    parent.start()
    deadline = time.monotonic() + 30
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    worker = int(marker.read_text())
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(worker)


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
