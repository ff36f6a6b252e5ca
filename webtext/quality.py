"""Which documents are worth keeping: language, and the heuristics of C4, Gopher and FineWeb, as reasons to drop.

- A document is kept or dropped whole: `documents/` is what the capture gives, and no later stage edits it. C4's line
  rules, which cut lines out of pages, therefore count here as one page rule: the share of a page's words that stand in
  lines which C4 would keep (`c4_min_kept_words`).
- Each rule is a threshold of its own and None turns it off. Rules are tried in the order of the fields, and the first
  that fails is the reason. The detail holds what was measured, and the limit.
- Everything is measured in one walk over the Arrow buffers by a numba kernel (webtext/_quality_kernels.py), whose
  docstring says what a word, a line and a duplicate are. All rules together run at tens of megabytes a second.
- Languages that write no spaces between words (Chinese, Japanese, Thai, ...) pass the rules that count words, and only
  English is asked for English stop words.
- The defaults are the papers' thresholds where these drop next to none of 414 English articles whose text people have
  marked, and wider or off where they do; the comment beside a setting says at what cost. Together they keep 99.3% of
  the articles and 95% of 77 forum threads; the papers' own would keep 92.5% and 61%. These rates are on the very texts
  on which the limits were chosen, so they are a fit, not a forecast. On news that had no part in the choice the
  defaults keep 100% of 2,225 articles of the BBC and 99.3% of 1,523 of Reuters (5 of the 11 lost are alerts of under
  50 words). No such check exists for forums and documentation. `benchmarks/quality.py` prints it all, rule by rule.

Sources: Raffel et al. 2020 (C4), section 2.2; Rae et al. 2021 (Gopher), table A1; Penedo et al. 2024
(FineWeb), section 3.6.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from webtext.records import Document, Drop

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACELESS_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo", "dz", "yue", "wuu"})


def _rule(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """Section [filter]: rules in the order in which they are tried; none or an empty list turns a rule off."""

    languages: tuple[str, ...] = _rule(("en",), "ISO 639-1 codes that are kept; empty keeps all")
    min_language_score: float | None = _rule(0.5, "least probability of the language")
    gopher_min_words: int | None = _rule(50, "least words of a document")
    gopher_max_words: int | None = _rule(100_000, "most words of a document")
    gopher_min_mean_word: float | None = _rule(3.0, "least characters of a word, on average")
    gopher_max_mean_word: float | None = _rule(10.0, "most characters of a word, on average")
    gopher_max_hashes: float | None = _rule(0.1, "most '#' for each word")
    gopher_max_ellipses: float | None = _rule(0.1, "most ellipses for each word")
    gopher_max_bullet_lines: float | None = _rule(0.9, "largest share of lines that start with a bullet")
    gopher_max_ellipsis_lines: float | None = _rule(0.3, "largest share of lines that end in an ellipsis")
    # Gopher: 0.8, which drops 1.4% of gold articles: rankings and tables of figures.
    gopher_min_words_with_letter: float | None = _rule(0.5, "least share of words with a letter in them")
    gopher_min_stop_words: int | None = _rule(2, "how many of the, be, to, of, and, that, have, with (English only)")
    # Gopher: 0.3, which drops 0.5% of articles and 17% of forum threads: names and dates recur in them.
    gopher_max_duplicate_lines: float | None = _rule(0.5, "largest share of lines seen before in the document")
    gopher_max_duplicate_paragraphs: float | None = _rule(0.3, "largest share of paragraphs seen before")
    # Gopher: 0.2, which drops 5% of forum threads.
    gopher_max_duplicate_line_chars: float | None = _rule(0.3, "largest share of characters in lines seen before")
    gopher_max_duplicate_paragraph_chars: float | None = _rule(0.2, "the same in paragraphs seen before")
    gopher_max_top_2gram: float | None = _rule(0.2, "largest share of characters in the most frequent 2-gram")
    gopher_max_top_3gram: float | None = _rule(0.18, "the same of 3-grams")
    gopher_max_top_4gram: float | None = _rule(0.16, "the same of 4-grams")
    # Gopher: half of these six, which drop 1% of articles and 8 to 13% of forum threads, where posts quote each other.
    gopher_max_duplicate_5grams: float | None = _rule(0.3, "largest share of characters in 5-grams seen before")
    gopher_max_duplicate_6grams: float | None = _rule(0.28, "the same of 6-grams")
    gopher_max_duplicate_7grams: float | None = _rule(0.26, "the same of 7-grams")
    gopher_max_duplicate_8grams: float | None = _rule(0.24, "the same of 8-grams")
    gopher_max_duplicate_9grams: float | None = _rule(0.22, "the same of 9-grams")
    gopher_max_duplicate_10grams: float | None = _rule(0.2, "the same of 10-grams")
    # FineWeb: 0.12, which drops 1.9% of articles: lists, code, headings stand on lines of their own here.
    fineweb_min_punctuated_lines: float | None = _rule(None, "least share of lines that end in punctuation")
    # FineWeb: 0.1, which drops 18% of forum threads; Gopher's limit on the same measure is above.
    fineweb_max_duplicate_line_chars: float | None = _rule(None, "largest share of characters in lines seen before")
    # FineWeb: 0.67, which drops 1.2% of articles and 5% of forum threads.
    fineweb_max_short_lines: float | None = _rule(0.95, "largest share of lines of at most 30 characters")
    # C4: 3 (its code: 5), which drops 0.2% (0.5%) of articles: lists of links and of facts.
    c4_min_sentences: int | None = _rule(2, "least sentences of a document")
    c4_lorem_ipsum: bool = _rule(True, "drop documents that say lorem ipsum")
    # C4 was to hold no code; WebText held what people linked. Drops 2.7% of articles.
    c4_curly_bracket: bool = _rule(False, "drop documents with a '{'")
    c4_bad_words: tuple[str, ...] = _rule((), "drop documents with any of these words (C4: a public list of 400)")
    # C4 cuts such lines out. At 0.5 this drops 2.9% of articles, a third of documentation.
    c4_min_kept_words: float | None = _rule(None, "least share of words in lines that pass the five rules below")
    c4_line_punctuation: bool = _rule(True, "such a line ends in punctuation, and not in '...'")
    c4_line_min_words: int = _rule(5, "such a line has at least so many words")
    c4_line_javascript: bool = _rule(True, "such a line does not speak of javascript")
    c4_line_policy: bool = _rule(True, "such a line does not speak of terms of use, privacy policy, cookies")
    c4_line_max_word: int = _rule(1000, "such a line has no word of more characters; 0: any")

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"[filter] {name}: expected 0 or more, got {value}; 'none' turns a rule off")
            if name.startswith(_SHARES) and value is not None and value > 1:
                raise ValueError(f"[filter] {name}: expected a share from 0 to 1, got {value}; 'none' turns a rule off")
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}|und", code):
                raise ValueError(
                    f"[filter] languages: expected ISO 639-1 codes like en, got {code!r}; write them in lower case"
                )


_SHARES = (
    "min_language_score", "gopher_max_bullet", "gopher_max_ellipsis_lines", "gopher_min_words_with",
    "gopher_max_duplicate", "gopher_max_top", "fineweb", "c4_min_kept",
)  # fmt: skip


# Setting, column of the measures, +1 if the limit is the most and -1 if it is the least, whether it counts words.
def _rules() -> tuple[tuple[str, int, int, bool], ...]:
    from webtext import _quality_kernels as k

    return (
        ("gopher_min_words", k.NUM_WORDS, -1, True),
        ("gopher_max_words", k.NUM_WORDS, 1, True),
        ("gopher_min_mean_word", k.MEAN_WORD_CHARS, -1, True),
        ("gopher_max_mean_word", k.MEAN_WORD_CHARS, 1, True),
        ("gopher_max_hashes", k.HASHES_PER_WORD, 1, True),
        ("gopher_max_ellipses", k.ELLIPSES_PER_WORD, 1, True),
        ("gopher_max_bullet_lines", k.BULLET_LINES, 1, False),
        ("gopher_max_ellipsis_lines", k.ELLIPSIS_LINES, 1, False),
        ("gopher_min_words_with_letter", k.WORDS_WITH_LETTER, -1, True),
        ("gopher_min_stop_words", k.STOP_WORDS, -1, True),
        ("gopher_max_duplicate_lines", k.DUPLICATE_LINES, 1, False),
        ("gopher_max_duplicate_paragraphs", k.DUPLICATE_PARAGRAPHS, 1, False),
        ("gopher_max_duplicate_line_chars", k.DUPLICATE_LINE_CHARS, 1, False),
        ("gopher_max_duplicate_paragraph_chars", k.DUPLICATE_PARAGRAPH_CHARS, 1, False),
        ("gopher_max_top_2gram", k.TOP_2GRAM, 1, True),
        ("gopher_max_top_3gram", k.TOP_3GRAM, 1, True),
        ("gopher_max_top_4gram", k.TOP_4GRAM, 1, True),
        ("gopher_max_duplicate_5grams", k.DUPLICATE_5GRAMS, 1, True),
        ("gopher_max_duplicate_6grams", k.DUPLICATE_6GRAMS, 1, True),
        ("gopher_max_duplicate_7grams", k.DUPLICATE_7GRAMS, 1, True),
        ("gopher_max_duplicate_8grams", k.DUPLICATE_8GRAMS, 1, True),
        ("gopher_max_duplicate_9grams", k.DUPLICATE_9GRAMS, 1, True),
        ("gopher_max_duplicate_10grams", k.DUPLICATE_10GRAMS, 1, True),
        ("fineweb_min_punctuated_lines", k.PUNCTUATED_LINES, -1, False),
        ("fineweb_max_duplicate_line_chars", k.DUPLICATE_LINE_CHARS, 1, False),
        ("fineweb_max_short_lines", k.SHORT_LINES, 1, False),
        ("c4_min_sentences", k.SENTENCES, -1, False),
        ("c4_lorem_ipsum", k.LOREM_IPSUM, 1, False),
        ("c4_curly_bracket", k.CURLY_BRACKETS, 1, False),
        ("c4_min_kept_words", k.C4_KEPT_WORDS, -1, True),
    )


def drop_reason(document: Document, settings: QualitySettings) -> str | None:
    """The rule that one document fails, None if it passes all."""
    table = pa.table(
        {
            "id": [document.id],
            "text": [document.text],
            "language": [document.language],
            "language_score": [document.language_score],
        }
    )
    drop = drop_reasons(table, settings)[0]
    return drop.reason if drop else None


def drop_reasons(documents: pa.Table | pa.RecordBatch, settings: QualitySettings) -> list[Drop | None]:
    """For each row of `documents` (columns id, text, language, language_score) the reason to drop it, or None.

    `Drop.reason` is "language", "language_score" or the name of the setting; `detail` is what was measured, and the
    limit.
    """
    count = len(documents)
    ids = documents.column("id").to_pylist()
    languages = documents.column("language").to_pylist()
    scores = np.asarray(
        documents.column("language_score").to_numpy(zero_copy_only=False)
        if isinstance(documents, pa.RecordBatch)
        else documents.column("language_score").to_numpy(),
        np.float64,
    )
    drops: list[Drop | None] = [None] * count
    kept = np.ones(count, np.bool_)
    if settings.languages:
        wanted = frozenset(settings.languages)
        for row in [row for row in range(count) if languages[row] not in wanted]:
            kept[row] = False
            drops[row] = Drop("language", f"{languages[row]} is not {' '.join(settings.languages)}", id=ids[row])
    if settings.min_language_score is not None:
        for row in np.flatnonzero(kept & (scores < settings.min_language_score)).tolist():
            kept[row] = False
            drops[row] = Drop("language_score", f"{scores[row]:.3f} < {settings.min_language_score:g}", id=ids[row])
    rows = np.flatnonzero(kept)
    if not len(rows):
        return drops
    texts = _texts(documents, rows if len(rows) < count else None)
    measured = measures(texts, settings)
    spaced = np.array([languages[row] not in SPACELESS_LANGUAGES for row in rows.tolist()], np.bool_)
    english = np.array([languages[row] == "en" for row in rows.tolist()], np.bool_)
    left = np.ones(len(rows), np.bool_)
    for name, column, sign, counts_words in _rules():
        limit = getattr(settings, name)
        if limit is None or limit is False:
            continue
        most = 0.0 if limit is True else float(limit)
        failing = left & (sign * measured[:, column] > sign * most)
        if counts_words:
            failing &= spaced
        if name == "gopher_min_stop_words":
            failing &= english
        for index in np.flatnonzero(failing).tolist():
            row = int(rows[index])
            drops[row] = Drop(name, f"{measured[index, column]:.4g} {'>' if sign > 0 else '<'} {most:g}", id=ids[row])
        left &= ~failing
    if settings.c4_bad_words:
        pattern = _bad_words(settings.c4_bad_words)
        for index in np.flatnonzero(left).tolist():
            if match := pattern.search(texts[index].as_py()):
                row = int(rows[index])
                drops[row] = Drop("c4_bad_words", match.group().lower(), id=ids[row])
    return drops


def measures(texts: pa.Array, settings: QualitySettings) -> NDArray[np.float64]:
    """float64[n, NUM_MEASURES] of a string or large_string array; the columns: webtext/_quality_kernels.py."""
    from webtext import _quality_kernels as kernels

    data, offsets = _buffers(texts)
    c4 = [
        int(settings.c4_line_punctuation),
        settings.c4_line_min_words,
        int(settings.c4_line_javascript),
        int(settings.c4_line_policy),
        settings.c4_line_max_word,
    ]
    patterns = [pattern.encode() for pattern in C4_PHRASES]
    out = np.zeros((len(texts), kernels.NUM_MEASURES))
    kernels.measure(
        data,
        offsets,
        _classes(),
        np.array(
            [kernels.word_hash(np.frombuffer(word.encode(), np.uint8)) for word in kernels.STOP_WORDS_OF_GOPHER],
            np.uint64,
        ),
        np.frombuffer(b"".join(patterns), np.uint8),
        np.cumsum([len(pattern) for pattern in patterns]).astype(np.int64),
        np.array(c4, np.int64),
        out,
    )
    return out


C4_PHRASES = (
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)  # the order matters to the kernel: the first is a page rule, the second its own line rule


def audit_language(texts: Sequence[str]) -> list[str]:
    """The language of each text by a second detector (resiliparse's, which shares no model with the first), "und" where
    it knows none: the report compares it with the first, in bytes per language."""
    from resiliparse.parse.lang import detect_fast

    found = []
    for text in texts:
        language, _ = detect_fast(text[:20_000])
        found.append("und" if language == "unknown" else str(language))
    return found


def _texts(documents: pa.Table | pa.RecordBatch, rows: NDArray[np.int64] | None) -> pa.Array:
    column = documents.column("text")
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.cast(pa.large_string()).combine_chunks()
    return column if rows is None else column.cast(pa.large_string()).take(pa.array(rows))


def _buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of a string array without nulls, and its offsets into them; nothing is copied but 32-bit offsets."""
    if texts.null_count:
        raise ValueError(f"expected texts without nulls, got {texts.null_count}; filter them out first")
    wide = pa.types.is_large_string(texts.type)
    if not (wide or pa.types.is_string(texts.type)):
        raise ValueError(f"expected string or large_string texts, got {texts.type}")
    _, offset_buffer, data_buffer = texts.buffers()
    if not len(texts) or offset_buffer is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    kind = np.int64 if wide else np.int32
    offsets = np.frombuffer(offset_buffer, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = (
        np.frombuffer(data_buffer, np.uint8) if data_buffer is not None and data_buffer.size else np.zeros(0, np.uint8)
    )
    return data, offsets


@functools.cache
def _classes() -> NDArray[np.uint8]:
    """The class of each code point (letter, number, white space, other), by the frozen table of webtext._categories."""
    from webtext._categories import RUNS

    runs = [(int(length), "OLNS".index(kind)) for length, kind in re.findall(r"(\d+)([OLNS])", RUNS)]
    classes = np.repeat(np.array([kind for _, kind in runs], np.uint8), [length for length, _ in runs])
    return np.ascontiguousarray(classes)


@functools.cache
def _bad_words(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
