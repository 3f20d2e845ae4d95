"""Trials in each storage, in the real one."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import Killed, Killer, Pruner, Scoring, States

from helios.plugins.optuna import OptunaPlugin, create_or_load_study
from helios.testing import TinyDataModule

KINDS = ["memory", "sqlite", "journal", "postgresql"]


@pytest.mark.parametrize("kind", KINDS)
def test_study(
    make_trainer: Make, make_storage: Callable[..., Any], tmp_path: pathlib.Path, kind: str
) -> None:
    """A trial is cut, resumed and pruned; others are complete or fail."""
    killers = [[Killer(epoch=2)], [], [], []]

    def load(**arguments: Any) -> Any:
        return create_or_load_study(
            storage=make_storage(kind),
            study_name="study",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=Pruner(3),
            **arguments,
        )

    def objective(trial: Any) -> float:
        plugin = OptunaPlugin(trial, "score")
        if plugin.suggest("int", "n", low=0, high=9) == 7:
            raise ValueError("seven")
        killer = killers.pop(0)
        trainer = make_trainer(
            plugins=[plugin, *killer],
            chkpt_root=tmp_path / "checkpoints",
            chkpt_frequency=1,
            valid_frequency=1,
            total_steps=5 if trial.number == 0 else 2,
        )
        model = Scoring(trial.number)
        trainer.fit(model, TinyDataModule())
        resumed.append(trainer.state.global_iteration - trainer.state.running_iter)
        return float(model.metrics["score"])

    resumed: list[int] = []
    study = load()
    study.enqueue_trial({"n": 1})
    study.enqueue_trial({"n": 7})
    with pytest.raises(Killed):
        study.optimize(objective)
    study = load(resume_trials=True)
    study.optimize(objective, n_trials=3, catch=ValueError)
    assert [trial.state for trial in study.trials] == [
        States.PRUNED,
        States.FAIL,
        States.COMPLETE,
    ]
    assert list(study.trials[0].intermediate_values.values()) == [0, 1, 2, 3]
    assert resumed == [0]
    assert load().trials[2].value == 3
