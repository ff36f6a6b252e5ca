"""words: the kernels against slow, readable twins; the frozen table against Python's; Arrow's odd shapes."""

from __future__ import annotations

import doctest
import re
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup.words
from dedup._unicode import UNICODE_VERSION, WORD_RUNS
from dedup.words import character_table, exact_hash, hash_tokens, hash_words, ngram_hashes, normal_form

M64 = (1 << 64) - 1

# ---- twins


def is_word_character(character: str) -> bool:
    point = ord(character)
    return any(int(a, 16) <= point <= int(b, 16) for a, b in RUNS)


RUNS = [run.split("-") for run in WORD_RUNS.split()]
SINGLE = re.compile(
    "[\u3000-\u302d\u3030-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)


def simple_lower(character: str) -> str:
    return "i" if character == "\u0130" else LOWER.get(character, character)


LOWER = {  # the few that this Python may not know are taken from the table; a test below compares the rest
    chr(point): chr(int(character_table("unicode")[point]) & 0x1FFFFF)
    for point in np.flatnonzero(character_table("unicode")).tolist()
}


def twin_words(text: str, form: str) -> list[str]:
    if form == "ascii":
        return re.findall("[a-z0-9]+", text.lower())
    words, word = [], ""
    for character in text:
        if not is_word_character(character):
            words, word = [*words, word], ""
        elif SINGLE.match(character):
            words, word = [*words, word, simple_lower(character)], ""
        else:
            word += simple_lower(character)
    return [word for word in [*words, word] if word]


def twin_mix(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & M64
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & M64
    return value ^ value >> 33


def twin_word_hash(word: str) -> int:
    state = 0x243F6A8885A308D3
    data = word.encode()
    for start in range(0, len(data), 8):
        state = twin_mix(state ^ int.from_bytes(data[start : start + 8], "little"))
    return state


def twin_ngrams(hashes: list[int], n: int, short: str) -> list[int]:
    if len(hashes) < n:
        n = len(hashes) if short == "whole" else n
    grams = []
    for start in range(len(hashes) - n + 1 if hashes else 0):
        state = 0
        for value in hashes[start : start + n]:
            state = (state * 0xD1342543DE82EF93 + value) & M64
        grams.append(twin_mix(state))
    return grams


fast = settings(deadline=None, derandomize=True, max_examples=60)

odd = "aZ09 _'-’.ßẞİıΣςK\u00e9e\u0301\u0303日々〇ヶかガﾊ한국"
odd += "\u302e\u0130Ⱥᏹꭰ\U0001f600\U00010400\U0002000b\u200d\ufe0f٣१ก\x00\n№Ⅷ"


# Long enough to leave the fast path for ASCII and come back to it, in the middle of a word.
@fast
@given(
    st.lists(
        st.tuples(st.integers(0, 600), st.sampled_from(["é", "日", " ", "İ", "", "\u0301", "😀", "Ⱥ"])), max_size=5
    )
)
def test_long_runs_of_ascii_between_odd_characters_give_the_words_of_the_twin(runs: list[tuple[int, str]]) -> None:
    text = "".join(("Ab1 cd-eF" * 70)[:length] + odd_one for length, odd_one in runs)
    for form in ("unicode", "ascii"):
        words = twin_words(text, form)
        assert hash_words(pa.array([text]), form)[0].tolist() == [twin_word_hash(word) for word in words]
        assert normal_form(text, form) == " ".join(words)


texts_strategy = st.lists(
    st.text(st.one_of(st.sampled_from(odd), st.characters(exclude_categories=["Cs"])), max_size=40)
)

# ---- words


@fast
@given(texts_strategy, st.sampled_from(["unicode", "ascii"]))
def test_kernels_give_the_words_and_hashes_of_the_slow_twin(texts: list[str], form: str) -> None:
    hashes, offsets = hash_words(pa.array(texts, pa.string()), form)
    expected = [twin_words(text, form) for text in texts]
    assert hashes.tolist() == [twin_word_hash(word) for words in expected for word in words]
    assert np.diff(offsets).tolist() == [len(words) for words in expected]
    for text, words in zip(texts, expected, strict=True):
        assert normal_form(text, form) == " ".join(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("word", ["word"]),
        (" ... —!? \n", []),
        ("It's snake_case-isn't", ["it", "s", "snake", "case", "isn", "t"]),
        ("STRASSE ẞ Straße", ["strasse", "ß", "straße"]),
        ("İI ıΣΑΣ", ["ii", "ıσασ"]),  # one code point to one, whatever its neighbours
        ("e\u0301 \u00e9", ["e\u0301", "\u00e9"]),  # not normalised: two different words
        ("日本語のGPT2モデル", ["日", "本", "語", "の", "gpt2", "モ", "デ", "ル"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("中a文", ["中", "a", "文"]),
        ("हिन्दी", ["हिन्दी"]),  # vowel signs and virama are marks
        ("a\u200bb", ["a", "b"]),
        ("𐐀𐐨", ["𐐨𐐨"]),  # Deseret lower-cases outside the basic plane
        ("①Ⅷ٣", ["①ⅷ٣"]),
    ],
)
def test_words_of_known_texts(text: str, words: list[str]) -> None:
    assert normal_form(text) == " ".join(words)
    assert hash_words(pa.array([text]))[0].tolist() == [twin_word_hash(word) for word in words]


def test_every_code_point_has_the_category_and_lower_case_that_python_knows() -> None:
    table = character_table("unicode")
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        category = unicodedata.category(character)
        if category in ("Cn", "Cs"):  # not assigned yet in this Python's Unicode
            continue
        expected = simple_lower_of_python(character) if category[0] in "LNM" else 0
        assert int(table[point]) & 0x1FFFFF == expected, (hex(point), category)


def simple_lower_of_python(character: str) -> int:
    lower = character.lower()
    return ord("i") if character == "\u0130" else ord(lower)


def test_ascii_form_equals_the_regular_expression_for_every_code_point() -> None:
    points = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    for start in range(0, len(points), 4096):
        text = "q".join(points[start : start + 4096])
        assert normal_form(text, "ascii") == " ".join(re.findall("[a-z0-9]+", text.lower()))


def test_bytes_that_are_not_utf8_separate_and_are_never_read_past_the_end() -> None:
    broken = [b"ab\xffcd", b"ab\xe4\xb8", b"\xf0\x9f\x98", b"ab\xc3", b"\xf5\x80\x80\x80x", b"\xc0\x80"]
    values = b"".join(broken)
    offsets = np.cumsum([0, *map(len, broken)]).astype(np.int32)
    array = pa.StringArray.from_buffers(len(broken), pa.py_buffer(offsets), pa.py_buffer(values))
    hashes, bounds = hash_words(array)
    assert np.diff(bounds).tolist() == [2, 1, 0, 1, 1, 0]
    assert hashes[0] == twin_word_hash("ab")
    assert exact_hash(array).shape == (6, 16)


# ---- Arrow's shapes


def test_any_slice_offset_chunk_null_and_width_gives_the_same_hashes() -> None:
    texts = ["zero", "one two", None, "", "naïve 日本", "last words here"]
    plain = [text or "" for text in texts]
    expected = [[twin_word_hash(w) for w in twin_words(text, "unicode")] for text in plain]
    for kind in (pa.string(), pa.large_string()):
        array = pa.array(["padding", *texts, "padding"], kind).slice(1, len(texts))
        chunked = pa.chunked_array([array.slice(0, 2), array.slice(2, 0), array.slice(2)], kind)
        for shape in (array, chunked):
            hashes, offsets = hash_words(shape)
            assert [hashes[a:b].tolist() for a, b in pairwise(offsets)] == expected
            assert exact_hash(shape).tolist() == exact_hash(pa.array(plain)).tolist()


def test_a_null_with_bytes_behind_it_is_an_empty_text() -> None:
    offsets = pa.py_buffer(np.array([0, 3, 6], np.int32))
    array = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"onetwo"), pa.py_buffer(b"\x02"), 1)
    assert hash_words(array)[0].tolist() == [twin_word_hash("two")]


@pytest.mark.parametrize(
    "empty", [pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.nulls(0, pa.string())]
)
def test_no_texts_give_no_words(empty: object) -> None:
    hashes, offsets = hash_words(empty)
    assert (hashes.size, offsets.tolist(), exact_hash(empty).shape) == (0, [0], (0, 16))


def test_a_column_that_is_not_text_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="got int64"):
        hash_words(pa.array([1, 2]))
    with pytest.raises(ValueError, match="latin"):
        hash_words(pa.array(["a"]), "latin")  # type: ignore[arg-type]


# ---- n-grams


@fast
@given(st.lists(st.lists(st.integers(0, M64), max_size=12)), st.integers(1, 9), st.sampled_from(["whole", "none"]))
def test_ngrams_roll_to_the_hashes_of_the_slow_twin_within_documents(documents, n, short) -> None:  # type: ignore[no-untyped-def]
    flat = np.array([value for document in documents for value in document], np.uint64)
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    grams, bounds = ngram_hashes(flat, offsets, n, short=short)
    expected = [twin_ngrams(document, n, short) for document in documents]
    assert [grams[a:b].tolist() for a, b in pairwise(bounds)] == expected


def test_the_order_of_words_in_an_ngram_counts() -> None:
    hashes, _ = hash_words(pa.array(["a b c d e f g h"]))
    seen = set()
    for i in range(8):
        for j in range(i, 8):
            swapped = hashes.copy()
            swapped[[i, j]] = swapped[[j, i]]
            seen.add(int(ngram_hashes(swapped, np.array([0, 8]), 8)[0][0]))
    assert len(seen) == 29  # 28 swaps and the original


def test_tokens_are_hashed_alike_in_both_widths_and_combine_like_words() -> None:
    ids = np.array([0, 1, 50256, 65535, 7, 7], np.uint16)
    hashes = hash_tokens(ids)
    assert hashes.tolist() == hash_tokens(ids.astype(np.uint32)).tolist()
    assert hashes.tolist() == [twin_mix(0x243F6A8885A308D3 ^ value) for value in ids.tolist()]
    assert ngram_hashes(hashes, np.array([0, 4, 6]), 3)[0].tolist() == twin_ngrams(hashes[:4].tolist(), 3, "none")
    with pytest.raises(ValueError, match="int64"):
        hash_tokens(np.array([1, 2]))


def test_ngram_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ngram_hashes(np.zeros(0, np.uint64), np.zeros(1, np.int64), 0)
    with pytest.raises(ValueError, match="padded"):
        ngram_hashes(np.zeros(0, np.uint64), np.zeros(1, np.int64), 3, short="padded")  # type: ignore[arg-type]


# ---- exact duplicates


@fast
@given(texts_strategy)
def test_exact_hash_is_xxh3_of_the_normal_form(texts: list[str]) -> None:
    expected = [list(xxhash.xxh3_128_digest(" ".join(twin_words(text, "unicode")).encode())) for text in texts]
    assert exact_hash(pa.array(texts, pa.string())).tolist() == expected


def test_exact_hash_ignores_case_and_punctuation_and_nothing_else() -> None:
    a, b, c, d = exact_hash(pa.array(["Hello, World!", "hello world", "hello worlds", "helloworld"])).tolist()
    assert a == b
    assert len({bytes(a), bytes(c), bytes(d)}) == 3


def test_exact_hash_is_the_same_however_texts_fall_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array([f"text {i} " * (i % 7) for i in range(300)])
    whole = exact_hash(texts)
    monkeypatch.setattr(dedup.words, "_BATCH_BYTES", 50)
    np.testing.assert_array_equal(exact_hash(texts), whole)


def test_word_hashes_of_a_million_different_words_do_not_collide() -> None:
    words = " ".join(f"{prefix}{i}" for prefix in ("a", "word", "ü", "日") for i in range(250_000))
    hashes, _ = hash_words(pa.array([words]))
    assert np.unique(hashes).size == 250_000 * 3 + 250_000 + 1  # 日 and the number are two words; plain numbers new
    assert UNICODE_VERSION == "17.0.0"


def test_the_docstrings_examples_are_true() -> None:
    assert doctest.testmod(dedup.words).failed == 0
