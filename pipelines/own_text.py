"""Reports and filters on text that somebody already has: the same stages, with no Reddit and no web before them.

    luigi --module pipelines DedupReport --input 'fineweb/*.parquet'

The files take the place of documents/, one unit a file. Everything lies under `[corpus] root`/own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines import steps
from pipelines.build import Build, Inputs
from pipelines.stage import Phase, Record, Records, Stage, Unit
from pipelines.storage import File

OWN_GRAPH: dict[str, tuple[str, ...]] = {
    "documents": (),
    "dedup": ("documents",),
    "report/dedup": ("dedup",),
    "decontaminated": ("documents",),
    "overlap/filter": ("documents",),
    "overlap": ("overlap/filter",),
}


@dataclass
class OwnText(Build):
    """A build whose documents are files of texts."""

    graph: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: OWN_GRAPH)
    patterns: tuple[str, ...] = ()
    text_column: str = "text"
    id_column: str | None = None

    @property
    def root(self) -> Path:
        return super().root / "own"

    def _documents(self) -> Stage:
        from dedup import texts

        def units(_: Records) -> list[Unit]:
            paths = texts.expand_paths(self.patterns)
            folder = os.path.commonpath([str(path.absolute().parent) for path in paths])
            arguments = {"text_column": self.text_column, "id_column": self.id_column}
            found = []
            for path in paths:
                digest = self._digests.of(path)
                name = f"{path.name.split('.')[0]}-{digest[:8]}"
                place = {**arguments, "name": path.absolute().relative_to(folder).as_posix()}
                found.append(Unit(name, (path,), (digest,), place, {"folder": folder}))
            return found

        return Stage(self.root, "documents", 1, [Phase("import", steps.import_texts, units)])

    def _document_files(self) -> list[tuple[Record, File]]:
        return [(record, record.file(f"{record.name}.parquet")) for record in self.upstream("documents", "import")]

    def _survivor_files(self) -> list[tuple[str, File]]:
        return [("documents", record.file("survivors-")) for record in self.upstream("documents", "import")]

    def corpus_files(self, split: str) -> list[tuple[str, Path, str]]:
        """All documents are what a model would be trained on."""
        if split != "train":
            return []
        return [
            (record.name, self.root / "documents" / file.name, file.sha256) for record, file in self._document_files()
        ]

    def _decontaminated(self) -> Stage:
        stage = super()._decontaminated()
        settings = self.settings["decontaminate"]
        if not settings.enabled:
            raise ValueError(
                "[decontaminate]: expected evaluation_sets or exclude_reference, got none; "
                "add --decontaminate-evaluation-sets PATH"
            )

        def cleaned(results: Records) -> list[Unit]:
            verdicts = {record.name: record.file("verdicts-") for record in results["decide"]}
            found = []
            for record, file in self._document_files():
                inputs = Inputs(self.root)
                inputs.add("documents", "documents", file)
                inputs.add("verdicts", "decontaminated", verdicts[record.name])
                found.append(inputs.unit(record.name))
            return found

        stage.phases = [*stage.phases, Phase("clean", steps.clean_documents, cleaned)]
        return stage
