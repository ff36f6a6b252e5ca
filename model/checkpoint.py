"""Checkpoints: everything a run needs to go on as if it had never stopped, without pickle.

- checkpoints/step-00001000/ holds model.safetensors (weights by name, [out, in]), optimizer.safetensors (moments and
  step counts by `kind.name`), random.safetensors (generator states) and state.json: the step, the one integer of data
  state, what was skipped, the settings, the length of metrics.jsonl, and the SHA-256 of the other files.
- A checkpoint is written aside, fsynced, and renamed: it is there whole or it is not there. A process killed at any
  moment leaves at worst a folder `.aside-*`, which the next start sweeps.
- Weights of sharded models are gathered: a checkpoint does not know how many processes wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

VERSION = 1
FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")
_NAME = re.compile(r"step-(\d{8,})")
_ASIDE = ".aside-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read back."""

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    state: dict[str, Any]


def save(
    directory: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    random: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes checkpoint `step` and removes all but the newest `keep`; CPU tensors. Returns its folder."""
    directory.mkdir(parents=True, exist_ok=True)
    sweep(directory)
    target = directory / f"step-{step:08d}"
    assert not target.exists(), target  # a run goes on from its newest checkpoint
    aside = directory / f"{_ASIDE}{target.name}"
    aside.mkdir()
    digests = {}
    for name, tensors in zip(FILES, (weights, optimizer, random), strict=True):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, aside / name)
        digests[name] = _digest(aside / name)
        _sync(aside / name)
    content = {**state, "version": VERSION, "step": step, "sha256": digests}
    (aside / "state.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _sync(aside / "state.json")
    _sync(aside)
    aside.rename(target)
    _sync(directory)
    for old in steps(directory)[:-keep]:
        old.rename(directory / f"{_ASIDE}{old.name}")
    sweep(directory)
    return target


def steps(directory: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def latest(directory: Path) -> Path | None:
    """The newest checkpoint, if there is one."""
    found = steps(directory)
    return found[-1] if found else None


def sweep(directory: Path) -> None:
    """Removes what a killed process left aside."""
    if directory.is_dir():
        for left in directory.glob(f"{_ASIDE}*"):
            shutil.rmtree(left)


def read_state(path: Path) -> dict[str, Any]:
    """state.json of the checkpoint at `path`. Raises ValueError in one line where it is damaged."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a checkpoint with state.json, {error}; {_remedy(path)}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ValueError(f"{path}: expected a checkpoint of version {VERSION}, got another; {_remedy(path)}")
    return state


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, every byte compared with its SHA-256."""
    state = read_state(path)
    tensors: list[dict[str, Tensor]] = []
    for name in FILES:
        file = path / name
        if not file.is_file() or _digest(file) != state["sha256"].get(name):
            raise ValueError(f"{file}: expected the bytes that state.json names, got others; {_remedy(path)}")
        tensors.append(_load(file))
    weights, optimizer, random = tensors
    return Checkpoint(path, weights, optimizer, random, state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Only the weights of the checkpoint at `path`."""
    file = path / FILES[0]
    if _digest(file) != read_state(path)["sha256"].get(FILES[0]):
        raise ValueError(f"{file}: expected the bytes that state.json names, got others; {_remedy(path)}")
    return _load(file)


def random_states() -> dict[str, Tensor]:
    """The states of torch's global generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _load(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: expected safetensors, {error}; {_remedy(file.parent)}") from error
    return tensors


def _remedy(path: Path) -> str:
    return f"remove {path} to go on from an older checkpoint"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
