"""The values that virtual ranks log, summed in a fixed order."""

import math
from collections.abc import Sequence

from helios.core import Group
from helios.core.tree import total
from helios.model.evaluation_buffer import EvaluationBuffer
from helios.model.metrics import MetricBuffer

Sums = dict[str, tuple[float, float]]
"""The sums of values and of weights, by name."""


class VirtualLog(EvaluationBuffer):
    """The values that all virtual ranks have logged.

    Its own values are those that are logged outside of virtual ranks, the same in each process.

    Args:
        logs: the logs of the virtual ranks of this process.
        group: the processes of the run.
    """

    def __init__(self, logs: Sequence[MetricBuffer], group: Group) -> None:
        super().__init__()
        self._logs = logs
        self._group = group

    def means(self) -> dict[str, float]:
        """Return the means over all virtual ranks. All processes call it at the same point."""
        own = self.sums()
        gathered = self._group.gather([log.sums() for log in self._logs])
        terms = [sums for process in gathered for sums in process]
        terms.append(self._group.broadcast(own))
        names = dict.fromkeys(name for sums in terms for name in sums)
        means = {}
        for name in names:
            pairs = [sums[name] for sums in terms if name in sums]
            value, weight = total(pairs, lambda one, other: (one[0] + other[0], one[1] + other[1]))
            means[name] = value / weight if weight else math.nan
        return means

    def clear(self) -> None:
        """Remove all values."""
        super().clear()
        for log in self._logs:
            log.clear()
