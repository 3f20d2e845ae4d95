"""Several fits in one trial: folds, longer fits, and tests."""

import pathlib
import pickle
from typing import Any

import pytest
from helpers import Make, files

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import Killed, Killer, Pruner, Scoring, again, stored

from helios.errors import ConfigurationError
from helios.plugins.optuna import OptunaPlugin
from helios.plugins.optuna.folds import fits_of
from helios.testing import TinyDataModule


@pytest.fixture
def trial() -> Any:
    return optuna.create_study().ask()


@pytest.mark.parametrize("has_folder", [True, False])
@pytest.mark.parametrize("shares_plugin", [True, False])
def test_each_fold_is_trained(
    make_trainer: Make, tmp_path: pathlib.Path, trial: Any, has_folder: bool, shares_plugin: bool
) -> None:
    plugin, results = OptunaPlugin(trial, "score"), []
    for fold in range(3):
        plugin = plugin if shares_plugin else OptunaPlugin(trial, "score")
        model = Scoring(10 * fold)
        root = tmp_path if has_folder else None
        trainer = make_trainer(plugins=[plugin], chkpt_root=root, valid_frequency=1)
        trainer.fit(model, TinyDataModule())
        results.append((model.save_name, model.metrics["score"], trainer.state.running_iter))
    assert results == [
        ("tiny_trial-0", 1, 12),
        ("tiny_trial-0_fold-1", 11, 12),
        ("tiny_trial-0_fold-2", 21, 12),
    ]
    # Optuna would ignore a second report of a step.
    assert stored(trial).intermediate_values == {0: 0, 1: 1, 2: 10, 3: 11, 4: 20, 5: 21}


def test_folds_of_one_trainer(make_trainer: Make, tmp_path: pathlib.Path, trial: Any) -> None:
    trainer = make_trainer(
        plugins=[OptunaPlugin(trial, "score")], chkpt_root=tmp_path, valid_frequency=1
    )
    results = []
    for fold in range(2):
        model = Scoring(10 * fold)
        trainer.fit(model, TinyDataModule())
        trainer.test(model, TinyDataModule())
        results.append((model.save_name, model.metrics["score"]))
    assert results == [("tiny_trial-0", 1), ("tiny_trial-0_fold-1", 11)]


def test_folds_with_time_limits(make_trainer: Make, tmp_path: pathlib.Path, trial: Any) -> None:
    """A stop ends a fold: the next fit is another fold, not its continuation."""

    class Impatient(Scoring):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            self.trainer.request_stop("enough")

    names = []
    for _ in range(2):
        model = Impatient()
        trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], chkpt_root=tmp_path)
        trainer.fit(model, TinyDataModule())
        names.append((model.save_name, trainer.state.running_iter))
    assert names == [("tiny_trial-0", 6), ("tiny_trial-0_fold-1", 6)]


def test_killed_fold_resumes(make_trainer: Make, tmp_path: pathlib.Path, trial: Any) -> None:
    def folds(trial: Any, *killers: Killer | None) -> list[tuple[str, float, int]]:
        results = []
        for fold, killer in enumerate(killers):
            model, plugin = Scoring(10 * fold), OptunaPlugin(trial, "score")
            others = [] if killer is None else [killer]
            trainer = make_trainer(
                plugins=[plugin, *others],
                chkpt_root=tmp_path,
                chkpt_frequency=1,
                valid_frequency=1,
            )
            trainer.fit(model, TinyDataModule())
            results.append((model.save_name, model.metrics["score"], trainer.state.running_iter))
        return results

    with pytest.raises(Killed):
        folds(trial, None, Killer(epoch=1))
    assert folds(again(trial), None, None, None) == [
        ("tiny_trial-0", 1, 0),
        ("tiny_trial-0_fold-1", 11, 6),
        ("tiny_trial-0_fold-2", 21, 12),
    ]
    assert stored(trial).intermediate_values == {0: 0, 1: 1, 2: 10, 3: 11, 4: 20, 5: 21}


def test_fold_can_be_pruned(make_trainer: Make) -> None:
    pruner = Pruner(2)
    trial = optuna.create_study(pruner=pruner).ask()
    plugin = OptunaPlugin(trial, "score")
    make_trainer(plugins=[plugin], valid_frequency=1).fit(Scoring(), TinyDataModule())
    with pytest.raises(optuna.TrialPruned, match="cycle 0"):
        make_trainer(plugins=[plugin], valid_frequency=1).fit(Scoring(), TinyDataModule())
    assert pruner.asked == [0, 1, 2]


def test_model_that_is_used_again(make_trainer: Make, tmp_path: pathlib.Path, trial: Any) -> None:
    """Its name is chosen, so the next fit would find the checkpoint of the first."""
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], chkpt_root=tmp_path)
    model = Scoring()
    trainer.fit(model, TinyDataModule())
    with pytest.raises(ConfigurationError, match="Create a new model for each fold") as caught:
        trainer.fit(model, TinyDataModule())
    assert "in 'tiny_trial-0', so this fit would return the same result" in str(caught.value)
    trainer.total_steps = 3
    assert trainer.fit(model, TinyDataModule()).running_iter == 6


def test_fit_that_fails_is_continued(
    make_trainer: Make, tmp_path: pathlib.Path, trial: Any
) -> None:
    class Failing(Scoring):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            if current_epoch == 1:
                raise OSError("out of memory")

    arguments = {"chkpt_root": tmp_path, "chkpt_frequency": 1}
    with pytest.raises(OSError, match="out of memory"):
        make_trainer(plugins=[OptunaPlugin(trial, "score")], **arguments).fit(
            Failing(), TinyDataModule()
        )
    model = Scoring()
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], **arguments)
    assert trainer.fit(model, TinyDataModule()).running_iter == 6
    assert model.save_name == "tiny_trial-0"


# Tests of a model.


def test_new_model_is_tested_with_the_weights_of_the_fit(
    make_trainer: Make, tmp_path: pathlib.Path, trial: Any
) -> None:
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], chkpt_root=tmp_path)
    trainer.fit(Scoring(), TinyDataModule())
    model = Scoring()
    trainer.test(model, TinyDataModule())
    assert model.save_name == "tiny_trial-0"
    assert trainer.state.global_iteration == 12


def test_new_model_in_a_new_trainer_is_not_tested_without_weights(
    make_trainer: Make, tmp_path: pathlib.Path, trial: Any
) -> None:
    def trainer() -> Any:
        return make_trainer(plugins=[OptunaPlugin(trial, "score")], chkpt_root=tmp_path)

    trainer().fit(Scoring(), TinyDataModule())
    with pytest.raises(ConfigurationError, match="finds no checkpoint") as caught:
        trainer().test(Scoring(), TinyDataModule())
    assert "Test the model that was trained" in str(caught.value)
    (path,) = files(tmp_path, "tiny_trial-0/*.pth")
    trainer().test(Scoring(), TinyDataModule(), checkpoint=path)


def test_a_fold_that_has_ended_in_another_process(trial: Any) -> None:
    fits = fits_of(trial)
    first = fits.next("tiny", 2)
    fits.learn(trial)
    assert fits.next("tiny", 2) is first
    trial.set_user_attr(first.key, pickle.loads(pickle.dumps(first)).end(3, 2))
    fits.learn(trial)
    second = fits.next("tiny", 2)
    assert (second.fold, second.first_step) == (1, 3)
    trial.set_user_attr(second.key, pickle.loads(pickle.dumps(second)).end(1, float("inf")))
    fits.learn(trial)
    assert fits.next("tiny", 9).fold == 2


def test_the_plugin_and_its_model_can_be_sent(make_trainer: Make, trial: Any) -> None:
    plugin, model = OptunaPlugin(trial, "score"), Scoring()
    make_trainer(plugins=[plugin], valid_frequency=1).fit(model, TinyDataModule())
    sent = pickle.loads(pickle.dumps((model, plugin)))
    sent_model, sent_plugin = sent
    ((known, _, fit),) = sent_plugin._models
    assert known() is sent_model
    assert (fit.cycles, fit.steps) == (2, 2)
