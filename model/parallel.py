"""Processes and devices: the one place that knows of torchrun.

- torchrun's environment makes a process group; without it there is one process, and no group is made.
- A device's peak is the vendor's dense (not sparse) rate for the arithmetic that runs, in FLOP/s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

# Dense bfloat16 tensor-core rates from the vendors' data sheets. The first name found in the device's name counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
}


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, in place where there are several."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Joins torchrun's process group, if there is one; `device` is auto, cpu or cuda."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device: expected cuda to be there, got none; set device = cpu or auto, or install CUDA's torch"
        )
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if kind == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"device: expected a GPU for each process of this machine, got {torch.cuda.device_count()} for process "
                f"{local}; start at most as many processes as GPUs"
            )
        torch.cuda.set_device(local)
        place = torch.device("cuda", local)
    else:
        place = torch.device("cpu")
    if world > 1:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", device_id=place if kind == "cuda" else None)
    try:
        yield Processes(rank, world, place)
    finally:
        if world > 1:
            dist.destroy_process_group()


def arithmetic(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype that a setting `auto`, `bfloat16`, `float32` or `float64` means on `device`."""
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[dtype]


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """bfloat16 autocast, or a context that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Dense peak of the device, None where it is not known (CPUs, other arithmetic than bfloat16)."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)
