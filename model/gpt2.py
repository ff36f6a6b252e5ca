"""GPT-2, exactly, in one file.

- Pre-LayerNorm blocks and a final LayerNorm, eps 1e-5, biases everywhere, tanh GELU, learned positions, tied head.
- Parameters bear the names of the released checkpoints; a Linear holds [out, in], so hf.py turns four of them over.
- Initial weights are OpenAI's: 0.02, positions 0.01, residual projections divided by sqrt(2 * layers). They come from
  a generator of their own on the CPU, so a seed means the same model on any device, and padding changes no draw.
- The vocabulary is padded for the matrix units; pads never enter the softmax and never move from zero.
- The loss may be taken in chunks of tokens: logits (50,257 numbers a token) exist for one chunk at a time, and their
  gradient is made in the same pass, so nothing is computed twice.
- Attention is dense, or one of two sparse patterns of the literature; documents may be kept apart by a mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelSettings


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the weights' shapes follow from, and the attention pattern."""

    vocab_size: int = 50257
    context: int = 1024
    layers: int = 12
    width: int = 768
    heads: int = 12
    attention: str = "dense"  # dense | alternating_banded | strided
    band: int = 128
    pad_vocabulary_to: int = 64

    @classmethod
    def of(cls, settings: ModelSettings, vocab_size: int) -> Architecture:
        layers, width, heads = settings.shape
        return cls(vocab_size, settings.context, layers, width, heads, settings.attention, settings.band,
                   settings.pad_vocabulary_to)  # fmt: skip

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab_size // self.pad_vocabulary_to) * self.pad_vocabulary_to

    @property
    def parameters(self) -> int:
        """Tied, without pads: V·C + T·C + L(12C² + 13C) + 2C."""
        C = self.width
        return (self.vocab_size + self.context) * C + self.layers * (12 * C * C + 13 * C) + 2 * C

    @property
    def flops_per_token(self) -> int:
        """6N + 12LCT, forward and backward: N without the positions, attention counted as dense (PaLM's convention)."""
        return 6 * (self.parameters - self.context * self.width) + 12 * self.layers * self.width * self.context


# Attention patterns --------------------------------------------------------------------------------------------


def pattern_mask(pattern: str, layer: int, band: int, queries: Tensor, keys: Tensor) -> Tensor | None:
    """Which keys a query sees, bool[..., Q, K], of positions [..., Q] and [..., K]; None: every earlier key.

    - alternating_banded: odd layers see the last `band` tokens, themselves included (GPT-3: "alternating dense and
      locally banded"); even layers are dense.
    - strided: a distance of at most `band`, or a multiple of it (Child et al. 2019, both heads' patterns merged).
    """
    if pattern == "dense" or (pattern == "alternating_banded" and layer % 2 == 0):
        return None
    distance = queries.unsqueeze(-1) - keys.unsqueeze(-2)
    if pattern == "alternating_banded":
        return (distance >= 0) & (distance < band)
    if pattern == "strided":
        return (distance >= 0) & ((distance <= band) | (distance % band == 0))
    raise ValueError(f"attention: expected dense, alternating_banded or strided, got {pattern!r}")


def documents_of(tokens: Tensor, end_of_text: int) -> tuple[Tensor, Tensor]:
    """(document number, position in its document) of every token, int64[B, T]; end-of-text opens a document."""
    starts = tokens == end_of_text
    places = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
    begun = torch.where(starts, places, 0).cummax(dim=1).values
    return starts.cumsum(dim=1), places - begun


class KeyValueCache:
    """Keys and values of the tokens so far, for B sequences padded on the left to one length."""

    def __init__(self, model: GPT2, padding: Tensor, capacity: int) -> None:
        config = model.config
        shape = (config.layers, padding.numel(), config.heads, capacity, config.width // config.heads)
        weight = model.transformer.wte.weight
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.padding = padding.to(weight.device)  # [B] tokens on the left that are no tokens
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end].to(k.dtype), self.values[layer, :, :, :end].to(v.dtype)


# The model -------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)  # [B, H, T, C/H]
        out: Tensor = self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return out


class MLP(nn.Module):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class Block(nn.Module):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=1e-5)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache, layer)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.padded_vocab, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width, eps=1e-5)


class GPT2(nn.Module):
    """`forward(tokens)` gives logits, `forward(tokens, targets)` the mean loss in nats per token."""

    def __init__(self, config: Architecture, *, loss_chunk: int | None = None, end_of_text: int | None = None) -> None:
        """`end_of_text`: keep documents apart (training only). Weights are not initialised: see `initialise`."""
        super().__init__()
        self.config = config
        self.loss_chunk = loss_chunk
        self.end_of_text = end_of_text
        self.transformer = Transformer(config)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, *, cache: KeyValueCache | None = None, last: bool = False
    ) -> Tensor:
        """tokens int64[B, T]; targets int64[B, T], -100 where nothing is to be predicted.

        Returns logits [B, T, V] (with `last` only those of the last token, [B, 1, V]), or the loss, a scalar: over
        all targets that are not -100. With a cache, `tokens` continue what the cache holds.
        """
        x = self.hidden(tokens, cache)
        weight = self.transformer.wte.weight
        if targets is not None:
            return language_model_loss(
                x.flatten(0, 1), weight, targets.flatten(), self.config.vocab_size, self.loss_chunk
            )
        if last:
            x = x[:, -1:]
        return F.linear(x, weight)[..., : self.config.vocab_size]

    def hidden(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The final LayerNorm's output, [B, T, C]."""
        masks, positions = self._masks(tokens, cache)
        x = self.transformer.wte(tokens) + self.transformer.wpe(positions)  # [B, T, C]
        for layer, block in enumerate(self.transformer.h):
            x = block(x, masks[layer % len(masks)], cache, layer)
        if cache is not None:
            cache.length += tokens.size(1)
        out: Tensor = self.transformer.ln_f(x)
        return out

    @torch.no_grad()
    def nats(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """-ln P of each target, float64[B, T]; 0 where the target is -100."""
        x = self.hidden(tokens).flatten(0, 1)
        rows = targets.flatten()
        chunk = self.loss_chunk or 1024
        parts = []
        for begin in range(0, x.size(0), chunk):
            logits = F.linear(x[begin : begin + chunk], self.transformer.wte.weight)[:, : self.config.vocab_size]
            exact = logits if logits.dtype == torch.float64 else logits.float()
            parts.append(F.cross_entropy(exact, rows[begin : begin + chunk], reduction="none"))
        return torch.cat(parts).view(targets.shape).double()

    def _masks(self, tokens: Tensor, cache: KeyValueCache | None) -> tuple[list[Tensor | None], Tensor]:
        """Attention masks (those of layer i at i modulo their number) and positions."""
        T = tokens.size(1)
        config = self.config
        begun = cache.length if cache is not None else 0
        if begun + T > config.context:
            raise ValueError(f"expected at most {config.context} tokens, the context, got {begun + T}; cut the input")
        keys = torch.arange(begun + T, device=tokens.device)
        queries = keys[begun:]
        positions = queries
        allowed: Tensor | None = None  # on top of the pattern and of causality
        if cache is not None and (bool(cache.padding.any()) or begun):
            positions = (queries - cache.padding.unsqueeze(1)).clamp(min=0)  # [B, T]
            padded = keys < cache.padding.unsqueeze(1)  # [B, K]
            own = queries.unsqueeze(1) == keys  # a pad sees itself: a row of nothing would be NaN
            allowed = ((queries.unsqueeze(1) >= keys) & ~padded.unsqueeze(1)) | own  # [B, T, K]
        elif self.end_of_text is not None and cache is None:
            document, positions = documents_of(tokens, self.end_of_text)
            allowed = (document.unsqueeze(2) == document.unsqueeze(1)) & (queries.unsqueeze(1) >= keys)
        masks: list[Tensor | None] = []
        for layer in range(2 if config.attention == "alternating_banded" else 1):
            mask = pattern_mask(config.attention, layer, config.band, queries, keys)  # [T, K]
            if allowed is not None:
                mask = allowed if mask is None else mask & allowed
                mask = mask.unsqueeze(1)  # [B, 1, T, K], the same for every head
            masks.append(mask)
        return masks, positions

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fills all weights from `seed`: normal 0.02, positions 0.01, residual projections 0.02 / sqrt(2 * layers)."""
        generator = torch.Generator().manual_seed(seed)
        config = self.config
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif ".ln_" in name:
                parameter.fill_(1.0)
            else:
                std = 0.01 if "wpe" in name else 0.02
                if name.endswith("c_proj.weight"):
                    std /= math.sqrt(2 * config.layers)
                rows = config.vocab_size if "wte" in name else parameter.size(0)
                draws = torch.empty(rows, parameter.size(1)).normal_(0.0, std, generator=generator)
                parameter[:rows] = draws.to(parameter.dtype)
                parameter[rows:] = 0.0


# Loss ------------------------------------------------------------------------------------------------------------


def language_model_loss(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, chunk: int | None) -> Tensor:
    """Mean cross-entropy, in nats, of x [N, C] @ weight [padded V, C].T against targets [N]; -100 is left out."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if chunk is None:
        logits = F.linear(x, weight)[:, :vocab_size]
        return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets)
    wants_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    loss: Tensor = _ChunkedCrossEntropy.apply(x, weight, targets, vocab_size, chunk, wants_gradient)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose gradient is made with the loss, chunk by chunk of rows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, chunk: int, wants_gradient: bool
    ) -> Tensor:
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        counted = targets != -100
        scale = 1.0 / counted.sum().clamp(min=1).to(exact)
        safe = torch.where(counted, targets, 0)
        loss = torch.zeros((), dtype=exact, device=x.device)
        grad_x = torch.empty_like(x) if wants_gradient else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wants_gradient else None
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, x.size(0), chunk):
                rows = slice(start, start + chunk)
                logits = (x[rows] @ weight.t()).to(exact)  # [n, padded V]
                if vocab_size < weight.size(0):
                    logits[:, vocab_size:] = -torch.inf
                top = logits.amax(dim=1, keepdim=True)
                logits.sub_(top)
                index = safe[rows].unsqueeze(1)
                chosen = logits.gather(1, index).squeeze(1)
                logits.exp_()
                total = logits.sum(dim=1)
                loss += torch.where(counted[rows], total.log() - chosen, 0.0).sum()
                if grad_x is None or grad_weight is None:
                    continue
                factor = counted[rows].to(exact) * scale
                logits.mul_((factor / total).unsqueeze(1))
                logits.scatter_add_(1, index, -factor.unsqueeze(1))
                gradient = logits.to(x.dtype)
                grad_x[rows] = gradient @ weight
                if gradient.dtype == exact:
                    grad_weight.addmm_(gradient.t(), x[rows])
                else:
                    grad_weight += gradient.t() @ x[rows]
        if grad_x is not None and grad_weight is not None:
            ctx.save_for_backward(grad_x, grad_weight.to(weight.dtype))
        return loss * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        grad = grad_outputs[0]
        return grad_x * grad.to(grad_x.dtype), grad_weight * grad.to(grad_weight.dtype), None, None, None, None
