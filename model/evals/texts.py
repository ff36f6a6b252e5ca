"""Evaluation texts: a file read, its tokens, and which line or record each token belongs to.

- A protocol is how a text is brought to the model and what it is divided by: `ptb`, `wikitext` and `1bw` restore prose
  with an invertible de-tokenizer and count the original words, a line end being one; `plain`, `enwik8` and `text8`
  take the file as it is; records (.jsonl with a field `text`) are documents of their own. Sets of questions or of
  choices have no such field and are refused: their tasks have measures of their own, and joining their fields into a
  text is a choice that moves the score, so it is the user's. (Overlap needs no such choice: it looks at every field.)
- Examples are numbered as in overlap/examples.parquet: records in file order, or lines that are not blank.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evals.detokenize import DETOKENIZERS

PROTOCOLS = ("plain", "ptb", "wikitext", "1bw", "enwik8", "text8", "lambada")
_PROTOCOL_OF_NAME = {
    "ptb": "ptb",
    "wikitext-2": "wikitext",
    "wikitext-103": "wikitext",
    "wikitext2": "wikitext",
    "wikitext103": "wikitext",
    "wikitext-2-raw": "wikitext",
    "wikitext-103-raw": "wikitext",
    "1bw": "1bw",
    "enwik8": "enwik8",
    "text8": "text8",
    "lambada": "lambada",
}


@dataclass(frozen=True, slots=True)
class TextSet:
    """One entry of `[evaluate] sets`."""

    name: str
    protocol: str
    path: Path

    @classmethod
    def of(cls, entry: str) -> TextSet:
        """The set of `NAME=PATH` or `NAME:PROTOCOL=PATH`. ValueError for an unknown protocol or a missing file."""
        name, _, path = entry.partition("=")
        name, _, protocol = name.strip().partition(":")
        protocol = protocol or _PROTOCOL_OF_NAME.get(name, "plain")
        if protocol not in PROTOCOLS:
            raise ValueError(f"[evaluate] sets: expected a protocol of {', '.join(PROTOCOLS)}, got {protocol!r}")
        file = Path(path.strip())
        if not file.is_file():
            raise ValueError(f"[evaluate] sets: expected a file for {name}, found none at {file}; correct the path")
        return cls(name, protocol, file)


@dataclass(frozen=True, slots=True)
class Text:
    """A text as the model reads it: segments in order, some of them examples."""

    documents: list[list[str]]  # each the segments (lines with their line end, or one record) of a document
    examples: list[list[int]]  # the example number of each segment, -1 for blank lines
    words: list[list[int]]  # original words of each segment
    bytes: list[list[int]]  # original UTF-8 bytes of each segment
    file_sha256: str
    line_ends: int = 0  # of the file; 0 for records


def read_bytes(path: Path) -> bytes:
    """The file's bytes, decompressed by suffix (.gz, .zst)."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    if path.suffix == ".zst":
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)) as reader:
            return reader.read()
    return raw


def read_records(path: Path) -> list[dict[str, Any]] | None:
    """The records of a JSON lines file, None for any other."""
    if ".jsonl" not in path.suffixes and ".ndjson" not in path.suffixes:
        return None
    records = []
    for number, line in enumerate(read_bytes(path).decode("utf-8").split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected a JSON object, {error}; correct it") from error
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                got = f"the fields {', '.join(record)}" if isinstance(record, dict) else type(record).__name__
                raise ValueError(
                    f"{path}, line {number}: expected an object whose field `text` is the text to score, got {got}; "
                    "put what is to be scored into one field `text`: of a question and an answer only you know how"
                )
            records.append(record)
    return records


def read_text(entry: TextSet) -> Text:
    """The text of a set under its protocol."""
    digest = hashlib.sha256(entry.path.read_bytes()).hexdigest()
    records = read_records(entry.path)
    if records is not None:
        texts = [record["text"] for record in records]
        return Text(
            [[text] for text in texts],
            [[number] for number in range(len(texts))],
            [[len(text.split())] for text in texts],
            [[len(text.encode())] for text in texts],
            digest,
        )
    text = read_bytes(entry.path).decode("utf-8", "replace")
    original = text.split("\n")
    ended = not original[-1]  # the last line has its line end
    lines = original[:-1] if ended else original
    shown = lines
    if entry.protocol in DETOKENIZERS:
        shown = DETOKENIZERS[entry.protocol].restore_lines(text)[: len(lines)]
    line_ends = [True] * len(lines)
    if not ended:
        line_ends[-1] = False
    as_word = 1 if entry.protocol in DETOKENIZERS else 0  # a line end is a word of these sets: <eos>
    numbers = np.cumsum([bool(line.strip()) for line in lines]) - 1
    return Text(
        [[line + "\n" * end for line, end in zip(shown, line_ends, strict=True)]],
        [[int(number) if line.strip() else -1 for number, line in zip(numbers, lines, strict=True)]],
        [[len(line.split()) + as_word * end for line, end in zip(lines, line_ends, strict=True)]],
        [[len(line.encode()) + end for line, end in zip(lines, line_ends, strict=True)]],
        digest,
        sum(line_ends),
    )


def segment_of_tokens(segments: list[str], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The segment that each token begins in, of the tokens' byte lengths, int64[n]."""
    ends = np.cumsum([len(segment.encode()) for segment in segments])
    starts = np.cumsum(lengths) - lengths
    if int(lengths.sum()) != (int(ends[-1]) if len(ends) else 0):
        raise ValueError(
            f"expected tokens of {int(ends[-1]):,} bytes, got {int(lengths.sum()):,}; it is not byte-level, or it "
            "changes text"
        )
    return np.searchsorted(ends, starts, side="right")
