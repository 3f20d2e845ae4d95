"""The comparison of a metric's values by which training is judged."""

import math
from typing import Literal, NamedTuple

Mode = Literal["min", "max"]


class BestMetric(NamedTuple):
    """A metric, and the change of its values that counts as an improvement.

    Attributes:
        name: the entry of ``model.metrics``.
        mode: ``"min"`` if smaller values are better, ``"max"`` if larger ones are.
        min_change: the change that counts as an improvement must be larger than this.
    """

    name: str
    mode: Mode
    min_change: float = 0.0

    def is_better(self, value: float, best: float | None) -> bool:
        """Return whether a value is an improvement; one that is not a number never is."""
        if math.isnan(value) or best is None:
            return not math.isnan(value)
        gain = value - best if self.mode == "max" else best - value
        return gain > self.min_change
