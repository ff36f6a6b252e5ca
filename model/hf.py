"""To and from transformers' layout of GPT-2.

- A directory of config.json and model.safetensors, which `transformers.GPT2LMHeadModel.from_pretrained` loads with no
  missing key; tokenizer.json beside it if one is given. No pickle is written or read.
- The four projections of a block are stored [in, out] there, [out, in] here. The head is the embedding and is not
  stored twice; a padded vocabulary is cut to its size.
- Read: names with or without the `transformer.` prefix, one file or an index of several, any float type.
- Only dense attention exists there: another pattern is refused by name.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import checkpoint
from model.command import parser_of, status_of
from model.gpt2 import GPT2, Architecture

TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PREFIX = "transformer."
EMBEDDING = PREFIX + "wte.weight"


def export(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    directory: Path,
    *,
    tokenizer: Path | None = None,
    end_of_text: int | None = None,
) -> None:
    """Writes `weights` (a GPT2's state dict) to `directory`, which appears whole or not at all.

    Raises ValueError for attention that is not dense, and FileExistsError where there is something already.
    """
    if architecture.attention != "dense":
        raise ValueError(
            f"export: expected dense attention, which is all that transformers' GPT-2 has, got "
            f"{architecture.attention!r}; keep this model in its checkpoint"
        )
    if directory.exists():
        raise FileExistsError(f"{directory}: expected nothing there, got something; remove it or name another folder")
    aside = directory.with_name(f".{directory.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {name: _turn(name, tensor).contiguous() for name, tensor in weights.items()}
    tensors[EMBEDDING] = tensors[EMBEDDING][: architecture.vocab_size].contiguous()
    save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    if end_of_text is None:
        end_of_text = architecture.vocab_size - 1
    _write_json(aside / "config.json", config_json(architecture, end_of_text))
    _write_json(aside / "generation_config.json", {"bos_token_id": end_of_text, "eos_token_id": end_of_text})
    if tokenizer is not None:
        _copy_tokenizer(tokenizer, aside, architecture.context, end_of_text)
    for file in (*aside.iterdir(), aside):
        _sync(file)
    aside.rename(directory)
    _sync(directory.parent)


def config_json(architecture: Architecture, end_of_text: int) -> dict[str, Any]:
    """transformers' config.json of an architecture."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": architecture.vocab_size,
        "n_positions": architecture.context,
        "n_ctx": architecture.context,
        "n_embd": architecture.width,
        "n_layer": architecture.layers,
        "n_head": architecture.heads,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def load(directory: Path, *, pad_vocabulary_to: int = 64) -> GPT2:
    """The model in `directory`, float32 on the CPU. Raises ValueError, one line, where it is not a GPT-2."""
    config = _read_json(directory / "config.json")
    architecture = _architecture(config, directory, pad_vocabulary_to)
    model = GPT2(architecture)
    targets = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in _tensors(directory).items():
        name = name if name.startswith(PREFIX) or name == "lm_head.weight" else PREFIX + name
        if name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks that old releases stored
            continue
        found[name] = tensor
    head = found.pop("lm_head.weight", None)
    if head is not None and EMBEDDING in found and not torch.equal(head, found[EMBEDDING]):
        raise ValueError(f"{directory}: expected a tied head, got lm_head.weight unlike wte.weight; GPT-2's is tied")
    if set(found) != set(targets):
        missing, odd = sorted(set(targets) - set(found)), sorted(set(found) - set(targets))
        raise ValueError(f"{directory}: expected GPT-2's tensors; missing {missing[:3]}, unknown {odd[:3]}")
    with torch.no_grad():
        for name, target in targets.items():
            source = _turn(name, found[name]).to(target.dtype)
            rows = architecture.vocab_size if name == EMBEDDING else target.size(0)
            if source.shape != target[:rows].shape:
                raise ValueError(
                    f"{directory}: expected {name} of {tuple(target[:rows].shape)}, got {tuple(source.shape)}"
                )
            target[:rows] = source
            target[rows:] = 0.0
    return model


def load_checkpoint(path: Path) -> GPT2:
    """The model of one of our checkpoints (checkpoints/step-...), on the CPU."""
    architecture = Architecture(**checkpoint.read_state(path)["architecture"])
    model = GPT2(architecture)
    weights = checkpoint.read_weights(path)
    if weights[EMBEDDING].dtype == torch.float64:
        model.double()
    model.load_state_dict(weights)
    return model


def load_any(path: Path) -> GPT2:
    """The model at `path`: a run, one of its checkpoints, or a transformers directory."""
    if (path / "config.json").is_file():
        return load(path)
    if (path / "state.json").is_file():
        return load_checkpoint(path)
    newest = checkpoint.latest(path / "checkpoints")
    if newest is None:
        raise ValueError(
            f"{path}: expected a run with checkpoints/, a checkpoint or a transformers directory, got none"
        )
    return load_checkpoint(newest)


def _architecture(config: Mapping[str, Any], directory: Path, pad_vocabulary_to: int) -> Architecture:
    if config.get("model_type") != "gpt2":
        raise ValueError(f"{directory}: expected model_type gpt2, got {config.get('model_type')!r}")
    # What changes the function that is computed, and GPT-2's values, which are also transformers' defaults.
    exact = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "n_inner": (None, 4 * config["n_embd"]),
    }
    for key, values in exact.items():
        if key in config and config[key] not in values:
            raise ValueError(f"{directory}: expected {key} = {values[0]} as in GPT-2, got {config[key]!r}")
    return Architecture(
        vocab_size=config["vocab_size"],
        context=config["n_positions"],
        layers=config["n_layer"],
        width=config["n_embd"],
        heads=config["n_head"],
        pad_vocabulary_to=pad_vocabulary_to,
    )


def _tensors(directory: Path) -> dict[str, Tensor]:
    index = directory / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(_read_json(index)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not (directory / name).is_file():
            raise ValueError(
                f"{directory}: expected {name}, got none; pickled weights (pytorch_model.bin) are not read: "
                "save_pretrained(safe_serialization=True) writes safetensors"
            )
        tensors.update(load_file(directory / name))
    return tensors


def _turn(name: str, tensor: Tensor) -> Tensor:
    return tensor.t() if name.endswith(TURNED) else tensor


def _copy_tokenizer(tokenizer: Path, directory: Path, context: int, end_of_text: int) -> None:
    shutil.copyfile(tokenizer, directory / "tokenizer.json")
    added = {entry["id"]: entry["content"] for entry in _read_json(tokenizer).get("added_tokens", [])}
    text = added.get(end_of_text, "<|endoftext|>")
    special = {"bos_token": text, "eos_token": text, "unk_token": text}
    _write_json(
        directory / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_json(directory / "special_tokens_map.json", special)


def end_of_text_of(tokenizer: Path) -> int:
    """The id of <|endoftext|> in a tokenizer.json. ValueError where it has none."""
    for entry in _read_json(tokenizer).get("added_tokens", []):
        if entry["content"] == "<|endoftext|>":
            return int(entry["id"])
    raise ValueError(f"{tokenizer}: expected a token <|endoftext|>, got none; it stands before every document")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected JSON, {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """`python -m model.hf MODEL FOLDER [TOKENIZER.json]`."""
    parser = parser_of("python -m model.hf", "Writes a model as a folder that transformers loads.")
    parser.add_argument("model", type=Path, help="a run, one of its checkpoints, or a transformers directory")
    parser.add_argument("folder", type=Path, help="where it goes; nothing may be there yet")
    parser.add_argument("tokenizer", type=Path, nargs="?", help="tokenizer.json to go with it")
    options = parser.parse_args(arguments)

    def work() -> None:
        tokenizer: Path | None = options.tokenizer
        end_of_text = end_of_text_of(tokenizer) if tokenizer is not None else None
        model = load_any(options.model)
        export(model.state_dict(), model.config, options.folder, tokenizer=tokenizer, end_of_text=end_of_text)

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
