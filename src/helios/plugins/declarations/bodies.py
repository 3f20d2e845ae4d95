"""Hooks whose call does not run their body: async functions, and generators that wrap nothing."""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import pluggy

from helios.errors import (
    InvalidPluginError,
    kind_of,
)
from helios.plugins.calls.guards import is_wrapper, replace
from helios.plugins.hooks import HOOKS

_YIELDS_BATCHES = "wrap_batches"  # its generator runs as the loop reads from it


def problem_of(
    function: Callable[..., Any], hook: str, *, is_wrapper: bool = False, is_hook: bool = True
) -> str | None:
    """Return why a call of a function would not run its body, and what to write instead.

    Args:
        function: the implementation of a hook, or another method that Helios calls.
        hook: the name of the hook or method.
        is_wrapper: ``True`` if the function is marked as a wrapper.
        is_hook: ``False`` for a method of a model or a data module.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return (
            "is an async function, which Helios calls like any other, so its body would never run;"
            " write def without async, and call asyncio.run(...) in it."
        )
    if hook != "step_context" and _makes_context(function):
        return "makes a context manager, so its body would never run; remove the decorator."
    if is_wrapper or not inspect.isgeneratorfunction(function) or hook == _YIELDS_BATCHES:
        return None
    if hook not in HOOKS or not is_hook:
        return "has a yield, so its body would never run; remove the yield."
    if hook == "step_context":
        return (
            "has a yield, but returns no context manager, so its body would never run; write"
            " @contextlib.contextmanager above it."
        )
    return (
        "has a yield, but is not marked as a wrapper, so its body would never run; write"
        " @helios.hookimpl(wrapper=True) above it, or remove the yield."
    )


def require_bodies(
    implementations: list[pluggy.HookImpl], hook: str, describe: Callable[[str], str]
) -> None:
    """Let decorated implementations raise an error if a call does not run their body.

    A decorator may hide an async function or a generator. Only a call can show whether it runs it.

    Args:
        implementations: the implementations of the hook.
        hook: the name of the hook.
        describe: the function that describes a plug-in, given its id.
    """
    for implementation in implementations:
        inner = _inner_functions(implementation.function)
        if not is_wrapper(implementation) and any(_is_deferred(each, hook) for each in inner):
            describe_it = functools.partial(describe, implementation.plugin_name)
            _require_body(implementation, hook, describe_it)


def _require_body(implementation: pluggy.HookImpl, hook: str, describe: Callable[[], str]) -> None:
    function = implementation.function

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        result = function(*args)
        is_generator = isinstance(result, types.GeneratorType) and hook != _YIELDS_BATCHES
        if is_generator or isinstance(result, types.CoroutineType | types.AsyncGeneratorType):
            if isinstance(result, types.CoroutineType):
                result.close()  # or Python would warn that nobody has awaited it
            raise InvalidPluginError(
                f"plug-in {describe()}: the hook {hook} returned a {kind_of(result)}, so its"
                " body has not run: write an ordinary function, or call asyncio.run(...) in it."
            )
        return result

    replace(implementation, called)


def _makes_context(function: object) -> bool:
    """Return whether a function is decorated with one of the decorators of ``contextlib``."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and code.co_filename == contextlib.__file__


def _is_deferred(function: object, hook: str) -> bool:
    is_generator = inspect.isgeneratorfunction(function) and hook != _YIELDS_BATCHES
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    return is_generator or is_async


def _inner_functions(function: object) -> Iterator[object]:
    """Iterate over the functions that a decorated function may call."""
    found: list[object] = [getattr(function, "__func__", function)]
    seen: set[int] = set()
    while found:
        outer = found.pop()
        if id(outer) in seen or not isinstance(outer, types.FunctionType | functools.partial):
            continue
        seen.add(id(outer))
        if isinstance(outer, functools.partial):
            inner: list[Any] = [outer.func]
        elif _makes_context(outer):
            continue  # contextmanager runs the body
        else:
            inner = [vars(outer).get("__wrapped__"), *_enclosed(outer)]
        inner = [getattr(each, "__func__", each) for each in inner if callable(each)]
        yield from inner
        found += inner


def _enclosed(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # the cell is still empty
            yield cell.cell_contents
