"""minhash: bit-identity with datasketch, the estimate as a rate, edge cases, and the signature files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup.minhash
from dedup.minhash import (
    MinHashSettings,
    ids_to_bytes,
    ids_to_hex,
    read_signatures,
    shingle_hashes,
    sign,
    signature_arrays,
    signature_table,
    to_datasketch,
    write_signatures,
)
from dedup.words import hash_words, ngram_hashes

fast = settings(deadline=None, derandomize=True, max_examples=40)
DEFAULT = MinHashSettings()


def datasketch_of(text: str, options: MinHashSettings) -> MinHash:
    """The slow twin: datasketch itself, fed the low 32 bits of the shingles' hashes one by one."""
    minhash = MinHash(options.permutations, seed=options.seed, scheme="affine32", hashfunc=lambda value: value)
    shingles, _ = ngram_hashes(*hash_words(pa.array([text])), options.ngram, short="whole")
    for shingle in shingles.tolist():
        minhash.update(shingle & 0xFFFFFFFF)
    return minhash


@fast
@given(
    st.lists(st.text(st.sampled_from("abc é日'\n"), max_size=80), max_size=6),
    st.sampled_from([DEFAULT, MinHashSettings(ngram=1, bands=3, rows=1, seed=7), MinHashSettings(ngram=3, rows=9)]),
)
def test_signatures_are_bit_identical_with_datasketch(texts: list[str], options: MinHashSettings) -> None:
    signatures = sign(pa.array(texts, pa.string()), options)
    assert signatures.dtype == np.uint32
    assert signatures.shape == (len(texts), options.permutations)
    for text, signature in zip(texts, signatures, strict=True):
        np.testing.assert_array_equal(signature, datasketch_of(text, options).hashvalues)


def test_a_row_goes_into_datasketchs_lsh_and_comes_back() -> None:
    base = [f"w{i}" for i in range(300)]
    texts = [" ".join(base), " ".join([*base[:295], "five", "other", "words", "end", "it"]), " ".join(base[::-1])]
    signatures = sign(pa.array(texts), DEFAULT)
    lsh = MinHashLSH(params=(14, 8), num_perm=112)
    for name, signature in enumerate(signatures):
        lsh.insert(name, to_datasketch(signature, DEFAULT))
    assert sorted(lsh.query(datasketch_of(texts[0], DEFAULT))) == [0, 1]
    minhash = to_datasketch(signatures[0], DEFAULT)
    np.testing.assert_array_equal(minhash.hashvalues, signatures[0])
    updated = datasketch_of(texts[0], DEFAULT)
    for each in (minhash, updated):
        each.hashfunc = lambda value: value
        each.update(12345)
    np.testing.assert_array_equal(minhash.hashvalues, updated.hashvalues)  # the permutations came along


def test_estimates_are_unbiased_with_the_binomials_spread() -> None:
    rng = np.random.default_rng(5)
    texts: list[str] = []
    for _ in range(300):
        words = rng.integers(0, 1 << 40, 200)  # a hundred shared, and fifty of each one's own
        texts += [" ".join(f"w{value}" for value in each) for each in (words[:150], words[50:])]
    options = MinHashSettings(ngram=1)
    signatures = sign(pa.array(texts), options)
    estimates = (signatures[0::2] == signatures[1::2]).mean(axis=1)
    spread = (0.25 / options.permutations) ** 0.5
    assert abs(estimates.mean() - 0.5) < 3 * spread / 300**0.5
    assert 0.85 < estimates.std() / spread < 1.15


def test_a_short_text_is_one_shingle_and_an_empty_one_has_none() -> None:
    texts = pa.array(["", "... !", "one", "One.", "one two", "two one", "only four words here", None])
    signatures = sign(texts, DEFAULT)
    assert (signatures[[0, 1, 7]] == 0xFFFFFFFF).all()
    np.testing.assert_array_equal(signatures[2], signatures[3])
    assert len({row.tobytes() for row in signatures[[2, 4, 5, 6]]}) == 4
    shingles, offsets = shingle_hashes(texts, DEFAULT)
    assert np.diff(offsets).tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
    assert shingles.size == 5


def test_only_han_is_signed_by_characters() -> None:
    a, b = sign(pa.array(["我们从零开始重建语料库" * 3, "我们从零开始重建语料集" * 3]), DEFAULT)
    assert 0 < (a == b).mean() < 1


def test_signatures_do_not_depend_on_batches_chunks_or_width(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {i} of many words which repeat {i % 5} {i % 3}" * (i % 4) for i in range(100)]
    whole = sign(pa.array(texts), DEFAULT)
    monkeypatch.setattr(dedup.minhash, "_BATCH_BYTES", 100)
    chunked = pa.chunked_array([pa.array(texts[:33], pa.large_string()), pa.array(texts[33:], pa.large_string())])
    np.testing.assert_array_equal(sign(chunked, DEFAULT), whole)
    np.testing.assert_array_equal(shingle_hashes(chunked, DEFAULT)[1][[0, 1]], [0, 0])


# ---- settings


def test_threshold_gives_datasketchs_optimum_within_the_same_permutations() -> None:
    options = MinHashSettings(threshold=0.5)
    lsh = MinHashLSH(threshold=0.5, num_perm=112)
    assert options.banding() == (lsh.b, lsh.r)
    assert options.scheme == DEFAULT.scheme  # nothing is signed again
    assert DEFAULT.banding() == (14, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ngram": 0}, r"\[minhash\] ngram: expected 1"),
        ({"bands": 0}, r"\[minhash\] bands"),
        ({"rows": -1}, r"\[minhash\] rows"),
        ({"bands": 4096, "rows": 2}, "bands x rows"),
        ({"threshold": 1.5}, r"\[minhash\] threshold.*1\.5"),
        ({"seed": -1}, r"\[minhash\] seed"),
    ],
)
def test_settings_are_checked_by_name(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinHashSettings(**wrong)  # type: ignore[arg-type]


# ---- files


def a_table(n: int = 5, options: MinHashSettings = DEFAULT) -> pa.Table:
    texts = pa.array([f"document number {i} has words" for i in range(n)], pa.string())
    return signature_table([f"{i:032x}" for i in range(n)], texts, options)


def test_signature_file_comes_back_mapped_and_equal(tmp_path: Path) -> None:
    path = tmp_path / "signatures.arrow"
    table = a_table()
    write_signatures(path, table)
    back = read_signatures(path, DEFAULT)
    assert back.equals(table, check_metadata=True)
    ((ids, exact, num_words, signatures),) = signature_arrays(back)
    assert ids_to_hex(ids).to_pylist() == [f"{i:032x}" for i in range(5)]
    assert num_words.tolist() == [5] * 5
    assert exact.shape == (5, 16)
    np.testing.assert_array_equal(
        signatures, sign(pa.array([f"document number {i} has words" for i in range(5)]), DEFAULT)
    )


def test_same_input_gives_the_same_bytes_in_the_file(tmp_path: Path) -> None:
    for name in "ab":
        write_signatures(tmp_path / name, a_table())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_segment_has_a_signature_file(tmp_path: Path) -> None:
    write_signatures(tmp_path / "empty", a_table(0))
    assert signature_arrays(read_signatures(tmp_path / "empty", DEFAULT)) == []


def test_a_file_of_another_scheme_or_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signatures.arrow"
    write_signatures(path, a_table())
    with pytest.raises(ValueError, match="seed=2"):
        read_signatures(path, MinHashSettings(seed=2))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="expected a signature file"):
        read_signatures(path)


def test_ids_are_32_hexadecimal_digits_each() -> None:
    ids = ["00112233445566778899aabbccddeeff", "f" * 32]
    assert ids_to_hex(ids_to_bytes(ids)).to_pylist() == ids
    assert ids_to_bytes([]).shape == (0, 16)
    for wrong in (["12"], ["g" * 32], ["a" * 31, "b" * 33], [None], ["a" * 30 + "  "]):
        with pytest.raises(ValueError, match="32 hexadecimal"):
            ids_to_bytes(wrong)
    with pytest.raises(ValueError, match="one for each of 2"):
        signature_table(["0" * 32], pa.array(["a", "b"]), DEFAULT)
