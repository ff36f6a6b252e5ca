"""Links: each submission is a link or a drop, in any order, and the fast reduction equals the slow one."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext.links import (
    SelectSettings,
    aggregate,
    karma_by_month,
    key_submissions,
    partition,
    read_blocklist,
    score_age_histogram,
    summed,
    url_rules,
)
from webtext.records import DROP_SCHEMA, KEYED_SCHEMA, LINK_SCHEMA, SUBMISSION_SCHEMA
from webtext.reddit import Removals, read_dump, read_removals
from webtext.urls import canonical_url, document_id, registered_domain, rejection

Row = dict[str, Any]

KEEP_ALL = SelectSettings(
    min_karma=-(10**9),
    allow_unscored=True,
    allow_removed=True,
    allow_wikipedia=True,
    media_extensions=(),
    file_extensions=(),
    image_hosts=(),
    video_hosts=(),
)


def submission(**fields: Any) -> Row:
    return {
        "post_id": "abc",
        "url": "http://example.com/story",
        "karma": 7,
        "created_at": 1_430_000_000,
        "retrieved_at": 1_432_000_000,
        "subreddit": "news",
        "over_18": False,
        "removed": False,
    } | fields


def batch_of(*rows: Row) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=SUBMISSION_SCHEMA)


def keyed_of(*rows: Row) -> pa.Table:
    """Keyed submissions, none refused."""
    keyed, drops = key_submissions(batch_of(*rows), KEEP_ALL, Removals())
    assert drops.num_rows == 0
    return pa.Table.from_batches([keyed])


def selected(*rows: Row, **options: Any) -> tuple[list[Row], list[Row]]:
    """(links, drops of both halves) of submissions, reconciled."""
    chosen = SelectSettings(**options)
    keyed, early = key_submissions(batch_of(*rows), chosen, Removals())
    links, late = aggregate(pa.Table.from_batches([keyed]), chosen)
    for table, schema in ((keyed, KEYED_SCHEMA), (early, DROP_SCHEMA), (links, LINK_SCHEMA), (late, DROP_SCHEMA)):
        table.validate(full=True)
        assert table.schema == schema
    drops = early.to_pylist() + late.to_pylist()
    assert links.num_rows + len(drops) == len(rows)
    return links.to_pylist(), drops


# --- one submission at a time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "options", "reason"),
    [
        ({}, {}, None),
        ({"karma": 3}, {}, None),
        ({"karma": 2}, {}, "karma"),
        ({"karma": 2}, {"min_karma": 2}, None),
        ({"karma": None}, {}, "no_score"),
        ({"karma": None}, {"allow_unscored": True}, None),
        ({"karma": None, "post_id": "list:a.txt:1"}, {}, None),
        ({"karma": 1, "post_id": "list:a.csv:1"}, {}, "karma"),
        ({"removed": True}, {}, "removed"),
        ({"removed": True}, {"allow_removed": True}, None),
        ({"over_18": True}, {}, None),
        ({"over_18": True}, {"allow_over_18": False}, "over_18"),
        # 2015-04-25T22:13:20Z
        ({}, {"since": "2015-04-25"}, None),
        ({}, {"since": "2015-04-26"}, "date"),
        ({}, {"until": "2015-04-25"}, None),
        ({}, {"until": "2015-04-24"}, "date"),
        ({"created_at": 1_430_006_399}, {"until": "2015-04-25"}, None),
        ({"created_at": 1_430_006_400}, {"until": "2015-04-25"}, "date"),
        ({"created_at": 1_429_920_000}, {"since": "2015-04-25"}, None),
        ({"created_at": 1_429_919_999}, {"since": "2015-04-25"}, "date"),
        ({"created_at": None}, {}, None),
        ({"created_at": None}, {"until": "2017-12-31"}, "no_date"),
        ({"created_at": None, "karma": None, "post_id": "list:a:1"}, {"until": "2017-12-31"}, None),
        ({"url": "http://i.imgur.com/x.png"}, {}, "image_host"),
        ({"url": "http://i.imgur.com/x"}, {"image_hosts": ()}, None),
        ({"url": "http://youtu.be/x"}, {}, "video_host"),
        ({"url": "http://a.com/x.mp4"}, {}, "media"),
        ({"url": "http://a.com/x.pdf"}, {}, "file_type"),
        ({"url": "http://a.com/x.pdf"}, {"file_extensions": ("doc",)}, None),
        ({"url": "https://en.m.wikipedia.org/wiki/X"}, {}, "wikipedia"),
        ({"url": "https://en.m.wikipedia.org/wiki/X"}, {"allow_wikipedia": True}, None),
        ({"url": "https://np.reddit.com/r/x"}, {}, "reddit"),
        ({"url": "http://192.168.0.1/"}, {}, "private_host"),
        ({"url": "magnet:?x"}, {}, "not_http"),
        ({"url": "http://a b.com/"}, {}, "bad_url"),
        ({"url": "http://sub.example.com/"}, {"blocklist": ("example.com",)}, "blocklist"),
        ({"url": "http://sub.example.com/"}, {"blocklist": ("www.Example.com",)}, "blocklist"),
        ({"url": "http://example.com/"}, {"blocklist": ("sub.example.com",)}, None),
        ({"url": "http://imgur.com/"}, {"blocklist": ("imgur.com",)}, "blocklist"),
    ],
)
def test_a_submission_is_kept_or_dropped_for_its_reason(fields: Row, options: Row, reason: str | None) -> None:
    links, drops = selected(submission(**fields), **options)
    assert [drop["reason"] for drop in drops] == ([] if reason is None else [reason])
    assert len(links) == (reason is None)
    assert all(drop["post_id"] == submission(**fields)["post_id"] and drop["stage"] == "selected" for drop in drops)


def test_drops_name_the_page_wherever_the_url_has_one() -> None:
    _, drops = selected(
        submission(url="http://i.imgur.com/a"),
        submission(url="ftp://a.com/"),
        submission(karma=1),
        submission(removed=True),
    )
    pages = {drop["reason"]: drop["id"] for drop in drops}
    story = document_id(canonical_url("http://example.com/story"))
    assert pages == {
        "image_host": document_id("http://i.imgur.com/a"),
        "not_http": None,
        "karma": story,
        "removed": story,
    }


def test_removals_go_before_everything_else(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("http://www.a.com/x\nb.com\nt3_p3\n")
    removals = read_removals([tmp_path / "r.txt"])
    batch = batch_of(
        submission(post_id="p1", url="https://a.com/x/"),
        submission(post_id="p2", url="http://sub.b.com/photo.jpg"),
        submission(post_id="p3"),
        submission(post_id="p4"),
    )
    keyed, drops = key_submissions(batch, SelectSettings(), removals)
    assert keyed.column("post_id").to_pylist() == ["p4"]
    assert drops.column("reason").to_pylist() == ["removal"] * 3


def test_keyed_rows_carry_id_and_registered_domain_and_the_url_as_posted() -> None:
    url = "https://www.news.example.co.uk/story/?utm_source=x"
    row = keyed_of(submission(url=url)).to_pylist()[0]
    assert row["id"] == document_id("http://news.example.co.uk/story")
    assert row["domain"] == "example.co.uk"
    assert row["url"] == url


def test_a_slice_of_a_batch_is_keyed_as_the_batch_is() -> None:
    rows = [
        submission(post_id=f"p{i}", karma=i, url=f"http://a{i % 7}.com/{i % 5}.pdf"[: 18 + i % 5]) for i in range(40)
    ]
    batch = batch_of(*rows)
    whole, _ = key_submissions(batch_of(*rows[11:29]), SelectSettings(), Removals())
    part, _ = key_submissions(batch.slice(11, 18), SelectSettings(), Removals())
    assert part == whole
    assert 0 < whole.num_rows < 18


def test_blocklists_come_from_files_in_the_usual_forms(tmp_path: Path) -> None:
    path = tmp_path / "block.txt"
    path.write_text(
        "# hosts\n0.0.0.0 ads.example.com # why\n||tracker.example^\n! adblock\n"
        "plain.org/\nwww.Other.net\n::1 six.com\n\n"
    )
    expected = frozenset(["ads.example.com", "tracker.example", "plain.org", "other.net", "six.com"])
    assert read_blocklist(path) == expected
    rules = url_rules(SelectSettings(blocklist_files=(str(path),), blocklist=("more.org",)))
    assert {domain for domain, reason in rules.hosts.items() if reason == "blocklist"} == expected | {"more.org"}
    assert rejection("http://x.tracker.example/", rules) == "blocklist"
    path.write_text("a.com\nexample.com/path/to\n")
    with pytest.raises(ValueError, match=r"^\[select\] blocklist_files: block.txt line 2: expected a domain, got "):
        read_blocklist(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"karma_rule": "mean"}, "[select] karma_rule: expected max or sum, got 'mean'"),
        ({"since": "2017-13-01"}, "[select] since: expected a day as in 2017-12-31, got '2017-13-01'"),
        ({"since": "2017-01-02", "until": "2017-01-01"}, "[select] until: expected a day not before since"),
        (
            {"blocklist": ("http://a.com",)},
            "[select] blocklist: expected domains as in example.com, got 'http://a.com'",
        ),
        ({"file_extensions": (".pdf",)}, "[select] file_extensions: expected lower case without a dot"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: Row, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        SelectSettings(**options)
    assert str(caught.value).startswith(message)


# --- all submissions of a page ---------------------------------------------------------------------------------------


def test_the_best_post_gives_the_url_and_the_others_are_merged_into_it() -> None:
    links, drops = selected(
        submission(
            post_id="a", url="http://example.com/story?utm_source=x", karma=5, created_at=100, retrieved_at=1000
        ),
        submission(post_id="b", url="https://www.example.com/story/", karma=9, created_at=300, retrieved_at=None),
        submission(post_id="c", url="http://m.example.com/story#c", karma=9, created_at=200, retrieved_at=700),
        submission(post_id="d", url="http://example.com/other", karma=1),
    )
    story = document_id("http://example.com/story")
    assert links == [
        {
            "id": story,
            "url": "http://m.example.com/story#c",
            "domain": "example.com",
            "subreddit": "news",
            "post_id": "c",
            "karma": 9,
            "num_posts": 3,
            "created_at": 100,
            "score_age_seconds": 500,
        }
    ]
    assert sorted((drop["post_id"], drop["reason"], drop["detail"]) for drop in drops) == [
        ("a", "merged", story),
        ("b", "merged", story),
        ("d", "karma", "karma 1 < 3"),
    ]


@pytest.mark.parametrize(
    ("scores", "rule", "kept", "karma"),
    [
        ([2, 2], "max", False, None),
        ([2, 2], "sum", True, 4),
        ([3, -5], "max", True, 3),
        ([3, -5], "sum", False, None),
        ([2, None], "max", False, None),
        ([3, None], "sum", True, 3),
    ],
)
def test_the_karma_rule_is_per_post_or_summed(
    scores: list[int | None], rule: str, kept: bool, karma: int | None
) -> None:
    rows = [submission(post_id=f"p{i}", karma=score) for i, score in enumerate(scores)]
    links, drops = selected(*rows, karma_rule=rule, allow_unscored=True)
    assert [link["karma"] for link in links] == ([karma] if kept else [])
    if not kept:
        word = "karma 2 < 3" if rule == "max" else "summed karma -2 < 3"
        assert {(drop["reason"], drop["detail"]) for drop in drops} == {("karma", word)}


def test_a_link_of_a_list_is_free_of_the_karma_rule_and_says_what_karma_it_has() -> None:
    links, _ = selected(
        submission(post_id="list:a.txt:1", karma=None, created_at=None, retrieved_at=None),
        submission(post_id="zz", karma=1, created_at=50),
        submission(post_id="list:a.txt:2", url="http://only.list/", karma=None, created_at=None, retrieved_at=None),
    )
    by_domain = {link["domain"]: link for link in links}
    assert (by_domain["example.com"]["karma"], by_domain["example.com"]["post_id"]) == (1, "zz")
    assert by_domain["only.list"]["karma"] is None
    assert by_domain["only.list"]["created_at"] is None
    assert by_domain["only.list"]["score_age_seconds"] is None


def test_a_submission_in_two_dumps_counts_once_as_it_was_read_last() -> None:
    rows = [
        submission(post_id="a", karma=2, retrieved_at=1_430_000_010),
        submission(post_id="a", karma=40, retrieved_at=1_435_000_000),
        submission(post_id="a", karma=99, retrieved_at=None),
        submission(post_id="b", karma=2),
    ]
    links, drops = selected(*rows, karma_rule="sum")
    assert [(link["karma"], link["num_posts"], link["score_age_seconds"]) for link in links] == [(42, 2, 5_000_000)]
    assert Counter(drop["reason"] for drop in drops) == {"same_submission": 2, "merged": 1}


def test_ids_of_posts_order_as_base_36_does() -> None:
    rows = [
        submission(post_id=name, url=f"http://example.com/story?utm_source={name}")
        for name in ("b0", "z", "9zz", "1000000")
    ]
    assert selected(*rows)[0][0]["post_id"] == "z"
    rows.append(submission(post_id="list:names.csv:7"))  # longer than any post id: the other way of ordering
    assert selected(*rows)[0][0]["post_id"] == "z"


def test_nothing_selected_is_an_empty_table_of_the_schema() -> None:
    links, drops = aggregate(KEYED_SCHEMA.empty_table(), SelectSettings())
    assert (links.num_rows, drops.num_rows) == (0, 0)
    assert links.schema == LINK_SCHEMA
    assert drops.schema == DROP_SCHEMA
    assert [part.num_rows for part in partition(KEYED_SCHEMA.empty_table(), 3)] == [0, 0, 0]
    assert score_age_histogram(links)["links"].to_pylist() == [0] * 7
    assert karma_by_month(links).num_rows == 0


def slow_aggregate(rows: list[Row], chosen: SelectSettings) -> tuple[list[Row], Counter[tuple[str, str, str]]]:
    """The links and the drops (id, post, reason) as one would write them down."""
    pages: dict[str, list[Row]] = defaultdict(list)
    drops: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        pages[row["id"]].append(row)
    links = []
    for page, posts in sorted(pages.items()):
        by_post: dict[str, list[Row]] = defaultdict(list)
        for post in posts:
            by_post[post["post_id"]].append(post)
        kept = []
        for copies in by_post.values():
            copies.sort(
                key=lambda row: (
                    -(row["retrieved_at"] if row["retrieved_at"] is not None else -1),
                    -(row["karma"] if row["karma"] is not None else -(10**6)),
                    row["created_at"] if row["created_at"] is not None else 10**12,
                    row["url"],
                    row["subreddit"],
                )
            )
            kept.append(copies[0])
            drops[page, copies[0]["post_id"], "same_submission"] += len(copies) - 1
        kept.sort(
            key=lambda row: (
                row["karma"] is None,
                -(row["karma"] or 0),
                row["created_at"] is None,
                row["created_at"] or 0,
                len(row["post_id"]),
                row["post_id"],
            )
        )
        best, scores = kept[0], [row["karma"] for row in kept if row["karma"] is not None]
        karma = None if not scores else max(scores) if chosen.karma_rule == "max" else sum(scores)
        wanted = any(row["post_id"].startswith("list:") and row["karma"] is None for row in kept)
        wanted |= chosen.allow_unscored and karma is None
        if not wanted and (karma is None or karma < chosen.min_karma):
            for row in kept:
                drops[page, row["post_id"], "karma"] += 1
            continue
        for row in kept[1:]:
            drops[page, row["post_id"], "merged"] += 1
        known = None not in (best["created_at"], best["retrieved_at"], best["karma"])
        links.append(
            {
                "id": page,
                "url": best["url"],
                "domain": best["domain"],
                "subreddit": best["subreddit"],
                "post_id": best["post_id"],
                "karma": karma,
                "num_posts": len(kept),
                "created_at": min((row["created_at"] for row in kept if row["created_at"] is not None), default=None),
                "score_age_seconds": best["retrieved_at"] - best["created_at"] if known else None,
            }
        )
    return links, +drops


SUBMISSIONS = st.lists(
    st.builds(
        submission,
        post_id=st.sampled_from(["a", "b", "zz", "b0", "list:x:1", "list:x:10"]),
        url=st.sampled_from(
            ["http://a.com/", "https://www.a.com", "http://a.com/#x", "http://b.com/", "http://c.org/?a=1"]
        ),
        karma=st.sampled_from([None, -4, 0, 1, 2, 3, 7]),
        created_at=st.sampled_from([None, 0, 5, 9]),
        retrieved_at=st.sampled_from([None, 5, 20]),
        subreddit=st.sampled_from(["x", "y"]),
    ),
    max_size=14,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(SUBMISSIONS, st.sampled_from(["max", "sum"]), st.booleans(), st.randoms(use_true_random=False))
def test_the_fast_reduction_equals_the_slow_one_in_any_order(
    rows: list[Row], rule: Any, allow_unscored: bool, chance: random.Random
) -> None:
    chosen = SelectSettings(karma_rule=rule, allow_unscored=allow_unscored)
    keyed = keyed_of(*rows)
    links, drops = aggregate(keyed, chosen)
    expected, expected_drops = slow_aggregate(keyed.to_pylist(), chosen)
    assert links.to_pylist() == expected
    found = Counter((row["id"], row["post_id"], row["reason"]) for row in drops.to_pylist())
    assert found == expected_drops
    assert links.num_rows + drops.num_rows == len(rows)
    chance.shuffle(rows)
    shuffled_links, shuffled_drops = aggregate(keyed_of(*rows), chosen)
    assert shuffled_links == links
    assert shuffled_drops == drops


@settings(deadline=None, derandomize=True, max_examples=60)
@given(SUBMISSIONS, st.integers(1, 7))
def test_partitions_are_ranges_of_ids_and_lose_nothing(rows: list[Row], num_partitions: int) -> None:
    keyed = keyed_of(*rows)
    parts = partition(keyed, num_partitions)
    assert len(parts) == num_partitions
    for number, part in enumerate(parts):
        assert part.schema == KEYED_SCHEMA
        assert {int(page[:8], 16) * num_partitions >> 32 for page in part["id"].to_pylist()} <= {number}
    together = Counter(map(repr, pa.concat_tables(parts).to_pylist()))
    assert together == Counter(map(repr, keyed.to_pylist()))
    chosen = SelectSettings()
    whole, _ = aggregate(keyed, chosen)
    assert pa.concat_tables([aggregate(part, chosen)[0] for part in parts]).to_pylist() == whole.to_pylist()


def test_tables_of_many_chunks_and_slices_reduce_alike() -> None:
    rows = [
        submission(
            post_id=f"{i:x}",
            url=f"http://a.com/{i % 50}",
            karma=i % 9,
            created_at=i * 86_400,
            retrieved_at=None if i % 3 else i,
        )
        for i in range(600)
    ]
    whole = keyed_of(*rows)
    pieces = pa.concat_tables([whole.slice(i, 37) for i in range(0, 600, 37)])
    assert pieces["id"].num_chunks > 10
    assert aggregate(pieces, SelectSettings()) == aggregate(whole, SelectSettings())
    large = whole.cast(
        pa.schema(
            [field.with_type(pa.large_string()) if field.type == pa.string() else field for field in KEYED_SCHEMA]
        )
    )
    assert aggregate(large, SelectSettings())[0].to_pylist() == aggregate(whole, SelectSettings())[0].to_pylist()


def test_ids_that_are_no_ids_are_refused() -> None:
    table = keyed_of(submission()).set_column(0, KEYED_SCHEMA.field("id"), pa.array(["abc"]))
    with pytest.raises(ValueError, match="expected ids of 32 hex digits"):
        aggregate(table, SelectSettings())


# --- the report's tables ---------------------------------------------------------------------------------------------


def test_score_ages_are_counted_in_buckets() -> None:
    ages = [0, 3599, 3600, 86_399, 86_400, 6 * 86_400, 30 * 86_400, 400 * 86_400, None]
    table = pa.table({"score_age_seconds": pa.array(ages, pa.int64())})
    assert dict(zip(*score_age_histogram(table).to_pydict().values(), strict=True)) == {
        "under 1 hour": 2,
        "1 to 24 hours": 2,
        "1 to 7 days": 2,
        "7 to 30 days": 0,
        "30 to 365 days": 1,
        "over 365 days": 1,
        "unknown": 1,
    }


def test_karma_is_counted_by_month_and_parts_add_up() -> None:
    march, april = 1_425_168_000, 1_427_846_400
    rows = [
        submission(post_id=f"p{i}", created_at=when, karma=karma)
        for i, (when, karma) in enumerate(
            [
                (march, 1),
                (april - 1, 1),
                (april, 0),
                (april, 3),
                (april, 9),
                (april, 10),
                (april, 500),
                (april, None),
                (None, 2),
            ]
        )
    ]
    whole = karma_by_month(keyed_of(*rows))
    assert whole.to_pylist() == [
        dict(zip(whole.column_names, values, strict=True))
        for values in [
            ("2015-03", 2, 0, 0, 2, 0, 0, 0, 0),
            ("2015-04", 6, 1, 1, 0, 0, 2, 1, 1),
            ("unknown", 1, 0, 0, 0, 1, 0, 0, 0),
        ]
    ]
    parts = [karma_by_month(keyed_of(*rows[:3])), karma_by_month(keyed_of(*rows[3:]))]
    assert summed(reversed(parts)).to_pylist() == whole.to_pylist()


# --- real input ------------------------------------------------------------------------------------------------------


def test_real_submissions_reconcile_and_shuffling_changes_nothing(shared_data: Path) -> None:
    chosen = SelectSettings()
    rules = url_rules(chosen)
    names = ["RS_pages.zst", "machinelearning/RS_2014.zst", "machinelearning/RS_2015.zst", "RS_v2_2005-07.xz"]
    read = dropped = 0
    keyed = []
    reasons: Counter[str] = Counter()
    for name in names:
        for batch in read_dump(shared_data / "reddit" / name):
            good, drops = key_submissions(batch.submissions, chosen, Removals(), rules=rules)
            read += batch.submissions.num_rows
            dropped += drops.num_rows
            reasons.update(drops.column("reason").to_pylist())
            keyed.append(good)
    table = pa.Table.from_batches(keyed)
    links, drops = aggregate(table, chosen)
    reasons.update(drops.column("reason").to_pylist())
    assert read == links.num_rows + dropped + drops.num_rows
    assert links.num_rows > 2000
    assert set(reasons) >= {
        "karma",
        "merged",
        "same_submission",
        "media",
        "file_type",
        "video_host",
        "wikipedia",
        "private_host",
    }
    assert links["id"].to_pylist() == sorted(set(links["id"].to_pylist()))
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    again, drops_again = aggregate(shuffled, chosen)
    assert again == links
    assert drops_again == drops
    for link in links.slice(0, 300).to_pylist():
        assert link["id"] == document_id(canonical_url(link["url"]))
        assert link["domain"] == registered_domain(link["url"])
        assert link["karma"] >= 3
