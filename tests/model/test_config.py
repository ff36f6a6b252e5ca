"""Settings and jobs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from model.config import (
    EvaluateJob,
    EvaluateSettings,
    ModelSettings,
    SampleSettings,
    TrainJob,
    TrainSettings,
    job_json,
    read_job,
)

SETTINGS = (ModelSettings, TrainSettings, EvaluateSettings, SampleSettings)


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_has_a_default_and_a_line_of_help(kind: type[Any]) -> None:
    hints = typing.get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        assert entry.default is not dataclasses.MISSING
        assert entry.metadata["help"]
        assert "\n" not in entry.metadata["help"]
        assert hints[entry.name] in (
            int, float, bool, str, int | None, float | None, str | None, tuple[str, ...],
        ) or typing.get_origin(hints[entry.name]) is typing.Literal  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, None)


def test_settings_are_read_without_torch() -> None:
    code = "import sys, model.config, model.data, model.loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_preset_is_a_shape_that_single_fields_may_change() -> None:
    assert ModelSettings().shape == (12, 768, 12)
    assert ModelSettings(preset="gpt2-xl", layers=2).shape == (2, 1600, 25)
    assert ModelSettings(preset=None, layers=1, width=6, heads=3).shape == (1, 6, 3)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ModelSettings, {"preset": "gpt3"}, r"\[model\] preset: expected one of gpt2, .*, got 'gpt3'"),
        (ModelSettings, {"preset": None}, r"\[model\] layers: expected a number, as preset is empty"),
        (ModelSettings, {"heads": 7}, r"\[model\] heads: expected a divisor of the width 768, got 7"),
        (ModelSettings, {"context": 0}, r"\[model\] context"),
        (ModelSettings, {"attention": "linear"}, r"\[model\] attention"),
        (TrainSettings, {"name": "a/b"}, r"\[train\] name"),
        (TrainSettings, {"name": ""}, r"\[train\] name"),
        (TrainSettings, {"steps": 0}, r"\[train\] steps: expected a number above 0, got 0"),
        (TrainSettings, {"learning_rate": -1.0}, r"\[train\] learning_rate"),
        (TrainSettings, {"beta2": 1.0}, r"\[train\] beta2"),
        (TrainSettings, {"schedule": "step"}, r"\[train\] schedule: expected cosine or wsd, got 'step'"),
        (TrainSettings, {"optimizer": "muon", "fully_shard": True}, "switch fully_shard off"),
        (TrainSettings, {"seed": -1}, r"\[train\] seed"),
        (TrainSettings, {"keep_checkpoints": 0}, r"\[train\] keep_checkpoints"),
        (EvaluateSettings, {"sets": ("ptb",)}, r"\[evaluate\] sets: expected NAME=PATH"),
        (EvaluateSettings, {"stride": 0}, r"\[evaluate\] stride"),
        (SampleSettings, {"top_p": 0.0}, r"\[sample\] top_p"),
        (SampleSettings, {"temperature": -0.1}, r"\[sample\] temperature"),
        (SampleSettings, {"max_tokens": 0}, r"\[sample\] max_tokens"),
    ],
)
def test_wrong_values_are_named_with_a_remedy(kind: type[Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind(**changes)
    assert "; " in str(caught.value)


def test_jobs_come_back_from_json(tmp_path: Path) -> None:
    training = TrainJob(ModelSettings(preset=None, layers=1, width=8, heads=2), TrainSettings(epochs=2.0), "t", "r")
    evaluation = EvaluateJob(EvaluateSettings(sets=("a=b", "c=d")), "r", "tokenizer.json", examples="e")
    for job in (training, evaluation):
        place = tmp_path / "job.json"
        place.write_text(job_json(job))
        assert read_job(place, type(job)) == job


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "as JSON"),
        ("[]", "expected an object"),
        ('{"model": {}, "train": {}, "tokens": "t"}', "expected run, got none"),
        ('{"model": {}, "train": {}, "tokens": "t", "run": "r", "x": 1}', "got also x"),
        ('{"model": {"width": "8"}, "train": {}, "tokens": "t", "run": "r"}', r"\[model\] width: expected int"),
        ('{"model": {}, "train": {"steps": true}, "tokens": "t", "run": "r"}', r"\[train\] steps: expected int"),
        ('{"model": {}, "train": {"compile": "on", "no": 1}, "tokens": "t", "run": "r"}', "got also no"),
    ],
)
def test_jobs_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    place = tmp_path / "job.json"
    place.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_job(place, TrainJob)
    assert "\n" not in str(caught.value)
    assert "job.json" in str(caught.value)
