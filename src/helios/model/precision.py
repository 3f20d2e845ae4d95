"""Precision: autocast around the steps of a model, and scaled losses for fp16."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

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
        outside: the context manager around backward passes and optimizer steps. It switches
            autocast off, so that tensors keep their types.
    """

    def __init__(
        self, name: str, device_type: str, name_of: Callable[[torch.optim.Optimizer], str]
    ) -> None:
        dtype = PRECISIONS[name]
        self.autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.outside: contextlib.AbstractContextManager[Any] = self.autocast
        if dtype is not None:
            self.autocast = torch.autocast(device_type, dtype)
            self.outside = torch.autocast(device_type, enabled=False)
        self._is_full = dtype is None
        self._scales = dtype is torch.float16
        self._device_type = device_type
        self._name_of = name_of
        self._scalers: dict[str, GradScaler] = {}
        self._restored: dict[str, Any] = {}

    def scaler(self, optimizer: torch.optim.Optimizer) -> GradScaler | None:
        """Return the scaler for the losses of an optimizer; ``None`` if the precision needs none.

        Each optimizer has its own scaler. Otherwise, an overflow of one optimizer would change the
        scale while another one accumulates gradients.
        """
        if not self._scales:
            return None
        name = self._name_of(optimizer)
        if name not in self._scalers:
            self._scalers[name] = GradScaler(self._device_type)
            if name in self._restored:
                self._scalers[name].load_state_dict(self._restored.pop(name))
        return self._scalers[name]

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Take a step unless fp16 gradients overflowed, and return whether it was taken."""
        is_taken, scaler = True, self.scaler(optimizer)
        if scaler is None:
            optimizer.step()
        else:
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            is_taken = scaler.get_scale() >= before  # an overflow halves the scale
        if not self._is_full:
            torch.clear_autocast_cache()  # the cache holds the weights from before the step
        return is_taken

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the scalers, by the names of their optimizers."""
        states = {name: scaler.state_dict() for name, scaler in self._scalers.items()}
        return {**self._restored, **states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store what :meth:`state_dict` returned; each scaler restores it at its first use."""
        self._restored = dict(state_dict)
