"""Token shards: the format, the writer, the reader, and the exporters to other trainers.

- A shard is three files. NAME.bin is llm.c's: a header of 256 little-endian int32, then the tokens, end-of-text first
  in every document (uint16 under magic 20240520 version 1; for vocabularies above 65,536 uint32 under llm.c's Llama-3
  header, 20240801 version 7). NAME.idx holds the uint64 end of each document, in tokens: datatrove's layout. NAME.ids
  holds 16 raw bytes each. So a trainer needs .bin alone, and a token leads to its document.
- Documents stand in ascending order of BLAKE2b-64 of seed and id, and the same number, scaled, is the shard: a shuffle
  that depends on nothing but the seed and the ids. The bytes are the same for any cut of the corpus and any number of
  workers.
- Writing is a shuffle through files. A map task (`write_partitions`) puts one corpus shard's documents into one file
  with a section per token shard; a reduce task (`write_shard`) sorts one token shard in memory. Nothing holds more.
- `meta.json` (`write_meta`) says which tokenizer made the shards and what every file is. `open_shards` maps them into
  memory and refuses what is cut, swapped, or of another tokenizer: lengths, headers, edges and places always,
  every byte with `verify=True`.
- Nothing here knows of text or of the web: token ids arrive as arrays. numpy only.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

HEADER_BYTES = 256 * 4
HEADERS = {"uint16": (20240520, 1), "uint32": (20240801, 7)}  # magic, version: llm.c's dataloader.h, GPT-2 and Llama 3
META_NAME = "meta.json"
META_FORMAT = "webtext-tokens"
META_VERSION = 1
EDGE_BYTES = 64 * 1024
MAX_SHARD_TOKENS = 2**31 - 1  # the header's count is an int32

_PARTITION_MAGIC = b"WTPART\x00\x01"
_PARTITION_FOOTER = struct.Struct("<QII8s")  # where the table starts, chunks, sections, magic


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Section [tokens]."""

    shard_text_bytes: int = field(
        default=400_000_000,
        metadata={
            "help": "text bytes (UTF-8) that go into one token shard, on average; about 4.4 of them make a token"
        },
    )
    seed: int = field(default=0, metadata={"help": "seed of the order of documents in the token shards"})

    def __post_init__(self) -> None:
        if not 1 <= self.shard_text_bytes <= 4_000_000_000:
            raise ValueError(
                f"[tokens] shard_text_bytes: expected 1 to 4,000,000,000, got {self.shard_text_bytes}; a shard is "
                "sorted in memory and its header counts tokens in 31 bits"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"[tokens] seed: expected 0 to 2^64 - 1, got {self.seed}; take a smaller number")


class TokenBatch(NamedTuple):
    """Encoded documents: n ids, and n texts' tokens end to end."""

    ids: npt.NDArray[np.uint8]  # [n, 16]
    tokens: Tokens  # [offsets[-1]], without end-of-text
    offsets: npt.NDArray[np.int64]  # [n + 1], from 0


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What meta.json says of one shard."""

    name: str
    tokens: int
    documents: int
    sha256: dict[str, str]  # by suffix: bin, idx, ids
    edges_sha256: dict[str, str]  # of the first and last 64 KiB: what opening can afford to check


class DocumentSpan(NamedTuple):
    """A document's place in a split: tokens [start, end), the first of which is end-of-text."""

    id: str  # 32 hex digits
    start: int
    end: int


# Order -----------------------------------------------------------------------------------------------------------


def order_keys(ids: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint64]:
    """BLAKE2b-64 of seed (8 bytes, little-endian) and id, as uint64[n]: documents stand in ascending order of it."""
    prefix = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8)
    raw = np.ascontiguousarray(ids, np.uint8).tobytes()
    digests = bytearray()
    for start in range(0, len(raw), 16):
        state = prefix.copy()
        state.update(raw[start : start + 16])
        digests += state.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64)


def shards_of(keys: npt.NDArray[np.uint64], num_shards: int) -> npt.NDArray[np.int64]:
    """Token shard of each order key: its top 32 bits scaled, so that shards are ranges of the order."""
    return ((keys >> np.uint64(32)) * np.uint64(num_shards) >> np.uint64(32)).astype(np.int64)


def num_shards(text_bytes: int, settings: ShardSettings) -> int:
    """Token shards of a split of `text_bytes`: known before anything is encoded, and independent of corpus shards."""
    return max(1, -(-text_bytes // settings.shard_text_bytes))


def shard_name(split: str, index: int, count: int) -> str:
    """`train-00003-of-00042`: the files' name without suffix."""
    return f"{split}-{index:05d}-of-{count:05d}"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 as far as it reaches, else uint32."""
    if not 1 <= vocab_size <= 2**31:
        raise ValueError(f"vocabulary size: expected 1 to 2^31, got {vocab_size}")
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


# Map: one corpus shard -> one file with a section per token shard --------------------------------------------------


def write_partitions(
    path: Path, batches: Iterable[TokenBatch], *, num_shards: int, seed: int, vocab_size: int, end_of_text: int
) -> tuple[int, int]:
    """Writes the documents of `batches` to `path`, apart by token shard; returns (documents, tokens with end-of-text).

    Memory is that of one batch. The file: per batch and section the order keys, ids, lengths and tokens; then a table
    uint64[chunks, sections, 3] of (offset, documents, tokens); then where that table starts.
    """
    dtype = token_dtype(vocab_size)
    documents = tokens_written = 0
    tables: list[npt.NDArray[np.uint64]] = []
    with path.open("wb") as file:
        file.write(_PARTITION_MAGIC)
        for batch in batches:
            _check_batch(batch, vocab_size)
            tables.append(_write_chunk(file, batch, num_shards, seed, dtype, end_of_text))
            documents += len(batch.ids)
            tokens_written += len(batch.tokens) + len(batch.ids)
        start = file.tell()
        file.write(b"".join(table.astype("<u8").tobytes() for table in tables))
        file.write(_PARTITION_FOOTER.pack(start, len(tables), num_shards, _PARTITION_MAGIC))
    return documents, tokens_written


def _check_batch(batch: TokenBatch, vocab_size: int) -> None:
    n = len(batch.ids)
    if batch.ids.shape != (n, 16) or batch.offsets.shape != (n + 1,) or batch.offsets[0] != 0:
        raise ValueError(
            f"a batch of n documents has ids[n, 16] and offsets[n + 1] from 0; got {batch.ids.shape} and "
            f"{batch.offsets.shape}"
        )
    if batch.offsets[-1] != len(batch.tokens) or (np.diff(batch.offsets) < 0).any():
        raise ValueError("a batch's offsets must rise to its number of tokens")
    if len(batch.tokens) and int(batch.tokens.max()) >= vocab_size:
        raise ValueError(
            f"token {int(batch.tokens.max())} is not of a vocabulary of {vocab_size}; was it encoded by another "
            "tokenizer?"
        )


def _write_chunk(
    file: BinaryIO, batch: TokenBatch, sections: int, seed: int, dtype: np.dtype[Any], end_of_text: int
) -> npt.NDArray[np.uint64]:
    keys = order_keys(batch.ids, seed)
    shards = shards_of(keys, sections)
    by_shard = np.argsort(shards, kind="stable")
    bounds = np.searchsorted(shards[by_shard], np.arange(sections + 1))
    lengths = np.diff(batch.offsets) + 1  # end-of-text
    table = np.zeros((sections, 3), np.uint64)
    tokens = np.ascontiguousarray(batch.tokens, dtype)
    control = np.array([end_of_text], dtype).tobytes()
    for section in range(sections):
        rows = by_shard[bounds[section] : bounds[section + 1]]
        table[section] = file.tell(), len(rows), lengths[rows].sum()
        file.write(keys[rows].astype("<u8").tobytes())
        file.write(np.ascontiguousarray(batch.ids[rows]).tobytes())
        file.write(lengths[rows].astype("<u8").tobytes())
        for row in rows.tolist():
            file.write(control)
            file.write(tokens[batch.offsets[row] : batch.offsets[row + 1]].data)
    return table


class _Chunk(NamedTuple):
    keys: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    tokens: Tokens


def _read_section(path: Path, section: int, dtype: np.dtype[Any]) -> Iterator[_Chunk]:
    """What a partition file holds of one token shard, chunk by chunk."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        footer = b""
        if size >= len(_PARTITION_MAGIC) + _PARTITION_FOOTER.size:
            file.seek(size - _PARTITION_FOOTER.size)
            footer = file.read(_PARTITION_FOOTER.size)
        start, chunks, sections, magic = _PARTITION_FOOTER.unpack(footer) if footer else (0, 0, 0, b"")
        if magic != _PARTITION_MAGIC or start + chunks * sections * 24 + _PARTITION_FOOTER.size != size:
            raise ValueError(f"{path}: expected a whole file of encoded documents, got a cut or foreign one; delete it")
        if not section < sections:
            raise ValueError(f"{path}: expected more than {section} sections, got {sections}; delete it")
        file.seek(start)
        table = np.frombuffer(file.read(chunks * sections * 24), "<u8").reshape(chunks, sections, 3)[:, section]
        for offset, documents, tokens in table.tolist():
            file.seek(offset)
            keys = np.frombuffer(file.read(documents * 8), "<u8")
            ids = np.frombuffer(file.read(documents * 16), np.uint8).reshape(-1, 16)
            lengths = np.frombuffer(file.read(documents * 8), "<u8").astype(np.int64)
            yield _Chunk(keys, ids, lengths, np.frombuffer(file.read(tokens * dtype.itemsize), dtype))


# Reduce: the sections of one token shard -> NAME.bin, NAME.idx, NAME.ids -------------------------------------------


def write_shard(partitions: Sequence[Path], index: int, directory: Path, name: str, *, vocab_size: int) -> ShardInfo:
    """Reads section `index` of every partition file, sorts it in memory, writes the three files NAME.* of the shard.

    Documents are in ascending order of (order key, id): the order of `partitions` does not matter. An id that comes
    twice is an error. Memory is that of the shard: 2 or 4 bytes a token and 40 a document.
    """
    dtype = token_dtype(vocab_size)
    chunks = [chunk for path in partitions for chunk in _read_section(path, index, dtype)]
    keys = np.concatenate([np.zeros(0, "<u8"), *(chunk.keys for chunk in chunks)])
    ids = np.concatenate([np.zeros((0, 16), np.uint8), *(chunk.ids for chunk in chunks)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(chunk.lengths for chunk in chunks)])
    # Where each document starts in its chunk's tokens.
    starts = np.concatenate([np.zeros(0, np.int64), *(np.cumsum(c.lengths) - c.lengths for c in chunks)])
    chunk_of = np.repeat(np.arange(len(chunks)), [len(chunk.keys) for chunk in chunks])

    halves = ids.view(">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0], keys))
    same = (ids[order[1:]] == ids[order[:-1]]).all(axis=1)
    if same.any():
        twice = ids[order[1:]][same][0].tobytes().hex()
        raise ValueError(
            f"{name}: document {twice} comes twice; ids must be unique in a corpus, look for it in corpus/"
        )
    ends = np.cumsum(lengths[order], dtype=np.uint64)
    total = int(ends[-1]) if len(ends) else 0
    if total > MAX_SHARD_TOKENS:
        raise ValueError(f"{name}: {total:,} tokens do not fit a header of 31 bits; lower [tokens] shard_text_bytes")

    writers = {suffix: _HashedFile(directory / f"{name}.{suffix}") for suffix in ("bin", "idx", "ids")}
    magic, version = HEADERS[dtype.name]
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, total
    writers["bin"].write(header.tobytes())
    buffer = bytearray()
    for row in order.tolist():
        start = starts[row]
        buffer += chunks[chunk_of[row]].tokens[start : start + lengths[row]].data
        if len(buffer) >= 1 << 22:
            writers["bin"].write(buffer)
            buffer.clear()
    writers["bin"].write(buffer)
    writers["idx"].write(ends.astype("<u8").tobytes())
    writers["ids"].write(ids[order].tobytes())
    digests = {suffix: writer.close() for suffix, writer in writers.items()}
    edges = {suffix: _edges_sha256(directory / f"{name}.{suffix}") for suffix in digests}
    return ShardInfo(name, total, len(ids), digests, edges)


class _HashedFile:
    """A file and the SHA-256 of what went into it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | bytearray) -> None:
        self._sha256.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def close(self) -> str:
        self._file.close()
        return self._sha256.hexdigest()


def _edges_sha256(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(EDGE_BYTES)
        file.seek(max(len(head), size - EDGE_BYTES))
        return hashlib.sha256(head + file.read()).hexdigest()


# meta.json ---------------------------------------------------------------------------------------------------------


def write_meta(
    path: Path,
    splits: Mapping[str, Sequence[ShardInfo]],
    *,
    tokenizer_sha256: str,
    vocab_size: int,
    end_of_text: int,
    seed: int,
) -> None:
    """Writes meta.json: which tokenizer (SHA-256 of tokenizer.json), and every shard of every split, in order."""
    meta = {
        "format": META_FORMAT,
        "version": META_VERSION,
        "tokenizer_sha256": tokenizer_sha256,
        "vocab_size": vocab_size,
        "end_of_text": end_of_text,
        "dtype": token_dtype(vocab_size).name,
        "seed": seed,
        "splits": {
            split: {
                "tokens": sum(shard.tokens for shard in shards),
                "documents": sum(shard.documents for shard in shards),
                "shards": [asdict(shard) for shard in shards],
            }
            for split, shards in sorted(splits.items())
        },
    }
    path.write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_shards(
    directory: Path,
    splits: Mapping[str, Iterable[TokenBatch]],
    *,
    text_bytes: Mapping[str, int],
    settings: ShardSettings,
    tokenizer_sha256: str,
    vocab_size: int,
    end_of_text: int,
) -> dict[str, list[ShardInfo]]:
    """Map and reduce in one process: the shards of every split and meta.json, the same bytes as any engine writes."""
    directory.mkdir(parents=True, exist_ok=True)
    infos: dict[str, list[ShardInfo]] = {}
    with tempfile.TemporaryDirectory(dir=directory, prefix=".partitions-") as scratch:
        for split, batches in splits.items():
            count = num_shards(text_bytes[split], settings)
            partition = Path(scratch) / split
            write_partitions(
                partition,
                batches,
                num_shards=count,
                seed=settings.seed,
                vocab_size=vocab_size,
                end_of_text=end_of_text,
            )
            infos[split] = [
                write_shard([partition], index, directory, shard_name(split, index, count), vocab_size=vocab_size)
                for index in range(count)
            ]
            partition.unlink()
    write_meta(
        directory / META_NAME,
        infos,
        tokenizer_sha256=tokenizer_sha256,
        vocab_size=vocab_size,
        end_of_text=end_of_text,
        seed=settings.seed,
    )
    return infos


# Reader ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard, mapped into memory."""

    name: str
    tokens: Tokens  # [tokens]
    ends: npt.NDArray[np.uint64]  # [documents]: end of each document, in tokens of this shard
    ids: npt.NDArray[np.uint8]  # [documents, 16]


class Shards:
    """A split's tokens, as one sequence over its shards; made by `open_shards`.

    shards: the shards in order. starts: int64[len(shards) + 1], the position of each shard's first token in the split.
    """

    def __init__(self, split: str, shards: Sequence[Shard], meta: Mapping[str, Any]) -> None:
        self.split = split
        self.shards = tuple(shards)
        self.starts = np.concatenate([[0], np.cumsum([len(shard.tokens) for shard in shards])]).astype(np.int64)
        self.tokenizer_sha256: str = meta["tokenizer_sha256"]
        self.vocab_size: int = meta["vocab_size"]
        self.end_of_text: int = meta["end_of_text"]
        self.seed: int = meta["seed"]
        self.dtype = token_dtype(self.vocab_size)

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])

    @property
    def num_documents(self) -> int:
        return sum(len(shard.ends) for shard in self.shards)

    def read(self, start: int, count: int) -> Tokens:
        """Tokens [start, start + count) of the split, in the stored dtype: a view within a shard, else a copy."""
        if not 0 <= start <= start + count <= self.num_tokens:
            raise ValueError(
                f"{self.split}: expected positions within 0 to {self.num_tokens:,}, got {start:,} to {start + count:,}"
            )
        index = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        while count > 0:
            local = start - int(self.starts[index])
            parts.append(self.shards[index].tokens[local : local + count])
            start += len(parts[-1])
            count -= len(parts[-1])
            index += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros(0, self.dtype), *parts])

    def document_at(self, position: int) -> DocumentSpan:
        """The document that token `position` of the split is in."""
        if not 0 <= position < self.num_tokens:
            raise ValueError(f"{self.split}: expected a position of 0 to {self.num_tokens - 1:,}, got {position:,}")
        index = int(np.searchsorted(self.starts, position, side="right")) - 1
        shard = self.shards[index]
        row = int(np.searchsorted(shard.ends, np.uint64(position - int(self.starts[index])), side="right"))
        return self._span(index, row)

    def find(self, document_id: str) -> DocumentSpan | None:
        """Where the document of this id (32 hex digits) is, or None: a binary search by its order key."""
        try:
            wanted = np.frombuffer(bytes.fromhex(document_id), np.uint8).reshape(1, 16)
        except ValueError:
            raise ValueError(f"document id: expected 32 hex digits, got {document_id!r}") from None
        key = order_keys(wanted, self.seed)
        index = int(shards_of(key, len(self.shards))[0])
        ids = self.shards[index].ids
        low, high = 0, len(ids)
        target = int(key[0]), wanted.tobytes()
        while low < high:
            middle = (low + high) // 2
            row = ids[middle : middle + 1]
            if (int(order_keys(row, self.seed)[0]), row.tobytes()) < target:
                low = middle + 1
            else:
                high = middle
        return self._span(index, low) if low < len(ids) and ids[low].tobytes() == target[1] else None

    def documents(self) -> Iterator[tuple[DocumentSpan, Tokens]]:
        """Every document in order, with its tokens (end-of-text first) as a view."""
        for index, shard in enumerate(self.shards):
            for row in range(len(shard.ends)):
                span = self._span(index, row)
                start = int(self.starts[index])
                yield span, shard.tokens[span.start - start : span.end - start]

    def _span(self, index: int, row: int) -> DocumentSpan:
        shard, start = self.shards[index], int(self.starts[index])
        first = int(shard.ends[row - 1]) if row else 0
        return DocumentSpan(shard.ids[row].tobytes().hex(), start + first, start + int(shard.ends[row]))


def read_meta(directory: Path) -> dict[str, Any]:
    """meta.json of token shards, or a clear refusal."""
    path = directory / META_NAME
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{directory}: expected token shards, found no {META_NAME}; it gets written by the task TokenizeCorpus"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}; run TokenizeCorpus again") from None
    if not isinstance(meta, dict) or (meta.get("format"), meta.get("version")) != (META_FORMAT, META_VERSION):
        raise ValueError(f"{path}: expected {META_FORMAT} version {META_VERSION}; run TokenizeCorpus again")
    return meta


def open_shards(directory: Path, split: str, *, tokenizer: Path | str | None = None, verify: bool = False) -> Shards:
    """Maps the shards of `split` into memory.

    tokenizer: tokenizer.json (or its folder, or its SHA-256 in hex) that the shards must have been made with.
    verify: also hash every byte (about 1 GB/s); else lengths, headers, edges, places in the order and boundaries.
    Raises ValueError in one line for a shard that is cut, swapped, changed or of another tokenizer.
    """
    meta = read_meta(directory)
    if tokenizer is not None:
        _check_tokenizer(directory, meta, tokenizer)
    if split not in meta["splits"]:
        raise ValueError(f"{directory}: expected one of the splits {', '.join(meta['splits'])}, got {split!r}")
    infos = [ShardInfo(**shard) for shard in meta["splits"][split]["shards"]]
    return Shards(split, [_open_shard(directory, info, i, infos, meta, verify) for i, info in enumerate(infos)], meta)


def _check_tokenizer(directory: Path, meta: Mapping[str, Any], tokenizer: Path | str) -> None:
    if isinstance(tokenizer, Path):
        path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        digest = tokenizer
    if digest != meta["tokenizer_sha256"]:
        raise ValueError(
            f"{directory}: expected shards of tokenizer {digest[:12]}, got shards of {meta['tokenizer_sha256'][:12]}; "
            "run TokenizeCorpus again with this tokenizer, or train with the one that made them"
        )


def _open_shard(
    directory: Path, info: ShardInfo, index: int, infos: Sequence[ShardInfo], meta: Mapping[str, Any], verify: bool
) -> Shard:
    dtype = token_dtype(meta["vocab_size"])
    paths = {suffix: directory / f"{info.name}.{suffix}" for suffix in ("bin", "idx", "ids")}
    sizes = {
        "bin": HEADER_BYTES + info.tokens * dtype.itemsize,
        "idx": info.documents * 8,
        "ids": info.documents * 16,
    }
    for suffix, path in paths.items():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though {META_NAME} names it; run TokenizeCorpus again")
        if path.stat().st_size != sizes[suffix]:
            raise ValueError(
                f"{path}: expected {sizes[suffix]:,} bytes, got {path.stat().st_size:,}: cut or of another build; "
                "run TokenizeCorpus again"
            )
        if _edges_sha256(path) != info.edges_sha256[suffix]:
            raise ValueError(
                f"{path}: not the file that {META_NAME} describes: swapped or changed; run TokenizeCorpus again"
            )
        if verify and _file_sha256(path) != info.sha256[suffix]:
            raise ValueError(f"{path}: SHA-256 is not that of {META_NAME}: damaged; run TokenizeCorpus again")
    header = np.fromfile(paths["bin"], "<i4", 3).tolist()
    if header != [*HEADERS[dtype.name], info.tokens]:
        raise ValueError(
            f"{paths['bin']}: expected the header {[*HEADERS[dtype.name], info.tokens]}, got {header}; "
            "run TokenizeCorpus again"
        )
    shard = Shard(
        info.name,
        _map(paths["bin"], dtype, HEADER_BYTES, (info.tokens,)),
        _map(paths["idx"], np.dtype("<u8"), 0, (info.documents,)),
        _map(paths["ids"], np.dtype(np.uint8), 0, (info.documents, 16)),
    )
    _check_boundaries(shard, index, len(infos), meta)
    return shard


def _check_boundaries(shard: Shard, index: int, count: int, meta: Mapping[str, Any]) -> None:
    """That the three files belong together, and in this place: up to 64 documents are looked at."""
    if not len(shard.ends):
        if len(shard.tokens):
            raise ValueError(f"{shard.name}: tokens without documents; run TokenizeCorpus again")
        return
    rows = np.unique(np.linspace(0, len(shard.ends) - 1, 64).astype(np.int64))
    starts = np.where(rows > 0, shard.ends[np.maximum(rows - 1, 0)], 0).astype(np.int64)
    if int(shard.ends[-1]) != len(shard.tokens) or (np.diff(shard.ends[rows].astype(np.int64)) < 0).any():
        raise ValueError(f"{shard.name}.idx does not belong to {shard.name}.bin; run TokenizeCorpus again")
    if (starts >= len(shard.tokens)).any() or (shard.tokens[starts] != meta["end_of_text"]).any():
        raise ValueError(
            f"{shard.name}: a document does not start with end-of-text ({meta['end_of_text']}): .idx and .bin do not "
            "belong together; run TokenizeCorpus again"
        )
    keys = order_keys(shard.ids[rows], meta["seed"])
    if (keys[1:] < keys[:-1]).any() or (shards_of(keys, count) != index).any():
        raise ValueError(f"{shard.name}.ids: documents out of their order: swapped; run TokenizeCorpus again")


def _map(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if 0 in shape:  # an empty file cannot be mapped
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Exporters: other trainers' layouts --------------------------------------------------------------------------------

_COPY_TOKENS = 1 << 23


def export_nanogpt(shards: Shards, path: Path) -> None:
    """The split as one nanoGPT `.bin`: uint16 tokens and nothing else (karpathy/nanoGPT, data/openwebtext/prepare.py).

    Its end-of-text comes first in a document, where nanoGPT's own files have it last: between documents it is the same.
    """
    if shards.dtype.itemsize != 2:
        raise ValueError(
            f"nanoGPT reads uint16, and a vocabulary of {shards.vocab_size:,} does not fit; export another way"
        )
    with path.open("wb") as file:
        for shard in shards.shards:
            _copy_payload(shard, file)


def export_datatrove(shards: Shards, directory: Path) -> list[Path]:
    """Each shard as datatrove's NAME.ds, NAME.ds.index (uint64 end of each document) and NAME.ds.metadata.

    huggingface/datatrove, pipeline/tokens/tokenizer.py: metadata is `tokenizer|bytes per token`, the number of tokens,
    and that number for people. Read them with `DatatroveFileDataset(token_size=2 or 4)`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in shards.shards:
        target = directory / f"{shard.name}.ds"
        index, metadata = directory / f"{target.name}.index", directory / f"{target.name}.metadata"
        with target.open("wb") as file:
            _copy_payload(shard, file)
        index.write_bytes(shard.ends.astype("<u8").tobytes())
        total = len(shard.tokens)
        metadata.write_text(
            f"{shards.tokenizer_sha256[:16]}|{shards.dtype.itemsize}\n{total}\n{total:,} tokens", encoding="utf-8"
        )
        paths += [target, index, metadata]
    return paths


def export_megatron(shards: Shards, prefix: Path) -> tuple[Path, Path]:
    """The split as Megatron's PREFIX.bin and PREFIX.idx, one sequence a document.

    NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py. Token type uint16, or int32 for vocabularies above
    65,536 (the same bytes). A document that is longer than 2^31 tokens does not occur: no shard is.
    """
    data, index = prefix.with_name(prefix.name + ".bin"), prefix.with_name(prefix.name + ".idx")
    lengths = [np.diff(shard.ends.astype(np.int64), prepend=0) for shard in shards.shards]
    length = np.concatenate([np.zeros(0, np.int64), *lengths])
    with data.open("wb") as file:
        for shard in shards.shards:
            _copy_payload(shard, file)
    with index.open("wb") as file:
        file.write(b"MMIDIDX\x00\x00")
        file.write(struct.pack("<QBQQ", 1, 8 if shards.dtype.itemsize == 2 else 4, len(length), len(length) + 1))
        file.write(length.astype("<i4").tobytes())
        file.write(((np.cumsum(length) - length) * shards.dtype.itemsize).astype("<i8").tobytes())
        file.write(np.arange(len(length) + 1, dtype="<i8").tobytes())
    return data, index


def _copy_payload(shard: Shard, file: BinaryIO) -> None:
    for start in range(0, len(shard.tokens), _COPY_TOKENS):
        file.write(shard.tokens[start : start + _COPY_TOKENS].tobytes())
