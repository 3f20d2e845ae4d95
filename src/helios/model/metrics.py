"""The values that a model logs, kept on their own device until they are read."""

import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

Number = torch.Tensor | float

Pairs = dict[str, tuple[float, float]]
"""Sums of values and of their weights, by name, in host memory."""


class Metric(Protocol):
    """A metric that accumulates a state of its own, such as those of torchmetrics."""

    def compute(self) -> Any:
        """Return the value of all updates since the last reset."""

    def reset(self) -> Any:
        """Forget all updates."""


def is_metric(value: object) -> bool:
    """Return whether a value is a metric of torchmetrics, or a module that is used like one."""
    methods = ("update", "compute", "reset")
    return isinstance(value, nn.Module) and all(hasattr(value, name) for name in methods)


def check_weight(name: str, weight: Any) -> None:
    """Refuse a weight of a value that is not a number from 0 on."""
    if isinstance(weight, torch.Tensor):
        raise ValueError(
            f"log({name!r}) got a weight of shape {tuple(weight.shape)}: pass one number, for"
            " example mask.sum()."
        )
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise TypeError(
            f"log({name!r}) got a weight that is a {type(weight).__name__}: pass a number, or a"
            " tensor with one element."
        )
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"log({name!r}) got the weight {weight}: pass a finite number from 0 on.")


class Sums(Protocol):
    """The sums over all ranks; see :class:`helios.model.rank_sums.RankSums`."""

    def add_up(self, pairs: Pairs) -> Pairs:
        """Return the sums over all ranks."""

    def compute(self, metrics: dict[str, Metric]) -> dict[str, dict[str, float]]:
        """Return the values of metrics over all ranks."""


class MetricBuffer:
    """The weighted means of named values.

    Adding a value causes no host synchronisation, because tensors are summed on their own device.
    Only :meth:`means` and :meth:`read` transfer values to the host, all at once.

    Attributes:
        ranks: the sums over all ranks; ``None`` in one process. With it, all ranks must call
            :meth:`means`, :meth:`read` and :meth:`settle` at the same points.
    """

    ranks: Sums | None = None

    def __init__(self) -> None:
        self._totals: dict[str, Number] = {}
        self._weights: dict[str, Number] = {}
        self._metrics: dict[str, Metric] = {}
        self._computed: dict[str, dict[str, Number]] = {}
        self._means: dict[str, float] | None = {}

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that were added since the last read, by name."""
        return dict(self._metrics)

    def add(self, name: str, value: Number, weight: Number = 1) -> None:
        """Add a value to the mean of its name.

        Args:
            name: the name of the quantity.
            value: a number, or a tensor with one element.
            weight: the weight of the value in the mean; a number, or a tensor with one element.
        """
        total = self._totals.get(name)
        if total is None:
            if name in self._metrics:
                raise _both(name)
            total = 0.0
        if isinstance(weight, torch.Tensor) and weight.is_complex():
            raise _complex(name, "weight", weight)
        # Summed in float64, because the sum of many values overflows smaller types.
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"log({name!r}) got a tensor of shape {tuple(value.shape)}: log one number,"
                    " for example value.mean()."
                )
            if value.is_complex():
                raise _complex(name, "value", value)
            total = _add(total, value, weight)
        elif not isinstance(value, numbers.Real):
            raise TypeError(
                f"log({name!r}) got a {type(value).__name__}: log a number, a tensor with one"
                " element, or a metric of torchmetrics."
            )
        elif isinstance(weight, torch.Tensor):
            total = _add(total, weight, float(value))
        else:
            total += float(value) * weight
        weights = self._weights.get(name, 0)
        if isinstance(weight, torch.Tensor):
            self._weights[name] = _add(weights, weight, 1)
        else:
            self._weights[name] = weights + weight
        self._totals[name] = total
        self._means = None

    def add_metric(self, name: str, metric: Metric) -> None:
        """Compute a metric at the next read, and then reset it.

        Args:
            name: the name of the quantity.
            metric: the metric, which its owner updates.
        """
        if name in self._totals or self._metrics.get(name, metric) is not metric:
            raise _both(name)
        self._metrics[name] = metric
        self._computed.pop(name, None)
        self._means = None

    def sums(self) -> Pairs:
        """Return the sums of values and of weights by name, and keep all values."""
        return _read({name: (total, self._weights[name]) for name, total in self._totals.items()})

    def means(self) -> dict[str, float]:
        """Return the means by name, in the order of first use, and keep all values.

        The values of metrics follow. Nothing is read twice.
        """
        if self.ranks is not None:
            self._means = self._means_of_ranks(self.ranks)
        elif self._means is None:
            pairs = {name: (total, self._weights[name]) for name, total in self._totals.items()}
            for name, metric in self._metrics.items():
                if name not in self._computed:
                    self._computed[name] = dict(values_of(name, metric.compute()))
                pairs.update((key, (value, 1)) for key, value in self._computed[name].items())
            self._means = _divide(_read(pairs))
        return dict(self._means)

    def _means_of_ranks(self, ranks: Sums) -> dict[str, float]:
        means = _divide(ranks.add_up(self.sums()))
        for values in ranks.compute(self._metrics).values():
            means |= values
        return means

    def settle(self) -> None:
        """Keep the values of the metrics as values of their own, and reset the metrics."""
        metrics, self._metrics = self._metrics, {}
        shared = None if self.ranks is None else self.ranks.compute(metrics)
        for name, metric in metrics.items():
            if shared is not None:
                computed: Any = shared.get(name, {})
            else:
                computed = self._computed.pop(name, None) or values_of(name, metric.compute())
            for key, value in dict(computed).items():
                MetricBuffer.add(self, key, value)
            metric.reset()
        self._means = None

    def read(self) -> dict[str, float]:
        """Return the means by name, in the order of first use, and remove all values."""
        means = self.means()
        self.clear()
        return means

    def clear(self) -> None:
        """Remove all values, and reset the metrics."""
        for metric in self._metrics.values():
            metric.reset()
        self._totals, self._weights = {}, {}
        self._metrics, self._computed = {}, {}
        self._means = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of values and weights, as plain containers and tensors."""
        return {"totals": _copies(self._totals), "weights": _copies(self._weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._totals = _copies(state_dict["totals"])
        self._weights = _copies(state_dict["weights"])
        self._means = None

    def add_sums(self, state_dict: dict[str, Any]) -> None:
        """Add what :meth:`state_dict` returned to the values of the same names."""
        for sums, saved in ((self._totals, "totals"), (self._weights, "weights")):
            for name, number in _copies(state_dict[saved]).items():
                sums[name] = sums.get(name, 0) + number
        self._means = None


def _add(total: Number, value: torch.Tensor, weight: Number) -> torch.Tensor:
    """Return ``total + weight * value``, without a read from the device; in place if possible."""
    if value.requires_grad:
        value = value.detach()
    if value.dim():
        value = value.reshape(())
    if isinstance(weight, torch.Tensor):
        value, weight = value.to(torch.float64) * weight.detach().reshape(()), 1
    if not isinstance(total, torch.Tensor):
        with torch.inference_mode(False):  # or nothing could be added outside of this mode
            total = torch.full((), total, dtype=torch.float64, device=value.device)
    try:
        return total.add_(value, alpha=weight)
    except RuntimeError:  # another device, or a type that PyTorch does not add, such as float8
        return total.to(value.device).add_(value.to(torch.float64), alpha=weight)


def _read(pairs: dict[str, tuple[Number, Number]]) -> Pairs:
    """Return pairs in host memory, with one read per device."""
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for number in (number for pair in pairs.values() for number in pair):
        if isinstance(number, torch.Tensor):
            by_device.setdefault(number.device, []).append(number.to(torch.float64))
    read = {device: iter(torch.stack(each).tolist()) for device, each in by_device.items()}
    found = {}
    for name, pair in pairs.items():
        total, weight = (
            next(read[number.device]) if isinstance(number, torch.Tensor) else number
            for number in pair
        )
        found[name] = total, weight
    return found


def _divide(pairs: Pairs) -> dict[str, float]:
    """Return totals divided by weights."""
    return {name: total / weight if weight else math.nan for name, (total, weight) in pairs.items()}


def values_of(name: str, value: Any) -> Iterator[tuple[str, Number]]:
    """Return the numbers that a metric computed; those of a collection by their own names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from values_of(f"{name}/{key}", item)
    elif isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        yield name, value.detach().reshape(())
    elif isinstance(value, numbers.Real):
        yield name, float(value)
    else:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
        raise ValueError(
            f"the metric that log({name!r}) got computed a {type(value).__name__}{shape}: log a"
            " metric of one number, or compute it yourself and log each number by its own name."
        )


def _copies(numbers_by_name: dict[str, Number]) -> dict[str, Number]:
    return {
        name: number.clone() if isinstance(number, torch.Tensor) else number
        for name, number in numbers_by_name.items()
    }


def _complex(name: str, what: str, value: torch.Tensor) -> TypeError:
    return TypeError(
        f"log({name!r}) got a {what} of type {value.dtype}: log a real number, for example"
        " value.abs()."
    )


def _both(name: str) -> ValueError:
    return ValueError(
        f"log({name!r}) got a metric and something else before Helios read the name: log each"
        " under a name of its own."
    )
