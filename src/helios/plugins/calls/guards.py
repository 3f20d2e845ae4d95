"""Guards around the implementations of hooks, installed only when requested.

pluggy calls ``implementation.function``, and a guard replaces this function. Without guards, pluggy
calls the function of the plug-in directly, at no extra cost.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from time import perf_counter_ns
from typing import Any

import pluggy

Function = Callable[..., Any]


def is_wrapper(implementation: pluggy.HookImpl) -> bool:
    """Return whether an implementation wraps the others."""
    return implementation.wrapper or implementation.hookwrapper


def sort_calls(
    implementations: list[pluggy.HookImpl],
    order: Iterable[str],
    is_last: Callable[[pluggy.HookImpl], bool],
) -> None:
    """Sort the list that pluggy calls from its end, so that the last registered comes first.

    The sort keeps the groups of pluggy (trylast, plain, tryfirst; then the same for wrappers), and
    applies the order of the table within each group.

    Args:
        implementations: the list.
        order: the ids of the table.
        is_last: returns ``True`` for an implementation that is called after all others.
    """
    place = {plug_id: -number for number, plug_id in enumerate(order)}

    def rank(each: pluggy.HookImpl) -> tuple[bool, bool, int, int]:
        group = each.tryfirst - each.trylast
        return is_wrapper(each), not is_last(each), group, place[each.plugin_name]

    implementations.sort(key=rank)


def contain(
    implementation: pluggy.HookImpl,
    report: Callable[[Exception], None],
    expected: list[type[Exception]],
) -> None:
    """Catch the errors of an implementation, so that they do not end the run.

    Args:
        implementation: an implementation that is not a wrapper, since a wrapper may raise on
            purpose.
        report: the function that receives each caught error.
        expected: the types of exceptions that are not caught.
    """
    function = implementation.function

    @functools.wraps(function)
    def contained(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            if isinstance(error, tuple(expected)):
                raise
            report(error)
            return None

    replace(implementation, contained)


def contain_context(
    implementation: pluggy.HookImpl,
    report: Callable[[Exception], None],
    expected: list[type[Exception]],
) -> None:
    """Catch the errors of the context managers that an implementation returns.

    Args:
        implementation: an implementation of ``step_context``.
        report: see :func:`contain`.
        expected: see :func:`contain`.
    """
    function = implementation.function

    @functools.wraps(function)
    def contained(*args: Any) -> Any:
        context = function(*args)
        return None if context is None else _Contained(context, report, expected)

    replace(implementation, contained)


class _Contained:
    """A context manager of an observer: its errors do not leave it, those of the block do."""

    def __init__(
        self,
        context: Any,
        report: Callable[[Exception], None],
        expected: list[type[Exception]],
    ) -> None:
        self._context = context
        self._report = report
        self._expected = expected
        self._is_entered = False

    def __enter__(self) -> None:
        try:
            self._context.__enter__()
            self._is_entered = True
        except Exception as error:
            self._caught(error)

    def __exit__(self, kind: Any, raised: BaseException | None, trace: Any) -> None:
        try:
            if self._is_entered:
                self._context.__exit__(kind, raised, trace)
        except Exception as error:
            if error is not raised:
                self._caught(error)

    def _caught(self, error: Exception) -> None:
        if isinstance(error, tuple(self._expected)):
            raise error
        self._report(error)


def measure(implementation: pluggy.HookImpl, add: Callable[[int, int], None]) -> None:
    """Measure the time of an implementation.

    Args:
        implementation: the implementation; the time of a wrapper does not include the hooks that it
            wraps.
        add: the function that receives a number of calls and their time in nanoseconds.
    """
    measured = _measured_wrapper if is_wrapper(implementation) else _measured
    # attribution.py looks for the plug-in in the local variables of the guard.
    replace(implementation, measured(implementation.function, add, implementation.plugin))


def replace(implementation: pluggy.HookImpl, function: Function) -> None:
    """Let pluggy call another function for an implementation."""
    setattr(implementation, "function", function)  # noqa: B010 - pluggy declares it final


def _measured(function: Function, add: Callable[[int, int], None], plugin: object) -> Function:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        started = perf_counter_ns()
        try:
            return function(*args)
        finally:
            add(1, perf_counter_ns() - started)

    return call


def _measured_wrapper(
    function: Function, add: Callable[[int, int], None], plugin: object
) -> Function:
    @functools.wraps(function)
    def call(*args: Any, plugin: object = plugin) -> Generator[None, Any, Any]:
        started = perf_counter_ns()
        wrapper = function(*args)
        try:
            next(wrapper)
        finally:
            add(1, perf_counter_ns() - started)
        try:
            resume, value = wrapper.send, (yield)
        except BaseException as error:
            resume, value = wrapper.throw, error
        started = perf_counter_ns()
        try:
            resume(value)
        except StopIteration as stop:
            return stop.value
        finally:
            add(0, perf_counter_ns() - started)

    return call
