"""De-tokenizers: prose out, the same bytes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evals.detokenize import DETOKENIZERS, ONE_BILLION, PTB, WIKITEXT

MARKS = "the do n't 's ' \" @-@ @,@ @.@ 1 23 , . ... .. ( ) = $ / p.m. Mr. U.S. don't 1,000 - -- a-b @ \\/ a\\/b"
TOKENS = st.one_of(
    st.sampled_from([*MARKS.split(), "x/y", "<unk>", "%", "’", "é"]),
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=4),
)


@pytest.mark.parametrize("name", sorted(DETOKENIZERS))
@given(data=st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_text_comes_back(name: str, data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.lists(TOKENS, max_size=12).map(" ".join), max_size=4))
    pad = data.draw(st.sampled_from(["", " "]))
    text = "\n".join(pad + line + pad for line in lines) + data.draw(st.sampled_from(["", "\n"]))
    detokenizer = DETOKENIZERS[name]
    assert detokenizer.tokenize(detokenizer.restore(text)) == text


@pytest.mark.parametrize(
    ("tokens", "prose"),
    [
        (" no it was n't black monday \n", "no it wasn't black monday\n"),
        (" ca n't wo n't they 're the firm 's \n", "can't won't they're the firm's\n"),
        (" cities\\/abc paid $ N million in #  \n", "  cities\\/abc paid $ N million in #  \n"),  # not single spaces
        (" cities\\/abc paid $ N million \n", "cities/abc paid $N million\n"),
    ],
)
def test_ptb_reads_as_prose(tokens: str, prose: str) -> None:
    assert PTB.restore(tokens) == prose


@pytest.mark.parametrize(
    ("tokens", "prose"),
    [
        (" = Robert <unk> = \n", "= Robert <unk> =\n"),
        (" a guest @-@ starring role , in 2 @,@ 000 . \n", "a guest-starring role, in 2,000.\n"),
        (' as " Craig " in " Teddy \'s Story " ; \n', 'as "Craig" in "Teddy\'s Story";\n'),
        (" ( 24 in ) and 0 @.@ 7 kg [ 1 ] \n", "(24 in) and 0.7 kg [1]\n"),
        (" of the U.S. in St. Louis . \n", "of the U.S. in St. Louis.\n"),
        (" \n", "\n"),
    ],
)
def test_wikitext_reads_as_prose(tokens: str, prose: str) -> None:
    assert WIKITEXT.restore(tokens) == prose


def test_1bw_reads_as_prose() -> None:
    tokens = "Wal-Mart 's founder said : \" We 're ( all ) 5 % interested , I don 't know . \"\n"
    assert ONE_BILLION.restore(tokens) == "Wal-Mart's founder said: \"We're (all) 5% interested, I don't know.\"\n"


def test_a_token_that_would_be_taken_apart_is_kept_whole_by_a_second_space() -> None:
    assert ONE_BILLION.restore("in 2008. he") == "in  2008. he"
    assert ONE_BILLION.tokenize("in  2008. he") == "in 2008. he"


@pytest.mark.parametrize(
    ("name", "file", "kept_whole"),
    [
        ("ptb", "ptb/test.txt", 0.0001),
        ("ptb", "ptb/validation.txt", 0.0001),
        ("wikitext", "wikitext-2/test.txt", 0.0005),
        ("wikitext", "wikitext-2-raw/test.txt", 0.0005),
        ("1bw", "1bw/heldout.txt", 0.001),
    ],
)
def test_real_sets_come_back_in_every_byte(shared_data: Path, name: str, file: str, kept_whole: float) -> None:
    text = (shared_data / "eval" / file).read_bytes().decode()
    # A fifth of each file, cut at a line end: the rest is the same kind of text.
    text = text[: text.index("\n", len(text) // 5) + 1]
    restored = DETOKENIZERS[name].restore(text)
    assert DETOKENIZERS[name].tokenize(restored) == text
    assert restored.count("  ") <= kept_whole * len(text.split())
    assert len(restored.split(" ")) < 0.99 * len(text.split(" "))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ptb", "wikitext", "1bw"])
def test_whole_real_sets_come_back_in_every_byte(shared_data: Path, name: str) -> None:
    folders = {"ptb": ["ptb"], "wikitext": ["wikitext-2", "wikitext-2-raw"], "1bw": ["1bw"]}[name]
    for file in (file for folder in folders for file in (shared_data / "eval" / folder).glob("*.txt")):
        text = file.read_bytes().decode()
        assert DETOKENIZERS[name].tokenize(DETOKENIZERS[name].restore(text)) == text, file
