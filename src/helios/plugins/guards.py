"""What stands around the implementations of a hook where somebody has asked for it.

pluggy calls ``implementation.function``; a guard takes its place. Without guards, which is the
rule, the plug-in's own function is called, and nothing is paid.
"""

import functools
from collections.abc import Callable, Generator
from time import perf_counter_ns
from typing import Any

import pluggy

Function = Callable[..., Any]


def is_wrapper(implementation: pluggy.HookImpl) -> bool:
    """Whether an implementation stands around the others, rather than among them."""
    return implementation.wrapper or implementation.hookwrapper


def contain(
    implementation: pluggy.HookImpl,
    report: Callable[[Exception], None],
    expected: list[type[Exception]],
) -> None:
    """Let an implementation fail without ending the run.

    Args:
        implementation: a plain one; a wrapper is part of what it wraps, and may raise on purpose.
        report: is told of an error, which goes no further.
        expected: types of exceptions that are no failures, and pass.
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

    _replace(implementation, contained)


def measure(implementation: pluggy.HookImpl, add: Callable[[int, int], None]) -> None:
    """Time an implementation.

    Args:
        implementation: plain, or a wrapper, of which the time of what it wraps is left out.
        add: takes a number of calls and the nanoseconds that they have taken.
    """
    measured = _measured_wrapper if is_wrapper(implementation) else _measured
    # The plug-in is handed on for attribution, which looks for it among the local variables.
    _replace(implementation, measured(implementation.function, add, implementation.plugin))


def _replace(implementation: pluggy.HookImpl, function: Function) -> None:
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
