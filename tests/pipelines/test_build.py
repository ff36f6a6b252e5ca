"""A whole build of a small web: what it makes, what it does again, how it is stopped and how it fails.

A few builds run as a user runs them (`luigi --module pipelines ...`, workers and all); where the work itself is under
test, builds run in forked processes (helpers.inline), which start at once.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import builds, inline, webs
from helpers.webs import Built, Web

from pipelines.build import GRAPH
from pipelines.funnel import funnel, split_sizes
from pipelines.stage import sealed_records
from pipelines.tasks import STAGES


@dataclass
class ByLuigi:
    """A build that Luigi ran, and what it printed."""

    root: Path
    settings: Path
    output: str
    log: str


@pytest.fixture(scope="module")
def by_luigi(web: Web, tmp_path_factory: pytest.TempPathFactory) -> ByLuigi:
    folder = tmp_path_factory.mktemp("luigi")
    settings = web.settings_file(folder / "settings.cfg", folder / "root")
    done = builds.run(settings)
    assert done.returncode == 0, done.stderr
    return ByLuigi(folder / "root", settings, done.stdout, done.stderr)


def copied(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.root, tmp_path / "root"))


def test_a_build_ends_with_the_funnel_and_the_paths(by_luigi: ByLuigi) -> None:
    assert "submissions read" in by_luigi.output
    assert "train documents" in by_luigi.output
    assert str(by_luigi.root / "report" / "index.html") in by_luigi.output


def test_a_pool_of_workers_and_one_process_give_the_same_bytes(by_luigi: ByLuigi, built: Built) -> None:
    assert builds.hashes(by_luigi.root) == built.hashes


def test_a_second_run_does_nothing_and_says_the_same(by_luigi: ByLuigi) -> None:
    before = builds.hashes(by_luigi.root)
    again = builds.run(by_luigi.settings)
    assert again.returncode == 0
    assert builds.work_done(again.stderr) == {}
    assert "submissions read" in again.stdout
    assert builds.hashes(by_luigi.root) == before


def test_the_funnel_reconciles_to_the_last_link(built: Built) -> None:
    steps = funnel(built.root)
    for step in steps:
        assert step.entered == sum(step.drops.values()) + step.left
    assert steps[0].entered == built.web.truth.num_links
    sizes = split_sizes(built.root)
    rows = [
        row["id"]
        for path in sorted((built.root / "corpus" / "data").glob("*.parquet"))
        for row in pq.read_table(path, columns=["id"]).to_pylist()
    ]
    assert steps[-1].left == sum(size["documents"] for size in sizes.values()) == len(set(rows)) == len(rows) > 20


def test_drops_files_hold_what_the_seals_count(built: Built) -> None:
    for stage in ("links", "selected", "pages", "documents", "filtered", "dedup"):
        records = [record for found in sealed_records(built.root / stage).values() for record in found]
        counted = sum(sum(record.drops.values()) for record in records)
        rows = sum(pq.read_metadata(path).num_rows for path in (built.root / stage).glob("drops-*.parquet"))
        assert rows == counted


@pytest.mark.parametrize(
    ("changes", "stages", "reason"),
    [
        ({"select": {"min_karma": 30}}, {"selected", "pages", "filtered", "corpus"}, "[select] min_karma: 3 -> 30"),
        ({"filter": {"languages": "en, de"}}, {"filtered", "dedup"}, "[filter] languages: ['en'] -> ['en', 'de']"),
        ({"tokenizer": {"vocab_size": 290}}, {"tokenizer", "tokens"}, "[tokenizer] vocab_size: 300 -> 290"),
        ({"overlap": {"n": 6}}, {"overlap"}, "[overlap] n: 8 -> 6"),
    ],
)
def test_one_setting_redoes_what_depends_on_it_and_says_so(
    built: Built,
    server: inline.Server,
    tmp_path: Path,
    changes: dict[str, dict[str, object]],
    stages: set[str],
    reason: str,
) -> None:
    root = copied(built, tmp_path)
    done = server.build(built.web.sections(root, **changes))
    assert done.returncode == 0, done.log
    assert reason in done.log
    work = builds.work_done(done.log)
    worked = {phase.rpartition("/")[0] for phase in work}
    assert stages <= worked
    assert not worked & {"links", "documents"}
    assert "dedup/sign" not in work


def test_a_new_dump_extracts_and_signs_nothing_old(web: Web, server: inline.Server, tmp_path: Path) -> None:
    first, *others = sorted((web.folder / "dumps").iterdir())
    root = tmp_path / "root"
    old = server.build(web.sections(root, links={"dumps": first}))
    assert old.returncode == 0, old.log
    before = {path.name: path.read_bytes() for path in (root / "documents").glob("segment-*.parquet")}
    done = server.build(web.sections(root, links={"dumps": ", ".join(map(str, [first, *others]))}))
    assert done.returncode == 0, done.log
    work = builds.work_done(done.log)
    new = len(list((root / "documents").glob("segment-*.parquet"))) - len(before)
    assert new > 0
    assert work["links/collect"] == len(others)
    assert work["documents/extract"] == work["dedup/sign"] == new
    assert all((root / "documents" / name).read_bytes() == data for name, data in before.items())


@pytest.mark.parametrize(
    ("workers", "seed"),
    [(4, 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in [(1, 0), (2, 2), (8, 0), (1, 2), (4, 0)])],
)
def test_workers_hash_seeds_and_the_order_of_input_change_no_byte(
    built: Built, tmp_path: Path, workers: int, seed: int
) -> None:
    assert webs.outputs_of_shuffled(built.web, tmp_path, workers, seed) == webs.outputs(built.hashes)


def killed_in(
    stages: list[str], web: Web, server: inline.Server, folder: Path, generator: random.Random
) -> tuple[Path, set[str]]:
    """Luigi killed once in each of `stages`, in one root, then run to the end: (root, where it died)."""
    root = folder / "root"
    settings = web.settings_file(folder / "settings.cfg", root)
    died_in: set[str] = set()
    for number, stage in enumerate(stages):
        done_before = list(GRAPH)[: list(GRAPH).index(stage)]
        if done_before:
            ended = server.build(web.sections(root), until=done_before[-1])
            assert ended.returncode == 0, ended.log
        counter = folder / f"counter-{number}"
        event = generator.randrange(1, 5)  # even a stage without units publishes its seal in four
        failpoint = {"WEBTEXT_FAILPOINT": f"*@{event}=killgroup", "WEBTEXT_FAILPOINT_COUNTER": str(counter)}
        killed = builds.run(settings, task=STAGES[stage].__name__, environment=failpoint)
        assert killed.returncode == -9, killed.stderr
        begun = [line.split() for line in (root / "logs" / "build.log").read_text().splitlines()]
        died_in.add(next(words[3].rstrip(":") for words in reversed(begun) if words[-1:] == ["begins"]))
    done = builds.run(settings)
    assert done.returncode == 0, done.stderr
    return root, died_in


def test_killed_in_three_stages_the_same_command_gives_the_same_bytes(
    built: Built, server: inline.Server, tmp_path: Path
) -> None:
    stages = ["selected", "documents", "tokens"]
    root, died_in = killed_in(stages, built.web, server, tmp_path, random.Random(3))
    assert died_in == set(stages)
    assert builds.hashes(root) == built.hashes
    assert webs.temporaries(root) == []


@pytest.mark.slow
def test_killed_twenty_times_over_every_stage_the_same_command_gives_the_same_bytes(
    built: Built, server: inline.Server, tmp_path: Path
) -> None:
    generator = random.Random(20)
    stages = sorted([*GRAPH, *generator.choices(list(GRAPH)[:8], k=20 - len(GRAPH))], key=list(GRAPH).index)
    root, died_in = killed_in(stages, built.web, server, tmp_path, generator)
    assert died_in == set(GRAPH)
    assert builds.hashes(root) == built.hashes
    assert webs.temporaries(root) == []


def test_bad_settings_are_one_clear_line_and_a_non_zero_exit(web: Web, tmp_path: Path) -> None:
    settings = web.settings_file(tmp_path / "settings.cfg", tmp_path / "root", select={"min_carma": 3})
    done = builds.run(settings)
    assert done.returncode != 0
    assert "unknown key 'min_carma' in section [select]; did you mean 'min_karma'?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "root").exists()


def test_more_than_one_luigi_worker_is_refused_in_one_line(web: Web, tmp_path: Path) -> None:
    done = builds.run(web.settings_file(tmp_path / "settings.cfg", tmp_path / "root", core={"workers": 4}))
    assert done.returncode != 0
    assert "[core] workers: expected 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dump_that_is_cut_is_said_with_its_offset_and_nothing_is_lost(
    built: Built, server: inline.Server, tmp_path: Path
) -> None:
    root = copied(built, tmp_path)
    dumps = sorted((built.web.folder / "dumps").iterdir())
    cut = tmp_path / "cut.zst"
    cut.write_bytes(dumps[0].read_bytes()[:-100])
    changes: dict[str, dict[str, Any]] = {"links": {"dumps": ", ".join(map(str, [*dumps[1:], cut]))}}
    done = server.build(built.web.sections(root, **changes))
    assert done.returncode == 1
    assert "expected a complete dump, got one that ends at byte" in done.log
    assert "Traceback" not in done.log
    kept = builds.hashes(root)
    assert {name: digest for name, digest in built.hashes.items() if not name.startswith("links/")} == {
        name: digest for name, digest in kept.items() if not name.startswith("links/")
    }
    changes["links"]["allow_truncated"] = "true"
    good = server.build(built.web.sections(root, **changes))
    assert good.returncode == 0, good.log


def test_a_second_build_in_the_same_root_refuses(built: Built, tmp_path: Path) -> None:
    root = copied(built, tmp_path)
    held = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        done = builds.run(built.web.settings_file(tmp_path / "settings.cfg", root, tokenizer={"vocab_size": 290}))
    finally:
        os.close(held)
    assert done.returncode != 0
    assert "is being built by" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_that_a_build_does_needs_the_interpreters_own_order_of_sets(built: Built, tmp_path: Path) -> None:
    """Another hash seed, in a process of its own, without workers."""
    sections = {
        name: {key: str(value) for key, value in section.items()}
        for name, section in built.web.sections(tmp_path / "root").items()
    }
    script = f"""
import sys
sys.path[:0] = [{str(builds.REPOSITORY)!r}, {str(builds.REPOSITORY / "tests")!r}]
from helpers import inline
inline.build({sections!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert builds.hashes(tmp_path / "root") == built.hashes
