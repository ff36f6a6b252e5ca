"""Evaluations against transformers' logits and plain loops."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model import hf
from model.config import EvaluateJob, EvaluateSettings
from model.evals import lambada, published
from model.evals.__main__ import main
from model.evals.evaluate import Tokenizer, run, table
from model.evals.scoring import Scorer, windows
from model.evals.texts import TextSet, read_text
from model.gpt2 import GPT2, Architecture
from model.parallel import Processes

VOCAB, END, CONTEXT = 97, 96, 16
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A random model with opinions, as a transformers directory."""
    model = GPT2(Architecture(vocab_size=VOCAB, context=CONTEXT, layers=2, width=32, heads=2))
    model.initialise(4)
    with torch.no_grad():
        model.transformer.wte.weight[:VOCAB].mul_(15)
    directory = tmp_path_factory.mktemp("weights") / "hf"
    hf.export(model.state_dict(), model.config, directory, tokenizer=tokenizer, end_of_text=END)
    return directory


@pytest.fixture
def evaluate(weights: Path, tokenizer: Path, tmp_path: Path) -> Any:
    def make(*sets: str, examples: Path | None = None, tokens: Path | None = None, **changes: Any) -> dict[str, Any]:
        settings = EvaluateSettings(sets=sets, device="cpu", dtype="float64", micro_batch=3, **changes)
        return run(
            EvaluateJob(
                settings, str(tmp_path / "run"), str(tokenizer), str(tokens) if tokens else None, str(weights),
                str(examples) if examples else None,
            )
        )  # fmt: skip

    return make


def slow_nats(weights: Path, ids: list[int], stride: int | None) -> list[float]:
    """-ln P of each token by transformers' own model, a token at a time, with the context its window has."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(weights).double().eval()
    row = [END, *ids]
    nats = []
    for place in range(len(ids)):
        if stride is None or place < CONTEXT:
            begin = place // CONTEXT * CONTEXT
            if stride is None:
                # without overlap the last window is moved left so that it is full
                end = min(len(ids), begin + CONTEXT)
                begin = max(0, end - CONTEXT)
        else:
            end = min(len(ids), CONTEXT + ((place - CONTEXT) // stride + 1) * stride)
            begin = max(0, end - CONTEXT)
        with torch.no_grad():
            logits = theirs(torch.tensor([row[begin : place + 1]])).logits[0, -1]
        nats.append(-float(logits.log_softmax(-1)[row[place + 1]]))
    return nats


@pytest.mark.parametrize("stride", [None, 1, 5, 16])
def test_windows_score_every_token_once(stride: int | None) -> None:
    for length in range(60):
        scored: list[int] = []
        for begin, first in windows(length, CONTEXT, stride or CONTEXT):
            end = min(begin + CONTEXT, length)
            scored += range(first, end)
            assert first == 0 or stride is None or first - begin >= CONTEXT - stride
        assert scored == list(range(length))


@pytest.mark.parametrize("stride", [None, 5])
def test_bits_per_byte_and_perplexities_are_those_of_a_plain_loop(
    evaluate: Any, weights: Path, tokenizer: Path, tmp_path: Path, stride: int | None
) -> None:
    text = "it was n't , he said .\n\nthe end of it . \n"
    file = tmp_path / "some.txt"
    file.write_text(text)
    result = evaluate(f"some={file}", stride=stride, validation=False)["sets"]["some"]
    ids = Tokenizer(tokenizer).encode(text).tolist()
    nats = sum(slow_nats(weights, ids, stride))
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-9)
    assert result["token_perplexity"] == pytest.approx(math.exp(nats / len(ids)), rel=1e-9)
    assert result["word_perplexity"] == pytest.approx(math.exp(nats / len(text.split())), rel=1e-9)
    assert result["count"] == "unknown"
    assert "windows of 16 tokens" in result["protocol"]


def test_detokenized_sets_divide_by_original_words_and_bytes(
    evaluate: Any, weights: Path, tokenizer: Path, tmp_path: Path
) -> None:
    text = " it was n't \n we 're here \n"
    file = tmp_path / "test.txt"
    file.write_text(text)
    result = evaluate(f"ptb={file}", stride=None, validation=False)["sets"]["ptb"]
    nats = sum(slow_nats(weights, Tokenizer(tokenizer).encode("it wasn't\nwe're here\n").tolist(), None))
    assert result["words"] == 6 + 2  # line ends are words
    assert result["word_perplexity"] == pytest.approx(math.exp(nats / 8), rel=1e-9)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-9)
    assert result["count"] == "PARTIAL (8 of 82,430 words)"
    assert result["paper_table_3"] == {"model": "117M", "word_perplexity": 65.85}


def slow_lambada(weights: Path, tokenizer: Path, text: str) -> tuple[bool, bool, float, bool]:
    """(last token right, last word right, nats of the word, right with the filter) by transformers' logits."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(weights).double().eval()
    encoder = Tokenizer(tokenizer)
    head, word = lambada.prepare(text)
    prompt, answer = encoder.encode(head).tolist(), encoder.encode(word).tolist()
    right, nats, filtered = [], 0.0, []
    stops = lambada.stop_tokens(lambda form: encoder.encode(form).tolist())
    for place, token in enumerate(answer):
        row = (prompt + answer[:place])[-CONTEXT:]
        with torch.no_grad():
            logits = theirs(torch.tensor([row])).logits[0, -1]
        right.append(int(logits.argmax()) == token)
        nats -= float(logits.log_softmax(-1)[token])
        allowed = [i for i in range(VOCAB) if place or i not in stops]
        filtered.append(max(allowed, key=lambda i: float(logits[i])) == token)
    return right[-1], all(right), nats, all(filtered)


def test_lambada_is_that_of_a_plain_loop(evaluate: Any, weights: Path, tokenizer: Path, tmp_path: Path) -> None:
    texts = ["a b c", "he “said” no", "x y it", "one two z", "go up !", "q r s t"]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = evaluate(f"lambada={file}", validation=False)["sets"]["lambada"]
    rows = [slow_lambada(weights, tokenizer, text) for text in texts]
    assert result["last_token_accuracy"] == pytest.approx(np.mean([row[0] for row in rows]))
    assert result["last_word_accuracy"] == pytest.approx(np.mean([row[1] for row in rows]))
    assert result["last_word_perplexity"] == pytest.approx(math.exp(np.mean([row[2] for row in rows])), rel=1e-9)
    assert result["last_word_filtered_accuracy"] == pytest.approx(np.mean([row[3] for row in rows]))
    assert result["count"] == "PARTIAL (6 of 5,153 examples)"


def test_lambada_tells_the_last_token_from_the_whole_word_and_bars_stop_words(weights: Path) -> None:
    model = hf.load(weights).double()

    def ranked(ids: list[int]) -> list[int]:
        with torch.no_grad():
            order: list[int] = model(torch.tensor([ids]))[0, -1].argsort(descending=True).tolist()
        return order

    head = [3, 1, 4]
    first, second = ranked(head)[:2]
    words = {
        "right": [first, ranked([*head, first])[0]],
        "end": [second, ranked([*head, second])[0]],  # only the last token is the likeliest
        "start": [first, ranked([*head, first])[1]],
        "single": [first],
        "next": [second],  # the likeliest once `first` is barred
    }

    def outcome(stop: int | None) -> dict[str, tuple[bool, bool, bool]]:
        ids = {**{f" {word}": answer for word, answer in words.items()}, "head": head}
        if stop is not None:
            ids[" the"] = [stop]
        found = lambada.measure(
            Scorer(model, ALONE, torch.float64, 2, END),
            [("head", f" {word}") for word in words],
            lambda text: ids.get(text, [0, 0]),
        )
        rows = zip(found.last_token_right, found.last_word_right, found.filtered_right, strict=True)
        return {word: tuple(map(bool, row)) for word, row in zip(words, rows, strict=True)}  # type: ignore[misc]

    yes, no = True, False
    assert outcome(None) == {"right": (yes, yes, yes), "end": (yes, no, no), "start": (no, no, no),
                             "single": (yes, yes, yes), "next": (no, no, no)}  # fmt: skip
    assert outcome(first) == {"right": (yes, yes, no), "end": (yes, no, yes), "start": (no, no, no),
                              "single": (yes, yes, no), "next": (no, no, yes)}  # fmt: skip


def test_lambada_text_is_brought_to_openais_form() -> None:
    assert lambada.prepare("  “Yes,” she said to ``Tom''  ") == ('\n"Yes," she said to', ' "Tom"')
    with pytest.raises(ValueError, match="several words"):
        lambada.prepare("word")


def test_the_stop_word_filter_bars_whole_stop_words_only() -> None:
    vocabulary = {" the": [5], " The": [6], " it": [7, 8]}
    assert lambada.stop_tokens(lambda text: vocabulary.get(text, [1, 2])) == [5, 6]
    assert {"the", "and", "of", "him"} <= lambada.STOP_WORDS


def overlap_table(path: Path, digest: str, found: dict[int, int]) -> Path:
    rows = {
        "set": ["any"] * len(found),
        "file_sha256": [digest] * len(found),
        "example": list(found),
        "ngrams": [9] * len(found),
        "found": list(found.values()),
    }
    pq.write_table(pa.table(rows), path)
    return path


def test_exactly_the_planted_lambada_examples_are_left_out(
    evaluate: Any, weights: Path, tokenizer: Path, shared_data: Path, tmp_path: Path
) -> None:
    lines = (shared_data / "eval" / "lambada" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    # The end of each passage, in the letters that the test's tokenizer has.
    texts = [" ".join(json.loads(line)["text"].split()[-3:]).encode("ascii", "ignore").decode() for line in lines[:300]]
    texts = [text if len(text.split()) > 1 else "so it is" for text in texts]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    planted = sorted(np.random.default_rng(0).choice(300, 100, replace=False).tolist())
    counted = {number: 3 if number in planted else 0 for number in range(300)}
    table = overlap_table(tmp_path / "examples.parquet", hashlib.sha256(file.read_bytes()).hexdigest(), counted)
    result = evaluate(f"lambada={file}", examples=table, validation=False)["sets"]["lambada"]
    kept = tmp_path / "kept.jsonl"
    kept.write_text("".join(json.dumps({"text": text}) + "\n" for i, text in enumerate(texts) if i not in planted))
    alone = evaluate(f"lambada={kept}", validation=False)["sets"]["lambada"]
    without = result["without_overlap"]
    assert (without["examples_left_out"], without["examples"], result["examples"]) == (100, 200, 300)
    for key in ("last_token_accuracy", "last_word_perplexity", "last_word_filtered_accuracy"):
        assert without[key] == pytest.approx(alone[key], rel=1e-9)
    assert without["last_word_perplexity"] != result["last_word_perplexity"]


def test_overlapping_lines_of_a_text_are_left_out_of_the_second_score(
    evaluate: Any, weights: Path, tokenizer: Path, tmp_path: Path
) -> None:
    lines = ["first line", "", "second one", "third"]
    text = "\n".join(lines) + "\n"
    file = tmp_path / "some.txt"
    file.write_text(text)
    table = overlap_table(
        tmp_path / "examples.parquet", hashlib.sha256(file.read_bytes()).hexdigest(), {0: 0, 1: 2, 2: 0}
    )
    result = evaluate(f"some={file}", stride=4, examples=table, validation=False)["sets"]["some"]
    ids = Tokenizer(tokenizer).encode(text).tolist()
    nats = slow_nats(weights, ids, 4)
    touched = range(len("first line\n\n"), len("first line\n\nsecond one\n"))  # a token is a byte here
    kept = [value for place, value in enumerate(nats) if place not in touched]
    without = result["without_overlap"]
    assert without["bytes"] == len(kept)
    assert without["bits_per_byte"] == pytest.approx(sum(kept) / math.log(2) / len(kept), rel=1e-9)
    assert without["examples_left_out"] == 1


def test_a_table_of_another_file_leaves_nothing_out(evaluate: Any, tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text('{"text": "a b c"}\n')
    table = overlap_table(tmp_path / "examples.parquet", "0" * 64, {0: 4})
    result = evaluate(f"lambada={file}", examples=table, validation=False)["sets"]["lambada"]
    assert result["without_overlap"]["examples_left_out"] == 0


def test_the_validation_split_is_scored_as_training_sees_it(evaluate: Any, tokens: Path, weights: Path) -> None:
    from model.loader import Samples
    from model.train import validation_samples

    result = evaluate(tokens=tokens)["validation"]
    samples: Samples = validation_samples(tokens, CONTEXT)
    model = hf.load(weights).double()
    rows = torch.from_numpy(samples[np.arange(len(samples))])
    with torch.no_grad():
        expected = float(model(rows[:, :-1], rows[:, 1:].contiguous()))
    assert result["loss"] == pytest.approx(expected, rel=1e-9)
    assert result["tokens"] == rows[:, 1:].numel()
    assert result["bits_per_byte"] == pytest.approx(
        expected * result["tokens"] / math.log(2) / int((rows[:, 1:] != END).sum()), rel=1e-9
    )


def test_shares_of_several_processes_add_up(weights: Path) -> None:
    model = hf.load(weights).double()
    documents = [np.arange(n, dtype=np.int64) % 90 for n in (3, 40, 1, 17, 0)]
    whole = Scorer(model, ALONE, torch.float64, 2, END).documents(documents, 5)

    class Share(Processes):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return values

    shares = [Scorer(model, Share(rank, 3, ALONE.device), torch.float64, 2, END).documents(documents, 5)
              for rank in range(3)]  # fmt: skip
    for number, expected in enumerate(whole):
        parts = [share[number] for share in shares]
        assert np.allclose(sum(parts), expected, rtol=0, atol=1e-12)
        assert all((np.count_nonzero(np.stack(parts), axis=0) == 1).tolist())


def test_item_counts_of_complete_sets_are_the_published_ones(shared_data: Path) -> None:
    folder = shared_data / "eval"
    for name, path in [("ptb", "ptb/test.txt"), ("wikitext-2", "wikitext-2/test.txt"), ("1bw", "1bw/heldout.txt")]:
        words = 0
        for line in (folder / path).read_text(encoding="utf-8").splitlines():
            words += len(line.split()) + 1
        assert published.completeness(name, {"words": words}) == "complete"
    lines = (folder / "lambada" / "test.jsonl").read_text(encoding="utf-8").count("\n")
    assert published.completeness("lambada", {"examples": lines}) == "complete"
    assert published.completeness("enwik8", {"bytes": 100_000}).startswith("PARTIAL")
    assert published.completeness("mine", {}) == "unknown"


def test_table_3_stands_beside_a_model_of_the_nearest_size() -> None:
    assert published.beside("wikitext2", 1_500_000_000) == {"model": "1542M", "word_perplexity": 18.34}
    assert published.beside("lambada", 10) == {"model": "117M", "perplexity": 35.13, "accuracy": 0.4599}
    assert published.beside("enwik8", 10) == {"model": "117M", "bits_per_byte": 1.16}
    assert published.beside("mine", 10) is None


def test_a_complete_set_is_complete_under_any_protocol(
    evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test.txt"
    file.write_text(" one two \n \n three \n")
    monkeypatch.setitem(published.COMPLETE, "wikitext-2", ("words", 3 + 3))  # a line end is a word there
    for entry in ("wikitext-2", "wikitext-2:plain", "wikitext-2-raw"):
        result = evaluate(f"{entry}={file}", validation=False)["sets"][entry.partition(":")[0]]
        assert result["count"] == "complete", entry


def test_the_table_names_completeness_where_it_is_known_and_the_papers_row() -> None:
    scores = {"protocol": "p", "word_perplexity": 12345.6, "bits_per_byte": 1.23456, "words": 3}
    known = {**scores, "count": "PARTIAL (3 of 4 words)", "paper_table_3": {"model": "117M", "word_perplexity": 65.85}}
    lines = table({"sets": {"ptb": known, "mine": {**scores, "count": "unknown"}}, "validation": scores})
    assert lines[:3] == [
        "ptb  [PARTIAL (3 of 4 words)]  p",
        "    word_perplexity 12,346  bits_per_byte 1.235  words 3",
        "    the paper's 117M (Table 3): word_perplexity 65.85",
    ]
    assert lines[3::2] == ["mine  p", "validation  p"]


def test_examples_are_numbered_as_in_the_overlap_report(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n\n  \ntwo words\nlast")
    text = read_text(TextSet("a", "plain", file))
    assert text.examples == [[0, -1, -1, 1, 2]]
    assert "".join(text.documents[0]) == file.read_text()
    assert text.words == [[1, 0, 0, 2, 1]]


@pytest.mark.parametrize(
    ("entry", "message"),
    [("x:haiku={}", "haiku"), ("x={}/none", "correct the path"), ("x:lambada={}", "several words")],
)
def test_sets_that_cannot_be_read_are_said_in_one_line(evaluate: Any, tmp_path: Path, entry: str, message: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n")
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(entry.format(file), validation=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ('{"id": "q1", "question": "Why?", "answer": "So."}', "the fields id, question, answer"),
        ('{"text": ["a", "b"]}', "the fields text"),
        ('["a"]', "list"),
        ('{"text": "cut', "expected a JSON object"),
    ],
)
def test_records_without_a_text_are_refused_by_line_with_what_they_have(
    evaluate: Any, tmp_path: Path, line: str, got: str
) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(f'{{"text": "one two"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=r"test\.jsonl, line 3: expected") as caught:
        evaluate(f"quiz={file}", validation=False)
    assert got in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_writes_results_and_says_errors_in_one_line(
    weights: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from model.config import job_json

    file = tmp_path / "a.txt"
    file.write_text("one two\n")
    settings = EvaluateSettings(sets=(f"a={file}",), device="cpu")
    place = tmp_path / "job.json"
    place.write_text(job_json(EvaluateJob(settings, str(tmp_path / "run"), str(tokenizer), weights=str(weights))))
    assert main([str(place)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["sets"]["a"]["bytes"] == 8
    place.write_text(job_json(EvaluateJob(settings, str(tmp_path / "none"), str(tokenizer))))
    assert main([str(place)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
