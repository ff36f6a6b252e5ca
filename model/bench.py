"""Tokens per second, MFU and memory of training steps, beside other GPT-2s on the same device in the same run.

- A step is forward, backward, clipping and AdamW, on random tokens that are already on the device.
- Contestants take turns, so that a machine that slows down or speeds up does so for all; the median counts.
- nanoGPT's model is loaded from a checkout that the user names (--nanogpt), transformers' where it is installed. All
  train at the same settings: same sizes, batch, arithmetic, torch.compile or not, no dropout.
- MFU is 6N + 12LCT FLOPs a token over the device's dense bfloat16 peak; none is printed where the peak is not known.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.command import parser_of, status_of
from model.config import PRESETS, ModelSettings, TrainSettings
from model.gpt2 import GPT2, Architecture
from model.optim import Optimizers
from model.parallel import arithmetic, autocast, peak_flops, processes

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Result:
    """One contestant at one size."""

    name: str
    preset: str
    micro_batch: int
    tokens_per_second: float
    mfu: float | None
    working_memory_bytes: int | None  # at the peak of a step, above weights and optimizer state


def measure(
    steps: dict[str, Step], tokens: int, *, rounds: int, device: torch.device, architecture: Architecture, preset: str,
    micro_batch: int, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:  # fmt: skip
    """Each contestant's median over `rounds` turns, after two that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int | None] = dict.fromkeys(steps)
    for turn in range(rounds + 2):
        for name, step in steps.items():
            held = 0
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
                held = torch.cuda.memory_allocated(device)  # the other contestants' weights too
            begun = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                memory[name] = torch.cuda.max_memory_allocated(device) - held
            if turn >= 2:
                seconds[name].append(clock() - begun)
    peak = peak_flops(device, dtype)
    results = []
    for name, times in seconds.items():
        rate = tokens / statistics.median(times)
        mfu = rate * architecture.flops_per_token / peak if peak else None
        results.append(Result(name, preset, micro_batch, rate, mfu, memory[name]))
    return results


def ours(
    architecture: Architecture, rows: Tensor, dtype: torch.dtype, *, compiled: bool, loss_chunk: int | None,
    accumulation: int,
) -> Step:  # fmt: skip
    """A step of this package's model and optimizer."""
    model = GPT2(architecture, loss_chunk=loss_chunk)
    model.initialise(0)
    model.to(rows.device)
    if compiled:
        model.compile(dynamic=False)
    optimizers = Optimizers(model, TrainSettings(), 1e-4)
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step() -> None:
        for _ in range(accumulation):
            with autocast(dtype, rows.device):
                loss = model(tokens, targets) / accumulation
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(1.0)
        optimizers.zero_grad()

    return step


def peer(model: nn.Module, loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor], rows: Tensor, dtype: torch.dtype, *,
         compiled: bool, accumulation: int) -> Step:  # fmt: skip
    """A step of another GPT-2 with the same optimizer settings."""
    model.to(rows.device).train()
    if compiled:
        model.compile(dynamic=False)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-4, betas=(0.9, 0.95), fused=True)
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step() -> None:
        for _ in range(accumulation):
            with autocast(dtype, rows.device):
                loss = loss_of(model, tokens, targets) / accumulation
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def nanogpt(checkout: Path, architecture: Architecture) -> nn.Module:
    """nanoGPT's model of a checkout, at its own advice: biases, a vocabulary padded to a multiple of 64, no dropout."""
    file = checkout / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ValueError(
            f"--nanogpt: expected a checkout with model.py, found none at {checkout}; clone karpathy/nanoGPT"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        block_size=architecture.context, vocab_size=architecture.padded_vocab, n_layer=architecture.layers,
        n_head=architecture.heads, n_embd=architecture.width, dropout=0.0, bias=True,
    )  # fmt: skip
    model: nn.Module = module.GPT(config)
    return model


def transformers_gpt2(architecture: Architecture) -> nn.Module:
    """transformers' GPT2LMHeadModel with SDPA, without dropout."""
    import transformers

    from model.hf import config_json

    options = {**config_json(architecture, 0), "attn_implementation": "sdpa", "use_cache": False}
    config = transformers.GPT2Config(**options)
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def _nanogpt_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = model(tokens, targets)[1]
    return loss


def _transformers_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    logits = model(tokens).logits.float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def contest(options: argparse.Namespace, preset: str, micro_batch: int, device: torch.device) -> list[Result]:
    """All contestants at one size and micro-batch."""
    settings = ModelSettings(
        preset=None if options.layers else preset, layers=options.layers, width=options.width, heads=options.heads,
        context=options.context,
    )  # fmt: skip
    architecture = Architecture.of(settings, options.vocabulary)
    dtype = arithmetic(options.dtype, device)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, options.vocabulary, (micro_batch, options.context + 1), generator=generator).to(device)
    same: dict[str, Any] = {"compiled": options.compile, "accumulation": options.accumulation}
    steps: dict[str, Step] = {"ours": ours(architecture, rows, dtype, loss_chunk=options.loss_chunk, **same)}
    if options.nanogpt is not None:
        steps["nanoGPT"] = peer(nanogpt(options.nanogpt, architecture), _nanogpt_loss, rows, dtype, **same)
    if options.transformers:
        steps["transformers"] = peer(transformers_gpt2(architecture), _transformers_loss, rows, dtype, **same)
    return measure(
        steps, rows[:, 1:].numel() * options.accumulation, rounds=options.rounds, device=device,
        architecture=architecture, preset="custom" if options.layers else preset, micro_batch=micro_batch, dtype=dtype,
        clock=time.process_time if options.cpu_seconds else time.perf_counter,
    )  # fmt: skip


def report(results: Sequence[Result]) -> list[str]:
    """Lines of a table, each peer with our rate over its rate."""
    lines = [f"{'model':14}{'size':14}{'batch':>6}{'tokens/s':>12}{'MFU':>8}{'work GiB':>10}  ours/theirs"]
    first = results[0]
    for result in results:
        mfu = "-" if result.mfu is None else f"{result.mfu:.1%}"
        memory = "-" if result.working_memory_bytes is None else f"{result.working_memory_bytes / 2**30:.1f}"
        if result.name == "ours":
            first = result
        ratio = "" if result is first else f"  {first.tokens_per_second / result.tokens_per_second:.2f}"
        lines.append(
            f"{result.name:14}{result.preset:14}{result.micro_batch:>6}{result.tokens_per_second:>12,.0f}{mfu:>8}"
            f"{memory:>10}{ratio}"
        )
    return lines


def main(arguments: list[str]) -> int:
    parser = parser_of("python -m model.bench", __doc__ or "")
    parser.add_argument(
        "--presets", nargs="+", default=["gpt2"], choices=list(PRESETS), help="sizes, one after another"
    )
    parser.add_argument(
        "--micro-batches",
        nargs="+",
        type=int,
        default=[8],
        metavar="SAMPLES",
        help="samples of a forward pass; several are tried one after another",
    )
    parser.add_argument(
        "--layers", type=int, help="with --width and --heads: a size of your own, in place of --presets"
    )
    parser.add_argument("--width", type=int, help="channels")
    parser.add_argument("--heads", type=int, help="attention heads")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a sample")
    parser.add_argument("--vocabulary", type=int, default=50257, help="tokens of the vocabulary")
    parser.add_argument("--accumulation", type=int, default=1, help="forward passes of a step")
    parser.add_argument("--rounds", type=int, default=10, help="steps that count, of which the median")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: CUDA where there is one"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float32"),
        help="auto: bfloat16 on CUDA, float32 on CPU",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile every contestant")
    parser.add_argument(
        "--loss-chunk",
        type=int,
        default=TrainSettings().loss_chunk,
        help="tokens whose logits exist at once, ours only; 0: all",
    )
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT to run beside ours")
    parser.add_argument("--transformers", action="store_true", help="run transformers' GPT2LMHeadModel beside ours")
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="count this process's CPU seconds: for a machine that others use"
    )
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args(arguments)
    options.loss_chunk = options.loss_chunk or None
    found: list[Result] = []

    def work() -> None:
        with processes(options.device) as group:
            name = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "CPU"
            sys.stdout.write(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
            for preset in options.presets:
                for micro_batch in options.micro_batches:
                    results = contest(options, preset, micro_batch, group.device)
                    sys.stdout.write("\n".join(report(results)) + "\n")
                    sys.stdout.flush()
                    found.extend(results)
        if options.json is not None:
            options.json.write_text(json.dumps([dataclasses.asdict(result) for result in found], indent=1) + "\n")

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
