"""The names in a plug-in that look like a hook or a declaration, but have no effect.

Each function inspects one object, changes nothing, and evaluates no property. It returns the end of
a message, without the name of the plug-in.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np

from helios.core.rules import shown
from helios.data import DataModule
from helios.errors import (
    kind_of,
    name_of,
    nearest,
)
from helios.model import Model
from helios.plugins.declarations import bodies
from helios.plugins.declarations.attributes import static_attribute
from helios.plugins.hooks import HOOKS
from helios.plugins.plugin import Plugin, UniquePluginOverrides
from helios.plugins.run_properties import find_overwritten

_SWITCHES = ("autoload", "critical", "rank_zero_only", "changes_results")
_NAMES = ("exclusives", "before", "after", "requires", "former_ids")
_DECLARED = (*_SWITCHES, *_NAMES, "summary", "hookspecs", "state_version")
_TRUTHS = ("true", "false", "yes", "no", "on", "off")
_OVERRIDES = tuple(field.name for field in dataclasses.fields(UniquePluginOverrides))
_PROTOCOL = {"state_dict": (), "load_state_dict": ("state_dict",)}
"""The methods that are called if they exist, with their arguments."""

_MIGRATION = {"migrate_state": ("state_dict", "version")}
"""The method of a :class:`Plugin` for older states."""

_METHODS = ("applies_to", *_PROTOCOL, *_MIGRATION)
_STEPS = ("train_step", "valid_step", "test_step")
"""The methods of models that somebody may take for hooks."""

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
        yield from find_overwritten(plugin)
        yield from _unlike_an_observer(plugin, marked)
    else:
        yield from _unmarked(plugin, marked)
    yield from _wrong_protocol(plugin)
    if getattr(plugin, "critical", True) is not False and (problem := half_of_state(plugin)):
        yield problem


def _unlike_an_observer(plugin: Plugin, marked: Collection[str]) -> Iterator[str]:
    """Find hooks by which rank 0 would train in another way than the other ranks."""
    for name, hook in HOOKS.items():
        changes = hook.has_result or name == "step_context"
        if plugin.rank_zero_only is True and changes and name in marked:
            yield (
                f"{name} with rank_zero_only=True: the hook changes the training of the process"
                " that calls it, so rank 0 would train in another way than the others. Remove"
                " rank_zero_only, or move the hook to another plug-in."
            )


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


def no_such_hook(name: str, known: Iterable[str] = HOOKS) -> str:
    """Return the message about a method that looks like a hook.

    Args:
        name: the name of the method.
        known: the names of all hooks.
    """
    return (
        f"{name} is not a hook, so it would never be called.{nearest(name, known)} If it is your"
        " own method, start its name with an underscore. If another plug-in declares it, mark it"
        " with @helios.hookimpl, and use that plug-in, too."
    )


def _similar_names(plugin: Plugin, marked: Collection[str]) -> Iterator[str]:
    """Find methods whose names are similar to those of hooks, and values like declarations."""
    for name in dir(plugin):
        if name.startswith("_") or name in HOOKS or name in marked or hasattr(Plugin, name):
            continue
        value = inspect.getattr_static(plugin, name, None)
        if isinstance(value, _CALLABLES):
            yield from _similar_method(plugin, name)
        elif name in _OVERRIDES and value is True:
            yield f"{name} = True has no effect: write self.unique_overrides.{name} = True."
        elif value is plugin.unique_overrides:
            continue  # another name for the fields that count
        elif isinstance(value, UniquePluginOverrides) or _near(name, ["unique_overrides"], 0.85):
            yield (
                f"{name} has no effect: set the fields of unique_overrides in __init__, as in"
                " self.unique_overrides.training_batch = True."
            )
        elif meant := _near_declaration(name, value):
            yield (
                f"{name} = {shown(value)} has no effect. Did you mean {meant!r}? If it is your own"
                " attribute, start its name with an underscore."
            )


def _similar_method(plugin: Plugin, name: str) -> Iterator[str]:
    # A callback that a user passed, such as self.on_error = on_error, is not a method.
    is_event = name.startswith("on_") and name not in vars(plugin)
    if is_event or _near(name, HOOKS) or any(_lacks_words(name, hook) for hook in HOOKS):
        yield no_such_hook(name)
    elif meant := _near(name, _METHODS, cutoff=0.85):
        yield f"Helios never calls {name}. Did you mean {meant!r}?"
    elif name in _STEPS and not isinstance(plugin, Model):
        yield (
            f"{name} is a method of models, and Helios never calls it of a plug-in: write"
            " on_training_batch_end(outputs, state) or another hook. If it is your own method,"
            " start its name with an underscore."
        )


def _lacks_words(name: str, hook: str) -> bool:
    """Return whether a name has some words of a hook, as ``should_stop`` and ``process_batch``."""
    words, known = name.lower().split("_"), hook.split("_")
    return len(words) > 1 and words[0] == known[0] and set(words) <= set(known)


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


def _near_declaration(name: str, value: object) -> str | None:
    """Return the declaration that was probably meant by the name of a value."""
    name = name.lower().removeprefix("is_")
    if meant := _near(name, _declared_like(value), cutoff=0.85):
        return meant
    if isinstance(value, property | functools.cached_property):
        return _near(name, _DECLARED, cutoff=0.9)
    is_truth = isinstance(value, int | np.bool_) or str.lower(_text(value)) in _TRUTHS
    return _near(name, _SWITCHES, cutoff=0.9) if is_truth else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _declared_like(value: object) -> tuple[str, ...]:
    """Return the names of the declarations that can have a value of this kind."""
    if isinstance(value, bool):
        return _SWITCHES
    if isinstance(value, str):
        return (*_NAMES, "summary")
    if isinstance(value, int):
        return ("state_version",)
    if inspect.isclass(value) or inspect.ismodule(value):
        return ("hookspecs",)
    if isinstance(value, tuple | list | set | frozenset):
        return _NAMES if value and all(isinstance(each, str) for each in value) else ()
    return ()


def _hidden(plugin: Plugin) -> Iterator[str]:
    """Find members of other base classes that a default of :class:`Plugin` hides."""
    classes = type(plugin).__mro__
    foreign = [each for each in classes if each not in Plugin.__mro__]
    names = (*HOOKS, *_METHODS, *_DECLARED)
    for name in {name for each in foreign for name in vars(each)}.intersection(names):
        owner = next(each for each in classes if name in vars(each))
        if owner in Plugin.__mro__ and name not in vars(plugin):
            other = next(each for each in foreign if name in vars(each))
            yield (
                f"{name_of(other)}.{name} is hidden by the default of Plugin, which comes first"
                f" among the bases, so it would have no effect: write class"
                f" {kind_of(plugin)}({name_of(other)}, Plugin)."
            )


def _wrong_values(plugin: Plugin) -> Iterator[str]:
    for name in _SWITCHES:
        value = static_attribute(plugin, name)
        may_be_property = name != "autoload"  # Helios asks the class
        if not isinstance(value, bool) and not (may_be_property and isinstance(value, property)):
            yield f"{name} is {shown(value)}: write {name} = True or {name} = False."
    summary = static_attribute(plugin, "summary")
    is_own_method = isinstance(summary, _FUNCTIONS)  # and no declaration
    if not is_own_method and not isinstance(summary, str | property):
        yield f"summary is {shown(summary)}: write one line of text."
    version = static_attribute(plugin, "state_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        yield f"state_version is {shown(version)}: write a whole number from 1 on, such as 2."
    elif version == 1 and _has_own(plugin, "migrate_state"):
        yield (
            "migrate_state would never be called, because state_version is 1: write state_version ="
            " 2 if the form of the state has changed once."
        )
    yield from _wrong_applies_to(plugin)


def _wrong_applies_to(plugin: Plugin) -> Iterator[str]:
    method = inspect.getattr_static(type(plugin), "applies_to")
    if isinstance(method, types.FunctionType):
        yield "applies_to is a plain method, but Helios calls it of the class: write @classmethod."
    elif not isinstance(method, classmethod | staticmethod):
        yield f"applies_to is {shown(method)}: define it as a method, with @classmethod above it."
    elif problem := bodies.problem_of(type(plugin).applies_to, "applies_to"):
        yield f"applies_to {problem}"
    if "applies_to" in vars(plugin):
        yield "applies_to of an instance has no effect, since Helios asks its class."


def _wrong_overrides(plugin: Plugin) -> Iterator[str]:
    flags = plugin.unique_overrides
    if not isinstance(flags, UniquePluginOverrides):
        yield (
            f"unique_overrides is a {kind_of(flags)}: remove it, and set the fields in"
            " __init__, as in self.unique_overrides.training_batch = True."
        )
        return
    for name, value in vars(flags).items():
        if name not in _OVERRIDES:
            yield (
                f"unique_overrides.{name} has no effect.{nearest(name, _OVERRIDES)} The fields are"
                f" {', '.join(_OVERRIDES)}."
            )
        elif not isinstance(value, bool):
            yield f"unique_overrides.{name} is {shown(value)}: write True or False."


def _wrong_protocol(plugin: object) -> Iterator[str]:
    """Find the methods of the state that cannot be called."""
    known = {**_PROTOCOL, **_MIGRATION} if isinstance(plugin, Plugin) else _PROTOCOL
    for name in filter(functools.partial(_has_own, plugin), known):
        static, arguments = inspect.getattr_static(plugin, name), known[name]
        if not isinstance(static, _CALLABLES) and not callable(static):
            yield f"{name} is a {kind_of(static)}: define it as a function or method."
            continue
        function = getattr(plugin, name)
        if problem := bodies.problem_of(function, name):
            yield f"{name} {problem}"
        elif not _accepts(function, len(arguments)):
            yield (
                f"{name} has other arguments than Helios passes: write"
                f" {name}({', '.join(arguments)})."
            )


def _has_own(plugin: object, name: str) -> bool:
    value = static_attribute(plugin, name)
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
        value = static_attribute(plugin, name)
        if name.startswith("_") or name in marked or not _is_function(value, name):
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


def _is_function(value: object, name: str) -> bool:
    """Return whether a value is a function; with the name of a hook, all that can be called is."""
    is_meant = name in HOOKS and callable(value) and not isinstance(value, type)
    return is_meant or isinstance(value, _FUNCTIONS)


def _fits(name: str, function: Any) -> bool:
    """Return whether a function can be meant as a hook; the helper ``setup(app)`` cannot."""
    if name not in _COMMON_WORDS:
        return True
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions in C have none
        return False
    required = [each.name for each in parameters if each.default is each.empty]
    return set(required) <= set(HOOKS[name].arguments)
