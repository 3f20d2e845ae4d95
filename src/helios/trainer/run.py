"""One ``fit`` or ``test`` in one process: what is set up, in which order, and torn down again."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from helios.core import AverageTimer, TrainingState, TrainingUnit, rng, update_all_registries
from helios.data import DataModule
from helios.model import Model
from helios.plugins.profiling import PluginProfile
from helios.trainer import loops
from helios.trainer.batches import Batches
from helios.trainer.checkpoint import Checkpointer
from helios.trainer.launch import launch
from helios.trainer.process import determinism, log_file
from helios.trainer.reporting import Reporter
from helios.trainer.stop import StopRequest
from helios.trainer.teardown import Teardown

if TYPE_CHECKING:
    from helios.trainer import Trainer

_logger = logging.getLogger("helios")


class Fitted(NamedTuple):
    """What a trainer without a folder for checkpoints has just trained.

    Testing sets model and plug-ins up anew, which must not cost the weights.
    """

    model: Model
    model_state: dict[str, Any]
    plugin_states: dict[str, Any]


class Run:
    """What the loops work with.

    Args:
        trainer: the trainer, between runs.
        model: what is trained or tested.
        datamodule: where the batches come from.
    """

    def __init__(self, trainer: "Trainer", model: Model, datamodule: DataModule) -> None:
        self.trainer = trainer
        self.model = model
        self.datamodule = datamodule
        self.manager = trainer.plugin_manager
        self.hooks = trainer.hooks
        self.state = trainer.state
        self.batches = Batches(self)
        self.reporter = Reporter(self)
        self.validation_due = False
        """Whether the validation that belongs to this moment is still to be completed."""
        self._timer = AverageTimer()
        limit = trainer.max_time
        self._deadline = None if limit is None else time.monotonic() + limit

    # The two runs.

    def fit(self) -> TrainingState:
        """Train, in this process or wherever the launcher starts others."""
        with self.reporter.accounts("fit"), self.reporter.errors(self.trainer.train_exceptions):
            self._prepare()
            launch(self.trainer, self._fit_here)
        return self.state

    def test(self) -> None:
        """Test, in this process or wherever the launcher starts others."""
        with self.reporter.accounts("test"), self.reporter.errors(self.trainer.test_exceptions):
            self._prepare()
            launch(self.trainer, self._test_here)

    def _prepare(self) -> None:
        """Do what comes before launch, in the parent process."""
        trainer = self.trainer
        self.datamodule.prepare_data()
        known = -1
        while known != len(self.manager.rows):  # a plug-in may bring others along
            known = len(self.manager.rows)
            self.manager.arrange()
            self.manager.configure("configure_trainer", trainer)
        self.manager.configure("configure_model", self.model)
        # Not before: plug-ins may give the model another name for its checkpoints.
        self.checkpoints = Checkpointer(self)
        if trainer.profile_plugins:
            self.reporter.profile = PluginProfile()
        trainer.plan = self.manager.freeze(
            trainer.train_exceptions + trainer.test_exceptions,
            self.reporter.profile,
            str(trainer.configuration.path or ""),
        )
        self.hooks = trainer.hooks = self.manager.callers

    def _fit_here(self) -> TrainingState:
        self.trainer._fitted = None
        # Twice: plug-ins hear of an error before they are torn down, and tearing down may fail.
        report, expected = self.reporter, self.trainer.train_exceptions
        with report.errors(expected), Teardown() as teardown, report.errors(expected):
            self.checkpoints.prepare()
            self.model._forget_results()
            self._set_up(teardown, fast_init=False)
            teardown.push(self.checkpoints.settle)  # before the plug-ins are torn down
            self.checkpoints.restore()
            self.batches.begin_phase()
            self.manager.hook.on_training_start()
            self.model.on_training_start()
            self.model.train()
            self.checkpoints.restore_rng()  # after all that draws whenever a process starts
            report.doing = "training"
            self._timer.start()
            loops.train(self)
            self.checkpoints.finish()
            report.doing = "ending the training of"
            report.show_stop()
            self.manager.hook.on_training_end()
            self.model.on_training_end()
            if self.trainer.chkpt_root is None:
                states = self.model.state_dict(), self.manager.state_dict()
                self.trainer._fitted = Fitted(self.model, *states)
            report.doing = "tearing down the training of"
        return self.state

    def _test_here(self) -> None:
        report, expected = self.reporter, self.trainer.test_exceptions
        with report.errors(expected), Teardown() as teardown, report.errors(expected):
            fitted = self.trainer._fitted
            self._set_up(teardown, fast_init=True)
            if not self.checkpoints.restore(for_testing=True):
                if fitted is None or fitted.model is not self.model:
                    self.model.load_for_testing()
                else:
                    self.model.load_state_dict(fitted.model_state, fast_init=True)
                    self.manager.load_state_dict(fitted.plugin_states)
            report.doing = "testing"
            loops.test(self)
            report.show_stop()
            report.doing = "tearing down the test of"

    def _set_up(self, teardown: "Teardown", *, fast_init: bool) -> None:
        trainer = self.trainer
        teardown.enter(determinism(trainer.enable_cudnn_benchmark, trainer.enable_deterministic))
        rng.seed_rngs(trainer.random_seed)
        if trainer.run_root is not None:
            teardown.enter(log_file(trainer.run_root, trainer.run_name))
            (trainer.run_root / "plan.json").write_text(trainer.plan.to_json(), encoding="utf-8")
        self.reporter.show_header()
        if trainer.src_root is not None:
            update_all_registries(trainer.src_root, import_prefix=trainer.import_prefix)
        for row in self.manager.rows.values():
            self._place(row.plugin)
            self.manager.call_one(row, "setup")
            if row.id not in self.manager.quarantined:
                teardown.push(functools.partial(self.manager.call_one, row, "teardown"))
        self.datamodule._begin(trainer, trainer.is_distributed)
        self.datamodule.setup()
        teardown.push(self.datamodule.teardown)
        self._place(self.model)
        self.model._begin()
        self.model.setup(fast_init=fast_init)

    def _place(self, target: Any) -> None:
        """Tell a model or plug-in where it runs; modules and other objects may do without."""
        for name in ("is_distributed", "map_loc", "device", "rank"):
            if hasattr(type(target), name):
                setattr(target, name, getattr(self.trainer, name))
        if hasattr(type(target), "trainer"):
            target.trainer = self.trainer

    # What the loops ask for.

    def is_finished(self) -> bool:
        """Whether training has reached its end, was stopped early, or was asked to stop."""
        trainer, state = self.trainer, self.state
        cycles = trainer.early_stop_cycles
        is_stale = cycles is not None and state.early_stop_count >= cycles
        return (
            trainer.is_complete or (is_stale and state.validation_cycles > 0) or self.is_stopped()
        )

    def is_stopped(self) -> bool:
        """Whether a stop was asked for, and no accumulated gradients would be lost by it."""
        return bool(self.trainer.stop_requests) and self.trainer.is_optimizer_step

    def should_stop(self) -> bool:
        """Ask the plug-in that may stop training, then the model; note who wants to."""
        hook = self.hooks.should_training_stop
        if hook is not None and hook():
            plug_id = next(r.id for r in self.manager.rows.values() if hook.name in r.hooks)
            self.decide_to_stop(plug_id)
        if self.model.should_training_stop():
            self.decide_to_stop("the model")
        return self.is_stop_requested()

    def decide_to_stop(self, author: str) -> None:
        """End training because of an answer of ``should_training_stop``, now or before a resume."""
        self.trainer._stop(StopRequest("should_training_stop", author, is_decided=True))

    def is_stop_requested(self) -> bool:
        """Whether anyone wants the run to end, or its time is over."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            reason = f"max_time={self.trainer.max_time:g} seconds are over"
            self.trainer.request_stop(reason, author="the trainer", urgent=True)
        return bool(self.trainer.stop_requests)

    def must_leave(self) -> bool:
        """Whether a validation is to be left at once, to be repeated by a resumed run."""
        trainer = self.trainer
        return (
            trainer.interruptible
            and self.is_stop_requested()
            and any(request.urgent for request in trainer.stop_requests)
        )

    def count_batch(self) -> None:
        """Count a batch, and determine whether it completes an optimizer step.

        The first batch of a step begins without gradients.

        In epochs, the last batch completes a step however few batches it has accumulated, so
        that nothing is carried from one epoch to the next.
        """
        trainer, state = self.trainer, self.state
        state.global_iteration += 1
        state.running_iter += 1
        accumulate = trainer.accumulation_steps
        if trainer.is_optimizer_step:  # that of the batch before: this one begins a window
            self.model._begin_window()
        if accumulate > 1:
            if trainer.train_unit is TrainingUnit.EPOCH:
                in_window = state.dataset_iter % accumulate
                left = self.batches.per_epoch - (state.dataset_iter - in_window)
                trainer.accumulated_batches = int(min(accumulate, left))
                trainer.is_optimizer_step = in_window + 1 == trainer.accumulated_batches
            else:
                trainer.is_optimizer_step = state.global_iteration % accumulate == 0
                trainer.accumulated_batches = accumulate
        state.current_iteration += trainer.is_optimizer_step

    def record_time(self) -> None:
        """Note how long the batch took."""
        self._timer.record()
        self.state.average_iter_time = self._timer.get_average_time()

    def step_context(self, phase: str) -> contextlib.AbstractContextManager[Any]:
        """Return what is entered around a step of the model."""
        autocast = self.model._precision.autocast
        if self.hooks.step_context is None:
            return autocast
        return _StepContexts([autocast, *self.hooks.step_context(phase=phase)])

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Keep what the model logs apart from what it logs while training."""
        self.model._evaluating = True
        try:
            yield
        finally:
            self.model._evaluating = False

    def log_training(self) -> None:
        """Read what the model has logged since the last time, and hand it out."""
        self._hand_out(self.model._training_log.read())

    def log_evaluation(self) -> None:
        """Read what the model has logged while evaluating, and hand it out."""
        results = self.model._evaluation_log.read()
        self.model.metrics.update(results)
        self._hand_out(results)

    def _hand_out(self, metrics: dict[str, float]) -> None:
        if metrics and self.hooks.on_log is not None:
            self.hooks.on_log(metrics=metrics, state=self.state)


class _StepContexts(contextlib.ExitStack):
    """Context managers of plug-ins around a step; they see its error, but cannot swallow it."""

    def __init__(self, contexts: list[contextlib.AbstractContextManager[Any]]) -> None:
        super().__init__()
        self._contexts = contexts

    def __enter__(self) -> "_StepContexts":
        try:
            for context in self._contexts:
                self.enter_context(context)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *raised: Any) -> Literal[False]:
        super().__exit__(*raised)
        return False
