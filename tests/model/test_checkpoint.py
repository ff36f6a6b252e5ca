"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model import checkpoint


def save(directory: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(
        directory,
        step,
        weights={"a": torch.full((3,), float(step))},
        optimizer={"exp_avg.a": torch.zeros(3, dtype=torch.float64), "step.a": torch.tensor(2.0)},
        random=checkpoint.random_states(),
        state={"skipped_steps": 0},
        keep=keep,
    )


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    saved = checkpoint.read(path)
    assert saved.weights["a"].tolist() == [7.0] * 3
    assert saved.optimizer["exp_avg.a"].dtype == torch.float64
    assert saved.optimizer["step.a"].shape == ()
    assert saved.state["step"] == 7
    assert torch.equal(saved.random["cpu"], torch.get_rng_state())
    assert checkpoint.read_weights(path)["a"].tolist() == [7.0] * 3


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100_000_000, 100_000_005):
        save(tmp_path, step, keep=3)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000010", "step-100000000", "step-100000005"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-100000005"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in checkpoint.steps(tmp_path))


def test_there_is_no_checkpoint_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    (tmp_path / ".aside-step-00000003").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoint.latest(tmp_path) is None
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_changed_byte_is_found_and_the_remedy_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    raw = bytearray((path / name).read_bytes())
    raw[-1] ^= 1
    (path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=f"{name}.*remove .*step-00000001 to go on"):
        checkpoint.read(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99}'])
def test_a_state_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, 1)
    (path / "state.json").write_text(content)
    with pytest.raises(ValueError, match="expected a checkpoint"):
        checkpoint.read(path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_random_states_come_back(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    expected = torch.rand(4)
    torch.rand(9)
    checkpoint.restore_random_states(checkpoint.read(path).random)
    assert torch.equal(torch.rand(4), expected)
