"""What the commands share: their help, an error in one line, exit statuses."""

from __future__ import annotations

import importlib

import pytest

from model.command import status_of


@pytest.mark.parametrize("name", ["train", "evals.__main__", "hf", "sample", "bench"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(f"model.{name}")
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m model.{name.removesuffix('.__main__')}")


@pytest.mark.parametrize("name", ["train", "evals.__main__"])
def test_a_job_that_cannot_be_read_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module(f"model.{name}").main(["no-such-job.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no-such-job.json: expected a job as JSON")
    assert said.count("\n") == 1


def test_only_what_the_user_can_mend_is_caught() -> None:
    def broken() -> None:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        status_of(broken)
    assert status_of(lambda: None) == 0
