"""TrainModel and EvaluateModel: from sealed token shards to a model and its scores.

The trainer is a process group of its own (torchrun where several GPUs are), so that torch is loaded by those who train
and by nobody else. A run is complete when its seal names the settings and the tokens that would be used now; a run that
was stopped is resumed by the trainer itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import luigi

from pipelines import storage
from pipelines.stage import SEAL, StageError, affecting_bytes
from pipelines.tasks import STAGES, one_line, one_line_failure, session


class ModelTask(luigi.Task):
    """What training and evaluation share: a seal in a run's folder, and a process group."""

    resources = {"gpu": 1}  # noqa: RUF012 - Luigi's own idiom

    @property
    def folder(self) -> Path:
        build = session().build
        return build.root / "runs" / str(build.settings["train"].name)

    def requires(self) -> list[luigi.Task]:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What decides the result."""
        raise NotImplementedError

    def seal(self) -> Path:
        raise NotImplementedError

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.seal()))  # type: ignore[no-untyped-call]

    def fingerprint(self) -> str:
        return hashlib.sha256(storage.canonical_json(self.facts()).encode()).hexdigest()

    def complete(self) -> bool:
        if not all(task.complete() for task in self.requires()):  # type: ignore[no-untyped-call]
            return False
        with one_line():
            wanted = self.fingerprint()
        try:
            return bool(json.loads(self.seal().read_text())["fingerprint"] == wanted)
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def launch(self, module: str, job: str) -> None:
        """Run `python -m module JOB.json`, one process a GPU; StageError where it fails (it has said why)."""
        if importlib.util.find_spec("torch") is None:
            raise StageError(f"{module}: expected torch, found none; install it: pip install -e '.[train]'")
        session().begin()
        path = self.folder / f"{module.rpartition('.')[2]}.json"
        storage.write_text(path, job)
        command = [sys.executable, "-m"]
        gpus = num_gpus()
        if gpus > 1:
            command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m"]
        # OpenMP's threads spin while they wait, and on a machine with other work take a sixfold time: let them sleep.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        with subprocess.Popen([*command, module, str(path)], env=environment) as process:
            try:
                status = process.wait()
            except KeyboardInterrupt:  # it saves a checkpoint and ends
                process.terminate()
                process.wait()
                raise
        if status:
            raise StageError(f"{module}: exit status {status}; its last line says why")

    def finish(self) -> None:
        storage.write_json(self.seal(), {"fingerprint": self.fingerprint(), **self.facts()})


class TrainModel(ModelTask):
    """A GPT-2 on the token shards -> runs/NAME/"""

    def requires(self) -> list[luigi.Task]:
        return [STAGES["tokens"]()]

    def facts(self) -> dict[str, Any]:
        settings = session().build.settings
        return {
            "model": affecting_bytes(settings["model"]),
            "train": affecting_bytes(settings["train"]),
            "tokens": storage.sha256_of(session().build.root / "tokens" / "meta.json"),
        }

    def seal(self) -> Path:
        return self.folder / SEAL

    def run(self) -> None:
        from model import config

        current = session()
        settings, root = current.build.settings, current.build.root
        job = config.TrainJob(
            settings["model"],
            settings["train"],
            tokens=str(root / "tokens"),
            run=str(self.folder),
            tokenizer=str(root / "tokenizer" / "tokenizer.json"),
        )
        with one_line_failure("TrainModel"):
            self.launch("model.train", config.job_json(job))
            if not (self.folder / "summary.json").is_file():  # SIGTERM: it saved and ended well
                raise StageError("model.train: stopped before its last step; the same command goes on from there")
            self.finish()


class EvaluateModel(ModelTask):
    """The model's scores, overlapping examples left out beside -> runs/NAME/results.json"""

    def requires(self) -> list[luigi.Task]:
        return [TrainModel(), STAGES["overlap"]()]  # type: ignore[no-untyped-call]

    def facts(self) -> dict[str, Any]:
        build = session().build
        evaluate = build.settings["evaluate"]
        return {
            "evaluate": affecting_bytes(evaluate),
            "sets": build.digests_of(tuple(entry.partition("=")[2] for entry in evaluate.sets)),
            "run": storage.sha256_of(self.folder / SEAL),
            "overlap": storage.sha256_of(build.root / "overlap" / SEAL),
        }

    def seal(self) -> Path:
        return self.folder / "_evaluated.json"

    def run(self) -> None:
        from model import config

        current = session()
        root = current.build.root
        job = config.EvaluateJob(
            current.build.settings["evaluate"],
            run=str(self.folder),
            tokenizer=str(root / "tokenizer" / "tokenizer.json"),
            tokens=str(root / "tokens"),
            examples=str(root / "overlap" / "examples.parquet"),
        )
        with one_line_failure("EvaluateModel"):
            self.launch("model.evals", config.job_json(job))
            self.finish()


def num_gpus() -> int:
    """The GPUs that NVIDIA's driver shows to this process; asking torch would load it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
