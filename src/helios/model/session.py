"""The session: the objects that a run provides to a model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from helios.core import Place, TrainingState
from helios.errors import ConfigurationError, NoRunError
from helios.model.backward import run_backward, set_aside
from helios.model.changes import Changes
from helios.model.evaluation_buffer import EvaluationBuffer
from helios.model.metric_objects import MetricObjects
from helios.model.metrics import MetricBuffer, Number, check_weight, is_metric
from helios.model.modes import Modes
from helios.model.optimizers import Optimizers, Step
from helios.model.precision import Precision
from helios.model.schedulers import Schedulers
from helios.model.window import Window

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from helios.model.parallel import Parallel

Caller = Callable[..., Any] | None
_OVERFLOW = "its gradients overflowed in fp16"
_HOOKS_OF_STEPS = (
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_gradients_ready",
    "on_after_optimizer_step",
    "on_optimizer_step_skipped",
)
_AFTER_STEPS = _HOOKS_OF_STEPS[-2:]


class SessionHooks(Protocol):
    """The hooks that a session calls, also those of steps. A hook may be ``None``."""

    @property
    def prepare_module(self) -> Caller:
        """The hook that moves, changes or wraps a network in place of the session."""


class Session:
    """The objects that a run provides to a model. Each run creates a new session.

    Args:
        place: the place of this process.
        hooks: the bound hooks of the run.
        state: the progress of the run.
        window: the accumulation window.
        precision: the number types and the loss scalers of the run.
        optimizers: the optimizers of the model.
        changes: what the run changes in the model and no ``state_dict`` holds.
        modes: the modes of the model's modules.
        metric_objects: the metrics of torchmetrics that the model holds.
        batch_size: returns the number of samples in a training batch, by its number in the epoch.
        batches_per_epoch: returns the number of batches in an epoch.
        is_training: ``True`` if the run trains the model, ``False`` if it only tests it.
        keeps_training_values: ``True`` if the values that a model logs in training will be read.
        parallel: the engine with which several ranks train the model; ``None`` in one process.

    Attributes:
        place: the place of this process.
        precision: the number types and the loss scalers of the run.
        optimizers: the optimizers of the model.
        changes: what the run changes in the model and no ``state_dict`` holds.
        modes: the modes of the model's modules.
        is_training: ``True`` if the run trains the model.
        batch: the number of the current batch in its epoch or evaluation; ``None`` outside of a
            batch. The weights of logged values depend on it.
        training_log: the values logged in training since the last read.
        epoch_log: the values logged at the end of an epoch, if they are read apart from the
            others.
        evaluation_log: the values logged in the current validation or test.
        running_losses: the sums of losses, by name, since the last validation.
        batches_per_epoch: returns the number of batches in an epoch.
        batches_per_evaluation: returns the number of batches in the running validation or test;
            ``None`` if only its end shows it.
    """

    def __init__(
        self,
        place: Place,
        hooks: SessionHooks,
        state: TrainingState,
        window: Window,
        precision: Precision,
        optimizers: Optimizers,
        changes: Changes,
        modes: Modes,
        metric_objects: MetricObjects,
        batch_size: Callable[[int], int],
        batches_per_epoch: Callable[[], int | float],
        *,
        is_training: bool,
        keeps_training_values: bool,
        parallel: "Parallel | None" = None,
    ) -> None:
        self.place = place
        self.precision = precision
        self.optimizers = optimizers
        self.changes = changes
        self.modes = modes
        self.is_training = is_training
        self.batches_per_epoch = batches_per_epoch
        self.batches_per_evaluation: Callable[[], int | None] = lambda: None
        self.batch: int | None = None
        self.training_log = MetricBuffer()
        self.epoch_log = MetricBuffer()
        self.evaluation_log = EvaluationBuffer()
        self.running_losses: dict[str, torch.Tensor] = {}
        self._hooks = hooks
        self._state = state
        self._window = window
        self._keeps_training_values = keeps_training_values
        self._log = self.training_log
        self._is_logging = keeps_training_values
        self._batch_size = batch_size
        self._parallel = parallel
        self._outside = None if precision.is_full else precision.outside
        self._has_extras = not precision.is_full or any(
            getattr(hooks, name) is not None for name in _HOOKS_OF_STEPS
        )
        # Gradients are alike in all ranks, and so are decisions by them. Those by a loss are not.
        self._agrees_on_skips = parallel is not None and parallel.agree(
            any(getattr(hooks, name) is not None for name in _HOOKS_OF_STEPS[:2])
        )
        self._has_extras = self._has_extras or self._agrees_on_skips
        self._is_bare = not self._has_extras and parallel is None
        self._current: Step | None = None
        self._skipped: dict[Step, str] = {}
        self.metric_objects = metric_objects

    def prepare(self, module: nn.Module, device: torch.device, *, compile: bool) -> nn.Module:  # noqa: A002 - torch's name for it
        """Move a network to a device, and let the plug-ins change or wrap it, one after another."""
        prepared: nn.Module
        if self._hooks.prepare_module is not None:
            prepared = self._hooks.prepare_module(module=module)
        else:
            prepared = module.to(device)
        if self._parallel is not None:
            prepared = self._parallel.wrap(prepared)
        if compile and not hasattr(prepared, "_orig_mod"):  # a plug-in may have compiled it
            # Not module.compile(), because it skips PyTorch's own classes, such as Sequential. Not
            # dynamic, because the code for a shape would then depend on earlier shapes, which
            # differ in a resumed run.
            compiled: Any = torch.compile(prepared, dynamic=False)
            prepared = compiled
        return prepared

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state of the model with whole tensors, if ranks have divided them."""
        return state if self._parallel is None else self._parallel.whole(state)

    @property
    def mesh(self) -> "DeviceMesh | None":
        """The ranks that have divided the networks; ``None`` if they are whole."""
        return None if self._parallel is None else self._parallel.mesh

    def require_same_weights(self) -> None:
        """Raise an error if the ranks no longer train one model."""
        if self._parallel is not None:
            self._parallel.require_same_weights()

    def samples(self) -> int:
        """Return the number of samples that the loader put into the current batch; 1 outside."""
        return 1 if self.batch is None else self._batch_size(self.batch)

    @property
    def set_name(self) -> str | None:
        """The name of the validation or test set of the batch; ``None`` if it has no name."""
        return self.evaluation_log.set_name

    def log(self, name: str, value: Any, weight: Number | None = None) -> None:
        """Add a value to the mean of its name. See :meth:`Model.log`."""
        if isinstance(value, nn.Module) and is_metric(value):
            self._log_metric(name, value, weight)
        elif self._is_logging:
            if weight is None:
                weight = 1 if self.batch is None else self._batch_size(self.batch)
            elif not isinstance(weight, torch.Tensor) or weight.numel() != 1:
                check_weight(name, weight)
            self._log.add(name, value, weight)

    def _log_metric(self, name: str, metric: Any, weight: Number | None) -> None:
        """Add a metric even if nobody reads it, because somebody must reset it."""
        if weight is not None:
            raise ConfigurationError(
                f"log({name!r}) got a {type(metric).__name__} and a weight: pass weights to its"
                " update() instead."
            )
        if self._log is not self.evaluation_log:
            self.metric_objects.require(name, metric)
        self._log.add_metric(name, metric)

    @contextlib.contextmanager
    def evaluating(self, batch_size: Callable[[int], int]) -> Iterator[None]:
        """Collect the values that the model logs in the evaluation log.

        Args:
            batch_size: returns the number of samples in a batch of the evaluation.
        """
        of_training, self._batch_size = self._batch_size, batch_size
        try:
            with self.logging_to(self.evaluation_log):
                self.share_buffers()
                yield
        finally:
            self._batch_size, self.batch = of_training, None
            if self._parallel is not None:
                self._parallel.end_evaluation()
            self.evaluation_log.set_name = None

    def share_buffers(self) -> None:
        """Let all ranks evaluate with the buffers of rank 0; hooks may have exchanged the weights.

        The running statistics of batch normalization differ, because each rank has other batches.
        """
        if self._parallel is not None:
            self._parallel.begin_evaluation()

    @contextlib.contextmanager
    def logging_to(self, log: MetricBuffer | None) -> Iterator[None]:
        """Collect the values that the model logs in a buffer; with ``None``, drop them."""
        before = self._log, self._is_logging
        self._log = self._log if log is None else log
        self._is_logging = log is self.evaluation_log or (
            log is not None and self._keeps_training_values
        )
        try:
            yield
        finally:
            self._log, self._is_logging = before

    def optimize(
        self,
        loss: torch.Tensor,
        optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...],
        *,
        clip_norm: float | None,
        clip_value: float | None,
        weight: float | torch.Tensor | None,
        retain_graph: bool,
    ) -> bool:
        """Run the backward pass, and take a step if the window is complete.

        See :meth:`Model.optimize`.
        """
        step = self.optimizers.step_of(optimizer)
        is_plain = weight is None and clip_norm is None and clip_value is None
        if is_plain and step.is_alone and self._window.size == 1 and self._is_bare:
            run_backward(loss, retain_graph)
            step.optimizers[0].step()
            step.drop_gradients()
            return True
        step.losses += 1
        step.clip_norm, step.clip_value = clip_norm, clip_value
        if self._outside is None:
            return self._optimize(step, loss, weight, retain_graph)
        with self._outside:
            return self._optimize(step, loss, weight, retain_graph)

    def schedule(
        self,
        optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...],
        scheduler: Schedulers,
    ) -> None:
        """Let schedulers advance after each step of an optimizer. See :meth:`Model.optimize`."""
        self.optimizers.step_of(optimizer).schedule(scheduler)
        self._has_extras, self._is_bare = True, False

    def named_optimizers(self) -> dict[str, Optimizer]:
        """Return the optimizers that the attributes of the model hold, by name, each once."""
        return self.optimizers.named()

    def _optimize(
        self,
        step: Step,
        loss: torch.Tensor,
        weight: float | torch.Tensor | None,
        retain_graph: bool,
    ) -> bool:
        """Run the backward pass of any loss, and take a step if the window is complete."""
        window, has_extras, given = self._window, self._has_extras, loss
        if weight is not None or step.weight is not None:
            loss = step.weigh(loss, weight)
        elif window.size > 1:
            loss = loss / window.size
        if has_extras:
            self._call("on_before_backward", step, loss=given)
            loss = self.precision.scale(loss, step.optimizers)
        if step.kept:
            step.restore_shared()
        kept = set_aside(step.apart) if step.apart else None
        try:
            run_backward(loss, retain_graph)
        finally:
            if kept is not None:
                self.optimizers.note_withheld(step)
                for parameter, gradient in zip(step.apart, kept, strict=True):
                    parameter.grad = gradient
        if has_extras:
            self._call("on_after_backward", step, loss=given)
        if window.is_complete:
            return self._take(step, is_reached=True)
        if step.shared:
            step.keep_shared()
        return False

    def _take(self, step: Step, *, is_reached: bool) -> bool:
        """Take a step on the gradients of the window, and return whether it was taken.

        Args:
            step: the step.
            is_reached: ``True`` if a loss of the last batch was for it.
        """
        optimizers, has_extras = step.optimizers, self._has_extras
        step.losses = 0
        if step.kept:
            step.restore_shared()
        if self._parallel is not None:
            self._parallel.reduce(step, is_only=is_reached and len(self.optimizers.known()) == 1)
        if has_extras:
            self.precision.unscale(optimizers)
        if step.weight is not None:
            if self._parallel is not None:
                step.weight = self._parallel.mean_weight(step.weight)
            step.divide()
        if has_extras:
            self._call("on_before_optimizer_step", step)
        if step.clip_norm is not None or step.clip_value is not None:
            step.clip()
        is_taken = True
        if has_extras:
            self._call("on_gradients_ready", step)
            reason = self._skipped.pop(step, None)
            if self._parallel is not None and self._agrees_on_skips:
                reason = self._parallel.any_of(reason)
            is_taken = self.precision.step(optimizers, is_skipped=reason is not None)
        else:
            for optimizer in optimizers:
                optimizer.step()
        step.drop_gradients()
        if has_extras and is_taken:
            self._call("on_after_optimizer_step", step)
            step.advance()
        elif has_extras:
            self._call("on_optimizer_step_skipped", step, reason=reason or _OVERFLOW)
        return is_taken

    def _call(self, name: str, step: Step, **arguments: Any) -> None:
        """Call a hook of a step, if somebody implements it, once for each optimizer."""
        hook: Caller = getattr(self._hooks, name)
        if hook is not None:
            self._current = None if name in _AFTER_STEPS else step
            for optimizer in step.optimizers:
                hook(optimizer=optimizer, state=self._state, **arguments)
            self._current = None

    def skip_step(self, reason: str) -> None:
        """Skip the step that the running hook is about. See :meth:`Trainer.skip_step`.

        Args:
            reason: the reason; if several hooks skip the step, that of the first one counts.

        Raises:
            NoRunError: no hook of a step is running, or the step was taken.
        """
        if self._current is None:
            raise NoRunError(
                "skip_step() was called outside of an optimizer step: call it in the hooks"
                " on_before_backward, on_after_backward, on_before_optimizer_step or"
                " on_gradients_ready."
            )
        self._skipped.setdefault(self._current, reason)

    @property
    def has_optimized(self) -> bool:
        """``True`` if the model has given a loss to :meth:`optimize`."""
        return self.optimizers.are_used

    def end_window(self) -> None:
        """Take the steps of optimizers that got their last loss before the last batch."""
        with self.precision.outside:
            for step in self.optimizers.pending():
                self._take(step, is_reached=False)

    def close(self) -> None:
        """Release the optimizers of the model. Called at the end of the run."""
        self.optimizers.close()
        if self._parallel is not None:
            self._parallel.close()
