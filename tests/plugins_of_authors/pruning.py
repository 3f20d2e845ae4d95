"""Prune the smallest weights once, and keep them at zero."""

from typing import Any

import torch
from torch import nn

from helios import Model, Plugin, TrainingState


class PruningPlugin(Plugin):
    """Sets a part of each matrix of weights to zero at the start of an epoch.

    Args:
        epoch: the number of the epoch.
        part: the part of the weights to remove.
    """

    changes_results = True

    def __init__(self, epoch: int = 1, part: float = 0.5) -> None:
        super().__init__("pruning")
        self.epoch = epoch
        self.part = part
        self._masks: dict[str, torch.Tensor] = {}

    def setup(self) -> None:
        """Begin each run with all weights."""
        self._masks = {}

    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Choose the weights to keep."""
        if state.global_epoch == self.epoch:
            for name, weight in self._matrices(self.trainer.model).items():
                limit = weight.detach().abs().quantile(self.part)
                self._masks[name] = weight.detach().abs() > limit

    def on_after_optimizer_step(self) -> None:
        """Remove the other weights again, which momentum may have moved."""
        for name, weight in self._matrices(self.trainer.model).items():
            if name in self._masks:
                weight.data.mul_(self._masks[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the masks."""
        return dict(self._masks)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the masks on the device."""
        self._masks = {name: mask.to(self.device) for name, mask in state_dict.items()}

    def _matrices(self, model: Model) -> dict[str, nn.Parameter]:
        networks = (pair for _, net in model.networks() for pair in net.named_parameters())
        return {name: weight for name, weight in networks if weight.dim() > 1}
