"""dedup.overlap against the paper's numbers, a slow twin, and planted passages."""

from __future__ import annotations

import bz2
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.bloom import build
from dedup.evaluation import EvaluationSet, evaluation_set, read_evaluation_sets
from dedup.overlap import (
    EXAMPLES_SCHEMA,
    ROWS_SCHEMA,
    DecontaminateSettings,
    DecontaminationIndex,
    EvaluationIndex,
    Matches,
    OverlapSettings,
    OverlapTables,
    Protocol,
    decontaminate,
    filter_matches,
    match_texts,
    normal_texts,
    overlap_tables,
    protocols,
    reference_share,
    spill_reference,
    spill_texts,
    validation_set,
    word_spans,
)
from dedup.texts import document_id, read_texts
from dedup.words import hash_words, normal_form

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
WORDS = Protocol("words", 3)
TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "B", "c", "d!", "é", "日本", "e_f"]), max_size=12).map(" ".join), max_size=6
)


def documents(texts: list[str], first: int = 0) -> pa.RecordBatch:
    ids = [document_id(f"document {first + index}") for index in range(len(texts))]
    urls = [f"https://example.org/{first + index}" for index in range(len(texts))]
    return pa.record_batch([pa.array(ids), pa.array(texts, pa.string()), pa.array(urls)], ["id", "text", "url"])


def measure(sets: list[EvaluationSet], texts: list[str], protocol: Protocol = WORDS, **options: Any) -> OverlapTables:
    index = EvaluationIndex(sets, protocol)
    matches = match_texts([documents(texts)], [index])
    return overlap_tables([index], matches.found, documents=matches.documents, corpus=matches.corpus, **options)


@pytest.fixture(scope="session")
def gpt2_encode(shared_data: Path) -> Callable[[Any], tuple[Any, Any]]:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    folder = shared_data / "bpe" / "gpt2_vocab"
    tokenizer = Tokenizer(BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    fast = pytest.importorskip("fastokens").Tokenizer.from_json_str(tokenizer.to_str())

    def encode(texts: Any) -> tuple[Any, Any]:
        ids, offsets = fast.encode_batch_flat(texts.to_pylist(), False)
        return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64).astype(np.int64)

    return encode


# ---- the paper


def test_the_papers_table_6_is_reproduced_to_its_last_digit(
    shared_data: Path, gpt2_encode: Callable[[Any], tuple[Any, Any]]
) -> None:
    sets = read_evaluation_sets(
        [shared_data / "eval" / "ptb" / "test.txt", shared_data / "eval" / "wikitext-2" / "test.txt"]
    )
    indexes = [EvaluationIndex(sets, protocol) for protocol in protocols(OverlapSettings(), gpt2_encode)]
    empty = match_texts([], indexes)
    rows = overlap_tables(indexes, empty.found).rows.to_pylist()
    own = {(row["protocol"], row["set"]): row for row in rows if (row["against"], row["unit"]) == ("own train", "file")}
    percent = {key: f"{100 * row['share']:.2f}" for key, row in own.items()}
    assert percent == {
        ("gpt2-tokens", "ptb"): "2.67",
        ("gpt2-tokens", "wikitext-2"): "0.66",
        ("words", "ptb"): "2.06",
        ("words", "wikitext-2"): "0.16",
    }
    assert own["gpt2-tokens", "ptb"]["paper_percent"] == 2.67
    assert own["gpt2-tokens", "wikitext-2"]["paper_percent"] == 0.66
    corpus = {row["set"]: row["paper_percent"] for row in rows if row["against"] == "corpus" and row["unit"] == "file"}
    assert corpus == {"ptb": 0.88, "wikitext-2": 1.63}


def test_a_set_as_its_own_corpus_overlaps_wholly_under_both_protocols(
    shared_data: Path, gpt2_encode: Callable[[Any], tuple[Any, Any]]
) -> None:
    sets = read_evaluation_sets([shared_data / "eval" / "lambada"])
    indexes = [EvaluationIndex(sets[:1], protocol) for protocol in protocols(OverlapSettings(), gpt2_encode)]
    matches = match_texts([documents(sets[0].texts.to_pylist())], indexes)
    tables = overlap_tables(indexes, matches.found, documents=matches.documents, quoted_examples=3)
    for row in tables.rows.to_pylist():
        if row["unit"] == "examples":
            assert row["share"] == row["distinct_share"] == 1.0
            assert row["examples_touched"] == row["examples_measured"] > 5_100
    for row in tables.worst.to_pylist():
        example = sets[0].texts[row["example"]].as_py()
        assert normal_form(row["passage"], "ascii") == normal_form(example, "ascii")  # tokens lead back to words


# ---- exact matching


def slow_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = normal_form(text, "ascii").split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@EXAMPLES
@given(TEXTS, TEXTS, st.integers(1, 4))
def test_shares_are_those_of_plain_sets_of_words(tests: list[str], corpus: list[str], n: int) -> None:
    train = corpus[:2]
    one = EvaluationSet(
        "one", "", "", pa.array(tests, pa.large_string()), (None,) * len(tests), pa.array(train, pa.large_string())
    )
    tables = measure([one], corpus, Protocol("words", n))
    held = {gram for text in corpus for gram in slow_ngrams(text, n)}
    own = set(slow_ngrams("\n".join(train), n))
    expected = {}
    for against, grams in (("corpus", held), ("own train", own)):
        whole = slow_ngrams("\n".join(tests), n)
        each = [slow_ngrams(text, n) for text in tests]
        flat = [gram for grams in each for gram in grams]
        touched = sum(any(gram in grams for gram in example) for example in each)
        for unit, all_grams, count in (("file", whole, None), ("examples", flat, touched)):
            expected[against, unit] = (
                len(all_grams),
                sum(gram in grams for gram in all_grams),
                len(set(all_grams)),
                len(set(all_grams) & grams),
                count,
            )
    names = ("ngrams", "found", "distinct", "distinct_found", "examples_touched")
    rows = tables.rows.to_pylist()
    assert {(row["against"], row["unit"]): tuple(row[name] for name in names) for row in rows} == expected
    found = [sum(gram in held for gram in slow_ngrams(text, n)) for text in tests]
    assert tables.examples["found"].to_pylist() == found
    assert tables.rows.schema == ROWS_SCHEMA
    assert tables.examples.schema == EXAMPLES_SCHEMA


@EXAMPLES
@given(TEXTS, TEXTS)
def test_occurrences_and_documents_are_counted_and_the_best_documents_named(
    tests: list[str], corpus: list[str]
) -> None:
    index = EvaluationIndex([evaluation_set("one", tests)], WORDS)
    batch = documents(corpus)
    matches = match_texts([batch], [index], documents_per_example=2)
    wanted = {gram for text in tests for gram in slow_ngrams(text, 3)}
    occurrences = Counter(gram for text in corpus for gram in slow_ngrams(text, 3) if gram in wanted)
    holders = Counter(gram for text in corpus for gram in set(slow_ngrams(text, 3)) if gram in wanted)
    assert sorted(matches.found["occurrences"].to_pylist()) == sorted(occurrences.values())
    assert sorted(matches.found["documents"].to_pylist()) == sorted(holders.values())
    expected = []
    for number, text in enumerate(tests):
        shared = [(len(set(slow_ngrams(text, 3)) & set(slow_ngrams(other, 3))), i) for i, other in enumerate(corpus)]
        ranked = sorted((-count, batch["id"][i].as_py()) for count, i in shared if count)[:2]
        expected += [(number, -count, name) for count, name in ranked]
    named = matches.documents.select(["example", "ngrams", "id"]).to_pylist()
    assert [tuple(row.values()) for row in named] == expected


def test_the_report_does_not_depend_on_shards_batches_or_their_order() -> None:
    generator = random.Random(0)
    vocabulary = [f"w{index}" for index in range(12)]
    texts = [" ".join(generator.choices(vocabulary, k=40)) for _ in range(60)]
    index = EvaluationIndex([evaluation_set("one", texts[:20]), evaluation_set("two", texts[10:15])], WORDS)

    def report(shards: list[list[pa.RecordBatch]]) -> OverlapTables:
        parts = [match_texts(shard, [index], documents_per_example=3) for shard in shards]
        joined = Matches(*(pa.concat_tables([part[i] for part in parts]) for i in range(3)))
        return overlap_tables(
            [index], joined.found, documents=joined.documents, corpus=joined.corpus, documents_per_example=3
        )

    batch = documents(texts)
    one = report([[batch]])
    many = report([[batch.slice(40, 20)], [batch.slice(0, 7), batch.slice(7, 33)], []])
    assert all(a.equals(b) for a, b in zip(one, many, strict=True))
    assert one.worst["document_ngrams"].to_pylist()[0] > 0


def test_an_index_sent_to_a_worker_gives_the_same_matches() -> None:
    index = EvaluationIndex([evaluation_set("one", ["a b c d", "x y z"])], WORDS)
    sent = pickle.loads(pickle.dumps(index))
    batches = [documents(["a b c", "w x y z"])]
    assert match_texts(batches, [sent]).found.equals(match_texts(batches, [index]).found)
    assert match_texts(batches, [sent]).documents.equals(match_texts(batches, [index]).documents)


def test_an_ngram_of_a_hundred_examples_counts_and_names_nobody() -> None:
    sets = [evaluation_set("one", ["how to do it"] * 100 + ["how to do that"])]
    tables = measure(sets, ["here is how to do it", "how to do that"], quoted_examples=200)
    row = next(row for row in tables.rows.to_pylist() if row["unit"] == "examples")
    assert (row["found"], row["examples_touched"]) == (202, 101)
    named = {row["example"]: row["id"] for row in tables.worst.to_pylist()}
    assert named[100] == document_id("document 1")
    assert all(named[example] is None for example in range(100))


def test_a_worst_example_is_quoted_where_the_corpus_holds_it_with_the_document() -> None:
    text = "Nobody says this. The quick brown Fox, it jumped over_the lazy dog! Nor that."
    tables = measure(
        [evaluation_set("one", ["nothing in common here", text], ids=["x", "y"])],
        ["the QUICK brown fox it jumped over the lazy dog"],
    )
    (row,) = tables.worst.to_pylist()
    assert row["passage"] == "The quick brown Fox, it jumped over_the lazy dog"
    assert (row["example"], row["example_id"], row["found"], row["ngrams"]) == (1, "y", 8, 13)
    assert (row["id"], row["url"]) == (document_id("document 0"), "https://example.org/0")
    assert tables.corpus.to_pylist() == [{"protocol": "words", "documents": 1, "ngrams": 8, "num_bytes": 47}]


def test_a_filter_of_the_corpus_gives_the_report_of_exact_mode(tmp_path: Path, shared_data: Path) -> None:
    sets = read_evaluation_sets([shared_data / "eval" / "ptb", shared_data / "eval" / "1bw"])
    protocol = Protocol("words")
    index = EvaluationIndex(sets, protocol)
    batches = list(read_texts([shared_data / "text" / "bbc-news.jsonl.zst"]))
    batches.append(documents([one.texts[index].as_py() for one in sets for index in range(0, 2_000, 3)]))
    exact = match_texts(batches, [index])
    spill_texts(batches, protocol, tmp_path / "s")
    built = build([tmp_path / "s"], tmp_path / "f")
    found = filter_matches([index], {"words": built})
    assert set(exact.found["gram"].to_pylist()) == set(found["gram"].to_pylist())
    assert len(found) > 5_000
    tables = overlap_tables([index], exact.found), overlap_tables([index], found)
    assert tables[0].rows.equals(tables[1].rows)
    assert tables[0].examples.equals(tables[1].examples)
    with pytest.raises(ValueError, match="expected one for protocol words, got other"):
        filter_matches([index], {"other": built})


def test_the_validation_split_is_measured_document_by_document() -> None:
    held_out = [documents(["a b c d", "x y z"], 10), documents(["p q r"], 20)]
    one = validation_set(held_out, 2)
    assert one.ids == tuple(sorted(row for batch in held_out for row in batch["id"].to_pylist())[:2])
    assert validation_set(held_out[::-1], 2).texts.equals(one.texts)
    (row,) = measure([validation_set(held_out, 9)], ["a b c", "z p q r"]).rows.to_pylist()
    assert (row["set"], row["unit"], row["ngrams"], row["found"]) == ("corpus validation", "examples", 4, 2)


def test_sets_without_words_or_examples_give_rows_without_shares() -> None:
    tables = measure(
        [evaluation_set("short", ["one", "", "two words"], whole_file=True), evaluation_set("none", [])], ["x y z"]
    )
    assert [row["share"] for row in tables.rows.to_pylist()] == [0.0, None, None]
    assert tables.examples["ngrams"].to_pylist() == [0, 0, 0]
    assert len(tables.worst) == 0


def test_gpt2_tokens_without_a_tokenizer_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="gpt2-tokens needs GPT-2's released vocabulary"):
        protocols(OverlapSettings(), None)
    assert [one.name for one in protocols(OverlapSettings(protocols=("words",)), None)] == ["words"]


@EXAMPLES
@given(st.text(max_size=60), st.sampled_from(["unicode", "ascii"]))
def test_word_spans_are_the_words_that_are_hashed(text: str, form: Any) -> None:
    text = text.encode("utf-8", "replace").decode()
    starts, ends = word_spans(text, form)
    raw = text.encode()
    words = [raw[a:b].decode() for a, b in zip(starts, ends, strict=True)]
    assert [normal_form(word, form) for word in words] == normal_form(text, form).split(" ")[: len(words)]
    assert len(words) == len(hash_words(pa.array([text]), form)[0])


@EXAMPLES
@given(st.lists(st.text(max_size=30), max_size=5))
def test_normal_texts_are_the_normal_forms(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    parts = [part for array in normal_texts(pa.array(texts, pa.string())) for part in array.to_pylist()]
    assert parts == [normal_form(text, "ascii") for text in texts]


# ---- decontamination


def passages(shared_data: Path) -> tuple[list[EvaluationSet], list[str]]:
    sets = read_evaluation_sets([shared_data / "eval" / "lambada" / "test.jsonl", shared_data / "eval" / "hellaswag"])
    chosen = [text for one in sets for text in one.texts.to_pylist()[:400] if len(normal_form(text).split()) >= 30]
    return sets, chosen


def edited(text: str, share: float, generator: random.Random) -> str:
    return re.sub(r"\w+", lambda word: "edited" if generator.random() < share else word.group(), text)


def news(shared_data: Path, count: int) -> list[str]:
    (batch, *_) = read_texts([shared_data / "text" / "bbc-news.jsonl.zst"])
    texts: list[str] = batch["text"].to_pylist()[:count]
    return texts


def test_planted_lambada_and_hellaswag_passages_are_found_though_half_are_edited(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(0)
    sets, chosen = passages(shared_data)
    texts = news(shared_data, 1_500)
    planted = generator.sample(range(len(texts)), 500)
    for rank, place in enumerate(planted):
        passage = chosen[rank % len(chosen)]
        passage = edited(passage, 0.03, generator) if rank % 2 else passage
        half = len(texts[place]) // 2
        texts[place] = f"{texts[place][:half]}\n\n{passage}\n\n{texts[place][half:]}"
    batch = documents(texts)
    result = decontaminate(batch, DecontaminationIndex(sets, DecontaminateSettings(evaluation_sets=("x",))))
    ids = batch["id"].to_pylist()
    flagged = set(result.verdicts["id"].to_pylist())
    truth = {ids[place] for place in planted}
    recall = len(flagged & truth) / len(truth)
    precision = len(flagged & truth) / len(flagged)
    whole = {ids[place] for rank, place in enumerate(planted) if rank % 2 == 0}
    with capsys.disabled():
        print(f"\nplanted: recall {recall:.3f}, of unedited {len(flagged & whole)}/250, precision {precision:.3f}")  # noqa: T201
    assert whole <= flagged
    assert recall >= 0.98
    assert precision >= 0.98
    assert set(result.verdicts["action"].to_pylist()) == {"drop"}
    by_document = {row["id"]: row for row in result.evidence.to_pylist()[::-1]}
    for rank, place in enumerate(planted[:100:2]):
        row = by_document[ids[place]]
        passage = chosen[(2 * rank) % len(chosen)]
        assert normal_form(passage).startswith(normal_form(row["passage"][:150]))
        assert texts[place].encode()[row["start"] : row["end"]].decode()[:500] == row["passage"]


def test_cutting_takes_the_passage_and_its_margin_and_leaves_the_rest() -> None:
    secret = "once upon a midnight dreary while I pondered weak and weary over many a quaint volume"
    before = " ".join(f"before{index}" for index in range(100))
    after = " ".join(f"after{index}" for index in range(100))
    options = DecontaminateSettings(evaluation_sets=("x",), action="cut", cut_margin_characters=30)
    index = DecontaminationIndex([evaluation_set("poem", [secret])], options)
    texts = [f"{before}. {secret.upper()}! {after}", f"{before} {after}", secret]
    result = decontaminate(documents(texts), index)
    cut, dropped = result.verdicts.to_pylist()
    assert (cut["id"], cut["action"], cut["ngrams"]) == (document_id("document 0"), "cut", 4)
    left = cut["text"].split("\n\n")
    assert before.startswith(left[0])
    assert after.endswith(left[1])
    assert all(15 < taken < 80 for taken in (len(before) - len(left[0]), len(after) - len(left[1])))
    assert all(re.fullmatch(r"before\d+|after\d+", word) for word in cut["text"].split())
    assert not len(decontaminate(documents([cut["text"]]), index).verdicts)
    assert (dropped["action"], dropped["reason"], dropped["detail"]) == (
        "drop",
        "short",
        "cutting 1 passages leaves 0 words < 20",
    )


def test_a_document_that_would_fall_into_many_pieces_is_dropped() -> None:
    secret = " ".join(f"secret{index}" for index in range(13))
    filler = " ".join(f"filler{index}" for index in range(60))
    options = DecontaminateSettings(evaluation_sets=("x",), action="cut", cut_margin_characters=0, max_pieces=3)
    index = DecontaminationIndex([evaluation_set("one", [secret])], options)
    kept, dropped = [f" {secret} ".join([filler] * pieces) for pieces in (3, 4)]
    first, second = decontaminate(documents([kept, dropped]), index).verdicts.to_pylist()
    assert first["action"] == "cut"
    assert first["text"] == "\n\n".join([filler] * 3)
    assert (second["action"], second["reason"]) == ("drop", "pieces")


def test_a_short_example_is_found_whole_and_a_shorter_one_is_only_counted() -> None:
    index = DecontaminationIndex(
        [evaluation_set("qa", ["who wrote the opera about the flying dutchman", "too short for this", "who was it"])],
        DecontaminateSettings(evaluation_sets=("x",)),
    )
    assert index.num_too_short == 2
    assert index.lengths == [8, 13]
    texts = [
        "They ask: who wrote the opera about the flying Dutchman?",
        "who wrote the opera about the flying dutch",
        "too short for this",
    ]
    (row,) = decontaminate(documents(texts), index).evidence.to_pylist()
    assert (row["id"], row["set"], row["example"]) == (document_id("document 0"), "qa", 0)
    assert row["passage"] == "who wrote the opera about the flying Dutchman"


@EXAMPLES
@given(TEXTS, TEXTS)
def test_contaminated_documents_are_those_that_share_an_ngram(tests: list[str], corpus: list[str]) -> None:
    options = DecontaminateSettings(evaluation_sets=("x",), n=4, min_words=4, min_ngrams=2)
    result = decontaminate(documents(corpus), DecontaminationIndex([evaluation_set("one", tests)], options))

    def grams(text: str) -> set[tuple[str, ...]]:
        words = normal_form(text).split()
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    wanted = {gram for text in tests for gram in grams(text)}
    shared = {document_id(f"document {number}"): len(grams(text) & wanted) for number, text in enumerate(corpus)}
    verdicts = {row["id"]: row["ngrams"] for row in result.verdicts.to_pylist()}
    assert verdicts == {name: count for name, count in shared.items() if count >= 2}


def test_mirrors_of_wikipedia_are_dropped_and_news_is_kept(tmp_path: Path, shared_data: Path) -> None:
    generator = random.Random(0)
    text = (shared_data / "eval" / "wikitext-2-raw" / "test.txt").read_text(encoding="utf-8")
    articles = [part for part in re.split(r"\n = [^=\n]+ = \n", text) if len(part) > 1_500]
    # A mirror: a stretch of an article, rendered by another parser, some words changed, between its own boilerplate.
    mirrors = []
    for number in range(100):
        article = articles[number % len(articles)]
        start = generator.randrange(max(1, len(article) - 4_000))
        body = edited(article[start : start + 4_000].replace(" @-@ ", "-").replace(" , ", ", "), 0.03, generator)
        frame = " ".join(f"menu{number}x{index}" for index in range(40))
        mirrors.append(f"{frame}\n{body}\n{frame}")
    options = DecontaminateSettings(exclude_reference=("x",))
    (tmp_path / "wiki.txt").write_text(text, encoding="utf-8")
    spill_reference(read_texts([tmp_path / "wiki.txt"]), options, tmp_path / "s")
    reference = build([tmp_path / "s"], tmp_path / "f", error_rate=options.reference_error_rate)
    batch = documents(mirrors + news(shared_data, 300))
    result = decontaminate(batch, DecontaminationIndex([], options), reference=reference)
    dropped = set(result.verdicts["id"].to_pylist())
    caught = sum(name in dropped for name in batch["id"].to_pylist()[:100])
    assert caught >= 95
    assert len(dropped) == caught
    assert set(result.verdicts["reason"].to_pylist()) == {"reference"}
    assert min(result.verdicts["reference_share"].to_pylist()) >= 0.5


def test_the_reference_share_is_the_share_of_ngrams_with_repeats(tmp_path: Path) -> None:
    options = DecontaminateSettings(exclude_reference=("x",), reference_n=2)
    spill_reference([documents(["a b c d"])], options, tmp_path / "s")
    reference = build([tmp_path / "s"], tmp_path / "f", error_rate=1e-8)
    shares = reference_share(pa.array(["a b c d", "a b x a b", "x y z", "a", ""]), reference, 2)
    assert np.array_equal(shares, [1.0, 0.5, 0.0, np.nan, np.nan], equal_nan=True)


# ---- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OverlapSettings(protocols=("letters",)),
            r"\[overlap\] protocols: expected names of .*, got 'letters'",
        ),
        (lambda: OverlapSettings(protocols=()), r"\[overlap\] protocols: expected at least one"),
        (lambda: OverlapSettings(error_rate=0.0), r"\[overlap\] error_rate: expected between 0 and 1"),
        (lambda: OverlapSettings(n=0), r"\[overlap\] n: expected at least 1, got 0"),
        (lambda: DecontaminateSettings(n=0), r"\[decontaminate\] n: expected at least 1, got 0"),
        (lambda: DecontaminateSettings(action="keep"), r"\[decontaminate\] action: expected drop or cut"),  # type: ignore[arg-type]
        (lambda: DecontaminateSettings(reference_share=1.5), r"\[decontaminate\] reference_share: expected above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_decontamination_is_off_by_default() -> None:
    assert not DecontaminateSettings().enabled
    assert DecontaminateSettings(exclude_reference=("wiki",)).enabled


def test_hellaswags_examples_are_its_records_with_the_right_ending(shared_data: Path) -> None:
    path = shared_data / "eval" / "hellaswag" / "validation.txt.bz2"
    (one,) = read_evaluation_sets([path])
    lines = bz2.decompress(path.read_bytes()).decode().split("\n")
    assert len(one.texts) == len(lines) // 6
    assert one.texts[1].as_py() == f"{lines[6]} {lines[8 + int(lines[7])]}"
