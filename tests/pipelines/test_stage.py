"""Fingerprints, seal, journal, resume: exactly what changed is done again, and a stopped run costs nothing done."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import jobs

from pipelines import storage
from pipelines.engine import EngineSettings, LocalEngine
from pipelines.stage import SEAL, BusyError, Digests, Phase, Records, Root, Stage, StageError, Unit


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(EngineSettings(workers=2)) as pool:
        yield pool


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"{number} {number + 1} {number + 2}")
    return folder


def numbers(tmp_path: Path, sources: Path, *, factor: int = 1, version: int = 1, keep: bool = True) -> Stage:
    log = {"log": str(tmp_path / "ran")}

    def units(_: Records) -> list[Unit]:
        return [
            Unit(path.stem, (path,), (storage.sha256_of(path),), {"factor": factor}, log)
            for path in sorted(sources.glob("*.txt"))
        ]

    def total(results: Records) -> list[Unit]:
        files = [record.file(record.name) for record in results["numbers"]]
        paths = tuple(tmp_path / "root" / "numbers" / file.name for file in files)
        return [Unit("sum", paths, tuple(file.sha256 for file in files), extras=log)]

    return Stage(
        tmp_path / "root",
        "numbers",
        version,
        [Phase("numbers", jobs.write_numbers, units, keep=keep), Phase("sum", jobs.write_sum, total)],
    )


def ran(tmp_path: Path) -> list[str]:
    """The units that ran since the last call, sorted."""
    log = tmp_path / "ran"
    names = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_second_run_does_nothing(tmp_path: Path, sources: Path, engine: LocalEngine) -> None:
    stage = numbers(tmp_path, sources)
    assert not stage.is_complete()
    results = stage.run(engine)
    assert ran(tmp_path) == ["0", "1", "2", "3", "sum"]
    assert results["sum"][0].counts == {"sum": 0 + 2 + 2 + 2 + 4 + 4}
    assert stage.is_complete()
    assert stage.run(engine) == results
    assert ran(tmp_path) == []


def test_drops_are_counted_by_reason(tmp_path: Path, sources: Path, engine: LocalEngine) -> None:
    results = numbers(tmp_path, sources).run(engine)
    assert [record.drops for record in results["numbers"]] == [{"odd": 1}, {"odd": 2}, {"odd": 1}, {"odd": 2}]


def test_only_units_whose_input_changed_run_again(tmp_path: Path, sources: Path, engine: LocalEngine) -> None:
    numbers(tmp_path, sources).run(engine)
    ran(tmp_path)
    (sources / "2.txt").write_text("10 12")
    stage = numbers(tmp_path, sources)
    assert not stage.is_complete()
    stage.run(engine)
    assert ran(tmp_path) == ["2", "sum"]


def test_a_rebuild_that_gives_equal_bytes_stops_there(tmp_path: Path, sources: Path, engine: LocalEngine) -> None:
    numbers(tmp_path, sources).run(engine)
    ran(tmp_path)
    (sources / "2.txt").write_text("2  3  4")  # other bytes, same numbers
    numbers(tmp_path, sources).run(engine)
    assert ran(tmp_path) == ["2"]


def test_a_new_version_or_argument_runs_all_again_and_removed_sources_leave_no_file(
    tmp_path: Path, sources: Path, engine: LocalEngine
) -> None:
    numbers(tmp_path, sources).run(engine)
    ran(tmp_path)
    numbers(tmp_path, sources, version=2).run(engine)
    assert ran(tmp_path) == ["0", "1", "2", "3", "sum"]
    numbers(tmp_path, sources, version=2, factor=2).run(engine)
    assert ran(tmp_path) == ["0", "1", "2", "3", "sum"]
    (sources / "3.txt").unlink()
    numbers(tmp_path, sources, version=2, factor=2).run(engine)
    assert ran(tmp_path) == ["sum"]
    assert not (tmp_path / "root" / "numbers" / "3.parquet").exists()


def test_a_phase_that_is_not_kept_leaves_no_file_and_does_not_run_again(
    tmp_path: Path, sources: Path, engine: LocalEngine
) -> None:
    stage = numbers(tmp_path, sources, keep=False)
    stage.run(engine)
    assert sorted(path.name for path in (tmp_path / "root" / "numbers").iterdir()) == [SEAL, "sum.txt"]
    ran(tmp_path)
    assert stage.is_complete()


def test_a_failing_unit_fails_the_stage_by_name_and_the_others_are_kept(
    tmp_path: Path, sources: Path, engine: LocalEngine
) -> None:
    (sources / "1.txt").write_text("-1")
    with pytest.raises(StageError, match="1 of 4 units failed, the others are kept; 1: ValueError: found -1"):
        numbers(tmp_path, sources).run(engine)
    assert not numbers(tmp_path, sources).is_complete()
    (sources / "1.txt").write_text("4")
    ran(tmp_path)
    numbers(tmp_path, sources).run(engine)
    assert ran(tmp_path) == ["1", "sum"]


def test_a_lost_file_is_made_again(tmp_path: Path, sources: Path, engine: LocalEngine) -> None:
    numbers(tmp_path, sources).run(engine)
    before = hashes(tmp_path / "root")
    (tmp_path / "root" / "numbers" / SEAL).unlink()
    (tmp_path / "root" / "numbers" / "1.parquet").unlink()
    numbers(tmp_path, sources).run(engine)
    assert hashes(tmp_path / "root") == before


RUN = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from pipelines.engine import EngineSettings, LocalEngine
from pipelines.stage import Root
sys.path[:0] = [{here!r}]
from test_stage import numbers
if __name__ == "__main__":
    base = Path({base!r})
    root = Root(base / "root")
    root.lock()
    with LocalEngine(EngineSettings(workers=2), lock=root.workers_lock) as engine:
        numbers(base, base / "sources", keep={keep}).run(engine)
"""


def test_settings_that_go_back_after_a_stopped_run_do_not_find_its_files_in_place_of_their_own(
    tmp_path: Path, sources: Path, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers(tmp_path, sources).run(engine)
    before = hashes(tmp_path / "root")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_write_seal", stop)
    with pytest.raises(KeyboardInterrupt):
        numbers(tmp_path, sources, factor=2).run(engine)
    monkeypatch.undo()
    assert hashes(tmp_path / "root") != before
    stage = numbers(tmp_path, sources)
    assert not stage.is_complete()
    stage.run(engine)
    assert stage.is_complete()
    assert hashes(tmp_path / "root") == before


def test_stopped_after_its_seal_a_stage_is_tidied_by_the_next_run(
    tmp_path: Path, sources: Path, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = numbers(tmp_path, sources, keep=False)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_tidy", stop)
    with pytest.raises(KeyboardInterrupt):
        stage.run(engine)
    monkeypatch.undo()
    assert not stage.is_complete()
    stage.run(engine)
    assert sorted(path.name for path in (tmp_path / "root" / "numbers").iterdir()) == [SEAL, "sum.txt"]


@pytest.mark.parametrize("keep", [True, False])
def test_killed_at_any_event_the_next_run_gives_the_same_bytes(
    tmp_path: Path, sources: Path, engine: LocalEngine, keep: bool
) -> None:
    numbers(tmp_path, sources, keep=keep).run(engine)
    undisturbed = hashes(tmp_path / "root")
    script = tmp_path / "run.py"
    here = Path(__file__).parent
    script.write_text(RUN.format(tests=str(here.parent), here=str(here), base=str(tmp_path), keep=keep))
    stopped = 0
    for event in range(2, 60, 14):
        (tmp_path / "counter").unlink(missing_ok=True)
        for path in sorted((tmp_path / "root").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        environment = {
            **os.environ,
            "WEBTEXT_FAILPOINT": f"*@{event}=killgroup",
            "WEBTEXT_FAILPOINT_COUNTER": str(tmp_path / "counter"),
        }
        killed = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, start_new_session=True, check=False
        )
        stopped += killed.returncode < 0
        again = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        left = {name: digest for name, digest in hashes(tmp_path / "root").items() if not name.startswith(".")}
        assert left == undisturbed
    assert stopped >= 3


def test_the_second_build_in_a_root_refuses(tmp_path: Path) -> None:
    first, second = Root(tmp_path), Root(tmp_path)
    first.lock()
    with pytest.raises(BusyError, match=f"is being built by process {os.getpid()}"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_leftovers_of_a_dead_build_are_swept_under_the_lock(tmp_path: Path) -> None:
    leftover = storage.temporary_path(tmp_path / "stage" / "file.parquet")
    leftover.parent.mkdir()
    leftover.write_text("half")
    root = Root(tmp_path)
    root.lock()
    root.unlock()
    assert not leftover.exists()


def test_digests_follow_the_content(tmp_path: Path) -> None:
    file = tmp_path / "dump"
    file.write_text("one")
    digests = Digests(tmp_path / "digests.json")
    assert digests.of(file) == hashlib.sha256(b"one").hexdigest()
    file.write_text("three")
    assert Digests(tmp_path / "digests.json").of(file) == hashlib.sha256(b"three").hexdigest()
    with pytest.raises(ValueError, match="expected a readable file"):
        digests.of(tmp_path / "none")
