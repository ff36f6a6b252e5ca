"""The bridge to transformers, both ways."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import hf, train
from model.gpt2 import GPT2, Architecture

SMALL = Architecture(vocab_size=97, context=24, layers=2, width=32, heads=4, pad_vocabulary_to=64)


@pytest.fixture
def model() -> GPT2:
    built = GPT2(SMALL)
    built.initialise(3)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1)
    return built


def test_transformers_loads_an_export_with_no_missing_key(model: GPT2, tokenizer: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    hf.export(model.state_dict(), SMALL, tmp_path / "out", tokenizer=tokenizer, end_of_text=96)
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert theirs.config.architectures == ["GPT2LMHeadModel"]
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    rows = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        assert (theirs.double()(rows).logits - model.double()(rows)).abs().max() < 1e-10
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded("ab!").input_ids == [64, 65, 0]
    assert loaded.eos_token_id == 96


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf.config_json(SMALL, 96))).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = hf.load(tmp_path / "theirs")
    rows = torch.arange(24).unsqueeze(0)
    with torch.no_grad():
        assert (theirs.double()(rows).logits - ours.double()(rows)).abs().max() < 1e-10


def test_a_round_trip_changes_no_bit(model: GPT2, tmp_path: Path) -> None:
    hf.export(model.state_dict(), SMALL, tmp_path / "out")
    again = hf.load(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    file = load_file(tmp_path / "out" / "model.safetensors")
    assert file["transformer.wte.weight"].shape == (97, 32)
    assert file["transformer.h.0.attn.c_attn.weight"].shape == (32, 96)
    assert "lm_head.weight" not in file


def test_old_releases_without_prefix_and_with_masks_are_read(model: GPT2, tmp_path: Path) -> None:
    hf.export(model.state_dict(), SMALL, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    old = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    save_file(old, file)
    again = hf.load(tmp_path / "out")
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())


def test_several_files_with_an_index_are_read(model: GPT2, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hf.export(model.state_dict(), SMALL, out)
    tensors = load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, out / part)
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(
        hf.load(out).state_dict()["transformer.wpe.weight"], model.state_dict()["transformer.wpe.weight"]
    )


@pytest.mark.parametrize("attention", ["alternating_banded", "strided"])
def test_other_attention_than_dense_is_refused_by_name(model: GPT2, tmp_path: Path, attention: str) -> None:
    with pytest.raises(ValueError, match=attention):
        hf.export(model.state_dict(), dataclasses.replace(SMALL, attention=attention), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(model: GPT2, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="remove it or name another"):
        hf.export(model.state_dict(), SMALL, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "gelu"), ("layer_norm_epsilon", 1e-6), ("model_type", "gptj"),
     ("scale_attn_by_inverse_layer_idx", True), ("n_inner", 7)],
)  # fmt: skip
def test_what_is_no_gpt2_is_refused_by_key(model: GPT2, tmp_path: Path, key: str, value: object) -> None:
    hf.export(model.state_dict(), SMALL, tmp_path / "out")
    place = tmp_path / "out" / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), key: value}))
    with pytest.raises(ValueError, match=key):
        hf.load(tmp_path / "out")


def test_missing_tensors_and_pickles_are_refused(model: GPT2, tmp_path: Path) -> None:
    hf.export(model.state_dict(), SMALL, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    del tensors["transformer.ln_f.bias"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"transformer\.ln_f\.bias"):
        hf.load(tmp_path / "out")
    file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="safe_serialization"):
        hf.load(tmp_path / "out")


def test_a_run_is_exported_by_one_command(job: Any, tokenizer: Path, tmp_path: Path) -> None:
    this = job(steps=4)
    train.run(this)
    assert hf.main([this.run, str(tmp_path / "out"), str(tokenizer)]) == 0
    ours, again = hf.load_any(Path(this.run)), hf.load_any(tmp_path / "out")
    rows = torch.arange(16).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(ours(rows), again(rows))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 96
    assert hf.main([str(tmp_path), str(tmp_path / "out2")]) == 2
