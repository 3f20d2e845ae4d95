"""The metrics that built-in plug-ins watch by name, and the checks of their arguments."""

from collections.abc import Mapping
from typing import Any

from helios.core import rules
from helios.core.best_metric import number_of


def _name(value: Any) -> str | None:
    is_name = isinstance(value, str) and bool(value)
    return None if is_name else "write the name of a logged metric, such as 'loss'."


RULES: Mapping[str, rules.Rule] = {"metric": _name, "mode": rules.choice("min", "max")}
"""The rules for the arguments that all such plug-ins have."""


def numeric(metrics: Mapping[str, Any], name: str, plug_id: str) -> float:
    """Return a result of a validation as a number.

    Args:
        metrics: the results, ``model.metrics``.
        name: the name of the result.
        plug_id: the id of the plug-in that needs it, for messages.

    Raises:
        UnknownNameError: no result has this name; the message suggests the nearest names.
        ConfigurationError: the result is not a number.
    """
    return number_of(metrics, name, f"plug-in {plug_id!r} has metric={name!r}")
