"""Raise the learning rate linearly in the first part of the training."""

from typing import Any

import torch

from helios import Plugin, TrainingState


class WarmUpPlugin(Plugin):
    """Multiplies the learning rates of all optimizers in the first steps; needs no state.

    Args:
        part: the part of the whole training that warms up.
    """

    changes_results = True

    def __init__(self, part: float = 0.25) -> None:
        super().__init__("warm-up")
        self.part = part
        self._rates: list[tuple[dict[str, Any], float]] = []

    def setup(self) -> None:
        """Do nothing."""

    def on_gradients_ready(self, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Lower the rates for this step."""
        self._restore()
        steps = max(1.0, self.part * self.trainer.estimated_steps)
        for group in optimizer.param_groups:
            self._rates.append((group, group["lr"]))
            group["lr"] *= min(1.0, state.current_iteration / steps)

    def on_after_optimizer_step(self) -> None:
        """Restore the rates before the schedule of the model reads them."""
        self._restore()

    def on_training_batch_end(self) -> None:
        """Restore the rates after a step that was skipped."""
        self._restore()

    def _restore(self) -> None:
        while self._rates:
            group, rate = self._rates.pop()
            group["lr"] = rate
