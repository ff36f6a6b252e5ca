"""A whole build of the miniature web, as a user runs it: what it makes, what it does again, and how it fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import builds

from pipelines.funnel import funnel, split_sizes
from pipelines.stage import sealed_records


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished build; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("built")
    done = builds.run(builds.write_settings(folder / "settings.cfg", folder / "root"))
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)
    (folder / "log.txt").write_text(done.stderr)
    return folder / "root"


def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "root"))


def test_a_build_ends_with_the_funnel_and_the_paths(built: Path) -> None:
    output = (built.parent / "output.txt").read_text()
    assert "submissions read" in output
    assert "train documents" in output
    assert str(built / "report" / "index.html") in output


def test_the_funnel_reconciles_to_the_last_link(built: Path) -> None:
    steps = funnel(built)
    for step in steps:
        assert step.entered == sum(step.drops.values()) + step.left
    sizes = split_sizes(built)
    assert steps[-1].left == sum(size["documents"] for size in sizes.values()) > 100
    rows = [
        json.loads(line)
        for split in ("train", "validation")
        for path in sorted((built / "corpus" / "data").glob(f"{split}-*.parquet"))
        for line in map(json.dumps, pq.read_table(path, columns=["id", "url"]).to_pylist())
    ]
    assert len({row["id"] for row in rows}) == len(rows) == steps[-1].left


def test_drops_files_hold_what_the_seals_count(built: Path) -> None:
    for stage in ("links", "selected", "pages", "documents", "filtered", "dedup"):
        counted = sum(
            sum(record.drops.values()) for found in sealed_records(built / stage).values() for record in found
        )
        rows = sum(pq.read_metadata(path).num_rows for path in (built / stage).glob("drops-*.parquet"))
        assert rows == counted


def test_a_second_run_does_nothing_and_says_the_same(built: Path) -> None:
    before = builds.hashes(built)
    started = time.monotonic()
    again = builds.run(built.parent / "settings.cfg")
    seconds = time.monotonic() - started
    assert again.returncode == 0
    assert builds.work_done(again.stderr) == {}
    assert "submissions read" in again.stdout
    assert builds.hashes(built) == before
    assert seconds < 30  # a loose bound against hanging; benchmarks/ has the target


@pytest.mark.parametrize(
    ("changes", "stages", "reason"),
    [
        (
            {"select": {"min_karma": 30}},
            {"selected", "pages", "filtered", "dedup", "corpus"},
            "[select] min_karma: 3 -> 30",
        ),
        (
            {"filter": {"languages": "en, de"}},
            {"filtered", "dedup", "corpus"},
            "[filter] languages: ['en'] -> ['en', 'de']",
        ),
        ({"tokenizer": {"vocab_size": 500}}, {"tokenizer", "tokens"}, "[tokenizer] vocab_size: 600 -> 500"),
        ({"overlap": {"n": 6}}, {"overlap"}, "[overlap] n: 8 -> 6"),
    ],
)
def test_one_setting_redoes_what_depends_on_it_and_says_so(
    built: Path, tmp_path: Path, changes: dict[str, dict[str, object]], stages: set[str], reason: str
) -> None:
    root = copied(built, tmp_path)
    done = builds.run(builds.write_settings(tmp_path / "settings.cfg", root, **changes))
    assert done.returncode == 0, done.stderr
    assert reason in done.stderr
    worked = {phase.rpartition("/")[0] for phase in builds.work_done(done.stderr)}
    assert stages <= worked
    assert not worked & {"links", "documents"}
    assert "dedup/sign" not in builds.work_done(done.stderr)


def test_a_new_dump_extracts_and_signs_nothing_old(built: Path, tmp_path: Path) -> None:
    first, second = sorted(builds.MINIWEB.glob("submissions-*"))
    root = tmp_path / "root"
    old = builds.run(builds.write_settings(tmp_path / "settings.cfg", root, links={"dumps": first, "url_lists": ""}))
    assert old.returncode == 0, old.stderr
    before = {path.name: path.read_bytes() for path in (root / "documents").glob("segment-*.parquet")}
    both = {"dumps": f"{first}, {second}", "url_lists": ""}
    done = builds.run(builds.write_settings(tmp_path / "settings.cfg", root, links=both))
    assert done.returncode == 0, done.stderr
    work = builds.work_done(done.stderr)
    new = len(list((root / "documents").glob("segment-*.parquet"))) - len(before)
    assert new > 0
    assert work["links/collect"] == 1
    assert work["documents/extract"] == work["dedup/sign"] == new
    assert all((root / "documents" / name).read_bytes() == data for name, data in before.items())


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_the_order_of_input_change_no_byte(built: Path, tmp_path: Path, workers: int) -> None:
    shuffled = tmp_path / "sources"
    shuffled.mkdir()
    names = ["z", "a"] if workers == 1 else ["a", "z"]
    for name, path in zip(names, sorted(builds.MINIWEB.glob("submissions-*")), strict=True):
        shutil.copy(path, shuffled / f"{name}-{path.name}")
    changes = {"engine": {"workers": workers}, "links": {"dumps": f"{shuffled}/*"}}
    done = builds.run(builds.write_settings(tmp_path / "settings.cfg", tmp_path / "root", **changes))
    assert done.returncode == 0, done.stderr
    downstream = ("documents/", "dedup/", "corpus/", "tokenizer/", "tokens/", "overlap/")

    def outputs(root: Path) -> dict[str, str]:
        return {name: digest for name, digest in builds.hashes(root).items() if name.startswith(downstream)}

    assert outputs(tmp_path / "root") == outputs(built)


@pytest.mark.parametrize("event", [15, 60, 110])
def test_killed_anywhere_the_same_command_gives_the_same_bytes(built: Path, tmp_path: Path, event: int) -> None:
    settings = builds.write_settings(tmp_path / "settings.cfg", tmp_path / "root")
    failpoint = {"WEBTEXT_FAILPOINT": f"*@{event}=killgroup", "WEBTEXT_FAILPOINT_COUNTER": str(tmp_path / "counter")}
    killed = builds.run(settings, environment=failpoint)
    assert killed.returncode == -9
    again = builds.run(settings)
    assert again.returncode == 0, again.stderr
    assert builds.hashes(tmp_path / "root") == builds.hashes(built)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_the_same_command_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    generator = random.Random(20)
    stopped_in: set[str] = set()
    for number in range(20):
        root = tmp_path / f"root-{number}"
        settings = builds.write_settings(tmp_path / f"settings-{number}.cfg", root)
        event = 1 + number * 10 + generator.randrange(10)
        counter = tmp_path / f"counter-{number}"
        failpoint = {"WEBTEXT_FAILPOINT": f"*@{event}=killgroup", "WEBTEXT_FAILPOINT_COUNTER": str(counter)}
        assert builds.run(settings, environment=failpoint).returncode == -9
        stopped_in |= {line.split()[3].split("/")[0].rstrip(":") for line in _log(root)[-1:]}
        again = builds.run(settings)
        assert again.returncode == 0, again.stderr
        assert builds.hashes(root) == builds.hashes(built)
        shutil.rmtree(root)
    assert len(stopped_in) >= 8


def _log(root: Path) -> list[str]:
    path = root / "logs" / "build.log"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"select": {"min_carma": 3}}, "unknown key 'min_carma' in section [select]; did you mean 'min_karma'?"),
        ({"selekt": {"min_karma": 3}}, "unknown section [selekt]; did you mean 'select'?"),
        ({"select": {"min_karma": "three"}}, "[select] min_karma: expected a whole number, got 'three'"),
        ({"links": {"dumps": "nowhere/*.zst"}}, "[links] dumps: expected files at 'nowhere/*.zst', found none"),
        ({"core": {"workers": 4}}, "[core] workers: expected 1"),
    ],
)
def test_bad_settings_are_one_clear_line_and_a_non_zero_exit(
    tmp_path: Path, changes: dict[str, dict[str, object]], line: str
) -> None:
    done = builds.run(builds.write_settings(tmp_path / "settings.cfg", tmp_path / "root", **changes))
    assert done.returncode != 0
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_dump_that_is_cut_is_said_with_its_offset_and_nothing_is_lost(built: Path, tmp_path: Path) -> None:
    root = copied(built, tmp_path)
    before = builds.hashes(root)
    dumps = sorted(builds.MINIWEB.glob("submissions-*"))
    cut = tmp_path / "cut.zst"
    cut.write_bytes(dumps[-1].read_bytes()[:-100])
    changes = {"links": {"dumps": f"{dumps[0]}, {cut}"}}
    done = builds.run(builds.write_settings(tmp_path / "settings.cfg", root, **changes))
    assert done.returncode != 0
    assert "expected a complete dump, got one that ends at byte" in done.stderr
    assert "Traceback" not in done.stderr
    kept = builds.hashes(root)
    assert {name: digest for name, digest in before.items() if not name.startswith("links/")} == {
        name: digest for name, digest in kept.items() if not name.startswith("links/")
    }
    changes["links"]["allow_truncated"] = "true"
    good = builds.run(builds.write_settings(tmp_path / "settings.cfg", root, **changes))
    assert good.returncode == 0, good.stderr


def test_a_second_build_in_the_same_root_refuses(built: Path, tmp_path: Path) -> None:
    import fcntl

    root = copied(built, tmp_path)
    held = os.open(root / ".lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        settings = builds.write_settings(tmp_path / "settings.cfg", root, tokenizer={"vocab_size": 500})
        done = builds.run(settings)
    finally:
        os.close(held)
    assert done.returncode != 0
    assert "is being built by" in done.stderr
    assert "Traceback" not in done.stderr
