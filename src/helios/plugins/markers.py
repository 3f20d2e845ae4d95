"""The marks on hooks and on their implementations."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import pluggy

PROJECT = "helios"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method as the implementation of a hook, and sets pluggy's options.

Methods of :class:`~helios.plugins.Plugin` subclasses need it only for the options
(``tryfirst``, ``trylast``, ``wrapper``); functions of modules always.
"""

Hook = TypeVar("Hook", bound=Callable[..., Any])


def unique(claim: str) -> Callable[[Hook], Hook]:
    """Declare a hook of kind *one*.

    Args:
        claim: the name of the capability, as conflicts show it.
    """

    def declare(function: Hook) -> Hook:
        function.__dict__["helios_claim"] = claim
        return hookspec(firstresult=True)(function)

    return declare


@dataclasses.dataclass(frozen=True)
class Deprecation:
    """Announces that a hook, or one of its arguments, is going to be removed.

    Attributes:
        since: the release of Helios that announced it.
        instead: what to write instead, as an instruction.
        argument: the argument concerned; ``None`` for the hook itself.
    """

    since: str
    instead: str
    argument: str | None = None


def deprecated(since: str, instead: str, argument: str | None = None) -> Callable[[Hook], Hook]:
    """Announce the removal of a hook, or of one argument; written above ``@hookspec``.

    Plug-ins that implement the hook, or take the argument, get a warning when they are registered.

    Args:
        since: the release of Helios that announces it.
        instead: what to write instead, as an instruction.
        argument: the argument concerned; the whole hook by default.
    """

    def declare(function: Hook) -> Hook:
        announced = function.__dict__.setdefault("helios_deprecations", [])
        announced.append(Deprecation(since, instead, argument))
        return function

    return declare
