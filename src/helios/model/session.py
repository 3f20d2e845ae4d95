"""The session: everything that a run lends to a model."""

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
    """The hooks that a session calls; ``None`` if no plug-in implements one."""

    @property
    def prepare_module(self) -> Caller:
        """Prepares a network instead of the session."""

    @property
    def on_before_optimizer_step(self) -> Caller:
        """Called before an optimizer takes a step."""

    @property
    def on_after_optimizer_step(self) -> Caller:
        """Called after an optimizer has taken a step."""


class Session:
    """Everything that a run lends to a model; each run makes a new one.

    Args:
        place: the place of this process.
        hooks: the bound hooks of the run.
        state: the position of the run.
        window: the accumulation window.
        precision: the types to compute in, and the scalers of losses.
        is_training: whether the run trains the model, rather than only tests it.
        keeps_training_values: whether anybody will read the values that a model logs in training.

    Attributes:
        place: the place of this process.
        precision: the types to compute in, and the scalers of losses.
        is_training: whether the run trains the model.
        training_log: the values logged in training since they were last read.
        evaluation_log: the values logged in the running validation or test.
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
        """Move a network to a device, and wrap it if a plug-in does parallelism."""
        prepared: nn.Module
        if self._hooks.prepare_module is not None:
            prepared = self._hooks.prepare_module(module=module)
        else:
            prepared = module.to(device)
        if compile:
            # Not module.compile(), which skips PyTorch's own classes, such as Sequential. And not
            # dynamic: which code a shape gets would depend on the shapes that came before it, and
            # a resumed run meets others.
            compiled: Any = torch.compile(prepared, dynamic=False)
            prepared = compiled
        return prepared

    def log(self, name: str, value: torch.Tensor | float) -> None:
        """Take a value into the mean of its name."""
        if self._is_evaluating:
            self.evaluation_log.add(name, value)
        elif self._keeps_training_values:
            self.training_log.add(name, value)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Keep what the model logs apart from what it logs in training."""
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
        """Run backward, and take a step if the window is complete; see :meth:`Model.optimize`."""
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
        """Drop the gradients that earlier steps have left; called before a window begins.

        The loss of a generator, for one, reaches its discriminator too. A checkpoint holds no
        gradients, so a resumed run would continue without them.
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
