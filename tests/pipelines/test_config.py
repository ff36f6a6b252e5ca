"""Settings: what is refused and how, what luigi.cfg says, and which stages each single field makes anew."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import luigi.configuration
import pytest
from helpers import builds, inline
from helpers.webs import Built

from pipelines import config
from pipelines.build import GRAPH, Build

CFG = (builds.REPOSITORY / "luigi.cfg").read_text(encoding="utf-8")
FIELDS = [(section, one) for section in config.SECTIONS for one in dataclasses.fields(config.settings_class(section))]

# Where a change to any field of a section is first felt; everything upstream of it stays as it is.
FIRST = {
    "links": {"links", "selected"},
    "select": {"selected", "filtered"},
    "fetch": {"pages"},
    "extract": {"documents"},
    "filter": {"filtered"},
    "minhash": {"dedup"},
    "dedup": {"dedup"},
    "decontaminate": {"decontaminated"},
    "tokenizer": {"tokenizer"},
    "tokens": {"tokens"},
    "overlap": {"overlap", "overlap/filter"},
    "corpus": {"selected", "corpus", "overlap", "report"},
}

# What cannot be changed on its own, or only where a file is read: other values for those.
OTHER: dict[tuple[str, str], Any] = {
    ("corpus", "preset"): "webtext",
    ("select", "since"): "2012-01-01",
    ("select", "until"): "2019-01-01",
    ("fetch", "network"): None,
    ("links", "dumps"): None,
    ("links", "url_lists"): (str(builds.MINIWEB / "links.csv"),),
    ("links", "removals"): (str(builds.MINIWEB / "removals.txt"),),
    ("links", "subreddits"): ("news",),
    ("select", "blocklist_files"): (str(builds.MINIWEB / "removals.txt"),),
    ("overlap", "evaluation_sets"): (str(builds.MINIWEB / "evaluation" / "quiz"),),
    ("overlap", "mode"): "bloom",
    ("decontaminate", "evaluation_sets"): (str(builds.MINIWEB / "evaluation"),),
    ("decontaminate", "exclude_reference"): (str(builds.MINIWEB / "gold.jsonl"),),
}


def changed(settings: Any, one: dataclasses.Field[Any], section: str) -> Any:
    """The settings with another value in one field; None where no other value stands alone."""
    value = getattr(settings, one.name)
    if (section, one.name) in OTHER:
        candidates = [OTHER[section, one.name]]
    else:
        hint = typing.get_type_hints(type(settings))[one.name]
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        kind = inner[0] if type(None) in typing.get_args(hint) else hint
        if typing.get_origin(kind) is typing.Literal:
            candidates = [arg for arg in typing.get_args(kind) if arg != value]
        elif kind is bool:
            candidates = [not value]
        elif kind is int:
            candidates = [(value or 0) + 1, (value or 0) - 1, (value or 1) * 2, 1]
        elif kind is float:
            candidates = [(value or 0.5) * 0.9, (value or 0.5) * 1.1, 0.5]
        elif kind is str:
            candidates = ["en", "x"]
        else:
            candidates = [tuple(value)[:-1], (*value, "x"), ("en",), ("x",)]
    for candidate in candidates:
        if candidate is None or candidate == value:
            continue
        try:
            return dataclasses.replace(settings, **{one.name: candidate})
        except ValueError:
            continue
    return None


def incomplete(settings: config.Settings) -> set[str]:
    """The stages that a build with these settings would do."""
    build = Build(settings)
    return {name for name in GRAPH if build.records(name) is None}


def test_each_field_makes_anew_what_it_can_change_and_nothing_else(built: Built) -> None:
    base = inline.settings_of(built.web.sections(built.root))
    assert incomplete(base) == set()
    wrong, untried, tried = [], [], 0
    for section, one in FIELDS:
        given = changed(base[section], one, section)
        if given is None:
            untried.append(f"[{section}] {one.name}")
            continue
        if (section, one.name) == ("corpus", "root"):
            continue
        settings = config.Settings({**base.sections, section: given})
        try:
            stages = incomplete(settings)
        except (ValueError, OSError) as error:
            untried.append(f"[{section}] {one.name}: {error}")
            continue
        tried += 1
        first = {name for name in stages if not stages & set(GRAPH[name])}
        downstream = set(first)
        for name, needs in GRAPH.items():
            if downstream & set(needs):
                downstream.add(name)
        if not one.metadata.get("bytes", True) or section not in FIRST:
            right = not stages
        else:
            # The report shows every setting, also those of a source or a filter that this build has not got.
            right = bool(first) and first <= FIRST[section] | {"report"} and stages == downstream
        if not right:
            wrong.append(f"[{section}] {one.name}: {getattr(given, one.name)!r} -> {sorted(stages)}")
    assert not wrong, "\n".join(wrong)
    assert tried > 120
    assert len(untried) < 20, "\n".join(untried)


def test_the_overlap_is_made_anew_where_gpt2s_vocabulary_has_other_bytes(built: Built, tmp_path: Path) -> None:
    def reads(folder: str, content: str) -> list[list[Any]]:
        path = tmp_path / folder
        path.mkdir()
        (path / "merges.txt").write_text(content)
        sections = built.web.sections(
            built.root,
            corpus={"gpt2_vocabulary": str(path)},
            overlap={"mode": "bloom", "protocols": "words, gpt2-tokens"},
        )
        build = Build(inline.settings_of(sections))
        phases = [build.stage("overlap/filter").phases[0], build.stage("overlap").phases[0]]
        return [[(unit.name, unit.arguments) for unit in phase.units({})] for phase in phases]

    one, copied, other = reads("one", "a b"), reads("copied", "a b"), reads("other", "a c")
    assert one == copied
    assert one[1] != other[1]
    differ = {mine[0] for mine, theirs in zip(one[0], other[0], strict=True) if mine != theirs}
    assert differ == {name for name, _ in one[0] if name.startswith("gpt2-tokens-")}
    nowhere = {"corpus": {"gpt2_vocabulary": "nowhere"}, "overlap": {"protocols": "gpt2-tokens"}}
    overlap = Build(inline.settings_of(built.web.sections(built.root, **nowhere))).stage("overlap")
    with pytest.raises(ValueError, match=r"\[corpus\] gpt2_vocabulary: expected a folder"):
        overlap.phases[0].units({})


def test_luigi_cfg_shows_every_key_of_every_section_with_its_default() -> None:
    missing = []
    for section, one in FIELDS:
        found = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", CFG, re.MULTILINE | re.DOTALL)
        assert found, f"[{section}] is not in luigi.cfg"
        if not re.search(rf"^(# )?{one.name} =", found.group(1), re.MULTILINE):
            missing.append(f"[{section}] {one.name}")
    assert missing == []


def test_luigi_cfg_shows_true_defaults_where_a_key_is_commented_out() -> None:
    wrong = []
    for section, one in FIELDS:
        part = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", CFG, re.MULTILINE | re.DOTALL)
        assert part
        shown = re.search(rf"^# {one.name} =(.*(?:\n#     .*)*)", part.group(1), re.MULTILINE)
        if shown is None:
            continue
        text = re.sub(r"\n#     ", " ", shown.group(1)).strip()
        kind = typing.get_type_hints(config.settings_class(section))[one.name]
        default = one.default
        if config.parse(text, kind, size=one.name.endswith("_bytes")) != default and (
            text or default not in (None, ())
        ):
            wrong.append(f"[{section}] {one.name}: {text!r} is not {default!r}")
    assert wrong == []


@pytest.mark.parametrize(
    ("section", "key", "text", "message"),
    [
        ("select", "min_karma", "three", "[select] min_karma: expected a whole number, got 'three'"),
        ("select", "karma_rule", "best", "[select] karma_rule: expected one of 'max', 'sum'"),
        ("corpus", "validation_fraction", "half", "[corpus] validation_fraction: expected a number, got 'half'"),
        ("links", "allow_truncated", "yes", "[links] allow_truncated: expected true or false, got 'yes'"),
        ("engine", "memory_bytes", "lots", "[engine] memory_bytes: expected a size such as 4GB or 512MiB, got 'lots'"),
        ("engine", "kind", "ray", "[engine] kind: expected local, got 'ray'"),
        ("corpus", "num_shards", "0", "[corpus] num_shards: expected 1 to 65536, got 0"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_with_section_and_key(
    section: str, key: str, text: str, message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        config.build(section, {key: text})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512MiB", 512 << 20), ("1.5k", 1500), ("1_000", 1000), ("2 TiB", 2 << 40), ("7b", 7)],
)
def test_sizes_may_have_units(text: str, size: int) -> None:
    assert config.parse(text, int, size=True) == size


def test_lists_optional_values_and_presets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.parse("a, b\nc,", tuple[str, ...]) == ("a", "b", "c")
    assert config.parse(" ", int | None) is None
    given = {"corpus": {"preset": "webtext"}, "tokenizer": {"vocab_size": "400"}}
    monkeypatch.setattr(config, "_given", lambda section: dict(given.get(section, {})))
    monkeypatch.setattr(config, "check_names", lambda: None)
    settings = config.read_settings()
    assert settings["select"].until == "2017-12-31"
    assert settings["corpus"].validation_fraction == 0.05
    assert settings["tokenizer"].vocab_size == 400  # what a file says wins over the preset


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("select", "min_carma", "unknown key 'min_carma' in section [select]; did you mean 'min_karma'?"),
        ("selekt", "min_karma", "unknown section [selekt]; did you mean 'select'?"),
        ("tokenizer", "zzz", "unknown key 'zzz' in section [tokenizer]; expected one of: "),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known(
    monkeypatch: pytest.MonkeyPatch, section: str, key: str, message: str
) -> None:
    parser = luigi.configuration.LuigiConfigParser()
    parser.read_dict({section: {key: "1"}})
    monkeypatch.setattr(luigi.configuration, "get_config", lambda: parser)
    with pytest.raises(ValueError, match=re.escape(message)):
        config.check_names()
