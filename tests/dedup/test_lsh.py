"""lsh: verdicts against a brute-force twin, and independent of everything that must not matter."""

from __future__ import annotations

import hashlib
import itertools
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup.lsh
from dedup.lsh import (
    DedupSettings,
    Verdicts,
    candidate_probability,
    cluster_size_histogram,
    cluster_sizes,
    giant_clusters,
    memory_needed,
    planted_recall,
    rank_documents,
    similarity_histogram,
    verdicts,
)
from dedup.minhash import (
    MinHashSettings,
    binary16,
    ids_to_bytes,
    sign,
    signature_table,
    to_datasketch,
    write_signatures,
)
from dedup.words import normal_form

SIGNING = MinHashSettings()
EXACTLY = DedupSettings(doubt=1000.0)  # every candidate's texts are compared


def id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def files_of(
    folder: Path, ids: Sequence[str], texts: Sequence[str], signing: MinHashSettings = SIGNING, each: int = 50
) -> list[Path]:
    paths = []
    for start in range(0, max(len(ids), 1), each):
        path = folder / f"signatures-{start}.arrow"
        write_signatures(
            path,
            signature_table(ids[start : start + each], pa.array(texts[start : start + each], pa.string()), signing),
        )
        paths.append(path)
    return paths


def judged(
    folder: Path,
    texts: Sequence[str],
    options: DedupSettings = EXACTLY,
    *,
    signing: MinHashSettings = SIGNING,
    each: int = 50,
    order: Sequence[int] | None = None,
) -> Verdicts:
    """Verdicts on texts, whose rank is their place in the list; `order` shuffles the ids that are given."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [id_of(f"document {i}") for i in range(len(texts))]
    paths = files_of(folder, ids, texts, signing, each)
    order = list(range(len(texts))) if order is None else list(order)
    arrow = pa.array([texts[i] for i in order], pa.string())

    def fetch(positions: np.ndarray) -> pa.Array:
        assert (np.diff(positions) > 0).all()
        return arrow.take(pa.array(positions))

    result = verdicts(
        ids_to_bytes([ids[i] for i in order]).reshape(-1, 16),
        np.array(order, np.uint32),
        paths[::-1] if order and order[0] else paths,
        fetch,
        options,
        minhash=signing,
        scratch=folder,
    )
    assert not list(folder.glob("spill*"))
    return result


# ---- the twin


def shingles(text: str, n: int = 5) -> frozenset[tuple[str, ...]]:
    words = normal_form(text).split()
    return frozenset(tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, min(len(words), 1))))


def jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def twin(
    texts: Sequence[str], threshold: float, signing: MinHashSettings = SIGNING
) -> list[tuple[bool, str | None, int]]:
    """(kept, reason, duplicate of), by comparing every pair that shares a band, in plain Python."""
    bands, rows = signing.banding()
    signatures = sign(pa.array(texts, pa.string()), signing)
    out: list[tuple[bool, str | None, int]] = []
    seen: dict[str, int] = {}
    kept: list[int] = []
    for i, text in enumerate(texts):
        if normal_form(text) in seen:
            out.append((False, "exact", seen[normal_form(text)]))
            continue
        seen[normal_form(text)] = i
        for k in kept:
            same = (signatures[i] == signatures[k])[: bands * rows].reshape(bands, rows).all(axis=1).any()
            if same and jaccard(shingles(text), shingles(texts[k])) >= np.float32(threshold):
                out.append((False, "near", k))
                break
        else:
            out.append((True, None, -1))
            kept.append(i)
    return out


def by_rank(result: Verdicts, count: int) -> list[tuple[bool, str | None, int]]:
    number = {id_of(f"document {i}"): i for i in range(count)}
    rows = {row["id"]: row for row in result.verdicts.to_pylist()}
    assert len(rows) == count
    out = []
    for i in range(count):
        row = rows[id_of(f"document {i}")]
        out.append((row["kept"], row["reason"], number[row["duplicate_of"]] if row["duplicate_of"] else -1))
    return out


def near_copies(seed: int, count: int, length: int = 60, groups: int = 6) -> list[str]:
    """Texts in a few families of edits of edits, so that chains and large buckets arise; some exact copies."""
    rng = np.random.default_rng(seed)
    texts = [[f"g{group}w{rng.integers(1000)}" for _ in range(length)] for group in range(groups)]
    while len(texts) < count:
        words = list(texts[rng.integers(len(texts))])
        for _ in range(rng.integers(0, 4)):
            words[rng.integers(len(words))] = f"new{rng.integers(10**6)}"
        texts.append(words)
    order = rng.permutation(count)
    return [" ".join(texts[i]) for i in order]


# ---- the rule


@pytest.mark.parametrize("star_bucket", [2, 5, 64])
@pytest.mark.parametrize("seed", range(6))
def test_verdicts_equal_the_brute_force_twin(tmp_path: Path, seed: int, star_bucket: int) -> None:
    texts = [*near_copies(seed, 220), "", "!!", "one", "One", "two words", "日本語の文章です", "日本語の文章です。"]
    options = replace(EXACTLY, star_bucket=star_bucket)
    expected = twin(texts, options.threshold)
    assert {reason for _, reason, _ in expected} == {None, "exact", "near"}
    assert by_rank(judged(tmp_path, texts, options), len(texts)) == expected


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.6, 0.9, 1.0]), st.sampled_from([(4, 1), (3, 3), (30, 2)]))
def test_verdicts_equal_the_twin_for_other_thresholds_and_bands(
    tmp_path_factory: pytest.TempPathFactory, seed: int, threshold: float, banding: tuple[int, int]
) -> None:
    signing = MinHashSettings(bands=banding[0], rows=banding[1])
    texts = near_copies(seed, 60, length=25)
    options = DedupSettings(threshold=threshold, doubt=1000.0, star_bucket=4)
    result = judged(tmp_path_factory.mktemp("twin"), texts, options, signing=signing)
    assert by_rank(result, len(texts)) == twin(texts, threshold, signing)


def test_verdicts_do_not_depend_on_workers_memory_files_or_order(tmp_path: Path) -> None:
    texts = near_copies(1, 400)
    options = DedupSettings(star_bucket=8)
    whole = judged(tmp_path / "a", texts, options, each=1000)
    rng = np.random.default_rng(3)
    for name, each, changed, order in [
        ("b", 7, replace(options, workers=1, memory_bytes=1 << 20), None),
        ("c", 90, replace(options, workers=5), rng.permutation(400).tolist()),
    ]:
        other = judged(tmp_path / name, texts, changed, each=each, order=order)
        assert other.verdicts.equals(whole.verdicts)
        assert other.pairs.equals(whole.pairs)
        assert other.unwritten_pairs == whole.unwritten_pairs


def test_blocks_and_partitions_are_many_where_memory_is_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = near_copies(2, 400, groups=40)
    whole = judged(tmp_path / "a", texts)
    monkeypatch.setattr(dedup.lsh, "_block_documents", lambda *_: 10)
    told: dict[str, int] = {}
    ids = [id_of(f"document {i}") for i in range(len(texts))]
    paths = files_of(tmp_path, ids, texts)
    small = verdicts(
        ids_to_bytes(ids),
        np.arange(len(texts), dtype=np.uint32),
        paths,
        lambda positions: pa.array(texts).take(pa.array(positions)),
        EXACTLY,
        minhash=SIGNING,
        scratch=tmp_path,
        progress=lambda what, _, of: told.__setitem__(what, of),
    )
    assert told["blocks judged"] > 10
    assert small.verdicts.equals(whole.verdicts)
    assert small.pairs.equals(whole.pairs)


def test_what_the_signatures_decide_alone_is_what_the_texts_say_outside_the_doubt(tmp_path: Path) -> None:
    texts = near_copies(4, 300)
    result = judged(tmp_path, texts, DedupSettings())
    number = {id_of(f"document {i}"): i for i in range(len(texts))}
    pairs = result.pairs.to_pylist()
    assert {pair["exact"] is None for pair in pairs} == {True, False}
    for pair in pairs:
        true = jaccard(shingles(texts[number[pair["a"]]]), shingles(texts[number[pair["b"]]]))
        assert pair["accepted"] == (true >= 0.75)  # precision and recall of verification are 1 here
        if pair["exact"] is not None:
            assert pair["exact"] == pytest.approx(true)


def test_estimates_and_shared_bands_are_datasketchs(tmp_path: Path) -> None:
    texts = near_copies(5, 80)
    result = judged(tmp_path, texts)
    number = {id_of(f"document {i}"): i for i in range(len(texts))}
    minhashes: list[MinHash] = [to_datasketch(row, SIGNING) for row in sign(pa.array(texts), SIGNING)]
    lsh = MinHashLSH(params=SIGNING.banding(), num_perm=SIGNING.permutations)
    unique = {number[row["id"]] for row in result.verdicts.to_pylist() if row["reason"] != "exact"}
    for i in unique:
        lsh.insert(i, minhashes[i])
    expected = {(min(i, j), max(i, j)) for i in unique for j in lsh.query(minhashes[i]) if i != j}
    pairs = {(number[pair["a"]], number[pair["b"]]): pair for pair in result.pairs.to_pylist()}
    assert set(pairs) == expected
    for (a, b), pair in pairs.items():
        assert a < b
        assert pair["estimated"] == pytest.approx(minhashes[a].jaccard(minhashes[b]), abs=1e-6)
        values = (minhashes[a].hashvalues == minhashes[b].hashvalues).reshape(14, 8)
        assert pair["bands"] == values.all(axis=1).sum()


def test_a_chain_keeps_its_far_ends_and_flags_them(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(400)]
    steps = []
    for step in range(12):  # each is similar to the next, and the first not to the last
        steps.append(" ".join(words))
        words[step * 30 : step * 30 + 12] = [f"s{step}n{i}" for i in range(12)]
    result = judged(tmp_path, steps)
    rows = {row["id"]: row for row in result.verdicts.to_pylist()}
    chain = [rows[id_of(f"document {i}")] for i in range(12)]
    assert by_rank(result, 12) == twin(steps, EXACTLY.threshold)
    kept = [i for i, row in enumerate(chain) if row["kept"]]
    assert kept[0] == 0
    assert 2 <= len(kept) < 12
    assert [row["transitive"] for row in chain] == [row["kept"] and i > 0 for i, row in enumerate(chain)]
    assert len({row["cluster"] for row in chain}) == len({row["component"] for row in chain}) == 1
    assert chain[0]["component"] == min(row["id"] for row in chain)
    assert chain[0]["cluster"] == id_of("document 0")


def test_no_kept_pair_that_shares_a_band_is_similar_and_none_straddles_components(tmp_path: Path) -> None:
    texts = near_copies(7, 300)
    result = judged(tmp_path, texts, replace(EXACTLY, star_bucket=3))
    rows = {row["id"]: row for row in result.verdicts.to_pylist()}
    signatures = sign(pa.array(texts), SIGNING)
    kept = [i for i in range(300) if rows[id_of(f"document {i}")]["kept"]]
    shared = 0
    for i, j in itertools.combinations(kept, 2):
        equal = signatures[i] == signatures[j]
        if equal.reshape(14, 8).all(axis=1).any():
            shared += 1
            assert jaccard(shingles(texts[i]), shingles(texts[j])) < 0.75
            if equal.mean() > 0.5:
                components = {rows[id_of(f"document {k}")]["component"] for k in (i, j)}
                assert len(components) == 1
    assert shared > 10


def test_a_large_bucket_of_copies_is_compared_along_stars(tmp_path: Path) -> None:
    base = [f"w{i}" for i in range(300)]
    texts = [" ".join([*base, f"x{i}"]) for i in range(3000)]  # all similar, no two equal
    result = judged(tmp_path, texts, DedupSettings(), each=1000)
    assert sum(row["kept"] for row in result.verdicts.to_pylist()) == 1
    assert len(result.pairs) == 2999
    assert giant_clusters(result, DedupSettings()).to_pylist() == [{"cluster": id_of("document 0"), "documents": 3000}]


def test_many_identical_documents_take_one_place_and_no_pairs(tmp_path: Path) -> None:
    result = judged(tmp_path, ["The same text, again!"] * 20_000 + ["", "..."], each=10_000)
    table = result.verdicts.to_pydict()
    assert sum(table["kept"]) == 2
    assert len(result.pairs) == 0
    assert table["reason"].count("exact") == 20_000
    assert cluster_sizes(result).tolist() == [20_000, 2]


@pytest.mark.parametrize("text", ["", "word", "?!…", "只有中文的文档没有任何空格", "a" * 2_000_000, "word " * 400_000])
def test_odd_documents_get_the_right_answers(tmp_path: Path, text: str) -> None:
    assert by_rank(judged(tmp_path, [text]), 1) == [(True, None, -1)]
    assert [kept for kept, _, _ in by_rank(judged(tmp_path / "b", [text, text + " "]), 2)] == [True, False]


def test_no_documents_give_empty_tables(tmp_path: Path) -> None:
    result = judged(tmp_path, [])
    assert (len(result.verdicts), len(result.pairs), cluster_sizes(result).size) == (0, 0, 0)
    assert len(cluster_size_histogram(result)) == 0


# ---- what surrounds the rule


def test_a_new_month_only_adds_files_and_dropped_documents_may_stay_in_old_ones(tmp_path: Path) -> None:
    texts = near_copies(8, 200)
    expected = judged(tmp_path / "a", texts[50:], each=1000)
    ids = [id_of(f"document {i}") for i in range(150)]
    shifted = [*[id_of(f"gone {i}") for i in range(50)], *ids]
    paths = files_of(tmp_path, shifted, texts, each=40)
    arrow = pa.array(texts[50:])
    result = verdicts(
        ids_to_bytes(ids),
        np.arange(150, dtype=np.uint32),
        paths,
        lambda positions: arrow.take(pa.array(positions)),
        EXACTLY,
        minhash=SIGNING,
        scratch=tmp_path,
    )
    assert result.verdicts.equals(expected.verdicts)


def test_a_missing_or_second_signature_is_named(tmp_path: Path) -> None:
    ids = [id_of(f"document {i}") for i in range(3)]
    (paths,) = files_of(tmp_path, ids[:2], ["a", "b"])
    arguments = (ids_to_bytes(ids), np.arange(3, dtype=np.uint32))
    with pytest.raises(ValueError, match=f"no for 1, such as {ids[2]}"):
        verdicts(*arguments, [paths], None, EXACTLY, minhash=SIGNING, scratch=tmp_path)
    (tmp_path / "more").mkdir()
    (more,) = files_of(tmp_path / "more", ids[1:], ["b", "c"])
    with pytest.raises(ValueError, match=f"two for 1, such as {ids[1]}"):
        verdicts(*arguments, [paths, more], None, EXACTLY, minhash=SIGNING, scratch=tmp_path)


def test_ids_and_ranks_are_checked(tmp_path: Path) -> None:
    ids = ids_to_bytes(["0" * 32, "1" * 32])
    for wrong in ([0, 0], [0, 2], [0]):
        with pytest.raises(ValueError, match="each of 0 to 1 once"):
            verdicts(ids, np.array(wrong, np.uint32), [], None, EXACTLY, minhash=SIGNING, scratch=tmp_path)
    with pytest.raises(ValueError, match="twice"):
        verdicts(
            np.concatenate([ids, ids[:1]]),
            np.arange(3, dtype=np.uint32),
            [],
            None,
            EXACTLY,
            minhash=SIGNING,
            scratch=tmp_path,
        )


def test_ids_that_share_their_first_half_are_told_apart(tmp_path: Path) -> None:
    ids = [f"{7:016x}{i:016x}" for i in range(40)]
    texts = [f"text {i} has some words of its own {i}" for i in range(39)] + ["text 0 has some words of its own 0"]
    paths = files_of(tmp_path, ids[::-1], texts[::-1])
    result = verdicts(
        ids_to_bytes(ids), np.arange(40, dtype=np.uint32), paths, None, EXACTLY, minhash=SIGNING, scratch=tmp_path
    )
    rows = result.verdicts.to_pylist()
    assert [row["id"] for row in rows] == ids
    assert [row["duplicate_of"] for row in rows if not row["kept"]] == [ids[0]]


def test_ranks_follow_karma_words_time_and_id() -> None:
    ids = ids_to_bytes([f"{i:032x}" for i in (5, 4, 3, 2, 1, 0)])
    ranks = rank_documents(
        np.array([3, 9, 9, 9, 9, 9]), np.array([99, 5, 7, 7, 7, 7], np.uint32), np.array([0, 0, 8, 4, 4, 9]), ids
    )
    assert ranks.tolist() == [5, 4, 2, 1, 0, 3]


def test_memory_is_stated_and_grows_with_documents() -> None:
    small, large = (memory_needed(n, DedupSettings(), SIGNING) for n in (8_000_000, 100_000_000))
    assert small.total < 5 << 30
    assert large.total < 16_000_000_000
    assert large.documents == pytest.approx(12.5 * small.documents)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"near_threshold": 0.9}, "near_threshold"),
        ({"doubt": -1.0}, "doubt"),
        ({"star_bucket": 1}, "star_bucket"),
        ({"workers": 0}, "workers"),
        ({"memory_bytes": 5}, "memory_bytes"),
    ],
)
def test_settings_are_checked_by_name(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[dedup\] {message}: expected"):
        DedupSettings(**wrong)  # type: ignore[arg-type]


# ---- rates


def test_candidate_rate_of_edited_texts_is_the_theoretical_curve() -> None:
    rng = np.random.default_rng(11)
    texts = [" ".join(f"w{value}" for value in rng.integers(0, 50_000, 200)) for _ in range(250)]
    for signing in (SIGNING, MinHashSettings(bands=20, rows=4, seed=3)):
        table = planted_recall(pa.array(texts), signing)
        assert len(table) == 10
        sums = {name: sum(table[name].to_pylist()) for name in ("found", "expected")}
        spread = sum(value**2 for value in table["standard_error"].to_pylist()) ** 0.5
        assert abs(sums["found"] - sums["expected"]) < 2 * spread
        for row in table.to_pylist():
            assert abs(row["found"] - row["expected"]) <= max(3 * row["standard_error"], 1)
        assert table["found"][0].as_py() > 200 > 20 > table["found"][-1].as_py()


def test_probabilities_are_those_of_the_known_table() -> None:
    assert candidate_probability([0.5, 0.6, 0.7, 0.8], 14, 8) == pytest.approx([0.053, 0.21, 0.565, 0.924], abs=5e-3)
    assert candidate_probability(0.7, 24, 10) == pytest.approx(0.50, abs=0.01)


def test_planted_clusters_are_found_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    texts, cluster_of = [], []
    for cluster, size in enumerate([2, 3, 5, 10, 30, 100, 300, 1000]):
        base = [f"c{cluster}w{value}" for value in rng.integers(0, 10**6, 200)]
        for _ in range(size):
            words = list(base)
            words[rng.integers(200)] = f"e{rng.integers(10**9)}"
            texts.append(" ".join(words))
            cluster_of.append(cluster)
    order = rng.permutation(len(texts))
    texts, cluster_of = [texts[i] for i in order], [cluster_of[i] for i in order]
    result = judged(tmp_path, texts, DedupSettings(), each=500)
    assert [kept for kept, _, _ in by_rank(result, len(texts))] == [kept for kept, _, _ in twin(texts, 0.75)]
    assert sum(kept for kept, _, _ in by_rank(result, len(texts))) == 8
    assert cluster_sizes(result).tolist() == [1000, 300, 100, 30, 10, 5, 3, 2]
    histogram = cluster_size_histogram(result).to_pydict()
    assert histogram["clusters"] == [2, 1, 1, 1, 0, 1, 0, 1, 1]
    assert sum(histogram["documents"]) == len(texts)
    similarities = similarity_histogram(result).to_pydict()
    assert sum(similarities["accepted"]) + sum(similarities["refused"]) == len(result.pairs)
    number = {id_of(f"document {i}"): i for i in range(len(texts))}
    assert all(cluster_of[number[pair["a"]]] == cluster_of[number[pair["b"]]] for pair in result.pairs.to_pylist())


def test_real_articles_with_planted_copies_are_all_found(tmp_path: Path, shared_data: Path) -> None:
    lines = (shared_data / "neardup" / "articles_1000.train").read_text().splitlines()
    names, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    result = judged(tmp_path, texts, each=300)
    number = {id_of(f"document {i}"): names[i] for i in range(len(names))}
    found = {
        frozenset((number[row["id"]], number[row["duplicate_of"]]))
        for row in result.verdicts.to_pylist()
        if not row["kept"]
    }
    truth = (shared_data / "neardup" / "articles_1000.truth").read_text().splitlines()
    assert found == {frozenset(line.split()) for line in truth}


@pytest.mark.slow
def test_a_document_of_fifty_megabytes_is_compared_like_any_other(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    words = generator.integers(0, 50_000, 8_000_000)
    long = " ".join(f"w{word}" for word in words.tolist())
    assert len(long) > 50_000_000
    texts = [long, long + " and a little more", "a short one about something else"]
    result = judged(tmp_path, texts)
    assert result.verdicts.column("kept").to_pylist().count(True) == 2
    assert [row["reason"] for row in result.verdicts.to_pylist() if not row["kept"]] == ["near"]


@pytest.mark.slow
def test_ten_million_identical_documents_leave_one_in_bounded_memory(tmp_path: Path) -> None:
    count, each = 10_000_000, 1_000_000
    signing = MinHashSettings(bands=2, rows=2)
    one = signature_table([id_of("one")], pa.array(["the same text for all of them"]), signing)
    names = np.zeros((count, 2), np.uint64)
    names[:, 1] = np.arange(count)
    names[:, 0] = np.random.default_rng(3).integers(0, 2**63, count, dtype=np.uint64)
    ids = names.view(np.uint8).reshape(count, 16)
    paths = []
    for start in range(0, count, each):
        part = ids[start : start + each]
        table = one.take(pa.array(np.zeros(len(part), np.int64))).set_column(0, one.schema.field("id"), binary16(part))
        paths.append(tmp_path / f"signatures-{start}.arrow")
        write_signatures(paths[-1], table.replace_schema_metadata(one.schema.metadata))
    del names
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ranks = np.arange(count, dtype=np.uint32)
    options = DedupSettings(memory_bytes=1 << 30)
    result = verdicts(ids, ranks, paths, None, options, minhash=signing, scratch=tmp_path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert int((result.status == dedup.lsh.KEPT).sum()) == 1
    assert int((result.status == dedup.lsh.EXACT).sum()) == count - 1
    assert grown < memory_needed(count, options, signing).total
