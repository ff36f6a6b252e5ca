"""AdamW, Muon, and the schedules.

- Weight decay goes to tensors of two or more dimensions; biases and LayerNorm have none.
- AdamW is torch's fused one. Its state is made before the first step, so that a run that does not fit in memory says
  so at once, and loading a checkpoint is filling tensors that are there.
- Muon (Jordan et al. 2024) is for the blocks' matrices alone: momentum, then an approximate orthogonalisation by five
  Newton-Schulz iterations. Embeddings, biases and LayerNorm stay with AdamW.
- A schedule is a pure function of the step: nothing of it is saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.config import TrainSettings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest at 0 that still ends within about [0.7, 1.2]


def learning_rate_factor(step: int, steps: int, warmup: int, settings: TrainSettings) -> float:
    """The part of the peak learning rate at step 0 <= step < steps: linear warm-up, then cosine or stable and decay."""
    if step < warmup:
        return (step + 1) / warmup
    floor = settings.final_learning_rate
    if settings.schedule == "cosine":
        done = (step - warmup) / max(1, steps - 1 - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    decay_steps = max(1, round(settings.decay_fraction * steps))
    left = steps - 1 - step
    return 1.0 if left >= decay_steps else floor + (1 - floor) * left / decay_steps


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised, for matrices [out, in]; decoupled weight decay; updates scaled by sqrt(out / in)."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter]["momentum_buffer"]
                average.lerp_(parameter.grad, 1 - momentum)
                update = orthogonalise(parameter.grad.lerp(average, momentum))
                parameter.mul_(1 - lr * group["weight_decay"])
                scale = math.sqrt(max(1.0, parameter.size(0) / parameter.size(1)))
                parameter.add_(update.to(parameter.dtype), alpha=-lr * scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end near [0.7, 1.2]. In bfloat16 unless float64."""
    a, b, c = NEWTON_SCHULZ
    x = matrix if matrix.dtype == torch.float64 else matrix.bfloat16()
    turned = x.size(0) > x.size(1)
    if turned:
        x = x.T
    x = x / x.square().sum().sqrt().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if turned else x


class Optimizers:
    """The optimizers of a model as one: a learning rate factor, a step, and a flat state by parameter name."""

    def __init__(self, model: nn.Module, settings: TrainSettings, learning_rate: float) -> None:
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        matrices: list[Tensor] = []
        if settings.optimizer == "muon":
            matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
        chosen = set(matrices)
        others: list[Tensor] = [p for p in model.parameters() if p not in chosen]
        groups = [
            {"params": [p for p in others if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
        ]
        betas = (settings.beta1, settings.beta2)
        adamw = torch.optim.AdamW(groups, learning_rate, betas=betas, eps=settings.epsilon, fused=True)
        self.all: list[torch.optim.Optimizer] = [adamw]
        if matrices:
            self.all.append(Muon(matrices, settings.muon_learning_rate, settings.muon_momentum, settings.weight_decay))
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.all]
        for parameter in others:
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        for parameter in matrices:
            self.all[1].state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rates."""
        for optimizer, peaks in zip(self.all, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = factor * peak
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every state tensor, as `exp_avg.transformer.wte.weight`; the tensors themselves, not copies."""
        return {
            f"{kind}.{self.names[parameter]}": tensor
            for optimizer in self.all
            for parameter, entry in optimizer.state.items()
            for kind, tensor in entry.items()
        }
