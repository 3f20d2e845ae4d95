"""Leaving a run: what was set up is undone, whatever went wrong."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger(__name__)


class Teardown:
    """Undoes steps in reverse order, each whatever becomes of the others.

    An error of the block is the one that leaves it; what fails while tearing down is noted on it.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], Any]] = []

    def push(self, step: Callable[[], Any]) -> None:
        """Add a step to be taken on the way out."""
        self._steps.append(step)

    def enter(self, context: contextlib.AbstractContextManager[Any]) -> None:
        """Enter a context manager, to be left on the way out."""
        context.__enter__()
        self.push(lambda: context.__exit__(None, None, None))

    def __enter__(self) -> "Teardown":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        failures: list[BaseException] = []
        while self._steps:
            try:
                self._steps.pop()()
            except BaseException as failure:
                _logger.error("tearing down has failed", exc_info=failure)
                failures.append(failure)
        interrupts = [other for other in failures if not isinstance(other, Exception)]
        if interrupts:
            raise interrupts[0]
        if error is not None:
            for other in failures:
                error.add_note(f"while tearing down: {type(other).__name__}: {other}")
        elif len(failures) == 1:
            raise failures[0]
        elif failures:
            raise BaseExceptionGroup("tearing down has failed", failures)
