"""The comparison of a metric's values by which training is judged."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from helios.errors import ConfigurationError, UnknownNameError, nearest

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


def number_of(metrics: Mapping[str, Any], name: str, asked: str) -> float:
    """Return a result of a validation as a number.

    Args:
        metrics: the results, ``model.metrics``.
        name: the name of the result.
        asked: the beginning of messages: who asks for the result.

    Raises:
        UnknownNameError: no result has this name; the message suggests the nearest names.
        ConfigurationError: the result is not a number.
    """
    if name not in metrics:
        raise UnknownNameError(
            f"{asked}, but model.metrics has no such entry after validation."
            f"{nearest(name, metrics)} Log it with self.log({name!r}, ...) in valid_step, or set it"
            " in on_validation_end."
        )
    try:
        return float(metrics[name])
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{asked}, but model.metrics[{name!r}] is a {type(metrics[name]).__name__}, not a"
            " number."
        ) from error
