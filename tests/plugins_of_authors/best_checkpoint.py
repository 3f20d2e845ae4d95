"""Save a checkpoint whenever a metric is the best so far."""

import math
from typing import Any

from helios import Plugin


class BestCheckpointPlugin(Plugin):
    """Requests a checkpoint after each validation with the highest value of a metric.

    Args:
        metric: the entry of ``model.metrics``.
    """

    def __init__(self, metric: str = "accuracy") -> None:
        super().__init__("best-checkpoint")
        self.metric = metric
        self._best = -math.inf

    def setup(self) -> None:
        """Begin each run without a best value."""
        self._best = -math.inf

    def on_validation_results(self, metrics: dict[str, Any]) -> None:
        """Request a checkpoint of the weights that were validated."""
        value = float(metrics[self.metric])
        if value > self._best:
            self._best = value
            self.trainer.request_save(f"{self.metric} {value:g} is the best so far")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self._best = state_dict["best"]
