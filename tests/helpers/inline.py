"""A build inside one process: the stages of a real build, an engine that does the work where it is called.

`python -m helpers.inline` is a server: it imports everything once and forks a child for each build it is asked for, so
that a test which kills two hundred builds does not pay for two hundred interpreters. What is killed, and what resumes,
is a process of its own each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import builds
from pipelines.engine import EngineSettings, Outcome

PRELOADED = (
    "pipelines.build",
    "pipelines.config",
    "pipelines.steps",
    "pipelines.report",
    "pipelines.funnel",
    "webtext.pages",
    "webtext.reddit",
    "webtext.links",
    "webtext.extract",
    "webtext.quality",
    "webtext.bpe",
    "dedup.minhash",
    "dedup.lsh",
    "dedup.overlap",
    "dedup.bloom",
    "dedup.texts",
    "model.data",
)


@dataclass
class InlineEngine:
    """`pipelines.engine.LocalEngine` without processes: items are done in turn, here."""

    settings: EngineSettings = field(default_factory=EngineSettings)
    on_progress: Callable[[Any, int, int], None] | None = None

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        estimate_bytes: int = 1 << 30,
        modules: Sequence[str] = (),
    ) -> Iterator[Outcome]:
        for item in items:
            try:
                outcome = Outcome(item, function(item))
            except Exception as error:
                outcome = Outcome(item, None, f"{type(error).__name__}: {error}", traceback.format_exc())
            yield outcome


def settings_of(sections: Mapping[str, Mapping[str, Any]]) -> Any:
    """pipelines.config.Settings from texts, without Luigi."""
    from pipelines import config

    texts = {name: {key: str(value) for key, value in sections.get(name, {}).items()} for name in config.SECTIONS}
    return config.Settings({name: config.build(name, given) for name, given in texts.items()})


def build(
    sections: Mapping[str, Mapping[str, Any]], until: str | None = None, versions: Mapping[str, int] | None = None
) -> None:
    """Every stage that is not complete, in order, as Luigi would run them; `versions` are of changed code."""
    from pipelines.build import GRAPH, Build
    from pipelines.stage import Root, Stage

    class Changed(Build):
        def stage(self, name: str) -> Stage:
            stage = super().stage(name)
            return dataclasses.replace(stage, version=(versions or {}).get(name, stage.version))

    made = Changed(settings_of(sections))
    root = Root(made.root)
    root.lock()
    try:
        for name in GRAPH:
            if not made.is_complete(name):
                logging.getLogger("webtext.build").info("begin %s", name)
                made.run(name, InlineEngine())  # type: ignore[arg-type]
            if name == until:
                break
    finally:
        root.unlock()


@dataclass(frozen=True)
class Ended:
    """How a build ended: exit status (minus the signal if killed), and what it said."""

    returncode: int
    log: str

    @property
    def last_stage(self) -> str:
        """The stage that was under way."""
        stages = [line.split("begin ")[1] for line in self.log.splitlines() if line.startswith("begin ")]
        return stages[-1] if stages else ""


class Server:
    """The client of `python -m helpers.inline`: `with Server(folder) as server: server.build(sections)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.inline"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(builds.REPOSITORY / "tests"), str(builds.REPOSITORY)]),
            },
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def build(
        self,
        sections: Mapping[str, Mapping[str, Any]],
        *,
        environment: Mapping[str, str] | None = None,
        kill_after: float | None = None,
        max_file_bytes: int | None = None,
        until: str | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> Ended:
        """One build in a child; SIGKILL to all of its processes after `kill_after` seconds, if it is not done then.

        `versions` are those of stages whose code is taken to have changed.
        """
        self._number += 1
        log = self.folder / f"build-{self._number}.log"
        asked = {
            "sections": {name: {key: str(value) for key, value in one.items()} for name, one in sections.items()},
            "environment": dict(environment or {}),
            "kill_after": kill_after,
            "max_file_bytes": max_file_bytes,
            "until": until,
            "versions": dict(versions or {}),
            "log": str(log),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        text = log.read_text() if log.exists() else ""
        assert answer, f"the server of builds died; {text}"
        return Ended(int(answer), text)


def _serve() -> None:
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(asked)
        sys.stdout.write(f"{_wait(child, asked['kill_after'])}\n")
        sys.stdout.flush()


def _child(asked: Mapping[str, Any]) -> None:
    status = 1
    try:
        os.setsid()
        os.environ.update(asked["environment"])
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        if asked["max_file_bytes"] is not None:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["max_file_bytes"], resource.RLIM_INFINITY))
        build(asked["sections"], asked["until"], asked["versions"])
        status = 0
    except (OSError, ValueError) as error:
        sys.stderr.write(f"failed: {error}\n")
    except Exception as error:
        from pipelines.stage import StageError

        sys.stderr.write(f"failed: {error}\n" if isinstance(error, StageError) else traceback.format_exc())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, kill_after: float | None) -> int:
    """The exit status of `child`; it and its session are killed when their time is over."""
    descriptor = os.pidfd_open(child)
    try:
        select.select([descriptor], [], [], kill_after)
    finally:
        os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):  # also what it started: no parser outlives its build
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    _serve()
