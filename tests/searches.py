"""Models, pruners and trials that the tests of the Optuna plug-in share."""

import warnings
from typing import Any

import optuna

from helios import Plugin, TrainingState
from helios.testing import TinyModel

optuna.logging.set_verbosity(optuna.logging.ERROR)

States = optuna.trial.TrialState


class Scoring(TinyModel):
    """Computes its metric at the end of a validation: ``value``, ``value`` + 1, ...

    Args:
        value: the first value.
    """

    def __init__(self, value: float = 10) -> None:
        super().__init__()
        self._value = value

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["score"] = self._value + validation_cycle


class Pruner(optuna.pruners.BasePruner):  # type: ignore[misc]  # Optuna has no types here
    """Prunes at given steps, and remembers when it was asked.

    Args:
        at: the steps.
    """

    def __init__(self, *at: int) -> None:
        self.at = at
        self.asked: list[int | None] = []

    def prune(self, study: Any, trial: Any) -> bool:
        self.asked.append(trial.last_step)
        return trial.last_step in self.at


class Killed(BaseException):
    """Ends a run as a kill does: nothing is saved any more, and the study learns nothing."""


class Killer(Plugin):
    """Kills a run.

    Args:
        epoch: the epoch at whose end it does so; by default, when training has ended.
    """

    before = ("optuna",)

    def __init__(self, epoch: int | None = None) -> None:
        super().__init__("killer")
        self.epoch = epoch

    def setup(self) -> None: ...

    def on_training_epoch_end(self, state: TrainingState) -> None:
        if state.global_epoch == self.epoch:
            raise Killed

    def on_training_end(self) -> None:
        if self.epoch is None:
            raise Killed


def stored(trial: Any) -> Any:
    """Return what the study knows of a trial."""
    return trial.study.trials[trial.number]


def again(trial: Any) -> Any:
    """Return a trial as another process sees it that continues it."""
    return optuna.trial.Trial(trial.study, trial._trial_id)


def retried(trial: Any) -> Any:
    """Return the next attempt of a trial whose process has died, as Optuna makes it."""
    study = trial.study
    newer = getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = (newer or optuna.storages.RetryFailedTrialCallback)()
    study.tell(trial, state=States.FAIL)
    retry(study, stored(trial))
    return study.ask()
