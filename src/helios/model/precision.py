"""Precision: autocast around the steps of a model, and scaled losses for fp16."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from helios.model.optimizers import has_gradients

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
        self._together: dict[tuple[Optimizer, ...], Any] = {}
        self._restored: dict[str, Any] = {}
        self._reported: set[tuple[Optimizer, ...]] = set()

    def scale(self, loss: torch.Tensor, optimizers: tuple[Optimizer, ...]) -> torch.Tensor:
        """Return a loss times the scale of the optimizers that it is for, if they need one.

        Optimizers that step on one loss share a scaler. All others have their own. Otherwise, an
        overflow of one optimizer would change the scale while another one accumulates gradients.
        """
        if not self._scales:
            return loss
        if optimizers not in self._scalers:
            self._scalers[optimizers] = scaler = GradScaler(self._device_type)
            one = len(optimizers) == 1
            self._together[optimizers] = optimizers[0] if one else _Together(optimizers)
            name = self._name(optimizers)
            restored = self._restored.pop(name, None) or self._restored.pop("", None)
            if restored is not None:
                scaler.load_state_dict(restored)
        return self._scalers[optimizers].scale(loss)

    def unscale(self, optimizers: tuple[Optimizer, ...]) -> None:
        """Divide gradients by the scale of their loss."""
        if self._scales and has_gradients(self._together[optimizers]):
            self._scalers[optimizers].unscale_(self._together[optimizers])

    def step(self, optimizers: tuple[Optimizer, ...], *, is_skipped: bool = False) -> bool:
        """Take a step unless fp16 gradients overflowed, and return whether it was taken.

        If the gradients of one of the optimizers overflowed, none of them takes the step.

        Args:
            optimizers: the optimizers.
            is_skipped: ``True`` to take no step, because somebody has asked for that.
        """
        is_taken = not is_skipped
        if is_skipped:
            if self._scales and has_gradients(self._together[optimizers]):
                self._scalers[optimizers].update()  # ready for the next gradients
        elif self._scales and has_gradients(self._together[optimizers]):
            is_taken = self._scaled_step(self._scalers[optimizers], optimizers)
        else:  # without any gradient, a scaler refuses to step
            for optimizer in optimizers:
                optimizer.step()
        if not self.is_full:
            torch.clear_autocast_cache()  # the cache holds the weights from before the step
        return is_taken

    def _scaled_step(self, scaler: GradScaler, optimizers: tuple[Optimizer, ...]) -> bool:
        before = scaler.get_scale()
        if before == 0 and optimizers not in self._reported:  # so restored from a checkpoint
            self._report_end(optimizers)
        scaler.step(self._together[optimizers])
        scaler.update()
        # An overflow halves the scale; a scale of 0 turns each loss into 0, and back into NaN.
        is_taken = before > 0 and scaler.get_scale() >= before
        if before > 0 and scaler.get_scale() == 0:
            self._report_end(optimizers)
        return is_taken

    def _report_end(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._reported.add(optimizers)
        _logger.warning(
            "every step of %s in fp16 has overflowed until its loss scale became 0, so it no"
            " longer trains: look for NaN or infinite losses, or use precision='bf16'.",
            self._name(optimizers) or "an optimizer",
        )

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


class _Together:
    """Optimizers that step on one loss, as the one optimizer that a scaler takes."""

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()
