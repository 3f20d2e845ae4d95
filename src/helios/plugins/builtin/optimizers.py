"""The optimizers that built-in plug-ins work on, by name."""

from typing import Any

from torch.optim import Optimizer

from helios.core import rules
from helios.errors import ConfigurationError, nearest


def _name(value: Any) -> str | None:
    is_name = isinstance(value, str) and bool(value)
    return None if is_name else "write the name of the attribute that holds the optimizer."


OPTIMIZER: rules.Rule = rules.optional(_name)
"""The rule for an argument that names an optimizer, or ``None`` for all."""


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
