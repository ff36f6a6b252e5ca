"""Token shards: what is written is what is read, whatever the way there; what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import data
from model.data import ShardSettings, TokenBatch

END = 50256
VOCAB = 50257

Documents = dict[str, list[int]]


def documents(count: int, seed: int = 0, vocab: int = VOCAB, longest: int = 60) -> Documents:
    rng = np.random.default_rng(seed)
    return {
        rng.integers(0, 256, 16, np.uint8).tobytes().hex(): rng.integers(
            0, vocab - 1, rng.integers(0, longest)
        ).tolist()
        for _ in range(count)
    }


def batch(documents: Documents, dtype: type = np.uint16) -> TokenBatch:
    ids = np.frombuffer(bytes.fromhex("".join(documents)), np.uint8).reshape(-1, 16)
    offsets = np.cumsum([0, *(len(tokens) for tokens in documents.values())], dtype=np.int64)
    return TokenBatch(ids, np.array([token for tokens in documents.values() for token in tokens], dtype), offsets)


def batches(documents: Documents, size: int, dtype: type = np.uint16) -> Iterator[TokenBatch]:
    items = list(documents.items())
    for start in range(0, len(items), size):
        yield batch(dict(items[start : start + size]), dtype)


def write(
    directory: Path, train: Documents, *, size: int = 64, shards: int = 3, seed: int = 0, vocab: int = VOCAB
) -> dict[str, list[data.ShardInfo]]:
    return data.write_shards(
        directory,
        {"train": batches(train, size, np.uint16 if vocab <= 2**16 else np.uint32)},
        text_bytes={"train": shards * 1000},
        settings=ShardSettings(shard_text_bytes=1000, seed=seed),
        tokenizer_sha256="ab" * 32,
        vocab_size=vocab,
        end_of_text=vocab - 1,
    )


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def slow_shards(train: Documents, shards: int, seed: int, vocab: int) -> list[tuple[list[str], list[int], list[int]]]:
    """The format in plain Python: ids, tokens and ends of each shard."""
    keyed = sorted(
        (
            int.from_bytes(
                hashlib.blake2b(seed.to_bytes(8, "little") + bytes.fromhex(i), digest_size=8).digest(), "big"
            ),
            i,
        )
        for i in train
    )
    result: list[tuple[list[str], list[int], list[int]]] = [([], [], []) for _ in range(shards)]
    for key, i in keyed:
        ids, tokens, ends = result[(key >> 32) * shards >> 32]
        ids.append(i)
        tokens += [vocab - 1, *train[i]]
        ends.append(len(tokens))
    return result


# Format ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab", "code", "header"), [(VOCAB, "<u2", (20240520, 1)), (70_000, "<u4", (20240801, 7))])
def test_shards_are_the_documented_bytes(tmp_path: Path, vocab: int, code: str, header: tuple[int, int]) -> None:
    train = documents(200, vocab=vocab)
    infos = write(tmp_path, train, vocab=vocab, seed=5)["train"]
    for info, (ids, tokens, ends) in zip(infos, slow_shards(train, 3, 5, vocab), strict=True):
        raw = (tmp_path / f"{info.name}.bin").read_bytes()
        assert struct.unpack("<256i", raw[:1024]) == (*header, len(tokens), *[0] * 253)
        assert np.frombuffer(raw[1024:], code).tolist() == tokens
        assert np.frombuffer((tmp_path / f"{info.name}.idx").read_bytes(), "<u8").tolist() == ends
        assert (tmp_path / f"{info.name}.ids").read_bytes().hex() == "".join(ids)
        assert (info.tokens, info.documents) == (len(tokens), len(ids))
        for suffix, digest in info.sha256.items():
            assert hashlib.sha256((tmp_path / f"{info.name}.{suffix}").read_bytes()).hexdigest() == digest


def test_meta_says_what_the_shards_are(tmp_path: Path) -> None:
    infos = write(tmp_path, documents(50))["train"]
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert {key: meta[key] for key in ("tokenizer_sha256", "vocab_size", "end_of_text", "dtype", "seed")} == {
        "tokenizer_sha256": "ab" * 32,
        "vocab_size": VOCAB,
        "end_of_text": END,
        "dtype": "uint16",
        "seed": 0,
    }
    assert meta["splits"]["train"]["tokens"] == sum(info.tokens for info in infos)
    assert [shard["name"] for shard in meta["splits"]["train"]["shards"]] == [
        f"train-{index:05d}-of-00003" for index in range(3)
    ]


@given(
    st.dictionaries(st.binary(min_size=16, max_size=16).map(bytes.hex), st.lists(st.integers(0, 300), max_size=9)),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_documents_come_back_in_the_order_of_the_slow_twin(
    tmp_path_factory: pytest.TempPathFactory, train: Documents, shards: int, size: int, seed: int
) -> None:
    directory = tmp_path_factory.mktemp("shards")
    write(directory, train, shards=shards, size=size, seed=seed, vocab=302)
    opened = data.open_shards(directory, "train", verify=True)
    expected = slow_shards(train, shards, seed, 302)
    assert [(shard.ids.tobytes().hex(), shard.tokens.tolist(), shard.ends.tolist()) for shard in opened.shards] == [
        ("".join(ids), tokens, ends) for ids, tokens, ends in expected
    ]


def test_bytes_do_not_depend_on_batches_partitions_or_arrival(tmp_path: Path) -> None:
    train = documents(300)
    write(tmp_path / "one", train, size=300)
    write(tmp_path / "small", dict(reversed(train.items())), size=7)
    assert files(tmp_path / "one") == files(tmp_path / "small")

    parts = []
    items = list(train.items())
    for number in range(5):
        parts.append(tmp_path / f"part-{number}")
        data.write_partitions(
            parts[-1], batches(dict(items[number::5]), 11), num_shards=3, seed=0, vocab_size=VOCAB, end_of_text=END
        )
    (tmp_path / "many").mkdir()
    infos = [
        data.write_shard(parts[::-1], index, tmp_path / "many", data.shard_name("train", index, 3), vocab_size=VOCAB)
        for index in (2, 0, 1)
    ]
    data.write_meta(
        tmp_path / "many" / "meta.json",
        {"train": sorted(infos, key=lambda info: info.name)},
        tokenizer_sha256="ab" * 32,
        vocab_size=VOCAB,
        end_of_text=END,
        seed=0,
    )
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_another_seed_is_another_order(tmp_path: Path) -> None:
    train = documents(100)
    write(tmp_path / "a", train, seed=0)
    write(tmp_path / "b", train, seed=1)
    assert files(tmp_path / "a") != files(tmp_path / "b")


def test_the_number_of_shards_follows_the_bytes_of_text() -> None:
    settings = ShardSettings(shard_text_bytes=100)
    assert [data.num_shards(size, settings) for size in (0, 1, 100, 101, 1000)] == [1, 1, 1, 2, 10]


def test_documents_spread_evenly_over_shards() -> None:
    ids = np.random.default_rng(1).integers(0, 256, (20_000, 16), np.uint8)
    sizes = np.bincount(data.shards_of(data.order_keys(ids, 3), 8), minlength=8)
    assert sizes.min() > 2300
    assert sizes.max() < 2700


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    train = documents(4)
    twice = next(iter(train))
    parts = [tmp_path / "a", tmp_path / "b"]
    for path, some in zip(parts, (train, {twice: [1]}), strict=True):
        data.write_partitions(path, [batch(some)], num_shards=1, seed=0, vocab_size=VOCAB, end_of_text=END)
    with pytest.raises(ValueError, match=f"document {twice} comes twice"):
        data.write_shard(parts, 0, tmp_path, "train", vocab_size=VOCAB)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b._replace(tokens=np.full_like(b.tokens, 60_000)),
        lambda b: b._replace(offsets=b.offsets[:-1]),
        lambda b: b._replace(offsets=b.offsets + 1),
        lambda b: b._replace(tokens=b.tokens[:-1]),
        lambda b: b._replace(ids=b.ids[:, :8]),
        lambda b: b._replace(offsets=np.where(np.arange(len(b.offsets)) == 1, b.offsets[-1] + 9, b.offsets)),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(tmp_path: Path, spoil: Callable[[TokenBatch], TokenBatch]) -> None:
    good = batch(documents(5))
    with pytest.raises(ValueError, match=r"batch|another tokenizer"):
        data.write_partitions(tmp_path / "p", [spoil(good)], num_shards=1, seed=0, vocab_size=VOCAB, end_of_text=END)


@pytest.mark.parametrize("cut", [1, 20, 24, 100, 10**6])
def test_a_cut_partition_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "partition"
    data.write_partitions(path, [batch(documents(9))], num_shards=2, seed=0, vocab_size=VOCAB, end_of_text=END)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="a cut or foreign one"):
        data.write_shard([path], 0, tmp_path, "train", vocab_size=VOCAB)


# Reader ------------------------------------------------------------------------------------------------------------


def test_every_position_leads_to_its_document(tmp_path: Path) -> None:
    train = documents(150)
    write(tmp_path, train)
    shards = data.open_shards(tmp_path, "train")
    whole = shards.read(0, shards.num_tokens)
    assert shards.num_documents == 150
    assert len(shards.shards) == 3
    position = 0
    for span, tokens in shards.documents():
        assert (span.start, span.end) == (position, position + 1 + len(train[span.id]))
        assert tokens.tolist() == [END, *train[span.id]] == whole[span.start : span.end].tolist()
        assert {shards.document_at(p) for p in range(span.start, span.end)} == {span}
        assert shards.find(span.id) == span
        position = span.end
    assert position == shards.num_tokens
    assert shards.find("0" * 32) is None
    with pytest.raises(ValueError, match="32 hex digits"):
        shards.find("abc")
    for outside in (-1, shards.num_tokens):
        with pytest.raises(ValueError, match="expected a position"):
            shards.document_at(outside)
        with pytest.raises(ValueError, match="expected positions"):
            shards.read(outside, 1)


def test_reading_crosses_shards_and_maps_within_one(tmp_path: Path) -> None:
    write(tmp_path, documents(50))
    shards = data.open_shards(tmp_path, "train")
    whole = np.concatenate([shard.tokens for shard in shards.shards])
    edge = int(shards.starts[1])
    for start, count in [(0, 0), (0, 10), (edge - 5, 5), (edge - 5, 10), (edge, 3), (3, len(whole) - 3)]:
        assert shards.read(start, count).tolist() == whole[start : start + count].tolist()
    assert np.shares_memory(shards.read(2, 4), shards.shards[0].tokens)
    assert shards.read(2, 4).dtype == np.dtype("<u2")
    assert shards.read(len(whole), 0).tolist() == []


def test_a_split_without_documents_opens(tmp_path: Path) -> None:
    write(tmp_path, {})
    shards = data.open_shards(tmp_path, "train", verify=True)
    assert (shards.num_tokens, shards.num_documents, list(shards.documents())) == (0, 0, [])
    assert shards.read(0, 0).tolist() == []


def test_the_tokenizer_must_be_the_one_that_made_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    file = tmp_path / "tokenizer" / "tokenizer.json"
    file.write_text("{}")
    write(tmp_path / "tokens", documents(5))
    meta = tmp_path / "tokens" / "meta.json"
    digest = hashlib.sha256(b"{}").hexdigest()
    for wrong in (file, file.parent, digest):
        with pytest.raises(ValueError, match="run TokenizeCorpus again with this tokenizer"):
            data.open_shards(tmp_path / "tokens", "train", tokenizer=wrong)
    meta.write_text(meta.read_text().replace("ab" * 32, digest))
    for right in (file, file.parent, digest):
        assert data.open_shards(tmp_path / "tokens", "train", tokenizer=right).num_documents == 5


def test_missing_and_foreign_folders_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="written by the task TokenizeCorpus"):
        data.open_shards(tmp_path, "train")
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        data.open_shards(tmp_path, "train")
    (tmp_path / "meta.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="expected webtext-tokens version 1"):
        data.open_shards(tmp_path, "train")
    write(tmp_path, documents(5))
    with pytest.raises(ValueError, match="expected one of the splits train, got 'test'"):
        data.open_shards(tmp_path, "test")
    (tmp_path / "train-00001-of-00003.idx").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001-of-00003\.idx: missing"):
        data.open_shards(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["bin", "idx", "ids"])
@pytest.mark.parametrize("cut", [1, 8, 10**9])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, cut: int) -> None:
    write(tmp_path, documents(60))
    path = tmp_path / f"train-00001-of-00003.{suffix}"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=rf"{path.name}: expected .* bytes, got"):
        data.open_shards(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["bin", "idx", "ids"])
def test_swapped_files_of_one_size_are_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a", {key: [1, 2, 3] for key in documents(64, seed=1)}, shards=1)
    write(tmp_path / "b", {key: [4, 5, 6] for key in documents(64, seed=2)}, shards=1, seed=9)
    name = f"train-00000-of-00001.{suffix}"
    if suffix == "idx":  # equal there: every document has three tokens
        other = bytearray((tmp_path / "a" / name).read_bytes())
        other[0] -= 1
        (tmp_path / "b" / name).write_bytes(other)
    shutil.copyfile(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(ValueError, match="swapped or changed"):
        data.open_shards(tmp_path / "a", "train")


def spoiled(directory: Path, suffix: str, change: Callable[[npt.NDArray[np.uint8]], None]) -> None:
    """Changes a file of the second shard, and meta.json so that hashes and sizes do not give it away."""
    path = directory / f"train-00001-of-00003.{suffix}"
    content = np.frombuffer(bytearray(path.read_bytes()), np.uint8)
    change(content)
    path.write_bytes(content.tobytes())
    meta = json.loads((directory / "meta.json").read_text())
    shard = meta["splits"]["train"]["shards"][1]
    shard["sha256"][suffix] = hashlib.sha256(path.read_bytes()).hexdigest()
    shard["edges_sha256"][suffix] = data._edges_sha256(path)
    (directory / "meta.json").write_text(json.dumps(meta))


def test_files_that_do_not_belong_together_are_refused_even_if_their_hashes_fit(tmp_path: Path) -> None:
    def reverse(content: npt.NDArray[np.uint8]) -> None:
        content[:] = content.reshape(-1, 16)[::-1].ravel()

    def shift(content: npt.NDArray[np.uint8]) -> None:
        content.view("<u8")[:-1] += 1

    def forget_end(content: npt.NDArray[np.uint8]) -> None:
        content[1024:1026] = 0

    def wrong_header(content: npt.NDArray[np.uint8]) -> None:
        content[0] += 1

    for suffix, change, match in [
        ("ids", reverse, r"\.ids: documents out of their order"),
        ("idx", shift, "does not start with end-of-text"),
        ("bin", forget_end, "does not start with end-of-text"),
        ("bin", wrong_header, "expected the header"),
    ]:
        write(tmp_path, documents(100, longest=3))
        spoiled(tmp_path, suffix, change)
        with pytest.raises(ValueError, match=match):
            data.open_shards(tmp_path, "train")


def test_a_flipped_bit_in_the_middle_is_found_by_verify(tmp_path: Path) -> None:
    write(tmp_path, documents(4000, longest=200), shards=1)
    path = tmp_path / "train-00000-of-00001.bin"
    content = bytearray(path.read_bytes())
    assert len(content) > 4 * data.EDGE_BYTES
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    data.open_shards(tmp_path, "train")
    with pytest.raises(ValueError, match=r"\.bin: SHA-256 is not that of meta\.json"):
        data.open_shards(tmp_path, "train", verify=True)


# Exporters: read by the layouts that the tools document -------------------------------------------------------------


def expected_tokens(shards: data.Shards) -> list[list[int]]:
    return [tokens.tolist() for _, tokens in shards.documents()]


def test_nanogpt_reads_the_export(tmp_path: Path) -> None:
    write(tmp_path, documents(80))
    shards = data.open_shards(tmp_path, "train")
    data.export_nanogpt(shards, tmp_path / "train.bin")
    tokens = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")  # nanoGPT's train.py
    assert tokens.tolist() == [token for document in expected_tokens(shards) for token in document]


def test_nanogpt_gets_no_vocabulary_that_it_cannot_read(tmp_path: Path) -> None:
    write(tmp_path, documents(5, vocab=70_000), vocab=70_000)
    with pytest.raises(ValueError, match="nanoGPT reads uint16"):
        data.export_nanogpt(data.open_shards(tmp_path, "train"), tmp_path / "train.bin")


@pytest.mark.parametrize("vocab", [VOCAB, 70_000])
def test_datatrove_reads_the_export(tmp_path: Path, vocab: int) -> None:
    write(tmp_path, documents(80, vocab=vocab), vocab=vocab)
    shards = data.open_shards(tmp_path, "train")
    paths = data.export_datatrove(shards, tmp_path / "ds")
    found = []
    for path in sorted((tmp_path / "ds").glob("*.ds")):  # its DatatroveFileDataset
        name, total, _ = Path(f"{path}.metadata").read_text().split("\n")
        size = int(name.rsplit("|", 1)[1])
        tokens = np.fromfile(path, {2: np.uint16, 4: np.uint32}[size])
        assert len(tokens) == int(total)
        ends = np.fromfile(f"{path}.index", np.uint64)
        found += [tokens[a:b].tolist() for a, b in zip([0, *ends.tolist()], ends.tolist(), strict=False)]
    assert found == expected_tokens(shards)
    assert len(paths) == 9


@pytest.mark.parametrize("vocab", [VOCAB, 70_000])
def test_megatron_reads_the_export(tmp_path: Path, vocab: int) -> None:
    write(tmp_path, documents(80, vocab=vocab), vocab=vocab)
    shards = data.open_shards(tmp_path, "train")
    data_path, index_path = data.export_megatron(shards, tmp_path / "train_text_document")
    assert (data_path.name, index_path.name) == ("train_text_document.bin", "train_text_document.idx")
    raw = index_path.read_bytes()  # its IndexedDataset
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, entries = struct.unpack_from("<QBQQ", raw, 9)
    dtype = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}[code]
    assert (version, entries) == (1, sequences + 1)
    lengths = np.frombuffer(raw, np.int32, sequences, 34)
    pointers = np.frombuffer(raw, np.int64, sequences, 34 + lengths.nbytes)
    bounds = np.frombuffer(raw, np.int64, entries, 34 + lengths.nbytes + pointers.nbytes)
    assert len(raw) == 34 + lengths.nbytes + pointers.nbytes + bounds.nbytes
    assert bounds.tolist() == list(range(81))
    content = data_path.read_bytes()
    assert [
        np.frombuffer(content, dtype, length, pointer).tolist()
        for length, pointer in zip(lengths, pointers, strict=True)
    ] == expected_tokens(shards)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"shard_text_bytes": 0}, r"\[tokens\] shard_text_bytes"), ({"seed": -1}, r"\[tokens\] seed")],
)
def test_settings_say_what_they_expected(wrong: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(ShardSettings(), **wrong)
