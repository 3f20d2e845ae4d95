"""``configure_trainer`` and ``configure_model`` act once per plug-in and target, whoever calls.

Users may call them by hand, and the trainer calls them in each ``fit`` and ``test``.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

HOOKS_WITH_TARGET = ("configure_trainer", "configure_model")


class _Applied:
    """What has been applied to which target; an entry is dropped when its target is."""

    def __init__(self) -> None:
        # By identity: a model may define __eq__, and then it has no hash.
        self._by_target: dict[int, list[tuple[object, str]]] = {}

    def contains(self, target: object, plugin: object, method: str) -> bool:
        """Whether a method of a plug-in has been applied to a target."""
        known = self._by_target.get(id(target), ())
        return any(who is plugin and what == method for who, what in known)

    def add(self, target: object, plugin: object, method: str) -> None:
        """Remember that a method of a plug-in has been applied to a target."""
        key = id(target)
        if key not in self._by_target:
            self._by_target[key] = []
            weakref.finalize(target, self._by_target.pop, key).atexit = False
        self._by_target[key].append((plugin, method))


_applied = _Applied()
contains = _applied.contains
add = _applied.add


def once_per_target(method: Callable[[Any, Any], None]) -> Callable[..., None]:
    """Let a ``configure_*`` method of a class act once per plug-in and target."""

    @functools.wraps(method)
    def configure(self: Any, *positional: Any, **by_name: Any) -> None:
        (target,) = (*positional, *by_name.values())
        if not contains(target, self, method.__qualname__):
            method(self, target)
            add(target, self, method.__qualname__)

    configure.applies_once = True  # type: ignore[attr-defined]  # the manager need not remember
    return configure


def takes_a_target(method: object) -> bool:
    """Whether a ``configure_*`` method is an ordinary one, with a target."""
    return (
        inspect.isfunction(method)
        and not inspect.isgeneratorfunction(method)
        and len(inspect.signature(method).parameters) == 2
    )
