"""The model against transformers' GPT-2, and against itself computed another way."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import PRESETS, ModelSettings
from model.gpt2 import GPT2, Architecture, KeyValueCache, documents_of, language_model_loss, pattern_mask

SMALL = Architecture(vocab_size=101, context=24, layers=3, width=32, heads=4, pad_vocabulary_to=1)


def build(config: Architecture = SMALL, **options: int | None) -> GPT2:
    model = GPT2(config, **options).double()
    model.initialise(7)
    with torch.no_grad():  # biases and gains that are not what they started from
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                draws = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter.add_(0.1 * draws.double())
    return model


def tokens_of(*shape: int, vocab: int = 101, seed: int = 0) -> Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_sizes_have_the_published_numbers_of_parameters(preset: str, parameters: int) -> None:
    config = Architecture.of(ModelSettings(preset=preset), 50257)
    assert config.parameters == parameters
    with torch.device("meta"):
        model = GPT2(dataclasses.replace(config, pad_vocabulary_to=1))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert set(PRESETS) == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}


def test_flops_per_token_are_those_of_the_named_convention() -> None:
    assert Architecture().flops_per_token == pytest.approx(0.855e9, rel=1e-3)


def test_logits_and_gradients_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from model.hf import TURNED, config_json

    model = build()
    config = transformers.GPT2Config(**config_json(SMALL, 0))
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    state = {name: t.t() if name.endswith(TURNED) else t for name, t in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    theirs.tie_weights()
    rows = tokens_of(3, 25)
    tokens, targets = rows[:, :-1], rows[:, 1:].contiguous()
    expected = theirs(tokens, labels=rows[:, :-1])
    assert (model(tokens) - expected.logits).abs().max() < 1e-10
    model(tokens, targets).backward()
    torch.nn.functional.cross_entropy(expected.logits.flatten(0, 1), targets.flatten()).backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        wanted = gradients[name].grad.t() if name.endswith(TURNED) else gradients[name].grad
        assert (parameter.grad - wanted).abs().max() < 1e-10, name


def test_an_untrained_model_knows_nothing() -> None:
    model = GPT2(Architecture(layers=2, width=64, heads=2, context=128))
    model.initialise(0)
    rows = tokens_of(2, 129, vocab=50257)
    loss = model(rows[:, :-1], rows[:, 1:].contiguous()).item()
    assert loss == pytest.approx(math.log(50257), abs=0.05)


def test_initial_weights_have_openais_spread_and_pads_are_zero() -> None:
    config = Architecture(vocab_size=5000, context=512, layers=8, width=128, heads=4)
    model = GPT2(config)
    model.initialise(3)
    deviations = {name: p.std().item() for name, p in model.named_parameters() if p.dim() == 2 and "wte" not in name}
    for name, deviation in deviations.items():
        expected = 0.01 if "wpe" in name else 0.02 / 4 if "c_proj" in name else 0.02  # sqrt(2 * 8) = 4
        assert deviation == pytest.approx(expected, rel=0.03), name
    embedding = model.transformer.wte.weight
    assert embedding[:5000].std().item() == pytest.approx(0.02, rel=0.01)
    assert embedding.shape == (5056, 128)
    assert not embedding[5000:].any()


def test_padding_changes_no_initial_weight_loss_or_gradient() -> None:
    plain, padded = (GPT2(dataclasses.replace(SMALL, pad_vocabulary_to=to)).double() for to in (1, 64))
    plain.initialise(5)
    padded.initialise(5)
    rows = tokens_of(2, 25)
    for chunk in (None, 7):
        losses = []
        for model in (plain, padded):
            model.loss_chunk = chunk
            model.zero_grad()
            loss = model(rows[:, :-1], rows[:, 1:].contiguous())
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-13)
        for (name, ours), theirs in zip(plain.named_parameters(), padded.parameters(), strict=True):
            rows_of = theirs.grad[:101] if "wte" in name else theirs.grad
            assert torch.allclose(ours.grad, rows_of, rtol=0, atol=1e-13), name
        assert not padded.transformer.wte.weight.grad[101:].any()
    assert padded(rows[:, :-1]).shape == (2, 24, 101)


@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(2, 9),
    st.integers(0, 3),
    st.integers(0, 2**31 - 1),
    st.booleans(),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_chunked_loss_is_plain_cross_entropy(
    count: int, chunk: int, vocab: int, pads: int, seed: int, ignore: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64).requires_grad_()
    weight = (5 * torch.randn(vocab + pads, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(0, vocab, (count,), generator=generator)
    if ignore:
        targets[torch.rand(count, generator=generator) < 0.4] = -100
        targets[0] = 0
    plain = torch.nn.functional.cross_entropy((x @ weight.T)[:, :vocab], targets)
    wanted = torch.autograd.grad(plain * 3, (x, weight))
    chunked = language_model_loss(x, weight, targets, vocab, chunk)
    found = torch.autograd.grad(chunked * 3, (x, weight))
    assert torch.allclose(chunked, plain, rtol=0, atol=1e-11)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-11)


def test_evaluation_nats_are_those_of_the_logits() -> None:
    model = build()
    model.loss_chunk = 5
    rows = tokens_of(2, 25)
    targets = rows[:, 1:].clone()
    targets[0, :3] = -100
    expected = -model(rows[:, :-1]).log_softmax(-1).gather(2, rows[:, 1:].unsqueeze(2)).squeeze(2)
    expected[0, :3] = 0
    assert (model.nats(rows[:, :-1], targets) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("attention", ["dense", "alternating_banded", "strided"])
def test_cached_steps_equal_the_full_forward(attention: str) -> None:
    model = build(dataclasses.replace(SMALL, attention=attention, band=5))
    lengths = [9, 4, 1]
    rows = tokens_of(3, 20)
    cache = KeyValueCache(model, torch.tensor([9 - n for n in lengths]), 20)
    padded = torch.zeros(3, 9, dtype=torch.int64)
    for row, n in enumerate(lengths):
        padded[row, 9 - n :] = rows[row, :n]
    if attention == "dense":
        logits = [model(padded, cache=cache, last=True)]
        logits += [model(torch.stack([rows[row, n + i] for row, n in enumerate(lengths)]).unsqueeze(1), cache=cache)
                   for i in range(8)]  # fmt: skip
        for row, n in enumerate(lengths):
            full = model(rows[row : row + 1, : n + 8])[0, n - 1 :]
            assert (torch.stack([step[row, 0] for step in logits]) - full).abs().max() < 1e-12
    cache = KeyValueCache(model, torch.zeros(3, dtype=torch.int64), 20)
    steps = [model(part, cache=cache) for part in (rows[:, :6], rows[:, 6:7], rows[:, 7:12], rows[:, 12:20])]
    assert (torch.cat(steps, 1) - model(rows)).abs().max() < 1e-12


def test_masked_documents_equal_documents_on_their_own() -> None:
    end = 100
    model = build()
    model.end_of_text = end
    alone = build()
    pieces = [tokens_of(5, vocab=100, seed=1), tokens_of(8, vocab=100, seed=2), tokens_of(3, vocab=100, seed=3)]
    separate = [pieces[0], *(torch.cat([torch.tensor([end]), piece]) for piece in pieces[1:])]
    together = torch.cat(separate).unsqueeze(0)
    expected = torch.cat([alone(piece.unsqueeze(0))[0] for piece in separate])
    assert (model(together)[0] - expected).abs().max() < 1e-12
    documents, positions = documents_of(together, end)
    assert documents[0].tolist() == [0] * 5 + [1] * 9 + [2] * 4
    assert positions[0].tolist() == [*range(5), *range(9), *range(4)]


@pytest.mark.parametrize("band", [1, 3, 128])
@pytest.mark.parametrize("pattern", ["dense", "alternating_banded", "strided"])
def test_patterns_equal_their_slow_twin(pattern: str, band: int) -> None:
    def sees(layer: int, query: int, key: int) -> bool:
        if key > query:
            return False
        if pattern == "alternating_banded" and layer % 2 == 1:
            return query - key < band
        if pattern == "strided":
            return query - key <= band or (query - key) % band == 0
        return True

    places = torch.arange(13)
    for layer in range(4):
        mask = pattern_mask(pattern, layer, band, places, places)
        mask = torch.ones(13, 13).tril().bool() if mask is None else mask
        assert mask.tolist() == [[sees(layer, q, k) for k in range(13)] for q in range(13)]


def test_a_banded_layer_does_not_see_beyond_its_band() -> None:
    config = dataclasses.replace(SMALL, attention="strided", band=3, layers=1)
    model = build(config)
    rows = tokens_of(1, 12)
    changed = rows.clone()
    changed[0, 11 - 4] = (changed[0, 11 - 4] + 1) % 101  # distance 4: neither within 3 nor a multiple of 3
    assert torch.equal(model(rows)[0, 11], model(changed)[0, 11])
    changed[0, 11 - 6] = (changed[0, 11 - 6] + 1) % 101
    assert not torch.equal(model(rows)[0, 11], model(changed)[0, 11])


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 24 tokens"):
        build()(tokens_of(1, 25))


def test_one_batch_is_learned_by_heart() -> None:
    model = GPT2(dataclasses.replace(SMALL, layers=2, width=64), loss_chunk=16)
    model.initialise(0)
    rows = tokens_of(4, 25, seed=9)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0, fused=True)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(rows[:, :-1], rows[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
    # A sample's first prediction knows one token only, which may come in two samples: nothing to learn there.
    firsts = rows[:, 0].tolist()
    assert len(set(firsts)) == len(firsts)
    assert loss.item() < 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_compiled_equals_eager() -> None:
    eager, compiled = build(loss_chunk=16), build(loss_chunk=16)
    compiled.compile(dynamic=False, fullgraph=True)
    rows = tokens_of(2, 25)
    losses = []
    for model in (eager, compiled):
        loss = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    for ours, theirs in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert np.allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=0, atol=1e-12)
