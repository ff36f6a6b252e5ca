"""The HTML report, the dataset card and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import funnel, storage


def write(root: Path, folder: Path, *, settings: Mapping[str, Any], domains: str | None) -> None:
    """Write the report of the build in `root` into `folder`."""
    rows = funnel.table(funnel.funnel(root), funnel.split_sizes(root))
    storage.write_json(folder / "funnel.json", rows)


def write_dedup(inputs: Mapping[str, list[Path]], folder: Path, dedup: Any, minhash: Any) -> dict[str, Any]:
    """Write the report on duplicates into `folder`; its main numbers."""
    return {}
