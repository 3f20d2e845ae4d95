"""Skip steps whose loss or gradients are not finite, and stop after too many in a row."""

from typing import Any

import torch

from helios import Plugin, TrainingState


class NanGuardPlugin(Plugin):
    """Keeps NaN and infinity out of the weights. Each check waits for the device.

    Args:
        patience: the number of skipped steps in a row that stops the training.
    """

    changes_results = True

    def __init__(self, patience: int = 3) -> None:
        super().__init__("nan-guard")
        self.patience = patience
        self._in_a_row = 0

    def setup(self) -> None:
        """Begin each run without skipped steps."""
        self._in_a_row = 0

    def on_gradients_ready(self, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Skip the step if a gradient is not finite."""
        groups = optimizer.param_groups
        gradients = [each.grad for group in groups for each in group["params"]]
        if all(bool(each.isfinite().all()) for each in gradients if each is not None):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self.trainer.skip_step(f"gradients of iteration {state.current_iteration} are not finite")
        if self._in_a_row >= self.patience:
            self.trainer.request_stop(f"{self._in_a_row} steps in a row had no finite gradients")

    def state_dict(self) -> dict[str, Any]:
        """Return the number of skipped steps in a row."""
        return {"in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of skipped steps in a row."""
        self._in_a_row = state_dict["in_a_row"]
