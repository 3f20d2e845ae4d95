"""One of several processes that run trials of one study.

    python parallel.py STORAGE FOLDER TRIALS

STORAGE is the URL of a database, or the path of a journal.
"""

import os
import pathlib
import sys
from typing import Any

import optuna

import helios
from helios.plugins.optuna import OptunaPlugin, create_or_load_study
from helios.testing import TinyDataModule, TinyModel


class Scoring(TinyModel):
    """Reports a number."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self._value = value

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["score"] = self._value


def objective(trial: Any, folder: pathlib.Path) -> float:
    with (folder / "started").open("a") as file:
        file.write(f"{trial.number} {os.getpid()}\n")
    plugin = OptunaPlugin(trial, "score")
    value = plugin.suggest("int", "value", low=0, high=2)
    trainer = helios.Trainer(
        total_steps=3,
        valid_frequency=1,
        chkpt_frequency=1,
        chkpt_root=folder / "checkpoints",
        use_cpu=True,
        print_banner=False,
        autoload=False,
        plugins=[plugin],
    )
    trainer.fit(Scoring(value), TinyDataModule())
    if value == 2:
        raise ValueError("two")
    return float(value)


def main(storage: str, folder: str, trials: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place: Any = storage
    if "://" not in storage:
        backend = optuna.storages.journal.JournalFileBackend(storage)
        place = optuna.storages.JournalStorage(backend)
    study = create_or_load_study(
        storage=place,
        study_name="study",
        load_if_exists=True,
        pruner=optuna.pruners.ThresholdPruner(lower=1),
    )
    study.optimize(
        lambda trial: objective(trial, pathlib.Path(folder)),
        n_trials=int(trials),
        catch=ValueError,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
