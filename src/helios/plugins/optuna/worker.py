"""The trials of a search, each trained in one of its processes."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from helios.plugins.optuna import trials
from helios.plugins.optuna.plugin import OptunaPlugin


@dataclasses.dataclass(frozen=True)
class Job:
    """The work of a search, as it is sent to its processes.

    Attributes:
        model: the function that makes the model of a trial.
        data: the data of all trials, or the function that makes those of one.
        trainer: the function that makes the trainer of a trial.
        metric_name: the metric to optimize.
        root: the folder of the search.
        storage: the storage of the study.
        study_name: the name of the study.
        pruner: the pruner of the study.
    """

    model: Callable[..., Any]
    data: Any
    trainer: Callable[..., Any]
    metric_name: str
    root: pathlib.Path
    storage: Any
    study_name: str
    pruner: Any

    def train(self, number: int) -> float | None:
        """Train in a trial to its end, and return its value, or ``None`` if it was pruned.

        The parameters have been suggested. A trial that was cut resumes from its checkpoint.
        """
        import optuna

        sampler = optuna.samplers.RandomSampler(seed=0)  # has nothing to do
        study = optuna.load_study(
            study_name=self.study_name, storage=self.storage, sampler=sampler, pruner=self.pruner
        )
        trial = trials.open_trial(study, self.storage, number)
        model = self.model(**trial.params)
        data = self.data(**trial.params) if callable(self.data) else self.data
        trainer = self.trainer(run_root=self.root / f"trial-{number}")
        trainer.register_plugin(OptunaPlugin(trial, self.metric_name))
        try:
            trainer.fit(model, data)
        except optuna.TrialPruned:
            return None
        return float(model.metrics[self.metric_name])


_job: Job | None = None  # of this process


def receive(job: Job) -> None:
    """Store the job of this process."""
    global _job
    _job = job


def train(number: int) -> float | None:
    """Train in a trial of the job of this process."""
    assert _job is not None
    return _job.train(number)
