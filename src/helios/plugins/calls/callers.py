"""The bound callers of the hooks, and the record of a plug-in that is switched off."""

import dataclasses
import itertools
import operator
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from helios.errors import describe
from helios.plugins.calls.chain import chained
from helios.plugins.calls.guards import is_wrapper
from helios.plugins.calls.results import BuiltIn
from helios.plugins.hooks import HOOKS, HookInfo

_LINE, _INDENTED = "\n", "\n    "
_COUNTED = "samples"


class HookCallers:
    """An attribute for each hook: a function that calls it, or ``None`` if nobody implements it.

    A test for ``None`` is about thirty times faster than a hook call without an implementation. If
    all implementations of a hook are plain functions, they are called without pluggy, which costs
    a tenth. Wrappers and everything unusual are left to pluggy.

    The loops pass ``samples`` as a function, because it takes time to count them. It is called only
    if somebody takes the argument.

    Args:
        manager: the manager of the plug-ins.
        built_in: the behaviour without plug-ins.
    """

    def __init__(self, manager: pluggy.PluginManager, built_in: BuiltIn) -> None:
        self._manager = manager
        self._built_in = built_in
        self._monitors = 0
        self.bind()

    def bind(self) -> None:
        """Set all attributes to callers of the present implementations."""
        for name, hook in HOOKS.items():
            caller: pluggy.HookCaller = getattr(self._manager.hook, name)
            implementations = caller.get_hookimpls()
            call: Callable[..., Any] | None = caller if implementations else None
            if implementations and hook.last is not None:
                wrappers = self._manager.subset_hook_caller(
                    name, [each.plugin for each in implementations if not is_wrapper(each)]
                )
                is_direct = not self._monitors and not wrappers.get_hookimpls()
                call = chained(
                    name,
                    implementations[::-1],
                    self._built_in.move,
                    None if is_direct else wrappers,
                )
            elif implementations and not self._monitors and all(map(_is_plain, implementations)):
                call = _direct_caller(hook, implementations[::-1])
            is_taken = self._monitors or any(_COUNTED in each.argnames for each in implementations)
            if call is not None and _COUNTED in hook.arguments and is_taken:
                call = _counting(call)
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


def _counting(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a caller that counts the samples first, unless it receives their number."""

    def call_with_samples(samples: Callable[[], int] | int, **arguments: Any) -> Any:
        return call(samples=samples() if callable(samples) else samples, **arguments)

    return call_with_samples


def _direct_caller(hook: HookInfo, implementations: list[pluggy.HookImpl]) -> Callable[..., Any]:
    """Return a function that calls plain implementations as pluggy does, in the given order."""
    groups = [
        (_selection(names), [(implementation, implementation.function) for implementation in group])
        for names, group in itertools.groupby(implementations, key=lambda each: each.argnames)
    ]
    is_unique = hook.claim is not None

    # attribution.py finds this function by its name, and the plug-in in hook_impl.
    def call_directly(**arguments: Any) -> Any:
        results = []
        for select, calls in groups:
            values = select(arguments)
            for hook_impl, function in calls:  # noqa: B007 - for attribution.py
                result = function(*values)
                if result is not None:
                    if is_unique:
                        return result
                    results.append(result)
        return None if is_unique else results

    return call_directly


def _selection(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return a function that selects arguments by their names, in the order of the names."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda arguments: tuple(arguments[name] for name in names)


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
