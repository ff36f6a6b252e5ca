"""Byte-level BPE against what it promises to equal: the pattern, `tokenizers`, tiktoken and GPT-2's released files."""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import json
import logging
import pickle
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
import tokenizers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from webtext import bpe
from webtext.bpe import TokenizerSettings, Vocabulary

# Characters of every category, and those that fool splitters: every white space, controls, combining marks, emoji with
# joiners and skins, digits and letters of many scripts, apostrophes, and characters that a later Unicode reclassified.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2004\u200a\u2028\u2029\u202f\u205f\u3000"
ODD = WHITE_SPACE + (
    "\x00\x01\x1c\x1f\x7f\x80\xad\u200b\u200d\u2060\ufeff\ufffd\ufffe"
    "aZéßœΩжשبहगക中国こ힣ƛǅʰªⅣ²½১٣௧〇𝟘𐄇𐀀𐐷𝒜𠀀\u0301\u0308\u0903\u20dd\u0558\u1c89\u088f\U000323b0"
    "😀👍🏽🇪🇸❤\ufe0f👩‍💻#*_-=.,;:!?()[]{}<>|\\/\"`~@^&%$€£+0123456789'’`stmdrevl"
)
odd_text = st.text(
    st.one_of(st.sampled_from(ODD), st.sampled_from("  '' srtdmvel12\n"), st.characters(exclude_categories=["Cs"])),
    max_size=40,
)


def reference_split(text: str) -> list[bytes]:
    """Pieces by `tokenizers`."""
    pieces = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str(text)
    return [bpe.unshow(piece) for piece, _ in pieces]


def tiktoken_splits(texts: Sequence[str], ours: Sequence[list[bytes]]) -> list[list[bytes]]:
    """Pieces by tiktoken, which shows no pieces: with every piece of ours, and every two neighbours, as a token, it
    encodes as our pieces if and only if it cuts where we cut."""
    ranks: dict[bytes, int] = {bytes([byte]): byte for byte in range(256)}
    for pieces in ours:
        for piece in [*pieces, *(left + right for left, right in itertools.pairwise(pieces))]:
            ranks.setdefault(piece, len(ranks))
    encoding = tiktoken.Encoding("pieces", pat_str=bpe.GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    names = {rank: piece for piece, rank in ranks.items()}
    return [[names[token] for token in encoding.encode_ordinary(text)] for text in texts]


def random_texts(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        length = rng.randrange(1, 24)
        characters = []
        while len(characters) < length:
            kind = rng.random()
            if kind < 0.45:
                characters.append(rng.choice(ODD))
            elif kind < 0.75:
                characters.append(rng.choice(" '\nsStTreEvVlLmMdDabc012!.,"))
            else:
                point = rng.randrange(0x110000) if kind < 0.9 else rng.randrange(0x3000)
                if not 0xD800 <= point < 0xE000:
                    characters.append(chr(point))
        yield "".join(characters)


# The rule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (" ", [" "]),
        ("Hello world", ["Hello", " world"]),
        ("a  b", ["a", " ", " b"]),
        ("a \n b", ["a", " \n", " b"]),
        ("a\n\nb", ["a", "\n", "\n", "b"]),
        ("end  \n", ["end", "  \n"]),
        ("\u3000\u3000x", ["\u3000", "\u3000", "x"]),
        (" \xa0x", [" ", "\xa0", "x"]),
        ("\xa0 x", ["\xa0", " x"]),
        ("a\xa0", ["a", "\xa0"]),
        ("it's we'll THEY'RE", ["it", "'s", " we", "'ll", " THEY", "'", "RE"]),
        ("'sfoo 'tis ''s", ["'s", "foo", " '", "tis", " ''", "s"]),
        ("'s's'", ["'s", "'s", "'"]),
        ("'re've'd'x'", ["'re", "'ve", "'d", "'", "x", "'"]),
        ("abc123!?", ["abc", "123", "!?"]),
        ("x 1 !", ["x", " 1", " !"]),
    ],
)
def test_text_is_cut_as_gpt2_cuts_it(text: str, pieces: list[str]) -> None:
    assert bpe.split(text) == [piece.encode() for piece in pieces]
    assert reference_split(text) == bpe.split(text)


@given(odd_text)
@settings(max_examples=1500, deadline=None, derandomize=True)
def test_pieces_are_those_of_tokenizers(text: str) -> None:
    assert bpe.split(text) == reference_split(text)


def test_pieces_are_those_of_tiktoken_on_random_unicode() -> None:
    texts = list(random_texts(10_000, seed=1))
    ours = [bpe.split(text) for text in texts]
    assert tiktoken_splits(texts, ours) == ours


@pytest.mark.slow
def test_pieces_are_those_of_tiktoken_on_100_000_random_texts() -> None:
    texts = list(random_texts(100_000, seed=2))
    ours = [bpe.split(text) for text in texts]
    assert tiktoken_splits(texts, ours) == ours


def test_the_comparison_with_tiktoken_can_fail() -> None:
    assert tiktoken_splits(["ab 12"], [[b"a", b"b", b" 12"]]) != [[b"a", b"b", b" 12"]]
    assert tiktoken_splits(["a 1"], [[b"a ", b"1"]]) != [[b"a ", b"1"]]


def cut_in_context(points: Sequence[int]) -> tuple[list[bytes], list[bytes]]:
    """Every code point after a letter, a number and a sign: it joins what it is like; white space joins none."""
    text = "".join(f"a{chr(point)}1{chr(point)}!{chr(point)}" for point in points if not 0xD800 <= point < 0xE000)
    return bpe.split(text), reference_split(text)


def test_the_category_table_is_what_the_installed_tokenizers_says() -> None:
    table = "".join(bpe.CATEGORIES[kind] for kind in bpe.categories().tolist())
    assert hashlib.sha256(table.encode()).hexdigest() == bpe.CATEGORY_SHA256
    edges = [start for start in range(1, len(table)) if table[start] != table[start - 1]]
    points = sorted({*range(0x800), *edges, *(edge - 1 for edge in edges), *range(0x800, 0x110000, 61)})
    ours, theirs = cut_in_context(points)
    assert ours == theirs


@pytest.mark.slow
def test_the_category_table_is_what_the_installed_tokenizers_says_of_every_code_point() -> None:
    for start in range(0, 0x110000, 1 << 16):
        ours, theirs = cut_in_context(range(start, start + (1 << 16)))
        assert ours == theirs


@pytest.mark.parametrize(
    ("token", "follows"),
    [
        (b"abc", True),
        (b" abc", True),
        (b" 12", True),
        (b"  ", True),
        (b"\n\n", True),
        (b"'ll", True),
        (b" '", True),
        (b"abc1", False),
        (b"a ", False),
        (b"  a", False),
        (b" \n!", False),
        (b"'x", False),
        ("é中".encode(), True),
        ("\xa0a".encode(), False),
        (b"\xe4\xb8", True),
    ],
)
def test_what_follows_the_rule(token: bytes, follows: bool) -> None:
    assert bpe.follows_rule(token) is follows


def test_every_token_of_gpt2_follows_the_rule(shared_data: Path) -> None:
    vocabulary = bpe.load_vocabulary(shared_data / "bpe" / "gpt2_vocab")
    assert [token for token in vocabulary.tokens if not bpe.follows_rule(token)] == []


def test_our_tokens_follow_the_rule_and_those_trained_without_the_pattern_do_not() -> None:
    texts = [f"{a}{b} {a} {b}'s {a}!!\n\n{b}99" for a in ("the", "of", "中文") for b in ("cat", "dog", "größe")] * 3
    ours = bpe.train(bpe.count_pieces([pa.array(texts)]), TokenizerSettings(vocab_size=400))
    assert all(bpe.follows_rule(token) for token in ours.tokens)
    whole = pa.table(
        [pa.array([text.encode() for text in texts]), pa.array([1] * len(texts), pa.uint64())], bpe.COUNT_SCHEMA
    )
    without = bpe.train(whole, TokenizerSettings(vocab_size=400))
    assert not all(bpe.follows_rule(token) for token in without.tokens)


# Counting ----------------------------------------------------------------------------------------------------------


def counted(table: pa.Table) -> dict[bytes, int]:
    assert table.schema == bpe.COUNT_SCHEMA
    pieces = table["piece"].to_pylist()
    assert pieces == sorted(set(pieces))
    return dict(zip(pieces, table["count"].to_pylist(), strict=True))


def slow_count(texts: Sequence[str | None]) -> dict[bytes, int]:
    return dict(Counter(piece for text in texts if text is not None for piece in reference_split(text)))


@given(
    st.lists(
        st.one_of(
            st.none(), odd_text, st.sampled_from(["x" * 9, "x" * 40, " longer words", "long\x00\x00\x00\x00\x00\x00"])
        )
    )
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_counts_are_those_of_the_slow_twin_for_any_arrow_layout(texts: list[str | None]) -> None:
    expected = slow_count(texts)
    plain = pa.array(texts, pa.string())
    assert counted(bpe.count_pieces([plain])) == expected
    assert counted(bpe.count_pieces([plain.cast(pa.large_string())])) == expected
    padded = pa.array(["skipped before", *texts, "skipped behind"], pa.string())
    assert counted(bpe.count_pieces([padded[1:-1]])) == expected
    half = len(texts) // 2
    assert counted(bpe.count_pieces([pa.chunked_array([plain[half:], plain[:half]], pa.string())])) == expected


def test_pieces_that_share_their_start_are_kept_apart_and_sorted() -> None:
    words = (
        ["a" * n for n in range(1, 60)]
        + ["a" * 23 + c + "a" * k for c in "bcé" for k in range(9)]
        + ["\x00" * n for n in range(1, 30)]
    )
    assert counted(bpe.count_pieces([pa.array(words * 2)])) == slow_count(words * 2)


def many_texts(count: int) -> list[str]:
    rng = random.Random(7)
    words = ["".join(rng.choice("abcdefghij") for _ in range(rng.randrange(1, 14))) for _ in range(40_000)]
    return [" ".join(rng.choices(words, k=40)) for _ in range(count)]


def test_a_counter_that_spills_gives_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array([f"{text} {number * 7919} {'x' * number}" for number, text in enumerate(many_texts(3000))])
    spills: list[int] = []
    original = bpe._Counter._spill
    monkeypatch.setattr(bpe._Counter, "_spill", lambda self: (spills.append(1), original(self)))
    whole = bpe.count_pieces([texts])
    assert not spills
    assert bpe.count_pieces([texts], memory_bytes=1 << 21, scratch=tmp_path).equals(whole)
    assert len(spills) > 2
    assert list(tmp_path.iterdir()) == []


def test_merged_counts_are_the_counts_of_everything_whatever_the_parts(tmp_path: Path) -> None:
    texts = many_texts(300)
    whole = bpe.count_pieces([pa.array(texts)])
    parts = [bpe.count_pieces([pa.array(texts[start::7])]) for start in range(7)]
    assert bpe.merge_counts(parts).equals(whole)
    paths = []
    for number, part in enumerate(reversed(parts)):
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(part, paths[-1])
    assert bpe.merge_counts(paths, memory_bytes=1 << 20).equals(whole)


def test_counts_are_64_bits() -> None:
    part = pa.table([pa.array([b" the"], pa.binary()), pa.array([2**40], pa.uint64())], schema=bpe.COUNT_SCHEMA)
    assert counted(bpe.merge_counts([part, part])) == {b" the": 2**41}


def test_a_sample_depends_on_the_texts_alone() -> None:
    texts = many_texts(1000)
    half = bpe.count_pieces([pa.array(texts)], sample=0.5)
    shuffled = random.Random(1).sample(texts, len(texts))
    assert bpe.count_pieces([pa.array(shuffled[:300]), pa.array(shuffled[300:])], sample=0.5).equals(half)
    share = sum(half["count"].to_pylist()) / sum(bpe.count_pieces([pa.array(texts)])["count"].to_pylist())
    assert 0.44 < share < 0.56
    assert bpe.count_pieces([pa.array(texts)], sample=1.0).equals(bpe.count_pieces([pa.array(texts)]))


def test_numbers_are_refused_as_texts() -> None:
    with pytest.raises(ValueError, match="string array"):
        bpe.count_pieces([pa.array([1, 2])])


# Training ----------------------------------------------------------------------------------------------------------


def reference_merges(texts: Sequence[str], vocab_size: int, folder: Path, *, min_frequency: int = 0) -> str:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=[],
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model.save(str(folder))
    return (folder / "merges.txt").read_text(encoding="utf-8")


def our_merges(texts: Sequence[str], vocab_size: int, *, min_frequency: int = 0) -> str:
    """One more entry, for <|endoftext|>."""
    wanted = TokenizerSettings(vocab_size=vocab_size + 1, min_frequency=min_frequency)
    return bpe.merges_text(bpe.train(bpe.count_pieces([pa.array(texts)]), wanted))


def ties(seed: int, count: int, alphabet: str, longest: int) -> list[str]:
    """Texts whose pairs have few different counts, and runs that give one token by several merges."""
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choice(alphabet) for _ in range(rng.randrange(1, longest))) for _ in range(8))
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_merges_are_those_of_tokenizers_on_ties(seed: int, tmp_path: Path) -> None:
    alphabet = ("a", "ab", "ab=", "abc-", "中文ab", "aé=😀")[seed % 6]
    texts = ties(seed, 40, alphabet, longest=(30, 9)[seed % 2])
    assert our_merges(texts, 900) == reference_merges(texts, 900, tmp_path)


def test_merges_are_those_of_tokenizers_on_runs(tmp_path: Path) -> None:
    """Runs overlap themselves: a merge takes them from the left, and a pair can come and go within one word."""
    texts = [("=" * n + " ") * (1 + 61 % n) for n in range(1, 90)] + ["ab" * n + " " + "aab" * n for n in range(1, 40)]
    ours = our_merges(texts, 900)
    assert ours == reference_merges(texts, 900, tmp_path)
    made = [line.replace(" ", "") for line in ours.split("\n")[1:-1]]
    assert len(made) == len(set(made))  # the fact that the kernel rests on


def test_a_minimum_frequency_stops_where_tokenizers_stops(tmp_path: Path) -> None:
    texts = ties(3, 50, "abcdef", 8)
    ours = our_merges(texts, 5000, min_frequency=4)
    assert ours == reference_merges(texts, 5000, tmp_path, min_frequency=4)
    assert ours != our_merges(texts, 5000)


CJK_AND_EMOJI = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "道可道，非常道。名可名，非常名。无名天地之始；有名万物之母。",
    "나는 생각한다, 고로 존재한다. 세상은 넓고 할 일은 많다!",
    "👩‍👩‍👧‍👦 👍🏽👍🏿 ❤️‍🔥 🇯🇵🇰🇷🇨🇳 ٣٫١٤ ½ Ⅻ  \u3000全角　スペース",
    "mixed 中文 and English, 100％ of 1,024 — “quoted” it's they'll",
)


def test_merges_are_those_of_tokenizers_on_cjk_and_emoji(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = ["".join(rng.sample("".join(CJK_AND_EMOJI), 60)) for _ in range(200)] + list(CJK_AND_EMOJI) * 3
    assert our_merges(texts, 3000) == reference_merges(texts, 3000, tmp_path)


def reuters(shared_data: Path, num_bytes: int) -> list[str]:
    texts: list[str] = []
    for path in sorted((shared_data / "text").glob("reuters-*.jsonl.zst")):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
            for line in io.TextIOWrapper(raw, encoding="utf-8"):
                texts.append(json.loads(line)["text"])
                num_bytes -= len(texts[-1])
                if num_bytes < 0:
                    return texts
    return texts


def test_merges_are_those_of_tokenizers_on_real_text(shared_data: Path, tmp_path: Path) -> None:
    texts = reuters(shared_data, 1_500_000)
    assert our_merges(texts, 8000) == reference_merges(texts, 8000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reuters", "ptb", "cjk", "ties"])
def test_merges_are_those_of_tokenizers_up_to_the_full_size(name: str, shared_data: Path, tmp_path: Path) -> None:
    if name == "reuters":
        texts = reuters(shared_data, 60_000_000)
    elif name == "ptb":
        texts = [
            line for path in sorted((shared_data / "eval/ptb").glob("*.txt")) for line in path.read_text().split("\n")
        ]
        assert texts
    elif name == "cjk":
        rng = random.Random(6)
        cjk = "".join(map(chr, range(0x4E00, 0x5600))) + "".join(map(chr, range(0x1F300, 0x1F700))) + " \n"
        texts = ["".join(rng.choices(cjk, k=30)) + text for text in CJK_AND_EMOJI for _ in range(4000)]
    else:
        texts = ties(9, 30_000, "abcdefgh", 24)
    assert our_merges(texts, 50_256) == reference_merges(texts, 50_256, tmp_path)


def test_too_small_a_text_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = bpe.train(bpe.count_pieces([pa.array(["abc abd"])]), TokenizerSettings(vocab_size=50257))
    assert vocabulary.size == 256 + len(vocabulary.merges) + 1
    assert [record.getMessage() for record in caplog.records] == [
        f"tokenizer: the text is too small for 50,257 entries; it gave {vocabulary.size}"
    ]


def test_no_text_gives_the_bytes_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = bpe.train(bpe.count_pieces([]), TokenizerSettings(vocab_size=257))
    assert sorted(vocabulary.tokens) == [bytes([byte]) for byte in range(256)]
    assert (vocabulary.merges, vocabulary.end_of_text, caplog.records) == ((), 256, [])


# Files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    texts = (
        many_texts(50) + [*CJK_AND_EMOJI] * 4 + ["the cat's hat, they'll sit  \n\n on 1,234 of it <|endoftext|>"] * 9
    )
    return bpe.train(bpe.count_pieces([pa.array(texts)]), TokenizerSettings(vocab_size=1200))


CONTROL = "before <|endoftext|> after<|endoftext|>"


def test_the_files_load_elsewhere_with_identical_ids(vocabulary: Vocabulary, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    paths = bpe.write_tokenizer(tmp_path, vocabulary)
    assert sorted(path.name for path in paths) == [
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.tiktoken",
    ]
    texts = [*CJK_AND_EMOJI, *random_texts(300, seed=3), *many_texts(20), CONTROL, ""]
    ours = bpe.load_tokenizer(tmp_path)
    encoded = bpe.encode(pa.array(texts), ours)
    expected = [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]

    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert [theirs.encode(text).ids for text in texts] == expected
    auto = AutoTokenizer.from_pretrained(str(tmp_path))
    assert [auto(text)["input_ids"] for text in texts] == expected
    ranks = load_tiktoken_bpe(str(tmp_path / "vocab.tiktoken"))
    encoding = tiktoken.Encoding(
        "ours", pat_str=bpe.GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={bpe.END_OF_TEXT: len(ranks)}
    )
    assert [encoding.encode_ordinary(text) for text in texts] == expected
    assert (auto.eos_token, auto.bos_token, auto.eos_token_id) == (bpe.END_OF_TEXT, bpe.END_OF_TEXT, ours.end_of_text)
    assert [ours.decode(ids) for ids in expected] == texts
    assert len(auto) == ours.size == encoding.n_vocab


def test_end_of_text_in_a_page_is_text_in_every_reader(vocabulary: Vocabulary, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bpe.write_tokenizer(tmp_path, vocabulary)
    tokenizer = bpe.load_tokenizer(tmp_path)
    control = tokenizer.end_of_text
    assert control == tokenizer.size - 1
    for fallback in (False, True):
        ids = bpe.encode(pa.array([CONTROL]), tokenizer, fallback=fallback).ids.tolist()
        assert control not in ids
        assert tokenizer.decode(ids) == CONTROL
    auto = AutoTokenizer.from_pretrained(str(tmp_path))
    assert control not in auto(CONTROL)["input_ids"]
    assert auto.decode(auto(CONTROL)["input_ids"]) == CONTROL
    assert auto.convert_ids_to_tokens(control) == bpe.END_OF_TEXT


def test_files_are_the_same_bytes_each_time_and_read_back_in_every_form(vocabulary: Vocabulary, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in bpe.write_tokenizer(tmp_path / "a", vocabulary)}
    again = {path.name: path.read_bytes() for path in bpe.write_tokenizer(tmp_path / "b", vocabulary)}
    assert first == again
    assert bpe.load_vocabulary(tmp_path / "a") == vocabulary
    assert bpe.load_vocabulary(tmp_path / "a" / "tokenizer.json") == vocabulary
    (tmp_path / "b" / "tokenizer.json").unlink()
    assert bpe.load_vocabulary(tmp_path / "b") == vocabulary
    assert bpe.load_tokenizer(tmp_path / "a").sha256 == hashlib.sha256(first["tokenizer.json"]).hexdigest()


def test_merges_and_vocabulary_are_the_files_that_tokenizers_writes(vocabulary: Vocabulary, tmp_path: Path) -> None:
    bpe.write_tokenizer(tmp_path, vocabulary)
    (tmp_path / "theirs").mkdir()
    tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).model.save(str(tmp_path / "theirs"))
    for name in ("merges.txt", "vocab.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_what_is_no_tokenizer_of_this_rule_is_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected tokenizer.json, or vocab.json"):
        bpe.load_vocabulary(tmp_path)
    bpe.write_tokenizer(tmp_path, vocabulary)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())

    def refused(match: str, **changes: object) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps({**whole, **changes}))
        with pytest.raises(ValueError, match=match):
            bpe.load_vocabulary(tmp_path)

    refused("GPT-2's rule", normalizer={"type": "NFC"})
    refused("GPT-2's rule", pre_tokenizer={"type": "Whitespace"})
    refused("GPT-2's rule", pre_tokenizer={**whole["pre_tokenizer"], "add_prefix_space": True})
    refused("the last", added_tokens=[], model={**whole["model"], "vocab": {"a": 0}})
    refused("the vocabulary lacks", model={**whole["model"], "merges": [["zzzz", "zzzz"]]})
    refused("byte-level BPE", model={"type": "BPE"})
    (tmp_path / "tokenizer.json").write_text("not JSON")
    with pytest.raises(ValueError, match=r"expected a tokenizer\.json"):
        bpe.load_vocabulary(tmp_path)


def test_gpt2_released_files_must_be_openais(shared_data: Path, tmp_path: Path) -> None:
    for name in bpe.GPT2_SHA256:
        (tmp_path / name).write_bytes((shared_data / "bpe" / "gpt2_vocab" / name).read_bytes())
    assert bpe.load_vocabulary(tmp_path).size == 50257
    (tmp_path / "vocab.bpe").write_bytes((tmp_path / "vocab.bpe").read_bytes()[:-20])
    with pytest.raises(ValueError, match="expected OpenAI's file"):
        bpe.load_vocabulary(tmp_path)


# Encoding ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> bpe.Tokenizer:
    return bpe.load_tokenizer(shared_data / "bpe" / "gpt2_vocab")


def ids_of(tokenizer: bpe.Tokenizer, texts: list[str], *, fallback: bool) -> list[list[int]]:
    encoded = bpe.encode(pa.array(texts, pa.string()), tokenizer, fallback=fallback)
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]


@pytest.mark.parametrize("fallback", [False, True])
def test_gpt2_vocabulary_gives_the_published_ids(gpt2: bpe.Tokenizer, shared_data: Path, fallback: bool) -> None:
    plans = (shared_data / "bpe/test_vectors_gpt-tokenizer/TestPlans.txt").read_text(encoding="utf-8")
    cases = re.findall(r"EncodingName: r50k_base\nSample: (.*?)\nEncoded: (\[.*?\])\n", plans, re.DOTALL)
    assert len(cases) == 64
    assert ids_of(gpt2, [text for text, _ in cases], fallback=fallback) == [ast.literal_eval(ids) for _, ids in cases]

    folder = shared_data / "bpe/test_vectors_llamacpp"
    inputs = (folder / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    outputs = (folder / "ggml-vocab-gpt-2.gguf.out").read_text().split("\n")
    outputs = outputs[: len(inputs)]
    assert len(inputs) > 40
    assert ids_of(gpt2, inputs, fallback=fallback) == [[int(word) for word in line.split()] for line in outputs]


def test_fastokens_and_tokenizers_agree_on_every_code_point(vocabulary: Vocabulary) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = ["".join(f"a{c}1{c}" for c in points[start : start + 512]) for start in range(0, 0x33480, 512)]
    fast = bpe.encode(pa.array(texts), tokenizer)
    slow = bpe.encode(pa.array(texts), tokenizer, fallback=True)
    assert fast.ids.tolist() == slow.ids.tolist()
    assert fast.offsets.tolist() == slow.offsets.tolist()


@given(st.lists(odd_text, max_size=20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_both_encoders_give_the_same_ids(gpt2: bpe.Tokenizer, texts: list[str]) -> None:
    assert ids_of(gpt2, texts, fallback=False) == ids_of(gpt2, texts, fallback=True)


def test_ids_are_as_small_as_the_vocabulary_allows(vocabulary: Vocabulary) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    encoded = bpe.encode(pa.chunked_array([["one"], [], ["", "two"]], pa.string()), tokenizer)
    assert (encoded.ids.dtype.name, encoded.offsets.dtype.name, len(encoded.offsets)) == ("uint16", "int64", 4)
    assert bpe.encode(pa.array([], pa.string()), tokenizer).offsets.tolist() == [0]
    tokens = tuple(bytes([i % 256]) if i < 256 else i.to_bytes(3, "big") for i in range(2**16))
    assert bpe.Tokenizer(Vocabulary(tokens, ())).dtype.name == "uint32"


class _Wrong:
    """A fastokens that is wrong about one text."""

    def __init__(self, real: object, bad: str) -> None:
        self._real, self._bad = real, bad

    def encode_batch_flat(self, texts: list[str], **options: bool) -> object:
        return self._real.encode_batch_flat([text.replace(self._bad, "?") for text in texts], **options)  # type: ignore[attr-defined]


@pytest.mark.parametrize("row", [0, 2048])
def test_a_difference_between_the_encoders_stops_the_run_with_its_place(vocabulary: Vocabulary, row: int) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    tokenizer._fast = _Wrong(tokenizer._fast, "poison")
    texts = ["fine"] * 2100
    texts[row] = "some poison in it"
    with pytest.raises(bpe.TokenizerMismatchError, match=rf"train-00003, text {row} \('some poison in it'"):
        bpe.encode(pa.array(texts), tokenizer, where="train-00003")


def test_a_long_text_is_compared_by_its_start(vocabulary: Vocabulary) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    text = " ".join(many_texts(100))
    assert len(text) > bpe._CHECK_CHARACTERS
    assert ids_of(tokenizer, [text], fallback=False) == ids_of(tokenizer, [text], fallback=True)


def test_nulls_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"train-3: expected texts without nulls, got 1"):
        bpe.encode(pa.array(["a", None]), bpe.Tokenizer(vocabulary), where="train-3")


def test_a_tokenizer_travels_to_another_process(vocabulary: Vocabulary) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.sha256 == tokenizer.sha256
    assert ids_of(copy, ["the cat"], fallback=False) == ids_of(tokenizer, ["the cat"], fallback=False)


# Report and settings -----------------------------------------------------------------------------------------------


def test_statistics_count_what_the_texts_use(vocabulary: Vocabulary) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    bytes_only = bpe.Tokenizer(bpe.train(bpe.count_pieces([]), TokenizerSettings(vocab_size=257)))
    sets = {"train": [pa.array(["the cat's", "hat"])], "validation": [pa.array(["zé"]), pa.array(["zé"])], "empty": []}
    result = bpe.tokenizer_statistics(sets, tokenizer, reference=bytes_only, num_longest=3)
    train = result.sets["train"]
    assert (train.texts, train.text_bytes, train.reference_tokens) == (2, 12, 12)
    use = Counter(index for text in ("the cat's", "hat", "zé", "zé") for index in tokenizer.encode(text))
    assert train.tokens == len(tokenizer.encode("the cat's")) + len(tokenizer.encode("hat"))
    assert train.bytes_per_token == 12 / train.tokens
    assert train.reference_bytes_per_token == 1.0
    assert result.used_once == sum(count == 1 for count in use.values())
    assert result.unused == tokenizer.size - 1 - len(use)
    assert result.sets["empty"].bytes_per_token == 0
    lengths = [len(token) for _, token in result.longest]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == max(map(len, vocabulary.tokens))
    name, shown = result.samples[0]
    assert (name, "".join(shown)) == ("train", "the cat's")


def test_tokens_that_are_no_text_are_shown_as_bytes(vocabulary: Vocabulary) -> None:
    tokenizer = bpe.Tokenizer(vocabulary)
    stray = vocabulary.tokens.index(b"\xf0")
    assert bpe.show_tokens([stray, tokenizer.end_of_text], tokenizer) == ("\\xf0", "<|endoftext|>")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"vocab_size": 256}, r"\[tokenizer\] vocab_size"),
        ({"min_frequency": -1}, r"\[tokenizer\] min_frequency"),
        ({"sample": 0.0}, r"\[tokenizer\] sample"),
        ({"sample": 1.5}, r"\[tokenizer\] sample"),
        ({"memory_bytes": 5}, r"\[tokenizer\] memory_bytes"),
    ],
)
def test_settings_say_what_they_expected(wrong: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TokenizerSettings(**wrong)  # type: ignore[arg-type]
