"""The session: the objects that a run provides to a model."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from helios.core import Place, TrainingState
from helios.errors import ConfigurationError
from helios.model.metrics import MetricBuffer
from helios.model.optimizers import Optimizers, parameters_of
from helios.model.precision import Precision
from helios.model.window import Window

Caller = Callable[..., Any] | None


class SessionHooks(Protocol):
    """The hooks that a session calls. A hook is ``None`` if no plug-in implements it."""

    @property
    def prepare_module(self) -> Caller:
        """The hook that prepares a network in place of the session."""

    @property
    def on_before_optimizer_step(self) -> Caller:
        """The hook called before an optimizer takes a step."""

    @property
    def on_after_optimizer_step(self) -> Caller:
        """The hook called after an optimizer has taken a step."""


class Session:
    """The objects that a run provides to a model. Each run creates a new session.

    Args:
        place: the place of this process.
        hooks: the bound hooks of the run.
        state: the progress of the run.
        window: the accumulation window.
        precision: the number types and the loss scalers of the run.
        is_training: ``True`` if the run trains the model, ``False`` if it only tests it.
        keeps_training_values: ``True`` if the values that a model logs in training will be read.

    Attributes:
        place: the place of this process.
        precision: the number types and the loss scalers of the run.
        is_training: ``True`` if the run trains the model.
        training_log: the values logged in training since the last read.
        evaluation_log: the values logged in the current validation or test.
        running_losses: the sums of losses, by name, since the last validation.
    """

    def __init__(
        self,
        place: Place,
        hooks: SessionHooks,
        state: TrainingState,
        window: Window,
        precision: Precision,
        optimizers: Optimizers,
        *,
        is_training: bool,
        keeps_training_values: bool,
    ) -> None:
        self.place = place
        self.precision = precision
        self.is_training = is_training
        self.training_log = MetricBuffer()
        self.evaluation_log = MetricBuffer()
        self.running_losses: dict[str, torch.Tensor] = {}
        self._hooks = hooks
        self._state = state
        self._window = window
        self._keeps_training_values = keeps_training_values
        self._is_evaluating = False
        self._optimizers = optimizers
        self._steps: dict[tuple[Optimizer, ...], _Step] = {}

    def prepare(self, module: nn.Module, device: torch.device, *, compile: bool) -> nn.Module:  # noqa: A002 - torch's name for it
        """Move a network to a device, and wrap it if a plug-in provides parallelism."""
        prepared: nn.Module
        if self._hooks.prepare_module is not None:
            prepared = self._hooks.prepare_module(module=module)
        else:
            prepared = module.to(device)
        if compile:
            # Not module.compile(), because it skips PyTorch's own classes, such as Sequential. Not
            # dynamic, because the code for a shape would then depend on earlier shapes, which
            # differ in a resumed run.
            compiled: Any = torch.compile(prepared, dynamic=False)
            prepared = compiled
        return prepared

    def log(self, name: str, value: torch.Tensor | float) -> None:
        """Add a value to the mean of its name."""
        if self._is_evaluating:
            self.evaluation_log.add(name, value)
        elif self._keeps_training_values:
            self.training_log.add(name, value)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Collect the values that the model logs in the evaluation log."""
        self._is_evaluating = True
        try:
            yield
        finally:
            self._is_evaluating = False

    def optimize(
        self,
        loss: torch.Tensor,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        clip_norm: float | None,
        clip_value: float | None,
        weight: float | torch.Tensor | None,
        retain_graph: bool,
    ) -> bool:
        """Run the backward pass, and take a step if the window is complete.

        See :meth:`Model.optimize`.
        """
        given = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        apart = self._optimizers.use(given)
        step = self._steps.get(given) or self._begin_step(given)
        step.clip_norm, step.clip_value = clip_norm, clip_value
        with self.precision.outside:
            loss = step.weigh(loss, weight, self._window.size)
            scaler = self.precision.scaler(given)
            if scaler is not None:
                loss = scaler.scale(loss)
            # A step holds the gradients of the losses that were given for its optimizer.
            kept = [parameter.grad for parameter in apart]
            for parameter in apart:
                parameter.grad = None
            _backward(loss, retain_graph)
            for parameter, gradient in zip(apart, kept, strict=True):
                parameter.grad = gradient
            return self._window.is_complete and self._take(step)

    def _begin_step(self, given: tuple[Optimizer, ...]) -> "_Step":
        """Return a new step of optimizers that are in no other step of this window."""
        for other in self._steps:
            if not set(other).isdisjoint(given):
                raise ConfigurationError(
                    f"optimize() got {_names(other)}, and then {_names(given)} in one accumulation"
                    " window, so one optimizer would belong to two steps: always give it alone, or"
                    " always in the same list."
                )
        step = self._steps[given] = _Step(given)
        return step

    def _take(self, step: "_Step") -> bool:
        """Take a step on the gradients of the window, and return whether it was taken."""
        hooks, precision, optimizers = self._hooks, self.precision, step.optimizers
        del self._steps[optimizers]
        precision.unscale(optimizers)
        step.divide()
        if hooks.on_before_optimizer_step is not None:
            for optimizer in optimizers:
                hooks.on_before_optimizer_step(optimizer=optimizer, state=self._state)
        step.clip()
        is_taken = precision.step(optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad()
        if is_taken and hooks.on_after_optimizer_step is not None:
            for optimizer in optimizers:
                hooks.on_after_optimizer_step(optimizer=optimizer, state=self._state)
        return is_taken

    def begin_window(self) -> None:
        """Remove gradients that remain from earlier steps. Called before a window begins.

        Checkpoints hold no gradients, so a resumed run would not have them.
        """
        self._optimizers.drop_gradients()

    def end_window(self) -> None:
        """Take the steps of optimizers that got their last loss before the last batch."""
        if self._steps:
            with self.precision.outside:
                for step in list(self._steps.values()):
                    self._take(step)


def _backward(loss: torch.Tensor, retain_graph: bool) -> None:
    try:
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except RuntimeError as error:
        if "retain_graph=True" in str(error):
            error.add_note(
                "If several optimizers step on one loss, call self.optimize(loss, [first, second])."
                " If two losses share a graph, pass retain_graph=True for the first one."
            )
        raise


def _names(optimizers: tuple[Optimizer, ...]) -> str:
    return " and ".join(type(optimizer).__name__ for optimizer in optimizers)


class _Step:
    """A step that optimizers will take together when the window is complete."""

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self.optimizers = optimizers
        self.clip_norm: float | None = None
        self.clip_value: float | None = None
        self._weight: float | torch.Tensor | None = None
        self._losses = 0

    def weigh(
        self, loss: torch.Tensor, weight: float | torch.Tensor | None, batches: int
    ) -> torch.Tensor:
        """Return the share of a loss in the mean of its window."""
        self._losses += 1
        if self._losses > 1 and (weight is None) != (self._weight is None):
            raise ConfigurationError(
                f"optimize({_names(self.optimizers)}) got a weight for some losses of a window"
                " and none for others: pass weight= for all of them, or for none."
            )
        if weight is None:
            return loss / batches if batches > 1 else loss
        weight = weight.detach() if isinstance(weight, torch.Tensor) else weight
        self._weight = weight if self._weight is None else self._weight + weight
        return loss * weight

    def divide(self) -> None:
        """Divide the gradients by the weights of the whole window, if its losses have some."""
        if isinstance(self._weight, torch.Tensor) or self._weight:
            for parameter in parameters_of(self.optimizers):
                if parameter.grad is not None:
                    parameter.grad.div_(self._weight)

    def clip(self) -> None:
        """Clip each gradient, and then the norm of the gradients of all optimizers together."""
        if self.clip_value is not None or self.clip_norm is not None:
            parameters = parameters_of(self.optimizers)
            if self.clip_value is not None:
                nn.utils.clip_grad_value_(parameters, self.clip_value)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
