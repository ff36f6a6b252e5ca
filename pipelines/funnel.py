"""From the first submission to the last document: every link's one outcome, counted from the drops in the seals.

Up to selected/ what is counted are submissions, after it canonical URLs. Both halves must add up to the last one; where
they do not, something was lost or counted twice, and the build says so instead of printing a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.stage import Record, StageError, sealed_records


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the funnel: how many came in, how many of them left here and why, how many went on."""

    stage: str
    unit: str  # "submissions" or "links"
    entered: int
    drops: Mapping[str, int]  # reason -> number, largest first
    left: int


def added(records: Iterable[Record]) -> dict[str, int]:
    """The drops of units together, largest first."""
    total: dict[str, int] = {}
    for record in records:
        for reason, number in record.drops.items():
            total[reason] = total.get(reason, 0) + number
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def funnel(root: Path) -> list[Step]:
    """The steps of the build in `root`, from its seals. StageError where a step does not add up."""
    links = sealed_records(root / "links").get("collect", [])
    selected = sealed_records(root / "selected")
    corpus = sealed_records(root / "corpus").get("shard", [])
    keyed, merged = selected.get("key", []), selected.get("merge", [])
    steps = [
        _step("links", "submissions", _sum(links, "lines"), added(links), _sum(links, "links")),
        _step("selected (URL and post)", "submissions", _sum(links, "links"), added(keyed), _sum(keyed, "links")),
        _step("selected (page)", "submissions", _sum(merged, "submissions"), added(merged), _sum(merged, "links")),
    ]
    outcomes: dict[str, int] = {}
    for record in corpus:
        for reason, number in record.counts["outcomes"].items():
            outcomes[reason] = outcomes.get(reason, 0) + number
    entered = _sum(merged, "links")
    for stage in ("pages", "documents", "filtered", "dedup", "decontaminated"):
        drops = {reason.partition("/")[2]: n for reason, n in outcomes.items() if reason.startswith(f"{stage}/")}
        drops = dict(sorted(drops.items(), key=lambda item: (-item[1], item[0])))
        left = entered - sum(drops.values())
        steps.append(Step(stage, "links", entered, drops, left))
        entered = left
    kept = sum(number for reason, number in outcomes.items() if reason.startswith("corpus/"))
    if entered != kept or _sum(keyed, "links") != _sum(merged, "submissions"):
        raise StageError(
            f"the funnel of {root} does not add up: {entered:,} links are left and {kept:,} are in the corpus; "
            "this is a bug, please report it with the seals"
        )
    return steps


def _sum(records: Iterable[Record], key: str) -> int:
    return sum(int(record.counts[key]) for record in records)


def _step(stage: str, unit: str, entered: int, drops: Mapping[str, int], left: int) -> Step:
    if entered != sum(drops.values()) + left:
        raise StageError(
            f"the funnel does not add up at {stage}: {entered:,} {unit} came, {sum(drops.values()):,} were dropped and "
            f"{left:,} went on; this is a bug, please report it with the seals"
        )
    return Step(stage, unit, entered, drops, left)


def table(steps: list[Step], splits: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Rows (what, how many, remark) for the console."""
    rows: list[tuple[str, int, str]] = []
    unit = ""
    for step in steps:
        if step.unit != unit:
            unit = step.unit
            rows.append(("submissions read" if unit == "submissions" else "links selected", step.entered, ""))
        rows += [(f"  - {reason}", number, step.stage) for reason, number in step.drops.items()]
    rows += [
        (f"{split} documents", facts["documents"], f"{facts['bytes'] / 1e6:,.1f} MB of text")
        for split, facts in splits.items()
    ]
    return rows


def split_sizes(root: Path) -> dict[str, dict[str, int]]:
    """Documents and bytes of each split of a sealed corpus."""
    sizes: dict[str, dict[str, int]] = {}
    for record in sealed_records(root / "corpus").get("shard", []):
        for split, facts in record.counts["splits"].items():
            total = sizes.setdefault(split, {"documents": 0, "bytes": 0})
            for key in total:
                total[key] += facts[key]
    return sizes
