"""Pages -> documents: every page is parsed in a child process that may die of it.

- One persistent child per caller (`parser.serve`), started anew when it has done `recycle_pages` pages, holds
  `recycle_bytes`, or has died. Pages travel in batches of up to 64; answers come back one by one, so that a death costs
  the page that caused it: the first one without an answer.
- That page is tried once more, alone in a fresh child with three times the time. If the child dies again, the page is
  dropped, and a `Killed` says so: what time and memory allow depends on the machine, so the verdict becomes an input of
  later runs (`documents/killed.jsonl`, appended by the caller, consulted before parsing).
- Two batches are under way at any time: while the child parses one, this process reads the next pages and the consumer
  of this iterator writes the last documents.
- The child dies with the process (PDEATHSIG, and the end of its input), never outlives it, and never runs atexit work.

    >>> for extraction in extract_pages(pages, ExtractSettings()):  # doctest: +SKIP
    ...     keep(extraction.document) if extraction.document else count(extraction.drop)
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

import msgspec

from webtext.parser import (
    MAX_FRAME_BYTES,
    MEMORY_EXIT_STATUS,
    WALL_FACTOR,
    ExtractSettings,
    Hello,
    Job,
    Parsed,
    extractor_version,
    write_all,
)
from webtext.pii import NO_PII, PiiCounts
from webtext.records import Document, Drop, Page

__all__ = [
    "ExtractSettings",
    "Extraction",
    "Killed",
    "append_killed",
    "extract_pages",
    "extractor_version",
    "read_killed",
]

BATCH_PAGES = 64
BATCH_BYTES = 8_000_000
RETRY_PATIENCE = 3.0
START_SECONDS = 120.0
CHILD_COMMAND = (sys.executable, "-c", "from webtext.parser import serve; serve()")


@dataclass(frozen=True, slots=True)
class Killed:
    """A page that killed its parser twice. `limit`: its drop's reason and what was seen ("parse_crash SIGSEGV")."""

    payload_sha256: str
    extractor: str
    limit: str


@dataclass(frozen=True, slots=True)
class Extraction:
    """What became of a page: a document or a drop, never both. `killed` is set when the verdict is new."""

    id: str
    document: Document | None
    drop: Drop | None
    killed: Killed | None = None
    pii: PiiCounts = NO_PII


def extract_pages(
    pages: Iterable[Page],
    settings: ExtractSettings,
    *,
    killed: Mapping[str, str] = MappingProxyType({}),
    command: Sequence[str] = CHILD_COMMAND,
) -> Iterator[Extraction]:
    """One `Extraction` for each page, in the order of `pages`.

    `killed` maps payload SHA-256 to the limit of an earlier run (`read_killed`); such pages are dropped unparsed.
    `command` starts the parser child: a seam for tests.
    """
    version = extractor_version(settings)
    source = iter(pages)
    waiting: deque[_Item] = deque()  # in input order; the head is the next to be yielded
    number = 0
    with _Parser(settings, command) as parser:
        exhausted = False
        while waiting or not exhausted:
            while not exhausted and parser.batches_under_way < 2:
                items, jobs, size = [], [], 0
                for page in source:
                    limit = killed.get(page.payload_sha256)
                    items.append(_Item(page, limit, number))
                    if limit is None:
                        jobs.append(Job(number, page.final_url, page.content_type, page.payload, page.fetched_at))
                        size += len(page.payload)
                    number += 1
                    if len(items) >= BATCH_PAGES or size >= BATCH_BYTES:
                        break
                else:
                    exhausted = True
                waiting.extend(items)
                if jobs:
                    parser.submit(jobs)
            if not waiting:
                break
            item = waiting.popleft()
            page = item.page
            if item.limit is not None:
                yield Extraction(page.id, None, _killed_drop(page.id, item.limit))
                continue
            answer = parser.answer(item.number)
            if isinstance(answer, str):
                verdict = Killed(page.payload_sha256, version, answer)
                yield Extraction(page.id, None, _killed_drop(page.id, answer), verdict)
            else:
                yield _extraction(page, answer, version)


@dataclass(frozen=True, slots=True)
class _Item:
    page: Page
    limit: str | None  # of an earlier run
    number: int


def _killed_drop(page_id: str, limit: str) -> Drop:
    reason, _, detail = limit.partition(" ")
    return Drop(reason, detail or None, id=page_id)


def _extraction(page: Page, parsed: Parsed, version: str) -> Extraction:
    if parsed.reason is not None:
        return Extraction(page.id, None, Drop(parsed.reason, parsed.detail, id=page.id))
    document = Document(
        id=page.id,
        url=page.final_url,
        text=parsed.text,
        title=parsed.title,
        date=parsed.date,
        language=parsed.language,
        language_score=parsed.language_score,
        fetched_at=page.fetched_at,
        extractor=version,
        num_words=len(parsed.text.split()),
        num_bytes=len(parsed.text.encode()),
    )
    return Extraction(page.id, document, None, pii=PiiCounts(parsed.emails, parsed.ips, parsed.phones))


class _Parser:
    """The child, its jobs under way, and their second chance."""

    def __init__(self, settings: ExtractSettings, command: Sequence[str]) -> None:
        self._settings = settings
        self._command = command
        self._child: _Child | None = None
        self._pages_done = 0
        self._rss_bytes = 0
        self._under_way: deque[list[Job]] = deque()  # batches handed over; answered jobs are taken off the front

    @property
    def batches_under_way(self) -> int:
        return len(self._under_way)

    def submit(self, jobs: list[Job]) -> None:
        self._under_way.append(jobs)
        if self._child is None:
            self._child = _Child(self._settings, self._command)
        self._child.send(jobs)

    def answer(self, number: int) -> Parsed | str:
        """The answer to the oldest job, whose number this is, or the limit that it broke twice."""
        job = self._under_way[0].pop(0)
        assert job.number == number
        if not self._under_way[0]:
            self._under_way.popleft()
        assert self._child is not None
        answer: Parsed | str = self._child.receive(job)
        if isinstance(answer, str):
            self._child.kill()
            self._child = _Child(self._settings, self._command)
            self._child.send([_patient(job)])
            answer = self._child.receive(_patient(job))
            if isinstance(answer, str):
                self._child.kill()
                self._renew()
            else:  # as fresh as any
                self._pages_done = 1
                for jobs in self._under_way:
                    self._child.send(jobs)
        else:
            self._pages_done += 1
            self._rss_bytes = answer.rss_bytes
            if self._pages_done >= self._settings.recycle_pages or self._rss_bytes >= self._settings.recycle_bytes:
                self._child.kill()
                self._renew()
        return answer

    def _renew(self) -> None:
        """A fresh child, which gets what is still under way."""
        self._pages_done = 0
        self._child = None
        if self._under_way:
            self._child = _Child(self._settings, self._command)
            for jobs in self._under_way:
                self._child.send(jobs)

    def __enter__(self) -> _Parser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.kill()


def _patient(job: Job) -> Job:
    return Job(job.number, job.url, job.content_type, job.payload, job.fetched_at, RETRY_PATIENCE)


class _Child:
    """One parser process and its two pipes."""

    def __init__(self, settings: ExtractSettings, command: Sequence[str]) -> None:
        self._seconds = settings.timeout_seconds
        self._buffer = bytearray()
        self._ready = False
        # A file cannot fill up and block the child, as a pipe would.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        environment = os.environ | {
            # Found where this module was, whatever the parent's sys.path; one thread, since numpy's would only wait.
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        _widen(self._out)
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._write(msgspec.msgpack.encode(Hello(settings, os.getpid())))

    def send(self, jobs: list[Job]) -> None:
        self._write(msgspec.msgpack.encode(jobs))

    def _write(self, frame: bytes) -> None:
        try:
            write_all(self._in, len(frame).to_bytes(8, "little"))
            write_all(self._in, frame)
        except BrokenPipeError:  # it died: receive() will say so
            pass

    def receive(self, job: Job) -> Parsed | str:
        """The next answer, or the limit that ended the child."""
        if not self._ready:
            if self._frame(time.monotonic() + START_SECONDS) is None:
                self._process.wait()
                raise RuntimeError(f"expected a parser process that starts, got one that ended: {self._last_words()}")
            self._ready = True
        # The child's own timers end it; this one is for a child that is stopped or cannot be scheduled at all.
        frame = self._frame(time.monotonic() + WALL_FACTOR * self._seconds * job.patience + 10.0)
        if frame is None:
            return self._limit()
        try:
            answer = msgspec.msgpack.decode(frame, type=Parsed)
        except msgspec.DecodeError:
            return "parse_crash bad answer"
        return answer if answer.number == job.number else "parse_crash bad answer"

    def _frame(self, deadline: float) -> bytes | None:
        while True:
            if len(self._buffer) >= 8:
                size = int.from_bytes(self._buffer[:8], "little")
                if size > MAX_FRAME_BYTES:
                    return None
                if len(self._buffer) >= 8 + size:
                    frame = bytes(memoryview(self._buffer)[8 : 8 + size])
                    del self._buffer[: 8 + size]
                    return frame
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._process.kill()
                return None
            data = os.read(self._out, 1 << 20)
            if not data:
                return None
            self._buffer += data

    def _limit(self) -> str:
        """What ended the child, as a reason and a detail that do not depend on the moment."""
        try:
            status = self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status == MEMORY_EXIT_STATUS:
            return "parse_memory"
        if status in (-signal.SIGPROF, -signal.SIGALRM):
            return "parse_timeout"
        if status < 0:
            return f"parse_crash {signal.Signals(-status).name}"
        return f"parse_crash exit status {status}"

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}, nothing on its standard error"

    def kill(self) -> None:
        """End the child now, whatever it does, and give back what it held."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._stderr.close()


def _widen(pipe: int) -> None:
    """A pipe of a megabyte holds a batch of texts, so that the child goes on while the parent writes documents."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # over this user's share: 64 KiB it is
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def read_killed(path: Path, settings: ExtractSettings) -> dict[str, str]:
    """Payload SHA-256 -> limit, of the pages that killed this version of the extractor. No file: nothing was killed.

    A last line without its line end was cut off by a crash and does not count; any other bad line is an error.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    version = extractor_version(settings)
    found: dict[str, str] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = msgspec.json.decode(line, type=_KilledRow)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} line {number}: expected a killed page as JSON, got {line[:80]!r} ({error}); delete the line"
            ) from None
        if row.extractor == version:
            found.setdefault(row.payload_sha256, row.limit)
    return found


class _KilledRow(msgspec.Struct):
    payload_sha256: str
    extractor: str
    limit: str


def append_killed(path: Path, verdicts: Iterable[Killed]) -> None:
    """Append `verdicts` to the JSON lines at `path`, fsynced.

    One writer at a time (the root's lock); a last line that an earlier crash tore is cut off first.
    """
    data = b"".join(
        json.dumps({"payload_sha256": v.payload_sha256, "extractor": v.extractor, "limit": v.limit}).encode() + b"\n"
        for v in verdicts
    )
    if not data:
        return
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
