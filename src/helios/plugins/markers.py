"""The markers for hooks and for their implementations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import pluggy

PROJECT = "helios"

UNMARKED: pluggy.HookimplOpts = {
    "wrapper": False,
    "hookwrapper": False,
    "optionalhook": False,
    "tryfirst": False,
    "trylast": False,
    "specname": None,
}
"""The options of an implementation without a marker."""

Declare = Callable[[Callable[..., Any]], Any]

_mark = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""The decorator that marks a function as the implementation of a hook.

Functions of modules always need it. Methods of :class:`~helios.plugins.Plugin` subclasses need it
only to set the options of pluggy (``tryfirst``, ``trylast``, ``wrapper``).
"""

Hook = TypeVar("Hook", bound=Callable[..., Any])


def hookspec(function: Callable[..., Any] | None = None, *, firstresult: bool = False) -> Any:
    """Declare a hook of kind *all*, whose default does nothing.

    An implementation may omit arguments, and later releases add some. So type checkers see ``Any``,
    and a plug-in may call the default with the arguments of an earlier release.

    Args:
        function: the function that has the name and the arguments of the hook.
        firstresult: ``True`` if a call ends with the first result that is not ``None``.
    """
    if function is None:
        return functools.partial(hookspec, firstresult=firstresult)

    @functools.wraps(function)
    def do_nothing(*args: Any, **kwargs: Any) -> None: ...

    return _mark(firstresult=firstresult)(do_nothing)


def unique(claim: str) -> Declare:
    """Declare a hook of kind *one*.

    Args:
        claim: the name of the capability; messages about conflicts show it.
    """

    def declare(function: Hook) -> Hook:
        function.__dict__["helios_claim"] = claim
        return _mark(firstresult=True)(function)

    return declare


def chain(claim: str) -> Declare:
    """Declare a hook of kind *all* that passes on its only argument.

    Each implementation receives the result of the one before it.

    Args:
        claim: the capability of the plug-in that Helios calls last.
    """

    def declare(function: Hook) -> Hook:
        function.__dict__["helios_last"] = claim
        return _mark(firstresult=True)(function)

    return declare


@dataclasses.dataclass(frozen=True)
class Deprecation:
    """The announcement that a later release will remove a hook or one of its arguments.

    Attributes:
        since: the release of Helios that announced it.
        instead: the instruction for a replacement.
        argument: the name of the argument; ``None`` for the whole hook.
    """

    since: str
    instead: str
    argument: str | None = None


def deprecated(since: str, instead: str, argument: str | None = None) -> Callable[[Hook], Hook]:
    """Announce the removal of a hook or of one argument; write it above ``@hookspec``.

    At registration, Helios warns about plug-ins that implement the hook or take the argument.

    Args:
        since: the release of Helios that announces it.
        instead: the instruction for a replacement.
        argument: the name of the argument; by default, the whole hook.
    """

    def declare(function: Hook) -> Hook:
        announced = function.__dict__.setdefault("helios_deprecations", [])
        announced.append(Deprecation(since, instead, argument))
        return function

    return declare
