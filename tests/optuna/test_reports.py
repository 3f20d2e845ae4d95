"""Reports: what reaches the trial, when, how often, and what is said if nothing does."""

import contextlib
import logging
import pathlib
import threading
from typing import Any

import pytest
from helpers import Make

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import Pruner, Scoring, States, stored

from helios import Plugin, TrainingState
from helios.core import Alone
from helios.errors import ConfigurationError
from helios.plugins.optuna import OptunaPlugin
from helios.testing import TinyDataModule, TinyModel


class Counting(optuna.storages.InMemoryStorage):  # type: ignore[misc]  # Optuna has no types here
    """Counts its calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if callable(value) and not name.startswith("_"):
            self.calls.append(name)
        return value


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the plug-in; the trainer may add its own about the same run."""
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [message for message in messages if message.startswith("Optuna plug-in")]


# Cost.


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_storage_and_pruner_are_asked_once_per_report(make_trainer: Make, unit: str) -> None:
    calls, asked = [], []
    for train_size in (8, 80):
        storage, pruner = Counting(), Pruner()
        trial = optuna.create_study(storage=storage, pruner=pruner).ask()
        frequency = 1 if unit == "epoch" else train_size // 4
        trainer = make_trainer(
            plugins=[OptunaPlugin(trial, "score")],
            train_unit=unit,
            total_steps=3 * frequency,
            valid_frequency=frequency,
        )
        storage.calls.clear()
        trainer.fit(Scoring(), TinyDataModule(train_size))
        assert trainer.state.global_iteration == 3 * train_size // 4
        calls.append(list(storage.calls))
        asked.append(pruner.asked)
    assert asked == [[0, 1, 2]] * 2
    assert calls[0] == calls[1], "the calls depend on the number of batches"
    assert calls[0].count("set_trial_intermediate_value") == 3


def test_calls_per_report(make_trainer: Make) -> None:
    counts = []
    for cycles in (2, 5):
        storage = Counting()
        trial = optuna.create_study(storage=storage, pruner=Pruner()).ask()
        trainer = make_trainer(
            plugins=[OptunaPlugin(trial, "score")], total_steps=cycles, valid_frequency=1
        )
        storage.calls.clear()
        trainer.fit(Scoring(), TinyDataModule())
        counts.append(len(storage.calls))
    per_report = (counts[1] - counts[0]) / 3
    reference = Counting()
    bare = optuna.create_study(storage=reference, pruner=Pruner()).ask()
    reference.calls.clear()
    bare.report(1.0, 0)
    bare.should_prune()
    assert per_report <= len(reference.calls)


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_no_hook_of_the_plugin_is_called_in_a_step(make_trainer: Make, unit: str) -> None:
    called: list[str] = []

    class Watched(OptunaPlugin):
        def __getattribute__(self, name: str) -> Any:
            if training and name != "__class__":
                called.append(name)
            return super().__getattribute__(name)

    class Training(Scoring):
        def on_training_batch_start(self, state: TrainingState) -> None:
            super().on_training_batch_start(state)
            assert self.trainer.hooks.should_training_stop is None
            training[:] = [True]

        def on_validation_start(self, validation_cycle: int) -> None:
            super().on_validation_start(validation_cycle)
            training.clear()

    training: list[bool] = []
    trial = optuna.create_study(pruner=Pruner()).ask()
    trainer = make_trainer(
        plugins=[Watched(trial, "score")], train_unit=unit, total_steps=6, valid_frequency=3
    )
    trainer.fit(Training(), TinyDataModule())
    assert list(stored(trial).intermediate_values) == [0, 1]
    assert called == []


# The founding member, when a user calls it.


def test_the_pruner_answers_a_call_by_hand_once_per_report(make_trainer: Make) -> None:
    storage, pruner = Counting(), Pruner(1)
    trial = optuna.create_study(storage=storage, pruner=pruner).ask()
    plugin = OptunaPlugin(trial, "score")
    answers: list[Any] = []

    class Asking(Scoring):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            storage.calls.clear()
            answers.append((state.global_epoch, plugin.should_training_stop()))
            if len(answers) % 6 != 1:  # not the first batch of an epoch
                assert storage.calls == []
            return super().train_step(batch, state)

        def on_validation_end(self, validation_cycle: int) -> None:
            super().on_validation_end(validation_cycle)
            plugin.report_metrics(validation_cycle)
            answers.append(("reported", plugin.should_training_stop()))

    assert plugin.should_training_stop() is False
    pruner.asked.clear()
    trainer = make_trainer(plugins=[plugin], total_steps=5, valid_frequency=1)
    with pytest.raises(optuna.TrialPruned):
        trainer.fit(Asking(), TinyDataModule())
    epochs = [[(epoch, False)] * 6 for epoch in range(2)]
    assert answers == [*epochs[0], ("reported", False), *epochs[1], ("reported", True)]
    assert pruner.asked == [None, 0, 1]  # before the first report, and after each
    assert plugin.should_training_stop() is True
    plugin.trial = trial.study.ask()
    assert plugin.should_training_stop() is False


def test_only_rank_0_asks_and_several_objectives_are_not_pruned() -> None:
    pruner = Pruner(0)
    plugin = OptunaPlugin(optuna.create_study(pruner=pruner).ask(), "score")
    plugin.trial.report(1.0, 0)
    plugin.global_rank = 1
    assert plugin.should_training_stop() is False
    assert pruner.asked == []
    several = optuna.create_study(directions=["minimize", "maximize"]).ask()
    assert OptunaPlugin(several, "score").should_training_stop() is False


def test_another_rank_learns_the_verdict_and_touches_no_storage(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """One process stands for the rank 1: rank 0 sends it that the trial is pruned in cycle 1."""

    class Second(OptunaPlugin):
        @property
        def global_rank(self) -> int:
            return 1

        def on_validation_results(self, improved: bool, validation_cycle: int) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(Alone, "broadcast", lambda self, value: validation_cycle == 1)
                super().on_validation_results(improved, validation_cycle)

    storage, pruner = Counting(), Pruner(0)
    trial = optuna.create_study(storage=storage, pruner=pruner).ask()
    plugin = Second(trial, "score")
    trainer = make_trainer(plugins=[plugin], total_steps=5, valid_frequency=1, run_root=tmp_path)
    with pytest.raises(optuna.TrialPruned, match="cycle 1"):
        trainer.fit(Scoring(), TinyDataModule())
    assert (trainer.state.validation_cycles, pruner.asked) == (2, [])
    assert stored(trial).intermediate_values == {}
    assert "helios.pruned" not in stored(trial).user_attrs
    assert plugin.should_training_stop() is True


# The override: it stays that of the plug-in.


def test_another_plugin_cannot_decide_about_the_end(make_trainer: Make) -> None:
    class Stopping(Plugin):
        def __init__(self) -> None:
            super().__init__("stopping")

        def setup(self) -> None: ...

        def should_training_stop(self) -> bool:
            return True

    trainer = make_trainer(plugins=[OptunaPlugin(optuna.create_study().ask(), "score")])
    with pytest.raises(ValueError, match="should_training_stop") as caught:
        trainer.register_plugin(Stopping())
    assert "'optuna'" in str(caught.value)
    assert "'stopping'" in str(caught.value)


@pytest.mark.parametrize(("at", "cycles"), [((), 4), ((1,), 2)])
def test_subclass_can_decide_after_each_batch(
    make_trainer: Make, at: tuple[int, ...], cycles: int
) -> None:
    class Impatient(OptunaPlugin):
        polls = 0

        def should_training_stop(self) -> bool:
            self.polls += 1
            return super().should_training_stop() or self.trainer.state.global_iteration >= 20

    trial = optuna.create_study(pruner=Pruner(*at)).ask()
    plugin = Impatient(trial, "score")
    trainer = make_trainer(
        plugins=[plugin], train_unit="iteration", total_steps=99, valid_frequency=5
    )
    with pytest.raises(optuna.TrialPruned) if at else contextlib.nullcontext():
        trainer.fit(Scoring(), TinyDataModule())
    assert trainer.state.validation_cycles == cycles
    assert plugin.polls == 5 * cycles + cycles


# Once.


@pytest.mark.parametrize("times", [1, 2])
def test_report_by_hand_is_not_repeated(make_trainer: Make, times: int) -> None:
    """Optuna warns of a second report of one step; warnings are errors here."""
    pruner = Pruner(2)
    trial = optuna.create_study(pruner=pruner).ask()
    plugin = OptunaPlugin(trial, "score")

    class Reporting(Scoring):
        def on_validation_end(self, validation_cycle: int) -> None:
            super().on_validation_end(validation_cycle)
            for _ in range(times):
                plugin.report_metrics(validation_cycle)

    with pytest.raises(optuna.TrialPruned):
        make_trainer(plugins=[plugin], total_steps=5, valid_frequency=1).fit(
            Reporting(), TinyDataModule()
        )
    assert stored(trial).intermediate_values == {0: 10.0, 1: 11.0, 2: 12.0}
    assert pruner.asked == [0, 1, 2]


def test_metric_that_is_not_a_number(make_trainer: Make) -> None:
    class Wordy(TinyModel):
        def on_validation_end(self, validation_cycle: int) -> None:
            self.metrics["score"] = "good"

    trial = optuna.create_study().ask()
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
    with pytest.raises(TypeError, match=r"'score', but .* holds 'good', which is not a number"):
        trainer.fit(Wordy(), TinyDataModule())


def test_metric_that_is_not_finite(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}")
    trial = study.ask()
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
    trainer.fit(Scoring(float("nan")), TinyDataModule())
    assert list(stored(trial).intermediate_values) == [0, 1]


# Runs that never report.


def test_run_without_validation_says_so(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    trial = optuna.create_study().ask()
    for _ in range(2):
        caplog.clear()
        make_trainer(plugins=[OptunaPlugin(trial, "score")]).fit(Scoring(), TinyDataModule())
        assert warnings_of(caplog) == [
            "Optuna plug-in: this run never validates, so 'score' is never reported and the trial"
            " is never pruned. Pass Trainer(valid_frequency=...)."
        ]


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_run_without_a_validation_set_says_so_once(
    make_trainer: Make, caplog: pytest.LogCaptureFixture, unit: str
) -> None:
    trial = optuna.create_study().ask()
    trainer = make_trainer(
        plugins=[OptunaPlugin(trial, "score")], train_unit=unit, total_steps=12, valid_frequency=1
    )
    trainer.fit(Scoring(), TinyDataModule(valid_size=0))
    assert warnings_of(caplog) == [
        "Optuna plug-in: the data module has no validation set, so 'score' is never reported and"
        " the trial is never pruned."
    ]


def test_run_that_reports_says_nothing(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    trial = optuna.create_study().ask()
    trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
    trainer.fit(Scoring(), TinyDataModule())
    assert warnings_of(caplog) == []


# Several objectives.


def test_several_objectives(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])

    def objective(trial: Any) -> tuple[float, float]:
        plugin = OptunaPlugin(trial, "score")
        rate = plugin.suggest("float", "lr", low=0, high=1)
        model = Scoring()
        make_trainer(plugins=[plugin], valid_frequency=1).fit(model, TinyDataModule())
        return rate, model.metrics["score"]

    with caplog.at_level(logging.INFO, logger="helios"):
        study.optimize(objective, n_trials=2)
    assert [trial.state for trial in study.trials] == [States.COMPLETE] * 2
    assert [trial.values[1] for trial in study.trials] == [11.0, 11.0]
    assert [trial.intermediate_values for trial in study.trials] == [{}, {}]
    said = [r.getMessage() for r in caplog.records if "several objectives" in r.getMessage()]
    assert len(said) == 2
    assert "'score' is not reported" in said[0]


def test_report_by_hand_with_several_objectives(make_trainer: Make) -> None:
    """Optuna's own error says why."""
    trial = optuna.create_study(directions=["minimize", "maximize"]).ask()
    plugin = OptunaPlugin(trial, "score")

    class Reporting(Scoring):
        def on_validation_end(self, validation_cycle: int) -> None:
            super().on_validation_end(validation_cycle)
            plugin.report_metrics(validation_cycle)

    with pytest.raises(NotImplementedError, match="multi-objective"):
        make_trainer(plugins=[plugin], valid_frequency=1).fit(Reporting(), TinyDataModule())


# Threads.


def test_trials_in_threads_are_refused(make_trainer: Make) -> None:
    """``n_jobs=2`` runs two trials in the threads of one process."""
    both = threading.Barrier(2, timeout=60)
    errors = []

    class Waiting(Scoring):
        def setup(self, fast_init: bool = False) -> None:
            both.wait()  # for the other thread to be refused
            super().setup(fast_init)

    def objective(trial: Any) -> float:
        trainer = make_trainer(plugins=[OptunaPlugin(trial, "score")], valid_frequency=1)
        try:
            trainer.fit(Waiting(), TinyDataModule())
        except ConfigurationError as error:
            errors.append(str(error))
            both.wait()
            raise
        return 0.0

    study = optuna.create_study()
    study.optimize(objective, n_trials=2, n_jobs=2)  # Optuna loses the error of the last trials
    assert sorted(trial.state.name for trial in study.trials) == ["COMPLETE", "FAIL"]
    (error,) = errors
    assert "neither would be exact" in error
    assert "n_jobs=1, and several processes" in error
