"""The optimizers that built-in plug-ins work on, by name."""

import logging
from typing import Any

from torch.optim import Optimizer

from helios.core import rules
from helios.errors import ConfigurationError, nearest

_logger = logging.getLogger(__name__)


def _name(value: Any) -> str | None:
    is_name = isinstance(value, str) and bool(value)
    return None if is_name else "write the name of the attribute that holds the optimizer."


OPTIMIZER: rules.Rule = rules.optional(_name)
"""The rule for an argument that names an optimizer, or ``None`` for all."""


def rates_of(name: str | None) -> tuple[str, ...]:
    """Return the claim of a plug-in that sets learning rates, which a second one would undo.

    Args:
        name: the name of the optimizer; ``None`` for all.
    """
    return (f"learning-rate-of-{name or 'all-optimizers'}",)


def warn_of_no_step(plug_id: str, name: str) -> None:
    """Warn that a plug-in has no effect, because it sees no step of an optimizer.

    Args:
        plug_id: the plug-in.
        name: the name of the optimizer.
    """
    _logger.warning(
        "plug-in %r has seen no step of %s in this epoch, so it had no effect: let the model take"
        " its steps through self.optimize(loss, optimizer).",
        plug_id,
        name,
    )


def wanted_optimizers(model: Any, name: str | None, plug_id: str) -> dict[str, Optimizer]:
    """Return the optimizers of a model by name.

    Args:
        model: the model, after its ``setup``.
        name: the name of one optimizer; ``None`` for all.
        plug_id: the plug-in that needs them, for messages.

    Raises:
        ConfigurationError: the model has no optimizer, or none with this name.
    """
    found: dict[str, Optimizer] = model.session.named_optimizers()
    if name is None:
        if not found:
            raise ConfigurationError(
                f"plug-in {plug_id!r} finds no optimizer in {type(model).__name__}: assign it to an"
                " attribute in setup(), such as self.optimizer."
            )
        return found
    if name not in found:
        raise ConfigurationError(
            f"plug-in {plug_id!r} has optimizer={name!r}, but {type(model).__name__} has no such"
            f" optimizer.{nearest(name, found)} Its optimizers: {', '.join(found) or 'none'}."
        )
    return {name: found[name]}
