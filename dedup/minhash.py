"""MinHash signatures: what a text's set of shingles looks like under many random orders.

- A shingle is `ngram` successive words (dedup.words, "unicode" form); a text of fewer words is one shingle, and a text
  without words has none: its signature is all ones, like an empty `datasketch.MinHash`.
- Signatures are bit-identical with `datasketch.MinHash(scheme="affine32")` fed the low 32 bits of the shingles' hashes:
  MurmurHash3's 32-bit finalizer once, then `a * hash + b` modulo 2^32 for each permutation, `a` and `b` from NumPy's
  RandomState(seed). So a row can go into datasketch's LSH and come back (`to_datasketch`).
- Bands and rows are a way to look at a signature, not a part of it: another threshold needs no new signatures as long
  as bands x rows (the number of permutations) stays.
- Words are hashed once and combined rolling; the minimum is taken eight shingles at a time, so that the compiler keeps
  each permutation's constants in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dedup.settings import MinHashSettings
from dedup.words import Buffers, exact_hash, hash_batch, ngram_hashes, text_batches


@lru_cache(maxsize=8)
def permutation_constants(permutations: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(a, b), uint32[permutations] each, `a` odd: the constants that datasketch draws for affine32."""
    random = np.random.RandomState(seed)
    a = random.randint(0, 1 << 31, permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = random.randint(0, 1 << 32, permutations, dtype=np.uint32)
    return a, b


# ---- kernel

_types: Any = nb.types
_UINT64S = _types.Array(nb.uint64, 1, "C", readonly=True)
_UINT32S = _types.Array(nb.uint32, 1, "C", readonly=True)
_INT64S = _types.Array(nb.int64, 1, "C", readonly=True)


@nb.njit(nb.void(_UINT64S, nb.uint32[::1]), cache=True, nogil=True)
def _mix32(hashes: Any, out: Any) -> None:
    """MurmurHash3's 32-bit finalizer of the low 32 bits."""
    for i in range(hashes.size):
        value = np.uint32(hashes[i])
        value ^= value >> np.uint32(16)
        value = np.uint32(value * np.uint32(0x85EBCA6B))
        value ^= value >> np.uint32(13)
        value = np.uint32(value * np.uint32(0xC2B2AE35))
        value ^= value >> np.uint32(16)
        out[i] = value


@nb.njit(nb.void(_UINT64S, _INT64S, _UINT32S, _UINT32S, nb.uint32[:, ::1]), cache=True, nogil=True)
def _sign(shingles: Any, offsets: Any, a: Any, b: Any, out: Any) -> None:
    """out[d, p] = the least a[p] * mix32(shingle) + b[p] over the shingles of document d."""
    mixed = np.empty(shingles.size, np.uint32)
    _mix32(shingles, mixed)
    least = np.empty(a.size, np.uint32)
    for document in range(offsets.size - 1):
        least[:] = np.uint32(0xFFFFFFFF)
        i = offsets[document]
        end = offsets[document + 1]
        while i + 8 <= end:
            x0, x1, x2, x3 = mixed[i], mixed[i + 1], mixed[i + 2], mixed[i + 3]
            x4, x5, x6, x7 = mixed[i + 4], mixed[i + 5], mixed[i + 6], mixed[i + 7]
            for p in range(a.size):
                m = a[p]
                c = b[p]
                v0 = min(np.uint32(m * x0 + c), np.uint32(m * x1 + c))
                v1 = min(np.uint32(m * x2 + c), np.uint32(m * x3 + c))
                v2 = min(np.uint32(m * x4 + c), np.uint32(m * x5 + c))
                v3 = min(np.uint32(m * x6 + c), np.uint32(m * x7 + c))
                least[p] = min(least[p], min(min(v0, v1), min(v2, v3)))
            i += 8
        while i < end:
            x0 = mixed[i]
            for p in range(a.size):
                least[p] = min(least[p], np.uint32(a[p] * x0 + b[p]))
            i += 1
        out[document, :] = least


# ---- signing

_BATCH_ROWS = 16384
_BATCH_BYTES = 1 << 20  # words and shingles of this much text stay in the cache


def sign(texts: Any, settings: MinHashSettings) -> NDArray[np.uint32]:
    """uint32[n, permutations]: the signature of each text of an Arrow string or large_string array."""
    return _sign_texts(texts, settings)[0]


def _sign_texts(texts: Any, settings: MinHashSettings) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(signatures uint32[n, permutations], number of words uint32[n])."""
    a, b = permutation_constants(settings.permutations, settings.seed)
    signatures = np.empty((len(texts), settings.permutations), np.uint32)
    num_words = np.empty(len(texts), np.uint32)
    at = 0
    for batch in text_batches(texts, _BATCH_BYTES):
        size = batch[1].size
        hashes, offsets = hash_batch(batch)
        num_words[at : at + size] = np.diff(offsets)
        _sign(*ngram_hashes(hashes, offsets, settings.ngram, short="whole"), a, b, signatures[at : at + size])
        at += size
    return signatures, num_words


def shingle_hashes(texts: Any, settings: MinHashSettings) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(64-bit shingle hashes with repeats, offsets int64[n + 1]) of the texts: what signatures are signatures of."""
    parts, offset_parts, total = [np.zeros(0, np.uint64)], [np.zeros(1, np.int64)], 0
    for batch in text_batches(texts, _BATCH_BYTES):
        shingles, offsets = _batch_shingles(batch, settings)
        parts.append(shingles)
        offset_parts.append(offsets[1:] + total)
        total += shingles.size
    return np.concatenate(parts), np.concatenate(offset_parts)


def _batch_shingles(batch: Buffers, settings: MinHashSettings) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    return ngram_hashes(*hash_batch(batch), settings.ngram, short="whole")


def to_datasketch(signature: NDArray[np.uint32], settings: MinHashSettings) -> Any:
    """The `datasketch.MinHash` with this signature: it can be updated, merged and put into datasketch's LSH.

    Its `hashvalues` are the way back.
    """
    from datasketch import MinHash

    return MinHash(hashvalues=signature, seed=settings.seed, scheme="affine32")


# ---- tables and files


def ids_to_bytes(ids: Any) -> NDArray[np.uint8]:
    """uint8[n, 16] of ids given as 32 hexadecimal digits each (an Arrow string array or a sequence of str)."""
    text = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(list(ids), pa.string())
    joined = "".join(text.to_pylist()) if text.null_count == 0 else ""
    try:
        raw = np.frombuffer(bytes.fromhex(joined), np.uint8)
    except ValueError:
        raw = np.zeros(0, np.uint8)
    if raw.size != 16 * len(text) or len(joined) != 32 * len(text) or not _all_of_length_32(text):
        raise ValueError("ids: expected 32 hexadecimal digits each, got something else; give webtext.records ids")
    return raw.reshape(-1, 16)


def _all_of_length_32(text: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.equal(pc.binary_length(text), 32)).as_py() in (True, None))


def ids_to_hex(ids: NDArray[np.uint8]) -> Any:
    """Arrow string array of ids given as uint8[n, 16]."""
    digits = np.ascontiguousarray(ids).tobytes().hex().encode()
    offsets = np.arange(0, len(digits) + 1, 32, dtype=np.int32 if len(digits) < 2**31 else np.int64)
    kind = pa.StringArray if offsets.dtype == np.int32 else pa.LargeStringArray
    return kind.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits))


def binary16(values: NDArray[np.uint8]) -> Any:
    """Arrow fixed_size_binary(16) array of uint8[n, 16], without copying."""
    return pa.Array.from_buffers(pa.binary(16), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def signature_schema(settings: MinHashSettings) -> Any:
    """The schema of signature tables; its metadata names the scheme."""
    return pa.schema(
        [
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("exact", pa.binary(16), nullable=False),  # dedup.words.exact_hash
            pa.field("num_words", pa.uint32(), nullable=False),
            pa.field(
                "signature",
                pa.list_(pa.field("item", pa.uint32(), nullable=False), settings.permutations),
                nullable=False,
            ),
        ],
        metadata={"scheme": settings.scheme},
    )


def signature_table(ids: Any, texts: Any, settings: MinHashSettings) -> Any:
    """The signatures of one segment: id, exact hash, number of words and signature, in the order given.

    `ids` are 32 hexadecimal digits each, `texts` an Arrow string or large_string array of the same length.
    """
    if len(ids) != len(texts):
        raise ValueError(f"ids: expected one for each of {len(texts)} texts, got {len(ids)}; pass columns of one table")
    signatures, num_words = _sign_texts(texts, settings)
    schema = signature_schema(settings)
    columns = [
        binary16(ids_to_bytes(ids)),
        binary16(exact_hash(texts)),
        pa.array(num_words),
        pa.FixedSizeListArray.from_arrays(pa.array(signatures.reshape(-1)), type=schema.field("signature").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_signatures(path: Path, table: Any) -> None:
    """Writes a signature table as an uncompressed Arrow file, in batches of 8 MB, which can be memory-mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS):
            writer.write_batch(batch)


def read_signatures(path: Path, settings: MinHashSettings | None = None) -> Any:
    """The signature table in a file, memory-mapped: nothing is read until it is looked at.

    With `settings`, a file of another scheme is refused: its values mean something else.
    """
    return _open_signatures(pa.memory_map(str(path)), path, settings).read_all()


def read_signature_batches(path: Path, settings: MinHashSettings, *, values: bool = True) -> Iterator[SignatureBatch]:
    """The batches of a signature file, read one by one rather than mapped; without `values`, not the signatures."""
    with pa.OSFile(str(path)) as source:
        reader = _open_signatures(source, path, settings, None if values else [0, 1, 2])
        for index in range(reader.num_record_batches):
            yield from signature_arrays(reader.get_batch(index))


def _open_signatures(source: Any, path: Path, settings: MinHashSettings | None, fields: list[int] | None = None) -> Any:
    try:
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a signature file, got {error}; sign its segment again") from error
    scheme = (reader.schema.metadata or {}).get(b"scheme", b"none").decode()
    if settings is not None and scheme != settings.scheme:
        raise ValueError(f'{path}: expected signatures "{settings.scheme}", got "{scheme}"; sign its segment again')
    return reader


def signature_arrays(table: Any) -> list[SignatureBatch]:
    """The columns of a signature table (or of one of its batches) as arrays, batch by batch, without copying."""
    arrays = []
    for batch in table.to_batches() if isinstance(table, pa.Table) else [table]:
        if len(batch):
            ids, exact, num_words = (batch.column(name) for name in ("id", "exact", "num_words"))
            values = np.zeros((0, 0), np.uint32)
            if "signature" in batch.schema.names:
                values = np.asarray(batch.column("signature").flatten()).reshape(len(batch), -1)
            arrays.append(SignatureBatch(_bytes_of(ids), _bytes_of(exact), np.asarray(num_words), values))
    return arrays


class SignatureBatch(NamedTuple):
    """ids uint8[n, 16], exact hashes uint8[n, 16], num_words uint32[n], signatures uint32[n, permutations]."""

    ids: NDArray[np.uint8]
    exact: NDArray[np.uint8]
    num_words: NDArray[np.uint32]
    signatures: NDArray[np.uint32]


def _bytes_of(array: Any) -> NDArray[np.uint8]:
    return np.frombuffer(array.buffers()[1], np.uint8)[16 * array.offset : 16 * (array.offset + len(array))].reshape(
        -1, 16
    )
