"""The public members of a trainer that are about its current or last run."""

import inspect
import pathlib

import torch

from helios.core import Place, TrainingState, TrainingUnit
from helios.data import DataModule
from helios.model import Model
from helios.plugins import PluginManager, PluginPlan
from helios.plugins.attribution import author_in_stack
from helios.plugins.callers import HookCallers
from helios.trainer.control import StopRequest
from helios.trainer.job import Job, Outcome


class CurrentRun:
    """The part of a trainer that answers questions and takes requests about its current run."""

    device: torch.device
    train_unit: TrainingUnit
    total_steps: int | float
    accumulation_steps: int
    plugin_manager: PluginManager

    def __init__(self) -> None:
        self._job: Job | None = None
        self._outcome = Outcome()
        self._model: Model | None = None
        self._datamodule: DataModule | None = None

    @property
    def model(self) -> Model:
        """The model of the current or last run.

        Raises:
            AssertionError: no run has started yet.
        """
        assert self._model is not None, "the model is known once fit() or test() has started"
        return self._model

    @property
    def state(self) -> TrainingState:
        """The progress of the current or last run."""
        return self._job.state if self._job else self._outcome.state

    @property
    def plan(self) -> PluginPlan:
        """The plan of the current or last run; empty before the first."""
        return self._job.plan if self._job else self._outcome.plan

    @property
    def stop_requests(self) -> list[StopRequest]:
        """The requests to stop the current or last run, in the order in which they were made."""
        return self._job.control.requests if self._job else self._outcome.stop_requests

    @property
    def hooks(self) -> HookCallers:
        """The bound hooks. A hook is ``None`` if no active plug-in implements it."""
        return self.plugin_manager.callers

    @property
    def is_optimizer_step(self) -> bool:
        """True if the current batch completes an optimizer step."""
        return self._job is None or self._job.window.is_complete

    @property
    def accumulated_batches(self) -> int:
        """The number of batches that the current optimizer step accumulates."""
        return self._job.window.size if self._job else 1

    @property
    def is_complete(self) -> bool:
        """True if training has completed its ``total_steps``."""
        return self.state.units(self.train_unit) >= self.total_steps

    @property
    def place(self) -> Place:
        """The place of this process; that of the run while one is running."""
        return self._job.place if self._job else Place(self.device)

    @property
    def is_distributed(self) -> bool:
        """True if several processes train together."""
        return self.place.is_distributed

    @property
    def rank(self) -> int:
        """The number of this process on its node."""
        return self.place.local_rank

    @property
    def global_rank(self) -> int:
        """The number of this process among all."""
        return self.place.rank

    @property
    def map_loc(self) -> str | dict[str, str]:
        """The ``map_location`` of :func:`torch.load` for this process."""
        return self.place.map_loc

    def run_path(self, name: str) -> pathlib.Path:
        """Return the path in ``run_root`` for a file or folder of the running or last run.

        If the folder holds files of another run, the name gets a number. A plug-in may call this
        method from ``on_training_start`` or ``on_testing_start`` on.

        Args:
            name: the usual name, for example ``"metrics.jsonl"``.
        """
        return (self._job.folder if self._job else self._outcome.folder).path(name)

    def request_stop(self, reason: str, author: str | None = None, *, urgent: bool = False) -> None:
        """Stop training after the current optimizer step.

        A test stops after the current batch. Hooks, models and signal handlers may call this.

        Args:
            reason: the reason, which is reported when training ends.
            author: the author of the request; found in the call stack by default.
            urgent: ``True`` to interrupt a validation, if the trainer is ``interruptible``.
        """
        if author is None:
            author = author_in_stack(self.plugin_manager, self._model, inspect.currentframe())
        if self._job is not None:
            self._job.control.request(StopRequest(reason, author, urgent))

    def raise_at_end(self, error: BaseException) -> None:
        """Raise an error from ``fit`` or ``test`` after the run has ended normally.

        By then, the last checkpoint is saved, and all hooks at the end were called. Only the
        first error counts. Hooks and signal handlers may call this.

        Args:
            error: the error to raise, for example ``SystemExit(143)``.
        """
        if self._job is not None and self._job.control.final_error is None:
            self._job.control.final_error = error
