"""dedup.evaluation: every layout gives the examples an evaluation scores."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.evaluation import evaluation_set, read_evaluation_sets, read_examples, record_text


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_set_of_the_real_data_is_read_with_its_number_of_examples(shared_data: Path) -> None:
    sets = {one.name: one for one in read_evaluation_sets([shared_data / "eval"])}
    counts = {name: len(one.texts) for name, one in sets.items()}
    assert counts == {
        "1bw": 6_075,
        "cbt": counts["cbt"],
        "cnn_dailymail": 235,
        "enwik8": counts["enwik8"],
        "hellaswag": 10_042,
        "lambada": 5_153,
        "lambada/original": 5_153,
        "nq_open": 3_610,
        "ptb": 3_761,
        "ptb/validation": 3_370,
        "webtext-samples": counts["webtext-samples"],
        "wikitext-2": counts["wikitext-2"],
        "wikitext-2-raw": counts["wikitext-2"],
        "wikitext-2/validation": counts["wikitext-2/validation"],
        "winograd/wsc273": 273,
        "winograd/wscollection": 285,
        "wmt14/newstest2014-fren-ref.en": 3_003,
        "wmt14/newstest2014-fren-src.fr": 3_003,
    }
    assert sorted(name for name, one in sets.items() if one.train is not None) == [
        "ptb",
        "ptb/validation",
        "wikitext-2",
        "wikitext-2/validation",
    ]
    assert sets["winograd/wsc273"].texts[2].as_py().startswith("The trophy doesn't fit into the brown suitcase because")
    assert "[MASK]" not in sets["winograd/wsc273"].texts[2].as_py()
    assert sets["nq_open"].texts[1].as_py() == "who wrote he ain't heavy he's my brother lyrics Bobby Scott Bob Russell"
    lambada = (shared_data / "eval" / "lambada" / "test.jsonl").read_bytes()
    assert sets["lambada"].file_sha256 == hashlib.sha256(lambada).hexdigest()
    assert sets["lambada"].texts[3].as_py() == json.loads(lambada.split(b"\n")[3])["text"]


def test_a_train_file_beside_the_test_is_the_sets_own_and_no_set(tmp_path: Path) -> None:
    write(tmp_path / "one" / "test.txt", "a\n\nb\n")
    write(tmp_path / "one" / "train.txt", "c\nd\n")
    write(tmp_path / "one" / "validation.txt", "e\n")
    write(tmp_path / "two" / "questions.jsonl", '{"question": "q?", "answer": "a", "id": 5}\n')
    sets = read_evaluation_sets([tmp_path])
    assert [one.name for one in sets] == ["one", "one/validation", "two"]
    assert [one.texts.to_pylist() for one in sets] == [["a", "b"], ["e"], ["q? a"]]
    assert [one.train and one.train.to_pylist() for one in sets] == [["c", "d"], ["c", "d"], None]
    assert sets[2].ids == ("5",)
    assert sets[0].whole().to_pylist() == ["a\nb"]
    (alone,) = read_evaluation_sets([tmp_path / "one" / "test.txt"])
    assert (alone.name, alone.train.to_pylist()) == ("one", ["c", "d"])
    (direct,) = read_evaluation_sets([tmp_path / "two"])
    assert direct.name == "two"


def test_formats_and_compressions_give_the_same_examples(tmp_path: Path) -> None:
    records = [{"text": "one", "id": "x"}, {"text": "two", "id": "y"}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write(tmp_path / "b.json", json.dumps(records, indent=1))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "c.parquet")
    for name in ("a.jsonl.gz", "b.json", "c.parquet"):
        assert read_examples(tmp_path / name) == (["one", "two"], ("x", "y"))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"article": "long", "highlights": "short", "id": "1"}, "long short"),
        ({"question": "Which?", "choices": ["a", "b"], "answerKey": "B"}, "Which? b"),
        ({"ctx": "A man", "endings": ["sits", "runs"], "label": 0}, "A man sits"),
        ({"premise": "p", "hypothesis": "h", "label": 1}, "p h"),
        ({"unknown": "kept", "id": "not this"}, "kept"),
        ({"number": 5}, ""),
    ],
)
def test_the_text_of_a_record_is_what_a_model_would_have_seen(record: dict[str, object], text: str) -> None:
    assert record_text(record) == text


def test_what_is_no_evaluation_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none at"):
        read_evaluation_sets([tmp_path / "nothing"])
    write(tmp_path / "a" / "train.txt", "x")
    with pytest.raises(ValueError, match="besides training files"):
        read_evaluation_sets([tmp_path / "a"])
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: expected a JSON record"):
        read_examples(write(tmp_path / "bad.jsonl", '{"text": "x"}\n{"text": \n'))
    with pytest.raises(ValueError, match="record 1: expected an object"):
        read_examples(write(tmp_path / "list.jsonl", '"text"\n5\n'))
    with pytest.raises(ValueError, match="expected examples, found none"):
        read_examples(write(tmp_path / "empty.txt", "\n\n"))
    with pytest.raises(ValueError, match="expected XML"):
        read_examples(write(tmp_path / "bad.xml", "<a>"))


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "x" / "ptb" / "test.txt", "a")
    write(tmp_path / "y" / "ptb" / "test.txt", "b")
    with pytest.raises(ValueError, match="two sets are named 'ptb'"):
        read_evaluation_sets([tmp_path / "x" / "ptb", tmp_path / "y" / "ptb"])


def test_texts_at_hand_are_a_set_without_a_file() -> None:
    one = evaluation_set("validation", ["a", "b"], ids=["x", "y"])
    assert (one.file_sha256, one.whole_file, one.ids) == ("", False, ("x", "y"))
    with pytest.raises(ValueError, match="expected one for each of 1 texts, got 2"):
        evaluation_set("validation", ["a"], ids=["x", "y"])
