"""Leaving a run: what was set up is undone, whatever went wrong."""

import contextlib
import logging
import traceback
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger(__name__)


class Teardown:
    """Undoes steps in reverse order, each whatever becomes of the others.

    An error of the block is the one that leaves it; what fails while tearing down is noted on it,
    and leaves the block as a group only where there is no such error.
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

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failures: list[BaseException] = []
        while self._steps:
            try:
                self._steps.pop()()
            except BaseException as failure:
                if isinstance(failure, Exception):  # an exit or an interrupt is no failure
                    _logger.error("tearing down has failed", exc_info=failure)
                failures.append(failure)
        interrupts = [other for other in failures if not isinstance(other, Exception)]
        if interrupts:
            raise interrupts[0]
        if error is not None and failures:
            error.add_note(_note(failures))
        elif len(failures) == 1:
            raise failures[0]
        elif failures:
            raise BaseExceptionGroup("tearing down has failed", failures)


def _note(failures: list[BaseException]) -> str:
    """Return what else has failed, after the error that a note is added to."""
    if len(failures) == 1:
        return f"while tearing down: {type(failures[0]).__name__}: {failures[0]}"
    group = BaseExceptionGroup("tearing down has failed as well", failures)
    return "".join(traceback.format_exception(group)).rstrip()
