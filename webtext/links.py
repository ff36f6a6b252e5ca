"""From submissions to links: which submissions count, which of them are one page, and what the page's karma is.

- Two halves, as a shuffle wants them: `key_submissions` looks at one submission at a time and gives it its page's id;
  `aggregate` sees all submissions of a range of ids and makes links of them. `partition` cuts the first half's output.
- Every submission ends as a link (the best of its page) or as one drop: submissions = links + drops, in each half.
- Nothing depends on order: the same submissions, shuffled or split otherwise, give the same bytes. Ties end at the
  post's id, and a submission that several dumps hold counts once, as it was read last.
- The karma rule is `max` (OpenWebText: some post of the page reached it) or `sum` (OpenWebText2: all posts together).
  Which posts are merged does not depend on it, so changing it never changes ids.
- What a URL list names without a score is wanted, whatever Reddit thinks of it: such links are free of the karma rule.
- Columns are handled as numpy arrays of fixed width (ids as two 64-bit halves): no Python object per link in
  `aggregate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from webtext.records import DROP_SCHEMA, KEYED_SCHEMA, LINK_SCHEMA
from webtext.reddit import LIST_PREFIX, Removals
from webtext.urls import (
    FILE_EXTENSIONS,
    IMAGE_HOSTS,
    MEDIA_EXTENSIONS,
    REDDIT_HOSTS,
    VIDEO_HOSTS,
    UrlRules,
    canonical_url,
    document_id,
    matching_domain,
    registered_domain,
    rejection,
    rejection_of_key,
    url_host,
)

__all__ = [
    "SelectSettings",
    "aggregate",
    "karma_by_month",
    "key_submissions",
    "partition",
    "read_blocklist",
    "score_age_histogram",
    "summed",
    "url_rules",
]

STAGE = "selected"


def _setting(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True)
class SelectSettings:
    """Section [select]: which links are fetched."""

    min_karma: int = _setting(3, "least karma of a link (the paper: 3)")
    karma_rule: Literal["max", "sum"] = _setting("max", "karma of a link: max of its posts, or their sum")
    since: str | None = _setting(None, "first day of posts that count, as 2005-06-01 (UTC)")
    until: str | None = _setting(None, "last day of posts that count, as 2017-12-31 (UTC)")
    allow_unscored: bool = _setting(False, "keep submissions of dumps without a score (2017-10, 2017-11)")
    allow_over_18: bool = _setting(True, "keep submissions marked over 18; the paper says nothing of them")
    allow_removed: bool = _setting(False, "keep submissions that moderators, Reddit or their authors removed")
    allow_wikipedia: bool = _setting(False, "keep Wikipedia; the paper removed it")
    blocklist: tuple[str, ...] = _setting((), "domains never fetched, subdomains included")
    blocklist_files: tuple[str, ...] = _setting((), "files of such domains: one a line, hosts format, or ||domain^")
    media_extensions: tuple[str, ...] = _setting(MEDIA_EXTENSIONS, "URL extensions of pictures, sound and film")
    file_extensions: tuple[str, ...] = _setting(FILE_EXTENSIONS, "URL extensions of files that are not web pages")
    image_hosts: tuple[str, ...] = _setting(IMAGE_HOSTS, "domains of pictures")
    video_hosts: tuple[str, ...] = _setting(VIDEO_HOSTS, "domains of films, sound and streams")

    def __post_init__(self) -> None:
        if self.karma_rule not in ("max", "sum"):
            raise ValueError(f"[select] karma_rule: expected max or sum, got {self.karma_rule!r}")
        days = [_day("since", self.since), _day("until", self.until)]
        if days[0] is not None and days[1] is not None and days[0] > days[1]:
            raise ValueError(f"[select] until: expected a day not before since ({self.since}), got {self.until}")
        for name in ("blocklist", "image_hosts", "video_hosts"):
            for domain in getattr(self, name):
                try:
                    _domain(domain)
                except ValueError:
                    raise ValueError(f"[select] {name}: expected domains as in example.com, got {domain!r}") from None
        for name in ("media_extensions", "file_extensions"):
            for extension in getattr(self, name):
                if not re.fullmatch(r"[a-z0-9_]+", extension):
                    raise ValueError(
                        f"[select] {name}: expected lower case without a dot, as in pdf, got {extension!r}"
                    )


def _day(name: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"[select] {name}: expected a day as in 2017-12-31, got {text!r}") from None


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def url_rules(settings: SelectSettings) -> UrlRules:
    """What `webtext.urls.rejection` needs, blocklist files read. A blocklist wins over all other lists of hosts."""
    blocked = {_domain(domain) for domain in settings.blocklist}
    for path in settings.blocklist_files:
        blocked |= read_blocklist(path)
    return UrlRules(
        hosts={
            **dict.fromkeys(map(_domain, settings.image_hosts), "image_host"),
            **dict.fromkeys(map(_domain, settings.video_hosts), "video_host"),
            **dict.fromkeys(blocked, "blocklist"),
            **dict.fromkeys(REDDIT_HOSTS, "reddit"),
        },
        extensions={
            **dict.fromkeys(settings.file_extensions, "file_type"),
            **dict.fromkeys(settings.media_extensions, "media"),
        },
        wikipedia=not settings.allow_wikipedia,
    )


_BLOCKLIST_LINE = re.compile(r"(?:(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+|\|\|)?(?P<domain>[^\s|^/]+?)/?\^?(?:\$\S*)?")


def read_blocklist(path: str | Path) -> frozenset[str]:
    """The domains of a file: one a line, alone, in hosts format (`0.0.0.0 domain`) or for ad blockers (`||domain^`).

    `#` and `!` begin comments. ValueError for any other line: a rule that is not understood must not be passed over.
    """
    domains: set[str] = set()
    for number, line in enumerate(Path(path).read_text("utf-8", "replace").split("\n"), 1):
        text = re.sub(r"(?:^|\s)[#!].*", "", line.removeprefix("\ufeff")).strip()
        if not text:
            continue
        rule = _BLOCKLIST_LINE.fullmatch(text)
        try:
            domains.add(_domain(rule["domain"] if rule else ""))
        except ValueError:
            raise ValueError(
                f"[select] blocklist_files: {Path(path).name} line {number}: expected a domain, got {text[:80]!r}"
            ) from None
    return frozenset(domains)


def _domain(text: str) -> str:
    host = url_host("http://" + text)
    if "/" in text or ":" in text or "@" in text:
        raise ValueError(text)
    return host.removeprefix("www.")


# --- one submission at a time ----------------------------------------------------------------------------------------


def key_submissions(
    batch: pa.RecordBatch, settings: SelectSettings, removals: Removals, *, rules: UrlRules | None = None
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(KEYED_SCHEMA, DROP_SCHEMA): the submissions of `batch` that may become links, with their page's id; the others.

    `rules` is `url_rules(settings)`: hand it in when there are many batches, or blocklists are read for each.
    Reasons, first come: `removal`, those of `webtext.urls.rejection`, `removed`, `over_18`, `no_date`, `date`,
    `no_score`. Each row ends in one of the two.
    """
    rules = url_rules(settings) if rules is None else rules
    count = batch.num_rows
    urls: list[str] = batch.column("url").to_pylist()
    post_ids: list[str] = batch.column("post_id").to_pylist()
    late = _late_reasons(batch, settings)
    ids: list[str | None] = [None] * count
    domains: list[str] = [""] * count
    reasons: list[str | None] = [None] * count
    details: list[str | None] = [None] * count
    removed_posts, removed_ids, removed_domains = removals.post_ids, removals.ids, removals.domains
    for i, url in enumerate(urls):
        try:
            key = canonical_url(url)
        except ValueError as error:
            reasons[i] = rejection(url, rules)
            details[i] = str(error)[:300]
            continue
        page = ids[i] = document_id(key)
        reason = rejection_of_key(key, rules)
        if (
            page in removed_ids
            or post_ids[i] in removed_posts
            or (
                removed_domains
                and (matching_domain(url_host(url), removed_domains) or matching_domain(url_host(key), removed_domains))
            )
        ):
            reason = "removal"
        if reason is not None:
            reasons[i] = reason
            details[i] = url[:300]
        elif late is not None and late[i] is not None:
            reasons[i] = late[i]
        else:
            domains[i] = registered_domain(url)
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    whole = pa.record_batch(
        [pa.array(ids, pa.string()), pa.array(domains, pa.string())]
        + [batch.column(name) for name in KEYED_SCHEMA.names[2:]],
        names=KEYED_SCHEMA.names,
    )
    keyed = whole.filter(kept)
    gone = pc.invert(kept)
    drops = pa.record_batch(
        [
            pa.array(ids, pa.string()).filter(gone),
            batch.column("post_id").filter(gone),
            pa.repeat(STAGE, count - keyed.num_rows),
            pa.array(reasons, pa.string()).filter(gone),
            pa.array(details, pa.string()).filter(gone),
        ],
        schema=DROP_SCHEMA,
    )
    return pa.record_batch(keyed.columns, schema=KEYED_SCHEMA), drops


def _late_reasons(batch: pa.RecordBatch, settings: SelectSettings) -> list[str | None] | None:
    """Why a row may not count whatever its URL is; None where nothing speaks against any."""
    cases: list[tuple[str, pa.Array]] = []
    if not settings.allow_removed:
        cases.append(("removed", batch.column("removed")))
    if not settings.allow_over_18:
        cases.append(("over_18", batch.column("over_18")))
    created_at = batch.column("created_at")
    since, until = _day("since", settings.since), _day("until", settings.until)
    if since is not None or until is not None:
        # A list that gives no dates is not about dates.
        listed = pc.starts_with(batch.column("post_id"), LIST_PREFIX)
        cases.append(("no_date", pc.and_(pc.is_null(created_at), pc.invert(listed))))
    if since is not None:
        cases.append(("date", pc.less(created_at, _midnight(since))))
    if until is not None:
        cases.append(("date", pc.greater_equal(created_at, _midnight(until + timedelta(days=1)))))
    if not settings.allow_unscored:
        unscored = pc.is_null(batch.column("karma"))
        cases.append(("no_score", pc.and_(unscored, pc.invert(pc.starts_with(batch.column("post_id"), LIST_PREFIX)))))
    cases = [(reason, mask) for reason, mask in cases if pc.any(mask).as_py()]
    if not cases:
        return None
    masks = [pc.fill_null(mask, False) for _, mask in cases]
    columns = pa.StructArray.from_arrays(masks, [str(i) for i in range(len(masks))])
    found: list[str | None] = pc.case_when(columns, *[pa.scalar(reason) for reason, _ in cases]).to_pylist()
    return found


def partition(keyed: pa.Table, num_partitions: int) -> list[pa.Table]:
    """`keyed` cut into ranges of ids: the row with id x is in part `int(x[:8], 16) * num_partitions >> 32`.

    Rows keep their order within a part. A map task writes each part as a row group; a reduce task reads the same
    part of every file.
    """
    high, _ = _id_halves(keyed.column("id"))
    part = (high >> np.uint64(32)) * np.uint64(num_partitions) >> np.uint64(32)
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(num_partitions + 1))
    ordered = keyed.take(pa.array(order))
    return [ordered.slice(low, high - low) for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]


# --- all submissions of a page ---------------------------------------------------------------------------------------


def aggregate(keyed: pa.Table, settings: SelectSettings) -> tuple[pa.Table, pa.Table]:
    """(LINK_SCHEMA sorted by id, DROP_SCHEMA): the links that all submissions of a range of ids make.

    `keyed` (KEYED_SCHEMA) must hold every submission of each id in it. Drops are `same_submission` (another dump has
    it, read later), `karma` (each post of a page below the threshold; detail: how far) and `merged` (detail: the id
    of the link it became part of). The best post has most karma, then the earliest time, then the smallest id; its
    URL is the one to fetch.
    """
    keyed = keyed.select(KEYED_SCHEMA.names).combine_chunks()
    rows = _Rows(keyed)
    again = _read_again(keyed, rows)
    order = rows.order(np.flatnonzero(~again))
    high, low = rows.high[order], rows.low[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    starts = np.flatnonzero(first)
    best = order[starts]
    counts = np.diff(starts, append=len(order))

    scored, karma = rows.scored[order], rows.karma[order]
    has_score = _any_in(scored, starts)
    if settings.karma_rule == "max":
        total = rows.karma[best]  # the best post has the most; unscored ones come last
    else:
        total = _reduced(np.add, np.where(scored, karma, 0), starts)
    wanted = _any_in(rows.listed[order] & ~scored, starts)
    if settings.allow_unscored:
        wanted |= ~has_score
    passes = (has_score & (total >= settings.min_karma)) | wanted

    no_time = np.iinfo(np.int64).max
    earliest = _reduced(np.minimum, np.where(rows.timed[order], rows.created[order], no_time), starts)
    age = np.where(rows.timed[best] & rows.looked[best], rows.retrieved[best] - rows.created[best], 0)
    chosen = pa.array(best[passes])
    best_rows = keyed.take(chosen)
    links = pa.table(
        {
            "id": best_rows["id"],
            "url": best_rows["url"],
            "domain": best_rows["domain"],
            "subreddit": best_rows["subreddit"],
            "post_id": best_rows["post_id"],
            "karma": pa.array(total[passes], pa.int64(), mask=~has_score[passes]),
            "num_posts": pa.array(counts[passes], pa.int32()),
            "created_at": pa.array(earliest[passes], pa.int64(), mask=earliest[passes] == no_time),
            "score_age_seconds": pa.array(
                age[passes], pa.int64(), mask=~(rows.timed & rows.looked & rows.scored)[best][passes]
            ),
        },
        schema=LINK_SCHEMA,
    )
    link_of = np.repeat(np.arange(len(starts)), counts)
    merged = order[~first & passes[link_of]]
    below = ~passes[link_of]
    word = "karma" if settings.karma_rule == "max" else "summed karma"
    seen = np.where(has_score, total, np.iinfo(np.int64).min)[link_of][below]
    details = _mapped(
        seen, lambda value: f"{word} {value} < {settings.min_karma}" if value > -(1 << 62) else "no score"
    )
    again_rows = rows.order(np.flatnonzero(again))
    drops = pa.concat_tables(
        [
            _drops(keyed, again_rows, "same_submission", pa.nulls(len(again_rows), pa.string())),
            _drops(keyed, order[below], "karma", details),
            _drops(keyed, merged, "merged", None),
        ]
    ).combine_chunks()
    return links, drops


class _Rows:
    """The columns that decide, as numpy arrays; where a value is null its number is the least that sorts last."""

    def __init__(self, keyed: pa.Table) -> None:
        self.high, self.low = _id_halves(keyed.column("id"))
        self.scored, self.karma = _numbers(keyed.column("karma"))
        self.timed, self.created = _numbers(keyed.column("created_at"))
        self.looked, self.retrieved = _numbers(keyed.column("retrieved_at"))
        self.listed = _flags(pc.starts_with(keyed.column("post_id"), LIST_PREFIX))
        self.post = _post_order(keyed.column("post_id"))

    def order(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """`rows` by id, then from the best post to the least."""
        keys = (
            self.post[rows],
            self.created[rows],
            ~self.timed[rows],
            -self.karma[rows],
            ~self.scored[rows],
            self.low[rows],
            self.high[rows],
        )
        sorted_rows: NDArray[np.int64] = rows[np.lexsort(keys)]
        return sorted_rows


def _read_again(keyed: pa.Table, rows: _Rows) -> NDArray[np.bool_]:
    """Which rows are a submission that another row holds too: all but the one read last (then most karma, earliest)."""
    again = np.zeros(keyed.num_rows, np.bool_)
    order = np.lexsort((rows.post, rows.low, rows.high))
    high, low, post = rows.high[order], rows.low[order], rows.post[order]
    equal = (high[1:] == high[:-1]) & (low[1:] == low[:-1]) & (post[1:] == post[:-1])
    if not equal.any():
        return again
    several = np.zeros(len(order), np.bool_)
    several[1:] |= equal
    several[:-1] |= equal
    doubtful = order[several]
    # Few rows as a rule: here every column decides, so that what is left does not depend on the order they came in.
    columns = keyed.take(pa.array(doubtful)).append_column("row", pa.array(doubtful))
    best_first = columns.sort_by(
        [
            ("id", "ascending"),
            ("post_id", "ascending"),
            ("retrieved_at", "descending"),
            ("karma", "descending"),
            ("created_at", "ascending"),
            ("url", "ascending"),
            ("subreddit", "ascending"),
        ]
    )
    places = best_first.column("row").to_numpy()
    again[places[1:]] = (
        (rows.high[places[1:]] == rows.high[places[:-1]])
        & (rows.low[places[1:]] == rows.low[places[:-1]])
        & (rows.post[places[1:]] == rows.post[places[:-1]])
    )
    return again


def _drops(keyed: pa.Table, rows: NDArray[np.int64], reason: str, details: pa.Array | None) -> pa.Table:
    ids = pc.take(keyed.column("id"), pa.array(rows))
    return pa.table(
        [
            ids,
            pc.take(keyed.column("post_id"), pa.array(rows)),
            pa.repeat(STAGE, len(rows)),
            pa.repeat(reason, len(rows)),
            ids if details is None else details,
        ],
        schema=DROP_SCHEMA,
    )


def _mapped(values: NDArray[np.int64], text: Any) -> pa.Array:
    """`text` of each value, made once for each different one."""
    different, places = np.unique(values, return_inverse=True)
    return pa.array([text(value) for value in different.tolist()], pa.string()).take(pa.array(places))


def _any_in(flags: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = _reduced(np.logical_or, flags, starts)
    return found


def _reduced(function: np.ufunc, values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """`function` over each group of `values`; numpy's reduceat does not know what to do with no groups."""
    result: NDArray[Any] = function.reduceat(values, starts) if len(starts) else values[:0]
    return result


def _flags(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = column.to_numpy(zero_copy_only=False).astype(np.bool_)
    return flags


def _numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(which values there are, the values with 0 where there is none)."""
    return _flags(pc.is_valid(column)), pc.fill_null(column, 0).to_numpy().astype(np.int64, copy=False)


_NIBBLE = np.zeros(256, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)


def _id_halves(column: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The 128-bit ids of a column of 32 hex digits as two columns of 64 bits, which order as the text does."""
    text = _bytes_of(column)
    if len(text) != 32 * len(column):
        raise ValueError("expected ids of 32 hex digits each; make them with webtext.urls.document_id")
    nibbles = _NIBBLE[text].reshape(-1, 16, 2)
    halves = (nibbles[:, :, 0] << 4 | nibbles[:, :, 1]).view(">u8").astype(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def _bytes_of(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The text of all values, one after the other."""
    pieces = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        _, offsets, data = chunk.buffers()
        if len(chunk) == 0:
            continue
        kind = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        ends = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1]
        pieces.append(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]])
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)


def _post_order(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A number for each post id, in the order of base 36: shorter first, then by digits. Equal ids, equal numbers."""
    lengths = pc.binary_length(column).to_numpy().astype(np.int64)
    longest = int(lengths.max(initial=0))
    if longest > 8:
        padded = pc.utf8_lpad(column, longest, padding="\0")
        if isinstance(padded, pa.ChunkedArray):
            padded = padded.combine_chunks()
        ranks: NDArray[np.uint64] = pc.rank(padded, tiebreaker="dense").to_numpy().astype(np.uint64)
        return ranks
    text = _bytes_of(column)
    ends = np.cumsum(lengths)
    number = np.zeros(len(lengths), np.uint64)
    for place in range(longest):  # from the last digit to the first
        has = lengths > place
        number[has] |= text[ends[has] - 1 - place].astype(np.uint64) << np.uint64(8 * place)
    return number


# --- what the report shows -------------------------------------------------------------------------------------------

_AGES = [("under 1 hour", 3600), ("1 to 24 hours", 86_400), ("1 to 7 days", 7 * 86_400), ("7 to 30 days", 30 * 86_400)]
_AGES += [("30 to 365 days", 365 * 86_400), ("over 365 days", np.iinfo(np.int64).max)]


def score_age_histogram(links: pa.Table) -> pa.Table:
    """How old the posts were when their scores were read: a score read within hours says little.

    Table of `score_age: string`, `links: int64`, in rising order, `unknown` last; every bucket has its row.
    """
    known = pc.drop_null(links.column("score_age_seconds")).to_numpy()
    bounds = [limit for _, limit in _AGES[:-1]]
    counts = np.bincount(np.searchsorted(bounds, known, side="right"), minlength=len(_AGES))
    names = [name for name, _ in _AGES] + ["unknown"]
    return pa.table(
        {"score_age": names, "links": [*counts.tolist(), links.num_rows - len(known)]},
        schema=pa.schema([("score_age", pa.string()), ("links", pa.int64())]),
    )


_KARMA_BOUNDS = [("karma_0_or_less", 1), ("karma_1", 2), ("karma_2", 3), ("karma_3_to_9", 10), ("karma_10_to_99", 100)]


def karma_by_month(rows: pa.Table) -> pa.Table:
    """Posts per month and karma, of keyed submissions or of links: months whose scores were read at once are all 1.

    Table of `month: string` ("2015-03", or "unknown"), `posts`, `unscored`, `karma_0_or_less`, `karma_1`, `karma_2`,
    `karma_3_to_9`, `karma_10_to_99`, `karma_100_up`: int64, by month. Tables of parts add up: `summed`.
    """
    timed, seconds = _numbers(rows.column("created_at"))
    scored, karma = _numbers(rows.column("karma"))
    month = seconds.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    month[~timed] = np.iinfo(np.int64).max
    different, places = np.unique(month, return_inverse=True)
    bucket = np.searchsorted([bound for _, bound in _KARMA_BOUNDS], karma, side="right")
    bucket[~scored] = len(_KARMA_BOUNDS) + 1
    width = len(_KARMA_BOUNDS) + 2
    counts = np.bincount(places * width + bucket, minlength=len(different) * width).reshape(-1, width)
    last = np.iinfo(np.int64).max
    names = ["unknown" if value == last else str(np.datetime64(value, "M")) for value in different.tolist()]
    columns = {"month": pa.array(names, pa.string()), "posts": pa.array(counts.sum(axis=1), pa.int64())}
    columns["unscored"] = pa.array(counts[:, -1], pa.int64())
    for i, name in enumerate([*(name for name, _ in _KARMA_BOUNDS), "karma_100_up"]):
        columns[name] = pa.array(counts[:, i], pa.int64())
    return pa.table(columns)


def summed(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables of counts (a name, then numbers) added up by name, sorted by it."""
    whole = pa.concat_tables(tables)
    name, *numbers = whole.column_names
    added = whole.group_by(name, use_threads=False).aggregate([(number, "sum") for number in numbers])
    return added.rename_columns([name, *numbers]).select(whole.column_names).sort_by(name)
