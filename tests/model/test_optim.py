"""The optimizers against torch's, and the schedules against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from model.config import TrainSettings
from model.gpt2 import GPT2, Architecture
from model.optim import Muon, Optimizers, learning_rate_factor, orthogonalise

TINY = Architecture(vocab_size=50, context=8, layers=2, width=16, heads=2, pad_vocabulary_to=1)


def steps(model: GPT2, count: int) -> list[torch.Tensor]:
    """Gradients that do not depend on the weights, `count` sets of them."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for _ in range(count) for p in model.parameters()]


def train(optimizer_of: object, count: int = 5) -> dict[str, torch.Tensor]:
    model = GPT2(TINY).double()
    model.initialise(1)
    optimizer = optimizer_of(model)  # type: ignore[operator]
    gradients = iter(steps(model, count))
    for _ in range(count):
        for parameter in model.parameters():
            parameter.grad = next(gradients)
        optimizer.step(1.0) if isinstance(optimizer, Optimizers) else optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def test_adamw_is_torchs_with_decay_on_matrices_only() -> None:
    def theirs(model: GPT2) -> torch.optim.Optimizer:
        groups = [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, 1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)

    ours = train(lambda model: Optimizers(model, TrainSettings(), 1e-2))
    for name, expected in train(theirs).items():
        assert (ours[name] - expected).abs().max() < 1e-14, name


def test_muon_is_torchs_on_the_blocks_matrices() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon to compare with")

    class Both:
        def __init__(self, model: GPT2) -> None:
            matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
            chosen = set(matrices)
            others = [p for p in model.parameters() if p not in chosen]
            groups = [
                {"params": [p for p in others if p.dim() >= 2], "weight_decay": 0.1},
                {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
            ]
            self.all = [
                torch.optim.AdamW(groups, 1e-2, betas=(0.9, 0.95)),
                torch.optim.Muon(matrices, 0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original"),
            ]

        def step(self) -> None:
            for optimizer in self.all:
                optimizer.step()

    ours = train(lambda model: Optimizers(model, TrainSettings(optimizer="muon", dtype="float64"), 1e-2))
    for name, expected in train(Both).items():
        # torch orthogonalises in bfloat16 always, we in float64 where the weights are: three digits agree.
        assert (ours[name] - expected).abs().max() < 3e-3, name


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    # The directions stay: what is left of the exact polar factor is within the spread of the singular values.
    assert torch.linalg.matrix_norm(orthogonalise(matrix) - left @ right, 2) < 0.5


def test_muon_leaves_parameters_without_gradients_alone() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight], 0.1, 0.9, 0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_state_has_names_and_is_filled_in_place() -> None:
    model = GPT2(TINY)
    model.initialise(0)
    optimizers = Optimizers(model, TrainSettings(optimizer="muon"), 1e-3)
    state = optimizers.state()
    assert "momentum_buffer.transformer.h.0.attn.c_attn.weight" in state
    assert "exp_avg_sq.transformer.wte.weight" in state
    assert "exp_avg.transformer.h.0.attn.c_attn.weight" not in state
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(1.0)
    assert state["step.transformer.wpe.weight"].item() == 1
    assert state["exp_avg.transformer.wpe.weight"].abs().max() > 0


def test_cosine_warms_up_peaks_and_ends_at_its_floor() -> None:
    settings = TrainSettings(final_learning_rate=0.1)
    factors = [learning_rate_factor(step, 100, 10, settings) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[99] == pytest.approx(0.1)
    middle = 10 + 89 / 2
    assert learning_rate_factor(54, 100, 10, settings) == pytest.approx(
        0.1 + 0.45 * (1 + math.cos(math.pi * (54 - 10) / 89))
    )
    assert factors[int(middle) + 1] < 0.55 < factors[int(middle)]
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_wsd_is_stable_and_then_falls_in_a_line() -> None:
    settings = TrainSettings(schedule="wsd", decay_fraction=0.25, final_learning_rate=0.0)
    factors = [learning_rate_factor(step, 100, 10, settings) for step in range(100)]
    assert set(factors[10:75]) == {1.0}
    assert factors[75:] == pytest.approx([left / 25 for left in range(24, -1, -1)])


def test_a_run_without_warm_up_begins_at_its_peak() -> None:
    assert learning_rate_factor(0, 1, 0, TrainSettings()) == 1.0
