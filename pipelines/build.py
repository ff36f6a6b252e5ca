"""What a build consists of: every stage with its phases and units, from the settings and the seals upstream.

- A stage is asked two things: whether it is complete (its seal says what would be computed now), and to run. Both
  follow from the same `phases`, so that they cannot disagree.
- Units are cut where the data has its joints: source files, segments, ranges of ids. A unit names every file it reads,
  with the digest that the seal upstream has of it; so a change travels exactly as far as the bytes do.
- The graph is here, once; Luigi's tasks and the command line both walk it.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import steps, storage
from pipelines.config import Settings
from pipelines.documents import range_of, shard_of
from pipelines.engine import LocalEngine
from pipelines.stage import (
    SEAL,
    Digests,
    Phase,
    Record,
    Records,
    Stage,
    StageError,
    Unit,
    affecting_bytes,
    sealed_records,
)
from pipelines.storage import File

log = logging.getLogger("webtext.build")

SPLITS = ("train", "validation")
RUN_SECTIONS = ("engine", "model", "train", "evaluate", "sample")  # no byte of a corpus depends on them
CARD_SECTIONS = ("select", "extract", "filter", "minhash", "dedup")  # what the dataset card tells
ARCHIVE_INDEX = ".archives"  # below pages/: indexes of archives, which can be made again

GRAPH: dict[str, tuple[str, ...]] = {
    "links": (),
    "selected": ("links",),
    "pages": ("selected",),
    "documents": ("pages",),
    "filtered": ("documents", "selected"),
    "dedup": ("filtered",),
    "decontaminated": ("dedup",),
    "corpus": ("decontaminated",),
    "tokenizer": ("corpus",),
    "tokens": ("tokenizer",),
    "overlap/filter": ("corpus",),
    "overlap": ("overlap/filter",),
    "report/dedup": ("dedup",),
    "report": ("tokens", "overlap", "report/dedup"),
}
"""Stage -> the stages it waits for. The order of the keys is an order of work."""


@dataclass
class Build:
    """A root, its settings, and the stages that follow from them."""

    settings: Settings
    on_fetch: Callable[[dict[str, int]], None] | None = None
    fetching: bool = False
    stopping: bool = False  # set by a signal while fetching, which then ends at the next chance
    graph: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: GRAPH)
    _fetched: bool = False
    _complete: dict[str, Records | None] = field(default_factory=dict)  # what was found since the last run
    progress: Callable[[str, str, int, int], None] | None = None  # (stage, phase, done, total)

    @property
    def root(self) -> Path:
        return Path(self.settings["corpus"].root)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def removals_file(self) -> Path:
        """What `webtext remove` took out: ids, domains and posts. It counts beside [links] removals, in every build."""
        return self.root / "removals.txt"

    @functools.cached_property
    def _digests(self) -> Digests:
        return Digests(self.logs / "digests.json")

    # Walking the graph -----------------------------------------------------------------------------------------------

    def records(self, name: str) -> Records | None:
        """The records of a stage if it and everything upstream is complete now; else None. Cheap when asked again."""
        if name not in self._complete:
            upstream = all(self.records(one) is not None for one in self.graph[name])
            found = self.stage(name).records() if upstream else None
            if name == "pages" and found and not self._fetched and self.settings["fetch"].network:
                retryable = sum(record.counts["retryable"] for record in found["outcomes"])
                found = None if retryable else found  # each run of a build is one more attempt
            self._complete[name] = found
        return self._complete[name]

    def is_complete(self, name: str) -> bool:
        return self.records(name) is not None

    def take_pages_as_they_are(self) -> None:
        """Look at the seals anew, and count pages/ as complete although links are left to fetch."""
        self._fetched = True
        self._complete.clear()

    def run(self, name: str, engine: LocalEngine) -> None:
        """Do one stage, whose upstream is complete."""
        stage = self.stage(name)

        def tell(phase: str, done: int, total: int) -> None:
            if self.progress:
                self.progress(name, phase, done, total)

        self._complete.clear()
        if name == "pages":
            self.fetching = True
            self._fetch()
            self.fetching = False
            stage = self.stage(name)
        stage.run(engine, progress=tell)

    def stage(self, name: str) -> Stage:
        """The stage of this name, as the settings and the seals upstream make it."""
        maker: Callable[[], Stage] = getattr(self, "_" + name.replace("/", "_"))
        return maker()

    def upstream(self, stage: str, phase: str) -> list[Record]:
        """The sealed units of a phase of a stage upstream."""
        return sealed_records(self.root / stage).get(phase, [])

    # Stages ----------------------------------------------------------------------------------------------------------

    def _links(self) -> Stage:
        from webtext.reddit import TIMED_LISTINGS

        sources = self.settings["links"]

        def units(_: Records) -> list[Unit]:
            found: list[Unit] = []
            for kind, patterns in (("dump", sources.dumps), ("list", sources.url_lists)):
                for path in expand(patterns, f"[links] {'dumps' if kind == 'dump' else 'url_lists'}"):
                    digest = self._digests.of(path)
                    name = f"{path.name.split('.')[0]}-{digest[:8]}"
                    if name not in {unit.name for unit in found}:  # the same file given twice is one source
                        extras = {"allow_truncated": sources.allow_truncated, "removals": self._own_removals()}
                        found.append(Unit(name, (path,), (digest,), {"kind": kind}, extras))
            loopback = self.settings["fetch"].allow_loopback
            for subreddit, listing in itertools.product(sources.subreddits, sources.listings):
                for time_filter in sources.time_filters if listing in TIMED_LISTINGS else (None,):
                    one = dataclasses.replace(
                        sources,
                        subreddits=(subreddit,),
                        listings=(listing,),
                        time_filters=(time_filter,) if time_filter else (),
                    )
                    facts = [subreddit, listing, time_filter, sources.api_limit, sources.api_snapshot]
                    found.append(
                        Unit(
                            "-".join(str(fact) for fact in ("api", *facts) if fact is not None),
                            arguments={"kind": "api", "facts": facts},
                            extras={
                                "sources": one,
                                "allow_loopback": loopback,
                                "removals": self._own_removals(),
                            },
                        )
                    )
            if not found:
                raise ValueError(
                    "[links]: expected dumps, url_lists or subreddits, got none; say in luigi.cfg where links are from"
                )
            return found

        return Stage(
            self.root, "links", 1, [Phase("collect", steps.collect_submissions, units, estimate_bytes=3 << 30)]
        )

    def _own_removals(self) -> tuple[str, ...]:
        """No part of a unit's fingerprint: `webtext remove` takes the rows out of links/ itself, without the dumps."""
        return (str(self.removals_file),) if self.removals_file.exists() else ()

    def _removals(self) -> tuple[list[Path], tuple[str, ...]]:
        paths = list(expand(self.settings["links"].removals, "[links] removals"))
        if self.removals_file.exists():
            paths.append(self.removals_file)
        return paths, tuple(self._digests.of(path) for path in paths)

    def _selected(self) -> Stage:
        removals, removal_digests = self._removals()
        num_shards = self.settings["corpus"].num_shards
        select = {"select": self.settings["select"]}
        karmaless = dataclasses.replace(self.settings["select"], min_karma=0, karma_rule="max")  # of no say in keying
        blocklists = [self._digests.of(Path(path)) for path in self.settings["select"].blocklist_files]

        def keyed(_: Records) -> list[Unit]:
            return [
                Unit(
                    record.name,
                    (self.root / "links" / file.name,),
                    (file.sha256,),
                    {"removals": list(removal_digests), "blocklists": blocklists},
                    {"removals": [str(path) for path in removals]},
                )
                for record in self.upstream("links", "collect")
                for file in [record.file(f"{record.name}.parquet")]
            ]

        def merged(results: Records) -> list[Unit]:
            files = [file for record in results["key"] for file in record.files if file.name.startswith("keyed/")]
            files.sort(key=lambda file: file.sha256)
            found = []
            for shard in range(num_shards):
                first, end = range_of(shard, num_shards)
                found.append(
                    Unit(
                        f"selected-{shard:05d}-of-{num_shards:05d}",
                        tuple(self.root / "selected" / file.name for file in files),
                        tuple(file.sha256 for file in files),
                        {"first": first, "end": end},
                    )
                )
            return found

        return Stage(
            self.root,
            "selected",
            1,
            [
                Phase("key", steps.key_submissions, keyed, {"select": karmaless}, libraries=("tldextract",)),
                Phase("merge", steps.merge_links, merged, select, estimate_bytes=2 << 30),
            ],
        )

    def _pages(self) -> Stage:
        from webtext import pages

        directory = self.root / "pages"
        fetch = self.settings["fetch"]

        def units(_: Records) -> list[Unit]:
            files = [record.file(record.name) for record in self.upstream("selected", "merge")]
            ledgers = hashlib.sha256("".join(one.ledger_sha256 for one in pages.sealed_segments(directory)).encode())
            return [
                Unit(
                    "outcomes",
                    tuple(self.root / "selected" / file.name for file in files),
                    tuple(file.sha256 for file in files),
                    {
                        "segments": ledgers.hexdigest(),
                        "archives": pages.archive_stamp(fetch, directory / ARCHIVE_INDEX),
                        "network": fetch.network,
                        "common_crawl": list(fetch.common_crawl) if fetch.network else [],
                        "stop_after": fetch.stop_after if fetch.network else None,
                    },
                )
            ]

        kept = ("plan-*.parquet", "segment-*", "open/*", f"{ARCHIVE_INDEX}/*")
        phase = Phase("outcomes", steps.account_for_pages, units, {"fetch": fetch})
        return Stage(self.root, "pages", 1, [phase], keep_files=kept)

    def _fetch(self) -> None:
        """Settle every selected link that can be settled; in this process, whose threads wait for servers."""
        from webtext import fetch, links, pages, urls

        self.root.joinpath("pages").mkdir(parents=True, exist_ok=True)
        rules = links.url_rules(self.settings["select"])

        def selected() -> Iterator[Any]:
            for record in self.upstream("selected", "merge"):
                path = self.root / "selected" / record.file(record.name).name
                yield from storage.read_batches(path, ["id", "url", "created_at"])

        try:
            summary = pages.update(
                self.root / "pages",
                selected(),
                self.settings["fetch"],
                publish=storage.publish,
                progress=self.on_fetch,
                stop=lambda: self.stopping,
                reject=lambda url: urls.rejection(url, rules),
                cache=self.root / "pages" / ARCHIVE_INDEX,
            )
        except InterruptedError:
            raise KeyboardInterrupt from None
        except fetch.NetworkDownError as error:
            raise StageError(str(error)) from None
        for damage in summary.damage:
            log.warning("pages: %s: byte %d: %s", damage.archive, damage.offset, damage.detail)
        if summary.stopped == "asked to stop":
            raise KeyboardInterrupt
        if summary.stopped:
            log.info("pages: stopped by [fetch] stop_after; the rest is pending")
        self._fetched = True

    def _documents(self) -> Stage:
        from webtext import pages

        def units(_: Records) -> list[Unit]:
            return [
                Unit(
                    segment.name,
                    (segment.ledger,),
                    (segment.ledger_sha256,),
                    extras={"segment": segment, "max_decoded_bytes": self.settings["fetch"].max_decoded_bytes},
                )
                for segment in pages.sealed_segments(self.root / "pages")
            ]

        extract = self.settings["extract"]
        libraries = {"trafilatura": ("trafilatura", "lxml"), "resiliparse": ()}[extract.extractor]
        return Stage(
            self.root,
            "documents",
            2,
            [
                Phase(
                    "extract",
                    steps.extract_text,
                    units,
                    {"extract": extract},
                    libraries=(*libraries, "resiliparse", "py3langid"),
                    estimate_bytes=2 << 30,
                )
            ],
            keep_files=(steps.KILLED,),
        )

    def _filtered(self) -> Stage:
        removals, removal_digests = self._removals()
        num_shards = self.settings["corpus"].num_shards
        judged = {"filter": self.settings["filter"]}
        wikipedia = self.settings["select"].allow_wikipedia

        def verdicts(_: Records) -> list[Unit]:
            return [
                Unit(
                    record.name,
                    (self.root / "documents" / file.name,),
                    (file.sha256,),
                    {"allow_wikipedia": wikipedia},
                )
                for record, file in self._document_files()
            ]

        def filtered(results: Records) -> list[Unit]:
            selected = {record.name: record.file(record.name) for record in self.upstream("selected", "merge")}
            verdict_of = {record.name: record.files[0] for record in results["judge"]}
            found = []
            for record, file in self._document_files():
                first, last = record.counts["first"], record.counts["last"]
                shards = range(shard_of(first, num_shards), shard_of(last, num_shards) + 1) if first else []
                links = [selected[f"selected-{shard:05d}-of-{num_shards:05d}"] for shard in shards]
                verdict = verdict_of[record.name]
                found.append(
                    Unit(
                        record.name,
                        (
                            self.root / "documents" / file.name,
                            self.root / "filtered" / verdict.name,
                            *(self.root / "selected" / link.name for link in links),
                        ),
                        (file.sha256, verdict.sha256, *(link.sha256 for link in links)),
                        {"first": first, "end": last + "~", "removals": list(removal_digests)},
                        {"removals": [str(path) for path in removals]},
                    )
                )
            return found

        return Stage(
            self.root,
            "filtered",
            1,
            [
                Phase("judge", steps.judge_documents, verdicts, judged, estimate_bytes=1 << 30),
                Phase("filter", steps.filter_documents, filtered, estimate_bytes=1 << 30),
            ],
        )

    def _document_files(self) -> list[tuple[Record, File]]:
        return [(record, record.file(f"{record.name}.parquet")) for record in self.upstream("documents", "extract")]

    def _survivor_files(self) -> list[tuple[str, File]]:
        """(stage, file) of the tables of documents that take part in deduplication."""
        return [("filtered", record.file("survivors-")) for record in self.upstream("filtered", "filter")]

    def _dedup(self) -> Stage:
        minhash, dedup = self.settings["minhash"], self.settings["dedup"]

        def signed(_: Records) -> list[Unit]:
            return [
                Unit(
                    record.name,
                    (self.root / "documents" / file.name,),
                    (file.sha256,),
                    {
                        "scheme": minhash.scheme
                    },  # bands, rows and thresholds look at a signature, they are no part of it
                    {"minhash": minhash},
                )
                for record, file in self._document_files()
            ]

        def decided(results: Records) -> list[Unit]:
            inputs = Inputs(self.root)
            for record in results["sign"]:
                inputs.add("signatures", "dedup", record.files[0])
            for _, file in self._document_files():
                inputs.add("documents", "documents", file)
            for stage, survivors in self._survivor_files():
                inputs.add("survivors", stage, survivors)
            return [inputs.unit("verdicts")]

        return Stage(
            self.root,
            "dedup",
            1,
            [
                Phase(
                    "sign",
                    steps.sign_documents,
                    signed,
                    libraries=("numba",),
                    modules=("dedup.minhash",),
                    estimate_bytes=1 << 30,
                ),
                Phase(
                    "decide",
                    steps.decide_duplicates,
                    decided,
                    {"minhash": minhash, "dedup": dedup},
                    libraries=("numba",),
                    modules=("dedup.lsh",),
                    estimate_bytes=4 << 30,
                ),
            ],
        )

    def _decontaminated(self) -> Stage:
        settings = self.settings["decontaminate"]
        given = {"decontaminate": settings}
        phases: list[Phase] = []
        if settings.exclude_reference:
            references = list(expand(settings.exclude_reference, "[decontaminate] exclude_reference"))

            def spilled(_: Records) -> list[Unit]:
                digests = [self._digests.of(path) for path in references]
                return [
                    Unit(f"{path.name}-{digest[:8]}", (path,), (digest,))
                    for path, digest in zip(references, digests, strict=True)
                ]

            def built(results: Records) -> list[Unit]:
                inputs = Inputs(self.root)
                for record in results["spill"]:
                    inputs.add("spill", "decontaminated", record.files[0])
                return [inputs.unit("reference")]

            phases += [
                Phase("spill", steps.spill_reference, spilled, given, modules=("dedup.overlap",), keep=False),
                Phase("reference", steps.build_reference, built, given, modules=("dedup.overlap",)),
            ]

        def decided(results: Records) -> list[Unit]:
            sets = self.digests_of(settings.evaluation_sets)
            reference = [file.sha256 for record in results.get("reference", []) for file in record.files]
            return [
                Unit(
                    record.name,
                    (self.root / "documents" / file.name,),
                    (file.sha256,),
                    {"sets": sets, "reference": reference},
                    {
                        "evaluation_sets": settings.evaluation_sets,
                        "reference": str(self.root / "decontaminated" / "reference-filter") if reference else None,
                    },
                )
                for record, file in self._document_files()
            ]

        if settings.enabled:
            phases.append(Phase("decide", steps.decontaminate_documents, decided, given, modules=("dedup.overlap",)))
        return Stage(self.root, "decontaminated", 1, phases)

    def digests_of(self, paths: Sequence[str]) -> list[str]:
        """The digests of all files below evaluation paths, in an order of their own."""
        files = [
            path
            for given in paths
            for path in (Path(given).rglob("*") if Path(given).is_dir() else expand([given], "evaluation_sets"))
        ]
        return sorted(self._digests.of(path) for path in files if path.is_file())

    def _corpus(self) -> Stage:
        corpus = self.settings["corpus"]
        num_shards = corpus.num_shards

        def units(_: Records) -> list[Unit]:
            selected = {record.name: record.file(record.name) for record in self.upstream("selected", "merge")}
            pages = [record.file("drops-") for record in self.upstream("pages", "outcomes")]
            verdicts = [record.file("verdicts") for record in self.upstream("dedup", "decide")]
            extracted = {record.name: record for record in self.upstream("documents", "extract")}
            filtered = {record.name: record for record in self.upstream("filtered", "filter")}
            cleaned = {record.name: record for record in self.upstream("decontaminated", "decide")}
            found = []
            for shard in range(num_shards):
                first, end = range_of(shard, num_shards)
                inputs = Inputs(self.root)
                inputs.add("selected", "selected", selected[f"selected-{shard:05d}-of-{num_shards:05d}"])
                for file in pages:
                    inputs.add("pages", "pages", file)
                for file in verdicts:
                    inputs.add("dedup", "dedup", file)
                for name, record in extracted.items():
                    inputs.add("documents", "documents", record.file("drops-"))
                    if record.counts["first"] < end and record.counts["last"] >= first:
                        inputs.add("document", "documents", record.file(f"{name}.parquet"))
                        inputs.add("filtered", "filtered", filtered[name].file("drops-"))
                        if name in cleaned:
                            inputs.add("decontaminated", "decontaminated", cleaned[name].file("drops-"))
                            inputs.add("cut", "decontaminated", cleaned[name].file("verdicts-"))
                found.append(inputs.unit(f"{shard:05d}-of-{num_shards:05d}", {"first": first, "end": end}))
            return found

        def carded(results: Records) -> list[Unit]:
            splits: dict[str, dict[str, int]] = {split: {"documents": 0, "bytes": 0} for split in SPLITS}
            outcomes: dict[str, int] = {}
            for record in results["shard"]:
                for split, facts in record.counts["splits"].items():
                    for key in splits[split]:
                        splits[split][key] += facts[key]
                for reason, number in record.counts["outcomes"].items():
                    outcomes[reason] = outcomes.get(reason, 0) + number
            sections = {name: affecting_bytes(self.settings[name]) for name in CARD_SECTIONS}
            return [Unit("card", arguments={"settings": sections, "splits": splits, "outcomes": outcomes})]

        return Stage(
            self.root,
            "corpus",
            1,
            [
                Phase(
                    "shard",
                    steps.write_corpus_shard,
                    units,
                    {"corpus": corpus},
                    libraries=("pyarrow",),
                    estimate_bytes=2 << 30,
                ),
                Phase("card", steps.write_card, carded),
            ],
        )

    def corpus_files(self, split: str) -> list[tuple[str, Path, str]]:
        """(name, path, SHA-256) of the corpus shards of a split."""
        files = [record.file(f"data/{split}-") for record in self.upstream("corpus", "shard")]
        return [(Path(file.name).stem, self.root / "corpus" / file.name, file.sha256) for file in files]

    def _tokenizer(self) -> Stage:
        from webtext import bpe

        settings = self.settings["tokenizer"]
        given = {"tokenizer": settings}

        def counted(_: Records) -> list[Unit]:
            facts = {"categories": bpe.CATEGORY_SHA256, "sample": settings.sample}  # the vocabulary's size has no say
            return [
                Unit(name, (path,), (digest,), facts, {"tokenizer": settings})
                for name, path, digest in self.corpus_files("train")
            ]

        def trained(results: Records) -> list[Unit]:
            inputs = Inputs(self.root)
            for record in results["count"]:
                inputs.add("counts", "tokenizer", record.files[0])
            return [inputs.unit("tokenizer")]

        def pinned(_: Records) -> list[Unit]:
            path = Path(settings.path)
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            digests = [self._digests.of(file) for file in files if file.suffix in (".json", ".txt", ".bpe")]
            return [Unit("tokenizer", arguments={"files": digests})]

        if settings.path is not None:
            phases = [Phase("train", steps.train_tokenizer, pinned, given)]
        else:
            kernels = ("webtext._bpe_kernels",)
            phases = [
                Phase(
                    "count",
                    steps.count_pieces,
                    counted,
                    modules=kernels,
                    estimate_bytes=settings.memory_bytes + (1 << 29),
                ),
                Phase(
                    "train",
                    steps.train_tokenizer,
                    trained,
                    given,
                    modules=("webtext._bpe_training",),
                    estimate_bytes=4 << 30,
                ),
            ]
        return Stage(self.root, "tokenizer", 1, phases)

    def _tokens(self) -> Stage:
        from model import data

        settings = self.settings["tokens"]
        given = {"tokens": settings}
        trained = self.upstream("tokenizer", "train")
        folder = str(self.root / "tokenizer")

        def count(split: str) -> int:
            total = sum(record.counts["splits"][split]["bytes"] for record in self.upstream("corpus", "shard"))
            return data.num_shards(total, settings)

        def facts() -> dict[str, Any]:
            counts = trained[0].counts
            return {
                "tokenizer": trained[0].file("tokenizer.json").sha256,
                "vocab_size": counts["vocab_size"],
                "end_of_text": counts["end_of_text"],
            }

        def encoded(_: Records) -> list[Unit]:
            return [
                Unit(
                    name,
                    (path,),
                    (digest,),
                    {**facts(), "num_shards": count(split)},
                    {"tokenizer": folder},
                )
                for split in SPLITS
                for name, path, digest in self.corpus_files(split)
            ]

        def sharded(results: Records) -> list[Unit]:
            found = []
            for split in SPLITS:
                inputs = Inputs(self.root)
                for record in results["encode"]:
                    if record.name.startswith(split):
                        inputs.add("partition", "tokens", record.files[0])
                for index in range(count(split)):
                    name = data.shard_name(split, index, count(split))
                    found.append(inputs.unit(name, {**facts(), "split": split, "index": index}))
            return found

        def meta(results: Records) -> list[Unit]:
            splits: dict[str, list[Any]] = {split: [] for split in SPLITS}
            for record in results["shard"]:
                splits[record.counts["split"]].append(record.counts["info"])
            return [Unit("meta", arguments={**facts(), "splits": splits})]

        return Stage(
            self.root,
            "tokens",
            1,
            [
                Phase("encode", steps.encode_shard, encoded, given, libraries=("tokenizers",), keep=False),
                Phase("shard", steps.write_token_shard, sharded, given, estimate_bytes=1 << 30),
                Phase("meta", steps.write_token_meta, meta, given),
            ],
        )

    def _overlap_filter(self) -> Stage:
        settings = self.settings["overlap"]
        given = {"overlap": settings}
        extras = {"gpt2_vocabulary": self.settings["corpus"].gpt2_vocabulary}

        def spilled(_: Records) -> list[Unit]:
            vocabulary = {"words": [], "gpt2-tokens": self._gpt2_digests()}
            return [
                Unit(
                    f"{protocol}-{name}",
                    (path,),
                    (digest,),
                    {"protocol": protocol, "vocabulary": vocabulary[protocol]},
                    extras,
                )
                for protocol in settings.protocols
                for name, path, digest in self.corpus_files("train")
            ]

        def filled(results: Records) -> list[Unit]:
            found = []
            for protocol in settings.protocols:
                inputs = Inputs(self.root)
                for record in results["spill"]:
                    if record.name.startswith(f"{protocol}-"):
                        inputs.add("spill", "overlap/filter", record.files[0])
                found.append(inputs.unit(protocol, {"protocol": protocol}))
            return found

        phases = []
        if settings.mode == "bloom":
            kernels = ("dedup.overlap",)
            phases = [
                Phase("spill", steps.spill_shard, spilled, given, modules=kernels, keep=False),
                Phase(
                    "fill",
                    steps.build_filter,
                    filled,
                    given,
                    libraries=("pybloom-live",),
                    modules=kernels,
                    estimate_bytes=settings.memory_bytes + (1 << 29),
                ),
            ]
        return Stage(self.root, "overlap/filter", 1, phases)

    def _overlap(self) -> Stage:
        settings = self.settings["overlap"]
        given = {"overlap": settings}
        validation = self.corpus_files("validation") if settings.validation_documents else []
        gpt2 = self.settings["corpus"].gpt2_vocabulary

        def what() -> tuple[dict[str, Any], dict[str, Any]]:
            digests = [*self.digests_of(settings.evaluation_sets), *(digest for _, _, digest in validation)]
            if "gpt2-tokens" in settings.protocols:
                digests += self._gpt2_digests()
            arguments = {"sets": hashlib.sha256("".join(digests).encode()).hexdigest()}
            extras = {
                "evaluation_sets": settings.evaluation_sets,
                "validation": tuple(str(path) for _, path, _ in validation),
                "gpt2_vocabulary": gpt2,
            }
            return arguments, extras

        def matched(_: Records) -> list[Unit]:
            arguments, extras = what()
            return [
                Unit(name, (path,), (digest,), arguments, extras) for name, path, digest in self.corpus_files("train")
            ]

        def reported(results: Records) -> list[Unit]:
            arguments, extras = what()
            inputs = Inputs(self.root)
            for record in results.get("match", []):
                for kind in ("found", "documents", "corpus"):
                    inputs.add(kind, "overlap", record.file(f"matches/{kind}-"))
            filters = [file.sha256 for record in self.upstream("overlap/filter", "fill") for file in record.files]
            extras = {**extras, "filters": str(self.root / "overlap" / "filter")}
            return [inputs.unit("report", {**arguments, "filters": filters}, extras)]

        kernels = ("dedup.overlap",)
        phases = [Phase("report", steps.report_overlap, reported, given, modules=kernels, estimate_bytes=2 << 30)]
        if settings.mode == "exact":
            match = Phase("match", steps.match_shard, matched, given, modules=kernels, estimate_bytes=2 << 30)
            phases.insert(0, match)
        return Stage(self.root, "overlap", 1, phases)

    def _report_dedup(self) -> Stage:
        given = {"dedup": self.settings["dedup"], "minhash": self.settings["minhash"]}

        def units(_: Records) -> list[Unit]:
            inputs = Inputs(self.root)
            for decided in self.upstream("dedup", "decide"):
                inputs.add("verdicts", "dedup", decided.file("verdicts"))
                inputs.add("pairs", "dedup", decided.file("pairs"))
            for _record, file in self._document_files():
                inputs.add("documents", "documents", file)
            return [inputs.unit("report")]

        kernels = ("dedup.words", "dedup.minhash", "dedup._buckets")
        phase = Phase("report", steps.report_duplicates, units, given, modules=kernels, estimate_bytes=2 << 30)
        return Stage(self.root, "report/dedup", 1, [phase])

    def _report(self) -> Stage:
        from pipelines import report

        corpus = self.settings["corpus"]
        settings = report.public_settings(
            {name: affecting_bytes(self.settings[name]) for name in self.settings.sections if name not in RUN_SECTIONS}
        )
        evaluation_sets = self.settings["overlap"].evaluation_sets

        def measured(_: Records) -> list[Unit]:
            return [
                Unit(name, (path,), (digest,)) for split in SPLITS for name, path, digest in self.corpus_files(split)
            ]

        def posts(_: Records) -> list[Unit]:
            found = []
            for kind, phase, prefix in (("months", "key", "keyed/"), ("ages", "merge", "selected-")):
                for record in self.upstream("selected", phase):
                    file = record.file(prefix)
                    path = self.root / "selected" / file.name
                    found.append(Unit(f"{kind}-{record.name}", (path,), (file.sha256,), {"kind": kind}))
            return found

        def tokens(_: Records) -> list[Unit]:
            size = self.upstream("tokenizer", "train")[0].counts["vocab_size"]
            found = []
            for record in self.upstream("tokens", "shard"):
                file = record.file(f"{record.name}.bin")
                path = self.root / "tokens" / file.name
                found.append(Unit(f"tokens-{record.name}", (path,), (file.sha256,), {"vocab_size": size}))
            return found

        def written(results: Records) -> list[Unit]:
            inputs = Inputs(self.root)
            for record in results["measure"]:
                inputs.add("shards", "report", record.file(f"measures/{record.name}.json"))
                inputs.add("names", "report", record.file(f"measures/{record.name}.parquet"))
            for record in results["posts"]:
                inputs.add(record.name.partition("-")[0], "report", record.files[0])
            for record in results["tokens"]:
                inputs.add("usage", "report", record.files[0])
            arguments = {
                "settings": settings,
                "seals": self._seals(),
                "domains": self._digests.of(Path(corpus.webtext_domains)) if corpus.webtext_domains else None,
                "gpt2": self._gpt2_digests(),
                "sets": self.digests_of(evaluation_sets),
            }
            extras = {
                "root": str(self.root),
                "domains": Path(corpus.webtext_domains) if corpus.webtext_domains else None,
                "gpt2": steps.released_vocabulary(corpus.gpt2_vocabulary),
                "evaluation_sets": evaluation_sets,
            }
            return [inputs.unit("report", arguments, extras)]

        def listed(results: Records) -> list[Unit]:
            made = [file.sha256 for records in results.values() for record in records for file in record.files]
            arguments = {
                "settings": settings,
                "seals": self._seals(),
                "made": made,
                "versions": report.versions(),
                "unicode": report.unicode_versions(),
            }
            stages = tuple(name for name in GRAPH if name != "report")
            extras = {"root": str(self.root), "stages": stages, "made": dict(results)}
            return [Unit("manifest", arguments=arguments, extras=extras)]

        return Stage(
            self.root,
            "report",
            1,
            [
                Phase("measure", steps.measure_shard, measured, libraries=("resiliparse",)),
                Phase("posts", steps.measure_posts, posts),
                Phase("tokens", steps.measure_tokens, tokens),
                Phase("report", steps.write_report, written, estimate_bytes=2 << 30),
                Phase("manifest", steps.write_manifest, listed),
            ],
        )

    def _gpt2_digests(self) -> list[str]:
        """Of the files of GPT-2's released vocabulary, where it is there."""
        folder = steps.released_vocabulary(self.settings["corpus"].gpt2_vocabulary)
        return [self._digests.of(path) for path in sorted(folder.iterdir()) if path.is_file()] if folder else []

    def _seals(self) -> dict[str, str]:
        """The digests of the seals that the report reads."""
        seals = {name: self.root / name / SEAL for name in GRAPH if name != "report"}
        return {name: storage.sha256_of(path) for name, path in seals.items() if path.is_file()}


class Inputs:
    """Files of several kinds for one unit, with their digests."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kinds: list[str] = []
        self._paths: list[Path] = []
        self._digests: list[str] = []

    def add(self, kind: str, stage: str, file: File) -> None:
        self._kinds.append(kind)
        self._paths.append(self._root / stage / file.name)
        self._digests.append(file.sha256)

    def unit(
        self, name: str, arguments: Mapping[str, Any] | None = None, extras: Mapping[str, Any] | None = None
    ) -> Unit:
        """The unit that reads them; its argument `kinds` says what each is."""
        given = {"kinds": list(self._kinds), **(arguments or {})}
        return Unit(name, tuple(self._paths), tuple(self._digests), given, extras or {})


def expand(patterns: Sequence[str], key: str) -> Iterator[Path]:
    """The files that the patterns of a setting stand for, each once, sorted; ValueError for a pattern without any."""
    seen: set[Path] = set()
    for pattern in patterns:
        found = sorted(map(Path, glob.glob(str(Path(pattern).expanduser()), recursive=True)))  # noqa: PTH207
        files = [path for path in found if path.is_file()]
        if not files:
            raise ValueError(
                f"{key}: expected files at {pattern!r}, found none; check the path (it starts at {Path.cwd()})"
            )
        for path in files:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path
