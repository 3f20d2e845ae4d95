"""The properties that a run sets on plug-ins, models and data, and what it would overwrite."""

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from helios.core import Placed, Ranked
from helios.core.rules import shown
from helios.data import DataModule
from helios.model import Model

if TYPE_CHECKING:
    from helios.plugins.plugin import Plugin

_PLACED = inspect.getmembers(Placed, lambda value: isinstance(value, property))
NAMES = ("trainer", *(name for name, _ in _PLACED))
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


def set_properties(owner: Ranked, facts: Mapping[str, Any]) -> None:
    """Set the properties that a base class of Helios declares, unless a property is read-only."""
    for name in set(facts).intersection(_names_of(owner)):
        known = inspect.getattr_static(type(owner), name)
        if not isinstance(known, property) or known.fset is not None:
            setattr(owner, name, facts[name])


def find_overwritten(owner: Ranked) -> Iterator[str]:
    """Iterate over the values that a run would overwrite.

    A property of the owner's own class is deliberate: a run sets it if it has a setter.

    Args:
        owner: the plug-in, model or data module.

    Yields:
        The end of a message, without the name of the owner.
    """
    noted: dict[str, str] = vars(owner).get(_INITIAL, {})
    if isinstance(owner, Model | DataModule) and not _is_trainer(_value(owner, "trainer")):
        noted = {name: shown(value) for name, value in _values(owner)}  # no run has set any
    fields: dict[str, Any] = getattr(owner, "__dataclass_fields__", {})
    for name in _names_of(owner):
        stored = _stored(type(owner), name)
        if _is_default(owner, name):
            if name in noted:
                yield _overwritten(f"{name} = {noted[name]}", name)
            elif name in fields:
                yield _overwritten(f"{name} is a field of the dataclass", name)
        elif isinstance(stored, _STORED) or not hasattr(type(stored), "__set__"):
            what = " is a method" if callable(stored) else f" = {shown(stored)}"
            yield _overwritten(f"{name}{what}", name)


def _base_of(owner: object) -> type:
    """Return the class of Helios that declares the properties of an object."""
    from helios.plugins.plugin import Plugin  # which imports this module

    return next(base for base in type(owner).__mro__ if base in (Plugin, Model, DataModule))


def _names_of(owner: object) -> list[str]:
    base = _base_of(owner)
    return [name for name in NAMES if hasattr(base, name)]


def _stored(kind: type, name: str) -> Any:
    """Return an attribute as a class, or a base of it, stores it."""
    return next(base.__dict__[name] for base in kind.__mro__ if name in base.__dict__)


def _values(owner: object) -> Iterator[tuple[str, Any]]:
    """Iterate over the properties that have another value than before a run."""
    for name in _names_of(owner):
        if _is_default(owner, name):
            value = _value(owner, name)
            if value is not _value(_UNSET, name):
                yield name, value


def _is_default(owner: object, name: str) -> bool:
    """Return whether an object has inherited a property from its base class."""
    return _stored(type(owner), name) is _stored(_base_of(owner), name)


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
