"""Runs that take longer: those of the README, of a script with its own classes, and pruned ones."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from helios_ray import RayLauncher

import helios
from helios.testing import TinyDataModule, TinyModel

pytestmark = pytest.mark.long

SCRIPT = """
import sys

import helios
import torch
from helios.testing import TinyDataModule, TinyModel
from helios_ray import RayLauncher


class Part(torch.nn.Linear):
    pass


class OwnError(Exception):
    pass


class Own(TinyModel):
    def setup(self, fast_init=False):
        super().setup(fast_init)
        self.part = Part(1, 1)

    def train_step(self, batch, state):
        if state.current_iteration == 3 and "fail" in sys.argv[1:] + self.words:
            raise OwnError("here")
        return super().train_step(batch, state)


model = Own()
model.words = sys.argv[1:]
trainer = helios.Trainer(total_steps=2, use_cpu=True, plugins=[RayLauncher(2)])
try:
    trainer.fit(model, TinyDataModule())
except OwnError as error:
    print("CAUGHT", error)
else:
    print("TRAINED", type(model.part).__name__, trainer.state.global_epoch)
"""


def run(code: str, folder: pathlib.Path, *arguments: str) -> str:
    """Run a script that starts its own cluster, and return what it has written."""
    (folder / "script.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**environment, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    end = time.monotonic() + 120
    while processes := _processes(f"HOME={folder}"):  # those of Ray end soon after its cluster
        assert time.monotonic() < end, processes
        threading.Event().wait(0.5)
    return result.stdout


def _processes(variable: str) -> list[str]:
    """Return the processes that have a variable in their environment."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def test_example_of_the_readme(tmp_path: pathlib.Path) -> None:
    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    run(code, tmp_path)
    names = sorted(path.name for path in (tmp_path / "runs").rglob("*.pth"))
    assert names[-1] == "tiny_epoch_3_iter_9.pth"


@pytest.mark.parametrize(
    ("argument", "line"), [("train", "TRAINED Part 2"), ("fail", "CAUGHT here")]
)
def test_classes_of_the_script(tmp_path: pathlib.Path, argument: str, line: str) -> None:
    assert line in run(SCRIPT, tmp_path, argument)


class Scoring(TinyModel):
    """Has a metric."""

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["score"] = float(validation_cycle)


@pytest.mark.usefixtures("cluster")
def test_pruned_trial(tmp_path: pathlib.Path) -> None:
    optuna: Any = pytest.importorskip("optuna")
    from helios.plugins.optuna import OptunaPlugin

    class Pruner(optuna.pruners.BasePruner):  # type: ignore[misc]  # it has no types
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.last_step == 1)

    def fit(trial: Any) -> float:
        launcher = RayLauncher(2, max_failures=3, storage_path=str(tmp_path / "ray"))
        trainer = helios.Trainer(
            total_steps=9,
            valid_frequency=1,
            use_cpu=True,
            autoload=False,
            chkpt_root=tmp_path / "checkpoints",
            plugins=[OptunaPlugin(trial, "score"), launcher],
        )
        try:
            trainer.fit(Scoring(), TinyDataModule())
        finally:
            epochs.append(trainer.state.global_epoch)
        return 0.0

    epochs: list[int] = []
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=storage, pruner=Pruner())
    study.optimize(fit, n_trials=1)
    assert [trial.state.name for trial in study.trials] == ["PRUNED"]
    assert sorted(study.trials[0].intermediate_values) == [0, 1]
    assert epochs == [2]
