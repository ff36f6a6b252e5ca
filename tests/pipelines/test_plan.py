"""webtext plan: what a sample says of a build is what the build then is."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import inline, webs

from benchmarks import miniweb
from pipelines import plan
from pipelines.build import Build


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web large enough that its bytes, and not what every file has beside them, decide."""
    folder = tmp_path_factory.mktemp("larger")
    miniweb.generate(folder, num_links=6_000, num_pages=400)
    return folder


def disk(root: Path, stage: str) -> int:
    return sum(path.stat().st_size for path in (root / stage).rglob("*") if path.is_file())


def test_counts_and_disk_of_a_web_that_is_read_whole_are_within_a_quarter_of_what_was_built(
    larger: Path, server: inline.Server, tmp_path: Path
) -> None:
    web = webs.Web(larger, miniweb.Truth())
    sections = web.sections(tmp_path / "root", extract={"extractor": "resiliparse"}, fetch={"segment_links": 1_000})
    made = plan.make_plan(Build(inline.settings_of(sections)), share=1.0)
    done = server.build(sections)
    assert done.returncode == 0, done.log
    build = Build(inline.settings_of(sections))
    links = sum(record.counts["links"] for record in build.upstream("selected", "merge"))
    outcomes = build.upstream("pages", "outcomes")[0].counts["outcomes"]
    documents = sum(record.counts["documents"] for record in build.upstream("documents", "extract"))
    for stage, actual in (("selected", links), ("pages", outcomes["ok"]), ("documents", documents)):
        assert made.count(stage) == pytest.approx(actual, rel=0.25), stage
    found = {stage.stage: (stage.disk_bytes, disk(build.root, stage.stage)) for stage in made.stages}
    planned, there = (sum(sizes) for sizes in zip(*found.values(), strict=True))
    assert planned == pytest.approx(there, rel=0.25), found


def test_the_most_on_the_disk_is_while_something_is_shuffled() -> None:
    def stage(stays: float, meanwhile: float) -> plan.StagePlan:
        return plan.StagePlan("stage", "rows", 1, 1, stays, 1, meanwhile)

    assert plan.Plan([stage(5, 0), stage(3, 9), stage(4, 0)]).disk_bytes == 17
    assert plan.Plan([stage(5, 0), stage(3, 2), stage(4, 0)]).disk_bytes == 12


def test_growth_from_half_a_sample_to_all_of_it_is_a_power() -> None:
    assert plan._exponent(50, 100) == 1.0
    assert plan._exponent(100, 100) == 0.0
    assert plan._exponent(0, 3) == 1.0  # nothing to go by: in proportion
    assert 10_000 * 4 ** plan._exponent(7_071, 10_000) == pytest.approx(20_000, rel=0.01)
