"""Freeze the first layer, and unfreeze it later with a group of its own in the optimizer."""

from typing import Any

import torch
from torch import nn

from helios import Model, Plugin, TrainingState


class UnfreezingPlugin(Plugin):
    """Trains only the head at first.

    Args:
        epoch: the number of the epoch in which the whole network trains for the first time.
    """

    changes_results = True

    def __init__(self, epoch: int = 1) -> None:
        super().__init__("unfreezing")
        self.epoch = epoch
        self._is_unfrozen = False

    def setup(self) -> None:
        """Begin each run with a frozen layer."""
        self._is_unfrozen = False

    def on_model_ready(self, model: Model) -> None:
        """Freeze the layer; a resumed run may have unfrozen it already."""
        self._layer(model).requires_grad_(False)
        group = self._optimizer(model).param_groups[0]
        group["params"] = [each for each in group["params"] if each.requires_grad]
        if self._is_unfrozen:
            self._unfreeze(model)

    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Unfreeze the layer when it is time."""
        if state.global_epoch >= self.epoch and not self._is_unfrozen:
            self._unfreeze(self.trainer.model)

    def _unfreeze(self, model: Model) -> None:
        self._is_unfrozen = True
        layer = self._layer(model).requires_grad_(True)
        self._optimizer(model).add_param_group({"params": list(layer.parameters()), "lr": 0.01})

    def state_dict(self) -> dict[str, Any]:
        """Return whether the layer trains."""
        return {"is_unfrozen": self._is_unfrozen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore whether the layer trains, before ``on_model_ready``."""
        self._is_unfrozen = state_dict["is_unfrozen"]

    def _layer(self, model: Model) -> nn.Module:
        return next(network for _, network in model.networks())[0]  # type: ignore[index]

    def _optimizer(self, model: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = model.optimizer
        return optimizer
