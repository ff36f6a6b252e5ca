"""Byte-level BPE by GPT-2's rule: pieces, counts, merges, tokenizer files, fast encoding.

The rule. Text is UTF-8 bytes; the 256 bytes are the base tokens. It is cut into pieces, and no merge crosses a cut:

- one of the English contractions 's 't 'm 'd 're 've 'll;
- else a run of letters, of numbers, or of other characters, with one U+0020 before it if there is one;
- else a run of white space, which leaves its last character to what follows it, unless it is that one alone.

So a token is of one category. Each consumer has its equivalent: `tokenizers` its ByteLevel pre-tokenizer, tiktoken
GPT2_PATTERN, our counting the kernel `piece_end` over a committed table of categories (webtext/_categories.py), made
from what `tokenizers` does with every code point.

- Counting is a map: `count_pieces` over any part of the text, `merge_counts` over the results. Tables of (piece,
  uint64 count), sorted by piece, that any engine can add up. Memory is bounded: a full table is spilled, sorted.
- Training is exact on the merged counts of the whole corpus, and gives what `tokenizers.trainers.BpeTrainer` gives on
  the same text, ties included: the pair with the highest count wins, then the smaller pair of ids, base ids standing
  in GPT-2's order of bytes. (A pair's count is 64 bits here: theirs is 32 and overflows on a large corpus.)
- `<|endoftext|>` is the last id and never comes from text: a page that holds these characters gets ordinary tokens.
- Encoding is fastokens', compared with `tokenizers` on a sample of every call; `tokenizers` alone where there is no
  fastokens. No Python object per token.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from webtext import _categories

_log = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The rule as a pattern for tiktoken and `regex`; openai/gpt-2, src/encoder.py, written shorter."""

CONTRACTIONS = (b"'s", b"'t", b"'m", b"'d", b"'re", b"'ve", b"'ll")
CATEGORIES = "OLNS"  # other, letter, number, white space: the codes 0 to 3 of `categories()`
CATEGORY_SHA256 = _categories.SHA256
UNICODE_VERSION = _categories.UNICODE_VERSION

COUNT_SCHEMA = pa.schema([pa.field("piece", pa.binary(), False), pa.field("count", pa.uint64(), False)])

GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
"""OpenAI's released files."""

_CHUNK_BYTES = 1 << 30  # of pieces in one Arrow chunk: pa.binary() counts in 31 bits
_BLOCK_BYTES = 1 << 18  # of texts, split at once
_CHECK_EVERY = 2048  # texts
_CHECK_CHARACTERS = 16_384  # of a longer text, that many are compared


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """Section [tokenizer]."""

    vocab_size: int = field(
        default=50257, metadata={"help": "entries, <|endoftext|> included: 256 bytes, the merges, and it"}
    )
    min_frequency: int = field(
        default=0, metadata={"help": "a pair that occurs less often is not merged; 0 merges while any pair is left"}
    )
    sample: float | None = field(
        default=None,
        metadata={"help": "share of the training texts that is counted, chosen by their hash; all if unset"},
    )
    path: str | None = field(
        default=None,
        metadata={"help": "use this tokenizer and train none: a folder or file as `load_tokenizer` reads it"},
    )
    memory_bytes: int = field(
        default=1 << 30, metadata={"help": "memory of one counting table before it is spilled to disk", "bytes": False}
    )

    def __post_init__(self) -> None:
        if not 257 <= self.vocab_size <= 2**24:
            raise ValueError(
                f"[tokenizer] vocab_size: expected 257 to {2**24:,}, got {self.vocab_size}; GPT-2's is 50257"
            )
        if self.min_frequency < 0:
            raise ValueError(f"[tokenizer] min_frequency: expected 0 or more, got {self.min_frequency}")
        if self.sample is not None and not 0 < self.sample <= 1:
            raise ValueError(
                f"[tokenizer] sample: expected a share above 0, up to 1, got {self.sample}; unset it for all"
            )
        if self.memory_bytes < 1 << 24:
            raise ValueError(f"[tokenizer] memory_bytes: expected at least {1 << 24:,}, got {self.memory_bytes:,}")


class TokenizerMismatchError(ValueError):
    """fastokens and `tokenizers` gave different ids for a text."""


# The rule ----------------------------------------------------------------------------------------------------------


@functools.cache
def categories() -> npt.NDArray[np.uint8]:
    """uint8[0x110000]: the category of every code point, an index into CATEGORIES. Read-only."""
    runs = "".join(_categories.RUNS)
    lengths, kinds, digits = [], [], ""
    for character in runs:
        if character in CATEGORIES:
            lengths.append(int(digits))
            kinds.append(CATEGORIES.index(character))
            digits = ""
        else:
            digits += character
    table = np.repeat(np.array(kinds, np.uint8), lengths)
    table.flags.writeable = False
    return table


def split(text: str) -> list[bytes]:
    """The pieces of one text; for looking, not for speed."""
    from webtext import _bpe_kernels as kernels

    raw = text.encode("utf-8")
    n = len(raw)
    bounds = np.empty(n + 1, np.int64)
    scratch = np.empty(n + 2, np.uint8), np.empty(n + 1, np.uint8)
    offsets = np.array([0, n], np.int64)
    pieces = kernels.split_texts(np.frombuffer(raw, np.uint8), offsets, 0, 1, categories(), *scratch, bounds)
    return [raw[start:end] for start, end in itertools.pairwise(bounds[: pieces + 1].tolist())]


def follows_rule(token: bytes) -> bool:
    """Whether a token keeps the rule: one category after at most one U+0020, or a contraction. True where the bytes are
    not UTF-8: they are a part of one character, or of several of one category, which cannot be told from them."""
    if token in CONTRACTIONS:
        return True
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return True
    kinds = {int(kind) for kind in categories()[[ord(character) for character in text]]}
    if len(kinds) > 1 and text[0] == " ":
        kinds = {int(kind) for kind in categories()[[ord(character) for character in text[1:]]]}
        return len(kinds) == 1 and CATEGORIES.index("S") not in kinds
    return len(kinds) <= 1


@functools.cache
def _base_bytes() -> bytes:
    """The byte of each of the 256 base ids. GPT-2 shows bytes as characters: printable Latin-1 as itself, the rest as
    U+0100 on, and numbers them in the order of those characters (openai/gpt-2, src/encoder.py, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return bytes(printable + [byte for byte in range(256) if byte not in printable])


@functools.cache
def _byte_characters() -> tuple[str, ...]:
    """The character that shows each byte."""
    shown = [""] * 256
    printable = 0
    for index, byte in enumerate(_base_bytes()):
        if index < 188:
            shown[byte] = chr(byte)
        else:
            shown[byte] = chr(0x100 + printable)
            printable += 1
    return tuple(shown)


def show(token: bytes) -> str:
    """A token as vocab.json spells it."""
    characters = _byte_characters()
    return "".join(characters[byte] for byte in token)


def unshow(text: str) -> bytes:
    """The bytes of a token that is spelled as in vocab.json."""
    codes = _character_bytes()
    try:
        return bytes(codes[character] for character in text)
    except KeyError:
        raise ValueError(
            f"{text!r} is not a byte-level token; was the vocabulary made by another kind of tokenizer?"
        ) from None


@functools.cache
def _character_bytes() -> Mapping[str, int]:
    return {character: byte for byte, character in enumerate(_byte_characters())}


# Counting ----------------------------------------------------------------------------------------------------------


def count_pieces(
    texts: Iterable[pa.Array | pa.ChunkedArray],
    *,
    sample: float | None = None,
    memory_bytes: int = 1 << 30,
    scratch: Path | None = None,
) -> pa.Table:
    """Counts the pieces of every text: COUNT_SCHEMA, sorted by the bytes of the piece.

    texts: string or large_string arrays; nulls count nothing. sample: the share of texts that is counted; which ones
    depends on their bytes alone. memory_bytes: past it the table is spilled to `scratch` (default: the system's
    folder for temporary files). The result depends on the texts alone, not on their order or batches.
    """
    with _Counter(memory_bytes, scratch) as counter:
        for array in texts:
            for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else (array,):
                counter.add_texts(chunk if sample is None else _sampled(chunk, sample))
        return counter.table()


def merge_counts(
    sources: Iterable[pa.Table | Path], *, memory_bytes: int = 1 << 30, scratch: Path | None = None
) -> pa.Table:
    """Adds up tables of `count_pieces`, or Parquet files of them: COUNT_SCHEMA, sorted by the bytes of the piece."""
    import pyarrow.parquet as pq

    with _Counter(memory_bytes, scratch) as counter:
        for source in sources:
            if isinstance(source, pa.Table):
                counter.add_counts(source)
                continue
            with pq.ParquetFile(source) as file:
                for batch in file.iter_batches(columns=["piece", "count"]):
                    counter.add_counts(pa.Table.from_batches([batch]))
        return counter.table()


def _sampled(texts: pa.Array, share: float) -> pa.Array:
    bound = int(share * 2**64)
    keep = [
        text is not None
        and int.from_bytes(hashlib.blake2b(text.as_buffer(), digest_size=8, person=b"bpe sample").digest(), "big")
        < bound
        for text in texts.cast(pa.large_binary())
        if text is not None
    ]
    return texts.filter(pa.array(keep, pa.bool_()))


class _Counter:
    """A hash table of pieces, spilled as sorted runs where it would outgrow `memory_bytes`."""

    def __init__(self, memory_bytes: int, scratch: Path | None) -> None:
        self._memory_bytes = memory_bytes
        self._scratch_parent = scratch
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._runs: list[Path] = []
        self._kinds, self._flags = np.empty(0, np.uint8), np.empty(0, np.uint8)
        self._bounds = np.empty(0, np.int64)
        self._clear()

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()

    def _clear(self) -> None:
        self._bits = 16
        self._table = np.zeros((1 << self._bits, 2), np.uint64)
        self._longs = np.zeros(1 << self._bits, np.int32)
        self._starts = np.zeros(1 << 14, np.int64)
        self._arena = np.zeros(1 << 18, np.uint8)
        self._state = np.zeros(4, np.int64)

    def add_texts(self, texts: pa.Array) -> None:
        from webtext import _bpe_kernels as kernels

        data, offsets = _buffers(texts)
        table = categories()
        rows = len(offsets) - 1
        row = 0
        while row < rows:  # a block whose scratch stays in the cache, or one longer text
            end = int(np.searchsorted(offsets, offsets[row] + _BLOCK_BYTES, side="right")) - 1
            end = min(max(end, row + 1), rows)
            n = int(offsets[end] - offsets[row])
            if n + 2 > len(self._kinds):
                self._kinds, self._flags = np.empty(n + 2, np.uint8), np.empty(n + 2, np.uint8)
                self._bounds = np.empty(n + 2, np.int64)
            pieces = kernels.split_texts(data, offsets, row, end, table, self._kinds, self._flags, self._bounds)
            self._add(data, self._bounds, pieces, np.zeros(0, np.uint64), n)
            row = end

    def add_counts(self, counts: pa.Table) -> None:
        for batch in counts.to_batches():
            data, offsets = _buffers(batch.column("piece"))
            weights = np.ascontiguousarray(batch.column("count").to_numpy(zero_copy_only=False), np.uint64)
            longest = int(np.diff(offsets).max()) if len(offsets) > 1 else 0
            self._add(data, offsets, len(offsets) - 1, weights, longest)

    def _add(self, data: Any, bounds: Any, pieces: int, weights: npt.NDArray[np.uint64], longest: int) -> None:
        from webtext import _bpe_kernels as kernels

        self._state[kernels.NEXT] = 0
        while not kernels.add_pieces(
            data,
            bounds,
            pieces,
            weights,
            self._table,
            64 - self._bits,
            self._longs,
            self._starts,
            self._arena,
            self._state,
        ):
            self._make_room(longest)

    def _make_room(self, longest: int) -> None:
        """Grows whatever is full; or spills all, where that would take more than the memory allowed."""
        from webtext import _bpe_kernels as kernels

        used, longs, arena = (int(self._state[i]) for i in (kernels.USED, kernels.LONG, kernels.ARENA))
        grow_table = used >= len(self._table) // 2
        grow_arena = arena + longest > len(self._arena)
        grow_starts = longs + 2 > len(self._starts)
        size = self._table.nbytes + self._longs.nbytes + self._arena.nbytes + self._starts.nbytes
        growth = 2 * grow_table * (self._table.nbytes + self._longs.nbytes)
        growth += grow_arena * (self._arena.nbytes + 2 * longest) + grow_starts * self._starts.nbytes
        if size + growth > self._memory_bytes and used > 1 << 12:
            self._spill()
            return
        if grow_table:
            self._bits += 1
            table = np.zeros((1 << self._bits, 2), np.uint64)
            numbers = np.zeros(1 << self._bits, np.int32)
            kernels.rehash(self._table, self._longs, table, 64 - self._bits, numbers)
            self._table, self._longs = table, numbers
        if grow_arena:
            self._arena = np.concatenate([self._arena, np.zeros(len(self._arena) + 2 * longest, np.uint8)])
        if grow_starts:
            self._starts = np.concatenate([self._starts, np.zeros(len(self._starts), np.int64)])

    def _spill(self) -> None:
        from webtext import _bpe_kernels as kernels

        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="pieces-", dir=self._scratch_parent)
        path = Path(self._scratch.name) / f"{len(self._runs):06d}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, COUNT_SCHEMA) as writer:
            writer.write_table(self._sorted())
        self._runs.append(path)
        following = self._state[kernels.NEXT]
        self._clear()
        self._state[kernels.NEXT] = following

    def table(self) -> pa.Table:
        """All that was counted, sorted."""
        if not self._runs:
            return self._sorted()
        self._spill()
        runs = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in self._runs]
        return _merge_runs(runs, max(1 << 16, self._memory_bytes // (64 * len(runs))))

    def _sorted(self) -> pa.Table:
        from webtext import _bpe_kernels as kernels

        used = int(self._state[kernels.USED])
        slots = np.empty(used, np.int64)
        keys = np.zeros((used, 3), np.uint64)
        kernels.sort_keys(self._table, self._longs, self._starts, self._arena, slots, keys)
        order = np.argsort(keys[:, 0])
        keys, slots = keys[order], slots[order]
        first = keys[:, 0]
        short = (first & np.uint64(0xFF)) != np.uint64(0xFF)
        lengths = np.where(short, first & np.uint64(0xFF), 0).astype(np.int64)
        numbers = self._longs[slots[~short]]
        lengths[~short] = self._starts[numbers + 1] - self._starts[numbers]

        tied = _ties(keys[:, :1])
        within = tied[np.lexsort((keys[tied, 2], keys[tied, 1], keys[tied, 0]))]
        keys[tied], slots[tied], lengths[tied] = keys[within], slots[within], lengths[within]
        tied = _ties(keys)  # the first 23 bytes are equal: few, and Python compares the rest
        numbers = self._longs[slots[tied]]
        rest = sorted(
            (self._arena[self._starts[number] : self._starts[number + 1]].tobytes(), slot)
            for number, slot in zip(numbers.tolist(), slots[tied].tolist(), strict=True)
        )
        slots[tied] = [slot for _, slot in rest]
        lengths[tied] = [len(piece) for piece, _ in rest]
        return self._gather(slots, lengths)

    def _gather(self, slots: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> pa.Table:
        from webtext import _bpe_kernels as kernels

        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tables: list[pa.Table] = []
        start = 0
        while start < len(slots) or not tables:
            end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + _CHUNK_BYTES, side="right")) - 1)
            end = min(end, len(slots))
            places = offsets[start : end + 1] - offsets[start]
            data = np.empty(int(places[-1]), np.uint8)
            counts = np.empty(end - start, np.uint64)
            kernels.gather_pieces(
                self._table, self._longs, self._starts, self._arena, slots[start:end], places, data, counts
            )
            tables.append(_count_table(data, places, counts))
            start = end
        return pa.concat_tables(tables)


def _count_table(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], counts: npt.NDArray[np.uint64]
) -> pa.Table:
    pieces = pa.Array.from_buffers(
        pa.binary(), len(counts), [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    )
    return pa.table([pieces, pa.array(counts, pa.uint64())], schema=COUNT_SCHEMA)


def _ties(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Rows of sorted keys that equal a neighbour's."""
    same = (keys[1:] == keys[:-1]).all(axis=1)
    return np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))[: len(keys)]


def _merge_runs(runs: Sequence[pa.Table], rows: int) -> pa.Table:
    """Adds up sorted tables, a range of pieces at a time: about `rows` of the longest run."""
    pieces = [run.column("piece") for run in runs]
    longest = max(pieces, key=len)
    bounds = [longest[i].as_py() for i in range(rows, len(longest), rows)]
    starts = [0] * len(runs)
    merged = []
    for bound in [*bounds, None]:
        with _Counter(1 << 62, None) as counter:
            for i, column in enumerate(pieces):
                end = len(column) if bound is None else _bisect(column, bound, starts[i])
                counter.add_counts(runs[i].slice(starts[i], end - starts[i]))
                starts[i] = end
            merged.append(counter.table())
    return pa.concat_tables(merged)


def _bisect(column: pa.ChunkedArray, bound: bytes, low: int) -> int:
    high = len(column)
    while low < high:
        middle = (low + high) // 2
        if column[middle].as_py() < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes and int64 offsets of a string or binary array, nulls as empty; bytes without a copy."""
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    if not (wide or pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)):
        raise ValueError(f"expected an Arrow string array, got {texts.type}; cast it to pa.string()")
    if texts.null_count:
        texts = texts.drop_null()
    _, offset_buffer, data_buffer = texts.buffers()
    if not len(texts) or offset_buffer is None:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return data, np.ascontiguousarray(offsets, np.int64)


# Training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A trained tokenizer: what its files are made of.

    tokens: the bytes of every id but the last, which is <|endoftext|>. merges: pairs of tokens, by rank.
    """

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...]

    @property
    def end_of_text(self) -> int:
        """The id of <|endoftext|>: the last."""
        return len(self.tokens)

    @property
    def size(self) -> int:
        """Ids, <|endoftext|> included."""
        return len(self.tokens) + 1


def train(counts: pa.Table, settings: TokenizerSettings) -> Vocabulary:
    """Learns a vocabulary of settings.vocab_size from the counts of all pieces.

    The merges are those of `tokenizers.trainers.BpeTrainer(special_tokens=[], vocab_size=settings.vocab_size - 1,
    min_frequency=settings.min_frequency, initial_alphabet=ByteLevel.alphabet())` on the text that was counted. A text
    too small for the size asked is one warning. Memory: about 20 bytes per byte of distinct piece, 60 per pair.
    """
    from webtext import _bpe_training as kernels

    ids = np.empty(256, np.int32)
    ids[np.frombuffer(_base_bytes(), np.uint8)] = np.arange(256, dtype=np.int32)
    symbols, starts, weights = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
    total = 0
    for batch in counts.to_batches():
        data, offsets = _buffers(batch.column("piece"))
        symbols.append(ids[data[offsets[0] : offsets[-1]]])
        starts.append(offsets[1:] - offsets[0] + total)
        weights.append(batch.column("count").to_numpy(zero_copy_only=False).astype(np.int64))
        total += len(symbols[-1])
    merges = kernels.train_merges(
        np.concatenate(symbols),
        np.concatenate(starts),
        np.concatenate(weights),
        settings.vocab_size - 1,
        settings.min_frequency,
    )
    tokens = [bytes([byte]) for byte in _base_bytes()]
    pairs = []
    for left, right in merges.tolist():
        pairs.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    vocabulary = Vocabulary(tuple(tokens), tuple(pairs))
    if vocabulary.size < settings.vocab_size:
        _log.warning(
            "tokenizer: the text is too small for %s entries; it gave %s",
            f"{settings.vocab_size:,}",
            f"{vocabulary.size:,}",
        )
    return vocabulary


# Files -------------------------------------------------------------------------------------------------------------


def write_tokenizer(directory: Path, vocabulary: Vocabulary) -> list[Path]:
    """Writes tokenizer.json, vocab.json and merges.txt, tokenizer_config.json, special_tokens_map.json and
    vocab.tiktoken to `directory`; returns their paths. The bytes depend on the vocabulary alone."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        "tokenizer.json": _tokenizer_json(vocabulary),
        "vocab.json": json.dumps(_spelled(vocabulary), ensure_ascii=False, separators=(",", ":")),
        "merges.txt": merges_text(vocabulary),
        "tokenizer_config.json": _pretty(
            {
                "add_bos_token": False,
                "add_prefix_space": False,
                "added_tokens_decoder": {str(vocabulary.end_of_text): _control_token()},
                "bos_token": END_OF_TEXT,
                "clean_up_tokenization_spaces": False,
                "eos_token": END_OF_TEXT,
                "model_max_length": 1024,
                "split_special_tokens": True,
                "tokenizer_class": "GPT2Tokenizer",
                "unk_token": END_OF_TEXT,
            }
        ),
        "special_tokens_map.json": _pretty(dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)),
        "vocab.tiktoken": "".join(
            f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(vocabulary.tokens)
        ),
    }
    paths = []
    for name, content in contents.items():
        paths.append(directory / name)
        paths[-1].write_bytes(content.encode("utf-8"))
    return paths


def merges_text(vocabulary: Vocabulary) -> str:
    """merges.txt, as `tokenizers` writes it."""
    return "#version: 0.2\n" + "".join(f"{show(left)} {show(right)}\n" for left, right in vocabulary.merges)


def _spelled(vocabulary: Vocabulary) -> dict[str, int]:
    spelled = {show(token): index for index, token in enumerate(vocabulary.tokens)}
    return {**spelled, END_OF_TEXT: vocabulary.end_of_text}


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _control_token() -> dict[str, object]:
    return {
        "content": END_OF_TEXT,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _tokenizer_json(vocabulary: Vocabulary) -> str:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _pretty(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": vocabulary.end_of_text, **_control_token()}],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": {**byte_level, "trim_offsets": False},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": _spelled(vocabulary),
                "merges": [[show(left), show(right)] for left, right in vocabulary.merges],
            },
        }
    )


def load_vocabulary(path: Path) -> Vocabulary:
    """A vocabulary from a tokenizer.json, or from a folder that holds one, or vocab.json and merges.txt, or GPT-2's
    released encoder.json and vocab.bpe (whose SHA-256 must be OpenAI's).

    Refuses, in one line, what is not byte-level BPE by GPT-2's rule with <|endoftext|> as the last id.
    """
    if path.is_file():
        return _from_json(path)
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json")
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (path / vocabulary).is_file() and (path / merges).is_file():
            if vocabulary == "encoder.json":
                _check_released(path)
            lines = (path / merges).read_text(encoding="utf-8").split("\n")
            pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
            return _vocabulary(json.loads((path / vocabulary).read_text(encoding="utf-8")), pairs, path)
    raise FileNotFoundError(
        f"{path}: expected tokenizer.json, or vocab.json and merges.txt, or GPT-2's encoder.json and vocab.bpe; "
        "set [tokenizer] path to a folder that holds them"
    )


def _check_released(path: Path) -> None:
    for name, expected in GPT2_SHA256.items():
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        if digest != expected:
            raise ValueError(
                f"{path / name}: expected OpenAI's file, SHA-256 {expected[:16]}, got {digest[:16]}; a vocabulary of "
                "your own is named vocab.json and merges.txt"
            )


def _from_json(path: Path) -> Vocabulary:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model, pre_tokenizer = content["model"], content["pre_tokenizer"] or {}
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        spelled = dict(model["vocab"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a tokenizer.json of byte-level BPE, got {error!r}") from None
    plain = (
        model.get("type", "BPE") == "BPE"
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("ignore_merges")
        and not content.get("normalizer")
        and pre_tokenizer.get("type") == "ByteLevel"
        and not pre_tokenizer.get("add_prefix_space")
        and pre_tokenizer.get("use_regex", True)
    )
    if not plain:
        raise ValueError(
            f"{path}: expected byte-level BPE by GPT-2's rule (ByteLevel, no prefix space, no normalizer), got another "
            "kind of tokenizer"
        )
    for token in content.get("added_tokens") or []:
        spelled.setdefault(token["content"], token["id"])
    return _vocabulary(spelled, pairs, path)


def _vocabulary(spelled: Mapping[str, int], pairs: Sequence[Sequence[str]], path: Path) -> Vocabulary:
    last = len(spelled) - 1
    if spelled.get(END_OF_TEXT) != last or sorted(spelled.values()) != list(range(len(spelled))):
        raise ValueError(f"{path}: expected ids 0 to {last:,} with {END_OF_TEXT} the last, got other ids")
    tokens = [b""] * last
    for text, index in spelled.items():
        if index != last:
            tokens[index] = unshow(text)
    known = set(tokens)
    merges = []
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"{path}: expected merges of two tokens, got {' '.join(pair)!r}")
        left, right = unshow(pair[0]), unshow(pair[1])
        if left not in known or right not in known or left + right not in known:
            raise ValueError(f"{path}: the merge {' '.join(pair)!r} is of tokens that the vocabulary lacks")
        merges.append((left, right))
    if not known.issuperset(bytes([byte]) for byte in range(256)):
        raise ValueError(f"{path}: expected all 256 bytes among the tokens; some are missing")
    return Vocabulary(tuple(tokens), tuple(merges))


# Encoding ----------------------------------------------------------------------------------------------------------


class Tokenizer:
    """A vocabulary that is ready to encode. Made by `load_tokenizer`; pickles as its vocabulary.

    sha256: of its tokenizer.json. size: ids, <|endoftext|> included. dtype: of its ids in token shards.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        import tokenizers

        self.vocabulary = vocabulary
        self.size = vocabulary.size
        self.end_of_text = vocabulary.end_of_text
        self.dtype = np.dtype(np.uint16 if self.size <= 2**16 else np.uint32)
        content = _tokenizer_json(vocabulary)
        self.sha256 = hashlib.sha256(content.encode("utf-8")).hexdigest()
        self._reference = tokenizers.Tokenizer.from_str(content)
        self._reference.encode_special_tokens = True  # <|endoftext|> in a text is text
        try:
            import fastokens
        except ImportError:
            self._fast = None
        else:
            self._fast = fastokens.Tokenizer.from_json_str(content)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary]]:
        return Tokenizer, (self.vocabulary,)

    def encode(self, text: str) -> list[int]:
        """Ids of one text, by `tokenizers`."""
        ids: list[int] = self._reference.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD, <|endoftext|> its name."""
        control = END_OF_TEXT.encode()
        tokens = self.vocabulary.tokens
        return b"".join(control if index == self.end_of_text else tokens[index] for index in ids).decode(
            "utf-8", "replace"
        )


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder or file, in any form that `load_vocabulary` reads."""
    return Tokenizer(load_vocabulary(path))


class Encoded(NamedTuple):
    """Texts as ids."""

    ids: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]  # [offsets[-1]], no end-of-text in it
    offsets: npt.NDArray[np.int64]  # [texts + 1]


def encode(
    texts: pa.Array | pa.ChunkedArray, tokenizer: Tokenizer, *, where: str = "", fallback: bool = False
) -> Encoded:
    """Encodes every text with fastokens, and compares one in 2,048, at least one a call, with `tokenizers`.

    texts: string or large_string without nulls; take batches of some MB. where: the name of the texts in an error.
    fallback: use `tokenizers` though fastokens is there. Raises TokenizerMismatchError, which names the text.
    """
    if texts.null_count:
        raise ValueError(f"{where or 'encode'}: expected texts without nulls, got {texts.null_count}; drop them first")
    strings: list[str] = texts.to_pylist()
    if tokenizer._fast is None or fallback:
        encodings = tokenizer._reference.encode_batch_fast(strings, add_special_tokens=False)
        offsets = np.zeros(len(strings) + 1, np.int64)
        np.cumsum([len(encoding.ids) for encoding in encodings], out=offsets[1:])
        ids = np.empty(offsets[-1], tokenizer.dtype)
        for start, encoding in zip(offsets.tolist(), encodings, strict=False):
            ids[start : start + len(encoding.ids)] = encoding.ids
        return Encoded(ids, offsets)
    raw, ends = tokenizer._fast.encode_batch_flat(strings, add_special_tokens=False, split_special_tokens=True)
    ids = np.frombuffer(raw, np.uint32).astype(tokenizer.dtype, copy=False)
    offsets = np.frombuffer(ends, np.uint64).astype(np.int64)
    for row in range(0, len(strings), _CHECK_EVERY):
        _check_text(strings[row], ids[offsets[row] : offsets[row + 1]], tokenizer, f"{where or 'batch'}, text {row}")
    return Encoded(ids, offsets)


def _check_text(text: str, ids: npt.NDArray[Any], tokenizer: Tokenizer, where: str) -> None:
    fast = tokenizer._fast
    assert fast is not None
    if len(text) > _CHECK_CHARACTERS:
        text = text[:_CHECK_CHARACTERS]
        ids = np.array(fast.encode(text, add_special_tokens=False, split_special_tokens=True).ids)
    expected = np.array(tokenizer.encode(text), ids.dtype)
    if not np.array_equal(expected, ids):
        raise TokenizerMismatchError(
            f"{where} ({text[:40]!r}...): fastokens gives other ids than tokenizers; report it, and uninstall "
            "fastokens to go on with tokenizers"
        )


# Report ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetStatistics:
    """How a tokenizer does on one set of texts."""

    texts: int
    text_bytes: int
    tokens: int  # end-of-text not among them
    reference_tokens: int | None  # of the other tokenizer on the same texts, usually GPT-2's own

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / self.tokens if self.tokens else 0.0

    @property
    def reference_bytes_per_token(self) -> float | None:
        return self.text_bytes / self.reference_tokens if self.reference_tokens else None


@dataclass(frozen=True, slots=True)
class TokenizerStatistics:
    """The tokenizer's part of the report."""

    size: int
    sets: dict[str, SetStatistics]
    unused: int  # tokens that occur in none of the sets, <|endoftext|> aside
    used_once: int
    longest: tuple[tuple[int, bytes], ...]  # (id, bytes), the longest first
    samples: tuple[tuple[str, tuple[str, ...]], ...]  # (set, the start of its first text in tokens)

    @property
    def unused_share(self) -> float:
        return self.unused / (self.size - 1)

    @property
    def used_once_share(self) -> float:
        return self.used_once / (self.size - 1)


def tokenizer_statistics(
    sets: Mapping[str, Iterable[pa.Array | pa.ChunkedArray]],
    tokenizer: Tokenizer,
    *,
    reference: Tokenizer | None = None,
    num_longest: int = 50,
    sample_tokens: int = 60,
) -> TokenizerStatistics:
    """Encodes every set (train, validation, evaluations) with `tokenizer`, and with `reference` beside it.

    Hand it samples where the sets are large: what it costs is their encoding.
    """
    use = np.zeros(tokenizer.size, np.int64)
    figures: dict[str, SetStatistics] = {}
    samples = []
    for name, arrays in sets.items():
        texts = text_bytes = tokens = 0
        reference_tokens = 0 if reference is not None else None
        for array in arrays:
            encoded = encode(array, tokenizer, where=name)
            use += np.bincount(encoded.ids, minlength=tokenizer.size)
            if not texts and len(array):
                first = encoded.ids[: min(sample_tokens, int(encoded.offsets[1]))]
                samples.append((name, show_tokens(first.tolist(), tokenizer)))
            texts += len(array)
            text_bytes += sum(len(chunk) for chunk in _texts_as_bytes(array))
            tokens += len(encoded.ids)
            if reference is not None and reference_tokens is not None:
                reference_tokens += len(encode(array, reference, where=name).ids)
        figures[name] = SetStatistics(texts, text_bytes, tokens, reference_tokens)
    counted = use[: tokenizer.end_of_text]
    return TokenizerStatistics(
        size=tokenizer.size,
        sets=figures,
        unused=int((counted == 0).sum()),
        used_once=int((counted == 1).sum()),
        longest=longest_tokens(tokenizer.vocabulary, num_longest),
        samples=tuple(samples),
    )


def _texts_as_bytes(array: pa.Array | pa.ChunkedArray) -> Iterable[npt.NDArray[np.uint8]]:
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else (array,):
        data, offsets = _buffers(chunk)
        yield data[offsets[0] : offsets[-1]]


def longest_tokens(vocabulary: Vocabulary, count: int) -> tuple[tuple[int, bytes], ...]:
    """(id, bytes) of the longest tokens, the longest first, then by id."""
    ranked = sorted(enumerate(vocabulary.tokens), key=lambda item: (-len(item[1]), item[0]))
    return tuple(ranked[:count])


def show_tokens(ids: Iterable[int], tokenizer: Tokenizer) -> tuple[str, ...]:
    """Tokens for people: text where the bytes are UTF-8, \\xNN for the bytes that are not."""
    tokens = (*tokenizer.vocabulary.tokens, END_OF_TEXT.encode())
    return tuple(tokens[index].decode("utf-8", "backslashreplace") for index in ids)
