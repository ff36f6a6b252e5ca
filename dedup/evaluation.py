"""Evaluation sets of any folder, as texts: what overlap is measured against and decontamination looks for.

- A file is a set: .jsonl and .json (a record a line), .parquet, .txt and files without suffix, .sgm (WMT's segments),
  .xml (Winograd's schemas); the text formats also as .zst, .gz, .bz2, .xz. A set is named after its folder: `ptb` for
  ptb/test.txt, or for the only file there; ptb/validation.txt is `ptb/validation`.
- A file with "train" in its name is no set of its own: it is what the other files of its folder are compared with
  (the paper's row "the set's own train").
- An example is what an evaluation scores: a record, a schema, a segment; in a plain text each line that is not
  blank, but for the layouts of HellaSwag (context, answer, four endings) and Winograd (sentence, pronoun, candidates,
  answer). Examples are numbered from 0 in file order; that number and the file's SHA-256 name one for good.
- The text of a record is what a model would have to have seen: its fields of TEXT_FIELDS, in that order, and for
  multiple choice the right ending only.
"""

from __future__ import annotations

import hashlib
import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dedup.texts import open_bytes, suffixes

TEXT_FIELDS = (
    *("text", "content", "article", "document", "passage", "story", "context", "ctx", "premise"),
    *("sentence", "sentence1", "sentence2", "hypothesis", "question", "query", "prompt", "input"),
    *("answer", "answers", "completion", "target", "output", "highlights", "summary", "solution"),
)
ID_FIELDS = ("id", "_id", "idx", "ind", "example_id", "question_id", "task_id")
SET_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".text", "", ".sgm", ".xml")

_CHOICES = ("endings", "choices", "options")
_LABELS = ("label", "gold", "answer_index", "answerKey", "answer")
_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """The examples of one file."""

    name: str
    path: str  # as given; "" for texts that are no file
    file_sha256: str  # of the file's bytes; "" for texts that are no file
    texts: Any  # pa.Array of large_string: one text an example
    ids: tuple[str | None, ...]  # the examples' own names, where they have one
    train: Any = None  # pa.Array of large_string: the set's own training texts, or None
    whole_file: bool = True  # whether the examples follow each other as one text

    def whole(self) -> Any:
        """pa.Array of one large_string: the file as one text."""
        return joined(self.texts)


def joined(texts: Any) -> Any:
    """pa.Array of one large_string: all `texts`, a line each."""
    return pa.array(["\n".join(texts.to_pylist())], pa.large_string())


def evaluation_set(
    name: str, texts: Sequence[str], *, ids: Sequence[str | None] | None = None, whole_file: bool = False
) -> EvaluationSet:
    """A set of texts at hand, such as the corpus's own validation split."""
    names = tuple(ids) if ids is not None else (None,) * len(texts)
    if len(names) != len(texts):
        raise ValueError(f"ids: expected one for each of {len(texts)} texts, got {len(names)}")
    return EvaluationSet(name, "", "", pa.array(texts, pa.large_string()), names, None, whole_file)


def read_evaluation_sets(paths: Sequence[str | Path]) -> list[EvaluationSet]:
    """The sets that `paths` (files, folders, globs) hold, by name. ValueError where a path holds none or is damaged."""
    found: dict[Path, str] = {}  # file -> name of its folder
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if _is_set(file))
            folders = {file: file.parent.relative_to(path).as_posix() for file in files}
            folders = {file: path.absolute().name if name == "." else name for file, name in folders.items()}
        else:
            files = [path] if path.is_file() else sorted(file for file in _matches(path) if _is_set(file))
            folders = {file: file.absolute().parent.name for file in files}
        if not files:
            raise ValueError(
                f"evaluation_sets: expected a file, folder or glob with {', '.join(filter(None, SET_SUFFIXES))}, "
                f"found none at {given}"
            )
        found.update(folders)
    tested = [file for file in found if not _is_train(file)]
    if not tested:
        raise ValueError(
            "evaluation_sets: expected at least one file besides training files, found none; name the test files"
        )
    sets = []
    for file in tested:
        siblings = [other for other in tested if other.parent == file.parent]
        stem = _stem(file)
        name = found[file] if stem == "test" or len(siblings) == 1 else f"{found[file]}/{stem}"
        texts, ids = read_examples(file)
        trains = sorted(other for other in file.parent.iterdir() if _is_set(other) and _is_train(other))
        train = [text for other in trains for text in read_examples(other)[0]]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        sets.append(
            EvaluationSet(
                name,
                str(file),
                digest,
                pa.array(texts, pa.large_string()),
                ids,
                pa.array(train, pa.large_string()) if trains else None,
            )
        )
    sets.sort(key=lambda one: (one.name, one.path))
    names = [one.name for one in sets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"evaluation_sets: two sets are named {name!r}; give the folder above them, or rename one")
    return sets


def read_examples(path: Path) -> tuple[list[str], tuple[str | None, ...]]:
    """(texts, ids) of the examples of one file, in file order. ValueError where it cannot be read."""
    kind = suffixes(path)[0]
    if kind == ".parquet":
        records: Iterator[Any] = iter(pq.read_table(path).to_pylist())
        return _of_records(path, records)
    with open_bytes(path) as file:
        raw = file.read()
    if kind in (".jsonl", ".ndjson", ".json"):
        return _of_records(path, _json_records(path, raw))
    if kind == ".xml":
        texts = _winograd_schemas(path, raw)
    else:
        text = raw.decode("utf-8", "replace")
        if kind == ".sgm":
            texts = [html.unescape(segment).strip() for segment in _SEGMENT.findall(text)]
        else:
            # Lines end at \n alone: str.splitlines would also break at form feeds and Unicode's separators.
            lines = [line.removesuffix("\r") for line in text.split("\n")]
            texts = _hellaswag(lines) or _winograd(lines) or [line for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path}: expected examples, found none; is it an evaluation set?")
    return texts, (None,) * len(texts)


def record_text(record: Mapping[str, Any]) -> str:
    """The text of a record with named fields.

    >>> record_text({"question": "who wrote it", "answer": ["Bobby Scott", "Bob Russell"]})
    'who wrote it Bobby Scott Bob Russell'
    >>> record_text({"ctx": "A man", "endings": ["sits.", "runs."], "label": "1", "source_id": "x"})
    'A man runs.'
    """
    parts: list[str] = []
    choices = next((record[name] for name in _CHOICES if isinstance(record.get(name), list)), None)
    for name in TEXT_FIELDS:
        value = record.get(name)
        if choices is not None and name in _LABELS:
            continue
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, list):
            parts += [item for item in value if isinstance(item, str)]
    if choices is not None:
        label = next((record[name] for name in _LABELS if name in record), None)
        index = int(str(label)) if str(label).isdigit() else ord(str(label)[:1] or "?") - ord("A")
        if 0 <= index < len(choices) and isinstance(choices[index], str):
            parts.append(choices[index])
    if not parts:
        parts = [value for name, value in record.items() if isinstance(value, str) and name not in ID_FIELDS]
    return " ".join(part for part in parts if part)


def _is_set(path: Path) -> bool:
    return path.is_file() and not path.name.startswith((".", "_")) and suffixes(path)[0] in SET_SUFFIXES


def _is_train(path: Path) -> bool:
    return "train" in _stem(path)


def _stem(path: Path) -> str:
    kind, compression = suffixes(path)
    return path.name.lower().removesuffix(compression).removesuffix(kind)


def _matches(path: Path) -> list[Path]:
    pattern = str(path)
    root = Path(path.anchor) if path.is_absolute() else Path()
    pattern = pattern.removeprefix(path.anchor)
    return list(root.glob(pattern)) if pattern else []


def _json_records(path: Path, raw: bytes) -> Iterator[Any]:
    if raw.lstrip().startswith(b"["):
        try:
            yield from msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}: expected a JSON list of records: {error}") from error
        return
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            try:
                yield msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}: expected a JSON record: {error}") from error


def _of_records(path: Path, records: Iterator[Any]) -> tuple[list[str], tuple[str | None, ...]]:
    texts: list[str] = []
    ids: list[str | None] = []
    for number, record in enumerate(records):
        if isinstance(record, str):
            record = {"text": record}
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}, record {number}: expected an object with text fields, got {type(record).__name__}"
            )
        texts.append(record_text(record))
        name = next((record[key] for key in ID_FIELDS if record.get(key) is not None), None)
        ids.append(None if name is None else str(name))
    if not any(texts):
        raise ValueError(f"{path}: expected records with text, found none; is it an evaluation set?")
    return texts, tuple(ids)


def _hellaswag(lines: list[str]) -> list[str]:
    """Records of six lines: context, number of the right ending, four endings; [] for another layout."""
    lines = lines[:-1] if lines and not lines[-1].strip() else lines
    if not lines or len(lines) % 6 or any(line.strip() not in ("0", "1", "2", "3") for line in lines[1::6]):
        return []
    return [f"{lines[i]} {lines[i + 2 + int(lines[i + 1])]}" for i in range(0, len(lines), 6)]


def _winograd(lines: list[str]) -> list[str]:
    """Records of five lines: sentence with [MASK], "[MASK]", candidates, answer, blank; [] for another layout."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    lines = [*lines, ""]
    if len(lines) % 5 or any(line.strip() != "[MASK]" for line in lines[1::5]):
        return []
    return [lines[i].replace("[MASK]", lines[i + 3].strip()).strip() for i in range(0, len(lines), 5)]


def _winograd_schemas(path: Path, raw: bytes) -> list[str]:
    try:
        root = ElementTree.fromstring(raw)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: expected XML, got something else: {error}") from error
    texts = []
    for schema in root.iter("schema"):
        pieces = [" ".join((schema.findtext(f"text/{tag}") or "").split()) for tag in ("txt1", "pron", "txt2")]
        texts.append(" ".join(piece for piece in pieces if piece))
    return texts
