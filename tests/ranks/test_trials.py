"""A trial whose fits are each trained in two ranks."""

import pathlib
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from started_ranks import StartRanks

from helios import Trainer
from helios.plugins.optuna import OptunaPlugin
from helios.testing import TinyDataModule, TinyModel


class Scoring(TinyModel):
    """Has metrics that rise."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self._value = value

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["score"] = self._value + validation_cycle


class Pruner(optuna.pruners.BasePruner):  # type: ignore[misc]  # Optuna has no types here
    """Prunes a trial after its fifth report."""

    def prune(self, study: Any, trial: Any) -> bool:
        return trial.last_step == 4


def search(folder: str) -> dict[str, Any]:
    """Run a trial with two folds, and one that is pruned."""
    root = pathlib.Path(folder)
    backend = optuna.storages.journal.JournalFileBackend(str(root / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=storage, pruner=Pruner())
    fits = []

    def fit(trial: Any, epochs: int) -> float:
        plugin = OptunaPlugin(trial, "score")
        trainer = Trainer(
            total_steps=epochs,
            valid_frequency=1,
            chkpt_root=root / "checkpoints",
            use_cpu=True,
            devices=2,
            autoload=False,
            print_banner=False,
            plugins=[plugin],
        )
        model = Scoring(plugin.suggest("int", "value", low=1, high=9))
        state = trainer.fit(model, TinyDataModule())
        fits.append((model.save_name, state.running_iter))
        return float(model.metrics["score"])

    study.optimize(lambda trial: sum(fit(trial, 2) for _ in range(2)), n_trials=1)
    study.optimize(lambda trial: fit(trial, 9), n_trials=1)
    first, second = study.trials
    return {
        "fits": fits,
        "states": [trial.state.name for trial in study.trials],
        "steps": [sorted(trial.intermediate_values) for trial in study.trials],
        "value": first.value == 2 * first.params["value"] + 2,
        "pruned": (second.user_attrs["helios.pruned"], second.user_attrs["helios.last_cycle"]),
        "folders": sorted(path.name for path in (root / "checkpoints").iterdir()),
    }


def test_each_fit_of_a_trial_on_two_ranks(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    rank = ranks.alone(search, str(tmp_path))
    assert rank.result is not None, rank.errors
    assert rank.result == {
        "fits": [("tiny_trial-0", 6), ("tiny_trial-0_fold-1", 6)],
        "states": ["COMPLETE", "PRUNED"],
        "steps": [[0, 1, 2, 3], [0, 1, 2, 3, 4]],
        "value": True,
        "pruned": (True, 4),
        "folders": ["tiny_trial-0", "tiny_trial-0_fold-1", "tiny_trial-1"],
    }
