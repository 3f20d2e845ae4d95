"""The sums over all ranks of what the model has logged in each of them."""

from collections.abc import Callable, Mapping
from typing import Any

from helios.core import Group
from helios.model.metric_states import alone, of_all_ranks
from helios.model.metrics import Metric, Pairs, values_of


class RankSums:
    """Adds up what ranks have logged, so that means equal those of one process.

    All ranks call a method at the same points, whatever they have logged. A name that only some
    ranks have logged is the mean over what these have.

    Args:
        group: the processes of the run.
        path_of: returns the path of a metric in the model; ``None`` if it has none.
        metric_at: returns the metric at a path of the model; ``None`` if it has none.
    """

    def __init__(
        self,
        group: Group,
        path_of: Callable[[Metric], str | None],
        metric_at: Callable[[str], Metric | None],
    ) -> None:
        self._group = group
        self._path_of = path_of
        self._metric_at = metric_at

    def add_up(self, pairs: Pairs) -> Pairs:
        """Return the sums of totals and weights over all ranks, by name."""
        sums: Pairs = {}
        for each in self._group.gather(pairs):
            for name, (total, weight) in each.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + total, before[1] + weight
        return sums

    def compute(self, metrics: dict[str, Metric]) -> dict[str, dict[str, float]]:
        """Return the values of metrics over all ranks, by name and by the keys of collections.

        Args:
            metrics: the metrics that this rank has logged, by name. Those that other ranks have
                logged are added, so that the caller resets them.
        """
        paths = self._group.gather({name: self._path_of(each) for name, each in metrics.items()})
        union = {name: path for each in reversed(paths) for name, path in each.items()}
        for name, path in union.items():
            known = None if path is None else self._metric_at(path)
            if name not in metrics and known is not None:
                metrics[name] = known
        if not union:
            return {}
        held = self._group.gather([name in metrics for name in union])
        own: dict[str, dict[str, float]] = {}
        for number, name in enumerate(union):
            if name in metrics:
                in_all = all(each[number] for each in held)
                metric: Any = metrics[name]
                with of_all_ranks(metric, self._group) if in_all else alone(metric):
                    value = metric.compute()
                own[name] = {key: float(each) for key, each in values_of(name, value)}
        return _merged(self._group.gather(own))


def _merged(each_rank: list[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the values of all ranks; torchmetrics' metrics have the same in all of them."""
    found: dict[str, dict[str, list[float]]] = {}
    for own in each_rank:
        for name, values in own.items():
            for key, value in values.items():
                found.setdefault(name, {}).setdefault(key, []).append(value)
    return {name: {key: _mean(each) for key, each in keys.items()} for name, keys in found.items()}


def _mean(values: list[float]) -> float:
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)
