"""A trial resumes from its own checkpoints, and from no others."""

import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, files

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import Killed, Killer, Scoring, again, retried, stored

from helios.errors import CheckpointError, ConfigurationError
from helios.plugins.optuna import OptunaPlugin
from helios.testing import TinyDataModule

Fit = Callable[..., tuple[Scoring, Any]]


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Fit:
    """Train in a trial with a suggested parameter; return the model and the trainer."""

    def run(trial: Any, *others: Any, model: Any = None, **arguments: Any) -> tuple[Scoring, Any]:
        plugin = OptunaPlugin(trial, "score")
        plugin.suggest("float", "lr", low=0, high=1)
        options = {"chkpt_root": tmp_path, "valid_frequency": 1, "chkpt_frequency": 1}
        trainer = make_trainer(plugins=[plugin, *others], **{**options, **arguments})
        model = model or Scoring()
        trainer.fit(model, TinyDataModule())
        return model, trainer

    return run


def seeded(seed: int) -> Any:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def folders(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_studies_in_one_folder_do_not_share_checkpoints(
    fit: Fit, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither two studies, nor one script with an in-memory study that is started twice."""
    names, batches = [], []
    for seed in (0, 0, 1):
        for trial in [(study := seeded(seed)).ask(), study.ask()]:
            model, trainer = fit(trial)
            names.append(model.save_name)
            batches.append(trainer.state.running_iter)
    assert batches == [12] * 6
    assert names == [
        "tiny_trial-0",
        "tiny_trial-1",
        "tiny_trial-0-2",
        "tiny_trial-1-2",
        "tiny_trial-0-3",
        "tiny_trial-1-3",
    ]
    assert folders(tmp_path) == sorted(names)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 4
    assert f"{tmp_path / 'tiny_trial-0'} has checkpoints of trial 0 of the study" in warnings[0]
    assert "'lr': 0.548" in warnings[0]
    assert f"starts anew, in {tmp_path / 'tiny_trial-0-2'}." in warnings[0]


def test_interrupted_trial_resumes_beside_another_study(fit: Fit) -> None:
    fit(seeded(0).ask())
    trial = seeded(1).ask()
    with pytest.raises(Killed):
        fit(trial, Killer(epoch=1), total_steps=3)
    model, trainer = fit(again(trial), total_steps=3)
    assert model.save_name == "tiny_trial-0-2"
    assert trainer.state.running_iter == 12  # of 18


def test_folder_without_a_mark_is_not_taken_over(fit: Fit, tmp_path: pathlib.Path) -> None:
    model, _ = fit(trial := seeded(0).ask())
    (tmp_path / model.save_name / "trial.json").write_text("")  # as a kill may leave it
    assert fit(again(trial))[0].save_name == "tiny_trial-0-2"
    (tmp_path / model.save_name / "trial.json").unlink()
    assert fit(seeded(0).ask())[0].save_name == "tiny_trial-0-3"


def test_other_parameters_start_anew(fit: Fit) -> None:
    """A user may copy all attributes of a trial."""
    trial = seeded(0).ask()
    assert fit(trial)[0].save_name == "tiny_trial-0"
    fixed = optuna.trial.FixedTrial({"lr": 0.75})
    fixed.set_user_attr("helios.trial", stored(trial).user_attrs["helios.trial"])
    model, trainer = fit(fixed)
    assert (model.save_name, trainer.state.running_iter) == ("tiny_trial-0-2", 12)


def test_parameters_that_are_suggested_late_are_compared_too(fit: Fit) -> None:
    """In ``setup``, the folder is chosen already."""

    class Late(Scoring):
        def __init__(self, trial: Any) -> None:
            super().__init__()
            self._trial = trial

        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self._trial.suggest_float("late", 0, 1)

    for value in (0.25, 0.25):
        trial = optuna.trial.FixedTrial({"lr": 0.5, "late": value})
        fit(trial, model=Late(trial))
    trial = optuna.trial.FixedTrial({"lr": 0.5, "late": 0.75})
    with pytest.raises(CheckpointError, match=r"late: 0\.25, now 0\.75") as caught:
        fit(trial, model=Late(trial))
    assert "chkpt_root" in str(caught.value)


def test_retried_trial_resumes_from_its_own_checkpoint(fit: Fit, tmp_path: pathlib.Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}")
    with pytest.raises(Killed):
        fit(trial := study.ask(), Killer(epoch=2), total_steps=4)
    attempt = retried(trial)
    model, trainer = fit(attempt, total_steps=4)
    assert attempt.number == 1
    assert attempt.params == stored(trial).params
    assert model.save_name == "tiny_trial-0"
    assert trainer.state.running_iter == 12  # of 24
    # The pruner sees the whole curve, as in a study that was not killed.
    assert stored(attempt).intermediate_values == {0: 10.0, 1: 11.0, 2: 12.0, 3: 13.0}


def test_continued_trial_does_not_report_twice(fit: Fit) -> None:
    """Optuna warns of a second report of one step; warnings are errors here."""
    with pytest.raises(Killed):
        fit(trial := seeded(0).ask(), Killer(epoch=2), total_steps=4)
    assert list(stored(trial).intermediate_values) == [0, 1, 2]
    fit(again(trial), total_steps=4)
    assert list(stored(trial).intermediate_values) == [0, 1, 2, 3]


def test_files_of_each_trial(fit: Fit, tmp_path: pathlib.Path) -> None:
    study = seeded(0)
    for value in (1, 2, 3):
        fit(
            study.ask(),
            "metrics-file",
            model=Scoring(value),
            run_root=tmp_path / "run",
            chkpt_root=None,
            print_frequency=1,
        )
    plans = [pathlib.Path(trial.user_attrs["helios.plan"]) for trial in study.trials]
    assert [plan.name for plan in plans] == ["plan.json", "plan-2.json", "plan-3.json"]
    assert all(plan.exists() for plan in plans)
    metrics = sorted((tmp_path / "run").glob("metrics*.jsonl"))
    assert len(metrics) == 3
    batches = [[json.loads(line)["batch"] for line in p.read_text().splitlines()] for p in metrics]
    assert batches[0] == batches[1] == batches[2]


# Trials without a study.


@pytest.mark.parametrize("root", [True, False])
def test_fixed_trial(fit: Fit, tmp_path: pathlib.Path, root: bool) -> None:
    arguments = {} if root else {"chkpt_root": None, "chkpt_frequency": None}
    model, _ = fit(optuna.trial.FixedTrial({"lr": 0.5}, number=7), **arguments)
    assert model.save_name == "tiny_trial-7"
    assert model.metrics["score"] == 11


def test_fixed_trials_are_known_by_their_parameters(fit: Fit) -> None:
    trained = []
    for value in (0.25, 0.75, 0.25):
        model, trainer = fit(optuna.trial.FixedTrial({"lr": value}))
        trained.append((model.save_name, trainer.state.running_iter))
    assert trained == [("tiny_trial-0", 12), ("tiny_trial-0-2", 12), ("tiny_trial-0", 0)]


def test_best_trial_is_evaluated_again(fit: Fit) -> None:
    study = seeded(0)
    study.optimize(lambda trial: fit(trial)[0].metrics["score"], n_trials=2)
    model, trainer = fit(study.best_trial)
    assert model.save_name == f"tiny_trial-{study.best_trial.number}"
    assert model.metrics["score"] == study.best_value
    assert trainer.state.running_iter == 0  # its checkpoint is complete


def test_best_trial_without_a_folder(fit: Fit) -> None:
    study = seeded(0)
    arguments = {"chkpt_root": None, "chkpt_frequency": None}
    study.optimize(lambda trial: fit(trial, **arguments)[0].metrics["score"], n_trials=1)
    model, trainer = fit(study.best_trial, **arguments)
    assert (model.metrics["score"], trainer.state.running_iter) == (11, 12)


def test_pruned_trial_is_evaluated_again_to_its_end(fit: Fit) -> None:
    """Optuna never prunes the record of a finished trial, but its checkpoints end early."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0))
    study.optimize(lambda trial: fit(trial)[0].metrics["score"], n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    model, trainer = fit(study.trials[0])
    assert (model.metrics["score"], trainer.state.running_iter) == (11, 12)
    assert model.save_name == "tiny_trial-0-2"


# Another trial in the same plug-in.


def test_another_trial_renames_the_model(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    study = seeded(0)
    plugin, model = OptunaPlugin(study.ask(), "score"), Scoring()
    trainer = make_trainer(plugins=[plugin], chkpt_root=tmp_path, valid_frequency=1)
    batches = []
    for _ in range(2):
        trainer.fit(model, TinyDataModule())
        batches.append(trainer.state.running_iter)
        plugin.trial = study.ask()
    assert batches == [12, 12]
    assert folders(tmp_path) == ["tiny_trial-0", "tiny_trial-1", "tiny_trial-2"]
    assert [list(t.intermediate_values) for t in study.trials] == [[0, 1], [0, 1], []]


def test_another_trial_during_a_run(make_trainer: Make) -> None:
    study = seeded(0)
    plugin = OptunaPlugin(study.ask(), "score")

    class Changing(Scoring):
        def on_training_start(self) -> None:
            plugin.trial = study.ask()

    with pytest.raises(ConfigurationError, match="the run of trial 0 is in progress"):
        make_trainer(plugins=[plugin]).fit(Changing(), TinyDataModule())
    plugin.trial = study.ask()


def test_study_in_place_of_a_trial() -> None:
    with pytest.raises(ConfigurationError, match=r"got a Study, .* Pass study\.ask\(\)"):
        OptunaPlugin(seeded(0), "score")
    plugin = OptunaPlugin(seeded(0).ask(), "score")
    with pytest.raises(ConfigurationError, match="got a str, which is not a trial"):
        plugin.trial = "0"  # type: ignore[assignment]  # the subject of the test


# The founding way: the user configures everything before ``fit``.


@pytest.mark.parametrize("order", ["trainer first", "model first"])
def test_configured_by_hand(make_trainer: Make, tmp_path: pathlib.Path, order: str) -> None:
    names = []
    for _ in range(2):
        plugin, model = OptunaPlugin(seeded(0).ask(), "score"), Scoring()
        trainer = make_trainer(chkpt_root=tmp_path, valid_frequency=1)
        if order == "model first":
            plugin.configure_model(model)
            assert model.save_name == "tiny_trial-0"
            plugin.configure_trainer(trainer)
        else:
            plugin.configure_trainer(trainer)
            plugin.configure_model(model)
        plugin.suggest("float", "lr", low=0, high=1)
        trainer.fit(model, TinyDataModule())
        assert trainer.state.running_iter == 12
        names.append(model.save_name)
    assert names == ["tiny_trial-0", "tiny_trial-0-2"]


# Parameters in checkpoints.


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_choices_that_are_not_plain(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    plugin = OptunaPlugin(seeded(0).ask(), "score")
    shape = plugin.suggest("categorical", "shape", choices=[(2, 3)])
    kind = plugin.suggest("categorical", "kind", choices=[torch.nn.ReLU])
    assert (shape, kind) == ((2, 3), torch.nn.ReLU)
    make_trainer(plugins=[plugin], chkpt_root=tmp_path).fit(Scoring(), TinyDataModule())
    (path,) = files(tmp_path, "tiny_trial-0/*.pth")
    assert torch.load(path, weights_only=True)["plugins"][0]["optuna"] == {
        "shape": "choices[0]",
        "kind": "torch.nn.modules.activation.ReLU",
    }
