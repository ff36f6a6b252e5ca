"""Kernels of dedup.lsh: band keys, spilled partitions, union-find, pairs in buckets, and the greedy pass.

Documents are numbered by rank (0 is kept first), so "the lower number" is always "the better document".
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from dedup.words import mix64

_types: Any = nb.types
_UINT64S = _types.Array(nb.uint64, 1, "C", readonly=True)
_UINT32S = _types.Array(nb.uint32, 1, "C", readonly=True)
_UINT32_ROWS = _types.Array(nb.uint32, 2, "C", readonly=True)
_INT64S = _types.Array(nb.int64, 1, "C", readonly=True)

UNDECIDED, KEPT, DROPPED = 0, 1, 2
NOBODY = 0xFFFFFFFF


# ---- bands


@nb.njit(nb.void(_UINT32_ROWS, nb.int64, nb.int64, nb.uint64[:, ::1]), cache=True, nogil=True)
def band_keys(signatures: Any, bands: Any, rows: Any, out: Any) -> None:
    """out[band, document] = 64 bits of the band's number and values, two values to a mix."""
    for document in range(signatures.shape[0]):
        for band in range(bands):
            key = mix64(np.uint64(band + 1))
            at = band * rows
            end = at + rows
            while at + 1 < end:
                pair = (np.uint64(signatures[document, at]) << np.uint64(32)) | np.uint64(signatures[document, at + 1])
                key = mix64(key ^ pair) + np.uint64(1)
                at += 2
            if at < end:
                key = mix64(key ^ np.uint64(signatures[document, at]))
            out[band, document] = key


@nb.njit(nb.void(_UINT64S, nb.int64, nb.int64[::1], nb.int64[::1]), cache=True, nogil=True)
def partition_order(keys: Any, shift: Any, counts: Any, order: Any) -> None:
    """A stable counting sort by key >> shift: the number in each partition, and the positions in partition order."""
    counts[:] = 0
    partition: Any
    for i in range(keys.size):
        counts[np.int64(keys[i] >> np.uint64(shift))] += 1
    at = np.empty(counts.size, np.int64)
    total = np.int64(0)
    for partition in range(counts.size):
        at[partition] = total
        total += counts[partition]
    for i in range(keys.size):
        partition = np.int64(keys[i] >> np.uint64(shift))
        order[at[partition]] = i
        at[partition] += 1


# ---- union-find; the root of a set is its lowest number


@nb.njit(nb.int64(nb.uint32[::1], nb.int64), cache=True, nogil=True)
def _root(parent: Any, i: Any) -> Any:
    while np.int64(parent[i]) != i:
        parent[i] = parent[np.int64(parent[i])]
        i = np.int64(parent[i])
    return i


@nb.njit(nb.void(nb.uint32[::1], _UINT32S, _UINT32S), cache=True, nogil=True)
def union_pairs(parent: Any, a: Any, b: Any) -> None:
    """Joins the sets of a[i] and b[i]."""
    for i in range(a.size):
        x = _root(parent, np.int64(a[i]))
        y = _root(parent, np.int64(b[i]))
        if x < y:
            parent[y] = x
        elif y < x:
            parent[x] = y


@nb.njit(nb.void(nb.uint32[::1], _UINT64S, _UINT32S, _INT64S), cache=True, nogil=True)
def union_buckets(parent: Any, keys: Any, documents: Any, order: Any) -> None:
    """Joins documents whose keys are equal; `order` sorts the keys."""
    for i in range(1, order.size):
        if keys[order[i]] == keys[order[i - 1]]:
            x = _root(parent, np.int64(documents[order[i]]))
            y = _root(parent, np.int64(documents[order[i - 1]]))
            if x < y:
                parent[y] = x
            elif y < x:
                parent[x] = y


@nb.njit(nb.void(nb.uint32[::1]), cache=True, nogil=True)
def flatten(parent: Any) -> None:
    """Makes parent[i] the root of i."""
    for i in range(parent.size):
        parent[i] = parent[np.int64(parent[i])]  # parents are lower, and so already flat


@nb.njit(nb.void(_UINT32S, nb.uint32[::1], nb.int64), cache=True, nogil=True)
def assign_blocks(root: Any, block: Any, block_size: Any) -> None:
    """block[i] = the block of i's set, filled in order of roots up to `block_size`; NOBODY for sets of one."""
    block[:] = 0
    for i in range(root.size):
        block[np.int64(root[i])] += np.uint32(1)
    current = np.int64(0)
    filled = np.int64(0)
    for i in range(root.size):
        if np.int64(root[i]) == i:
            size = np.int64(block[i])
            if size < 2:
                block[i] = np.uint32(NOBODY)
                continue
            if filled and filled + size > block_size:
                current += 1
                filled = np.int64(0)
            block[i] = np.uint32(current)
            filled += size
        else:
            block[i] = block[np.int64(root[i])]


# ---- pairs of one block


@nb.njit(nb.int64(_UINT64S, nb.int64[::1], nb.int64), cache=True, nogil=True)
def settle_buckets(keys: Any, order: Any, limit: Any) -> Any:
    """Sorts each run of equal keys in `order` by number; returns the number of pairs in runs of up to `limit`."""
    pairs = np.int64(0)
    start = np.int64(0)
    while start < order.size:
        end = start + 1
        while end < order.size and keys[order[end]] == keys[order[start]]:
            end += 1
        size = end - start
        if size > 1:
            order[start:end] = np.sort(order[start:end])
            if size <= limit:
                pairs += size * (size - 1) // 2
        start = end
    return pairs


@nb.njit(
    _types.UniTuple(nb.int64, 2)(_UINT64S, _INT64S, nb.int64, nb.uint64[::1], nb.int64[::1], nb.int64[::1]),
    cache=True,
    nogil=True,
)
def bucket_pairs(keys: Any, order: Any, limit: Any, pairs: Any, members: Any, sizes: Any) -> Any:
    """pairs: i << 32 | j of all pairs (i < j) in buckets of up to `limit`; members and sizes of the larger buckets.

    Returns (number of larger buckets, number of their members).
    """
    found = np.int64(0)
    large = np.int64(0)
    total = np.int64(0)
    start = np.int64(0)
    while start < order.size:
        end = start + 1
        while end < order.size and keys[order[end]] == keys[order[start]]:
            end += 1
        size = end - start
        if size > limit:
            members[total : total + size] = order[start:end]
            sizes[large] = size
            large += 1
            total += size
        elif size > 1:
            for x in range(start, end):
                for y in range(x + 1, end):
                    pairs[found] = (np.uint64(order[x]) << np.uint64(32)) | np.uint64(order[y])
                    found += 1
        start = end
    return large, total


@nb.njit(nb.int64(_UINT32_ROWS, nb.int64, nb.int64), cache=True, nogil=True)
def _equal_values(signatures: Any, i: Any, j: Any) -> Any:
    equal = np.uint32(0)
    for p in range(signatures.shape[1]):
        equal += np.uint32(signatures[i, p] == signatures[j, p])
    return np.int64(equal)


@nb.njit(nb.void(_UINT32_ROWS, _UINT32S, _UINT32S, nb.int64, nb.int64, nb.uint16[::1], nb.uint16[::1]),
         cache=True, nogil=True)  # fmt: skip
def compare_pairs(signatures: Any, a: Any, b: Any, bands: Any, rows: Any, equal: Any, shared: Any) -> None:
    """The number of equal values, and of shared bands, of each pair."""
    for pair in range(a.size):
        i = np.int64(a[pair])
        j = np.int64(b[pair])
        equal[pair] = _equal_values(signatures, i, j)
        count = 0
        for band in range(bands):
            same = True
            for p in range(band * rows, band * rows + rows):
                if signatures[i, p] != signatures[j, p]:
                    same = False
                    break
            count += same
        shared[pair] = count


@nb.njit(
    _types.UniTuple(nb.int64, 5)(
        _UINT32_ROWS,  # signatures
        nb.int64[::1],  # active components
        nb.int64,  # how many
        nb.int64[::1],  # cursor of each component
        _INT64S,  # end of each component
        _INT64S,  # accepted pairs of small buckets: offsets by lower document
        _INT64S,  # the higher documents
        _INT64S,  # large buckets of each document: offsets
        _INT64S,  # buckets
        _INT64S,  # start of each bucket in members
        nb.int64[::1],  # number of members left
        nb.int64[::1],  # members, ascending
        nb.int64[::1],  # stamp: the centre each document was last compared with
        nb.int64,  # equal values to be accepted
        nb.int64,  # equal values to be doubtful
        nb.int64,  # equal values for a refused pair to be written down
        nb.boolean,  # stop where a pair is doubtful
        nb.uint8[::1],  # status
        nb.int64[::1],  # duplicate of
        nb.uint64[::1],  # out: pairs
        nb.uint8[::1],  # out: 0 refused, 1 accepted, 2 doubtful
        nb.int64,  # at
    ),
    cache=True,
    nogil=True,
)
def greedy(
    signatures: Any, active: Any, num_active: Any, cursor: Any, ends: Any, small_offsets: Any, small_others: Any,
    bucket_offsets: Any, buckets: Any, bucket_starts: Any, bucket_left: Any, members: Any, stamp: Any,
    accept_from: Any, doubt_from: Any, note_from: Any, stop: Any, status: Any, duplicate_of: Any, pairs: Any,
    outcome: Any, at: Any,
) -> Any:  # fmt: skip
    """Keeps documents in order of rank; a kept one drops the documents that are similar to it.

    In small buckets the similar ones are known. In large ones a kept document is the centre of a star over the members
    that are left, which are compared here. A component with doubtful pairs stops after its centre until they are known.
    Returns (components left, pairs written, refused pairs not written, room wanted or 0, doubtful pairs).
    """
    left = 0
    unwritten = 0
    doubtful = 0
    for a in range(num_active):
        component = active[a]
        i = cursor[component]
        waiting = False
        while i < ends[component] and not waiting:
            if status[i] == DROPPED:
                i += 1
                continue
            room = np.int64(0)
            for entry in range(bucket_offsets[i], bucket_offsets[i + 1]):
                room += bucket_left[buckets[entry]]
            if at + room > pairs.size:  # the caller makes room and calls again
                cursor[component] = i
                rest = left
                for other in range(a, num_active):
                    active[rest] = active[other]
                    rest += 1
                return rest, at, unwritten, at + room, doubtful
            status[i] = KEPT
            for entry in range(small_offsets[i], small_offsets[i + 1]):
                other = small_others[entry]
                if status[other] == UNDECIDED:
                    status[other] = DROPPED
                    duplicate_of[other] = i
            for entry in range(bucket_offsets[i], bucket_offsets[i + 1]):
                bucket = buckets[entry]
                start = bucket_starts[bucket]
                kept = start
                for slot in range(start, start + bucket_left[bucket]):
                    j = members[slot]
                    if j <= i or status[j] == DROPPED:
                        continue
                    if stamp[j] != i:
                        stamp[j] = i
                        equal = _equal_values(signatures, i, j)
                        if equal >= accept_from:
                            status[j] = DROPPED
                            duplicate_of[j] = i
                            pairs[at] = (np.uint64(i) << np.uint64(32)) | np.uint64(j)
                            outcome[at] = 1
                            at += 1
                            continue
                        if equal >= doubt_from:
                            pairs[at] = (np.uint64(i) << np.uint64(32)) | np.uint64(j)
                            outcome[at] = 2
                            at += 1
                            doubtful += 1
                            waiting = stop
                        elif equal >= note_from:
                            pairs[at] = (np.uint64(i) << np.uint64(32)) | np.uint64(j)
                            outcome[at] = 0
                            at += 1
                        else:
                            unwritten += 1
                    members[kept] = j
                    kept += 1
                bucket_left[bucket] = kept - start
            i += 1
        cursor[component] = i
        if i < ends[component]:
            active[left] = component
            left += 1
    return left, at, unwritten, np.int64(0), doubtful


# ---- exact Jaccard


@nb.njit(nb.void(nb.uint64[::1], _INT64S, nb.int64[::1]), cache=True, nogil=True)
def sort_sets(values: Any, offsets: Any, sizes: Any) -> None:
    """Makes values[offsets[d]:offsets[d] + sizes[d]] the sorted set of document d's values, in place."""
    for document in range(offsets.size - 1):
        start = offsets[document]
        end = offsets[document + 1]
        values[start:end] = np.sort(values[start:end])
        at = start
        for i in range(start, end):
            if i == start or values[i] != values[at - 1]:
                values[at] = values[i]
                at += 1
        sizes[document] = at - start


@nb.njit(nb.void(_UINT64S, _INT64S, _INT64S, _INT64S, _INT64S, nb.float32[::1]), cache=True, nogil=True)
def jaccard_of_sets(values: Any, offsets: Any, sizes: Any, a: Any, b: Any, out: Any) -> None:
    """|A and B| / |A or B| of the sorted sets a[i] and b[i]; 1 where both are empty."""
    for pair in range(a.size):
        i = offsets[a[pair]]
        j = offsets[b[pair]]
        i_end = i + sizes[a[pair]]
        j_end = j + sizes[b[pair]]
        both = 0
        union = i_end - i + j_end - j
        while i < i_end and j < j_end:
            if values[i] == values[j]:
                both += 1
                i += 1
                j += 1
            elif values[i] < values[j]:
                i += 1
            else:
                j += 1
        union -= both
        out[pair] = both / union if union else 1.0
