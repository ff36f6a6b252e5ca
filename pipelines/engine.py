"""engine.map(function, items): the one door through which work leaves this process.

- `local` is a pool of processes started by a fork server: no thread of the parent is ever forked.
- A worker that dies costs its item: the item is tried once more when nothing else runs, and if the worker dies again
  the item has failed, by name and with the signal that killed it, while all others still finish.
- An exception is an answer, not a death: it fails the item at once, with its traceback for the log.
- Workers die with their parent (the kernel kills them when its pipe closes), and each holds a shared lock while it
  lives: whoever takes the root's lock next waits until the last orphan is gone, so no dead build publishes anything.
- Memory bounds the number of workers: as many as fit `memory_bytes` at the estimate of the work at hand.

Another engine is another `map` with this signature; work and results are files and small records, so that is all.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

log = logging.getLogger("webtext.build")

F_SETSIG = 10  # linux: asm-generic/fcntl.h; not in Python's fcntl
PRELOADED = ["pipelines.steps"]  # imported once by the fork server; workers share its pages


def processors() -> int:
    """The processors this process may use, which inside a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def physical_memory_bytes() -> int:
    """The machine's memory or the container's limit, whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the work is spread. Nothing here can change a byte of any output."""

    kind: str = field(default="local", metadata={"help": "where work runs; local: processes here", "bytes": False})
    workers: int | None = field(default=None, metadata={"help": "processes; empty: one a processor", "bytes": False})
    memory_bytes: int | None = field(
        default=None, metadata={"help": "bound on all workers together; empty: 80% of the machine's", "bytes": False}
    )

    def __post_init__(self) -> None:
        if self.kind != "local":
            raise ValueError(f"[engine] kind: expected local, got {self.kind!r}; other engines are not in this version")
        if self.workers is not None and self.workers < 1:
            raise ValueError(
                f"[engine] workers: expected at least 1, got {self.workers}; leave it empty for one a processor"
            )

    def workers_for(self, estimate_bytes: int) -> int:
        """How many workers fit when each needs `estimate_bytes`; at least one."""
        memory = self.memory_bytes or physical_memory_bytes() * 8 // 10
        return max(1, min(self.workers or processors(), memory // max(1, estimate_bytes)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: a value, or the one-line reason and the traceback of its failure."""

    item: Any
    value: Any = None
    error: str | None = None
    traceback: str = ""


@dataclass(slots=True)
class _Worker:
    process: Any
    connection: Connection
    index: int | None = None  # of the item it works on


@dataclass(slots=True)
class LocalEngine:
    """Processes of this machine. Use as a context manager; workers stay warm from one map to the next."""

    settings: EngineSettings = field(default_factory=EngineSettings)
    lock: Path | None = None  # held shared by every living worker
    on_progress: Callable[[Any, int, int], None] | None = None  # (item, done, total), from `report`
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        estimate_bytes: int = 1 << 30,
        modules: Sequence[str] = (),
    ) -> Iterator[Outcome]:
        """Apply the top-level `function` to each item in some process; yield an Outcome per item as it ends.

        `modules` hold kernels that compile when imported: one worker imports them before the others start, so that
        they are compiled once.
        """
        if not items:
            return
        width = min(self.settings.workers_for(estimate_bytes), len(items))
        if modules:
            self._fill(1)
            self._import(tuple(modules))
        self._fill(width)
        todo = deque(range(len(items)))
        alone: deque[int] = deque()
        retried: set[int] = set()
        busy = 0
        try:
            while todo or alone or busy:
                for position in range(width):
                    queue = todo or (alone if not busy else None)
                    if not queue:
                        break
                    worker = self._workers[position]
                    if worker.index is None:
                        index = queue.popleft()
                        try:
                            worker.connection.send((index, function, items[index]))
                        except (BrokenPipeError, ConnectionResetError):  # it died idle: nothing is lost
                            self._replace(position)
                            queue.appendleft(index)
                            continue
                        worker.index = index
                        busy += 1
                for position, message in self._next(width):
                    worker = self._workers[position]
                    assert worker.index is not None
                    index = worker.index
                    if message is None:
                        cause = self._replace(position)
                        busy -= 1
                        if index in retried:
                            yield Outcome(items[index], error=f"its worker died twice, {cause}")
                        else:
                            retried.add(index)
                            alone.append(index)
                    elif message[0] == "log":
                        log.log(message[1], "%s", message[2])
                    elif message[0] == "progress":
                        if self.on_progress:
                            self.on_progress(items[index], message[1], message[2])
                    else:
                        worker.index = None
                        busy -= 1
                        _, value, error, trace = message
                        yield Outcome(items[index], value, error, trace)
        finally:
            for position, worker in enumerate(self._workers):
                if worker.index is not None:  # the caller left early: what is under way is not wanted
                    worker.process.kill()
                    self._replace(position)

    def _fill(self, width: int) -> None:
        while len(self._workers) < width:
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.lock), daemon=False, name="webtext-worker")
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _replace(self, position: int) -> str:
        """Put a new worker in the place of a dead one; say how the old one ended."""
        old = self._workers[position]
        old.connection.close()
        old.process.join(timeout=10)
        code = old.process.exitcode
        self._workers[position] = self._start()
        if code is not None and code < 0:
            cause = f"killed by {signal.Signals(-code).name}"
            return cause + (" (out of memory?)" if -code == signal.SIGKILL else "")
        return f"exit status {code}"

    def _import(self, modules: tuple[str, ...]) -> None:
        """Import `modules` in the first worker, which compiles their kernels into the cache."""
        worker = self._workers[0]
        worker.connection.send((-1, _import_all, modules))
        message = worker.connection.recv()
        if message[2]:
            raise RuntimeError(f"importing {', '.join(modules)} failed: {message[2]}\n{message[3]}")

    def _next(self, width: int) -> Iterator[tuple[int, Any]]:
        """(position, message) of each worker that has one; the message is None where the worker is dead."""
        positions = {
            worker.connection: position
            for position, worker in enumerate(self._workers[:width])
            if worker.index is not None
        }
        for connection in wait(list(positions)):
            position = positions[connection]  # type: ignore[index]
            try:
                message = self._workers[position].connection.recv()
            except (EOFError, ConnectionResetError):
                message = None
            yield position, message


_connection: Connection | None = None  # of this process if it is a worker


def report(done: int, total: int) -> None:
    """Say how far the item at hand is; heard by the engine's `on_progress`. Does nothing outside a worker."""
    if _connection is not None:
        _connection.send(("progress", done, total))


class _Forward(logging.Handler):
    """Sends what a worker logs to the parent, whose console and log file it belongs in."""

    def emit(self, record: logging.LogRecord) -> None:
        if _connection is not None:
            _connection.send(("log", record.levelno, record.getMessage()))


def die_with(sentinel: int) -> None:
    """Have the kernel kill this process when the pipe `sentinel` is closed at its other end, which is the parent's.

    PR_SET_PDEATHSIG would watch the fork server, which lives as long as its children (they hold its pipe). A signal
    for input on the pipe needs no thread and no turn of the interpreter lock.
    """
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)


def _import_all(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def _work(connection: Connection, lock: Path | None) -> None:
    global _connection
    parent = multiprocessing.parent_process()
    assert parent is not None
    die_with(parent.sentinel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    held = None
    if lock is not None:
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(held, fcntl.LOCK_SH)
    for pool in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(pool, "1")  # one worker, one processor: libraries would start a thread for each
    _connection = connection
    logging.getLogger().addHandler(_Forward(logging.WARNING))
    while True:
        try:
            index, function, item = connection.recv()
        except EOFError:
            return
        answer: tuple[str, Any, str | None, str]
        try:
            answer = ("done", function(item), None, "")
        except Exception as error:
            line = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            answer = ("done", None, line, traceback.format_exc())
        del index, item
        connection.send(answer)
