"""Look attributes of plug-ins up without running their code."""

import inspect
from typing import Any


def static_attribute(plugin: object, name: str) -> Any:
    """Return an attribute as its class or its instance stores it, or ``None`` without one.

    The result equals that of :func:`inspect.getattr_static`, which takes much longer. A
    registration calls this function hundreds of times.
    """
    if isinstance(plugin, type):
        return inspect.getattr_static(plugin, name, None)
    in_class = None
    for base in type(plugin).__mro__:
        attributes = base.__dict__
        if name in attributes:
            in_class = attributes[name]
            break
    if hasattr(type(in_class), "__set__"):  # a property, for example
        return in_class
    try:
        return object.__getattribute__(plugin, "__dict__").get(name, in_class)
    except AttributeError:  # it has slots
        return in_class
