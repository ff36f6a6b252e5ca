"""The hot loop of BPE training. Compiled on import, cached on disk.

Its twin is `tokenizers.trainers.BpeTrainer` itself: tests/webtext/test_bpe.py asks for equal merges. Learning keeps,
for every pair, its count and the words where it newly occurred; a merge visits those words only (tokenizers,
models/bpe/trainer.rs). Here all of it is flat arrays: words are runs of one array of symbols, lists are runs of a pool.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio


@njit("boolean(int64, uint64, int64, uint64)", cache=True, nogil=True, inline="always")
def _before(count, pair, other_count, other_pair):  # type: ignore[no-untyped-def]
    """Order of the queue: the higher count, then the smaller pair of ids."""
    return count > other_count or (count == other_count and pair < other_pair)


@njit("void(int64[::1], uint64[::1], int32[::1], int64, int64, uint64, int32)", cache=True, nogil=True)
def _push(counts, pairs, entries, size, count, pair, entry):  # type: ignore[no-untyped-def]
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(count, pair, counts[parent], pairs[parent]):
            break
        counts[i] = counts[parent]
        pairs[i] = pairs[parent]
        entries[i] = entries[parent]
        i = parent
    counts[i] = count
    pairs[i] = pair
    entries[i] = entry


@njit("void(int64[::1], uint64[::1], int32[::1], int64)", cache=True, nogil=True)
def _pop(counts, pairs, entries, size):  # type: ignore[no-untyped-def]
    """Removes the top of a queue of `size`; the caller has read it."""
    size -= 1
    count = counts[size]
    pair = pairs[size]
    entry = entries[size]
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
        entries[i] = entries[child]
        i = child
    counts[i] = count
    pairs[i] = pair
    entries[i] = entry


@njit("int64(int32[::1], uint64[::1], uint64)", cache=True, nogil=True)
def _find_pair(slots, pair_keys, pair):  # type: ignore[no-untyped-def]
    """Slot of `pair`, or the free slot where it belongs; slots hold 1 + the pair's number."""
    mask = len(slots) - 1
    hashed = pair * _MULTIPLIER
    slot = np.int64(hashed ^ (hashed >> np.uint64(32))) & mask
    while slots[slot] != 0 and pair_keys[slots[slot] - 1] != pair:
        slot = (slot + 1) & mask
    return slot


@njit("int64(int64[::1], uint8[::1], int64[::1], int64, int64, int64)", cache=True, nogil=True)
def _find_token(slots, arena, offsets, start, end, mask):  # type: ignore[no-untyped-def]
    """Slot of the token whose bytes are arena[start:end], or the free one; slots hold 1 + the token."""
    hashed = np.uint64(end - start)
    for k in range(start, end):
        hashed = (hashed ^ np.uint64(arena[k])) * _MULTIPLIER
        hashed ^= hashed >> np.uint64(32)
    slot = np.int64(hashed >> np.uint64(1)) & mask
    while slots[slot] != 0:
        token = slots[slot] - 1
        if offsets[token + 1] - offsets[token] == end - start:
            k = 0
            while k < end - start and arena[offsets[token] + k] == arena[start + k]:
                k += 1
            if k == end - start:
                return slot
        slot = (slot + 1) & mask
    return slot


@njit(
    "Tuple((int32[:, ::1], uint8[::1], int64[::1]))(int32[::1], int64[::1], int64[::1], uint8[::1], int64, int64)",
    cache=True,
    nogil=True,
)
def train_merges(symbols, word_starts, word_counts, base, vocab_size, min_frequency):  # type: ignore[no-untyped-def]
    """Learns merges until there are `vocab_size` tokens or no pair is left that occurs min_frequency times.

    symbols: the base ids of all words end to end, merged in place. word_starts: [words + 1]. word_counts: [words].
    base: the byte of each of the 256 base ids. Returns merges[n, 3] of (left, right, new), the tokens' bytes end to
    end, and their offsets.

    What decides is what `tokenizers` decides, quirks included: a merged pair keeps its count; a pair is queued anew
    with only the words where it newly occurs; a token made by two different merges is one token.
    """
    words = len(word_starts) - 1
    word_ends = word_starts[1:].copy()  # shrink as symbols merge

    # Tokens.
    merges = np.zeros((max(np.int64(1024), vocab_size), 3), np.int32)
    num_merges = 0
    arena = np.zeros(max(np.int64(1 << 16), vocab_size * 8), np.uint8)
    offsets = np.zeros(max(np.int64(257), vocab_size + 1), np.int64)
    token_slots = np.zeros(1 << 12, np.int64)
    while len(token_slots) < 2 * len(offsets):
        token_slots = np.zeros(2 * len(token_slots), np.int64)
    token_mask = len(token_slots) - 1
    num_tokens = 0
    for token in range(256):
        arena[token] = base[token]
        offsets[token + 1] = token + 1
        token_slots[_find_token(token_slots, arena, offsets, token, token + 1, token_mask)] = token + 1
        num_tokens += 1

    # Pairs of base tokens: counted and listed densely.
    dense = np.zeros(1 << 16, np.int64)
    listed = np.zeros(1 << 16, np.int64)
    last = np.full(1 << 16, -1, np.int64)
    for word in range(words):
        for i in range(word_starts[word], word_ends[word] - 1):
            pair = (np.int64(symbols[i]) << 8) | np.int64(symbols[i + 1])
            dense[pair] += word_counts[word]
            if last[pair] != word:
                last[pair] = word
                listed[pair] += 1
    total = listed.sum()

    # Each queue entry owns a list of words in the pool.
    capacity = 4 * np.count_nonzero(listed) + (1 << 12)
    pair_keys = np.zeros(capacity, np.uint64)
    pair_counts = np.zeros(capacity, np.int64)
    pair_steps = np.full(capacity, -1, np.int32)
    pair_words = np.full(capacity, -1, np.int32)
    pair_listed = np.zeros(capacity, np.int64)
    pair_slots = np.zeros(1 << 13, np.int32)
    while len(pair_slots) < 2 * capacity:
        pair_slots = np.zeros(2 * len(pair_slots), np.int32)
    pool = np.zeros(total + total // 2 + 1024, np.int32)
    pool_used = np.int64(0)
    queue_counts = np.zeros(capacity, np.int64)
    queue_pairs = np.zeros(capacity, np.uint64)
    queue_entries = np.zeros(capacity, np.int32)
    queue_size = np.int64(0)
    entry_starts = np.zeros(capacity, np.int64)
    entry_lengths = np.zeros(capacity, np.int64)  # -1: free
    free_entries = np.zeros(capacity, np.int32)
    num_free = 0
    num_entries = 0

    num_pairs = 0
    for dense_pair in range(1 << 16):
        if listed[dense_pair] == 0:
            continue
        pair_key = (np.uint64(dense_pair >> 8) << np.uint64(32)) | np.uint64(dense_pair & 0xFF)
        pair_keys[num_pairs] = pair_key
        pair_counts[num_pairs] = dense[dense_pair]
        pair_slots[_find_pair(pair_slots, pair_keys, pair_key)] = num_pairs + 1
        entry_starts[num_entries] = pool_used
        entry_lengths[num_entries] = listed[dense_pair]
        if dense[dense_pair] > 0:
            _push(queue_counts, queue_pairs, queue_entries, queue_size, dense[dense_pair], pair_key, num_entries)
            queue_size += 1
        listed[dense_pair] = pool_used  # from here on: where the next word goes
        pool_used += entry_lengths[num_entries]
        num_pairs += 1
        num_entries += 1
    last[:] = -1
    for word in range(words):
        for i in range(word_starts[word], word_ends[word] - 1):
            pair = (np.int64(symbols[i]) << 8) | np.int64(symbols[i + 1])
            if last[pair] != word:
                last[pair] = word
                pool[listed[pair]] = word
                listed[pair] += 1

    touched = np.zeros(1 << 12, np.int32)  # pairs that newly occur in this step
    news = np.zeros((1 << 12, 2), np.int32)  # (pair, word) of each new occurrence in this step
    step = np.int32(-1)

    while num_tokens < vocab_size and queue_size > 0:
        count = queue_counts[0]
        pair_key = queue_pairs[0]
        entry = queue_entries[0]
        number = np.int64(pair_slots[_find_pair(pair_slots, pair_keys, pair_key)]) - 1
        _pop(queue_counts, queue_pairs, queue_entries, queue_size)
        queue_size -= 1
        if count != pair_counts[number]:
            _push(queue_counts, queue_pairs, queue_entries, queue_size, pair_counts[number], pair_key, entry)
            queue_size += 1
            continue
        if count < 1 or min_frequency > count:
            break

        # The new token, or the one that already has these bytes.
        left = np.int32(pair_key >> np.uint64(32))
        right = np.int32(pair_key & np.uint64(0xFFFFFFFF))
        length_left = offsets[left + 1] - offsets[left]
        length = length_left + offsets[right + 1] - offsets[right]
        start = offsets[num_tokens]
        if start + length > len(arena):
            grown = np.zeros(2 * len(arena) + length, np.uint8)
            grown[:start] = arena[:start]
            arena = grown
        for k in range(length_left):
            arena[start + k] = arena[offsets[left] + k]
        for k in range(length - length_left):
            arena[start + length_left + k] = arena[offsets[right] + k]
        slot = _find_token(token_slots, arena, offsets, start, start + length, token_mask)
        if token_slots[slot] == 0:
            token_slots[slot] = num_tokens + 1
            num_tokens += 1
            offsets[num_tokens] = start + length
        new = np.int32(token_slots[slot] - 1)
        if num_merges == len(merges):
            more = np.zeros((2 * len(merges), 3), np.int32)
            more[:num_merges] = merges
            merges = more
        merges[num_merges, 0] = left
        merges[num_merges, 1] = right
        merges[num_merges, 2] = new
        num_merges += 1

        # Merge it in every word of the entry.
        step += np.int32(1)
        num_touched = 0
        num_news = 0
        first_word = entry_starts[entry]
        for at in range(first_word, first_word + entry_lengths[entry]):
            word = pool[at]
            begin = word_starts[word]
            end = word_ends[word]
            room = 2 * (end - begin)
            if num_pairs + room > len(pair_keys):
                size = 2 * len(pair_keys) + room
                old_keys, old_counts, old_steps = pair_keys, pair_counts, pair_steps
                old_words, old_listed = pair_words, pair_listed
                pair_keys = np.zeros(size, np.uint64)
                pair_counts = np.zeros(size, np.int64)
                pair_steps = np.full(size, -1, np.int32)
                pair_words = np.full(size, -1, np.int32)
                pair_listed = np.zeros(size, np.int64)
                pair_keys[:num_pairs] = old_keys[:num_pairs]
                pair_counts[:num_pairs] = old_counts[:num_pairs]
                pair_steps[:num_pairs] = old_steps[:num_pairs]
                pair_words[:num_pairs] = old_words[:num_pairs]
                pair_listed[:num_pairs] = old_listed[:num_pairs]
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
            if num_touched + room > len(touched):
                old_touched = touched
                touched = np.zeros(2 * len(touched) + room, np.int32)
                touched[:num_touched] = old_touched[:num_touched]

            weight = word_counts[word]
            out = begin
            i = begin
            while i < end:
                if symbols[i] != left or i + 1 >= end or symbols[i + 1] != right:
                    symbols[out] = symbols[i]
                    out += 1
                    i += 1
                    continue
                for side in range(2):
                    if side == 0:
                        if out == begin:
                            continue
                        lost = (np.uint64(symbols[out - 1]) << np.uint64(32)) | np.uint64(left)
                        won = (np.uint64(symbols[out - 1]) << np.uint64(32)) | np.uint64(new)
                    else:
                        if i + 2 >= end:
                            continue
                        lost = (np.uint64(right) << np.uint64(32)) | np.uint64(symbols[i + 2])
                        won = (np.uint64(new) << np.uint64(32)) | np.uint64(symbols[i + 2])
                    # As _find_pair, by hand: a call with arrays costs more than what it does.
                    mask = np.int64(len(pair_slots) - 1)
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
                    if pair_steps[fresh] != step:
                        pair_steps[fresh] = step
                        pair_words[fresh] = -1
                        pair_listed[fresh] = 0
                        touched[num_touched] = fresh
                        num_touched += 1
                    if pair_words[fresh] != word:
                        pair_words[fresh] = word
                        pair_listed[fresh] += 1
                        news[num_news, 0] = fresh
                        news[num_news, 1] = word
                        num_news += 1
                symbols[out] = new
                out += 1
                i += 2
            word_ends[word] = out
        entry_lengths[entry] = -1
        if num_free == len(free_entries):
            old_free = free_entries
            free_entries = np.zeros(2 * len(free_entries), np.int32)
            free_entries[:num_free] = old_free
        free_entries[num_free] = entry
        num_free += 1

        # Make room, then list the words of each pair that newly occurs, and queue it.
        if pool_used + num_news > len(pool):
            live = np.int64(0)
            for i in range(queue_size):
                live += entry_lengths[queue_entries[i]]
            packed = np.zeros(2 * live + num_news + 1024, np.int32)
            pool_used = np.int64(0)
            for i in range(queue_size):
                moved = queue_entries[i]
                origin = entry_starts[moved]
                for k in range(entry_lengths[moved]):
                    packed[pool_used + k] = pool[origin + k]
                entry_starts[moved] = pool_used
                pool_used += entry_lengths[moved]
            pool = packed
        if queue_size + num_touched > len(queue_counts):
            size = 2 * len(queue_counts) + num_touched
            old_queue_counts, old_queue_pairs, old_queue_entries = queue_counts, queue_pairs, queue_entries
            queue_counts = np.zeros(size, np.int64)
            queue_pairs = np.zeros(size, np.uint64)
            queue_entries = np.zeros(size, np.int32)
            queue_counts[:queue_size] = old_queue_counts[:queue_size]
            queue_pairs[:queue_size] = old_queue_pairs[:queue_size]
            queue_entries[:queue_size] = old_queue_entries[:queue_size]
        if num_entries + num_touched > len(entry_starts):
            size = 2 * len(entry_starts) + num_touched
            old_starts, old_lengths = entry_starts, entry_lengths
            entry_starts = np.zeros(size, np.int64)
            entry_lengths = np.zeros(size, np.int64)
            entry_starts[:num_entries] = old_starts[:num_entries]
            entry_lengths[:num_entries] = old_lengths[:num_entries]
        for i in range(num_touched):
            fresh = touched[i]
            length = pair_listed[fresh]
            if pair_counts[fresh] <= 0:
                pair_listed[fresh] = -1
                continue
            if num_free > 0:
                num_free -= 1
                entry = free_entries[num_free]
            else:
                entry = np.int32(num_entries)
                num_entries += 1
            entry_starts[entry] = pool_used
            entry_lengths[entry] = length
            pair_listed[fresh] = pool_used  # from here on: where the next word goes
            pool_used += length
            _push(queue_counts, queue_pairs, queue_entries, queue_size, pair_counts[fresh], pair_keys[fresh], entry)
            queue_size += 1
        for i in range(num_news):
            fresh = news[i, 0]
            if pair_listed[fresh] >= 0:
                pool[pair_listed[fresh]] = news[i, 1]
                pair_listed[fresh] += 1

    return merges[:num_merges].copy(), arena[: offsets[num_tokens]].copy(), offsets[: num_tokens + 1].copy()
