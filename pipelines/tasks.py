"""The Luigi tasks: one a stage, and nothing of the work.

- A task is complete when its seal, and every seal upstream, says what would be computed now: `complete()` asks that,
  not whether a file exists. So changed settings run again what they change, and nothing else.
- Luigi runs with one worker, always: stages use all processors through the engine, and a forked copy of this process
  would hold its lock.
- A user's mistake is one line and a non-zero exit, never a traceback; tracebacks are in logs/build.log.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import luigi
import luigi.configuration

from pipelines import config, funnel, plan
from pipelines.build import GRAPH, Build
from pipelines.console import Console
from pipelines.engine import LocalEngine
from pipelines.own_text import OwnText
from pipelines.stage import SEAL, BusyError, Root, StageError

log = logging.getLogger("webtext.build")

config.luigi_defaults()
config.declare_sections()

EXPECTED_ERRORS = (ValueError, OSError, StageError, BusyError)  # a user can do something about these


class Session:
    """What one `luigi` process holds: its settings, the locked root, the engine and the console."""

    def __init__(self) -> None:
        if int(luigi.configuration.get_config().get("core", "workers", "1")) != 1:  # type: ignore[no-untyped-call]
            raise ValueError(
                "[core] workers: expected 1, got another number; set [engine] workers, which are processes"
            )
        self.console = Console()
        self.build = Build(config.read_settings())
        self.root = Root(self.build.root)
        self.summarised = False
        self.shown: set[str] = set()  # stages whose page was named
        self._begun = False
        self._engine: LocalEngine | None = None

    @functools.cache  # noqa: B019 - one session a process
    def own_text(self, patterns: str, text_column: str, id_column: str) -> OwnText:
        """The build of a user's own text."""
        paths = tuple(part.strip() for part in patterns.split(",") if part.strip())
        return OwnText(self.build.settings, patterns=paths, text_column=text_column, id_column=id_column or None)

    def begin(self) -> None:
        """Before the first work of this process: room on the disk, the root locked, logs, answers to signals."""
        if self._begun:
            return
        quiet_luigi()  # first: that another build is at work is one line too
        plan.check_disk(self.build)
        self.root.lock()
        self.console.attach_logs(self.build.logs / "build.log")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        self._begun = True

    def engine(self) -> LocalEngine:
        """The engine, started at the first stage that has work."""
        if self._engine is None:
            self.begin()
            self._engine = LocalEngine(self.build.settings["engine"], lock=self.root.workers_lock)
            atexit.register(self._engine.close)
        return self._engine


def _stop(number: int, frame: object) -> None:
    """SIGTERM and Ctrl-C: fetching ends at its next chance, with everything synced; other work ends at once."""
    build = session().build
    if build.fetching and not build.stopping:
        build.stopping = True
        session().console.fail("stopping: what is under way is written down; once more to stop at once")
        return
    raise KeyboardInterrupt


@functools.cache
def session() -> Session:
    """The session of this process."""
    return Session()


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what a user can mend into one line and the end of the process."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        sys.stderr.write(f"webtext: {error}\n")
        raise SystemExit(2) from None


class _NoTraceback(logging.Filter):
    """Luigi logs a failed task with its traceback; ours says it in one line, and the traceback goes to the log file."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            log.debug("%s", record.getMessage(), exc_info=record.exc_info)
            return not isinstance(record.exc_info[1], EXPECTED_ERRORS)
        return True


def quiet_luigi() -> None:
    logging.getLogger("luigi-interface").addFilter(_NoTraceback())


class StageTask(luigi.Task):
    """A stage of the build as Luigi sees it."""

    stage: ClassVar[str]

    def build(self) -> Build:
        return session().build

    def requires(self) -> list[luigi.Task]:
        return [STAGES[name]() for name in GRAPH[self.stage]]

    def output(self) -> luigi.LocalTarget:
        path = self.build().root / self.stage / SEAL
        return luigi.LocalTarget(str(path))  # type: ignore[no-untyped-call]

    def complete(self) -> bool:
        with one_line():
            done = self.build().is_complete(self.stage)
        if done and type(self).__name__ in sys.argv:  # it is what somebody asked for
            self.show_page()
        return done

    def run(self) -> None:
        current = session()

        def progress(stage: str, phase: str, done: int, total: int) -> None:
            current.console.update(f"{stage} {phase}", done, total)
            if self.set_progress_percentage is not None:  # given by Luigi's worker
                self.set_progress_percentage(100 * done / max(1, total))
            if self.set_status_message is not None:
                self.set_status_message(f"{phase}: {done} of {total} units")

        with one_line_failure(self.stage):
            engine = current.engine()
            build = self.build()
            build.progress = progress
            build.on_fetch = current.console.fetching
            engine.on_progress = lambda job, done, total: current.console.update(job[1].unit.name, done, total)
            with current.console.stage(self.stage):
                build.run(self.stage, engine)

    def show_page(self) -> None:
        """Say where the page is, of a stage that makes one; once."""
        if self.stage in PAGES and self.stage not in session().shown:
            session().shown.add(self.stage)
            what, page = PAGES[self.stage]
            session().console.paths({what: self.build().root / page})


@contextmanager
def one_line_failure(what: str) -> Iterator[None]:
    """Say in one line why a task failed or was stopped; Luigi then makes the exit status of it."""
    console = session().console
    try:
        yield
    except KeyboardInterrupt:
        console.fail(f"{what}: stopped; what is done is kept, the same command goes on from here")
        sys.stderr.flush()
        os._exit(130)
    except EXPECTED_ERRORS as error:
        console.fail(f"{what}: {error}")
        raise


class TextTask(StageTask):
    """A stage that also runs on somebody's own text: no Reddit stage is asked for then."""

    input: str = luigi.Parameter(  # type: ignore[assignment]  # hides Task.input(), which nothing here uses
        default="", description="files, folders or globs of Parquet, JSONL or txt, separated by commas; no links then"
    )
    text_column: str = luigi.Parameter(default="text", description="the column or field of the text")
    id_column: str = luigi.Parameter(default="", description="the column or field of the name; empty: id, or the row")

    def build(self) -> Build:
        if not self.input:
            return session().build
        return session().own_text(self.input, self.text_column, self.id_column)

    def requires(self) -> list[luigi.Task]:
        if not self.input:
            return super().requires()
        given = {"input": self.input, "text_column": self.text_column, "id_column": self.id_column}
        return [OwnTextStage(name=name, **given) for name in self.build().graph[self.stage]]


class OwnTextStage(TextTask):
    """A stage on the way from a user's own text to a report."""

    name: str = luigi.Parameter()

    @property
    def stage(self) -> str:  # type: ignore[override]
        return self.name


class CollectLinks(StageTask):
    """Submissions from dumps, the API and lists -> links/"""

    stage = "links"


class SelectLinks(StageTask):
    """One row per page worth fetching -> selected/"""

    stage = "selected"


class FetchPages(StageTask):
    """Captures from archives and the network -> pages/"""

    stage = "pages"


class ExtractText(StageTask):
    """The text of every page -> documents/"""

    stage = "documents"


class FilterDocuments(StageTask):
    """Language, heuristics, Wikipedia, removals -> filtered/"""

    stage = "filtered"


class Deduplicate(TextTask):
    """Signatures and verdicts -> dedup/"""

    stage = "dedup"


class Decontaminate(TextTask):
    """Evaluation n-grams and reference corpora -> decontaminated/"""

    stage = "decontaminated"


class BuildTextCorpus(StageTask):
    """Train and validation shards -> corpus/"""

    stage = "corpus"


class TrainTokenizer(StageTask):
    """Byte-level BPE of the train split -> tokenizer/"""

    stage = "tokenizer"


class TokenizeCorpus(StageTask):
    """Token shards -> tokens/"""

    stage = "tokens"


class BuildOverlapFilter(TextTask):
    """The train split's n-grams in Bloom filters, where [overlap] mode = bloom -> overlap/filter/"""

    stage = "overlap/filter"


class OverlapReport(TextTask):
    """Which n-grams of evaluation sets the train split holds -> overlap/"""

    stage = "overlap"


class DedupReport(TextTask):
    """Duplicates: counts, clusters, similarities, the largest quoted -> report/dedup/"""

    stage = "report/dedup"


class CorpusReport(StageTask):
    """report/index.html, the dataset card and the manifest -> report/"""

    stage = "report"


class BuildCorpus(luigi.WrapperTask):
    """Everything, from links to reports; ends with the funnel and the paths of what it made."""

    def requires(self) -> luigi.Task:
        return STAGES["report"]()

    def complete(self) -> bool:
        done = STAGES["report"]().complete()
        if done:
            with one_line():
                self.summary()
        return done

    def summary(self) -> None:
        """Print the funnel and where things are, once."""
        current = session()
        if current.summarised:
            return
        current.summarised = True
        root = current.build.root
        rows = funnel.table(funnel.funnel(root), funnel.split_sizes(root))
        current.console.funnel(f"Funnel of {root}", rows)
        current.console.paths({what: root / path for what, path in RESULTS.items()})


class PlanCorpus(luigi.Task):
    """Print links, pages, hours, disk and memory per stage, from a 1% sample; changes nothing."""

    share: float = luigi.FloatParameter(default=0.01, description="of each source that is read")
    _printed = False

    def complete(self) -> bool:
        return self._printed

    def run(self) -> None:
        from pipelines import cli

        current = session()
        with one_line_failure("PlanCorpus"):
            cli.print_plan(plan.make_plan(current.build, share=self.share), current.build, current.console.out)
        self._printed = True


PAGES = {
    "overlap": ("overlap", "overlap/index.html"),
    "report/dedup": ("duplicates", "report/dedup/index.html"),
}
"""Stage -> (what, path) of the pages that somebody may have asked for alone."""

RESULTS = {
    "report": "report/index.html",
    "corpus": "corpus/",
    "tokenizer": "tokenizer/",
    "token shards": "tokens/",
    "overlap": "overlap/index.html",
    "duplicates": "report/dedup/index.html",
    "manifest": "report/manifest.json",
}

STAGES: dict[str, type[StageTask]] = {
    task.stage: task
    for task in (
        CollectLinks,
        SelectLinks,
        FetchPages,
        ExtractText,
        FilterDocuments,
        Deduplicate,
        Decontaminate,
        BuildTextCorpus,
        TrainTokenizer,
        TokenizeCorpus,
        BuildOverlapFilter,
        OverlapReport,
        DedupReport,
        CorpusReport,
    )
}
