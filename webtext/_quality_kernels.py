"""The loop behind webtext.quality: everything that the rules measure, in one walk over a document's UTF-8.

Slow, readable twin: tests/webtext/test_quality.py. Compiled on import, cached on disk; no parser child
imports it.

- A word is a run of what is not white space; two are the same if they differ only in the case of ASCII letters. Words,
  lines and n-grams are compared by 64-bit hashes: among a document's words a false match has odds under 1 in 10^10.
- A line is what stands between line feeds, stripped; empty ones do not count. A paragraph is a run of lines without an
  empty one between them.
- Hash tables are cleared by stamping: a slot belongs to the table whose stamp it carries.
"""

# Types here are numba's, by the signatures.
# mypy: disable-error-code="operator, assignment"

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int64, njit, types, uint8, uint64, void

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3  # classes of code points, one byte each in `classes`

# Columns of the measures.
(
    NUM_WORDS,
    MEAN_WORD_CHARS,
    HASHES_PER_WORD,
    ELLIPSES_PER_WORD,
    BULLET_LINES,
    ELLIPSIS_LINES,
    WORDS_WITH_LETTER,
    STOP_WORDS,
    DUPLICATE_LINES,
    DUPLICATE_PARAGRAPHS,
    DUPLICATE_LINE_CHARS,
    DUPLICATE_PARAGRAPH_CHARS,
    TOP_2GRAM,
    TOP_3GRAM,
    TOP_4GRAM,
    DUPLICATE_5GRAMS,
    DUPLICATE_6GRAMS,
    DUPLICATE_7GRAMS,
    DUPLICATE_8GRAMS,
    DUPLICATE_9GRAMS,
    DUPLICATE_10GRAMS,
    PUNCTUATED_LINES,
    SHORT_LINES,
    SENTENCES,
    CURLY_BRACKETS,
    LOREM_IPSUM,
    C4_KEPT_WORDS,
    NUM_MEASURES,
) = range(28)

# Arrow's buffers, and arrays made from bytes, are read-only: a type of its own to numba.
_BYTES = types.Array(uint8, 1, "C", readonly=True)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_PARAGRAPH = np.uint64(0x9AE16A3B2F90404F)  # where the hashes of paragraphs start: apart from those of lines
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_ROLL = np.uint64(0xD6E8FEB86659FD93)  # odd: the base of the n-gram polynomials

STOP_WORDS_OF_GOPHER = ("the", "be", "to", "of", "and", "that", "have", "with")


@njit("uint64(uint64)", cache=True, nogil=True, inline="always")
def _mixed(h):  # type: ignore[no-untyped-def]
    h = (h ^ (h >> np.uint64(32))) * _MIX
    return h ^ (h >> np.uint64(29))


@njit(boolean(_BYTES, int64, int64, _BYTES), cache=True, nogil=True)
def _at(data, i, end, pattern):  # type: ignore[no-untyped-def]
    """Whether `pattern` (lower case ASCII) stands at `i`, in any case."""
    if i + pattern.size > end:
        return False
    for k in range(pattern.size):
        byte = data[i + k]
        if 0x41 <= byte <= 0x5A:
            byte |= np.uint8(0x20)
        if byte != pattern[k]:
            return False
    return True


@njit("boolean(int64)", cache=True, nogil=True, inline="always")
def _ends_sentence(point):  # type: ignore[no-untyped-def]
    """. ! ? … and their Chinese, Arabic, Urdu and Devanagari forms."""
    return (
        point == 0x2E or point == 0x21 or point == 0x3F or point == 0x2026 or point == 0x3002 or point == 0xFF01
        or point == 0xFF1F or point == 0xFF0E or point == 0x061F or point == 0x06D4 or point == 0x0964
        or point == 0x0965
    )  # fmt: skip


@njit("boolean(int64)", cache=True, nogil=True, inline="always")
def _closes(point):  # type: ignore[no-untyped-def]
    """Closing quotes: " ' ” ’ » 」 』"""
    return (
        point == 0x22 or point == 0x27 or point == 0x201D or point == 0x2019 or point == 0xBB or point == 0x300D
        or point == 0x300F
    )  # fmt: skip


@njit("boolean(int64)", cache=True, nogil=True, inline="always")
def _is_bullet(point):  # type: ignore[no-untyped-def]
    """• ‣ ▪ ▶ ● ◦ ○ ■ □ * - – · at the start of a line, before a space."""
    return (
        point == 0x2022 or point == 0x2023 or point == 0x25AA or point == 0x25B6 or point == 0x25CF or point == 0x25E6
        or point == 0x25CB or point == 0x25A0 or point == 0x25A1 or point == 0x2A or point == 0x2D or point == 0x2013
        or point == 0xB7
    )  # fmt: skip


@njit("int64(uint64, int32, uint64[::1], int32[::1], int32[::1], uint64)", cache=True, nogil=True, inline="always")
def _count(h, stamp, keys, stamps, counts, mask):  # type: ignore[no-untyped-def]
    """How often `h` has been counted in the table of this stamp, this time included."""
    slot = _mixed(h) & mask
    while stamps[slot] == stamp:
        if keys[slot] == h:
            counts[slot] += 1
            return np.int64(counts[slot])
        slot = (slot + np.uint64(1)) & mask
    stamps[slot] = stamp
    keys[slot] = h
    counts[slot] = 1
    return np.int64(1)


@njit(uint64(_BYTES), cache=True, nogil=True)
def word_hash(word):  # type: ignore[no-untyped-def]
    """The hash by which words are compared."""
    h = _FNV_OFFSET
    for byte in word:
        if 0x41 <= byte <= 0x5A:
            byte |= np.uint8(0x20)
        h = (h ^ np.uint64(byte)) * _FNV_PRIME
    return _mixed(h)


@njit(
    "int64(uint64[::1], int32[::1], int64, int64, int32, uint64[::1], int32[::1], int32[::1], uint64)",
    cache=True,
    nogil=True,
)
def _top(words, chars, num_words, n, stamp, keys, stamps, counts, mask):  # type: ignore[no-untyped-def]
    """Characters in the occurrences of the n-gram that occurs most often (of several, the longest); 0 if none does."""
    most = np.int64(1)
    most_chars = np.int64(0)
    for i in range(num_words - n + 1):
        h = np.uint64(0)
        length = np.int64(0)
        for k in range(n):
            h = h * _ROLL + words[i + k]
            length += chars[i + k]
        count = _count(h, stamp, keys, stamps, counts, mask)
        if count > most or (count == most and count > 1 and length > most_chars):
            most = count
            most_chars = length
    return most * most_chars  # more than all characters, where the n-gram overlaps itself


@njit(
    "int64(uint64[::1], int32[::1], int64, int64, int32, uint64[::1], int32[::1], int32[::1], uint64)",
    cache=True,
    nogil=True,
)
def _repeated(words, chars, num_words, n, stamp, keys, stamps, counts, mask):  # type: ignore[no-untyped-def]
    """Characters of the words that lie in an n-gram which occurred before; each word once."""
    power = np.uint64(1)
    for _ in range(n):
        power *= _ROLL
    covered = np.int64(0)  # words before this one are accounted for
    total = np.int64(0)
    h = np.uint64(0)
    for last in range(num_words):
        h = h * _ROLL + words[last]
        if last >= n:
            h -= words[last - n] * power
        if last >= n - 1 and _count(h, stamp, keys, stamps, counts, mask) > 1:
            for k in range(max(covered, last - n + 1), last + 1):
                total += chars[k]
            covered = last + 1
    return total


@njit(
    void(_BYTES, int64[::1], _BYTES, uint64[::1], _BYTES, int64[::1], int64[::1], float64[:, ::1]),
    cache=True,
    nogil=True,
)
def measure(data, offsets, classes, stop_words, patterns, pattern_ends, c4, out):  # type: ignore[no-untyped-def]
    """Fill out[i] with the measures of the document data[offsets[i]:offsets[i + 1]].

    `classes`: one of OTHER ... SPACE for each code point. `stop_words`: word_hash of each. `patterns`: C4's phrases one
    after the other, `pattern_ends` their ends; the first is "lorem ipsum", a page rule, the second "javascript", the
    others are of policies. `c4`: [lines must end in punctuation, least words of a line, javascript rule, policy rule,
    most characters of a word (0: off)].
    """
    longest = np.int64(0)
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    most_words = longest // 2 + 2
    words = np.empty(most_words, np.uint64)
    chars = np.empty(most_words, np.int32)
    size = np.int64(64)
    while size < 2 * most_words:
        size *= 2
    keys = np.empty(size, np.uint64)
    stamps = np.zeros(size, np.int32)
    counts = np.empty(size, np.int32)
    stamp = np.int32(0)
    num_stop = stop_words.size
    for document in range(offsets.size - 1):
        if stamp > 2_000_000_000:
            stamps[:] = 0
            stamp = np.int32(0)
        i, end = offsets[document], offsets[document + 1]
        row = out[document]
        # A line takes two bytes and a paragraph three, so that this table of both is never full.
        mask = np.uint64(63)
        while np.int64(mask) + 1 < 2 * ((end - i) // 2 + 2):
            mask = (mask << np.uint64(1)) | np.uint64(1)
        line_stamp = stamp + np.int32(1)
        stamp += np.int32(1)

        num_words = np.int64(0)
        word_chars_total = np.int64(0)
        hashes = np.int64(0)
        ellipses = np.int64(0)
        with_letter = np.int64(0)
        stop_seen = np.int64(0)
        sentences = np.int64(0)
        curly = np.int64(0)
        lorem = np.int64(0)
        lines = np.int64(0)
        line_chars_total = np.int64(0)
        duplicate_lines = np.int64(0)
        duplicate_line_chars = np.int64(0)
        bullets = np.int64(0)
        ellipsis_lines = np.int64(0)
        punctuated = np.int64(0)
        short = np.int64(0)
        kept_words = np.int64(0)
        paragraphs = np.int64(0)
        paragraph_hash = _PARAGRAPH
        paragraph_chars = np.int64(0)
        duplicate_paragraphs = np.int64(0)
        duplicate_paragraph_chars = np.int64(0)
        # State of the line and of the word.
        line_hash = _FNV_OFFSET
        pending_spaces = np.int64(0)  # white space since the last word of this line
        line_chars = np.int64(0)
        line_words = np.int64(0)
        line_bullet = False
        line_first = np.int64(0)
        line_javascript = False
        line_policy = False
        line_long_word = False
        last = np.int64(0)  # last code point of the last word
        last_ellipsis = False
        in_word = False
        h = _FNV_OFFSET
        length = np.int64(0)
        has_letter = False
        sentence = False
        dots = np.int64(0)
        lead = np.int64(0)
        previous_letter = False  # ASCII letter just before: patterns start at the start of a word

        while i <= end:
            # The next code point; a line feed stands behind the last one.
            if i == end:
                point, width, kind = np.int64(0x0A), np.int64(1), np.int64(SPACE)
            else:
                lead = np.int64(data[i])
                if lead < 0x80:
                    point, width = lead, np.int64(1)
                elif lead >= 0xF0 and i + 4 <= end:
                    point = (
                        ((lead & 0x07) << 18)
                        | ((np.int64(data[i + 1]) & 0x3F) << 12)
                        | ((np.int64(data[i + 2]) & 0x3F) << 6)
                        | (np.int64(data[i + 3]) & 0x3F)
                    )
                    width = np.int64(4)
                elif lead >= 0xE0 and i + 3 <= end:
                    point = (
                        ((lead & 0x0F) << 12) | ((np.int64(data[i + 1]) & 0x3F) << 6) | (np.int64(data[i + 2]) & 0x3F)
                    )
                    width = np.int64(3)
                elif i + 2 <= end:
                    point = ((lead & 0x1F) << 6) | (np.int64(data[i + 1]) & 0x3F)
                    width = np.int64(2)
                else:
                    point, width = np.int64(0xFFFD), np.int64(1)
                kind = np.int64(classes[point]) if point < 0x110000 else np.int64(OTHER)

            if kind != SPACE:
                if not in_word:
                    in_word = True
                    h = _FNV_OFFSET
                    length = np.int64(0)
                    has_letter = False
                    sentence = False
                    if line_words == 0:
                        line_first = point
                    else:
                        for _ in range(pending_spaces):
                            line_hash = (line_hash ^ np.uint64(0x20)) * _FNV_PRIME
                        line_chars += pending_spaces
                    pending_spaces = np.int64(0)
                if lead < 0x80:
                    byte = data[i]
                    line_hash = (line_hash ^ np.uint64(byte)) * _FNV_PRIME
                    lower = byte
                    if 0x41 <= byte <= 0x5A:
                        lower = byte | np.uint8(0x20)
                    h = (h ^ np.uint64(lower)) * _FNV_PRIME
                    if point == 0x23:
                        hashes += 1
                    elif point == 0x7B:
                        curly += 1
                    is_letter = 0x61 <= lower <= 0x7A
                    if is_letter and not previous_letter:
                        start = np.int64(0)
                        for p in range(pattern_ends.size):
                            if patterns[start] == lower and _at(data, i, end, patterns[start : pattern_ends[p]]):
                                if p == 0:
                                    lorem += 1
                                elif p == 1:
                                    line_javascript = True
                                else:
                                    line_policy = True
                            start = pattern_ends[p]
                    previous_letter = is_letter
                else:
                    for k in range(width):
                        line_hash = (line_hash ^ np.uint64(data[i + k])) * _FNV_PRIME
                        h = (h ^ np.uint64(data[i + k])) * _FNV_PRIME
                    previous_letter = False
                if point == 0x2E:
                    dots += 1
                else:
                    dots = np.int64(0)
                if dots == 3 or point == 0x2026:
                    ellipses += 1
                length += 1
                line_chars += 1
                if kind == LETTER:
                    has_letter = True
                if _ends_sentence(point):
                    sentence = True
                    if point >= 0x3000:  # no space follows
                        sentences += 1
                        sentence = False
                elif not (_closes(point) or point == 0x29 or point == 0x5D):
                    sentence = False
                last = point
                last_ellipsis = dots >= 3 or point == 0x2026
            else:
                if in_word:
                    in_word = False
                    h = _mixed(h)
                    words[num_words] = h
                    chars[num_words] = length
                    num_words += 1
                    line_words += 1
                    word_chars_total += length
                    if has_letter:
                        with_letter += 1
                    if sentence:
                        sentences += 1
                    if c4[4] > 0 and length > c4[4]:
                        line_long_word = True
                    for s in range(num_stop):
                        if h == stop_words[s]:
                            stop_seen |= np.int64(1) << s
                    if line_words == 1 and length == 1 and _is_bullet(line_first):
                        line_bullet = True
                dots = np.int64(0)
                previous_letter = False
                pending_spaces += 1
                if point == 0x0A:
                    if line_words > 0:
                        lines += 1
                        line_chars_total += line_chars
                        if _count(_mixed(line_hash), line_stamp, keys, stamps, counts, mask) > 1:
                            duplicate_lines += 1
                            duplicate_line_chars += line_chars
                        if line_bullet:
                            bullets += 1
                        if last_ellipsis:
                            ellipsis_lines += 1
                        ends_well = _ends_sentence(last) or _closes(last)
                        if ends_well:
                            punctuated += 1
                        if line_chars <= 30:
                            short += 1
                        if not (
                            (c4[0] != 0 and (not ends_well or last_ellipsis))
                            or line_words < c4[1]
                            or (c4[2] != 0 and line_javascript)
                            or (c4[3] != 0 and line_policy)
                            or line_long_word
                        ):
                            kept_words += line_words
                        paragraph_hash = (paragraph_hash ^ _mixed(line_hash)) * _FNV_PRIME
                        paragraph_chars += line_chars
                    elif paragraph_chars > 0:
                        paragraphs += 1
                        if _count(_mixed(paragraph_hash), line_stamp, keys, stamps, counts, mask) > 1:
                            duplicate_paragraphs += 1
                            duplicate_paragraph_chars += paragraph_chars
                        paragraph_hash = _PARAGRAPH
                        paragraph_chars = np.int64(0)
                    line_hash = _FNV_OFFSET
                    pending_spaces = np.int64(0)
                    line_chars = np.int64(0)
                    line_words = np.int64(0)
                    line_bullet = False
                    line_javascript = False
                    line_policy = False
                    line_long_word = False
                    last_ellipsis = False
            i += width

        if paragraph_chars > 0:
            paragraphs += 1
            if _count(_mixed(paragraph_hash), line_stamp, keys, stamps, counts, mask) > 1:
                duplicate_paragraphs += 1
                duplicate_paragraph_chars += paragraph_chars

        n = max(num_words, 1)
        row[NUM_WORDS] = num_words
        row[MEAN_WORD_CHARS] = word_chars_total / n
        row[HASHES_PER_WORD] = hashes / n
        row[ELLIPSES_PER_WORD] = ellipses / n
        row[WORDS_WITH_LETTER] = with_letter / n
        row[C4_KEPT_WORDS] = kept_words / n
        found = np.int64(0)
        for s in range(num_stop):
            found += (stop_seen >> s) & 1
        row[STOP_WORDS] = found
        n = max(lines, 1)
        row[BULLET_LINES] = bullets / n
        row[ELLIPSIS_LINES] = ellipsis_lines / n
        row[DUPLICATE_LINES] = duplicate_lines / n
        row[DUPLICATE_LINE_CHARS] = duplicate_line_chars / max(line_chars_total, 1)
        row[PUNCTUATED_LINES] = punctuated / n
        row[SHORT_LINES] = short / n
        row[DUPLICATE_PARAGRAPHS] = duplicate_paragraphs / max(paragraphs, 1)
        row[DUPLICATE_PARAGRAPH_CHARS] = duplicate_paragraph_chars / max(line_chars_total, 1)
        row[SENTENCES] = sentences
        row[CURLY_BRACKETS] = curly
        row[LOREM_IPSUM] = lorem

        total = max(word_chars_total, 1)
        mask = np.uint64(63)
        while np.int64(mask) + 1 < 2 * num_words:
            mask = (mask << np.uint64(1)) | np.uint64(1)
        for length_of_gram in range(2, 5):
            stamp += np.int32(1)
            row[TOP_2GRAM + length_of_gram - 2] = min(
                1.0, _top(words, chars, num_words, length_of_gram, stamp, keys, stamps, counts, mask) / total
            )
        for length_of_gram in range(5, 11):
            stamp += np.int32(1)
            row[DUPLICATE_5GRAMS + length_of_gram - 5] = (
                _repeated(words, chars, num_words, length_of_gram, stamp, keys, stamps, counts, mask) / total
            )
