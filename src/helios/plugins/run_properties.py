"""The properties that a run sets on a plug-in, and the values that it would overwrite."""

import functools
import inspect
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from helios.core import Placed
from helios.core.rules import shown

if TYPE_CHECKING:
    from helios.plugins.plugin import Plugin

PLACED = tuple(name for name, value in vars(Placed).items() if isinstance(value, property))
"""The properties that describe the place of a process."""

NAMES = ("trainer", *PLACED)
"""All properties that a run sets just before ``setup``."""

_INITIAL = "_helios_initial"
_UNSET = Placed()
_STORED = (types.MemberDescriptorType, functools.cached_property)
"""The descriptors that only hold a value, which a run would replace."""


def note_values(plugin: "Plugin") -> None:
    """Note the values that ``__init__`` has set; tests may set others later, in place of a run."""
    noted = {name: shown(value) for name, value in _values(plugin) if not _is_trainer(value)}
    if noted:
        vars(plugin)[_INITIAL] = noted


def find_overwritten(plugin: "Plugin") -> Iterator[str]:
    """Iterate over the values that a run would overwrite.

    A property of the plug-in's own class is deliberate: a run sets it if it has a setter.

    Args:
        plugin: the plug-in.

    Yields:
        The end of a message, without the name of the plug-in.
    """
    noted: dict[str, str] = vars(plugin).get(_INITIAL, {})
    fields: dict[str, Any] = getattr(plugin, "__dataclass_fields__", {})
    for name in NAMES:
        stored = inspect.getattr_static(type(plugin), name)
        if _is_default(plugin, name):
            if name in noted:
                yield _overwritten(f"{name} = {noted[name]}", name)
            elif name in fields:
                yield _overwritten(f"{name} is a field of the dataclass", name)
        elif isinstance(stored, _STORED) or not hasattr(type(stored), "__set__"):
            what = " is a method" if callable(stored) else f" = {shown(stored)}"
            yield _overwritten(f"{name}{what}", name)


def _values(plugin: "Plugin") -> Iterator[tuple[str, Any]]:
    """Iterate over the properties that have another value than before a run."""
    for name in NAMES:
        if _is_default(plugin, name):
            value = _value(plugin, name)
            if value is not _value(_UNSET, name):
                yield name, value


def _is_default(plugin: "Plugin", name: str) -> bool:
    """Return whether a plug-in has inherited a property from ``Plugin``."""
    from helios.plugins.plugin import Plugin  # which imports this module

    return inspect.getattr_static(type(plugin), name) is inspect.getattr_static(Plugin, name)


def _value(owner: object, name: str) -> Any:
    """Return the value of a property; ``None`` before a run."""
    try:
        return getattr(owner, name, None)
    except AssertionError:
        return None


def _is_trainer(value: object) -> bool:
    return hasattr(value, "register_plugin")


def _overwritten(what: str, name: str) -> str:
    return (
        f"{what}, but each run sets {name} just before setup(), so your value would be lost: choose"
        f" another name, such as my_{name}, or define {name} as a property to override it."
    )
