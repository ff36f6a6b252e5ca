"""examples/verify_gpt2: what it says of a model that is not GPT-2."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from model import hf
from model.evals import lambada
from model.gpt2 import GPT2, Architecture


@pytest.fixture
def verify() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "verify_gpt2" / "verify.py"
    spec = importlib.util.spec_from_file_location("verify_gpt2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_model_is_refused_and_a_bad_one_fails(
    verify: ModuleType,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = GPT2(Architecture(vocab_size=97, context=16, layers=1, width=16, heads=1))
    model.initialise(0)
    hf.export(model.state_dict(), model.config, tmp_path / "gpt2", tokenizer=tokenizer, end_of_text=96)
    texts = {"ptb": " a b c \n", "wikitext": " = a = \n \n b c . \n", "lambada": '{"text": "a b c"}\n' * 5}
    arguments = ["verify.py", str(tmp_path / "gpt2"), "--device", "cpu"]
    for name, text in texts.items():
        (tmp_path / name).with_suffix(".jsonl").write_text(text)
        arguments += [f"--{name}", str((tmp_path / name).with_suffix(".jsonl"))]
    (tmp_path / "ptb.jsonl").rename(tmp_path / "ptb.txt")
    arguments = [argument.replace("ptb.jsonl", "ptb.txt") for argument in arguments]
    monkeypatch.setattr(sys, "argv", arguments)
    assert verify.main() == 2
    assert "expected 124,439,808 parameters" in capsys.readouterr().err
    monkeypatch.setattr(verify, "PARAMETERS", model.config.parameters)
    assert verify.main() == 2
    assert "5,153 lines" in capsys.readouterr().err
    monkeypatch.setattr(lambada, "PUBLISHED_EXAMPLES", 5)
    with torch.no_grad():
        assert verify.main() == 1
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4
    assert all(row.endswith("OFF") for row in rows)
    assert json.loads((tmp_path / "gpt2" / "config.json").read_text())["vocab_size"] == 97
    # An untrained model gives each of 97 tokens about the same chance.
    assert float(rows[0].split("known")[0].split()[-1]) == pytest.approx(97, rel=0.15)
