"""One ``fit`` or ``test`` in one process: what is set up, in which order, and torn down again."""

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from helios.core import AverageTimer, TrainingState, TrainingUnit, rng, update_all_registries
from helios.data import DataModule, StreamPosition
from helios.data.datamodule import LoaderAndPosition
from helios.data.loader import set_position
from helios.errors import CheckpointError, ConfigurationError
from helios.model import Model
from helios.plugins import profiling
from helios.plugins.attribution import call_in_traceback
from helios.trainer import loops
from helios.trainer.checkpoint import Checkpointer
from helios.trainer.launch import launch
from helios.trainer.process import determinism, log_file
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
        self.batches_per_epoch: int | float = 0
        self.restored_epoch: dict[str, Any] | None = None
        self._training_loader: LoaderAndPosition | None = None
        self.validation_due = False
        """Whether the validation that belongs to this moment is still to be completed."""
        self._timer = AverageTimer()
        limit = trainer.max_time
        self._deadline = None if limit is None else time.monotonic() + limit
        self._doing = "setting up"
        self._failure: BaseException | None = None
        self._profile: profiling.PluginProfile | None = None

    # The two runs.

    def fit(self) -> TrainingState:
        """Train, in this process or wherever the launcher starts others."""
        with self._accounted("fit"), self._reported(self.trainer.train_exceptions):
            self._prepare()
            launch(self.trainer, self._fit_here)
        return self.state

    def test(self) -> None:
        """Test, in this process or wherever the launcher starts others."""
        with self._accounted("test"), self._reported(self.trainer.test_exceptions):
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
        self._profile = profiling.PluginProfile() if trainer.profile_plugins else None
        trainer.plan = self.manager.freeze(
            trainer.train_exceptions + trainer.test_exceptions,
            self._profile,
            str(trainer.configuration.path or ""),
        )
        self.hooks = trainer.hooks = self.manager.callers

    def _fit_here(self) -> TrainingState:
        self.trainer._fitted = None
        # Twice: plug-ins hear of an error before they are torn down, and tearing down may fail.
        expected = self.trainer.train_exceptions
        with self._reported(expected), Teardown() as teardown, self._reported(expected):
            self.checkpoints.prepare()
            self._set_up(teardown, fast_init=False)
            teardown.push(self.checkpoints.settle)  # before the plug-ins are torn down
            self.checkpoints.restore()
            self.advance_loader()
            self.manager.hook.on_training_start()
            self.model.on_training_start()
            self.model.train()
            self.checkpoints.restore_rng()  # after all that draws whenever a process starts
            self._doing = "training"
            self._timer.start()
            loops.train(self)
            self.checkpoints.finish()
            self._doing = "ending the training of"
            self._report_stop()
            self.manager.hook.on_training_end()
            self.model.on_training_end()
            if self.trainer.chkpt_root is None:
                states = self.model.state_dict(), self.manager.state_dict()
                self.trainer._fitted = Fitted(self.model, *states)
            self._doing = "tearing down the training of"
        return self.state

    def _test_here(self) -> None:
        expected = self.trainer.test_exceptions
        with self._reported(expected), Teardown() as teardown, self._reported(expected):
            fitted = self.trainer._fitted
            self._set_up(teardown, fast_init=True)
            if not self.checkpoints.restore(for_testing=True):
                if fitted is None or fitted.model is not self.model:
                    self.model.load_for_testing()
                else:
                    self.model.load_state_dict(fitted.model_state, fast_init=True)
                    self.manager.load_state_dict(fitted.plugin_states)
            self._doing = "testing"
            loops.test(self)
            self._report_stop()
            self._doing = "tearing down the test of"

    def _set_up(self, teardown: "Teardown", *, fast_init: bool) -> None:
        trainer = self.trainer
        teardown.enter(determinism(trainer.enable_cudnn_benchmark, trainer.enable_deterministic))
        rng.seed_rngs(trainer.random_seed)
        if trainer.run_root is not None:
            teardown.enter(log_file(trainer.run_root, trainer.run_name))
            (trainer.run_root / "plan.json").write_text(trainer.plan.to_json(), encoding="utf-8")
        self._show_header()
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

    def _show_header(self) -> None:
        import helios

        trainer = self.trainer
        versions = f"Helios {helios.__version__} on {trainer.device}, torch {torch.__version__}"
        header = f"{versions}\n{trainer.plan.as_text()}"
        banner = self.model.append_to_banner(header)
        _logger.info("%s", banner)
        if trainer.print_banner:
            print(banner, flush=True)

    @contextlib.contextmanager
    def _reported(self, expected: list[type[Exception]]) -> Iterator[None]:
        """Tell the error itself, the log and the plug-ins what went wrong, and where."""
        try:
            yield
        except BaseException as error:
            if error is not self._failure:  # launching and running both report
                self._failure = error
                self._add_note(error)
                is_fault = isinstance(error, Exception) and not isinstance(error, tuple(expected))
                if is_fault and _logger.hasHandlers():  # or Python would show it twice
                    _logger.error("the run has failed", exc_info=error)
                self._tell_plugins(error)
            raise

    def _tell_plugins(self, error: BaseException) -> None:
        for row in self.manager.rows.values():
            try:
                self.manager.call_one(row, "on_exception", error=error, state=self.state)
            except Exception:
                _logger.exception("on_exception of plug-in %r has failed", row.id)

    def _report_stop(self) -> None:
        for request in self.trainer.stop_requests:
            _logger.info("stopped: %s (asked for by %s)", request.reason, request.author)

    @contextlib.contextmanager
    def _accounted(self, name: str) -> Iterator[None]:
        """Say at the end which plug-ins have failed, and what all of them have cost."""
        try:
            yield
        finally:
            for quarantine in self.manager.quarantined.values():
                self._tell(str(quarantine), logging.WARNING)
            if self._profile is not None:
                profile = self._profile.to_dict()
                self._tell(profiling.as_text(profile), logging.INFO)
                folder = self.checkpoints.folder
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                    path = folder / f"plugin-profile-{name}.json"
                    path.write_text(profiling.as_json(profile), encoding="utf-8")

    def _tell(self, text: str, level: int) -> None:
        _logger.log(level, "%s", text)
        if self.trainer.print_banner:
            print(text, flush=True)

    def _add_note(self, error: BaseException) -> None:
        state = self.state
        where = f"Helios was {self._doing} {self.model.save_name!r}"
        if state.global_iteration:
            where += (
                f": epoch {state.global_epoch}, batch {state.dataset_iter} of it,"
                f" iteration {state.current_iteration}"
            )
        call = call_in_traceback(self.manager, error)
        if call is not None:
            where += f"; raised in {call.hook} of plug-in {self.manager.describe(call.plug_id)}"
        error.add_note(where)

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
            self.trainer.request_stop("should_training_stop", author=plug_id)
        if self.model.should_training_stop():
            self.trainer.request_stop("should_training_stop", author="the model")
        return self.is_stop_requested()

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

        In epochs, the last batch completes a step however few batches it has accumulated, so
        that nothing is carried from one epoch to the next.
        """
        trainer, state = self.trainer, self.state
        state.global_iteration += 1
        state.running_iter += 1
        accumulate = trainer.accumulation_steps
        if accumulate > 1:
            if trainer.train_unit is TrainingUnit.EPOCH:
                in_window = state.dataset_iter % accumulate
                left = self.batches_per_epoch - (state.dataset_iter - in_window)
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

    # Batches.

    def advance_phase(self) -> None:
        """Go on to the next training set, if there is one."""
        if self.datamodule.advance_train_phase():
            self.advance_loader()

    def advance_loader(self) -> None:
        """Create the loader of the current training set.

        Raises:
            ConfigurationError: there is no training set, or it has no whole batch.
            CheckpointError: the run is to go on behind the end of the training set.
        """
        self._training_loader = self.datamodule.train_dataloader()
        if self._training_loader is None:
            raise ConfigurationError(
                f"{type(self.datamodule).__name__} has no training set: assign"
                " self._train_dataset = self._create_dataset(...) in its setup()."
            )
        loader, position = self._training_loader
        is_stream = isinstance(position, StreamPosition)
        self.batches_per_epoch = math.inf if is_stream else len(loader)
        if self.batches_per_epoch == 0:
            raise ConfigurationError(
                "the training set does not fill one batch, and drop_last=True drops the rest:"
                " lower batch_size."
            )
        before, self.restored_epoch = self.restored_epoch, None
        if before is not None and self.state.dataset_iter > 0:
            self._go_on_inside_epoch(before)

    def _go_on_inside_epoch(self, before: dict[str, Any]) -> None:
        assert self._training_loader is not None  # advance_loader() has seen to it
        position, consumed = self._training_loader[1], self.state.dataset_iter
        now = self._epoch_size()
        if any(before[name] != now[name] for name in now):
            raise CheckpointError(
                f"the checkpoint was saved after batch {consumed} of an epoch of"
                f" {_described(before)}, but the training set now has {_described(now)}, in another"
                " order: restore the data and the batch size that the run was started with, or"
                " start a new run."
            )
        if isinstance(position, StreamPosition):
            position.load_state_dict(before["stream"][self.trainer.global_rank], consumed)

    def _epoch_size(self) -> dict[str, int | None]:
        """Return how many batches and samples an epoch has; ``None`` where it is a stream."""
        assert self._training_loader is not None  # advance_loader() has seen to it
        loader, position = self._training_loader
        if isinstance(position, StreamPosition):
            return {"batches": None, "samples": None}
        return {"batches": len(loader), "samples": len(position)}

    def epoch_state(self) -> dict[str, Any]:
        """Return what the counters do not say about the position in the running epoch."""
        assert self._training_loader is not None  # advance_loader() has seen to it
        position = self._training_loader[1]
        if isinstance(position, StreamPosition):
            return {**self._epoch_size(), "stream": [position.state_dict(self.state.dataset_iter)]}
        return self._epoch_size()

    def training_batches(self) -> Iterable[Any]:
        """Return the batches of the running epoch that have not been consumed."""
        assert self._training_loader is not None  # advance_loader() has seen to it
        loader, position = self._training_loader
        state = self.state
        if isinstance(position, StreamPosition):
            return self._in_windows(self._wrapped(position.read(state), "training"))
        seed = self.trainer.random_seed
        set_position(loader, position, seed, state.global_epoch, state.dataset_iter)
        return self._wrapped(loader, "training")

    def _in_windows(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Read a stream as far ahead as one optimizer step goes.

        In epochs, the last step may be of fewer batches, which must be known when it begins; with
        it, the length of the epoch is.
        """
        iterator, state = iter(batches), self.state
        in_epochs = self.trainer.train_unit is TrainingUnit.EPOCH
        accumulate = self.trainer.accumulation_steps if in_epochs else 1
        self.batches_per_epoch = math.inf
        while math.isinf(self.batches_per_epoch):
            wanted = accumulate - state.dataset_iter % accumulate
            window = list(itertools.islice(iterator, wanted))
            if len(window) < wanted:
                self.batches_per_epoch = state.dataset_iter + len(window)
            yield from window

    def validation_batches(self) -> Iterable[Any] | None:
        """Return the validation batches, or ``None`` without a validation set."""
        loader = self.datamodule.valid_dataloader()
        return None if loader is None else self._wrapped(loader[0], "validation")

    def test_batches(self) -> Iterable[Any] | None:
        """Return the test batches, or ``None`` without a test set."""
        loader = self.datamodule.test_dataloader()
        return None if loader is None else self._wrapped(loader[0], "testing")

    def _wrapped(self, batches: Iterable[Any], phase: str) -> Iterable[Any]:
        if self.hooks.wrap_batches is None:
            return batches
        wrapped: Iterable[Any] = self.hooks.wrap_batches(batches=batches, phase=phase)
        return wrapped


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


def _described(epoch: dict[str, Any]) -> str:
    if epoch["batches"] is None:
        return "an unknown number of batches (a stream)"
    return f"{epoch['batches']} batches from {epoch['samples']} samples"
