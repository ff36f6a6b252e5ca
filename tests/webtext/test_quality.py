"""The rules of the filter: their slow twins, a hit and a near miss of each, and what they leave of real articles."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import time
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext import _quality_kernels as kernels
from webtext.parser import clean_text, detect_language
from webtext.quality import C4_PHRASES, QualitySettings, audit_language, drop_reason, drop_reasons, measures
from webtext.records import Document

DEFAULTS = QualitySettings()


def off(**rules: Any) -> QualitySettings:
    """Every rule off but these."""
    names = [f.name for f in dataclasses.fields(QualitySettings) if f.type in ("int | None", "float | None")]
    everything: dict[str, Any] = {**dict.fromkeys(names), "languages": (), "c4_lorem_ipsum": False}
    return QualitySettings(**{**everything, **rules})


def table(*texts: str, language: str = "en", score: float = 0.99) -> pa.Table:
    n = len(texts)
    return pa.table(
        {
            "id": [f"{i:032x}" for i in range(n)],
            "text": list(texts),
            "language": [language] * n,
            "language_score": [score] * n,
        }
    )


def reason(text: str, rules: QualitySettings, language: str = "en") -> str | None:
    drop = drop_reasons(table(text, language=language), rules)[0]
    return drop.reason if drop else None


# --- the slow twin ---


def is_space(character: str) -> bool:
    return character.isspace() and character not in "\x1c\x1d\x1e\x1f"


def split(text: str) -> list[str]:
    return "".join(" " if is_space(c) else c for c in text).split(" ")


def lower_ascii(word: str) -> str:
    return "".join(c.lower() if c < "\x80" else c for c in word)


TERMINATORS = ".!?…。！？．؟۔।॥"
QUOTES = "\"'”’»」』"
BULLETS = "•‣▪▶●◦○■□*-–·"


def sentences_in(word: str) -> int:
    found, open_end = 0, False
    for c in word:
        if c in TERMINATORS:
            open_end = True
            if c >= "\u3000":
                found, open_end = found + 1, False
        elif c not in QUOTES + ")]":
            open_end = False
    return found + open_end


def slow_measures(text: str, s: QualitySettings) -> list[float]:
    words = [word for word in split(text) if word]
    keys = [lower_ascii(word) for word in words]
    total = max(1, sum(map(len, words)))
    lines = []
    paragraphs: list[list[str]] = [[]]
    for raw in text.split("\n"):
        line = "".join(" " if is_space(c) else c for c in raw).strip(" ")
        if line:
            lines.append(line)
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    blocks = ["\n".join(block) for block in paragraphs if block]
    n_words, n_lines = max(1, len(words)), max(1, len(lines))
    line_chars = max(1, sum(map(len, lines)))

    def repeated(items: list[str], length: Any) -> tuple[int, int]:
        seen: set[str] = set()
        count = size = 0
        for item in items:
            if item in seen:
                count, size = count + 1, size + length(item)
            seen.add(item)
        return count, size

    dup_lines, dup_line_chars = repeated(lines, len)
    dup_blocks, dup_block_chars = repeated(blocks, lambda block: len(block) - block.count("\n"))

    def top(n: int) -> float:
        grams = Counter(tuple(keys[i : i + n]) for i in range(len(keys) - n + 1))
        again = [(count, sum(map(len, gram))) for gram, count in grams.items() if count > 1]
        if not again:
            return 0.0
        most = max(count for count, _ in again)
        return min(1.0, most * max(length for count, length in again if count == most) / total)

    def duplicate(n: int) -> float:
        seen: set[tuple[str, ...]] = set()
        covered: set[int] = set()
        for i in range(len(keys) - n + 1):
            gram = tuple(keys[i : i + n])
            if gram in seen:
                covered.update(range(i, i + n))
            seen.add(gram)
        return sum(len(words[i]) for i in covered) / total

    def has(line: str, phrases: tuple[str, ...]) -> bool:
        return any(re.search(rf"(?<![A-Za-z]){re.escape(p)}", line, re.IGNORECASE | re.ASCII) for p in phrases)

    def ends_well(line: str) -> bool:
        return line[-1] in TERMINATORS + QUOTES

    def ellipsis_end(line: str) -> bool:
        return line.endswith(("...", "…"))

    def kept(line: str) -> bool:
        return not (
            (s.c4_line_punctuation and (not ends_well(line) or ellipsis_end(line)))
            or len(line.split()) < s.c4_line_min_words
            or (s.c4_line_javascript and has(line, C4_PHRASES[1:2]))
            or (s.c4_line_policy and has(line, C4_PHRASES[2:]))
            or (s.c4_line_max_word and any(len(word) > s.c4_line_max_word for word in line.split()))
        )

    ellipses = len(re.findall(r"\.{3,}", text)) + text.count("…")
    return [
        len(words),
        sum(map(len, words)) / n_words,
        text.count("#") / n_words,
        ellipses / n_words,
        sum(line[0] in BULLETS and (len(line) == 1 or line[1] == " ") for line in lines) / n_lines,
        sum(map(ellipsis_end, lines)) / n_lines,
        sum(any(unicodedata.category(c)[0] == "L" for c in word) for word in words) / n_words,
        len(set(keys) & set(kernels.STOP_WORDS_OF_GOPHER)),
        dup_lines / n_lines,
        dup_blocks / max(1, len(blocks)),
        dup_line_chars / line_chars,
        dup_block_chars / line_chars,
        *(top(n) for n in range(2, 5)),
        *(duplicate(n) for n in range(5, 11)),
        sum(map(ends_well, lines)) / n_lines,
        sum(len(line) <= 30 for line in lines) / n_lines,
        sum(map(sentences_in, words)),
        text.count("{"),
        sum(has(line, ("lorem ipsum",)) for line in lines) > 0,
        sum(len(line.split()) for line in lines if kept(line)) / n_words,
    ]


WORDS = (
    "the The of and be to a cat sat. mat! “so” … ... .... a..b # ##x {x} • - – "
    "été ÉTÉ Ж 漢字。 漢 １２ 12 3.4 (end.) yes.) 😀"
)
PHRASES = (
    "privacy|policy|Privacy policy|use cookies|javascript|eJavaScript|JAVASCRIPT|lorem|Lorem ipsum|"
    "\t|\u3000|\n|\n\n|\n \n"
)
PIECES = st.sampled_from([*WORDS.split(), *PHRASES.split("|"), "x" * 30, "a\u0301"])


@given(
    st.lists(st.tuples(PIECES, st.sampled_from([" ", " ", " ", "  ", "", "\n"])), max_size=60),
    st.booleans(),
    st.integers(0, 12),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_the_kernel_measures_what_its_slow_twin_does(pieces: list[tuple[str, str]], rule: bool, max_word: int) -> None:
    text = "".join(piece + space for piece, space in pieces)
    s = off(
        c4_line_punctuation=rule, c4_line_policy=not rule, c4_line_max_word=max_word, c4_line_min_words=max_word // 2
    )
    found = measures(pa.array(["x y", text, ""]), s)[1].tolist()
    found[kernels.LOREM_IPSUM] = found[kernels.LOREM_IPSUM] > 0
    assert found == pytest.approx(slow_measures(text, s), abs=1e-12)


@given(st.text(max_size=200))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_the_kernel_measures_any_text_that_a_document_can_hold(text: str) -> None:
    text = clean_text("".join(c for c in text if unicodedata.category(c) != "Cn"))
    found = measures(pa.array([text]), DEFAULTS)[0].tolist()
    found[kernels.LOREM_IPSUM] = found[kernels.LOREM_IPSUM] > 0
    assert found == pytest.approx(slow_measures(text, DEFAULTS), abs=1e-12)


def test_measures_do_not_depend_on_type_offset_slice_or_neighbours() -> None:
    texts = ["The cat sat on the mat. " * i + "Ж漢\n\n" * (i % 3) for i in range(20)]
    whole = measures(pa.array(texts), DEFAULTS)
    assert np.array_equal(whole, measures(pa.array(texts, pa.large_string()), DEFAULTS))
    assert np.array_equal(whole[5:9], measures(pa.array(["pad", *texts]).slice(6, 4), DEFAULTS))
    assert np.array_equal(whole[::-1], measures(pa.array(texts[::-1]), DEFAULTS))
    assert measures(pa.array([], pa.string()), DEFAULTS).shape == (0, kernels.NUM_MEASURES)


def test_texts_of_another_type_or_with_nulls_are_refused() -> None:
    with pytest.raises(ValueError, match="expected string or large_string texts, got binary"):
        measures(pa.array([b"x"]), DEFAULTS)
    with pytest.raises(ValueError, match="expected texts without nulls, got 1"):
        measures(pa.array(["x", None]), DEFAULTS)


# --- each rule: a hit and a near miss ---

LINE = "{} green bottles hang on the wall.\n"
DIFFERENT = [f"w{i}" for i in range(1000)]


def repeat_share(n: int, hit: bool) -> str:
    """100 words of 4 characters in which the second sight of an n-gram covers n of them."""
    gram = [f"g{i:03}" for i in range(n)]
    rest = [f"r{i:03}" for i in range(100 - 2 * n)]
    return " ".join(gram + rest + (gram if hit else [*gram[:-1], "last"]))


CASES: list[tuple[str, Any, str, str]] = [
    ("gopher_min_words", 5, "one two three four", "one two three four five"),
    ("gopher_max_words", 5, "one two three four five six", "one two three four five"),
    ("gopher_min_mean_word", 3.0, "aa bbb", "aaa bbb"),
    ("gopher_max_mean_word", 4.0, "aaaa bbbbb", "aaaa bbbb"),
    ("gopher_max_hashes", 0.5, "#a #b c", "#a b #c d"),
    ("gopher_max_ellipses", 0.5, "a... b… c", "a... b c… d"),
    ("gopher_max_bullet_lines", 0.5, "- a\n• b\nc", "- a\n• b\nc\nd"),
    ("gopher_max_ellipsis_lines", 0.5, "a...\nb…\nc", "a...\nb…\nc\nd"),
    ("gopher_min_words_with_letter", 0.5, "a 1 2", "a 1"),
    ("gopher_min_stop_words", 2, "the cat", "The cat And"),
    ("gopher_max_duplicate_lines", 0.5, "a\na\na\na\nb", "a\na\na\nb"),
    ("gopher_max_duplicate_paragraphs", 0.5, "a\nb\n\na\nb\n\na\nb", "a\nb\n\na\nb\n\nc"),
    ("gopher_max_duplicate_line_chars", 0.4, "aaaa\naaaa\nb", "aaaa\naaaa\nbb"),
    ("gopher_max_duplicate_paragraph_chars", 0.4, "aaaa\n\naaaa\n\nb", "aaaa\n\naaaa\n\nbb"),
    ("gopher_max_top_2gram", 0.5, "aa bb cc aa bb", "aa bb cc dd ee ff aa bb"),
    ("gopher_max_top_3gram", 0.5, "aa bb cc dd aa bb cc", "aa bb cc dd aa bb ee"),
    ("gopher_max_top_4gram", 0.5, "a b c d e a b c d", "a b c d e a b c f"),
    *(
        (f"gopher_max_duplicate_{n}grams", n / 100 - 0.001, repeat_share(n, True), repeat_share(n, False))
        for n in range(5, 11)
    ),
    ("fineweb_min_punctuated_lines", 0.5, "a.\nb\nc", "a.\nb\n“c”\nd"),
    ("fineweb_max_duplicate_line_chars", 0.4, "aaaa\naaaa\nb", "aaaa\naaaa\nbb"),
    ("fineweb_max_short_lines", 0.5, f"{'a' * 30}\nb\n{'c' * 31}", f"{'a' * 30}\n{'c' * 31}"),
    ("c4_min_sentences", 3, "One. Two! 3.5 and more", "One. Two! (Three?) more"),
    ("c4_lorem_ipsum", True, "Now LOREM ipsum", "lorem and ipsum"),
    ("c4_curly_bracket", True, "a {", "a ("),
    ("c4_bad_words", ("damn", "bloody hell"), "Oh, Damn.", "damned if I know"),
    ("c4_min_kept_words", 0.5, "A line that C4 keeps.\na b c d e f", "A line that C4 keeps.\na b c d e"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "limit", "hit", "near_miss"), CASES, ids=[case[0] for case in CASES])
def test_each_rule_hits_and_nearly_misses(name: str, limit: Any, hit: str, near_miss: str) -> None:
    rules = off(**{name: limit})
    assert reason(hit, rules) == name
    assert reason(near_miss, rules) is None
    assert reason(hit, off()) is None


def test_every_rule_has_its_case() -> None:
    rules = {f.name for f in dataclasses.fields(QualitySettings)} - {"languages", "min_language_score"}
    assert rules - {name for name in rules if name.startswith("c4_line")} == {case[0] for case in CASES}


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("c4_line_punctuation", False, "a line of many words without an end"),
        ("c4_line_punctuation", False, "a line of many words that trails off..."),
        ("c4_line_min_words", 3, "A short line."),
        ("c4_line_javascript", False, "Please enable JavaScript in your browser now."),
        ("c4_line_policy", False, "Read the terms of use before you go on."),
        ("c4_line_max_word", 0, f"A line with a {'very' * 300} long word."),
    ],
)
def test_each_line_rule_of_c4_counts_in_the_share_of_kept_words(name: str, value: Any, line: str) -> None:
    assert reason(line, off(c4_min_kept_words=0.01)) == "c4_min_kept_words"
    assert reason(line, off(c4_min_kept_words=0.01, **{name: value})) is None


def test_the_detail_says_what_was_measured_and_the_limit() -> None:
    [drop] = drop_reasons(table("a\na\na\nb"), off(gopher_max_duplicate_lines=0.25))
    assert drop is not None
    assert (drop.id, drop.reason, drop.detail) == ("0" * 32, "gopher_max_duplicate_lines", "0.5 > 0.25")


def test_the_first_rule_that_fails_is_the_reason() -> None:
    assert reason("#", off(gopher_min_words=5, gopher_max_hashes=0.1, c4_min_sentences=3)) == "gopher_min_words"
    assert reason("#", off(gopher_max_hashes=0.1, c4_min_sentences=3)) == "gopher_max_hashes"


# --- language ---


def test_languages_and_their_score_are_looked_at_first() -> None:
    rules = off(languages=("en", "de"), min_language_score=0.5, gopher_min_words=5)
    rows = pa.concat_tables(
        [table("x", language="fr"), table("x", score=0.49), table("x", score=0.5), table("a b c d e", language="de")]
    )
    drops = drop_reasons(rows, rules)
    assert [drop.reason if drop else None for drop in drops] == ["language", "language_score", "gopher_min_words", None]
    assert drops[0] is not None
    assert drops[0].detail == "fr is not en de"


def test_no_languages_keep_all() -> None:
    assert reason("x", off(), language="und") is None


def test_languages_without_spaces_pass_the_rules_that_count_words_and_others_need_no_english_words() -> None:
    chinese = "今天天气很好。我们去公园散步。" * 20
    rules = dataclasses.replace(DEFAULTS, languages=())
    assert reason(chinese, rules, language="zh") is None
    assert reason(chinese, rules, language="en") == "gopher_min_words"
    stop = off(gopher_min_stop_words=2)
    assert reason("Der Hafen liegt still.", stop, language="de") is None
    assert reason("Der Hafen liegt still.", stop, language="en") == "gopher_min_stop_words"


def test_the_second_detector_knows_the_great_languages() -> None:
    texts = [
        "The tide in the harbour rises twice a day, and the boats float at noon.",
        "Die Flut im Hafen kommt zweimal am Tag, und mittags schwimmen die Boote.",
        "La marée monte deux fois par jour dans le port, et les bateaux flottent à midi.",
    ]
    assert audit_language(texts) == ["en", "de", "fr"]
    assert audit_language([]) == []


# --- documents, batches, speed ---


def test_one_document_is_judged_as_its_row_is() -> None:
    document = Document("a" * 32, "u", "too short", None, None, "en", 0.9, 0, "x", 2, 9)
    assert drop_reason(document, DEFAULTS) == "gopher_min_words"
    assert drop_reason(dataclasses.replace(document, language="de"), DEFAULTS) == "language"
    assert drop_reason(document, off()) is None


def test_tables_of_chunks_and_record_batches_give_the_same_drops() -> None:
    texts = [
        "too short",
        "The end of it. " + LINE.format("Ten") + LINE.format("Ten of the") * 30,
        "The cat and the dog. " + " ".join(DIFFERENT[100:180]) + ". So. And. More.",
    ]
    whole = table(*texts)
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    drops = drop_reasons(whole, DEFAULTS)
    assert [drop.reason if drop else None for drop in drops][:2] == ["gopher_min_words", "gopher_max_duplicate_lines"]
    assert drops[2] is None
    assert drop_reasons(chunked, DEFAULTS) == drops
    assert drop_reasons(whole.to_batches()[0], DEFAULTS) == drops
    assert drop_reasons(whole.slice(1), DEFAULTS) == drops[1:]
    assert drop_reasons(whole.slice(0, 0), DEFAULTS) == []


def test_all_rules_run_at_ten_megabytes_a_second_at_least() -> None:
    text = "".join(LINE.format(" ".join(DIFFERENT[i : i + 9])) for i in range(900))
    rows = table(*[text] * 100)
    measures(pa.array(["x"]), DEFAULTS)
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        drop_reasons(rows, DEFAULTS)
        best = min(best, time.process_time() - started)
    assert len(text) * 100 / best > 10e6


def test_nearly_all_english_articles_that_people_marked_survive_the_defaults(shared_data: Path) -> None:
    texts = []
    with (shared_data / "pages" / "gold.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row.get("page_type") == "article":
                texts.append(clean_text(row["text"]))
    english = [text for text in texts if detect_language(text)[0] == "en"]
    assert len(english) > 400
    dropped = [drop for drop in drop_reasons(table(*english), DEFAULTS) if drop]
    assert len(dropped) <= 0.01 * len(english), dropped


def test_news_that_had_no_part_in_the_choice_of_the_defaults_survives_them(shared_data: Path) -> None:
    with zstandard.open(shared_data / "text" / "bbc-news.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = [clean_text(json.loads(line)["text"]) for line in itertools.islice(lines, 0, None, 10)]
    assert len(texts) > 200
    dropped = [drop for drop in drop_reasons(table(*texts), DEFAULTS) if drop]
    assert len(dropped) <= 0.01 * len(texts), dropped


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gopher_min_words", -1),
        ("gopher_max_duplicate_lines", 1.5),
        ("languages", ("English",)),
        ("min_language_score", 2.0),
    ],
)
def test_bad_settings_are_refused_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^\[filter\] {name}: expected .*; "):
        dataclasses.replace(DEFAULTS, **{name: value})
