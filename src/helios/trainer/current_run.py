"""The public members of a trainer that are about its current or last run."""

import inspect
import logging
import math
import pathlib
from typing import Literal

import torch

from helios.core import Alone, Group, Place, TrainingState, TrainingUnit, rules
from helios.core.arguments import TakesArguments
from helios.data import DataModule
from helios.errors import NoRunError
from helios.model import Model
from helios.plugins import PluginManager, PluginPlan
from helios.plugins.calls.callers import HookCallers
from helios.plugins.registration.attribution import author_in_stack
from helios.trainer.control import StopRequest
from helios.trainer.job import Job, Outcome

_logger = logging.getLogger(__name__)

_RULES = {"accumulation_steps": rules.whole("pass a whole number of at least 1.", 1)}


class CurrentRun(TakesArguments):
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
    def datamodule(self) -> DataModule:
        """The data module of the current or last run.

        Raises:
            AssertionError: no run has started yet.
        """
        assert self._datamodule is not None, "the data are known once fit() or test() has started"
        return self._datamodule

    @property
    def steps_per_epoch(self) -> int | float:
        """The number of optimizer steps in an epoch; infinite for a stream of unknown length.

        Known in ``fit``, from the model's ``setup`` on. With iterations as the training unit, the
        last step of an epoch may need batches of the next one, and counts here.

        Raises:
            NoRunError: no trainer runs the model.
        """
        batches = self.model.session.batches_per_epoch()
        job = self._job
        accumulated = job.window.accumulation_steps if job else self.accumulation_steps
        return batches if math.isinf(batches) else math.ceil(batches / accumulated)

    @property
    def estimated_steps(self) -> int | float:
        """The number of optimizer steps of the whole training, if it does not end early.

        Raises:
            NoRunError: no trainer runs the model.
        """
        if self.train_unit is TrainingUnit.ITERATION:
            return self.total_steps
        return self.total_steps * self.steps_per_epoch if self.total_steps else 0

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
    def group(self) -> Group:
        """The processes of the run, to exchange plain values; only this one outside of a run."""
        return self._job.group if self._job else Alone()

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
    def world_size(self) -> int:
        """The number of processes of the run."""
        return self.place.world_size

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

    def announce(self, text: str) -> None:
        """Show a text below the header of the run: in the log, and on the terminal as the header.

        In a run of several processes, the first one shows it. Hooks and models may call this.

        Args:
            text: one or more lines.
        """
        if self._job is not None:
            self._job.reporter.show(text)

    def request_stop(
        self, reason: str, author: str | None = None, *, urgent: bool = False, final: bool = False
    ) -> None:
        """Stop training after the current optimizer step.

        A test stops after the current batch. Hooks, models and signal handlers may call this.

        Args:
            reason: the reason, which is reported when training ends.
            author: the author of the request; found in the call stack by default.
            urgent: ``True`` to interrupt a validation, if the trainer is ``interruptible``.
            final: ``True`` if a run that resumes from a later checkpoint stops, too.
        """
        if author is None:
            author = author_in_stack(self.plugin_manager, self._model, inspect.currentframe())
        if self._job is not None:
            self._job.control.request(StopRequest(reason, author, urgent, final))

    def withdraw_stops(self, author: str) -> bool:
        """Withdraw all requests of an author to stop training.

        A plug-in may call this in ``on_checkpoint_loaded``, if a final request of an earlier
        process no longer holds, for example because an argument has changed.

        Args:
            author: the author of the requests, for example the id of the plug-in.

        Returns:
            ``True`` if there were any.
        """
        return self._job is not None and self._job.control.withdraw(author)

    def request_validation(self, reason: str) -> None:
        """Validate after the current optimizer step, in addition to the validations that are due.

        After the last batch of an epoch, with epochs as the training unit, the validation takes
        place where the validation of the epoch does, and does not take place twice. Hooks and
        models may call this.

        Args:
            reason: the reason, for the log and the hook.
        """
        self._request("a validation", reason)

    def request_save(self, reason: str) -> None:
        """Save a checkpoint after the current optimizer step, and its validation, if one is due.

        After the last batch of an epoch, the checkpoint is saved when the epoch is complete. A run
        without a folder for checkpoints saves none. Hooks and models may call this, for example in
        ``on_validation_results``.

        Args:
            reason: the reason, for the log.
        """
        self._request("a checkpoint", reason)

    def _request(self, what: Literal["a validation", "a checkpoint"], reason: str) -> None:
        if self._job is not None:
            author = author_in_stack(self.plugin_manager, self._model, inspect.currentframe())
            _logger.info("%s requests %s: %s", author, what, reason)
            self._job.control.wish(what)

    def set_accumulation_steps(self, number: int) -> None:
        """Set the number of batches whose gradients make one optimizer step, from the next step on.

        The number is part of checkpoints, so a resumed run continues with it. A new run begins with
        the argument ``accumulation_steps``. With several processes, call this in all of them.

        Args:
            number: the number of batches.

        Raises:
            ConfigurationError: the number is not a whole number from 1 on.
            NoRunError: no run is in progress.
        """
        rules.check({"accumulation_steps": number}, _RULES)
        if self._job is None:
            raise NoRunError(
                "set_accumulation_steps() was called outside of a run: pass"
                f" Trainer(accumulation_steps={number}), or call it in a hook."
            )
        self._job.window.set_next(number)

    def skip_step(self, reason: str) -> None:
        """Do not take the optimizer step that the current loss or gradients are for.

        ``Model.optimize`` then returns ``False``, its gradients are dropped, and
        ``on_optimizer_step_skipped`` is called, as if gradients in fp16 had overflowed. With
        accumulated gradients, the losses of the whole step are lost. Call this in a hook from
        ``on_before_backward`` to ``on_gradients_ready``.

        Args:
            reason: the reason, for the log.

        Raises:
            NoRunError: no step is in progress.
        """
        self.model.session.skip_step(reason)
        author = author_in_stack(self.plugin_manager, self._model, inspect.currentframe())
        _logger.info("%s skips an optimizer step: %s", author, reason)

    @property
    def final_error(self) -> BaseException | None:
        """The error that the current run raises after its end: see :meth:`raise_at_end`."""
        return self._job.control.final_error if self._job else None

    def raise_at_end(self, error: BaseException) -> None:
        """Raise an error from ``fit`` or ``test`` after the run has ended normally.

        By then, the last checkpoint is saved, and all hooks at the end were called. Only the
        first error counts. Hooks and signal handlers may call this.

        Args:
            error: the error to raise, for example ``SystemExit(143)``.
        """
        if self._job is not None and self._job.control.final_error is None:
            self._job.control.final_error = error
