"""The bound callers of the hooks, and the record of a plug-in that is switched off."""

import dataclasses
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from helios.errors import describe
from helios.plugins.guards import is_wrapper
from helios.plugins.hookspecs import HOOKS, HookInfo

_LINE, _INDENTED = "\n", "\n    "


class HookCallers:
    """An attribute for each hook: a function that calls it, or ``None`` if nobody implements it.

    A test for ``None`` is about thirty times faster than a hook call without an implementation. If
    all implementations of a hook are plain functions, they are called without pluggy, which costs
    a tenth. Wrappers and everything unusual are left to pluggy.

    Args:
        relay: the hooks of the manager.
    """

    def __init__(self, relay: pluggy.HookRelay) -> None:
        self._relay = relay
        self._monitors = 0
        self.bind()

    def bind(self) -> None:
        """Set all attributes to callers of the present implementations."""
        for name, hook in HOOKS.items():
            caller: pluggy.HookCaller = getattr(self._relay, name)
            implementations = caller.get_hookimpls()
            call: Callable[..., Any] | None = caller if implementations else None
            if implementations and not self._monitors and all(map(_is_plain, implementations)):
                call = _direct_caller(hook, implementations[::-1])
            setattr(self, name, call)

    def add_monitor(self, remove: Callable[[], None]) -> Callable[[], None]:
        """Let pluggy see every call until the returned function is called.

        Args:
            remove: the function of pluggy that ends its monitoring.
        """

        def end() -> None:
            remove()
            self._monitors -= 1
            self.bind()

        self._monitors += 1
        self.bind()
        return end

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any] | None: ...


def _is_plain(implementation: pluggy.HookImpl) -> bool:
    """Return whether a function takes the arguments by the names that pluggy has read."""
    function = implementation.function
    is_method = isinstance(function, types.MethodType)
    code = getattr(function, "__code__", None)
    if is_wrapper(implementation) or code is None or hasattr(function, "__wrapped__"):
        return False
    names: tuple[str, ...] = code.co_varnames[is_method : code.co_argcount]
    return names == tuple(implementation.argnames) and not code.co_posonlyargcount


def _direct_caller(hook: HookInfo, implementations: list[pluggy.HookImpl]) -> Callable[..., Any]:
    """Return a function that calls plain implementations as pluggy does, in the given order."""
    calls = [
        (implementation, implementation.function, _selection(hook, implementation))
        for implementation in implementations
    ]
    is_unique = hook.claim is not None

    # attribution.py finds this function by its name, and the plug-in in hook_impl.
    def call_directly(**arguments: Any) -> Any:
        results = []
        for hook_impl, function, names in calls:  # noqa: B007 - for attribution.py
            if names is None:
                result = function(**arguments)
            else:
                result = function(*[arguments[name] for name in names])
            if result is not None:
                if is_unique:
                    return result
                results.append(result)
        return None if is_unique else results

    return call_directly


def _selection(hook: HookInfo, implementation: pluggy.HookImpl) -> tuple[str, ...] | None:
    """Return the names of the arguments to pass, or ``None`` for all of them."""
    names = tuple(implementation.argnames)
    return None if set(names) == set(hook.arguments) else names


@dataclasses.dataclass(frozen=True)
class Quarantine:
    """The reason why Helios has switched a plug-in off.

    Attributes:
        plugin: the id of the plug-in.
        hook: the name of the hook that failed, or ``state_dict``.
        error: the exception that it raised.
    """

    plugin: str
    hook: str
    error: Exception

    def __str__(self) -> str:
        return (
            f"plug-in {self.plugin!r} failed in {self.hook}, so Helios switched it off for the rest"
            f" of the run: {describe(self.error).replace(_LINE, _INDENTED)}"
        )
