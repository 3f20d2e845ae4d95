"""The steps of virtual ranks, which the loops see as one step of one model."""

import contextlib
from collections.abc import Callable
from typing import Any

from helios.core import TrainingState
from helios.model import Model
from helios.model.virtual.session import VirtualSession
from helios.model.window import Window
from helios.plugins.calls.callers import HookCallers
from helios.trainer.loops import is_due
from helios.trainer.virtual.batches import END, Round

StepContext = Callable[[str], contextlib.AbstractContextManager[Any]]
RequireBatch = Callable[[Any, Any, str], None]


class HooksOfRounds:
    """The hooks that the loops call, without those that are called for each virtual rank.

    Args:
        hooks: the bound hooks of the run.
    """

    process_training_batch = process_validation_batch = process_testing_batch = None
    on_training_batch_start = on_training_batch_end = None
    on_validation_batch_start = on_validation_batch_end = None
    on_testing_batch_start = on_testing_batch_end = None

    def __init__(self, hooks: HookCallers) -> None:
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)  # now, because a plug-in may be switched off


class VirtualSteps:
    """Takes the place of the model in the loops, whose batches are rounds.

    All attributes but the steps and the methods around them are the model's.

    Args:
        model: the model.
        hooks: the bound hooks of the run.
        session: the session of the run.
        state: the progress of the run.
        window: the accumulation window.
        print_frequency: see :class:`~helios.trainer.Trainer`.
        step_context: returns the context manager around a step of the model.
        require_batch: raises an error if a hook has returned no batch.
    """

    def __init__(
        self,
        model: Model,
        hooks: HookCallers,
        session: VirtualSession,
        state: TrainingState,
        window: Window,
        print_frequency: int | None,
        step_context: StepContext,
        require_batch: RequireBatch,
    ) -> None:
        self._model = model
        self._hooks = hooks
        self._session = session
        self._state = state
        self._window = window
        self._print_frequency = print_frequency
        self._step_context = step_context
        self._require_batch = require_batch

    def train_step(self, batches: Round, state: TrainingState) -> Any:
        """Train on a batch of each virtual rank of this process; return the last output."""
        outputs = None
        session = self._session
        with session.round():
            for rank in session.ranks.local:
                with session.training_rank(rank):
                    outputs = self._train_on(batches.read(rank))
        return outputs

    def _train_on(self, batch: Any) -> Any:
        model, hooks, session, state = self._model, self._hooks, self._session, self._state
        if hooks.process_training_batch is not None:
            loaded, batch = batch, hooks.process_training_batch(batch=batch, state=state)
            self._require_batch(batch, loaded, "process_training_batch")
        if hooks.on_training_batch_start is not None:
            hooks.on_training_batch_start(batch=batch, samples=session.samples, state=state)
        model.on_training_batch_start(state)
        with self._step_context("training"):
            outputs = model.train_step(batch, state)
        if hooks.on_training_batch_end is not None:
            hooks.on_training_batch_end(
                outputs=outputs, batch=batch, samples=session.samples, state=state
            )
        should_log = self._window.is_complete and is_due(
            self._print_frequency, state.current_iteration
        )
        model.on_training_batch_end(state, should_log=should_log)
        return outputs

    def valid_step(self, batches: Round, step: int) -> None:
        """Validate on a batch of each virtual rank of this process that has one."""
        model, hooks, session = self._model, self._hooks, self._session
        for rank in session.ranks.local:
            with session.evaluating_rank(rank, step):
                batch = batches.read(rank)
                if batch is END:
                    continue
                if hooks.process_validation_batch is not None:
                    loaded, batch = batch, hooks.process_validation_batch(batch=batch, step=step)
                    self._require_batch(batch, loaded, "process_validation_batch")
                if hooks.on_validation_batch_start is not None:
                    hooks.on_validation_batch_start(batch=batch, samples=session.samples, step=step)
                model.on_validation_batch_start(step)
                with self._step_context("validation"):
                    outputs = model.valid_step(batch, step)
                if hooks.on_validation_batch_end is not None:
                    hooks.on_validation_batch_end(
                        outputs=outputs, batch=batch, samples=session.samples, step=step
                    )
                model.on_validation_batch_end(step)

    def test_step(self, batches: Round, step: int) -> None:
        """Test a batch of each virtual rank of this process that has one."""
        model, hooks, session = self._model, self._hooks, self._session
        for rank in session.ranks.local:
            with session.evaluating_rank(rank, step):
                batch = batches.read(rank)
                if batch is END:
                    continue
                if hooks.process_testing_batch is not None:
                    loaded, batch = batch, hooks.process_testing_batch(batch=batch, step=step)
                    self._require_batch(batch, loaded, "process_testing_batch")
                if hooks.on_testing_batch_start is not None:
                    hooks.on_testing_batch_start(batch=batch, samples=session.samples, step=step)
                model.on_testing_batch_start(step)
                with self._step_context("testing"):
                    outputs = model.test_step(batch, step)
                if hooks.on_testing_batch_end is not None:
                    hooks.on_testing_batch_end(
                        outputs=outputs, batch=batch, samples=session.samples, step=step
                    )
                model.on_testing_batch_end(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    # The loops call these for a round; the steps above call the model's for each virtual rank.

    def on_training_batch_start(self, state: TrainingState) -> None:
        """Do nothing."""

    def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
        """Do nothing."""

    def on_validation_batch_start(self, step: int) -> None:
        """Do nothing."""

    def on_validation_batch_end(self, step: int) -> None:
        """Do nothing."""

    def on_testing_batch_start(self, step: int) -> None:
        """Do nothing."""

    def on_testing_batch_end(self, step: int) -> None:
        """Do nothing."""
