"""The records that travel between the rooms, and their Arrow schemas.

- A submission is what somebody posted; a link is what is left of all submissions of one page; a page is a capture of
  it; a document is its text. `id` is the first 32 hex digits of the SHA-256 of the canonical URL: never a position.
- Times are whole seconds since 1970-01-01 UTC inside the build and ISO 8601 strings in the corpus that users load.
- What a step drops is a row of DROP_SCHEMA: the only source of every count in every report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

SUBMISSION_SCHEMA = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),  # base 36, without "t3_"; "" never occurs
        pa.field("url", pa.string(), nullable=False),  # as posted
        pa.field("karma", pa.int32()),  # null where the dump has no score (2017-10, 2017-11)
        pa.field("created_at", pa.int64()),
        pa.field("retrieved_at", pa.int64()),  # when the score was read; null in 36 months
        pa.field("subreddit", pa.string()),
        pa.field("over_18", pa.bool_(), nullable=False),
        pa.field("removed", pa.bool_(), nullable=False),  # by anyone: moderator, Reddit or the author
    ]
)
"""links/: one row per submission that links out of Reddit."""

KEYED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),  # registered domain
        *(field for field in SUBMISSION_SCHEMA if field.name not in ("over_18", "removed")),
    ]
)
"""between links/ and selected/: one row per submission that passed the rules a submission alone can pass."""

LINK_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),  # as posted in the best post: this is what gets fetched
        pa.field("domain", pa.string(), nullable=False),  # registered domain
        pa.field("subreddit", pa.string()),
        pa.field("post_id", pa.string(), nullable=False),  # the best post: most karma, then earliest, then smallest id
        pa.field("karma", pa.int64()),  # by rule: most of any post, or sum; null if only URL lists name the page
        pa.field("num_posts", pa.int32(), nullable=False),
        pa.field("created_at", pa.int64()),  # earliest post
        pa.field("score_age_seconds", pa.int64()),  # retrieved_at - created_at of the best post
    ]
)
"""selected/: one row per canonical URL, sorted by id."""

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),  # final URL of the capture
        pa.field("text", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("date", pa.string()),  # ISO date as the page states it
        pa.field("language", pa.string(), nullable=False),  # ISO 639-1, "und" where there is too little text
        pa.field("language_score", pa.float32(), nullable=False),
        pa.field("fetched_at", pa.int64(), nullable=False),
        pa.field("extractor", pa.string(), nullable=False),
        pa.field("num_words", pa.int32(), nullable=False),
        pa.field("num_bytes", pa.int32(), nullable=False),
    ]
)
"""documents/: what the capture alone gives, sorted by id."""

CORPUS_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=nullable)
        for name, kind, nullable in [
            ("id", pa.string(), False),
            ("url", pa.string(), False),
            ("text", pa.string(), False),
            ("title", pa.string(), True),
            ("language", pa.string(), False),
            ("language_score", pa.float32(), False),
            ("domain", pa.string(), False),
            ("subreddit", pa.string(), True),
            ("post_id", pa.string(), False),
            ("karma", pa.int64(), True),
            ("num_posts", pa.int32(), False),
            ("created_at", pa.string(), True),
            ("fetched_at", pa.string(), False),
            ("extractor", pa.string(), False),
            ("num_words", pa.int32(), False),
            ("num_bytes", pa.int32(), False),
        ]
    ]
)
"""corpus/: what users load. No map type and no zoned timestamps: `datasets` cannot read them."""

DROP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),  # null before a submission has a canonical URL
        pa.field("post_id", pa.string()),  # null after submissions were merged into links
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # a short stable word: "self_post", "karma", "language"
        pa.field("detail", pa.string()),  # what was seen: "karma 1 < 3", "line 812 at byte 20481: ..."
    ]
)


@dataclass(frozen=True, slots=True)
class Drop:
    """One thing that left the build, and why."""

    reason: str
    detail: str | None = None
    id: str | None = None
    post_id: str | None = None


def drop_batch(stage: str, drops: list[Drop]) -> Any:
    """DROP_SCHEMA record batch of `drops`, in their order."""
    return pa.record_batch(
        [
            pa.array([drop.id for drop in drops], pa.string()),
            pa.array([drop.post_id for drop in drops], pa.string()),
            pa.array([stage] * len(drops), pa.string()),
            pa.array([drop.reason for drop in drops], pa.string()),
            pa.array([drop.detail for drop in drops], pa.string()),
        ],
        schema=DROP_SCHEMA,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """A capture: the bytes a server gave for a link."""

    id: str
    url: str  # requested
    final_url: str  # after redirects
    content_type: str  # the Content-Type header as received, "" if none
    payload: bytes  # decoded from its content encoding, at most FetchSettings.max_decoded_bytes
    payload_sha256: str  # of `payload`
    fetched_at: int


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a page; the fields of DOCUMENT_SCHEMA."""

    id: str
    url: str
    text: str
    title: str | None
    date: str | None
    language: str
    language_score: float
    fetched_at: int
    extractor: str
    num_words: int
    num_bytes: int
