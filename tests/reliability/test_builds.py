"""Faults 1 to 3, 9, 10 and 12: a build is killed, its disk fails, its workers, order and settings change."""

from __future__ import annotations

import ast
import itertools
import json
import random
import shutil
import time
from pathlib import Path

import pytest
import zstandard
from helpers import builds, inline, webs
from helpers.webs import Built

from benchmarks import miniweb
from pipelines.build import GRAPH
from pipelines.funnel import funnel

quick, slow = pytest.mark.quick, pytest.mark.slow


def failpoint(where: str, counter: Path) -> dict[str, str]:
    return {"WEBTEXT_FAILPOINT": where, "WEBTEXT_FAILPOINT_COUNTER": str(counter)}


def reconciles(root: Path) -> bool:
    return all(step.entered == sum(step.drops.values()) + step.left for step in funnel(root))


@pytest.mark.parametrize("event", [pytest.param("rename", marks=quick), pytest.param("*", marks=slow)])
def test_1_killed_at_every_event_the_same_command_gives_the_same_bytes(
    built: Built, server: inline.Server, tmp_path: Path, faults, event: str
) -> None:
    root, counter = tmp_path / "root", tmp_path / "counter"
    kills, stages = 0, set()
    while True:
        ended = server.build(built.web.sections(root), environment=failpoint(f"{event}@each=killgroup", counter))
        if ended.returncode != -9:
            break
        kills += 1
        stages.add(ended.last_stage)
        assert webs.false_seals(root) == []
    assert ended.returncode == 0, ended.log
    same = builds.hashes(root) == built.hashes and not webs.temporaries(root)
    assert stages == set(GRAPH)
    events = f"every {'event' if event == '*' else event}"
    faults.add(1, f"kill -9 at {events}", kills, kills if same else 0)
    links = built.web.truth.num_links
    faults.add(9, f"links accounted for after kills at {events}", links, links * reconciles(root))


@pytest.mark.parametrize(("roots", "each"), [pytest.param(1, 8, marks=quick), pytest.param(10, 20, marks=slow)])
def test_1_killed_at_random_moments_the_same_command_gives_the_same_bytes(
    built: Built, server: inline.Server, tmp_path: Path, faults, roots: int, each: int
) -> None:
    generator = random.Random(roots)
    kills = survived = number = 0
    seconds = 3.0
    while kills < roots * each:
        root = tmp_path / f"root-{number}"
        number += 1
        here, wanted = 0, min(each, roots * each - kills)
        started = time.monotonic()
        while True:
            patience = generator.uniform(0.02, seconds) if here < wanted else None
            ended = server.build(built.web.sections(root), kill_after=patience)
            if ended.returncode != -9:
                break
            here += 1
        assert ended.returncode == 0, ended.log
        seconds = min(10.0, max(1.0, (time.monotonic() - started) / max(1, here)))
        kills += here
        survived += here if builds.hashes(root) == built.hashes and not webs.temporaries(root) else 0
        shutil.rmtree(root)
    faults.add(1, "kill -9 at random moments", kills, survived)


EVENTS = ("write", "journal", "fsync", "rename", "renamed")  # the last: the directory's fsync
IN_CI = {("write", "enospc")}


@pytest.mark.parametrize(
    ("event", "action"),
    [pytest.param(*one, marks=() if one in IN_CI else slow) for one in itertools.product(EVENTS, ("enospc", "eio"))],
)
def test_2_a_disk_that_fails_leaves_no_stage_falsely_complete(
    built: Built, server: inline.Server, tmp_path: Path, faults, event: str, action: str
) -> None:
    root, counter = tmp_path / "root", tmp_path / "counter"
    failures = honest = 0
    while True:
        ended = server.build(built.web.sections(root), environment=failpoint(f"{event}@each={action}", counter))
        if ended.returncode == 0:
            break
        failures += 1
        clear = "Traceback" not in ended.log and ("No space left" in ended.log or "Input/output error" in ended.log)
        honest += clear and webs.false_seals(root) == []
    same = builds.hashes(root) == built.hashes and not webs.temporaries(root)
    faults.add(2, f"{action.upper()} at every {event}", failures, honest if same else 0)
    links = built.web.truth.num_links
    faults.add(9, f"links accounted for after {action.upper()} at every {event}", links, links * reconciles(root))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((2_000, 20_000), marks=quick),
        pytest.param((0, 100, 1_000, 3_000, 8_000, 30_000, 60_000), marks=slow),
    ],
)
def test_2_a_file_that_cannot_grow_leaves_no_stage_falsely_complete(
    built: Built, server: inline.Server, tmp_path: Path, faults, sizes: tuple[int, ...]
) -> None:
    """The kernel itself refuses the write, in the middle of a file."""
    root = tmp_path / "root"
    failures = honest = 0
    for size in sizes:
        ended = server.build(built.web.sections(root), max_file_bytes=size)
        if ended.returncode != 0:
            failures += 1
            honest += webs.false_seals(root) == []
    ended = server.build(built.web.sections(root))
    assert ended.returncode == 0, ended.log
    same = builds.hashes(root) == built.hashes and not webs.temporaries(root)
    faults.add(2, "a write refused within a file", failures, honest if same else 0)


@pytest.mark.parametrize(
    "runs",
    [pytest.param([(4, 1)], marks=quick), pytest.param(list(itertools.product((1, 2, 4, 8), (0, 1, 2))), marks=slow)],
)
def test_3_workers_hash_seeds_and_arrival_give_one_hash(
    built: Built, tmp_path: Path, faults, runs: list[tuple[int, int]]
) -> None:
    equal = 0
    for workers, seed in runs:
        folder = tmp_path / f"{workers}-{seed}"
        equal += webs.outputs_of_shuffled(built.web, folder, workers, seed) == webs.outputs(built.hashes)
        shutil.rmtree(folder / "root")
    faults.add(3, "workers x hash seeds x order of arrival", len(runs), equal)


CHANGES: list[tuple[str, str, object, str]] = [  # section, key, value, first stage that works
    ("tokenizer", "vocab_size", 280, "tokenizer"),
    ("filter", "languages", "en, de", "filtered"),
    ("select", "min_karma", 10, "selected"),
    ("overlap", "n", 5, "overlap"),
    ("dedup", "threshold", 0.9, "dedup"),
]


@pytest.mark.parametrize("changes", [pytest.param(CHANGES[:2], marks=quick), pytest.param(CHANGES, marks=slow)])
def test_10_one_setting_changed_redoes_only_what_follows(
    built: Built, server: inline.Server, tmp_path: Path, faults, changes: list[tuple[str, str, object, str]]
) -> None:
    right = 0
    for section, key, value, first in changes:
        redone = rebuild(built.root, tmp_path, server, built.web.sections(tmp_path / "root", **{section: {key: value}}))
        stages = {phase.rpartition("/")[0] for phase in redone}
        right += first in stages and stages <= _downstream(first)
    faults.add(10, "one setting changed: only what follows from it is made again", len(changes), right)


@pytest.mark.parametrize(
    "stages",
    [pytest.param(("filtered",), marks=quick), pytest.param(tuple(GRAPH), marks=slow)],
)
def test_10_one_stages_code_changed_redoes_that_stage_and_stops_where_bytes_are_equal(
    built: Built, server: inline.Server, tmp_path: Path, faults, stages: tuple[str, ...]
) -> None:
    """Its units, all of them; and the reports, which say what the corpus was made by."""
    right = 0
    for stage in stages:
        redone = rebuild(built.root, tmp_path, server, built.web.sections(tmp_path / "root"), versions={stage: 99})
        units = units_of(built.root, stage)
        reports = {"report/report": {"report"}, "report/manifest": {"manifest"}}
        expected = units | reports if units else {}  # a stage that is off has none
        assert redone == expected, stage
        right += redone == expected
    faults.add(10, "one stage's code changed: exactly its units, and the reports", len(stages), right)


def rebuild(
    root: Path, folder: Path, server: inline.Server, sections: webs.Sections, versions: dict[str, int] | None = None
) -> dict[str, set[str]]:
    """What is made again, phase -> units, when a copy of a finished build goes on under these settings."""
    copy = shutil.copytree(root, folder / "root")
    before = webs.units(copy)
    done = server.build(sections, versions=versions)
    assert done.returncode == 0, done.log
    found = webs.by_phase(webs.made_again(before, webs.units(copy)))
    again = server.build(sections, versions=versions)
    assert not builds.work_done(again.log)
    shutil.rmtree(copy)
    return found


def units_of(root: Path, stage: str) -> dict[str, set[str]]:
    found = webs.by_phase(webs.units(root))
    return {phase: units for phase, units in found.items() if phase.rpartition("/")[0] == stage}


@pytest.fixture(scope="module")
def growing(server: inline.Server, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A build of three months and three archives, of a web that has four of each."""
    folder = tmp_path_factory.mktemp("growing")
    truth = miniweb.generate(folder / "all", num_links=300, num_pages=60, num_dumps=4, pages_per_archive=15)
    web = webs.Web(folder / "all", truth, sources(folder / "all", folder / "three", 3, 3))
    ended = server.build(web.sections(folder / "root"))
    assert ended.returncode == 0, ended.log
    return Built(web, folder / "root", builds.hashes(folder / "root"), ended.log)


def sources(web: Path, folder: Path, dumps: int, archives: int) -> webs.Sections:
    """Settings that name the first dumps and archives of a web, copied to `folder`."""
    for kind, count in (("dumps", dumps), ("archives", archives)):
        (folder / kind).mkdir(parents=True)
        for path in sorted((web / kind).iterdir())[:count]:
            shutil.copy(path, folder / kind)
    return {"links": {"dumps": f"{folder}/dumps/*"}, "fetch": {"archives": f"{folder}/archives/*.warc.gz"}}


def another_link(folder: Path) -> None:
    """The first month, with one more submission: of a page that no archive has."""
    path = folder / "dumps" / "RS_000.zst"
    with path.open("rb") as stream:
        lines = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True).read()
    one = {"id": "zzzz", "url": "http://nowhere.example/a", "score": 9, "created_utc": 1_400_000_000, "is_self": False}
    path.write_bytes(zstandard.ZstdCompressor().compress(lines + json.dumps(one).encode() + b"\n"))


@pytest.mark.parametrize(
    "changed",
    ["month added", pytest.param("month changed", marks=slow), pytest.param("archive added", marks=slow)],
)
def test_10_one_input_changed_redoes_exactly_what_reads_it(
    growing: Built, server: inline.Server, tmp_path: Path, faults, changed: str
) -> None:
    web, folder = growing.web, tmp_path / "sources"
    new = sources(web.folder, folder, 3 + (changed == "month added"), 3 + (changed == "archive added"))
    if changed == "month changed":
        another_link(folder)
    root = shutil.copytree(growing.root, tmp_path / "root")
    before = webs.units(root)
    old_pages = {path: path.stat().st_ctime_ns for path in root.glob("pages/*-0*")}
    done = server.build(web.sections(root, **new))
    assert done.returncode == 0, done.log
    redone = webs.by_phase(webs.made_again(before, webs.units(root)))
    month = {"month added": "RS_003", "month changed": "RS_000"}.get(changed)
    expected = {
        "links/collect": {month} if month else set(),
        "selected/key": {month} if month else set(),
        "pages/outcomes": {"outcomes"},
        "documents/extract": {"segment-000002"},  # planned now; the build had two
        "filtered/judge": {"segment-000002"},
        "dedup/sign": {"segment-000002"},
    }
    found = {phase: redone.get(phase, set()) for phase in expected}
    for phase in ("links/collect", "selected/key"):  # their names end in a digest of the dump
        found[phase] = {unit.partition("-")[0] for unit in found[phase]}
    assert found == expected
    assert all(path.stat().st_ctime_ns == moment for path, moment in old_pages.items())
    if changed == "month changed":  # no page came of it: the corpus has the same bytes, and what follows is not redone
        assert not {phase for phase in redone if phase.startswith(("tokenizer", "tokens", "overlap"))}
    fresh = tmp_path / "fresh"
    assert server.build(web.sections(fresh, **new)).returncode == 0
    ours, theirs = (webs.products(builds.hashes(one)) for one in (root, fresh))
    assert ours == theirs
    faults.add(10, f"one {changed}: exactly the units that read it; the corpus of a build from nothing", 1, 1)


def _downstream(stage: str) -> set[str]:
    found = {stage}
    for name, needs in GRAPH.items():
        if found & set(needs):
            found.add(name)
    return found | {"report"}


def test_12_no_pickle_is_ever_loaded(faults) -> None:
    """Neither pickle nor what would load one: not by import, not by an option."""
    files = [
        path for room in ("webtext", "dedup", "model", "pipelines") for path in (builds.REPOSITORY / room).rglob("*.py")
    ]
    clean = 0
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bad = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                bad += [one.name for one in node.names if one.name.split(".")[0] in PICKLERS]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
                bad.append(str(node.module))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                given = {one.arg: ast.unparse(one.value) for one in node.keywords}
                if given.get("weights_only") != "True" and given.get("allow_pickle") != "False":
                    bad.append(ast.unparse(node))
        clean += not bad
        assert not bad, f"{path}: {bad}"
    faults.add(12, "source files that load no pickle", len(files), clean)


PICKLERS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
