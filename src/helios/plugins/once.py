"""Let ``configure_trainer`` and ``configure_model`` act only once per plug-in and target.

Users may call these methods directly, and the trainer calls them in each ``fit`` and ``test``.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

HOOKS_WITH_TARGET = ("configure_trainer", "configure_model")


class _Applied:
    """A record of the methods that were applied to each target; it keeps no target alive."""

    def __init__(self) -> None:
        # The keys are ids of targets, because a model that defines __eq__ has no hash.
        self._by_target: dict[int, list[tuple[object, str]]] = {}

    def contains(self, target: object, plugin: object, method: str) -> bool:
        """Return whether a method of a plug-in was applied to a target."""
        known = self._by_target.get(id(target), ())
        return any(other is plugin and name == method for other, name in known)

    def add(self, target: object, plugin: object, method: str) -> None:
        """Record that a method of a plug-in was applied to a target."""
        key = id(target)
        if key not in self._by_target:
            self._by_target[key] = []
            weakref.finalize(target, self._by_target.pop, key).atexit = False
        self._by_target[key].append((plugin, method))


AGAIN = object()
"""Returned by a ``configure_*`` method that the trainer must call again when the run begins."""

_applied = _Applied()
contains = _applied.contains
add = _applied.add


def once_per_target(method: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Let a ``configure_*`` method of a class act once per plug-in and target."""

    @functools.wraps(method)
    def configure(self: Any, *positional: Any, **by_name: Any) -> Any:
        (target,) = (*positional, *by_name.values())
        if contains(target, self, method.__qualname__):
            return None
        result = method(self, target)
        if result is AGAIN:
            return None
        add(target, self, method.__qualname__)
        return result

    configure.applies_once = True  # type: ignore[attr-defined]  # the manager need not record it
    return configure


def takes_a_target(method: object) -> bool:
    """Return whether a ``configure_*`` method is an ordinary function with a target."""
    return (
        inspect.isfunction(method)
        and not inspect.isgeneratorfunction(method)
        and not inspect.iscoroutinefunction(method)
        and not inspect.isasyncgenfunction(method)
        and len(inspect.signature(method).parameters) == 2
    )
