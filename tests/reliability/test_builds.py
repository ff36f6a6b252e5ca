"""Faults 1 to 3, 9, 10 and 12: a build is killed, its disk fails, its workers, order and settings change."""

from __future__ import annotations

import ast
import itertools
import random
import shutil
import time
from pathlib import Path

import pytest
from helpers import builds, inline, webs
from helpers.webs import Built

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
    faults.add(1, f"kill -9 at every {'event' if event == '*' else event}", kills, kills if same else 0)
    links = built.web.truth.num_links
    faults.add(9, f"links accounted for after kills at every {event}", links, links * reconciles(root))


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
IN_CI = {("write", "enospc"), ("journal", "eio")}


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
        shuffled = folder / "sources"
        shuffled.mkdir(parents=True)
        paths = sorted((built.web.folder / "dumps").iterdir())
        random.Random(seed).shuffle(paths)
        for number, path in enumerate(paths):
            shutil.copy(path, shuffled / f"{number}-{path.name}")
        changes = {"engine": {"workers": workers}, "links": {"dumps": f"{shuffled}/*"}}
        settings = built.web.settings_file(folder / "settings.cfg", folder / "root", **changes)
        done = builds.run(settings, environment={"PYTHONHASHSEED": str(seed)})
        assert done.returncode == 0, done.stderr
        downstream = ("documents/", "dedup/", "corpus/", "tokenizer/", "tokens/", "overlap/")
        ours, theirs = (
            {name: digest for name, digest in hashes.items() if name.startswith(downstream)}
            for hashes in (builds.hashes(folder / "root"), built.hashes)
        )
        equal += ours == theirs
        shutil.rmtree(folder / "root")
    faults.add(3, "workers x hash seeds x order of arrival", len(runs), equal)


CHANGES: list[tuple[str, str, object, str]] = [  # section, key, value, first stage that works
    ("tokenizer", "vocab_size", 280, "tokenizer"),
    ("filter", "languages", "en, de", "filtered"),
    ("select", "min_karma", 10, "selected"),
    ("overlap", "n", 5, "overlap"),
    ("dedup", "threshold", 0.9, "dedup"),
]


def test_10_one_setting_or_input_changed_redoes_only_what_follows(
    built: Built, server: inline.Server, tmp_path: Path, faults
) -> None:
    right = 0
    for number, (section, key, value, first) in enumerate(CHANGES):
        root = Path(shutil.copytree(built.root, tmp_path / f"root-{number}"))
        done = server.build(built.web.sections(root, **{section: {key: value}}))
        assert done.returncode == 0, done.log
        worked = {phase.rpartition("/")[0] for phase in builds.work_done(done.log)}
        right += first in worked and worked <= _downstream(first)
        shutil.rmtree(root)
    faults.add(10, "one setting changed: only what follows from it is made again", len(CHANGES), right)


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
