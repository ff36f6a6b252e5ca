"""A small generated web and builds of it: fixtures that the tests of builds and of faults share.

The web is benchmarks/miniweb.py's: near and exact duplicates, other languages, dead links, hostile pages. Sixty pages
are enough for every stage to have work and for a build to take seconds.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks import miniweb
from helpers import builds, inline
from pipelines.build import GRAPH
from pipelines.stage import sealed_records

Sections = dict[str, dict[str, Any]]


@dataclass
class Web:
    """A generated web and the settings that build it."""

    folder: Path
    truth: miniweb.Truth
    changes: Sections = field(default_factory=dict)

    def sections(self, root: Path, **changes: dict[str, Any]) -> Sections:
        """Settings of a build of this web in `root`, without Luigi's own."""
        base: Sections = {
            "corpus": {"root": root, "num_shards": 2, "validation_fraction": 0.1},
            "engine": {"workers": 2},
            "links": {"dumps": f"{self.folder}/dumps/*"},
            "fetch": {"archives": f"{self.folder}/archives/*.warc.gz", "segment_links": 30},
            "tokenizer": {"vocab_size": 300},
            "tokens": {"shard_text_bytes": 100_000},
            "overlap": {"evaluation_sets": f"{builds.MINIWEB}/evaluation", "protocols": "words"},
        }
        names = {*base, *self.changes, *changes}
        return {
            name: {**base.get(name, {}), **self.changes.get(name, {}), **changes.get(name, {})}
            for name in sorted(names)
        }

    def settings_file(self, path: Path, root: Path, **changes: dict[str, Any]) -> Path:
        """The same as a settings file for Luigi."""
        sections = {**self.sections(root, **changes), "core": {**builds.SETTINGS["core"], **changes.get("core", {})}}
        lines: list[str] = []
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items()), ""]
        path.write_text("\n".join(lines))
        return path


@dataclass
class Built:
    """A finished build that nobody disturbed."""

    web: Web
    root: Path
    hashes: dict[str, str]
    log: str


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    folder = tmp_path_factory.mktemp("web")
    return Web(folder, miniweb.generate(folder, num_links=300, num_pages=60))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[inline.Server]:
    with inline.Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def built(web: Web, server: inline.Server, tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("built") / "root"
    ended = server.build(web.sections(root))
    assert ended.returncode == 0, ended.log
    return Built(web, root, builds.hashes(root), ended.log)


def false_seals(root: Path) -> list[str]:
    """Stages whose seal names a file that is not there as it says: none, if a seal can be trusted."""
    false = []
    for stage in GRAPH:
        for found in sealed_records(root / stage).values():
            for record in found:
                for file in record.files:
                    path = root / stage / file.name
                    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256:
                        continue
                    if path.is_file() or not file.name.startswith(("spill/", "partitions/")):
                        false.append(f"{stage}: {file.name}")
    return false


def temporaries(root: Path) -> list[str]:
    """What a writer left under a temporary name."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if ".tmp" in path.name)


def units(root: Path) -> dict[tuple[str, str], tuple[str, tuple[int, ...]]]:
    """(stage/phase, unit) -> its fingerprint, and when each of its files came into place."""
    return {
        (f"{stage}/{phase}", record.name): (
            record.fingerprint,
            tuple(path.stat().st_ctime_ns for file in record.files if (path := root / stage / file.name).is_file()),
        )
        for stage in GRAPH
        for phase, found in sealed_records(root / stage).items()
        for record in found
    }


def made_again(before: Mapping[tuple[str, str], Any], after: Mapping[tuple[str, str], Any]) -> set[tuple[str, str]]:
    """Units that were not there before, or whose files were written anew."""
    return {unit for unit, state in after.items() if before.get(unit) != state}


def by_phase(units: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Stage/phase -> units."""
    found: dict[str, set[str]] = {}
    for phase, unit in units:
        found.setdefault(phase, set()).add(unit)
    return found


PRODUCTS = ("links/", "selected/", "corpus/", "tokenizer/", "tokens/", "overlap/")


def products(hashes: Mapping[str, str]) -> dict[str, str]:
    """The files that do not tell in what order a build met its pages: no segment, and no seal."""
    return {name: digest for name, digest in hashes.items() if name.startswith(PRODUCTS) and "_seal" not in name}


DOWNSTREAM = ("documents/", "dedup/", "corpus/", "tokenizer/", "tokens/", "overlap/")


def outputs(hashes: Mapping[str, str]) -> dict[str, str]:
    """What does not carry the names of the sources."""
    return {name: digest for name, digest in hashes.items() if name.startswith(DOWNSTREAM)}


def outputs_of_shuffled(web: Web, folder: Path, workers: int, seed: int) -> dict[str, str]:
    """`outputs` of a build by Luigi with this hash seed, whose dumps have names in another order."""
    shuffled = folder / "sources"
    shuffled.mkdir(parents=True)
    paths = sorted((web.folder / "dumps").iterdir())
    random.Random(seed).shuffle(paths)
    for number, path in enumerate(paths):
        shutil.copy(path, shuffled / f"{number}-{path.name}")
    changes = {"engine": {"workers": workers}, "links": {"dumps": f"{shuffled}/*"}}
    settings = web.settings_file(folder / "settings.cfg", folder / "root", **changes)
    done = builds.run(settings, environment={"PYTHONHASHSEED": str(seed)})
    assert done.returncode == 0, done.stderr
    return outputs(builds.hashes(folder / "root"))
