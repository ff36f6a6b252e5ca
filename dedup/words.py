"""The normal form of text, and the hashes of its words and n-grams.

- A word is a run of characters of the Unicode categories L, N and M, lower-cased code point by code point (Unicode's
  simple mapping). Everything else separates: blanks, punctuation, apostrophes, underscores, symbols. Nothing is
  normalised: composed and decomposed letters stay different, as they are different bytes.
- Each character of a script written without blanks (Han, kana, Bopomofo) is a word; Korean is written with blanks.
- The table of characters is frozen (`_unicode.py`), so that hashes do not change with the Python version.
- A second form, "ascii", is the one of the GPT-2 paper's overlap table: `[a-z0-9]+` of the lower-cased text.
- Kernels read Arrow's buffers in place and release the GIL. A word's hash takes its UTF-8 eight bytes at a time, each
  by exclusive or and MurmurHash3's 64-bit finalizer (so words of up to eight bytes never collide). An n-gram's hash is
  a polynomial of its words' hashes modulo 2^64, rolled from word to word, then finalized: 64 well mixed bits, any of
  which may choose a partition.
- "Exact duplicate" means an equal XXH3-128 of the normal form: its words in UTF-8, joined by one blank.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numba as nb
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from dedup._unicode import LOWER_RUNS, WORD_RUNS

Form = Literal["unicode", "ascii"]
Short = Literal["whole", "none"]

"""Names everything a hash of this module depends on; it changes when any hash would."""

# Blocks whose characters are words of their own: written without blanks between words.
_SINGLE_BLOCKS = (
    (0x3000, 0x302D),  # CJK symbols that are letters or numbers: iteration mark, 〇, Hangzhou numerals
    (0x3030, 0x303F),
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3100, 0x312F),  # Bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),  # Katakana phonetic extensions
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x1AFF0, 0x1B16F),  # Kana extensions and supplements
    (0x20000, 0x3FFFF),  # Han, all further extensions
)

_POINT = np.uint32(0x1FFFFF)
_BREAK_BEFORE = np.uint32(1 << 30)  # a word ends before this character
_BREAK_AFTER = np.uint32(1 << 31)  # and after it

_SEED = np.uint64(0x243F6A8885A308D3)  # pi
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_GRAM_FACTOR = np.uint64(0xD1342543DE82EF93)  # = 3 mod 8: P-1 and P+1 have few factors of two, so order counts

_GROWTH = 2  # a Han character gains two separators, and a two-byte letter's lower case may have three bytes
_BATCH_BYTES = 1 << 22  # normal forms are built for this much text at a time


@lru_cache(maxsize=2)
def character_table(form: Form) -> NDArray[np.uint32]:
    """uint32[0x110000]: 0 for a separator, else the lower-cased code point, and flags: break before, break after."""
    lower = np.arange(0x110000, dtype=np.uint32)
    for run in LOWER_RUNS.split():
        span, rule = run.split("/")
        first, last = (int(point, 16) for point in span.split("-"))
        points = np.arange(first, last + 1, int(rule[0]))
        lower[points] = points + int(rule[1:])
    table = np.zeros(0x110000, np.uint32)
    if form == "unicode":
        for run in WORD_RUNS.split():
            first, last = (int(point, 16) for point in run.split("-"))
            table[first : last + 1] = lower[first : last + 1]
        for first, last in _SINGLE_BLOCKS:
            block = table[first : last + 1]
            block[block > 0] |= _BREAK_BEFORE | _BREAK_AFTER
    elif form == "ascii":
        letters = np.isin(lower, np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8))
        table[letters] = lower[letters]
        table[0x130] |= _BREAK_AFTER  # str.lower gives "i" and a combining dot, which separates
    else:
        raise ValueError(f'form: expected "unicode" or "ascii", got {form!r}; name one of the two')
    table.flags.writeable = False
    return table


# ---- kernels

_types: Any = nb.types
_BYTES = _types.Array(nb.uint8, 1, "C", readonly=True)
_INT64S = _types.Array(nb.int64, 1, "C", readonly=True)
_UINT64S = _types.Array(nb.uint64, 1, "C", readonly=True)
_TABLE = _types.Array(nb.uint32, 1, "C", readonly=True)


@nb.njit(nb.uint64(nb.uint64), cache=True, nogil=True, inline="always")
def mix64(value: Any) -> Any:
    """MurmurHash3's 64-bit finalizer: a bijection in which each input bit moves each output bit."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@nb.njit(_types.UniTuple(nb.int64, 2)(_BYTES, nb.int64, nb.int64), cache=True, nogil=True)
def _decode(data: Any, i: Any, end: Any) -> Any:
    """(code point, position after it) of the non-ASCII character at i; a byte that is not UTF-8 gives (0, i + 1)."""
    lead = np.int64(data[i])
    if lead >= 0xC2 and lead < 0xE0 and i + 1 < end:
        return ((lead & 0x1F) << 6) | (np.int64(data[i + 1]) & 0x3F), i + 2
    if lead >= 0xE0 and lead < 0xF0 and i + 2 < end:
        return ((lead & 0x0F) << 12) | ((np.int64(data[i + 1]) & 0x3F) << 6) | (np.int64(data[i + 2]) & 0x3F), i + 3
    if lead >= 0xF0 and lead < 0xF5 and i + 3 < end:
        point = ((lead & 0x07) << 18) | ((np.int64(data[i + 1]) & 0x3F) << 12)
        point |= ((np.int64(data[i + 2]) & 0x3F) << 6) | (np.int64(data[i + 3]) & 0x3F)
        if point < 0x110000:
            return point, i + 4
    return np.int64(0), i + 1


@nb.njit(nb.uint8(_BYTES, nb.uint8[::1]), cache=True, nogil=True)
def _lower_ascii(source: Any, out: Any) -> Any:
    """Writes ASCII text lower-cased, 0 for separators; returns the or of all bytes. Arithmetic only: it vectorises."""
    high = np.uint8(0)
    for i in range(source.size):
        byte = source[i]
        high |= byte
        folded = byte | np.uint8(0x20)
        is_letter = np.uint8(folded - np.uint8(97)) < np.uint8(26)
        is_digit = np.uint8(byte - np.uint8(48)) < np.uint8(10)
        out[i] = np.uint8(folded * is_letter | byte * is_digit)
    return high


@nb.njit(_types.UniTuple(nb.int64, 2)(_BYTES, nb.int64, nb.int64, nb.int64, _TABLE, nb.uint8[::1], nb.int64),
         cache=True, nogil=True)  # fmt: skip
def _lower_any(data: Any, i: Any, stop: Any, end: Any, table: Any, out: Any, at: Any) -> Any:
    """Writes the lower-cased UTF-8 of the characters that start in [i, stop); returns the two positions after them."""
    while i < stop:
        byte = data[i]
        if byte < 0x80:
            out[at] = table[byte]
            at += 1
            i += 1
            continue
        point, i = _decode(data, i, end)
        entry = table[point]
        if entry == 0 or entry & _BREAK_BEFORE:
            out[at] = 0
            at += 1
        point = np.int64(entry & _POINT)
        if point == 0:
            continue
        if point < 0x80:
            out[at] = point
            at += 1
        elif point < 0x800:
            out[at] = 0xC0 | (point >> 6)
            out[at + 1] = 0x80 | (point & 0x3F)
            at += 2
        elif point < 0x10000:
            out[at] = 0xE0 | (point >> 12)
            out[at + 1] = 0x80 | ((point >> 6) & 0x3F)
            out[at + 2] = 0x80 | (point & 0x3F)
            at += 3
        else:
            out[at] = 0xF0 | (point >> 18)
            out[at + 1] = 0x80 | ((point >> 12) & 0x3F)
            out[at + 2] = 0x80 | ((point >> 6) & 0x3F)
            out[at + 3] = 0x80 | (point & 0x3F)
            at += 4
        if entry & _BREAK_AFTER:
            out[at] = 0
            at += 1
    return i, at


@nb.njit(nb.int64(_BYTES, nb.int64, nb.int64, _TABLE, nb.uint8[::1]), cache=True, nogil=True)
def _lower(data: Any, i: Any, end: Any, table: Any, out: Any) -> Any:
    """Writes data[i:end] lower-cased, with zeros where words are separated; returns the number of bytes written."""
    at = np.int64(0)
    while i < end:
        stop = min(i + 256, end)
        if _lower_ascii(data[i:stop], out[at:]) < 0x80:
            at += stop - i
            i = stop
        else:
            i, at = _lower_any(data, i, stop, end, table, out, at)
    return at


@nb.njit(nb.int64(nb.uint8[::1], nb.int64, nb.uint32[::1]), cache=True, nogil=True)
def _word_bounds(lowered: Any, size: Any, bounds: Any) -> Any:
    """Fills bounds with the start and the end of each word, without a branch; returns the number of words."""
    found = np.int64(0)
    before = np.int64(0)
    for i in range(size):
        inside = np.int64(lowered[i] != 0)
        bounds[found] = i
        found += inside ^ before
        before = inside
    bounds[found] = size
    return (found + before) >> 1


@nb.njit(nb.int64(_BYTES, _INT64S, _INT64S, _TABLE, nb.uint64[::1], nb.uint8[::1], nb.uint32[::1], nb.uint64[::1],
                  nb.int64[::1]), cache=True, nogil=True)  # fmt: skip
def _hash_words(
    data: Any, starts: Any, ends: Any, table: Any, packed: Any, lowered: Any, bounds: Any, hashes: Any, offsets: Any
) -> Any:
    """Fills hashes and offsets; returns the number of words. `lowered` is the bytes of `packed`."""
    total = np.int64(0)
    for document in range(starts.size):
        offsets[document] = total
        size = _lower(data, starts[document], ends[document], table, lowered)
        words = _word_bounds(lowered, size, bounds)
        for word in range(words):
            start = np.int64(bounds[2 * word])
            left = np.int64(bounds[2 * word + 1]) - start
            state = _SEED
            while True:
                at = start >> 3  # eight bytes from any position, out of two aligned reads
                shift = np.uint64((start & 7) << 3)
                piece = (packed[at] >> shift) | ((packed[at + 1] << np.uint64(1)) << (np.uint64(63) - shift))
                if left <= 8:
                    hashes[total + word] = mix64(state ^ (piece & (_ONES >> np.uint64(64 - 8 * left))))
                    break
                state = mix64(state ^ piece)
                start += 8
                left -= 8
        total += words
    offsets[starts.size] = total
    return total


@nb.njit(nb.int64(_BYTES, _INT64S, _INT64S, _TABLE, nb.uint8[::1], nb.uint8[::1], nb.int64[::1]),
         cache=True, nogil=True)  # fmt: skip
def _normalise(data: Any, starts: Any, ends: Any, table: Any, lowered: Any, out: Any, offsets: Any) -> Any:
    """Fills out with the normal forms and offsets with their ends; returns the number of bytes."""
    at = np.int64(0)
    for document in range(starts.size):
        offsets[document] = at
        first = at
        size = _lower(data, starts[document], ends[document], table, lowered)
        before = np.uint8(0)
        for i in range(size):
            byte = lowered[i]
            out[at] = byte | np.uint8(0x20) * (byte == 0)
            at += (byte | before) != 0
            before = byte
        if at > first and before == 0:
            at -= 1  # the blank after the last word
    offsets[starts.size] = at
    return at


@nb.njit(nb.int64(_UINT64S, _INT64S, nb.int64, nb.boolean, nb.uint64[::1], nb.int64[::1]), cache=True, nogil=True)
def _hash_ngrams(words: Any, offsets: Any, n: Any, whole: Any, out: Any, out_offsets: Any) -> Any:
    """Fills out and out_offsets; returns the number of n-grams."""
    leaving = np.uint64(1)  # P^n: what the word that leaves has been multiplied by
    for _ in range(n):
        leaving *= _GRAM_FACTOR
    grams = 0
    for document in range(offsets.size - 1):
        out_offsets[document] = grams
        first = offsets[document]
        end = offsets[document + 1]
        state = np.uint64(0)
        for i in range(first, min(first + n, end)):
            state = state * _GRAM_FACTOR + words[i]
        if end - first >= n or (whole and end > first):
            out[grams] = mix64(state)
            grams += 1
        for i in range(first + n, end):
            state = state * _GRAM_FACTOR + words[i] - words[i - n] * leaving
            out[grams] = mix64(state)
            grams += 1
    out_offsets[offsets.size - 1] = grams
    return grams


@nb.njit([nb.void(_types.Array(t, 1, "C", readonly=True), nb.uint64[::1]) for t in (nb.uint16, nb.uint32)],
         cache=True, nogil=True)  # fmt: skip
def _hash_tokens(ids: Any, out: Any) -> None:
    for i in range(ids.size):
        out[i] = mix64(_SEED ^ np.uint64(ids[i]))


# ---- Arrow in, numpy out


Buffers = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""UTF-8 bytes, and the start and the end of each text in them."""


def string_buffers(texts: Any) -> Iterator[Buffers]:
    """(UTF-8 bytes, starts, ends) of each chunk of an Arrow string or large_string array, without copying its bytes.

    Slices and offsets are respected, and a null is an empty text.
    """
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise ValueError(f"texts: expected an Arrow string or large_string array, got {texts.type}; cast it")
    for chunk in chunks:
        width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        validity, offsets_buffer, data_buffer = chunk.buffers()
        if len(chunk) == 0 or offsets_buffer is None:
            yield np.zeros(0, np.uint8), np.zeros(len(chunk), np.int64), np.zeros(len(chunk), np.int64)
            continue
        offsets = np.frombuffer(offsets_buffer, width)[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
        starts, ends = offsets[:-1], offsets[1:]
        if validity is not None and chunk.null_count:
            ends = np.where(np.asarray(chunk.is_valid()), ends, starts)
        data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
        yield data, starts, ends


def _scratch(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Room for the lower-cased bytes of the longest text, and for the bounds of its words."""
    longest = int((ends - starts).max(initial=0))
    return np.empty(_GROWTH * longest // 8 + 2, np.uint64), np.empty(_GROWTH * longest + 2, np.uint32)


def text_batches(texts: Any, batch_bytes: int) -> Iterator[Buffers]:
    """`string_buffers`, cut where a batch would pass `batch_bytes`; a longer text is a batch of its own."""
    for data, starts, ends in string_buffers(texts):
        total = np.cumsum(ends - starts)
        first = 0
        while first < starts.size:
            done = int(total[first - 1]) if first else 0
            last = max(int(np.searchsorted(total, done + batch_bytes, "right")), first + 1)
            yield data, starts[first:last], ends[first:last]
            first = last


def hash_batch(batch: Buffers, form: Form = "unicode") -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """`hash_words` of one batch of buffers."""
    data, starts, ends = batch
    packed, bounds = _scratch(starts, ends)
    size = int((ends - starts).sum())
    hashes = np.empty((size + starts.size) // 2 + 1, np.uint64)  # a word takes two bytes, but for a text's last one
    offsets = np.empty(starts.size + 1, np.int64)
    table = character_table(form)
    words = _hash_words(data, starts, ends, table, packed, packed.view(np.uint8), bounds, hashes, offsets)
    return hashes[:words], offsets


def hash_words(texts: Any, form: Form = "unicode") -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(hashes uint64[words], offsets int64[n + 1]): text i has the words hashes[offsets[i]:offsets[i + 1]].

    `texts` is an Arrow string or large_string array, chunked or not; a null is an empty text.
    """
    character_table(form)  # a wrong name is refused even where there is no text
    parts, offset_parts, words = [], [np.zeros(1, np.int64)], 0
    for batch in string_buffers(texts):
        hashes, offsets = hash_batch(batch, form)
        parts.append(hashes)
        offset_parts.append(offsets[1:] + words)
        words += hashes.size
    hashes = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.uint64), *parts])
    return hashes, np.concatenate(offset_parts)


def hash_tokens(ids: NDArray[Any]) -> NDArray[np.uint64]:
    """uint64[...]: the hash of each token id (uint16 or uint32), for `ngram_hashes` to combine as if it were a word."""
    if ids.dtype not in (np.uint16, np.uint32):
        raise ValueError(f"ids: expected token ids as uint16 or uint32, got {ids.dtype}; cast them")
    out = np.empty(ids.size, np.uint64)
    _hash_tokens(np.ascontiguousarray(ids).reshape(-1), out)
    return out.reshape(ids.shape)


def ngram_hashes(
    hashes: NDArray[np.uint64], offsets: NDArray[np.int64], n: int, *, short: Short = "none"
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(n-gram hashes uint64[grams], offsets int64[documents + 1]), in text order, with repeats, within documents only.

    A document of fewer than `n` words has no n-gram with short="none", and one (all its words) with short="whole";
    a document without words has none.
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 word, got {n}; 5 is usual for MinHash and 8 for overlap")
    if short not in ("whole", "none"):
        raise ValueError(f'short: expected "whole" or "none", got {short!r}; name one of the two')
    lengths = np.diff(offsets)
    grams = np.maximum(lengths - (n - 1), 0)
    if short == "whole":
        grams = np.maximum(grams, lengths > 0)
    out = np.empty(int(grams.sum()), np.uint64)
    out_offsets = np.empty(offsets.size, np.int64)
    _hash_ngrams(hashes, np.ascontiguousarray(offsets, np.int64), n, short == "whole", out, out_offsets)
    return out, out_offsets


def normal_forms(texts: Any, form: Form) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """(bytes, offsets) of the normal forms of successive batches of texts."""
    table = character_table(form)
    for data, starts, ends in text_batches(texts, _BATCH_BYTES):
        packed, _ = _scratch(starts, ends)
        out = np.empty(_GROWTH * int((ends - starts).sum()) + 1, np.uint8)
        offsets = np.empty(starts.size + 1, np.int64)
        _normalise(data, starts, ends, table, packed.view(np.uint8), out, offsets)
        yield out, offsets


def normal_form(text: str, form: Form = "unicode") -> str:
    """The words of one text, joined by one blank.

    >>> normal_form("It's the İstanbul_Review: 日本語, №5!")
    'it s the istanbul review 日 本 語 5'
    >>> normal_form("It's <unk>, naïve", "ascii")
    'it s unk na ve'
    """
    (out, offsets), *_ = normal_forms(pa.array([text], pa.large_string()), form)
    return bytes(out[: offsets[1]]).decode()


def exact_hash(texts: Any, form: Form = "unicode") -> NDArray[np.uint8]:
    """uint8[n, 16]: XXH3-128 (big-endian) of each text's normal form. Equal hashes are what "exact duplicate" means."""
    digests = []
    for out, offsets in normal_forms(texts, form):
        view = out.data
        bounds = offsets.tolist()
        digests.append(b"".join([xxhash.xxh3_128_digest(view[a:b]) for a, b in pairwise(bounds)]))
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
