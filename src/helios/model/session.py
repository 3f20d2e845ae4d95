"""The session: the objects that a run provides to a model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from helios.core import Place, TrainingState
from helios.model.metrics import MetricBuffer
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
        self._optimizers: list[torch.optim.Optimizer] = []

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
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        clip_value: float | None,
    ) -> bool:
        """Run the backward pass, and take a step if the window is complete.

        See :meth:`Model.optimize`.
        """
        window, precision, hooks = self._window, self.precision, self._hooks
        if optimizer not in self._optimizers:
            self._optimizers.append(optimizer)
        with precision.outside:
            if window.size > 1:
                loss = loss / window.size
            scaler = precision.scaler(optimizer)
            if scaler is not None:
                loss = scaler.scale(loss)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if not window.is_complete:
                return False
            if scaler is not None:
                scaler.unscale_(optimizer)
            if hooks.on_before_optimizer_step is not None:
                hooks.on_before_optimizer_step(optimizer=optimizer, state=self._state)
            if clip_value is not None or clip_norm is not None:
                _clip(optimizer, clip_norm, clip_value)
            is_taken = precision.step(optimizer)
            optimizer.zero_grad()
            if is_taken and hooks.on_after_optimizer_step is not None:
                hooks.on_after_optimizer_step(optimizer=optimizer, state=self._state)
            return is_taken

    def begin_window(self) -> None:
        """Remove gradients that remain from earlier steps. Called before a window begins.

        For example, the backward pass of a generator's loss also adds gradients to the
        discriminator. Checkpoints hold no gradients, so a resumed run would not have them.
        """
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad = None


def _clip(
    optimizer: torch.optim.Optimizer, clip_norm: float | None, clip_value: float | None
) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if clip_value is not None:
        nn.utils.clip_grad_value_(parameters, clip_value)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
