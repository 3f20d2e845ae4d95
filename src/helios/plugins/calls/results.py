"""Checks of what hooks return, installed around their implementations when the plan is frozen.

A wrapper of a hook of kind *one*, or of ``prepare_module``, observes: it must pass on the result
unchanged. If no plug-in implements the hook, it observes what Helios does without plug-ins.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

import pluggy
import torch
from torch import nn

from helios.errors import (
    InvalidPluginError,
    kind_of,
)
from helios.plugins.calls.guards import Function, is_wrapper, replace
from helios.plugins.hooks import HOOKS
from helios.plugins.hookspecs import PluginSpec
from helios.plugins.markers import UNMARKED

if TYPE_CHECKING:
    pass


class BuiltIn(PluginSpec):
    """The behaviour without plug-ins of each hook of kind *one*, for wrappers to observe."""

    device = torch.device("cpu")
    """The device of this process; a run sets it."""

    def move(self, module: nn.Module) -> nn.Module:
        """Move a network to the device of this process, unless all of it is there.

        Parameters of the meta device have no data yet, so a plug-in must move such a network.
        """
        elsewhere = {each.device for each in (*module.parameters(), *module.buffers())}
        elsewhere.discard(self.device)
        is_meta = torch.device("meta") in elsewhere
        return module.to(self.device) if elsewhere and not is_meta else module


def complete(implementations: list[pluggy.HookImpl], hook: str, built_in: BuiltIn) -> None:
    """Add the built-in behaviour to the wrappers of a hook that no plug-in implements.

    Args:
        implementations: the list that pluggy calls from its end; changed in place.
        hook: the name of the hook.
        built_in: the built-in behaviour, which is removed if it is no longer needed.
    """
    if not _is_unique(hook):
        return
    implementations[:] = [i for i in implementations if i.plugin is not built_in]
    if implementations and all(map(is_wrapper, implementations)):
        function = getattr(built_in, hook)
        implementations.insert(0, pluggy.HookImpl(built_in, "built-in", function, UNMARKED))


def _is_unique(hook: str) -> bool:
    return hook in HOOKS and HOOKS[hook].claim is not None


def check_results(implementation: pluggy.HookImpl, hook: str, describe: Callable[[], str]) -> None:
    """Install the check of what an implementation returns, if the hook has one.

    Args:
        implementation: the implementation.
        hook: the name of the hook.
        describe: a function that returns the description of the plug-in, for messages.
    """
    function, plugin = implementation.function, implementation.plugin
    if is_wrapper(implementation):
        guard = _watched_old_wrapper if implementation.hookwrapper else _watched_wrapper
        if hook == "step_context":
            replace(implementation, guard(function, plugin, _Contexts(hook, describe)))
        elif hook in HOOKS and HOOKS[hook].has_result:
            replace(implementation, guard(function, plugin, _Unchanged(hook, describe)))
    elif hook in _CONVERSIONS:
        replace(implementation, _converted(function, _CONVERSIONS[hook], describe))


# Implementations.

_Conversion = Callable[[Any, Callable[[], str]], Any]


def _converted(function: Function, convert: _Conversion, describe: Callable[[], str]) -> Function:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return convert(function(*args), describe)

    return call


def _module(result: Any, describe: Callable[[], str]) -> Any:
    if not isinstance(result, nn.Module):
        raise _wrong(describe(), result, "prepare_module", "return the torch.nn.Module to train")
    return result


def _batches(result: Any, describe: Callable[[], str]) -> Any:
    if not isinstance(result, Iterable):
        instead = "return an iterable of the same batches, or write it as a generator"
        raise _wrong(describe(), result, "wrap_batches", instead)
    return result


def _context(result: Any, describe: Callable[[], str]) -> Any:
    if result is not None and not _is_context(result):
        instead = "return a context manager, or None"
        raise _wrong(describe(), result, "step_context", instead)
    return result


def _verdict(result: Any, describe: Callable[[], str]) -> bool:
    try:
        return bool(result)
    except Exception as error:
        instead = f"return True or False. Its truth value raises {type(error).__name__}: {error}"
        raise _wrong(describe(), result, "should_training_stop", instead) from error


_CONVERSIONS: dict[str, _Conversion] = {
    "prepare_module": _module,
    "wrap_batches": _batches,
    "step_context": _context,
    "should_training_stop": _verdict,
}


def _is_context(value: Any) -> bool:
    return hasattr(type(value), "__enter__") and hasattr(type(value), "__exit__")


def _wrong(plugin: str, result: Any, hook: str, instead: str) -> InvalidPluginError:
    shown = "None" if result is None else f"an object of type {kind_of(result)}"
    return InvalidPluginError(f"plug-in {plugin} returned {shown} from {hook}: {instead}.")


# Wrappers.


class _Unchanged:
    """The check that a wrapper passes on the result, and the error, of a hook of kind *one*."""

    def __init__(self, hook: str, describe: Callable[[], str]) -> None:
        self.hook = hook
        self.describe = describe

    def __call__(self, before: Any, after: Any, error: BaseException | None) -> Any:
        """Return the result of the hook.

        Args:
            before: the result that the wrapper received.
            after: the result that it returned.
            error: the error that it received instead of a result.
        """
        if error is not None:
            error.add_note(
                f"plug-in {self.describe()} tried to replace this error by a result in a wrapper of"
                f" {self.hook}, which a wrapper may not do"
            )
            raise error
        if after is not before:
            raise InvalidPluginError(
                f"plug-in {self.describe()} changed the result of {self.hook} in a wrapper:"
                " wrappers of this hook only observe. Pass on the same object (result = yield;"
                " return result), or implement the hook without wrapper=True or hookwrapper=True."
            )
        return after


class _Contexts(_Unchanged):
    """The check that a wrapper of ``step_context`` returns a list of context managers."""

    def __call__(self, before: Any, after: Any, error: BaseException | None) -> Any:
        """Return the list of context managers."""
        if not isinstance(after, list | tuple) or not all(map(_is_context, after)):
            raise InvalidPluginError(
                f"plug-in {self.describe()} returned {after!r} from a wrapper of {self.hook}:"
                " return the list of context managers that yield returned, or another list of them."
            )
        return after


def _watched_wrapper(function: Function, plugin: object, settle: _Unchanged) -> Function:
    @functools.wraps(function)
    # attribution.py looks for the plug-in in the local variables of the guard.
    def call(*args: Any, plugin: object = plugin) -> Generator[None, Any, Any]:
        wrapper = function(*args)
        _start(wrapper, settle)
        before: Any = None
        error: BaseException | None = None
        try:
            before = yield
        except BaseException as raised:
            error = raised
        try:
            if error is None:
                wrapper.send(before)
            else:
                wrapper.throw(error)
        except StopIteration as stop:
            return settle(before, stop.value, error)
        raise _yields_twice(wrapper, settle)

    return call


def _watched_old_wrapper(function: Function, plugin: object, settle: _Unchanged) -> Function:
    @functools.wraps(function)
    def call(*args: Any, plugin: object = plugin) -> Generator[None, Any, None]:
        wrapper = function(*args)
        _start(wrapper, settle)
        outcome: pluggy.Result[Any] = yield
        error = outcome.exception
        before = outcome.get_result() if error is None else None
        try:
            wrapper.send(outcome)
        except StopIteration:
            if outcome.exception is None:
                try:
                    settle(before, outcome.get_result(), error)
                except BaseException as problem:  # pluggy warns of an error that is raised here
                    outcome.force_exception(problem)
        else:
            outcome.force_exception(_yields_twice(wrapper, settle))

    return call


def _start(wrapper: Generator[None, Any, Any], settle: _Unchanged) -> None:
    try:
        next(wrapper)
    except StopIteration:
        raise InvalidPluginError(
            f"plug-in {settle.describe()} has a wrapper of {settle.hook} that did not yield: let it"
            " yield once on every path."
        ) from None


def _yields_twice(wrapper: Generator[None, Any, Any], settle: _Unchanged) -> InvalidPluginError:
    wrapper.close()
    return InvalidPluginError(
        f"plug-in {settle.describe()} has a wrapper of {settle.hook} that yielded twice: let it"
        " yield once."
    )
