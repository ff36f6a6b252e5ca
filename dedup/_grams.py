"""Kernels of dedup.overlap: finding a fixed set of n-gram hashes in a stream of them, and words in a text."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dedup.words import _BREAK_AFTER, _BREAK_BEFORE, Form, _decode, character_table, string_buffers

Hashes = NDArray[np.uint64]

_types: Any = nb.types
_BYTES = _types.Array(nb.uint8, 1, "C", readonly=True)
_INT64S = _types.Array(nb.int64, 1, "C", readonly=True)
_UINT64S = _types.Array(nb.uint64, 1, "C", readonly=True)
_TABLE = _types.Array(nb.uint32, 1, "C", readonly=True)
_INT32S = _types.Array(nb.int32, 1, "C", readonly=True)


@nb.njit(nb.void(_UINT64S, nb.uint64, nb.uint64, nb.uint64[::1], nb.int32[::1], nb.uint64[::1]), cache=True, nogil=True)
def _fill_table(grams: Any, slot_shift: Any, bit_shift: Any, keys: Any, values: Any, bitmap: Any) -> None:
    """An open-addressing table of distinct `grams` -> their index, placed by their top bits; and a bitmap of these."""
    mask = np.uint64(keys.size - 1)
    for index in range(grams.size):
        gram = grams[index]
        bit = gram >> bit_shift
        bitmap[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
        slot = gram >> slot_shift
        while values[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        keys[slot] = gram
        values[slot] = index


@nb.njit(
    nb.int64(_UINT64S, nb.uint64, nb.uint64, _UINT64S, _INT32S, _UINT64S, nb.int32[::1], nb.int64[::1]),
    cache=True,
    nogil=True,
)
def _probe(
    hashes: Any, slot_shift: Any, bit_shift: Any, keys: Any, values: Any, bitmap: Any, grams: Any, at: Any
) -> Any:
    """grams[k], at[k] = index of the k-th hash that is in the table, and its position; returns how many are."""
    mask = np.uint64(keys.size - 1)
    hits = 0
    for position in range(hashes.size):
        gram = hashes[position]
        bit = gram >> bit_shift
        if (bitmap[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
            slot = gram >> slot_shift
            while values[slot] >= 0:
                if keys[slot] == gram:
                    grams[hits] = values[slot]
                    at[hits] = position
                    hits += 1
                    break
                slot = (slot + np.uint64(1)) & mask
    return hits


@nb.njit(nb.int64(_BYTES, nb.int64, nb.int64, _TABLE, nb.int64[::1], nb.int64[::1]), cache=True, nogil=True)
def _spans(data: Any, start: Any, end: Any, table: Any, starts: Any, ends: Any) -> Any:
    """Byte positions [starts[w], ends[w]) of word w of data[start:end]; returns the number of words."""
    words = 0
    i = start
    inside = False
    while i < end:
        at = i
        byte = data[i]
        if byte < 0x80:
            entry = table[byte]
            i += 1
        else:
            point, i = _decode(data, i, end)
            entry = table[point]
        if entry == 0:
            inside = False
            continue
        if not inside or entry & _BREAK_BEFORE:
            starts[words] = at - start
            words += 1
        ends[words - 1] = i - start
        inside = entry & _BREAK_AFTER == 0
    return words


def word_spans(text: str, form: Form = "unicode") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(starts, ends): the UTF-8 byte positions of each word of `text`; word w is the one that `hash_words` hashes."""
    ((data, starts, ends),) = string_buffers(pa.array([text], pa.large_string()))
    size = int(ends[0] - starts[0]) + 1
    first, last = np.empty(size, np.int64), np.empty(size, np.int64)
    words = _spans(data, starts[0], ends[0], character_table(form), first, last)
    return first[:words], last[:words]


class GramTable:
    """Distinct 64-bit n-gram hashes, and a fast way to find them in a stream. Memory: 34 to 60 bytes for each."""

    def __init__(self, grams: Hashes) -> None:
        self.grams = grams  # sorted, distinct
        bits = max(4, int(2 * max(len(grams), 1) - 1).bit_length())
        self._slot_shift = 64 - bits
        self._bit_shift = 64 - (bits + 3)
        self._keys = np.zeros(1 << bits, np.uint64)
        self._values = np.full(1 << bits, -1, np.int32)
        self._bitmap = np.zeros(1 << max(0, bits + 3 - 6), np.uint64)
        _fill_table(grams, self._slot_shift, self._bit_shift, self._keys, self._values, self._bitmap)

    def __reduce__(self) -> tuple[type[GramTable], tuple[Hashes]]:
        return GramTable, (self.grams,)  # making the table takes less time than sending it to a worker

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(index into `grams`, position in `hashes`) of every hash that is in the table, in the order of `hashes`."""
        grams, at = np.empty(len(hashes), np.int32), np.empty(len(hashes), np.int64)
        hits = _probe(hashes, self._slot_shift, self._bit_shift, self._keys, self._values, self._bitmap, grams, at)
        return grams[:hits].copy(), at[:hits].copy()

    def index(self, hashes: Hashes) -> NDArray[np.int32]:
        """int32[...]: the index of each hash, all of which are in the table."""
        return self.find(hashes)[0]
