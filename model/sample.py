"""Text from a model: greedy, temperature, top-k, top-p; prompts as they are, or a template filled from a file.

- Prompts of different lengths are continued together, padded on the left; keys and values are kept. What prompt i
  becomes depends on the seed and on i, not on its neighbours: each prompt has a generator of its own.
- A prompt that leaves no room for `max_tokens` in the context loses its beginning, not its end.
- A template (model/templates/*.toml) has an `example`, repeated for few-shot examples, and a `query`, both with
  {fields}; the strings at which to stop, what to keep, and how to draw. Those shipped word the tasks as the paper does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.command import parser_of, status_of
from model.config import SampleSettings
from model.gpt2 import GPT2, KeyValueCache

TEMPLATES = Path(__file__).with_name("templates")
_KEEPS = ("all", "first_sentence", "three_sentences")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


@torch.no_grad()
def generate(
    model: GPT2, prompts: Sequence[Sequence[int]], settings: SampleSettings, *, end_of_text: int
) -> list[list[int]]:
    """The continuation of each prompt (token ids), without the end-of-text that ended it.

    An empty prompt is end-of-text. Raises ValueError where max_tokens leaves no room in the context.
    """
    room = model.config.context - settings.max_tokens
    if room < 1:
        raise ValueError(
            f"[sample] max_tokens: expected fewer than the model's context {model.config.context}, got "
            f"{settings.max_tokens}; lower it"
        )
    results: list[list[int]] = []
    for begin in range(0, len(prompts), settings.batch):
        group = [list(prompt)[-room:] or [end_of_text] for prompt in prompts[begin : begin + settings.batch]]
        generators = [_generator(settings.seed, begin + row) for row in range(len(group))]
        results += _continue(model, group, generators, settings, end_of_text)
    return results


def _continue(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    settings: SampleSettings,
    end_of_text: int,
) -> list[list[int]]:
    device = model.transformer.wte.weight.device
    width = max(map(len, prompts))
    padding = torch.tensor([width - len(prompt) for prompt in prompts])
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    cache = KeyValueCache(model, padding, width + settings.max_tokens)
    found: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for _ in range(settings.max_tokens):
        logits = model(tokens, cache=cache, last=True)[:, 0]  # [B, V]
        chosen = choose(logits, generators, settings)
        for row, token in enumerate(chosen.tolist()):
            ended[row] = ended[row] or token == end_of_text
            if not ended[row]:
                found[row].append(token)
        if all(ended):
            break
        tokens = chosen.to(device).unsqueeze(1)
    return found


def choose(logits: Tensor, generators: Sequence[torch.Generator], settings: SampleSettings) -> Tensor:
    """One token of each row of logits [B, V], int64[B] on the CPU: the inverse of the distribution at one draw each."""
    logits = logits.double().cpu()
    if settings.temperature == 0:
        return logits.argmax(-1)
    ordered, ids = (logits / settings.temperature).sort(dim=-1, descending=True, stable=True)
    if settings.top_k is not None:
        ordered, ids = ordered[:, : settings.top_k], ids[:, : settings.top_k]
    probability = ordered.softmax(-1)
    cumulative = probability.cumsum(-1)
    if settings.top_p is not None:
        # A token stays if those before it have less than top_p; so the first always stays.
        probability = probability.masked_fill(cumulative - probability >= settings.top_p, 0.0)
        cumulative = probability.cumsum(-1)
    draws = torch.stack([torch.rand((), dtype=torch.float64, generator=generator) for generator in generators])
    places = torch.searchsorted(cumulative, (draws * cumulative[:, -1]).unsqueeze(1), right=True)
    last = (probability > 0).sum(-1, keepdim=True) - 1  # a draw next to 1 may round past the end
    return ids.gather(1, torch.minimum(places, last)).squeeze(1)


def _generator(seed: int, prompt: int) -> torch.Generator:
    # One 64-bit seed of the pair: splitting by a large odd constant keeps neighbouring prompts apart.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + prompt * 0xD1342543DE82EF95) % 2**63)


# Templates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """How a task is put to a model in words, and how its answer is read."""

    example: str
    query: str
    stop: tuple[str, ...]
    keep: str
    sampling: Mapping[str, Any]  # fields of SampleSettings

    def prompt(self, fields: Mapping[str, Any], examples: Sequence[Mapping[str, Any]] = ()) -> str:
        """The few-shot examples and the query, filled. ValueError for a field that is missing."""
        parts = [(self.example, example) for example in examples] + [(self.query, fields)]
        try:
            return "".join(text.format_map(values) for text, values in parts)
        except KeyError as error:
            raise ValueError(f"template: expected the field {error} in every record, got none; add it") from None

    def answer(self, continuation: str) -> str:
        """The part of a continuation that answers."""
        ends = [place for mark in self.stop if (place := continuation.find(mark, 1)) >= 0]
        text = continuation[: min(ends)] if ends else continuation
        text = text.strip()
        if self.keep == "all":
            return text
        sentences = _SENTENCE_END.split(text)
        return " ".join(sentences[: 1 if self.keep == "first_sentence" else 3])

    def settings(self, base: SampleSettings) -> SampleSettings:
        """`base` with what the template says of drawing."""
        return dataclasses.replace(base, **self.sampling)


def read_template(name: str) -> Template:
    """A shipped template by name, or one of the user's by path."""
    path = Path(name) if name.endswith(".toml") else TEMPLATES / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        shipped = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.toml")))
        raise ValueError(f"template: expected one of {shipped} or a .toml file, got {name!r} ({error})") from error
    required = {"example", "query", "stop", "keep"}
    allowed = required | {"temperature", "top_k", "top_p", "max_tokens"}
    if not required <= set(content) <= allowed or content["keep"] not in _KEEPS:
        raise ValueError(f"{path}: expected {', '.join(sorted(allowed))} with keep one of {', '.join(_KEEPS)}")
    sampling = {key: value for key, value in content.items() if key not in required}
    return Template(content["example"], content["query"], tuple(content["stop"]), content["keep"], sampling)


# Command ---------------------------------------------------------------------------------------------------------


def _records(path: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected a JSON object, {error}; correct it") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}; correct it")
            yield record


def main(arguments: list[str]) -> int:
    """`python -m model.sample MODEL TOKENIZER --prompt TEXT`: one JSON line a prompt on stdout."""
    parser = parser_of("python -m model.sample", __doc__ or "")
    parser.add_argument("model", type=Path, help="a run, one of its checkpoints, or a transformers directory")
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("--prompt", action="append", default=[], help="text to continue; may be given again")
    parser.add_argument("--template", help="a shipped template's name, or a .toml file")
    parser.add_argument("--records", help="JSON lines that fill the template, or have a `prompt`")
    parser.add_argument("--examples", help="JSON lines of few-shot examples for the template")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: CUDA where there is one"
    )
    for entry in dataclasses.fields(SampleSettings):
        kind = float if "float" in str(entry.type) else int
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, help=entry.metadata["help"])
    options = parser.parse_args(arguments)

    def work() -> None:
        for line in _run(options):
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")

    return status_of(work)


def _prompt_of(record: Mapping[str, Any], path: str) -> str:
    prompt = record.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(f"{path}: expected a field `prompt` in every record, got {', '.join(record)}; or a --template")
    return prompt


def _run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from model.evals.evaluate import Tokenizer
    from model.hf import load_any
    from model.parallel import processes

    given = {entry.name: getattr(options, entry.name) for entry in dataclasses.fields(SampleSettings)}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = SampleSettings(**chosen)
    template = read_template(options.template) if options.template else None
    records = list(_records(options.records)) if options.records else []
    if template is not None and (options.prompt or not records):
        raise ValueError(
            "--template: expected --records to fill it and no --prompt, got otherwise; give one or the other"
        )
    if template is None and options.examples:
        raise ValueError("--examples: expected a --template that words them, got none; name one")
    if template is not None:
        settings = dataclasses.replace(template.settings(settings), **chosen)
        shots = list(_records(options.examples)) if options.examples else []
        prompts = [template.prompt(record, shots) for record in records]
    else:
        prompts = [*options.prompt, *(_prompt_of(record, options.records) for record in records)]
    tokenizer = Tokenizer(options.tokenizer)
    with processes(options.device) as group:
        model = load_any(options.model).to(group.device).eval()
        ids = [tokenizer.encode(prompt).tolist() for prompt in prompts or [""]]
        for prompt, found in zip(
            prompts or [""], generate(model, ids, settings, end_of_text=tokenizer.end_of_text), strict=True
        ):
            text = tokenizer.decode(found)
            line = {"prompt": prompt, "continuation": text}
            yield line | {"answer": template.answer(text)} if template is not None else line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
