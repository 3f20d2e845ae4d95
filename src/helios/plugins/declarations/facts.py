"""The declarations of a plug-in: its id, its hooks, their signatures, and its claims.

Each function inspects one object and changes nothing.
"""

import functools
import inspect
import types
from typing import Any, cast

import pluggy

from helios.core.rules import shown
from helios.errors import (
    InvalidPluginError,
    kind_of,
    name_of,
    nearest,
    printable,
)
from helios.plugins.declarations import bodies, misspellings
from helios.plugins.declarations.attributes import static_attribute
from helios.plugins.declarations.own_hooks import declared_by
from helios.plugins.discovery.provenance import locate
from helios.plugins.discovery.source import source_of
from helios.plugins.hooks import HOOKS, HookInfo
from helios.plugins.hookspecs import PluginSpec
from helios.plugins.markers import PROJECT, UNMARKED
from helios.plugins.plugin import Plugin

_OPTIONS = PROJECT + "_impl"
_DEFAULTS = frozenset(dir(Plugin))
_BASES = frozenset(Plugin.__mro__)
_MISSING = object()


def hook_options(plugin: object, name: str) -> pluggy.HookimplOpts | None:
    """Return pluggy's options if an attribute of a plug-in implements a hook, otherwise ``None``.

    If a method of a :class:`Plugin` subclass overrides a hook, it implements the hook, with or
    without the marker. In other objects, and for other names, the marker decides.
    """
    if name.startswith("__") or _is_inherited(plugin, name):  # most attributes, and no hooks
        return None
    attribute = static_attribute(plugin, name)
    if isinstance(attribute, types.MemberDescriptorType):  # of __slots__
        options = _marker(getattr(plugin, name, None))
    else:
        options = _marker(attribute)
    if isinstance(options, dict):
        return cast(pluggy.HookimplOpts, dict(options))
    if isinstance(plugin, Plugin) and name in HOOKS:
        defaults = (inspect.getattr_static(PluginSpec, name), vars(Plugin).get(name))
        if attribute not in defaults:
            return UNMARKED.copy()
    return None


def _is_inherited(plugin: object, name: str) -> bool:
    """Return whether an attribute is the default of :class:`Plugin`, which implements no hook."""
    if name not in _DEFAULTS:
        return False
    owners = (owner for owner in type(plugin).__mro__ if name in owner.__dict__)
    return next(owners, None) in _BASES and name not in vars(plugin)


def _marker(attribute: object) -> object:
    """Return what :func:`hookimpl` has set, without touching lazy objects, which may load."""
    if isinstance(attribute, types.FunctionType):
        return attribute.__dict__.get(_OPTIONS)
    if isinstance(attribute, classmethod | staticmethod):  # the marker may be inside or outside
        return attribute.__dict__.get(_OPTIONS) or _marker(attribute.__func__)
    if isinstance(attribute, types.MethodType):
        return _marker(attribute.__func__)
    if isinstance(attribute, property | functools.cached_property | functools.partialmethod):
        return _marker(getattr(attribute, "func", None) or getattr(attribute, "fget", None))
    if isinstance(attribute, functools.partial):
        return _marker(attribute.func)
    return inspect.getattr_static(attribute, _OPTIONS, None) if callable(attribute) else None


def implementations(plugin: object, plug_id: str) -> dict[str, pluggy.HookimplOpts]:
    """Return the options of each hook that a plug-in implements, by the hook's name.

    Another plug-in may declare a hook that Helios does not, so this function does not refuse it.

    Raises:
        InvalidPluginError: an implementation cannot be called, or would never be called.
    """
    found: dict[str, pluggy.HookimplOpts] = {}
    marked = []
    for name in dir(plugin):
        if name.startswith("__") or _is_inherited(plugin, name):
            continue
        options = hook_options(plugin, name)
        if name in HOOKS and _is_missing(plugin, name):
            raise InvalidPluginError(
                f"{locate(plugin, plug_id)}: the hook {name} is only created when it is used, by"
                " __getattr__, so it would never be called: define it as a function or method."
            )
        if options is not None:
            marked.append(name)
            hook = options["specname"] or name
            if hook in HOOKS:
                check_callable(plugin, plug_id, name, HOOKS[hook], options)
            found[hook] = options
    for problem in misspellings.find(plugin, marked):
        raise InvalidPluginError(f"{locate(plugin, plug_id)}: {problem}")
    return found


def marked_hooks(plugin: object) -> dict[str, tuple[str, pluggy.HookimplOpts]]:
    """Return the attributes with a marker whose hook Helios does not declare, by hook.

    Another plug-in may declare it, so only the whole table shows whether the hook exists.

    Returns:
        The name of each attribute, and its options.
    """
    found = {}
    for name in dir(plugin):
        options = hook_options(plugin, name)
        if options is not None and (hook := options["specname"] or name) not in HOOKS:
            found[hook] = name, options
    return found


def _is_missing(plugin: object, name: str) -> bool:
    """Return whether ``dir`` names an attribute that neither the class nor the instance stores."""
    found = static_attribute(plugin, name)  # None, or a default of None
    return found is None and inspect.getattr_static(plugin, name, _MISSING) is _MISSING


def identify(plugin: object, name: str | None) -> str:
    """Return the id of a plug-in for its registration.

    Args:
        plugin: the plug-in.
        name: the id for an object without an id of its own.

    Raises:
        InvalidPluginError: the object is not a plug-in.
    """
    if inspect.isclass(plugin):
        raise InvalidPluginError(
            f"{name_of(plugin)} is a class: register an instance, {name_of(plugin)}(...)."
        )
    if isinstance(plugin, Plugin):
        if not isinstance(plugin.plug_id, str) or not plugin.plug_id:
            raise InvalidPluginError(
                f"{kind_of(plugin)} has no id ({source_of(plugin)}): call"
                ' super().__init__("some-id") in its __init__.'
            )
    elif not any(hook_options(plugin, attribute) for attribute in dir(plugin)):
        raise InvalidPluginError(
            f"{printable(shown(plugin))} is not a plug-in: it is neither an instance of"
            " helios.Plugin, nor a module or object with functions marked @helios.hookimpl."
        )
    if type(plugin).__hash__ is None:
        raise InvalidPluginError(
            f"{kind_of(plugin)} cannot be hashed, since it defines __eq__"
            f" ({source_of(plugin)}), but Helios compares plug-ins by identity: remove __eq__. A"
            " dataclass needs @dataclass(eq=False)."
        )
    own = static_attribute(plugin, "__name__") or type(plugin).__name__
    plug_id: str = plugin.plug_id if isinstance(plugin, Plugin) else name or own
    if not _is_name(plug_id):  # a list of blocked names could not contain it
        raise InvalidPluginError(
            f"{kind_of(plugin)} has the id {shown(plug_id)} ({source_of(plugin)}): write a"
            " string without spaces around it."
        )
    return plug_id


def claims(plugin: object, implemented: dict[str, pluggy.HookimplOpts]) -> dict[str, str]:
    """Return the capabilities that only this plug-in may have, each with the reason.

    Args:
        plugin: the plug-in.
        implemented: the result of :func:`implementations` for the plug-in.
    """
    found = {name: f"exclusives names {name!r}" for name in names_in(plugin, "exclusives")}
    if isinstance(plugin, Plugin):
        for name, declared in vars(plugin.unique_overrides).items():
            if declared:
                found[name] = f"unique_overrides.{name} is set"
    for hook, options in implemented.items():
        claim = HOOKS[hook].claim if hook in HOOKS else None
        if claim is not None and not _is_wrapper(options):
            found[claim] = f"implements {hook}"
    return found


def declared(plugin: object, plug_id: str) -> dict[str, Any]:
    """Return the columns of a row that depend only on the plug-in, which may change them."""
    implemented = implementations(plugin, plug_id)
    return {
        "hooks": tuple(hook for hook in HOOKS if hook in implemented),
        "claims": claims(plugin, implemented),
        "before": names_in(plugin, "before"),
        "after": names_in(plugin, "after"),
        "requires": names_in(plugin, "requires"),
        "former_ids": names_in(plugin, "former_ids"),
        "declares": _declares(plugin, plug_id),
        "foreign": tuple(hook for hook in implemented if hook not in HOOKS),
        "critical": not isinstance(plugin, Plugin) or plugin.critical,
        "changes_results": changes_results(plugin),
    }


def _declares(plugin: object, plug_id: str) -> tuple[str, ...]:
    try:
        return tuple(declared_by(plugin))
    except InvalidPluginError as error:
        raise InvalidPluginError(f"{locate(plugin, plug_id)}: {error}") from error


def deprecations(plugin: object, plug_id: str) -> list[str]:
    """Return a warning for each deprecated hook or argument that a plug-in uses."""
    messages: list[str] = []
    if not any(hook.deprecations for hook in HOOKS.values()):
        return messages
    for name in dir(plugin):
        options = hook_options(plugin, name)
        hook = HOOKS.get((options["specname"] or name) if options else "")
        for deprecation in hook.deprecations if hook else ():
            taken = inspect.signature(getattr(plugin, name)).parameters
            if deprecation.argument is None or deprecation.argument in taken:
                what = f"the hook {name}"
                if deprecation.argument is not None:
                    what = f"the argument {deprecation.argument!r} of {what}"
                messages.append(
                    f"{locate(plugin, plug_id)} uses {what}, which is deprecated since Helios"
                    f" {deprecation.since}: {deprecation.instead}"
                )
    return messages


def observer_without_state(plugin: object, plug_id: str) -> str | None:
    """Return a warning about an observer with half of a state, or ``None``."""
    problem = misspellings.half_of_state(plugin)
    return f"{locate(plugin, plug_id)}: {problem}" if problem else None


def names_in(plugin: object, attribute: str) -> tuple[str, ...]:
    """Return the names in an attribute such as ``exclusives`` or ``before`` of a plug-in.

    Raises:
        InvalidPluginError: the attribute is not a tuple or list of strings.
    """
    if not isinstance(plugin, Plugin):
        return ()
    names = getattr(plugin, attribute)
    if isinstance(names, str):
        raise InvalidPluginError(
            f"{locate(plugin, plugin.plug_id)}: {attribute} is a single string: write a tuple,"
            f" {attribute} = ({names!r},)."
        )
    if not isinstance(names, tuple | list) or not all(map(_is_name, names)):
        raise InvalidPluginError(
            f"{locate(plugin, plugin.plug_id)}: {attribute} is {shown(names)}: write a tuple of"
            f' strings without spaces around them, {attribute} = ("name",).'
        )
    return tuple(names)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != "" and name == name.strip()


def summary_of(plugin: object) -> str:
    """Return ``summary`` of a plug-in on one line, or else the first paragraph of its docstring.

    Args:
        plugin: a plug-in, or the class or function of one.
    """
    summary = getattr(plugin, "summary", "")
    # Objects with hookimpls may have an attribute of this name for another purpose.
    if not isinstance(summary, str) or not summary.strip():
        has_own = inspect.isclass(plugin) or inspect.isroutine(plugin) or inspect.ismodule(plugin)
        documented = plugin if has_own else type(plugin)
        docstring = inspect.cleandoc(documented.__doc__ or "")
        is_signature = docstring.startswith(f"{getattr(documented, '__name__', '')}(")  # dataclass
        summary = "" if is_signature else docstring.partition("\n\n")[0]
    return " ".join(summary.split())


def changes_results(plugin: object) -> bool:
    """Return ``changes_results`` of a plug-in; other objects than a ``Plugin`` need not have it.

    Raises:
        InvalidPluginError: the attribute of a :class:`Plugin` is neither ``True`` nor ``False``.
    """
    declared = getattr(plugin, "changes_results", False)
    if isinstance(plugin, Plugin) and not isinstance(declared, bool):
        raise InvalidPluginError(
            f"{locate(plugin, plugin.plug_id)}: changes_results is {shown(declared)}: write"
            " changes_results = True, or remove it."
        )
    return declared is True


def check_callable(
    plugin: object, plug_id: str, name: str, info: HookInfo, options: pluggy.HookimplOpts
) -> None:
    """Refuse an implementation that pluggy cannot call, or would call without an argument.

    Args:
        plugin: the plug-in.
        plug_id: its id.
        name: the name of the attribute that implements the hook.
        info: the hook.
        options: the options of the implementation.
    """
    attribute = inspect.getattr_static(plugin, name)
    problem = None
    if not isinstance(
        attribute, types.FunctionType | types.MethodType | classmethod | staticmethod
    ):
        problem = f"is a {kind_of(attribute)}; define it as a function or method."
    elif options["wrapper"] and options["hookwrapper"]:
        problem = "is marked both wrapper and hookwrapper; write only wrapper=True."
    elif never_runs := bodies.problem_of(
        getattr(plugin, name), info.name, is_wrapper=_is_wrapper(options)
    ):
        problem = never_runs
    elif _is_wrapper(options) and not inspect.isgeneratorfunction(getattr(plugin, name)):
        problem = "is marked as a wrapper, but has no yield; write: result = yield; return result."
    else:
        for parameter in inspect.signature(getattr(plugin, name)).parameters.values():
            problem = problem or _parameter_problem(parameter, info.arguments)
    if problem:
        expected = ", ".join(info.arguments) or "none"
        raise InvalidPluginError(
            f"{locate(plugin, plug_id)}: the hook {name} {problem}\n"
            f"Arguments of {info.name}: {expected}. You can omit arguments that you do not need."
        )


def _is_wrapper(options: pluggy.HookimplOpts) -> bool:
    return options["wrapper"] or options["hookwrapper"]


def _parameter_problem(parameter: inspect.Parameter, arguments: tuple[str, ...]) -> str | None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return f"takes {parameter}, which would always be empty; name the arguments instead."
    if parameter.name not in arguments:
        return (
            f"takes an argument {parameter.name!r}, which the hook does not have."
            f"{nearest(parameter.name, arguments)}"
        )
    if parameter.default is not parameter.empty:
        return (
            f"gives the argument {parameter.name!r} a default, but pluggy never passes an argument"
            f" with a default; write {parameter.name!r} without one."
        )
    if parameter.kind is parameter.KEYWORD_ONLY:
        return f"takes {parameter.name!r} by keyword only; remove the '*' before it."
    return None
