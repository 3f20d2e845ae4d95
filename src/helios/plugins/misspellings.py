"""The names in a plug-in that look like a hook or a declaration, but have no effect.

Each function inspects one object, changes nothing, and evaluates no property. It returns the end of
a message, without the name of the plug-in.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

from helios.data import DataModule
from helios.errors import nearest
from helios.model import Model
from helios.plugins import bodies
from helios.plugins.hookspecs import HOOKS
from helios.plugins.plugin import Plugin, UniquePluginOverrides

_SWITCHES = ("autoload", "critical", "changes_results")
_NAMES = ("exclusives", "before", "after")
_PROTOCOL = {"state_dict": 0, "load_state_dict": 1}
"""The methods that are called if they exist, with the numbers of their arguments."""

_METHODS = ("applies_to", *_PROTOCOL)
_COMMON_WORDS = ("setup", "launch", "teardown")
"""The hooks whose names helpers of modules may have, too."""

_FUNCTIONS = (types.FunctionType, types.MethodType, classmethod, staticmethod)
_CALLABLES = (*_FUNCTIONS, functools.partial, functools.partialmethod)


def find(plugin: object, marked: Collection[str]) -> Iterator[str]:
    """Iterate over the problems with the names in a plug-in.

    Args:
        plugin: the plug-in.
        marked: the names of the attributes that implement a hook.
    """
    if isinstance(plugin, Plugin):
        yield from _hidden(plugin)
        yield from _similar_names(plugin, marked)
        yield from _wrong_values(plugin)
        yield from _wrong_overrides(plugin)
    else:
        yield from _unmarked(plugin, marked)
    yield from _wrong_protocol(plugin)
    if getattr(plugin, "critical", True) is not False and (problem := half_of_state(plugin)):
        yield problem


def half_of_state(plugin: object) -> str | None:
    """Return the message about a state that is saved and never restored, or the reverse.

    An observer runs without its state, so that registration only warns.
    """
    match [name for name in _PROTOCOL if _has_own(plugin, name)]:
        case ["state_dict"]:
            return (
                "state_dict has no load_state_dict, so a resumed run would lose the state: add"
                " load_state_dict(state_dict), or remove state_dict."
            )
        case ["load_state_dict"]:
            return (
                "load_state_dict has no state_dict, so no checkpoint would hold a state for it: add"
                " state_dict(), or remove load_state_dict."
            )
    return None


def no_such_hook(name: str) -> str:
    """Return the message about a method that looks like a hook."""
    return (
        f"{name} is not a hook, so it would never be called.{nearest(name, HOOKS)} If it is your"
        " own method, start its name with an underscore."
    )


def _similar_names(plugin: Plugin, marked: Collection[str]) -> Iterator[str]:
    """Find methods whose names are similar to those of hooks, and values like declarations."""
    own = vars(plugin)
    for name in dir(plugin):
        if name.startswith("_") or name in HOOKS or name in marked or hasattr(Plugin, name):
            continue
        value = inspect.getattr_static(plugin, name, None)
        if isinstance(value, _CALLABLES):
            # A callback that a user passed, such as self.on_error = on_error, is not a method.
            may_be_callback = name in own
            is_event = name.startswith("on_") and not may_be_callback
            if is_event or _near(name, HOOKS):
                yield no_such_hook(name)
            elif meant := _near(name, _METHODS, cutoff=0.85):
                yield f"Helios never calls {name}. Did you mean {meant!r}?"
        elif meant := _near(name, _declared_like(value), cutoff=0.85):
            yield (
                f"{name} = {value!r} has no effect. Did you mean {meant!r}? If it is your own"
                " attribute, start its name with an underscore."
            )


def _near(name: str, known: Any, cutoff: float = 0.8) -> str | None:
    """Return the known name that was probably meant.

    A name that contains a whole known name, such as ``launched`` or ``setup_done``, was meant as it
    is.
    """
    found = get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    if not found:
        return None
    longer = len(name) - len(found[0])
    return None if found[0] in name.lower() and longer > 1 else found[0]


def _declared_like(value: object) -> tuple[str, ...]:
    """Return the names of the declarations that can have a value of this kind."""
    if isinstance(value, bool):
        return _SWITCHES
    is_names = isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
    if value and is_names:
        return _NAMES
    return (*_NAMES, "summary") if isinstance(value, str) else ()


def _hidden(plugin: Plugin) -> Iterator[str]:
    """Find members of other base classes that a default of :class:`Plugin` hides."""
    classes = type(plugin).__mro__
    foreign = [each for each in classes if each not in Plugin.__mro__]
    names = (*HOOKS, *_METHODS, *_SWITCHES, *_NAMES, "summary")
    for name in {name for each in foreign for name in vars(each)}.intersection(names):
        owner = next(each for each in classes if name in vars(each))
        if owner in Plugin.__mro__ and name not in vars(plugin):
            other = next(each for each in foreign if name in vars(each))
            yield (
                f"{other.__name__}.{name} is hidden by the default of Plugin, which comes first"
                f" among the bases, so it would have no effect: write class"
                f" {type(plugin).__name__}({other.__name__}, Plugin)."
            )


def _wrong_values(plugin: Plugin) -> Iterator[str]:
    for name in _SWITCHES:
        value = inspect.getattr_static(plugin, name)
        if not isinstance(value, bool | property):
            yield f"{name} is {value!r}: write {name} = True or {name} = False."
    if isinstance(inspect.getattr_static(type(plugin), "applies_to"), types.FunctionType):
        yield "applies_to is a plain method, but Helios calls it of the class: write @classmethod."


def _wrong_overrides(plugin: Plugin) -> Iterator[str]:
    flags = plugin.unique_overrides
    if not isinstance(flags, UniquePluginOverrides):
        yield (
            f"unique_overrides is a {type(flags).__name__}: remove it, and set the fields in"
            " __init__, as in self.unique_overrides.training_batch = True."
        )
        return
    known = [field.name for field in dataclasses.fields(flags)]
    for name, value in vars(flags).items():
        if name not in known:
            yield (
                f"unique_overrides.{name} has no effect.{nearest(name, known)} The fields are"
                f" {', '.join(known)}."
            )
        elif not isinstance(value, bool):
            yield f"unique_overrides.{name} is {value!r}: write True or False."


def _wrong_protocol(plugin: object) -> Iterator[str]:
    """Find the methods of the state that cannot be called."""
    for name in filter(functools.partial(_has_own, plugin), _PROTOCOL):
        static, count = inspect.getattr_static(plugin, name), _PROTOCOL[name]
        if not isinstance(static, _CALLABLES) and not callable(static):
            yield f"{name} is a {type(static).__name__}: define it as a function or method."
            continue
        function = getattr(plugin, name)
        if problem := bodies.problem_of(function, name):
            yield f"{name} {problem}"
        elif not _accepts(function, count):
            arguments = "state_dict" if count else ""
            yield f"{name} has other arguments than Helios passes: write {name}({arguments})."


def _has_own(plugin: object, name: str) -> bool:
    value = inspect.getattr_static(plugin, name, None)
    return value is not None and value is not vars(Plugin).get(name)


def _accepts(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions in C have none
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _unmarked(plugin: object, marked: Collection[str]) -> Iterator[str]:
    """Find functions of a module or object that are named like hooks, but not marked."""
    for name in dir(plugin):
        value = inspect.getattr_static(plugin, name, None)
        if name.startswith("_") or name in marked or not isinstance(value, _FUNCTIONS):
            continue
        if any(isinstance(plugin, base) and hasattr(base, name) for base in (Model, DataModule)):
            continue  # the trainer calls it as a method of the model
        if name in HOOKS and _fits(name, getattr(plugin, name)):
            yield (
                f"{name} is not marked, so it would never be called: write @helios.hookimpl above"
                " it. If it is no hook, start its name with an underscore."
            )
        elif name not in HOOKS and _near(name, HOOKS, cutoff=0.85):
            yield no_such_hook(name)


def _fits(name: str, function: Any) -> bool:
    """Return whether a function can be meant as a hook; the helper ``setup(app)`` cannot."""
    if name not in _COMMON_WORDS:
        return True
    return all(
        parameter.name in HOOKS[name].arguments
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
    )
