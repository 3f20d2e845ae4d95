"""The end of a pruned trial, also if its process dies before the study learns of it."""

import json
import pathlib
from typing import Any

import pytest
from helpers import Make, UserError

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import (
    Killed,
    Killer,
    Pruner,
    Scoring,
    States,
    again,
    retried,
    stored,
)

from helios import Plugin, TrainingState
from helios.plugins.optuna import OptunaPlugin
from helios.testing import TinyDataModule


@pytest.mark.parametrize("restart", [again, retried])
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_pruned_trial_whose_process_dies_is_pruned_again(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str, restart: Any
) -> None:
    """It dies after the last checkpoint, before the trial knows of the verdict."""
    study = optuna.create_study(pruner=Pruner(1))
    arguments = {
        "train_unit": unit,
        "total_steps": 4,
        "valid_frequency": 1,
        "chkpt_root": tmp_path,
    }
    trainer = make_trainer(plugins=[OptunaPlugin(study.ask(), "score"), Killer()], **arguments)
    with pytest.raises(Killed):
        trainer.fit(Scoring(), TinyDataModule())
    trial = again_of(study, 0)
    assert stored(trial).user_attrs.keys() == {"helios.trial"}
    ended = []

    class Ending(Scoring):
        def on_training_end(self) -> None:
            ended.append(self.save_name)

    plugin = OptunaPlugin(restart(trial), "score")
    trainer = make_trainer(plugins=[plugin], **arguments)
    with pytest.raises(optuna.TrialPruned, match="cycle 1"):
        trainer.fit(Ending(), TinyDataModule())
    assert ended == ["tiny_trial-0"]
    assert trainer.state.running_iter == 0
    assert stored(plugin.trial).intermediate_values == {0: 10.0, 1: 11.0}
    with pytest.raises(optuna.TrialPruned, match="cycle 1"):
        plugin.check_pruned()


def again_of(study: Any, number: int) -> Any:
    return optuna.trial.Trial(study, study.trials[number]._trial_id)


def test_restarted_search_records_the_pruned_trial(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    study = optuna.create_study(pruner=Pruner(1))
    killers = [[Killer()], []]

    def objective(trial: Any) -> float:
        plugins = [OptunaPlugin(trial, "score"), *killers.pop(0)]
        model = Scoring()
        trainer = make_trainer(
            plugins=plugins, total_steps=4, valid_frequency=1, chkpt_root=tmp_path
        )
        trainer.fit(model, TinyDataModule())
        return float(model.metrics["score"])

    with pytest.raises(Killed):
        study.optimize(objective, n_trials=1)
    study.add_trial(
        optuna.trial.create_trial(
            state=States.WAITING, user_attrs=study.trials[0].user_attrs, system_attrs={}
        )
    )
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == States.PRUNED


def test_attempt_that_loses_its_checkpoints_is_not_pruned_by_the_last(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    study = optuna.create_study(pruner=Pruner(0))
    trial = study.ask()
    arguments = {"total_steps": 2, "valid_frequency": 1}
    with pytest.raises(optuna.TrialPruned):
        make_trainer(plugins=[OptunaPlugin(trial, "score")], **arguments).fit(
            Scoring(), TinyDataModule()
        )
    study.pruner = Pruner()
    plugin = OptunaPlugin(retried(trial), "score")
    make_trainer(plugins=[plugin], **arguments).fit(Scoring(), TinyDataModule())
    plugin.check_pruned()


def test_pruned_trial_keeps_its_last_values(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    """Nobody resumes it, so the values since the last cadence are handed out at its end."""

    class Logging(Scoring):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            super().train_step(batch, state)
            self.log("step", float(state.current_iteration))

    trial = optuna.create_study(pruner=Pruner(0)).ask()
    trainer = make_trainer(
        plugins=[OptunaPlugin(trial, "score"), "metrics-file"],
        train_unit="iteration",
        total_steps=99,
        valid_frequency=7,
        print_frequency=5,
        run_root=tmp_path,
    )
    with pytest.raises(optuna.TrialPruned):
        trainer.fit(Logging(), TinyDataModule())
    (path,) = tmp_path.glob("metrics*.jsonl")
    values = [json.loads(line)["metrics"].get("step") for line in path.read_text().splitlines()]
    last = (6 * 2 + 7 * 4) / 6  # the sixth batch has two samples, and the seventh four
    assert [value for value in values if value is not None] == [3, pytest.approx(last)]


def test_reason_of_the_end(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(pruner=Pruner(1))
    study.ask()
    trainer = make_trainer(
        plugins=[OptunaPlugin(study.ask(), "score")], total_steps=9, valid_frequency=1
    )
    with caplog.at_level("INFO", "helios"), pytest.raises(optuna.TrialPruned):
        trainer.fit(Scoring(), TinyDataModule())
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("stopped:")]
    assert told == ["stopped: Optuna prunes trial 1 after validation cycle 1 (requested by optuna)"]


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_verdict_on_the_last_validation_does_not_count(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str
) -> None:
    """The trial is finished, and stays so if it is trained longer."""
    trial = optuna.create_study(pruner=Pruner(1)).ask()
    for steps in (2, 3):
        plugin = OptunaPlugin(trial, "score")
        trainer = make_trainer(
            plugins=[plugin],
            train_unit=unit,
            total_steps=steps,
            valid_frequency=1,
            chkpt_root=tmp_path,
        )
        trainer.fit(Scoring(), TinyDataModule())
        assert trainer.is_complete
        assert trainer.stop_requests == []
        plugin.check_pruned()


def test_trial_that_stops_early_is_not_pruned(make_trainer: Make) -> None:
    class Stale(Scoring):
        def have_metrics_improved(self) -> bool:
            return False

    trial = optuna.create_study(pruner=Pruner(1)).ask()
    plugin, model = OptunaPlugin(trial, "score"), Stale()
    trainer = make_trainer(plugins=[plugin], total_steps=9, valid_frequency=1, early_stop_cycles=2)
    trainer.fit(model, TinyDataModule())
    assert [request.author for request in trainer.stop_requests] == ["early stopping"]
    plugin.check_pruned()


def test_trial_that_its_model_stops_is_not_pruned(make_trainer: Make) -> None:
    class Solved(Scoring):
        def should_training_stop(self) -> bool:
            return self.metrics.get("score") == 11

    trial = optuna.create_study(pruner=Pruner(1)).ask()
    plugin = OptunaPlugin(trial, "score")
    trainer = make_trainer(plugins=[plugin], total_steps=9, valid_frequency=1)
    assert trainer.fit(Solved(), TinyDataModule()).validation_cycles == 2
    plugin.check_pruned()


def test_failed_trial_keeps_its_own_error(make_trainer: Make, caplog: Any) -> None:
    """Also if it fails in the moment in which it is pruned."""

    class Failing(Plugin):
        def __init__(self) -> None:
            super().__init__("failing")

        def setup(self) -> None: ...

        def on_training_end(self) -> None:
            raise UserError("the disk is full")

    study = optuna.create_study(pruner=Pruner(0))

    def objective(trial: Any) -> float:
        plugins = [OptunaPlugin(trial, "score"), Failing()]
        make_trainer(plugins=plugins, valid_frequency=1).fit(Scoring(), TinyDataModule())
        return 0.0

    study.optimize(objective, n_trials=1, catch=UserError)
    assert study.trials[0].state == States.FAIL
    assert "the disk is full" in caplog.text
