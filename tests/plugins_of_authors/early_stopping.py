"""Stop when validations no longer improve a metric."""

import math
from typing import Any

from helios import Plugin


class EarlyStoppingPlugin(Plugin):
    """Stops the training for good; a resumed run does not train again.

    Args:
        metric: the entry of ``model.metrics``; larger values are better.
        patience: the number of validations in a row without improvement that stops the training.
    """

    changes_results = True

    def __init__(self, metric: str = "accuracy", patience: int = 1) -> None:
        super().__init__("early-stopping")
        self.metric = metric
        self.patience = patience

    def setup(self) -> None:
        """Begin each run without a best value."""
        self._best, self._in_a_row = -math.inf, 0

    def on_validation_results(self, metrics: dict[str, Any]) -> None:
        """Compare the newest value with the best one."""
        value = float(metrics[self.metric])
        self._in_a_row = 0 if value > self._best else self._in_a_row + 1
        self._best = max(value, self._best)

    def should_training_stop(self) -> bool:
        """Return whether too many validations were no better."""
        return self._in_a_row >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and the number of validations since."""
        return {"best": self._best, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        self._best, self._in_a_row = state_dict["best"], state_dict["in_a_row"]
