"""The hot loop of BPE training. Compiled on import, cached on disk.

Its twin is `tokenizers.trainers.BpeTrainer` itself: tests/webtext/test_bpe.py asks for equal merges. Learning keeps,
for every pair, its count and the words that it occurs in; a merge visits those words only. All of it is flat arrays:
words are runs of one array of symbols, the lists of words are runs of a pool.

Two facts make it simple, and are why `tokenizers` needs none of its generality:

- A pair newly occurs in one step only, that which makes the younger of its two tokens (before the first step, for two
  bytes): so one list per pair, complete when it is made, and from then on its count only falls.
- A token is made by one merge only: within its boundaries, merges went as they would have gone in it alone.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int32, int64, njit, uint64, void

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio


@njit(boolean(int64, uint64, int64, uint64), cache=True, nogil=True)
def _before(count, pair, other_count, other_pair):  # type: ignore[no-untyped-def]
    """Order of the queue: the higher count, then the smaller pair of ids."""
    return count > other_count or (count == other_count and pair < other_pair)


@njit(void(int64[::1], uint64[::1], int32[::1], int64, int64, uint64, int32), cache=True, nogil=True)
def _push(counts, pairs, numbers, size, count, pair, number):  # type: ignore[no-untyped-def]
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(count, pair, counts[parent], pairs[parent]):
            break
        counts[i] = counts[parent]
        pairs[i] = pairs[parent]
        numbers[i] = numbers[parent]
        i = parent
    counts[i] = count
    pairs[i] = pair
    numbers[i] = number


@njit(void(int64[::1], uint64[::1], int32[::1], int64, int64, uint64, int32), cache=True, nogil=True)
def _replace_top(counts, pairs, numbers, size, count, pair, number):  # type: ignore[no-untyped-def]
    """Puts an entry in the place of the top of a queue of `size`, and sinks it to where it belongs."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and _before(counts[child + 1], pairs[child + 1], counts[child], pairs[child]):
            child += 1
        if not _before(counts[child], pairs[child], count, pair):
            break
        counts[i] = counts[child]
        pairs[i] = pairs[child]
        numbers[i] = numbers[child]
        i = child
    counts[i] = count
    pairs[i] = pair
    numbers[i] = number


@njit(int64(int32[::1], uint64[::1], uint64), cache=True, nogil=True)
def _find_pair(slots, pair_keys, pair):  # type: ignore[no-untyped-def]
    """Slot of `pair`, or the free slot where it belongs; slots hold 1 + the pair's number."""
    mask = len(slots) - 1
    hashed = pair * _MULTIPLIER
    slot = np.int64(hashed ^ (hashed >> np.uint64(32))) & mask
    while slots[slot] != 0 and pair_keys[slots[slot] - 1] != pair:
        slot = (slot + 1) & mask
    return slot


@njit(int32[:, ::1](int32[::1], int64[::1], int64[::1], int64, int64), cache=True, nogil=True)
def train_merges(symbols, word_starts, word_counts, vocab_size, min_frequency):  # type: ignore[no-untyped-def]
    """Learns merges until there are `vocab_size` tokens or no pair is left that occurs max(1, min_frequency) times.

    symbols: the base ids, 0 to 255, of all words end to end; merged in place. word_starts: [words + 1].
    word_counts: [words]. Returns merges[n, 2] of (left, right): merge i makes token 256 + i.
    """
    words = len(word_starts) - 1
    word_ends = word_starts[1:].copy()  # shrink as symbols merge
    least = max(np.int64(1), min_frequency)
    merges = np.zeros((max(np.int64(0), vocab_size - 256), 2), np.int32)
    num_merges = 0

    # Pairs of bytes: counted and listed densely.
    counts = np.zeros(1 << 16, np.int64)
    cursors = np.zeros(1 << 16, np.int64)
    last = np.full(1 << 16, -1, np.int64)
    for word in range(words):
        for i in range(word_starts[word], word_ends[word] - 1):
            dense = (np.int64(symbols[i]) << 8) | np.int64(symbols[i + 1])
            counts[dense] += word_counts[word]
            if last[dense] != word:
                last[dense] = word
                cursors[dense] += 1

    # Pairs by number: their ids, count, and list of words in the pool.
    capacity = 4 * np.count_nonzero(cursors) + (1 << 12)
    pair_keys = np.zeros(capacity, np.uint64)  # left << 32 | right
    pair_counts = np.zeros(capacity, np.int64)
    list_starts = np.zeros(capacity, np.int64)
    list_lengths = np.zeros(capacity, np.int32)
    last_words = np.full(capacity, -1, np.int32)
    pair_slots = np.zeros(1 << 13, np.int32)
    while len(pair_slots) < 2 * capacity:
        pair_slots = np.zeros(2 * len(pair_slots), np.int32)
    pool = np.zeros(cursors.sum() * 3 // 2 + 1024, np.int32)
    pool_used = np.int64(0)
    queue_counts = np.zeros(capacity, np.int64)
    queue_pairs = np.zeros(capacity, np.uint64)
    queue_numbers = np.zeros(capacity, np.int32)
    queue_size = np.int64(0)
    num_pairs = np.int64(0)
    for code in range(1 << 16):
        if cursors[code] == 0:
            continue
        pair = (np.uint64(code >> 8) << np.uint64(32)) | np.uint64(code & 0xFF)
        pair_keys[num_pairs] = pair
        pair_counts[num_pairs] = counts[code]
        pair_slots[_find_pair(pair_slots, pair_keys, pair)] = num_pairs + 1
        list_starts[num_pairs] = pool_used
        list_lengths[num_pairs] = cursors[code]
        cursors[code] = pool_used  # from here on: where the next word goes
        pool_used += list_lengths[num_pairs]
        _push(queue_counts, queue_pairs, queue_numbers, queue_size, counts[code], pair, num_pairs)
        queue_size += 1
        num_pairs += 1
    last[:] = -1
    for word in range(words):
        for i in range(word_starts[word], word_ends[word] - 1):
            dense = (np.int64(symbols[i]) << 8) | np.int64(symbols[i + 1])
            if last[dense] != word:
                last[dense] = word
                pool[cursors[dense]] = word
                cursors[dense] += 1

    news = np.zeros((1 << 12, 2), np.int32)  # (pair, word) of each new occurrence in this step
    while num_merges < len(merges) and queue_size > 0:
        pair = queue_pairs[0]
        number = queue_numbers[0]
        count = pair_counts[number]
        if count != queue_counts[0] and count >= least:  # it fell since it was queued: back to its place
            _replace_top(queue_counts, queue_pairs, queue_numbers, queue_size, count, pair, number)
            continue
        queue_size -= 1
        _replace_top(
            queue_counts,
            queue_pairs,
            queue_numbers,
            queue_size,
            queue_counts[queue_size],
            queue_pairs[queue_size],
            queue_numbers[queue_size],
        )
        if count < least:
            continue
        left = np.int32(pair >> np.uint64(32))
        right = np.int32(pair & np.uint64(0xFFFFFFFF))
        new = np.int32(256 + num_merges)
        merges[num_merges, 0] = left
        merges[num_merges, 1] = right
        num_merges += 1

        num_news = 0
        first_new = num_pairs  # pairs from here on newly occur in this step
        for at in range(list_starts[number], list_starts[number] + list_lengths[number]):
            word = pool[at]
            begin = word_starts[word]
            end = word_ends[word]
            room = 2 * (end - begin)
            if num_pairs + room > len(pair_keys):
                size = 2 * len(pair_keys) + room
                old_keys, old_counts, old_last = pair_keys, pair_counts, last_words
                old_starts, old_lengths = list_starts, list_lengths
                pair_keys = np.zeros(size, np.uint64)
                pair_counts = np.zeros(size, np.int64)
                list_starts = np.zeros(size, np.int64)
                list_lengths = np.zeros(size, np.int32)
                last_words = np.full(size, -1, np.int32)
                pair_keys[:num_pairs] = old_keys[:num_pairs]
                pair_counts[:num_pairs] = old_counts[:num_pairs]
                list_starts[:num_pairs] = old_starts[:num_pairs]
                list_lengths[:num_pairs] = old_lengths[:num_pairs]
                last_words[:num_pairs] = old_last[:num_pairs]
                slots = len(pair_slots)
                while slots < 2 * size:
                    slots *= 2
                if slots > len(pair_slots):
                    pair_slots = np.zeros(slots, np.int32)
                    for i in range(num_pairs):
                        pair_slots[_find_pair(pair_slots, pair_keys, pair_keys[i])] = i + 1
            if num_news + room > len(news):
                old_news = news
                news = np.zeros((2 * len(news) + room, 2), np.int32)
                news[:num_news] = old_news[:num_news]

            weight = word_counts[word]
            mask = np.int64(len(pair_slots) - 1)
            out = begin
            i = begin
            while i < end:
                if symbols[i] != left or i + 1 >= end or symbols[i + 1] != right:
                    symbols[out] = symbols[i]
                    out += 1
                    i += 1
                    continue
                for side in range(2):  # the neighbour before, the neighbour after
                    if side == 0:
                        if out == begin:
                            continue
                        neighbour = np.uint64(symbols[out - 1]) << np.uint64(32)
                        lost = neighbour | np.uint64(left)
                        won = neighbour | np.uint64(new)
                    else:
                        if i + 2 >= end:
                            continue
                        neighbour = np.uint64(symbols[i + 2])
                        lost = (np.uint64(right) << np.uint64(32)) | neighbour
                        won = (np.uint64(new) << np.uint64(32)) | neighbour
                    # As _find_pair, by hand: a call with arrays costs more than what it does.
                    hashed = lost * _MULTIPLIER
                    slot = np.int64(hashed ^ (hashed >> np.uint64(32))) & mask
                    while pair_keys[pair_slots[slot] - 1] != lost:  # it is there
                        slot = (slot + 1) & mask
                    pair_counts[pair_slots[slot] - 1] -= weight
                    hashed = won * _MULTIPLIER
                    slot = np.int64(hashed ^ (hashed >> np.uint64(32))) & mask
                    while pair_slots[slot] != 0 and pair_keys[pair_slots[slot] - 1] != won:
                        slot = (slot + 1) & mask
                    if pair_slots[slot] == 0:
                        pair_keys[num_pairs] = won
                        num_pairs += 1
                        pair_slots[slot] = num_pairs
                    fresh = pair_slots[slot] - 1
                    pair_counts[fresh] += weight
                    if last_words[fresh] != word:
                        last_words[fresh] = word
                        list_lengths[fresh] += 1
                        news[num_news, 0] = fresh
                        news[num_news, 1] = word
                        num_news += 1
                symbols[out] = new
                out += 1
                i += 2
            word_ends[word] = out

        # Make room, then list the words of each pair that newly occurs, and queue it.
        if pool_used + num_news > len(pool):
            live = np.int64(0)
            for i in range(queue_size):
                live += list_lengths[queue_numbers[i]]
            packed = np.zeros(2 * live + num_news + 1024, np.int32)
            pool_used = np.int64(0)
            for i in range(queue_size):
                moved = queue_numbers[i]
                origin = list_starts[moved]
                for k in range(list_lengths[moved]):
                    packed[pool_used + k] = pool[origin + k]
                list_starts[moved] = pool_used
                pool_used += list_lengths[moved]
            pool = packed
        if queue_size + num_pairs - first_new > len(queue_counts):
            size = 2 * len(queue_counts) + num_pairs - first_new
            old_queue_counts, old_queue_pairs, old_queue_numbers = queue_counts, queue_pairs, queue_numbers
            queue_counts = np.zeros(size, np.int64)
            queue_pairs = np.zeros(size, np.uint64)
            queue_numbers = np.zeros(size, np.int32)
            queue_counts[:queue_size] = old_queue_counts[:queue_size]
            queue_pairs[:queue_size] = old_queue_pairs[:queue_size]
            queue_numbers[:queue_size] = old_queue_numbers[:queue_size]
        for fresh in range(first_new, num_pairs):
            if pair_counts[fresh] < least:
                list_lengths[fresh] = -1  # it never will be merged
                continue
            list_starts[fresh] = pool_used
            pool_used += list_lengths[fresh]
            list_lengths[fresh] = 0  # filled below
            _push(queue_counts, queue_pairs, queue_numbers, queue_size, pair_counts[fresh], pair_keys[fresh], fresh)
            queue_size += 1
        for i in range(num_news):
            fresh = news[i, 0]
            if list_lengths[fresh] >= 0:
                pool[list_starts[fresh] + list_lengths[fresh]] = news[i, 1]
                list_lengths[fresh] += 1

    return merges[:num_merges].copy()
