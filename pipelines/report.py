"""The HTML reports, the dataset card and the manifest.

- A report is one file that opens offline: style and drawings are in it, it runs no script and asks for nothing.
- Everything quoted from the web is escaped, stripped of control characters and isolated from the page's direction.
- The same build gives the same bytes: no time, no machine, no folder of this build is in a report. Numbers come from
  the seals and from files the seals name; what is sampled is chosen by hashes of ids.
- Beside each page lies the same as JSON, for programs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
import json
import platform
import re
import subprocess
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import charts, funnel, measure, storage
from pipelines.documents import Documents, id_bytes
from pipelines.stage import SEAL, Record, Records, read_seal, sealed_records
from webtext.records import CORPUS_SCHEMA

QUOTED_CHARACTERS = 400
SAMPLE_BYTES = 4_000_000  # of each set, encoded to compare tokenizers
PLANTED_TEXTS = 300
PLANTED_CHARACTERS = 20_000
CURVE_EDITS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4)


# Rendering -----------------------------------------------------------------------------------------------------------

# C0 and C1 controls but tab and newline, bidirectional overrides and isolates, non-characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def clean(text: str) -> str:
    """Text that is safe to look at: control characters become U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


def shorten(text: str, characters: int = QUOTED_CHARACTERS) -> str:
    """The beginning of a text, on as few lines as it has, cut at a blank where there is one near."""
    text = clean(re.sub(r"\s*\n\s*", "\n", text.strip()))
    if len(text) <= characters:
        return text
    cut = text.rfind(" ", characters - 40, characters)
    return text[: cut if cut > 0 else characters] + " …"


def size_text(size: float) -> str:
    """Bytes in decimal units: 12.3 MB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:,.1f} {unit}"
    return f"{size:,.0f} bytes" if size != 1 else "1 byte"


def percent(share: float | None) -> str:
    """A share in percent with as many digits as say something."""
    if share is None:
        return "–"
    value = 100 * share
    return f"{value:.0f}%" if value >= 99.95 or value == 0 else f"{value:.1f}%" if value >= 1 else f"{value:.2g}%"


_FORMATS: dict[str, Any] = {
    "count": lambda value: "–" if value is None else f"{value:,}",
    "bytes": lambda value: "–" if value is None else size_text(value),
    "percent": percent,
    "hundredths": lambda value: "–" if value is None else f"{100 * value:.2f}",
}


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and not name.endswith(".md.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["show_as"] = lambda value, kind: _FORMATS[kind](value)
    return environment


def render(template: str, **values: Any) -> str:
    """A page from `templates/`, its values escaped by Jinja and free of control characters."""
    return clean(_templates().get_template(template).render(**values))


def shown(value: Any) -> str:
    """A setting as a person writes it. Of a path that starts at the root of a machine only the name is shown."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "–"
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def portable(value: Any) -> Any:
    """A setting without the folders of this machine: of an absolute path the last name is left."""
    if isinstance(value, (list, tuple)):
        return [portable(one) for one in value]
    if isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute()):
        return Path(value).name
    return value


SECRET = re.compile(r"secret|password|token_file|credential|api_key|client_id|praw", re.IGNORECASE)


def public_settings(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings as reports and the manifest show them: no secret, no folder of this machine."""
    return {
        section: {key: portable(value) for key, value in values.items() if not SECRET.search(key)}
        for section, values in sections.items()
    }


# Duplicates ----------------------------------------------------------------------------------------------------------


def write_dedup(inputs: Mapping[str, list[Path]], folder: Path, dedup: Any, minhash: Any) -> dict[str, Any]:
    """Write index.html and dedup.json of the `verdicts`, `pairs` and `documents` files into `folder`."""
    facts = duplicate_facts(inputs, dedup, minhash)
    (folder / "index.html").write_text(dedup_page(facts, dedup, minhash), encoding="utf-8")
    _write_json(folder / "dedup.json", facts)
    return {key: facts[key] for key in ("documents", "bytes", "clusters", "largest")}


def dedup_page(facts: Mapping[str, Any], dedup: Any, minhash: Any) -> str:
    """The page of `duplicate_facts`."""
    documents, sizes = facts["documents"], facts["bytes"]
    total = sum(documents.values())
    outcomes = [("looked at", total, 1.0 if total else None, sum(sizes.values()))]
    for key, name in (("exact", "exact duplicates, dropped"), ("near", "near duplicates, dropped"), ("kept", "kept")):
        outcomes.append((name, documents[key], documents[key] / total if total else None, sizes[key]))
    from dedup.lsh import candidate_probability

    bands, rows = facts["bands"], facts["rows"]
    measured = [
        (
            row["jaccard"],
            row["found"] / row["pairs"],
            row["standard_error"] / row["pairs"],
            f"{row['found']} of {row['pairs']} found with {row['edited']:.0%} of the words replaced",
        )
        for row in facts["planted"]
        if row["pairs"]
    ]
    return render(
        "dedup.html.j2",
        facts=facts,
        figures=[
            ("documents looked at", f"{total:,}"),
            ("dropped", f"{documents['exact'] + documents['near']:,}"),
            ("text dropped", size_text(sizes["exact"] + sizes["near"])),
            ("clusters", f"{facts['clusters']:,}"),
            ("largest cluster", f"{facts['largest']:,}"),
            ("pairs refused", f"{facts['pairs']['refused']:,}"),
        ],
        outcomes=outcomes,
        size_chart=charts.columns(
            "Clusters by number of documents",
            [f"{row['at_least']:,}–{row['at_most']:,}" for row in facts["cluster_sizes"]],
            [[row["clusters"]] for row in facts["cluster_sizes"]],
            x_title="documents in a cluster",
        ),
        similarity_chart=charts.columns(
            "Compared pairs by similarity",
            [f"{row['at_least']:.2f}" for row in facts["similarities"]],
            [[row["accepted"], row["refused"]] for row in facts["similarities"]],
            x_title="Jaccard similarity, from",
            names=("accepted", "refused"),
        ),
        curve_chart=charts.curve(
            "Probability that two documents are compared",
            lambda jaccard: float(candidate_probability(jaccard, bands, rows)),
            measured,
            x_title="Jaccard similarity",
            line=(facts["threshold"], f"threshold {facts['threshold']}"),
        ),
        settings=[
            (f"[{section}] {one.name}", shown(getattr(values, one.name)))
            for section, values in (("minhash", minhash), ("dedup", dedup))
            for one in dataclasses.fields(values)
            if one.metadata.get("bytes", True)
        ],
    )


REASONS = ("kept", "near", "exact")


def duplicate_facts(inputs: Mapping[str, list[Path]], dedup: Any, minhash: Any) -> dict[str, Any]:
    """Every number and quote of the report on duplicates, as JSON values."""
    from dedup.lsh import candidate_probability

    ids, codes, sizes_of, transitive = _verdicts(inputs.get("verdicts", []))
    documents = {reason: int((codes == code).sum()) for code, reason in enumerate(REASONS)}
    sizes = dict.fromkeys(REASONS, 0)
    domains: dict[str, int] = {}
    sampled: list[tuple[str, str]] = []
    for path in inputs.get("documents", []):
        for batch in storage.read_batches(path, ["id", "url", "num_bytes"], 1 << 16):
            code = _look_up(id_bytes(batch.column("id")), ids, codes)
            amounts = batch.column("num_bytes").to_numpy(zero_copy_only=False).astype(np.int64)
            for number, reason in enumerate(REASONS):
                sizes[reason] += int(amounts[code == number].sum())
            for row in np.flatnonzero(code > 0).tolist():
                domain = domain_of(batch.column("url")[row].as_py())
                domains[domain] = domains.get(domain, 0) + 1
            known = batch.column("id").take(pa.array(np.flatnonzero(code >= 0))).to_pylist()
            sampled = sorted([*sampled, *((measure.sample_key(id), id) for id in known)])[:PLANTED_TEXTS]
    cluster_sizes = np.array(sorted(sizes_of.values(), reverse=True), np.int64)
    giant = sorted(
        ((size, cluster) for cluster, size in sizes_of.items() if size >= dedup.giant_cluster),
        key=lambda item: (-item[0], item[1]),
    )
    bands, rows = minhash.banding()
    pairs, similarities = _pair_facts(inputs.get("pairs", []))
    planted = _planted(sampled, inputs.get("documents", []), minhash)
    return {
        "documents": documents,
        "bytes": sizes,
        "clusters": len(cluster_sizes),
        "largest": int(cluster_sizes.max(initial=0)),
        "transitive": transitive,
        "giant": [{"cluster": cluster, "documents": size} for size, cluster in giant],
        "giant_from": dedup.giant_cluster,
        "cluster_sizes": _size_histogram(cluster_sizes),
        "pairs": pairs,
        "similarities": similarities,
        "bands": bands,
        "rows": rows,
        "threshold": dedup.threshold,
        "at_threshold": float(candidate_probability(dedup.threshold, bands, rows)),
        "planted": planted,
        "planted_texts": len(sampled),
        "domains": [list(item) for item in sorted(domains.items(), key=lambda item: (-item[1], item[0]))[:20]],
        "quoted": _largest_clusters(sizes_of, inputs),
    }


def domain_of(url: str) -> str:
    """The registered domain of a document's URL; of a document without one, the file that it is a row of."""
    from webtext import urls

    if url.startswith(("http://", "https://")):
        try:
            return urls.registered_domain(url)
        except ValueError:
            return "(not a URL)"
    file, colon, row = url.rpartition(":")
    return file if colon and row.isdigit() else "(no URL)"


def _verdicts(paths: Sequence[Path]) -> tuple[Any, Any, dict[str, int], int]:
    """(ids sorted as S16, code of each: 0 kept, 1 near, 2 exact; cluster -> size where above 1; transitive ones)."""
    ids, codes = [np.empty(0, "S16")], [np.empty(0, np.int8)]
    extra: dict[str, int] = {}
    transitive = 0
    for path in paths:
        for batch in storage.read_batches(path, ["id", "kept", "reason", "cluster", "transitive"], 1 << 16):
            ids.append(np.ascontiguousarray(id_bytes(batch.column("id"))).view("S16").ravel())
            reason = pc.fill_null(batch.column("reason"), "kept")
            codes.append(pc.index_in(reason, pa.array(REASONS)).to_numpy(zero_copy_only=False).astype(np.int8))
            transitive += pc.sum(batch.column("transitive")).as_py() or 0
            followers = batch.filter(pc.not_equal(batch.column("id"), batch.column("cluster")))
            for pair in followers.column("cluster").value_counts().to_pylist():
                extra[pair["values"]] = extra.get(pair["values"], 0) + pair["counts"]
    every, code = np.concatenate(ids), np.concatenate(codes)
    order = np.argsort(every, kind="stable")
    return every[order], code[order], {cluster: size + 1 for cluster, size in extra.items()}, transitive


def _look_up(wanted: Any, ids: Any, codes: Any) -> Any:
    """The code of each id (uint8[n, 16]); -1 where it is not among `ids`."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int8)
    keys = np.ascontiguousarray(wanted).view("S16").ravel()
    places = np.minimum(np.searchsorted(ids, keys), len(ids) - 1)
    return np.where(ids[places] == keys, codes[places], -1)


def _size_histogram(sizes: Any) -> list[dict[str, int]]:
    """Clusters in powers of two, from 2."""
    rows = []
    at_least = 2
    while len(sizes) and at_least <= sizes.max():
        inside = sizes[(sizes >= at_least) & (sizes < 2 * at_least)]
        rows.append(
            {
                "at_least": at_least,
                "at_most": 2 * at_least - 1,
                "clusters": len(inside),
                "documents": int(inside.sum()),
            }
        )
        at_least *= 2
    return rows


def _pair_facts(paths: Sequence[Path]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    cells = np.zeros((20, 2), np.int64)
    facts = {"compared": 0, "accepted": 0, "refused": 0, "exact": 0}
    for path in paths:
        for batch in storage.read_batches(path, ["estimated", "exact", "accepted"], 1 << 16):
            similarity = pc.coalesce(batch.column("exact"), batch.column("estimated")).to_numpy(zero_copy_only=False)
            accepted = batch.column("accepted").to_numpy(zero_copy_only=False)
            cell = np.minimum((similarity.astype(np.float64) * 20 + 1e-6).astype(np.int64), 19)
            np.add.at(cells, (cell, np.where(accepted, 0, 1)), 1)
            facts["compared"] += batch.num_rows
            facts["accepted"] += int(accepted.sum())
            facts["exact"] += batch.num_rows - batch.column("exact").null_count
    facts["refused"] = facts["compared"] - facts["accepted"]
    histogram = [
        {"at_least": index / 20, "below": (index + 1) / 20, "accepted": int(row[0]), "refused": int(row[1])}
        for index, row in enumerate(cells)
    ]
    return facts, histogram


def _planted(sampled: Sequence[tuple[str, str]], paths: Sequence[Path], minhash: Any) -> list[dict[str, Any]]:
    """dedup.lsh.planted_recall on the sampled documents' beginnings."""
    from dedup.lsh import planted_recall

    if not sampled:
        return []
    texts = Documents(paths).texts(np.array([list(bytes.fromhex(id)) for _, id in sampled], np.uint8))
    short = pa.array([text[:PLANTED_CHARACTERS] for text in texts.to_pylist()], pa.large_string())
    rows: list[dict[str, Any]] = planted_recall(short, minhash, edits=CURVE_EDITS).to_pylist()
    return [{key: round(value, 9) if isinstance(value, float) else value for key, value in row.items()} for row in rows]


def _largest_clusters(sizes_of: Mapping[str, int], inputs: Mapping[str, list[Path]]) -> list[dict[str, Any]]:
    """The ten largest clusters: who is kept, and up to three of those that are not, with what they say."""

    ranked = sorted(sizes_of.items(), key=lambda item: (-item[1], item[0]))[:10]
    if not ranked:
        return []
    wanted = pa.array([cluster for cluster, _ in ranked], pa.string())
    members: dict[str, list[dict[str, Any]]] = {}
    for path in inputs.get("verdicts", []):
        for batch in storage.read_batches(path, ["id", "kept", "reason", "similarity", "cluster"], 1 << 16):
            for row in batch.filter(pc.is_in(batch.column("cluster"), value_set=wanted)).to_pylist():
                kept = members.setdefault(row["cluster"], [])
                kept.append(row)
                kept.sort(key=lambda one: (one["id"] != one["cluster"], measure.sample_key(one["id"])))
                del kept[4:]
    ids = [row["id"] for cluster, _ in ranked for row in members[cluster]]
    texts = Documents(inputs["documents"]).texts(np.array([list(bytes.fromhex(id)) for id in ids], np.uint8))
    text_of = dict(zip(ids, texts.to_pylist(), strict=True))
    url_of: dict[str, str] = {}
    for path in inputs["documents"]:
        for batch in storage.read_batches(path, ["id", "url"], 1 << 16):
            found = batch.filter(pc.is_in(batch.column("id"), value_set=pa.array(ids, pa.string())))
            url_of.update(zip(found.column("id").to_pylist(), found.column("url").to_pylist(), strict=True))
    return [
        {
            "documents": size,
            "members": [
                {
                    "id": row["id"],
                    "url": url_of[row["id"]],
                    "kept": row["kept"],
                    "reason": row["reason"],
                    "similarity": None if row["similarity"] is None else round(row["similarity"], 4),
                    "text": shorten(text_of[row["id"]], 260),
                }
                for row in members[cluster]
            ],
        }
        for cluster, size in ranked
    ]


# Overlap -------------------------------------------------------------------------------------------------------------

PROTOCOLS = {
    "gpt2-tokens": "eight tokens of GPT-2’s vocabulary over lower-cased [a-z0-9] words, as in the paper",
    "words": "words of the normal form that duplicates are found by",
}


def write_overlap(path: Path, tables: Any, settings: Any) -> None:
    """Write the page of dedup.overlap.OverlapTables to `path`."""
    rows = tables.rows.to_pylist()
    page = render(
        "overlap.html.j2",
        exact=settings.mode == "exact",
        error_rate=settings.error_rate,
        corpus=tables.corpus.to_pylist(),
        protocol_notes=PROTOCOLS,
        paper=paper_rows(rows),
        rows=rows,
        touched=[row for row in rows if row["unit"] == "examples"],
        worst=[
            (protocol, list(_worst_examples(group)))
            for protocol, group in itertools.groupby(tables.worst.to_pylist(), key=lambda row: row["protocol"])
        ],
    )
    path.write_text(page, encoding="utf-8")


def paper_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The paper's sets and ours in its protocol: (own train here, in the paper, corpus here, WebText in the paper)."""
    from dedup.overlap import PAPER_TABLE_6

    def paper_name(row: Mapping[str, Any]) -> str:
        percent = row["paper_percent"]
        for name, (own, webtext) in PAPER_TABLE_6.items():
            if percent is not None and percent == (webtext if row["against"] == "corpus" else own):
                return name
        return str(row["set"])

    found: dict[str, list[float | None]] = {
        name: [None, own, None, webtext] for name, (own, webtext) in PAPER_TABLE_6.items()
    }
    for row in rows:
        if row["unit"] == "file" and row["protocol"] == "gpt2-tokens" and row["share"] is not None:
            numbers = found.setdefault(paper_name(row), [None, None, None, None])
            numbers[2 if row["against"] == "corpus" else 0] = 100 * row["share"]
    return [{"set": name, "numbers": numbers} for name, numbers in found.items()]


def _worst_examples(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of WORST_SCHEMA of one protocol, an example each."""
    for _, group in itertools.groupby(rows, key=lambda row: (row["set"], row["example"])):
        members = list(group)
        first = members[0]
        yield {
            **first,
            "example_id": first["example_id"] or "",
            "passage": shorten(first["passage"], 700),
            "documents": [{**row, "url": row["url"] or ""} for row in members if row["id"] is not None],
        }


# The corpus ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class CorpusInputs:
    """What the report of a build is made of, besides the seals in its root."""

    root: Path
    settings: Mapping[str, Mapping[str, Any]]  # by section, those that affect bytes, as `public_settings`
    shards: Sequence[Path]  # facts of `measure.measure_shard`
    names: Sequence[Path]  # tables of NAME_SCHEMA
    months: Sequence[Path]  # karma by month
    ages: Sequence[Path]  # histograms of score ages
    usage: Sequence[Path]  # token usage
    domains: Path | None  # WebText's published list
    gpt2: Path | None  # GPT-2's released vocabulary
    evaluation_sets: tuple[str, ...] = ()


def write_corpus(inputs: CorpusInputs, folder: Path) -> dict[str, Any]:
    """Write index.html and report.json of a build into `folder`; its main numbers."""
    facts = corpus_facts(inputs)
    (folder / "index.html").write_text(corpus_page(facts), encoding="utf-8")
    _write_json(folder / "report.json", facts)
    return {"documents": facts["documents"], "bytes": facts["bytes"]}


def corpus_facts(inputs: CorpusInputs) -> dict[str, Any]:
    """Every number and quote of the report, as JSON values."""
    root = inputs.root
    steps = funnel.funnel(root)
    sizes = funnel.split_sizes(root)
    whole = measure.added_up(json.loads(path.read_text(encoding="utf-8")) for path in inputs.shards)
    names = _names(inputs.names)
    tokens = sealed_records(root / "tokens").get("meta", [])
    extracted = sealed_records(root / "documents").get("extract", [])
    dedup = root / "report" / "dedup" / "dedup.json"
    overlap = root / "overlap" / "rows.parquet"
    months = _added(inputs.months)
    return {
        "documents": whole["documents"],
        "bytes": whole["bytes"],
        "words": whole["words"],
        "agreeing_bytes": whole["agreeing"],
        "splits": [
            {"name": split, **size, "tokens": tokens[0].counts[split] if tokens else None}
            for split, size in sizes.items()
        ],
        "funnel": [
            {
                "stage": step.stage,
                "unit": step.unit,
                "entered": step.entered,
                "drops": [list(item) for item in step.drops.items()],
                "left": step.left,
            }
            for step in steps
        ],
        "domains": names["domain"][:100],
        "num_domains": len([name for name, *_ in names["domain"] if name != measure.OTHER]),
        "subreddits": names["subreddit"][:50],
        "webtext": compare_domains(names["domain"], inputs.domains) if inputs.domains else None,
        "years": sorted([name, *counts] for name, counts in whole["years"].items()),
        "lengths": measure.length_octaves(whole["lengths"]),
        "percentiles": [measure.length_percentile(whole["lengths"], share) for share in (0.1, 0.5, 0.9)],
        "languages": _tallied(whole["languages"]),
        "audited": _tallied(whole["audited"]),
        "months": months,
        "silent_months": silent_months(months),
        "ages": [[row["score_age"], row["links"]] for row in _added(inputs.ages, order=AGES)],
        "demonstrations": [
            {
                "name": kind.name,
                "title": kind.title,
                "note": kind.note,
                **whole["demonstrations"][kind.name],
                "quotes": whole["quotes"][kind.name],
            }
            for kind in measure.DEMONSTRATIONS
        ],
        "dedup": json.loads(dedup.read_text(encoding="utf-8")) if dedup.is_file() else None,
        "tokenizer": tokenizer_facts(inputs),
        "overlap": storage.read_table(overlap).to_pylist() if overlap.is_file() else [],
        "personal": {
            "documents": sum(record.counts["documents"] for record in extracted),
            **{kind: sum(record.counts[kind] for record in extracted) for kind in ("emails", "ips", "phones")},
            "replaced": bool(inputs.settings.get("extract", {}).get("replace_pii", False)),
        },
        "settings": inputs.settings,
    }


def corpus_page(facts: Mapping[str, Any]) -> str:
    """The page of `corpus_facts`."""
    steps = [
        {
            **step,
            "dropped": step["entered"] - step["left"],
            "share": step["left"] / step["entered"] if step["entered"] else None,
        }
        for step in facts["funnel"]
    ]
    documents = facts["documents"]
    tokens = [split["tokens"] for split in facts["splits"] if split["tokens"] is not None]
    halves = {unit: list(group) for unit, group in itertools.groupby(steps, key=lambda step: step["unit"])}
    rows = [row for row in facts["overlap"] if row["against"] == "corpus" and row["unit"] == "examples"]
    dedup = facts["dedup"]
    values = {
        **{key: facts[key] for key in facts if key not in ("settings", "overlap", "funnel")},
        "figures": [
            ("documents", f"{documents:,}"),
            ("text", size_text(facts["bytes"])),
            ("words", f"{facts['words']:,}"),
            ("tokens", f"{sum(tokens):,}" if tokens else "–"),
            ("domains", f"{facts['num_domains']:,}"),
            ("duplicates left out", f"{dedup['documents']['exact'] + dedup['documents']['near']:,}" if dedup else "–"),
        ],
        "steps": steps,
        "funnel": list(halves.items()),
        "domains": [row[:2] for row in facts["domains"][:20]],
        "subreddits": [row[:2] for row in facts["subreddits"][:20]],
        "years": [row[:2] for row in facts["years"]],
        "mean_words": facts["words"] // documents if documents else 0,
        "length_chart": charts.columns(
            "Documents by number of words",
            [row[0] for row in facts["lengths"]],
            [[row[1]] for row in facts["lengths"]],
            x_title="words, from",
        ),
        "agreement": facts["agreeing_bytes"] / facts["bytes"] if facts["bytes"] else None,
        "languages": facts["languages"][:20],
        "audited": facts["audited"][:20],
        "month_chart": charts.columns(
            "Posts with a link that passes the URL rules, by month",
            [row["month"] for row in facts["months"]],
            [
                [
                    _scored(row, "karma_3_to_9", "karma_10_to_99", "karma_100_up"),
                    _scored(row, *LOW_KARMA),
                    row["unscored"],
                ]
                for row in facts["months"]
            ],
            names=("karma 3 and more", "less", "no score"),
        ),
        "paper": paper_rows(facts["overlap"]) if any(row["paper_percent"] for row in facts["overlap"]) else [],
        "overlap": rows,
        "settings": [
            (section, [(name, shown(value)) for name, value in values.items()])
            for section, values in facts["settings"].items()
            if values
        ],
    }
    return render("index.html.j2", **values)


LOW_KARMA = ("karma_0_or_less", "karma_1", "karma_2")
AGES = ("under 1 hour", "1 to 24 hours", "1 to 7 days", "7 to 30 days", "30 to 365 days", "over 365 days", "unknown")


def _scored(row: Mapping[str, int], *keys: str) -> int:
    return sum(row[key] for key in keys)


def silent_months(months: Sequence[Mapping[str, Any]], least: int = 10) -> list[str]:
    """Months of at least `least` scored posts whose scores are all 1."""
    return [
        row["month"] for row in months if row["karma_1"] == row["posts"] - row["unscored"] and row["karma_1"] >= least
    ]


def _names(paths: Sequence[Path]) -> dict[str, list[list[Any]]]:
    """Kind -> [name, documents, bytes] of all shards together, by documents and then by name."""
    table = pa.concat_tables([measure.NAME_SCHEMA.empty_table(), *map(storage.read_table, paths)])
    keys = ["kind", "name"]
    added = table.group_by(keys, use_threads=False).aggregate([("documents", "sum"), ("bytes", "sum")])
    order = [("kind", "ascending"), ("documents_sum", "descending"), ("name", "ascending")]
    found: dict[str, list[list[Any]]] = {"domain": [], "subreddit": []}
    for row in added.sort_by(order).to_pylist():
        found[row["kind"]].append([row["name"], row["documents_sum"], row["bytes_sum"]])
    return found


def _added(paths: Sequence[Path], order: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Tables of counts by name, added up."""
    from webtext import links

    if not paths:
        return []
    rows: list[dict[str, Any]] = links.summed(map(storage.read_table, paths)).to_pylist()
    if order:
        rows.sort(key=lambda row: order.index(row["score_age"]))
    return rows


def _tallied(tally: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    total = sum(size for _, size in tally.values())
    rows = [
        {"name": name, "documents": documents, "bytes": size, "share": size / total if total else 0.0}
        for name, (documents, size) in tally.items()
    ]
    return sorted(rows, key=lambda row: (-row["bytes"], row["name"]))


def compare_domains(domains: Sequence[Sequence[Any]], path: Path) -> dict[str, Any]:
    """Spearman's correlation of our documents per domain with WebText's published list ("1542261 google", a line each)

    over the domains of that list; one that we lack counts 0. Ties share their mean rank. None where all of ours tie.
    """
    from scipy import stats

    listed: list[tuple[str, int]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if not parts or (len(parts) == 1 and parts[0].isdigit()):  # the list has one row without a name
            continue
        if len(parts) != 2 or not parts[0].isdigit():
            raise ValueError(
                f"[corpus] webtext_domains: {path} line {number}: expected a count and a domain, got {line!r}; "
                "take domains.txt of OpenAI's release"
            )
        listed.append((parts[1], int(parts[0])))
    ours: dict[str, int] = {}
    for name, documents, _ in domains:
        label = str(name).partition(".")[0]
        ours[label] = ours.get(label, 0) + documents
    counts = [ours.get(name, 0) for name, _ in listed]
    spearman = None
    if len(set(counts)) > 1:
        spearman = round(float(stats.spearmanr(counts, [count for _, count in listed]).statistic), 6)
    return {
        "listed": len(listed),
        "present": sum(1 for count in counts if count),
        "spearman": spearman,
        "top": [[name, count, mine] for (name, count), mine in zip(listed[:50], counts[:50], strict=True)],
    }


def tokenizer_facts(inputs: CorpusInputs) -> dict[str, Any]:
    """The tokenizer's part: bytes per token beside GPT-2's own on samples, use of the vocabulary on all shards."""
    from webtext import bpe

    tokenizer = bpe.load_tokenizer(inputs.root / "tokenizer")
    reference = bpe.load_tokenizer(inputs.gpt2) if inputs.gpt2 else None
    sets: dict[str, Any] = {split: _corpus_texts(inputs.root, split) for split in ("train", "validation")}
    if inputs.evaluation_sets:
        from dedup.overlap import read_evaluation_sets

        for one in read_evaluation_sets(inputs.evaluation_sets):
            sets[one.name] = measure.batches_of(_slices(one.texts), SAMPLE_BYTES)
    found = bpe.tokenizer_statistics(sets, tokenizer, reference=reference)
    use = np.zeros(tokenizer.size, np.uint64)
    for path in inputs.usage:
        use += storage.read_table(path).column("count").to_numpy()
    counted = use[: tokenizer.end_of_text]
    unused, once = int((counted == 0).sum()), int((counted == 1).sum())
    return {
        "size": tokenizer.size,
        "sets": [
            {
                "name": name,
                **dataclasses.asdict(one),
                "bytes_per_token": round(one.bytes_per_token, 6),
                "reference_bytes_per_token": (
                    None if one.reference_bytes_per_token is None else round(one.reference_bytes_per_token, 6)
                ),
            }
            for name, one in found.sets.items()
        ],
        "reference": reference is not None,
        "sample_bytes": SAMPLE_BYTES,
        "unused": unused,
        "unused_share": unused / max(1, tokenizer.size - 1),
        "used_once": once,
        "used_once_share": once / max(1, tokenizer.size - 1),
        "longest": [[index, token.decode("utf-8", "backslashreplace")] for index, token in found.longest],
        "samples": [[name, list(tokens)] for name, tokens in found.samples],
    }


def _corpus_texts(root: Path, split: str) -> Iterator[Any]:
    """Texts of a split, in the order of ids, up to SAMPLE_BYTES; ids are hashes, so the first are as good as any."""

    def every() -> Iterator[Any]:
        for path in sorted((root / "corpus" / "data").glob(f"{split}-*.parquet")):
            for batch in storage.read_batches(path, ["text"], measure.BATCH_ROWS):
                yield batch.column("text")

    return measure.batches_of(every(), SAMPLE_BYTES)


def _slices(texts: Any) -> Iterator[Any]:
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    for chunk in chunks:
        filled = pc.fill_null(chunk, "")
        for start in range(0, len(filled), measure.BATCH_ROWS):
            yield filled.slice(start, measure.BATCH_ROWS)


# The dataset card ----------------------------------------------------------------------------------------------------

MEANINGS = {
    "id": "first 32 hex digits of SHA-256 of the canonical URL",
    "url": "where the text was found, after redirects",
    "text": "the document",
    "title": "as the page states it",
    "language": "ISO 639-1, `und` where there is too little text",
    "language_score": "probability of the language",
    "domain": "registered domain of the link",
    "subreddit": "of the best post",
    "post_id": "the best post: reddit.com/comments/ID",
    "karma": "by the rule of [select] karma_rule",
    "num_posts": "how many submissions name the page",
    "created_at": "earliest post, ISO 8601, UTC",
    "fetched_at": "when the page was captured, ISO 8601, UTC",
    "extractor": "what made text of the page",
    "num_words": "words in the text",
    "num_bytes": "UTF-8 bytes of the text",
}
SIZE_CATEGORIES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_DTYPES = {"float": "float32"}


def card(
    settings: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Mapping[str, int]],
    outcomes: Mapping[str, int],
) -> str:
    """README.md of corpus/: what `datasets` reads at the top, what people read below.

    settings: by section, those that affect bytes. splits: documents and bytes. outcomes: "stage/reason" -> links.
    """
    select, keep, extract = settings["select"], settings["filter"], settings["extract"]
    documents = sum(size["documents"] for size in splits.values())
    languages = list(keep["languages"])
    dates = [f"{word} {select[key]}" for key, word in (("since", "since"), ("until", "until")) if select.get(key)]
    lost = [
        (*reason.split("/", 1), number)
        for reason, number in sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
        if not reason.startswith("corpus/")
    ]
    rule = "the best post counts" if select["karma_rule"] == "max" else "all posts of a page added up"
    category = next((name for limit, name in SIZE_CATEGORIES if documents < limit), "10M<n<100M")
    chosen = public_settings({section: settings[section] for section in ("select", "extract", "minhash", "dedup")})
    return render(
        "card.md.j2",
        name="WebText, rebuilt",
        languages=json.dumps(languages or ["mul"]),
        num_languages=len(languages),
        size_category=category,
        fields=[
            {
                "name": one.name,
                "dtype": _DTYPES.get(str(one.type), str(one.type)),
                "nullable": one.nullable,
                "meaning": MEANINGS[one.name],
            }
            for one in CORPUS_SCHEMA
        ],
        splits=[{"name": split, **size} for split, size in splits.items()],
        karma=f"at least {select['min_karma']} karma ({rule})",
        dates=f", {', '.join(dates)}" if dates else "",
        links=sum(outcomes.values()),
        documents=documents,
        extractor=extract["extractor"],
        kept_languages=", ".join(languages) or "all",
        wikipedia=bool(select["allow_wikipedia"]),
        threshold=settings["dedup"]["threshold"],
        ngram=settings["minhash"]["ngram"],
        outcomes=lost,
        settings=[
            (f"[{section}] {key}", shown(value)) for section, keys in chosen.items() for key, value in keys.items()
        ],
    )


# The manifest --------------------------------------------------------------------------------------------------------


def manifest(
    root: Path,
    stages: Sequence[str],
    made: Records,
    *,
    settings: Mapping[str, Any],
    commit: str | None,
    digest: Callable[[Path], str] = storage.sha256_of,
) -> dict[str, Any]:
    """Every file of the build in `root` outside logs/ and what made it. `made`: the records of report/ so far.

    Digests are the seals'; `digest` is asked for append-only files, which no seal has: captures, above all.
    """
    files: dict[str, dict[str, Any]] = {}
    libraries: dict[str, dict[str, str]] = {}

    def add(stage: str, records: Sequence[Record]) -> None:
        for record in records:
            for file in record.files:
                files[f"{stage}/{file.name}"] = {"sha256": file.sha256, "bytes": file.size_bytes, "rows": file.rows}

    for stage in stages:
        seal = read_seal(root / stage)
        if seal is None:
            continue
        path = root / stage / SEAL
        files[f"{stage}/{SEAL}"] = {"sha256": storage.sha256_of(path), "bytes": path.stat().st_size, "rows": None}
        for phase in seal["phases"]:
            libraries.setdefault(stage, {}).update(phase["basis"]["libraries"])
        records = sealed_records(root / stage)
        for phase in seal["phases"]:
            if phase["keep"]:
                add(stage, records[phase["phase"]])
    for phase_records in made.values():
        add("report", phase_records)
    files.update(_appended(root, digest))
    return {
        "manifest": 1,
        "commit": commit,
        "settings": settings,
        "versions": versions(),
        "made_with": {stage: dict(sorted(found.items())) for stage, found in sorted(libraries.items()) if found},
        "unicode": unicode_versions(),
        "files": dict(sorted(files.items())),
    }


def _appended(root: Path, digest: Callable[[Path], str]) -> dict[str, dict[str, Any]]:
    """The append-only files, which no unit owns: segments and plans of pages/, and documents/killed.jsonl."""
    from webtext import pages

    found: dict[str, dict[str, Any]] = {}
    rows_of = {
        segment.ledger: (segment.ledger_sha256, segment.rows) for segment in pages.sealed_segments(root / "pages")
    }
    paths = [
        *(root / "pages").glob("segment-*"),
        *(root / "pages").glob("plan-*.parquet"),
        root / "documents" / "killed.jsonl",
    ]
    for path in sorted(paths):
        if path.is_file():
            sha256, rows = rows_of.get(path, (None, None))
            name = path.relative_to(root).as_posix()
            found[name] = {"sha256": sha256 or digest(path), "bytes": path.stat().st_size, "rows": rows}
    return found


@functools.cache
def versions() -> dict[str, str]:
    """What is installed of that which this project asks for; Python too."""
    try:
        asked = importlib.metadata.requires("webtext") or []
        own = importlib.metadata.version("webtext")
    except importlib.metadata.PackageNotFoundError:
        asked, own = [], "not installed"
    found = {"python": platform.python_version(), "webtext": own}
    for requirement in asked:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def unicode_versions() -> dict[str, str]:
    """Which Unicode the rules for words, for tokens, and Python's own use."""
    from dedup._unicode import UNICODE_VERSION as WORDS
    from webtext.bpe import UNICODE_VERSION as TOKENS

    return {"words": WORDS, "tokens": TOKENS, "python": unicodedata.unidata_version}


def git_commit(checkout: Path | None = None) -> str | None:
    """The commit of the checkout that this code runs from; None where it is installed without one."""
    checkout = checkout or Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    commit = done.stdout.strip()
    return commit if done.returncode == 0 and re.fullmatch(r"[0-9a-f]{40,64}", commit) else None


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
