"""Drawing from a model, and templates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from model import sample, train
from model.config import SampleSettings
from model.gpt2 import GPT2, Architecture
from model.sample import choose, generate, read_template

END = 40


@pytest.fixture(scope="module")
def model() -> GPT2:
    built = GPT2(Architecture(vocab_size=41, context=24, layers=2, width=32, heads=4)).double()
    built.initialise(1)
    with torch.no_grad():  # far from uniform
        built.transformer.wte.weight[:41].mul_(5)
    return built.eval()


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [], [11, 12]]


def test_greedy_takes_the_most_likely_token_of_a_full_forward_each_time(model: GPT2) -> None:
    found = generate(model, PROMPTS, SampleSettings(temperature=0.0, max_tokens=9, batch=3), end_of_text=END)
    for prompt, continuation in zip(PROMPTS, found, strict=True):
        tokens = list(prompt) or [END]
        expected: list[int] = []
        for _ in range(9):
            with torch.no_grad():
                token = int(model(torch.tensor([tokens]))[0, -1].argmax())
            if token == END:
                break
            expected.append(token)
            tokens.append(token)
        assert continuation == expected


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 0.7, "top_k": 9, "top_p": 0.9}])
def test_a_prompts_draws_do_not_depend_on_its_batch(model: GPT2, options: dict[str, Any]) -> None:
    batches = [
        generate(model, PROMPTS, SampleSettings(max_tokens=10, batch=batch, seed=3, **options), end_of_text=END)
        for batch in (1, 2, 5)
    ]
    assert batches[0] == batches[1] == batches[2]
    other = generate(model, PROMPTS, SampleSettings(max_tokens=10, seed=4, **options), end_of_text=END)
    assert other != batches[0]
    assert (
        len({tuple(draws) for draws in generate(model, [[1]] * 8, SampleSettings(max_tokens=10), end_of_text=END)}) > 1
    )


def test_draws_have_the_rates_of_the_distribution() -> None:
    probabilities = torch.tensor([0.05, 0.5, 0.15, 0.3], dtype=torch.float64)
    generators = [torch.Generator().manual_seed(0)]
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [0.05, 0.5, 0.15, 0.3]),
        ({"top_k": 2}, [0, 0.625, 0, 0.375]),
        ({"top_p": 0.79}, [0, 0.625, 0, 0.375]),
        ({"top_p": 0.81}, [0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [0.0025 / 0.365, 0.25 / 0.365, 0.0225 / 0.365, 0.09 / 0.365]),
    ]
    for options, expected in cases:
        settings = SampleSettings(**options)
        counts = Counter(int(choose(probabilities.log().unsqueeze(0), generators, settings)) for _ in range(2000))
        for token, rate in enumerate(expected):
            assert counts[token] / 2000 == pytest.approx(rate, abs=0.04), (options, token)
            assert rate > 0 or counts[token] == 0


def test_end_of_text_ends_a_continuation_and_is_not_part_of_it() -> None:
    built = GPT2(Architecture(vocab_size=5, context=16, layers=1, width=8, heads=1)).double()
    built.initialise(0)
    with torch.no_grad():  # the final bias points at token 3 whatever came before
        built.transformer.ln_f.weight.zero_()
        built.transformer.wte.weight.zero_()
        built.transformer.wte.weight[:5, :5] = torch.eye(5)
        built.transformer.ln_f.bias.copy_(100 * built.transformer.wte.weight[3])
    assert generate(built, [[1], [2, 0]], SampleSettings(max_tokens=5), end_of_text=3) == [[], []]
    assert generate(built, [[1]], SampleSettings(max_tokens=5), end_of_text=4) == [[3] * 5]


def test_a_long_prompt_loses_its_beginning(model: GPT2) -> None:
    settings = SampleSettings(temperature=0.0, max_tokens=4)
    long = [i % 40 for i in range(50)]
    assert generate(model, [long], settings, end_of_text=END) == generate(
        model, [long[-20:]], settings, end_of_text=END
    )
    with pytest.raises(ValueError, match="max_tokens"):
        generate(model, [[1]], SampleSettings(max_tokens=24), end_of_text=END)


def test_shipped_templates_word_the_tasks_as_the_paper() -> None:
    pair = {"source": "good morning", "target": "bonjour"}
    assert read_template("translation_en_fr").prompt({"source": "cheese"}, [pair]) == "good morning = bonjour\ncheese ="
    question = {"question": "who wrote it?"}
    assert read_template("question_answering").prompt(question, [{"question": "q", "answer": "a"}]) == (
        "Q: q\nA: a\n\nQ: who wrote it?\nA:"
    )
    article = read_template("summarisation")
    assert article.prompt({"article": "Text."}) == "Text.\nTL;DR:"
    settings = article.settings(SampleSettings())
    assert (settings.top_k, settings.max_tokens, settings.temperature) == (2, 100, 1.0)
    dialogue = {"document": "D", "dialogue": "Q: a\nA: b", "question": "c"}
    assert read_template("conversation").prompt(dialogue) == "D\n\nQ: a\nA: b\nQ: c\nA:"
    assert {path.stem for path in sample.TEMPLATES.glob("*.toml")} >= {"translation_fr_en"}


def test_answers_are_cut_as_the_paper_does() -> None:
    assert read_template("translation_en_fr").answer(" du fromage. Et puis\nsale = x") == "du fromage."
    assert read_template("question_answering").answer(" Dickens\nQ: more") == "Dickens"
    assert read_template("summarisation").answer(" One. Two!\nThree? Four.") == "One. Two! Three?"


def test_a_missing_field_and_an_unknown_template_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'source'"):
        read_template("translation_en_fr").prompt({"text": "x"})
    with pytest.raises(ValueError, match="summarisation"):
        read_template("haiku")
    own = tmp_path / "own.toml"
    own.write_text('example = ""\nquery = "{x}"\nstop = []\nkeep = "half"\n')
    with pytest.raises(ValueError, match="three_sentences"):
        read_template(str(own))


def test_the_command_fills_a_template_from_a_file(
    job: Any, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    this = job(steps=4)
    train.run(this)
    records, shots = tmp_path / "records.jsonl", tmp_path / "shots.jsonl"
    records.write_text('{"source": "a"}\n{"source": "b"}\n')
    shots.write_text('{"source": "c", "target": "d"}\n')
    options = [
        "--template",
        "translation_en_fr",
        "--records",
        str(records),
        "--examples",
        str(shots),
        "--device",
        "cpu",
    ]
    assert sample.main([this.run, str(tokenizer), *options, "--max-tokens", "4"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == ["c = d\na =", "c = d\nb ="]
    assert set(lines[0]) == {"prompt", "continuation", "answer"}
    assert sample.main([this.run, str(tokenizer), "--prompt", "x", "--max-tokens", "900", "--device", "cpu"]) == 2
    assert "error: [sample] max_tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template", "summarisation"], "expected --records"),
        (["--template", "summarisation", "--records", "{}", "--prompt", "x"], "no --prompt"),
        (["--examples", "{}"], "expected a --template"),
        (["--records", "{}"], "expected a field `prompt` in every record, got text"),
    ],
)
def test_options_that_would_be_ignored_are_errors(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text('{"text": "a"}\n')
    assert sample.main(["no-model", "no-tokenizer", *(option.format(records) for option in options)]) == 2
    assert message in capsys.readouterr().err
