"""Precision: autocast around the steps of a model, and scaled losses for fp16."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

_logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions by name, with the type that autocast uses."""


class Precision:
    """The number types and the loss scalers that a model uses in a run.

    Args:
        name: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device_type: the type of the device, such as ``"cuda"``.
        name_of: a function that returns the name of an optimizer in checkpoints.

    Attributes:
        autocast: the context manager around each step of the model.
        is_full: ``True`` if nothing is computed in 16 bits.
        outside: the context manager around backward passes and optimizer steps. It switches
            autocast off, so that tensors keep their types.
    """

    def __init__(self, name: str, device_type: str, name_of: Callable[[Optimizer], str]) -> None:
        dtype = PRECISIONS[name]
        self.autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.outside: contextlib.AbstractContextManager[Any] = self.autocast
        if dtype is not None:
            self.autocast = torch.autocast(device_type, dtype)
            self.outside = torch.autocast(device_type, enabled=False)
        self.is_full = dtype is None
        self._scales = dtype is torch.float16
        self._device_type = device_type
        self._name_of = name_of
        self._scalers: dict[tuple[Optimizer, ...], GradScaler] = {}
        self._restored: dict[str, Any] = {}

    def scaler(self, optimizers: tuple[Optimizer, ...]) -> GradScaler | None:
        """Return the scaler for the losses of optimizers; ``None`` if the precision needs none.

        Optimizers that step on one loss share a scaler. All others have their own. Otherwise, an
        overflow of one optimizer would change the scale while another one accumulates gradients.
        """
        if not self._scales:
            return None
        if optimizers not in self._scalers:
            self._scalers[optimizers] = scaler = GradScaler(self._device_type)
            name = self._name(optimizers)
            restored = self._restored.pop(name, None) or self._restored.pop("", None)
            if restored is not None:
                scaler.load_state_dict(restored)
        return self._scalers[optimizers]

    def scale(self, loss: torch.Tensor, optimizers: tuple[Optimizer, ...]) -> torch.Tensor:
        """Return the loss times its scale, if the precision needs one."""
        scaler = self.scaler(optimizers)
        return loss if scaler is None else scaler.scale(loss)

    def unscale(self, optimizers: tuple[Optimizer, ...]) -> None:
        """Divide gradients by the scale of their loss."""
        scaler = self.scaler(optimizers)
        if scaler is not None:
            for optimizer in filter(_has_gradients, optimizers):
                scaler.unscale_(optimizer)

    def step(self, optimizers: tuple[Optimizer, ...]) -> bool:
        """Take a step unless fp16 gradients overflowed, and return whether it was taken.

        If the gradients of one of the optimizers overflowed, none of them takes the step.
        """
        scaler = self.scaler(optimizers)
        scaled = [o for o in optimizers if _has_gradients(o)] if scaler is not None else []
        if scaler is None or not scaled:  # without any gradient, a scaler refuses to step
            for optimizer in optimizers:
                optimizer.step()
            is_taken = True
        else:
            is_taken = self._scaled_step(scaler, scaled, optimizers)
        if not self.is_full:
            torch.clear_autocast_cache()  # the cache holds the weights from before the step
        return is_taken

    def _scaled_step(
        self, scaler: GradScaler, scaled: list[Optimizer], optimizers: tuple[Optimizer, ...]
    ) -> bool:
        if len(scaled) > 1 and not _are_finite(scaled):
            for optimizer in scaled:
                optimizer.zero_grad()  # the scaler looks at each optimizer alone
        before = scaler.get_scale()
        for optimizer in scaled:
            scaler.step(optimizer)
        scaler.update()
        # An overflow halves the scale; a scale of 0 turns each loss into 0, and back into NaN.
        is_taken = before > 0 and scaler.get_scale() >= before
        if is_taken:
            for optimizer in optimizers:
                if optimizer not in scaled:
                    optimizer.step()
        elif before > 0 and scaler.get_scale() == 0:
            _logger.warning(
                "every step of %s in fp16 has overflowed until its loss scale became 0, so it no"
                " longer trains: look for NaN or infinite losses, or use precision='bf16'.",
                self._name(optimizers) or "an optimizer",
            )
        return is_taken

    def _name(self, optimizers: tuple[Optimizer, ...]) -> str:
        return "+".join(map(self._name_of, optimizers))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the scalers, by the names of their optimizers."""
        scalers = self._scalers.items()
        states = {self._name(optimizers): scaler.state_dict() for optimizers, scaler in scalers}
        return {**self._restored, **states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store what :meth:`state_dict` returned; each scaler restores it at its first use."""
        self._restored = dict(state_dict)


def _has_gradients(optimizer: Optimizer) -> bool:
    groups = optimizer.param_groups
    return any(parameter.grad is not None for group in groups for parameter in group["params"])


def _are_finite(optimizers: Sequence[Optimizer]) -> bool:
    gradients = [
        parameter.grad
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
