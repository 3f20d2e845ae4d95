"""The Optuna plug-in against real studies."""

import logging
import math
import pathlib
import warnings
from typing import Any

import pytest
import torch
from helpers import Make, files
from searches import Pruner

from helios import PLUGIN_REGISTRY, Plugin, Trainer, create_plugin
from helios.errors import ConfigurationError, UnknownNameError
from helios.testing import TinyDataModule, TinyModel, check_conformance

optuna = pytest.importorskip("optuna")

from helios.plugins.optuna import OptunaPlugin  # noqa: E402 - needs Optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)

States = optuna.trial.TrialState


class Scoring(TinyModel):
    """Computes its metric at the end of a validation: 10, 11, 12, ..."""

    ended = 0

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["score"] = 10 + validation_cycle

    def on_training_end(self) -> None:
        self.ended += 1


class Bystander(Plugin):
    def __init__(self, plug_id: str) -> None:
        super().__init__(plug_id)

    def setup(self) -> None:
        pass


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str | None:
    return None if request.param == "memory" else f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def trial() -> Any:
    return optuna.create_study().ask()


def stored(trial: Any) -> Any:
    """Return what the study knows of a trial."""
    return trial.study.trials[trial.number]


# Construction.


def test_plugin(trial: Any) -> None:
    plugin = OptunaPlugin(trial, "score")
    assert OptunaPlugin.plugin_id == plugin._plug_id == "optuna"
    assert plugin.trial is trial
    assert plugin.unique_overrides.should_training_stop
    assert not plugin.unique_overrides.training_batch
    assert OptunaPlugin.autoload is False
    other = optuna.create_study().ask()
    plugin.trial = other
    assert plugin.trial is other


def test_plugin_takes_keyword_arguments_and_has_two_names(trial: Any) -> None:
    assert PLUGIN_REGISTRY.get("OptunaPlugin") is OptunaPlugin
    for name in ("OptunaPlugin", "optuna"):
        plugin = create_plugin(name, trial=trial, metric_name="score")
        assert type(plugin) is OptunaPlugin
        assert plugin.trial is trial


def test_configure_trainer_registers_and_expects_pruning(make_trainer: Make, trial: Any) -> None:
    trainer, plugin = make_trainer(), OptunaPlugin(trial, "score")
    plugin.configure_trainer(trainer)
    assert dict(trainer.plugins) == {"optuna": plugin}
    plugin.configure_trainer(trainer)
    for _ in range(2):
        trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.train_exceptions == [optuna.TrialPruned]
    assert trainer.test_exceptions == []


# suggest.


def test_suggest(trial: Any) -> None:
    plugin = OptunaPlugin(trial, "score")
    values = {
        "kind": plugin.suggest("categorical", "kind", choices=["a", "b"]),
        "size": plugin.suggest("int", "size", low=2, high=8, step=2),
        "rate": plugin.suggest("float", "rate", low=1e-4, high=1e-1, log=True),
    }
    assert values == trial.params == plugin.state_dict()
    assert values["kind"] in ("a", "b")
    assert values["size"] in (2, 4, 6, 8)
    assert 1e-4 <= values["rate"] <= 1e-1
    distributions = stored(trial).distributions
    assert distributions["rate"].log
    assert distributions["size"].step == 2


def test_suggest_gives_the_same_value_again(trial: Any) -> None:
    plugin = OptunaPlugin(trial, "score")
    first = plugin.suggest(type_name="int", name="size", low=0, high=1000)
    assert plugin.suggest("int", "size", low=0, high=1000) == first


@pytest.mark.parametrize(
    ("kind", "hint"), [("flot", "'float'"), ("uniform", "'categorical'"), ("", "'int'")]
)
def test_suggest_of_a_bad_kind(trial: Any, kind: str, hint: str) -> None:
    with pytest.raises(KeyError) as caught:
        OptunaPlugin(trial, "score").suggest(kind, "x", low=0, high=1)
    assert repr(kind) in str(caught.value)
    assert hint in str(caught.value)
    assert trial.params == {}


# The name of the model.


def test_save_name_is_extended_once(make_trainer: Make) -> None:
    study = optuna.create_study()
    study.ask()
    plugin, model = OptunaPlugin(study.ask(), "score"), TinyModel()
    plugin.configure_model(model)
    plugin.configure_model(model)
    assert model.save_name == "tiny_trial-1"
    trainer = make_trainer(plugins=[plugin])
    for run in (trainer.fit, trainer.fit, trainer.test):
        run(model, TinyDataModule())
    assert model.save_name == "tiny_trial-1"


def test_save_name_is_extended_by_the_trainer(make_trainer: Make, trial: Any) -> None:
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")])
    for name in ("one", "two"):
        model = TinyModel(name)
        trainer.fit(model, TinyDataModule())
        assert model.save_name == f"{name}_trial-0"


def test_each_trial_extends_the_name_of_its_own_model(make_trainer: Make) -> None:
    study = optuna.create_study()
    names = []
    for _ in range(3):
        model = TinyModel()
        make_trainer(plugins=[OptunaPlugin(study.ask(), "s")]).fit(model, TinyDataModule())
        names.append(model.save_name)
    assert names == ["tiny_trial-0", "tiny_trial-1", "tiny_trial-2"]


def test_retried_trial_keeps_the_number_of_its_first_attempt(storage: str | None) -> None:
    study = optuna.create_study(storage=storage)
    study.ask()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        newer = getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback", None)
        retry = (newer or optuna.storages.RetryFailedTrialCallback)()
    attempt = study.ask()
    for _ in range(2):
        study.tell(attempt, state=States.FAIL)
        retry(study, study.trials[attempt.number])  # as Optuna does for a worker that has died
        attempt = study.ask()
    assert attempt.number == 3
    model = TinyModel()
    OptunaPlugin(attempt, "score").configure_model(model)
    assert model.save_name == "tiny_trial-1"


# Reports.


def test_metrics_are_reported_in_the_cycle_in_which_they_were_computed(
    make_trainer: Make, trial: Any
) -> None:
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], total_steps=3, valid_frequency=1)
    trainer.fit(Scoring(), TinyDataModule())
    assert stored(trial).intermediate_values == {0: 10.0, 1: 11.0, 2: 12.0}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_logged_metrics_are_reported(make_trainer: Make, trial: Any, unit: str) -> None:
    seen = []

    class Recording(TinyModel):
        def have_metrics_improved(self) -> bool:
            seen.append(self.metrics["accuracy"])
            return True

    trainer = make_trainer(
        plugins=[OptunaPlugin(trial, "accuracy")],
        train_unit=unit,
        total_steps=8,
        valid_frequency=2,
    )
    trainer.fit(Recording(), TinyDataModule())
    assert stored(trial).intermediate_values == dict(enumerate(seen))
    assert len(seen) == 4


def test_the_metrics_of_the_model_that_is_trained_are_reported(
    make_trainer: Make,
) -> None:
    class Other(Scoring):
        def on_validation_end(self, validation_cycle: int) -> None:
            self.metrics["score"] = -1

    study = optuna.create_study()
    plugin = OptunaPlugin(study.ask(), "score")
    trainer = make_trainer(plugins=[plugin], total_steps=1, valid_frequency=1)
    model = Scoring()
    trainer.fit(model, TinyDataModule())
    trainer.test(Other(), TinyDataModule())
    plugin.trial = study.ask()
    trainer.fit(model, TinyDataModule())
    assert stored(plugin.trial).intermediate_values == {0: 10.0}


def test_metric_that_is_missing(make_trainer: Make, trial: Any) -> None:
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "acuracy")], valid_frequency=1)
    with pytest.raises(UnknownNameError) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert isinstance(caught.value, KeyError)
    message = str(caught.value)
    assert "'acuracy'" in message
    assert "Did you mean 'accuracy'?" in message
    assert "self.log('acuracy'" in message
    assert "plug-in 'optuna'" in "".join(caught.value.__notes__)


def test_without_validation_nothing_is_reported_or_asked(make_trainer: Make) -> None:
    pruner = Pruner(0)
    trial = optuna.create_study(pruner=pruner).ask()
    make_trainer(plugins=[OptunaPlugin(trial, "missing")]).fit(TinyModel(), TinyDataModule())
    assert pruner.asked == []
    assert stored(trial).intermediate_values == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_pruner_is_asked_once_per_validation(make_trainer: Make, unit: str) -> None:
    pruner = Pruner()
    trial = optuna.create_study(pruner=pruner).ask()
    trainer = make_trainer(
        plugins=[OptunaPlugin(trial, "score")], train_unit=unit, total_steps=6, valid_frequency=2
    )
    trainer.fit(Scoring(), TinyDataModule())
    # The last one may be left out: there is nothing left to prune then.
    assert pruner.asked in ([0, 1, 2], [0, 1])


# Pruning.


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_pruned_run_ends_with_trial_pruned(
    make_trainer: Make,
    storage: str | None,
    unit: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = optuna.create_study(storage=storage, pruner=Pruner(1))
    models: list[Scoring] = []
    trainers: list[Trainer] = []

    def objective(trial: Any) -> float:
        plugin = OptunaPlugin(trial, "score")
        models.append(Scoring())
        trainers.append(
            make_trainer(plugins=[plugin], train_unit=unit, total_steps=5, valid_frequency=1)
        )
        trainers[-1].fit(models[-1], TinyDataModule())
        return float(models[-1].metrics["score"])

    with caplog.at_level(logging.ERROR, logger="helios"):
        study.optimize(objective, n_trials=2)
    assert [trial.state for trial in study.trials] == [States.PRUNED, States.PRUNED]
    assert [trial.intermediate_values for trial in study.trials] == [{0: 10.0, 1: 11.0}] * 2
    assert [model.ended for model in models] == [1, 1]
    assert [trainer.state.validation_cycles for trainer in trainers] == [2, 2]
    assert [request.author for request in trainers[0].stop_requests] == ["optuna"]
    assert caplog.records == []


def test_trial_pruned_rises_out_of_fit(make_trainer: Make) -> None:
    trial = optuna.create_study(pruner=Pruner(0)).ask()
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
    with pytest.raises(optuna.TrialPruned, match="cycle 0"):
        trainer.fit(Scoring(), TinyDataModule())


def test_others_end_their_training_before_a_pruned_run_fails(make_trainer: Make) -> None:
    ended = []

    class Ending(Bystander):
        def on_training_end(self) -> None:
            ended.append(self.plug_id)

    trial = optuna.create_study(pruner=Pruner(0)).ask()
    plugins = [Ending("before"), OptunaPlugin(trial, "score"), Ending("after")]
    with pytest.raises(optuna.TrialPruned):
        make_trainer(plugins=plugins, valid_frequency=1).fit(Scoring(), TinyDataModule())
    assert ended == ["before", "after"]


def test_mixed_study(make_trainer: Make, storage: str | None) -> None:
    """Odd trials are pruned; the others are complete and have a value."""

    class OddTrials(Pruner):
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number % 2)

    study = optuna.create_study(storage=storage, pruner=OddTrials())

    def objective(trial: Any) -> float:
        model = Scoring()
        trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
        trainer.fit(model, TinyDataModule())
        return float(model.metrics["score"])

    study.optimize(objective, n_trials=4)
    assert [(trial.state, trial.value) for trial in study.trials] == [
        (States.COMPLETE, 11.0),
        (States.PRUNED, 10.0),
        (States.COMPLETE, 11.0),
        (States.PRUNED, 10.0),
    ]


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_complete_run_is_not_marked_as_pruned(make_trainer: Make, unit: str) -> None:
    """Where all the training is done, there is nothing left to prune."""
    trial = optuna.create_study(pruner=Pruner(1)).ask()
    plugin = OptunaPlugin(trial, "score")
    trainer = make_trainer(plugins=[plugin], train_unit=unit, total_steps=2, valid_frequency=1)
    state = trainer.fit(Scoring(), TinyDataModule())
    assert state.validation_cycles == 2
    assert stored(trial).user_attrs == {}
    plugin.check_pruned()


def test_run_that_someone_else_stops_is_not_marked_as_pruned(
    make_trainer: Make, trial: Any
) -> None:
    class Impatient(Scoring):
        def should_training_stop(self) -> bool:
            return self.metrics.get("score") == 11

    plugin = OptunaPlugin(trial, "score")
    trainer = make_trainer(plugins=[plugin], total_steps=5, valid_frequency=1)
    assert trainer.fit(Impatient(), TinyDataModule()).validation_cycles == 2
    plugin.check_pruned()
    assert stored(trial).user_attrs == {}


def test_run_that_fails_is_not_pruned(make_trainer: Make) -> None:
    class Failing(Scoring):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            raise OSError("disk")

    trial = optuna.create_study(pruner=Pruner(0)).ask()
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
    with pytest.raises(OSError, match="disk"):
        trainer.fit(Failing(), TinyDataModule())


# check_pruned.


def test_check_pruned(make_trainer: Make, storage: str | None) -> None:
    trial = optuna.create_study(storage=storage, pruner=Pruner(1)).ask()
    plugin = OptunaPlugin(trial, "score")
    plugin.check_pruned()
    trainer = make_trainer(plugins=[plugin], total_steps=3, valid_frequency=1)
    with pytest.raises(optuna.TrialPruned):
        trainer.fit(Scoring(), TinyDataModule())
    with pytest.raises(optuna.TrialPruned, match="cycle 1"):
        plugin.check_pruned()
    with pytest.raises(optuna.TrialPruned, match="cycle 1"):
        OptunaPlugin(trial, "score").check_pruned()  # as in the parent of spawned processes


def test_next_run_of_a_plugin_is_not_pruned_by_the_last(make_trainer: Make) -> None:
    study = optuna.create_study(pruner=Pruner(0))
    plugin = OptunaPlugin(study.ask(), "score")
    trainer = make_trainer(plugins=[plugin], total_steps=2, valid_frequency=1)
    with pytest.raises(optuna.TrialPruned):
        trainer.fit(Scoring(), TinyDataModule())
    study.pruner = Pruner()
    plugin.trial = study.ask()
    assert trainer.fit(Scoring(), TinyDataModule()).global_epoch == 2


# Distributed runs. Only the flag is set here: no process group is needed to refuse.


def test_distributed_run_without_a_database(trial: Any) -> None:
    plugin = OptunaPlugin(trial, "score")
    plugin.is_distributed = True
    with pytest.raises(ConfigurationError, match="sqlite:///") as caught:
        plugin.setup()
    assert isinstance(caught.value, ValueError)
    plugin.is_distributed = False
    plugin.setup()


def test_distributed_run_with_a_database(tmp_path: pathlib.Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}")
    plugin = OptunaPlugin(study.ask(), "score")
    plugin.is_distributed = True
    plugin.setup()


# Checkpoints.


def test_parameters_are_saved_with_the_run(
    make_trainer: Make, tmp_path: pathlib.Path, trial: Any
) -> None:
    plugin = OptunaPlugin(trial, "score")
    plugin.suggest("categorical", "kind", choices=["a", None, 3])
    rate = plugin.suggest("float", "rate", low=0, high=1)
    assert math.isfinite(rate)
    make_trainer(plugins=[plugin], chkpt_root=tmp_path).fit(Scoring(), TinyDataModule())
    (path,) = files(tmp_path, "tiny_trial-0/*.pth")
    assert torch.load(path, weights_only=True)["plugins"][0]["optuna"] == trial.params


def test_trials_do_not_go_on_from_each_others_checkpoints(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    study = optuna.create_study()
    batches = []

    def objective(trial: Any) -> float:
        model, plugin = Scoring(), OptunaPlugin(trial, "score")
        trainer = make_trainer(plugins=[plugin], chkpt_root=tmp_path, valid_frequency=1)
        batches.append(trainer.fit(model, TinyDataModule()).running_iter)
        return float(model.metrics["score"])

    study.optimize(objective, n_trials=2)
    assert batches == [12, 12]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny_trial-0", "tiny_trial-1"]


def test_trial_goes_on_from_its_own_checkpoint(
    make_trainer: Make, tmp_path: pathlib.Path, trial: Any
) -> None:
    batches = []
    for steps in (1, 3):
        trainer = make_trainer(
            plugins=[OptunaPlugin(trial, "score")], chkpt_root=tmp_path, total_steps=steps
        )
        batches.append(trainer.fit(Scoring(), TinyDataModule()).running_iter)
    assert batches == [6, 12]


def test_conformance() -> None:
    study = optuna.create_study()
    number = study.ask()._trial_id

    def create() -> OptunaPlugin:  # of the same trial, as in another process
        return OptunaPlugin(optuna.Trial(study, number), "accuracy")

    check_conformance(create)
