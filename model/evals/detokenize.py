"""Invertible de-tokenizers: Penn Treebank, WikiText and 1BW as prose, and back without loss.

GPT-2 was scored on text with as few artefacts of tokenization as possible; being invertible is what keeps the
probability of a data set the probability of that data set.

- `restore` glues tokens by rules ("do n't" -> "don't", "guest @-@ starring" -> "guest-starring"); `tokenize` takes
  them apart again, and is a function of what stands between two spaces. `restore` glues only what `tokenize` would
  undo, so the round trip holds by construction, for any text.
- What `tokenize` would take apart by mistake ("2008." where it is one token) is kept whole by a
  second space before it; a line that is not tokens between single spaces is kept whole by a space before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'ll", "'d", "'m", "'")
_ABBREVIATION = re.compile(
    r"(?:[^\W\d_]\.)+|(?:No|Nos|Mr|Mrs|Ms|Dr|St|Col|Gen|Lt|Sgt|Sen|Gov|Rep|Rev|Capt|Jr|Sr|Inc|Corp|Co|Ltd|Bros|vs|etc)\."
)
_INNER = re.compile(r"(?<=\w)(-)(?=\w)|(?<=\d)([,.])(?=\d)|(?<=\w)(/)(?=\w)")
_SLASH = re.compile(r"(?<=\w)(/)(?=\w)")


@dataclass(frozen=True, slots=True)
class Detokenizer:
    """One data set's rules.

    padded: lines start and end with a space. glued: whether a token (and whether a quotation opened before it) holds
    on to the left or the right; split: the tokens of what stands between two spaces; surface: a token as prose has it.
    """

    name: str
    padded: bool
    glued: Callable[[str, bool], tuple[bool, bool]]
    split: Callable[[str], list[str]]
    surface: Callable[[str], str]

    def restore(self, text: str) -> str:
        """Prose of tokenized `text`, line by line."""
        return "\n".join(self.restore_lines(text))

    def restore_lines(self, text: str) -> list[str]:
        """`restore(text)` as lines; text that ends with a line end has an empty last line."""
        lines = text.split("\n")
        last = [] if lines[-1] else [lines.pop()]
        return [self._restore_line(line) for line in lines] + last

    def tokenize(self, text: str) -> str:
        """The inverse: `tokenize(restore(text)) == text`."""
        lines = text.split("\n")
        last = [] if lines[-1] else [lines.pop()]
        return "\n".join([self._tokenize_line(line) for line in lines] + last)

    def _pad(self, tokens: list[str]) -> str:
        if not self.padded:
            return " ".join(tokens)
        return f" {' '.join(tokens)} " if tokens else " "

    def _restore_line(self, line: str) -> str:
        tokens = [token for token in line.split(" ") if token]
        if self._pad(tokens) != line or (not tokens and not self.padded):
            return " " + line
        words = self._glue(tokens)
        if words and words[0].startswith(" "):
            return " " + line
        return " ".join(words)

    def _tokenize_line(self, line: str) -> str:
        if line.startswith(" "):
            return line[1:]
        tokens: list[str] = []
        verbatim = False
        for word in line.split(" ") if line else []:
            if not word:
                verbatim = True
                continue
            tokens += [word] if verbatim else self.split(word)
            verbatim = False
        return self._pad(tokens)

    def _glue(self, tokens: list[str]) -> list[str]:
        """Words of the line, one with a leading space being kept whole."""
        words: list[str] = []
        run: list[str] = []  # tokens that the rules would glue
        quoting = holds = False
        for token in tokens:
            left, right = self.glued(token, quoting)
            if token == '"':
                quoting = not quoting
            if run and not (left or holds):
                words += self._settle(run)
                run = []
            run.append(token)
            holds = right
        return words + self._settle(run) if run else words

    def _settle(self, run: list[str]) -> list[str]:
        """Words whose split is the run: the longest beginning of it that is its own inverse, and so on."""
        words = []
        while run:
            for length in range(len(run), 0, -1):
                word = "".join(map(self.surface, run[:length]))
                if self.split(word) == run[:length]:
                    break
            else:
                length = 1
                word = run[0] if self.split(run[0]) == run[:1] else " " + run[0]
            words.append(word)
            run = run[length:]
        return words


# Rules -----------------------------------------------------------------------------------------------------------


def _peel(word: str, opening: str, closing: str, endings: tuple[str, ...]) -> tuple[list[str], str, list[str]]:
    """Marks before a word, the word, what follows it; an abbreviation keeps its full stop."""
    before: list[str] = []
    after: list[str] = []
    while len(word) > 1 and word[0] in opening:
        before.append(word[0])
        word = word[1:]
    while len(word) > 1 and not _ABBREVIATION.fullmatch(word):
        if word.endswith("...") and len(word) > 3:
            ending = "..."
        elif word[-1] in closing and not word.endswith(".."):
            ending = word[-1]
        else:
            ending = next((mark for mark in endings if word.endswith(mark) and len(word) > len(mark)), "")
        if not ending:
            break
        after.insert(0, ending)
        word = word[: -len(ending)]
    return before, word, after


def _ptb_glued(token: str, quoting: bool) -> tuple[bool, bool]:
    return token in (*_CONTRACTIONS, "n't"), token in ("$", "#")


def _ptb_split(word: str) -> list[str]:
    before, word, after = _peel(word, "$#", "", ("n't", *_CONTRACTIONS))
    return [*before, word.replace("/", "\\/"), *after]


def _ptb_surface(token: str) -> str:
    return token.replace("\\/", "/")


_OPENING = '(["$£€¥#'
_CLOSING = ',.;:!?)]"%'


def _prose_glued(token: str, quoting: bool) -> tuple[bool, bool]:
    if token == '"':
        return quoting, not quoting
    if token in ("@-@", "@,@", "@.@", "/"):
        return True, True
    return token in _CLOSING or token == "..." or token in _CONTRACTIONS, token in _OPENING


def _wikitext_split(word: str) -> list[str]:
    if set(word) == {"="}:
        return list(word)
    before, word, after = _peel(word, _OPENING, _CLOSING, _CONTRACTIONS)
    if word.startswith("@"):
        return [*before, word, *after]
    parts = [part for part in _INNER.split(word) if part]
    return [*before, *(f"@{part}@" if part in "-,." and len(parts) > 1 else part for part in parts), *after]


def _wikitext_glued(token: str, quoting: bool) -> tuple[bool, bool]:
    return _prose_glued(token, quoting) if token != "=" else (False, False)


def _wikitext_surface(token: str) -> str:
    return token[1] if token in ("@-@", "@,@", "@.@") else token


def _1bw_split(word: str) -> list[str]:
    before, word, after = _peel(word, _OPENING, _CLOSING, _CONTRACTIONS)
    return [*before, *(part for part in _SLASH.split(word) if part), *after]


PTB = Detokenizer("ptb", True, _ptb_glued, _ptb_split, _ptb_surface)
WIKITEXT = Detokenizer("wikitext", True, _wikitext_glued, _wikitext_split, _wikitext_surface)
ONE_BILLION = Detokenizer("1bw", False, _prose_glued, _1bw_split, str)
DETOKENIZERS = {detokenizer.name: detokenizer for detokenizer in (PTB, WIKITEXT, ONE_BILLION)}
