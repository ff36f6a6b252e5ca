"""Builds of a small web in a process of their own, as a user runs them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
MINIWEB = REPOSITORY / "examples" / "miniweb"

SETTINGS: dict[str, dict[str, Any]] = {
    "corpus": {"num_shards": 3, "validation_fraction": 0.1},
    "engine": {"workers": 2},
    "links": {
        "dumps": f"{MINIWEB}/submissions-*",
        "url_lists": f"{MINIWEB}/links.csv",
        "removals": f"{MINIWEB}/removals.txt",
    },
    "fetch": {"archives": f"{MINIWEB}/*.warc.gz", "segment_links": 60},
    "tokenizer": {"vocab_size": 600},
    "tokens": {"shard_text_bytes": 200_000},
    "overlap": {"evaluation_sets": f"{MINIWEB}/evaluation", "protocols": "words"},
    "core": {"local_scheduler": "true", "autoload_range": "false", "log_level": "WARNING"},
}


def write_settings(path: Path, root: Path, **changes: Mapping[str, Any]) -> Path:
    """A settings file for a build in `root`; `changes` are sections that differ from SETTINGS."""
    lines = []
    for section in [*SETTINGS, *(name for name in changes if name not in SETTINGS)]:
        values = {**SETTINGS.get(section, {}), **changes.get(section, {})}
        if section == "corpus":
            values = {"root": root, **values}
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items()), ""]
    path.write_text("\n".join(lines))
    return path


def run(
    settings: Path, *arguments: str, task: str = "BuildCorpus", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`luigi --module pipelines TASK` under these settings, somewhere without a luigi.cfg."""
    return subprocess.run(
        [Path(sys.executable).with_name("luigi"), "--module", "pipelines", task, *arguments],
        cwd=settings.parent,
        env={**os.environ, "LUIGI_CONFIG_PATH": str(settings), **(environment or {})},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )


def hashes(root: Path) -> dict[str, str]:
    """SHA-256 of every file of a build outside logs/ and the lock files."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(root))).startswith(("logs/", ".lock", ".workers.lock"))
    }


def work_done(log: str) -> dict[str, int]:
    """Stage/phase -> units that ran, from what a build says."""
    return {what: int(number) for what, number in re.findall(r"([a-z/]+): (\d+) units in [\d.]+ s", log)}
