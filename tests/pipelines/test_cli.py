"""The commands: what each says of a finished build of the small web."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import inline
from helpers.webs import Built
from rich.console import Console

from pipelines import cli, plan
from pipelines.build import GRAPH, Build


def answer(built: Built, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `webtext ARGUMENTS`."""
    parsed = cli.parser().parse_args(arguments)
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    build = Build(inline.settings_of(built.web.sections(built.root)))
    return parsed.command(build, parsed, console), out.getvalue()


def corpus(built: Built) -> list[dict[str, object]]:
    paths = sorted((built.root / "corpus" / "data").glob("train-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_status_says_that_each_stage_is_complete(built: Built) -> None:
    status, text = answer(built, "status")
    assert status == 0
    lines = {line.split()[0]: line for line in text.splitlines()[1:] if line.strip()}
    assert set(lines) == set(GRAPH)
    assert all("complete" in line for line in lines.values())


def test_funnel_begins_with_every_submission_and_ends_with_every_document(built: Built) -> None:
    status, text = answer(built, "funnel")
    assert status == 0
    assert f"{built.web.truth.num_links} " in text.splitlines()[0]
    assert "train documents" in text


def test_why_tells_the_life_of_a_document_by_url_and_by_id(built: Built) -> None:
    row = corpus(built)[0]
    for what in (str(row["url"]), str(row["id"])):
        status, text = answer(built, "why", what)
        assert status == 0
        for part in ("post", "selected", "capture", "duplicates", "corpus", "tokens", str(row["id"])):
            assert part in text
    assert answer(built, "why", "https://nobody.example/never-posted")[0] == 1


def test_why_names_the_reason_of_what_was_dropped(built: Built) -> None:
    drops = [
        row for path in (built.root / "filtered").glob("drops-*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    status, text = answer(built, "why", drops[0]["id"])
    assert status == 0
    assert f"filtered: {drops[0]['reason']}" in text


def test_sample_shows_documents_and_the_same_ones_for_the_same_seed(built: Built) -> None:
    one, two, other = (answer(built, "sample", "-n", "2", "--seed", seed)[1] for seed in ("1", "1", "2"))
    assert one == two != other
    assert sum(str(row["id"]) in one for row in corpus(built)) == 2


def test_trace_leads_from_a_token_to_its_document(built: Built) -> None:
    status, text = answer(built, "trace", "100")
    assert status == 0
    found = [row for row in corpus(built) if str(row["id"]) in text]
    assert len(found) == 1
    assert str(found[0]["post_id"]) in text


@pytest.mark.parametrize("layout", ["nanogpt", "datatrove", "megatron"])
def test_export_writes_files_for_other_trainers(built: Built, tmp_path: Path, layout: str) -> None:
    status, text = answer(built, "export", layout, str(tmp_path / "out"))
    assert status == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_size > 0 and path.name in text.replace("\n", "") for path in files)


def test_remove_dry_run_says_what_would_go_and_changes_nothing(built: Built) -> None:
    row = corpus(built)[0]
    status, text = answer(built, "remove", "--dry-run", str(row["url"]))
    assert status == 0
    assert "1 texts would go" in text
    assert "are yours and were not changed" in text
    assert not (built.root / "removals.txt").exists()


def test_plan_of_a_web_that_is_read_whole_is_within_a_quarter_of_what_was_built(built: Built) -> None:
    build = Build(inline.settings_of(built.web.sections(built.root)))
    made = plan.make_plan(build, share=1.0)
    links = sum(record.counts["links"] for record in build.upstream("selected", "merge"))
    outcomes = build.upstream("pages", "outcomes")[0].counts["outcomes"]
    documents = sum(record.counts["documents"] for record in build.upstream("documents", "extract"))
    for stage, actual in (("selected", links), ("pages", outcomes["ok"]), ("documents", documents)):
        assert made.count(stage) == pytest.approx(actual, rel=0.25), stage
