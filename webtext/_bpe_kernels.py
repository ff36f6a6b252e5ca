"""The hot loops of counting: text to pieces, pieces to a hash table. Compiled on import, cached on disk.

The slow, readable twin is the pattern itself, in tests/webtext/test_bpe.py. webtext.bpe lays out the arrays.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int32, int64, njit, types, uint8, uint64, void

OTHER, SPACE = 0, 3  # letters are 1, numbers 2
SPACE_REST = 4  # a later byte of a white space of several bytes

# Slots of the state array of a counting table.
USED, LONG, ARENA, NEXT = 0, 1, 2, 3

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_HIGH_BITS = np.uint64(0x8080808080808080)
_INLINE = 7  # bytes of a piece that fit its key

# Arrow's buffers are read-only; what is writable may be given too.
_BYTES = types.Array(uint8, 1, "C", readonly=True)
_OFFSETS = types.Array(int64, 1, "C", readonly=True)
_COUNTS = types.Array(uint64, 1, "C", readonly=True)
_TABLE = (
    uint64[:, ::1],
    int64,
    int32[::1],
    int64[::1],
    uint8[::1],
    int64[::1],
)  # table, shift, longs, starts, arena, state


@njit(inline="always")
def _word(data, i):  # type: ignore[no-untyped-def]
    """The 8 bytes at `i` as one number, the first byte highest: written so that it becomes one load."""
    at = np.uint64(i)
    return (
        (np.uint64(data[at]) << np.uint64(56))
        | (np.uint64(data[at + np.uint64(1)]) << np.uint64(48))
        | (np.uint64(data[at + np.uint64(2)]) << np.uint64(40))
        | (np.uint64(data[at + np.uint64(3)]) << np.uint64(32))
        | (np.uint64(data[at + np.uint64(4)]) << np.uint64(24))
        | (np.uint64(data[at + np.uint64(5)]) << np.uint64(16))
        | (np.uint64(data[at + np.uint64(6)]) << np.uint64(8))
        | np.uint64(data[at + np.uint64(7)])
    )


@njit(int64(_BYTES, _OFFSETS, int64, int64, _BYTES, uint8[::1], uint8[::1], int64[::1]), cache=True, nogil=True)
def split_texts(data, offsets, first, last, categories, kinds, flags, bounds):  # type: ignore[no-untyped-def]
    """Writes the start of every piece of texts [first, last) to `bounds`, and the end of the last; returns how many
    pieces. Scratch: kinds[n + 2], flags[n + 1] for the longest text; bounds[bytes + 1] for all.

    Whether a piece starts at a byte is seen from it, the one before and the one after, so it is computed for all bytes
    without a branch, and the contractions are put right afterwards: branches that depend on text are what costs.
    One function on purpose: passing arrays to another costs more than the work on a piece.
    """
    pieces = np.int64(0)
    bounds[0] = offsets[first]
    for row in range(first, last):
        begin = offsets[row]
        end = offsets[row + 1]
        n = end - begin
        if n <= 0:
            continue
        text = data[begin:end]

        # The category of the character that each byte belongs to. A cut or stray byte is one character, other.
        kinds[0] = SPACE
        kinds[n + 1] = SPACE  # at the end, a run of white space is one piece
        wide_spaces = False
        i = 0
        while i < n:
            if i + 8 <= n and _word(text, i) & _HIGH_BITS == 0:
                for k in range(8):
                    kinds[i + 1 + k] = categories[text[i + k]]
                i += 8
                continue
            lead = np.int64(text[i])
            width = 1
            point = lead if lead < 0x80 else np.int64(-1)
            if lead >= 0xF0:
                if i + 4 <= n:
                    width = 4
                    point = (
                        ((lead & 0x07) << 18)
                        | ((np.int64(text[i + 1]) & 0x3F) << 12)
                        | ((np.int64(text[i + 2]) & 0x3F) << 6)
                        | (np.int64(text[i + 3]) & 0x3F)
                    )
            elif lead >= 0xE0:
                if i + 3 <= n:
                    width = 3
                    point = (
                        ((lead & 0x0F) << 12) | ((np.int64(text[i + 1]) & 0x3F) << 6) | (np.int64(text[i + 2]) & 0x3F)
                    )
            elif lead >= 0xC0 and i + 2 <= n:
                width = 2
                point = ((lead & 0x1F) << 6) | (np.int64(text[i + 1]) & 0x3F)
            kind = np.uint8(OTHER)
            if 0 <= point < 0x110000:
                kind = categories[point]
            kinds[i + 1] = kind
            if width > 1 and kind == SPACE:
                wide_spaces = True
                kind = np.uint8(SPACE_REST)
            for k in range(1, width):
                kinds[i + 1 + k] = kind
            i += width

        # Where pieces start.
        flags[0] = 1
        starts, before, here, after = flags[1:n], kinds[1:n], kinds[2 : n + 1], kinds[3 : n + 2]
        for k in range(n - 1):  # of byte k + 1
            in_spaces = np.uint8(before[k] < SPACE) | np.uint8(after[k] < SPACE)  # the first, or the last before others
            after_space = np.uint8(text[k] != 0x20)  # U+0020 goes with what follows
            change = np.uint8(before[k] != here[k])
            otherwise = after_space if before[k] >= SPACE else change
            starts[k] = in_spaces if here[k] >= SPACE else otherwise
        if wide_spaces:  # white space of several bytes: U+00A0, U+3000 and others
            for k in range(n):
                if kinds[k + 1] == SPACE_REST:
                    flags[k] = 0
                elif kinds[k + 1] == SPACE and kinds[k + 2] == SPACE_REST and k > 0 and kinds[k] >= SPACE:
                    behind = k + 2
                    while kinds[behind] == SPACE_REST:
                        behind += 1
                    flags[k] = np.uint8(kinds[behind] < SPACE)

        # Their list.
        first_piece = pieces
        for at in range(n):
            bounds[pieces] = begin + at
            pieces += np.int64(flags[at])
        bounds[pieces] = end

        # Contractions: 's 't 'm 'd 're 've 'll, split so far into an apostrophe and letters.
        out = first_piece
        following = first_piece
        while following < pieces:
            start = bounds[following]
            bounds[out] = start
            out += 1
            following += 1
            if data[start] != 0x27 or following == pieces or bounds[following] != start + 1:
                continue
            second = data[start + 1]
            third = data[start + 2] if start + 2 < end else np.uint8(0)
            width = 0
            if second == 0x73 or second == 0x74 or second == 0x6D or second == 0x64:
                width = 2
            elif (third == 0x65 and (second == 0x72 or second == 0x76)) or (third == 0x6C and second == 0x6C):
                width = 3
            if width:
                if bounds[following + 1] == start + width:
                    following += 1  # the letters are the contraction's, whole
                else:
                    bounds[following] = start + width
        pieces = out
        bounds[pieces] = end
    return pieces


@njit(boolean(_BYTES, _OFFSETS, int64, _COUNTS, *_TABLE), cache=True, nogil=True)
def add_pieces(data, bounds, pieces, weights, table, shift, longs, starts, arena, state):  # type: ignore[no-untyped-def]
    """Adds the pieces data[bounds[i]:bounds[i + 1]] from i = state[NEXT] on, each as often as weights[i] (once, where
    there are no weights). False where the table or its arena is full: make room, call again.

    The table is [slots, 2] of (key, count). The key of a piece of up to 7 bytes is its bytes, left-aligned, and their
    number: equal keys are equal pieces, and keys sort as bytes do. That of a longer one is a hash with the low byte
    0xFF; it also has a number, longs[slot], and its bytes are arena[starts[number]:starts[number + 1]].
    """
    limit = len(table) // 2
    mask = len(table) - 1
    used = state[USED]
    number = state[LONG]
    arena_used = state[ARENA]
    weighted = len(weights) > 0
    complete = True
    piece = state[NEXT]
    while piece < pieces:
        i = bounds[piece]
        n = bounds[piece + 1] - i
        if n <= 0:
            piece += 1
            continue
        if used >= limit or arena_used + n > len(arena) or number + 2 > len(starts):
            complete = False
            break
        if n <= _INLINE:
            if i + 8 <= len(data):
                unused = np.uint64(8 * (8 - n))
                key = ((_word(data, i) >> unused) << unused) | np.uint64(n)
            else:
                key = np.uint64(n)
                for k in range(n):
                    key |= np.uint64(data[i + k]) << np.uint64(56 - 8 * k)
        else:
            key = np.uint64(n)
            for k in range(i, i + n - 8, 8):
                key = (key ^ _word(data, k)) * _MULTIPLIER
                key ^= key >> np.uint64(32)
            key = (key ^ _word(data, i + n - 8)) * _MULTIPLIER
            key = (key ^ (key >> np.uint64(32))) | np.uint64(0xFF)
        weight = weights[piece] if weighted else np.uint64(1)
        slot = np.int64((key * _MULTIPLIER) >> np.uint64(shift))
        while table[slot, 0] != 0:
            if table[slot, 0] == key:
                if n <= _INLINE:
                    break
                start = starts[longs[slot]]
                if starts[longs[slot] + 1] - start == n and _word(arena, start + n - 8) == _word(data, i + n - 8):
                    same = np.int64(0)
                    while same < n - 8 and _word(arena, start + same) == _word(data, i + same):
                        same += 8
                    if same >= n - 8:
                        break
            slot = (slot + 1) & mask
        if table[slot, 0] == 0:
            table[slot, 0] = key
            used += 1
            if n > _INLINE:
                longs[slot] = number
                for k in range(n):
                    arena[arena_used + k] = data[i + k]
                arena_used += n
                number += 1
                starts[number] = arena_used
        table[slot, 1] += weight
        piece += 1
    state[USED] = used
    state[LONG] = number
    state[ARENA] = arena_used
    state[NEXT] = piece
    return complete


@njit(void(uint64[:, ::1], int32[::1], uint64[:, ::1], int64, int32[::1]), cache=True, nogil=True)
def rehash(old, old_longs, new, shift, new_longs):  # type: ignore[no-untyped-def]
    """Moves every entry to the larger table `new`, which is zeros."""
    mask = len(new) - 1
    for i in range(len(old)):
        key = old[i, 0]
        if key == 0:
            continue
        slot = np.int64((key * _MULTIPLIER) >> np.uint64(shift))
        while new[slot, 0] != 0:
            slot = (slot + 1) & mask
        new[slot, 0] = key
        new[slot, 1] = old[i, 1]
        new_longs[slot] = old_longs[i]


@njit("void(uint64[:, ::1], int32[::1], int64[::1], uint8[::1], int64[::1], uint64[:, ::1])", cache=True, nogil=True)
def sort_keys(table, longs, starts, arena, slots, keys):  # type: ignore[no-untyped-def]
    """Fills slots[used] and keys[used, 3]: words of 7, 8 and 8 bytes that compare as the first 23 bytes do."""
    n = 0
    for slot in range(len(table)):
        key = table[slot, 0]
        if key == 0:
            continue
        slots[n] = slot
        if key & np.uint64(0xFF) != np.uint64(0xFF):
            keys[n, 0] = key
        else:
            start = starts[longs[slot]]
            length = starts[longs[slot] + 1] - start
            position = 0
            for word in range(3):
                value = np.uint64(0)
                for _ in range(7 if word == 0 else 8):
                    value <<= np.uint64(8)
                    if position < length:
                        value |= np.uint64(arena[start + position])
                    position += 1
                keys[n, word] = (value << np.uint64(8)) | np.uint64(0xFF) if word == 0 else value
        n += 1


@njit(
    "void(uint64[:, ::1], int32[::1], int64[::1], uint8[::1], int64[::1], int64[::1], uint8[::1], uint64[::1])",
    cache=True,
    nogil=True,
)
def gather_pieces(table, longs, starts, arena, slots, offsets, data, counts):  # type: ignore[no-untyped-def]
    """Writes the pieces of `slots`, in that order, to data[offsets[i]:offsets[i + 1]]."""
    for i in range(len(slots)):
        slot = slots[i]
        key = table[slot, 0]
        counts[i] = table[slot, 1]
        start = offsets[i]
        length = offsets[i + 1] - start
        if length <= _INLINE:
            for k in range(length):
                data[start + k] = np.uint8((key >> np.uint64(56 - 8 * k)) & np.uint64(0xFF))
        else:
            origin = starts[longs[slot]]
            for k in range(length):
                data[start + k] = arena[origin + k]
