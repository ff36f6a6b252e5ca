"""A stage's directory: fingerprints, seal, journal, resume, drops, and the lock of the root.

- A stage is phases, a phase is units, a unit is one call of a step in a worker: it reads files and writes a few.
- A unit's fingerprint is the SHA-256 of canonical JSON: the settings that affect its bytes, the stage's VERSION, the
  versions of the libraries that make its bytes, and the SHA-256 of every file it reads. Not when, where or by how many.
- `_seal.json`, written last, holds every unit's fingerprint, files and counts. A stage is complete when its seal says
  what would be computed now. Units whose fingerprint is unchanged are kept; the others are
  done again, and the log says why.
- `_journal.jsonl` is the seal in the making: a unit is entered before its first byte changes and again when its files
  are published, each line fsynced. Killed at any moment, the next run trusts what is entered as done
  and redoes the rest.
- Units of a phase that is not kept (the map side of a shuffle) leave their record in the seal and no file.
- One build at a time works in a root: `Root` holds a flock, sweeps what the dead left, and waits for their workers.
"""

from __future__ import annotations

import dataclasses
import fcntl
import fnmatch
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.engine import LocalEngine
from pipelines.storage import File
from webtext.records import DROP_SCHEMA

log = logging.getLogger("webtext.build")

SEAL = "_seal.json"
JOURNAL = "_journal.jsonl"
SEAL_VERSION = 1


class StageError(Exception):
    """Units of a stage failed. The message is one line: which, of how many, and why."""


class BusyError(Exception):
    """Another process works in this root."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One call of a step: what it is called, what it reads, what decides its bytes, what else it is told."""

    name: str
    inputs: tuple[Path, ...] = ()  # read by the step, in the order it expects
    digests: tuple[str, ...] = ()  # SHA-256 of each input
    arguments: Mapping[str, Any] = field(default_factory=dict)  # picklable, fingerprinted where JSON can say it
    extras: Mapping[str, Any] = field(default_factory=dict)  # picklable, never fingerprinted: memory, paths


@dataclass(frozen=True, slots=True)
class Record:
    """What a unit made, as the seal remembers it."""

    name: str
    fingerprint: str
    files: tuple[File, ...]
    counts: Mapping[str, Any]  # small JSON: rows, and what the reports and the funnel add up
    drops: Mapping[str, int]  # reason -> number, as in the unit's drops file
    inputs: tuple[str, ...] = ()  # digests, to say what changed

    def file(self, prefix: str) -> File:
        """The file whose name begins with `prefix`."""
        found = [file for file in self.files if file.name.startswith(prefix)]
        assert len(found) == 1, f"unit {self.name} has {len(found)} files {prefix}*"
        return found[0]


Records = dict[str, list[Record]]  # by phase


@dataclass(frozen=True, slots=True)
class Phase:
    """Units that need nothing of each other. `units` sees the records of the phases before."""

    name: str
    step: Callable[[Work], Mapping[str, Any]]
    units: Callable[[Records], Sequence[Unit]]
    settings: Mapping[str, Any] = field(default_factory=dict)  # dataclasses by section; what affects bytes counts
    libraries: tuple[str, ...] = ()  # distributions that make the bytes
    modules: tuple[str, ...] = ()  # kernels to compile before the workers start
    keep: bool = True
    estimate_bytes: int = 1 << 30  # memory of one unit

    def basis(self, version: int) -> dict[str, Any]:
        """What decides the bytes of all units of this phase."""
        return {
            "phase": self.name,
            "version": version,
            "libraries": {name: importlib.metadata.version(name) for name in self.libraries},
            "settings": {section: affecting_bytes(values) for section, values in self.settings.items()},
        }


@dataclass(slots=True)
class Work:
    """What a step is handed: its unit, and the only way to publish a file of it."""

    stage: str
    directory: Path
    unit: Unit
    settings: Mapping[str, Any]
    files_made: list[File] = field(default_factory=list)
    drop_counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def writing(self, name: str, rows: int | None = None) -> Iterator[Path]:
        """A temporary path to write the unit's file `name` to; published, and recorded, when the body ends."""
        final = self.directory / name
        with storage.writing(final) as temporary:
            yield temporary
            self.files_made.append(File(name, storage.sha256_of(temporary), temporary.stat().st_size, rows))

    @contextmanager
    def files(self, folder: str = "") -> Iterator[Path]:
        """A temporary folder to write into; its files are published below `folder` when the body ends."""
        with self.scratch() as scratch:
            yield scratch
            for path in sorted(scratch.iterdir()):
                name = f"{folder}/{path.name}" if folder else path.name
                final = self.directory / name
                final.parent.mkdir(parents=True, exist_ok=True)
                self.files_made.append(File(name, storage.sha256_of(path), path.stat().st_size))
                storage.publish(path, final)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for the unit alone, removed with all that is in it when the body ends."""
        folder = storage.temporary_path(self.directory / self.unit.name)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def table(self, name: str, schema: Any, batches: Iterable[Any]) -> int:
        """Publish Parquet of `batches`; the number of rows."""
        with self.writing(name) as temporary:
            rows = storage.write_parquet(temporary, schema, batches)
        self.files_made[-1] = dataclasses.replace(self.files_made[-1], rows=rows)
        return rows

    def drops(self, batches: Iterable[Any]) -> int:
        """Publish the unit's drops (record batches or tables of DROP_SCHEMA), and count them by reason."""

        def counted() -> Iterator[Any]:
            for batch in batches:
                for pair in batch.column("reason").value_counts().to_pylist():
                    reason, number = pair["values"], pair["counts"]
                    self.drop_counts[reason] = self.drop_counts.get(reason, 0) + number
                yield batch

        return self.table(f"drops-{self.unit.name}.parquet", DROP_SCHEMA, counted())


def _run_unit(job: tuple[Callable[[Work], Mapping[str, Any]], Work, str]) -> Record:
    """In a worker: call the step and turn what it published into a record."""
    step, work, fingerprint = job
    counts = step(work)
    return Record(
        work.unit.name,
        fingerprint,
        tuple(sorted(work.files_made, key=lambda file: file.name)),
        dict(counts),
        dict(sorted(work.drop_counts.items())),
        work.unit.digests,
    )


class Root:
    """The root of a build, locked by this process until it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workers_lock = path / ".workers.lock"
        self._held: int | None = None

    def lock(self) -> None:
        """Take the lock, wait for the workers of a dead build, sweep what they left. BusyError if the owner lives."""
        if self._held is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        held = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(held, 32, 0).decode().strip() or "another process"
            os.close(held)
            raise BusyError(
                f"{self.path} is being built by {owner}; wait for it or choose another [corpus] root"
            ) from None
        os.ftruncate(held, 0)
        os.pwrite(held, f"process {os.getpid()}\n".encode(), 0)
        self._held = held
        orphans = os.open(self.workers_lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(orphans, fcntl.LOCK_EX)  # each worker holds it shared until it is dead
        finally:
            os.close(orphans)
        if swept := storage.sweep(self.path):
            log.info("swept %d unfinished files of a build that was stopped", swept)

    def unlock(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


@dataclass(slots=True)
class Stage:
    """One stage under a root. `phases` says what would be computed now."""

    root: Path
    name: str
    version: int
    phases: Sequence[Phase]
    keep_files: tuple[str, ...] = ()  # patterns of files in the directory that are of no unit (killed.jsonl)

    @property
    def directory(self) -> Path:
        return self.root / self.name

    def seal(self) -> dict[str, Any] | None:
        """The seal as written; None where there is none (or none that this version can read)."""
        return read_seal(self.directory)

    def records(self) -> Records | None:
        """What a complete stage holds, by phase; None if it is not complete now."""
        seal = self.seal()
        if (
            seal is None or (self.directory / JOURNAL).exists()
        ):  # a run was stopped here: files may be newer than the seal
            return None
        done = _records_of(seal)
        results: Records = {}
        for phase in self.phases:
            basis = phase.basis(self.version)
            expected = {unit.name: fingerprint(basis, unit) for unit in phase.units(results)}
            have = {record.name: record.fingerprint for record in done.get(phase.name, [])}
            if expected != have:
                return None
            results[phase.name] = done.get(phase.name, [])
        return results if set(done) <= set(results) else None

    def is_complete(self) -> bool:
        return self.records() is not None

    def run(self, engine: LocalEngine, *, progress: Callable[[str, int, int], None] | None = None) -> Records:
        """Compute what is not there, seal, and return all records. StageError if a unit fails; others still finish."""
        complete = self.records()
        if complete is not None:
            self._tidy(complete)
            return complete
        self.directory.mkdir(parents=True, exist_ok=True)
        old = self.seal()
        known = self._known(old)
        journal = _Journal(self.directory / JOURNAL)
        results: Records = {}
        try:
            for phase in self.phases:
                results[phase.name] = self._run_phase(phase, results, known, old, journal, engine, progress)
        finally:
            journal.close()
        self._write_seal(results)
        self._tidy(results)
        journal.path.unlink(missing_ok=True)  # last: while it is there, the stage is not complete
        return results

    def outlook(self) -> tuple[int, int, dict[str, int]]:
        """(units done, units known of, why the others are to do -> how many), up to the first phase with work."""
        old = self.seal()
        known = self._known(old)
        results: Records = {}
        done = total = 0
        reasons: dict[str, int] = {}
        for phase in self.phases:
            basis = phase.basis(self.version)
            found = []
            for unit in phase.units(results):
                total += 1
                wanted = fingerprint(basis, unit)
                have = known.get((phase.name, unit.name))
                if have is not None and have.fingerprint == wanted and (self._has_files(have) or not phase.keep):
                    found.append(have)
                    done += 1
                else:
                    why = self._why_stale(phase, basis, unit, have, wanted, old)
                    reasons[why] = reasons.get(why, 0) + 1
            if reasons:
                break
            results[phase.name] = found
        return done, total, reasons

    def _known(self, seal: Mapping[str, Any] | None) -> dict[tuple[str, str], Record]:
        """What the seal and the journal say was made, by phase and unit; the journal knows better."""
        known = {(phase, record.name): record for phase, found in _records_of(seal).items() for record in found}
        for entry in _complete_lines(self.directory / JOURNAL)[0]:
            key = (entry["phase"], entry["name"])
            known.pop(key, None)
            if "record" in entry:
                known[key] = record_from(entry["record"])
        return known

    def _run_phase(
        self,
        phase: Phase,
        results: Records,
        known: Mapping[tuple[str, str], Record],
        old: Mapping[str, Any] | None,
        journal: _Journal,
        engine: LocalEngine,
        progress: Callable[[str, int, int], None] | None,
    ) -> list[Record]:
        basis = phase.basis(self.version)
        units = sorted(phase.units(results), key=lambda unit: unit.name)
        assert len({unit.name for unit in units}) == len(units), f"{self.name}/{phase.name}: unit names repeat"
        kept: dict[str, Record] = {}
        jobs = []
        reasons: dict[str, int] = {}
        for unit in units:
            wanted = fingerprint(basis, unit)
            have = known.get((phase.name, unit.name))
            if have is not None and have.fingerprint == wanted and self._has_files(have):
                kept[unit.name] = have
                continue
            why = self._why_stale(phase, basis, unit, have, wanted, old)
            reasons[why] = reasons.get(why, 0) + 1
            jobs.append((phase.step, Work(self.name, self.directory, unit, phase.settings), wanted))
        for why, number in reasons.items():
            log.info("%s/%s: %d of %d units to do: %s", self.name, phase.name, number, len(units), why)
        started = time.monotonic()
        failures = []
        total = len(units)
        if progress:
            progress(phase.name, len(kept), total)
        journal.begin(phase.name, [job[1].unit.name for job in jobs])
        for outcome in engine.map(_run_unit, jobs, estimate_bytes=phase.estimate_bytes, modules=phase.modules):
            unit = outcome.item[1].unit
            if outcome.error:
                failures.append((unit.name, outcome.error))
                log.error("%s/%s: unit %s failed: %s", self.name, phase.name, unit.name, outcome.error)
                if outcome.traceback:
                    log.debug("%s", outcome.traceback)
                continue
            journal.done(phase.name, outcome.value)
            kept[unit.name] = outcome.value
            if progress:
                progress(phase.name, len(kept), total)
        if failures:
            name, error = min(failures)
            count = f"{len(failures)} of {total} units failed, the others are kept"
            raise StageError(f"{self.name}/{phase.name}: {count}; {name}: {error}")
        if jobs:
            log.info("%s/%s: %d units in %.1f s", self.name, phase.name, len(jobs), time.monotonic() - started)
        return [kept[unit.name] for unit in units]

    def _has_files(self, record: Record) -> bool:
        for file in record.files:
            path = self.directory / file.name
            if not path.is_file() or path.stat().st_size != file.size_bytes:
                return False
        return True

    def _why_stale(
        self,
        phase: Phase,
        basis: Mapping[str, Any],
        unit: Unit,
        have: Record | None,
        wanted: str,
        old: Mapping[str, Any] | None,
    ) -> str:
        """One phrase: what makes this unit be done now."""
        before = next((one for one in (old or {}).get("phases", []) if one["phase"] == phase.name), None)
        if have is None and before is not None and unit.name in before["units"]:
            return "it was under way when the last run stopped"
        if have is None or before is None:
            return "new"
        if have.fingerprint == wanted:
            return "its files are not kept between builds" if not phase.keep else "its files are missing"
        changes = list(describe_changes(before["basis"], basis))
        if changes:
            return "; ".join(changes)
        if have.inputs != unit.digests:
            return "what it reads has changed"
        return "what it is asked has changed"

    def _write_seal(self, results: Records) -> None:
        storage.write_json(
            self.directory / SEAL,
            {
                "seal": SEAL_VERSION,
                "stage": self.name,
                "phases": [
                    {
                        "phase": phase.name,
                        "basis": phase.basis(self.version),
                        "keep": phase.keep,
                        "units": {record.name: record_to(record) for record in results[phase.name]},
                    }
                    for phase in self.phases
                ],
            },
        )

    def _tidy(self, results: Records) -> None:
        """Remove what no unit of the sealed stage owns: units that are gone, and files of phases that are not kept."""
        owned = {SEAL, JOURNAL}
        nested = {path.parent for path in self.directory.glob(f"*/**/{SEAL}")}  # stages of their own
        for phase in self.phases:
            if phase.keep:
                owned |= {file.name for record in results[phase.name] for file in record.files}
        for path in sorted(self.directory.rglob("*"), reverse=True):
            if nested and not nested.isdisjoint((path, *path.parents)):
                continue
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
                continue
            name = str(path.relative_to(self.directory))
            if name not in owned and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.keep_files):
                path.unlink()


class _Journal:
    """Lines of JSON, each on disk before the next step is taken. A torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _, size = _complete_lines(path)
        self._stream = path.open("ab")
        self._stream.truncate(size)

    def begin(self, phase: str, names: Sequence[str]) -> None:
        """The files of these units are about to change: what an older entry or the seal says of them ends here."""
        self._append([{"phase": phase, "name": name} for name in names])

    def done(self, phase: str, record: Record) -> None:
        self._append([{"phase": phase, "name": record.name, "record": record_to(record)}])

    def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        if entries:
            first = entries[0]
            what = "done" if "record" in first else "begin"
            storage.failpoint("journal", self.path, f"{what} {first['phase']}/{first['name']}")
        self._stream.writelines(storage.canonical_json(entry).encode() + b"\n" for entry in entries)
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def _complete_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The entries up to the first torn line, and how many bytes they take."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    entries: list[dict[str, Any]] = []
    size = 0
    for line in data.split(b"\n")[:-1]:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
        size += len(line) + 1
    return entries, size


def fingerprint(basis: Mapping[str, Any], unit: Unit) -> str:
    """SHA-256 of everything that decides the bytes of a unit."""
    facts = {**basis, "unit": unit.name, "inputs": list(unit.digests), "arguments": dict(unit.arguments)}
    return hashlib.sha256(storage.canonical_json(facts).encode()).hexdigest()


def affecting_bytes(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass that can change bytes, as JSON values: what a fingerprint is made of."""
    return {
        one.name: list(value) if isinstance(value := getattr(settings, one.name), tuple) else value
        for one in dataclasses.fields(settings)
        if one.metadata.get("bytes", True)
    }


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """`[select] min_karma: 3 -> 5` and the like, for each difference of two bases."""
    if old["version"] != new["version"]:
        yield f"code version: {old['version']} -> {new['version']}"
    for name in sorted({*old["libraries"], *new["libraries"]}):
        before, after = old["libraries"].get(name), new["libraries"].get(name)
        if before != after:
            yield f"{name}: {before} -> {after}"
    for section in sorted({*old["settings"], *new["settings"]}):
        before, after = old["settings"].get(section, {}), new["settings"].get(section, {})
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"[{section}] {key}: {before.get(key)} -> {after.get(key)}"


def record_to(record: Record) -> dict[str, Any]:
    return asdict(record)


def record_from(value: Mapping[str, Any]) -> Record:
    return Record(
        value["name"],
        value["fingerprint"],
        tuple(File(**file) for file in value["files"]),
        value["counts"],
        value["drops"],
        tuple(value["inputs"]),
    )


def read_seal(directory: Path) -> dict[str, Any] | None:
    """The seal of a stage's directory; None where there is none that can be read."""
    try:
        seal = json.loads((directory / SEAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return seal if seal.get("seal") == SEAL_VERSION else None


def _records_of(seal: Mapping[str, Any] | None) -> Records:
    if seal is None:
        return {}
    return {one["phase"]: [record_from(record) for record in one["units"].values()] for one in seal["phases"]}


def sealed_records(directory: Path) -> Records:
    """The records in a directory's seal, whether or not they are what would be computed now."""
    return _records_of(read_seal(directory))


class Digests:
    """SHA-256 of files outside the root (dumps, evaluation sets), remembered by path, size and time of change.

    The memory is `logs/digests.json`: losing it costs a re-read, and it is in no comparison.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._known = {}

    def of(self, file: Path) -> str:
        """Hex SHA-256 of `file`; ValueError where it cannot be read."""
        try:
            status = file.stat()
            key = str(file.resolve())
            known = self._known.get(key)
            if known and known[0] == status.st_size and known[1] == status.st_mtime_ns:
                return str(known[2])
            digest = storage.sha256_of(file)
        except OSError as error:
            raise ValueError(f"{file}: expected a readable file, got {error.strerror}") from None
        self._known[key] = [status.st_size, status.st_mtime_ns, digest]
        storage.write_json(self._path, self._known)
        return digest
