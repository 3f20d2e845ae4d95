"""The teardown of a run: the run undoes its setup, even after an error."""

import contextlib
import logging
import traceback
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger(__name__)


class Teardown:
    """A context manager that undoes steps in reverse order, even if some of them fail.

    If the block raises an error, that error leaves the block, with a note about each failed step.
    Otherwise, the errors of failed steps leave the block, as a group if there were several.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[[], Any], Callable[[], str]]] = []

    def push(self, step: Callable[[], Any], owner: Callable[[], str] = str) -> None:
        """Add a function to call at the end of the block.

        Args:
            step: the function.
            owner: a function that returns the name of its owner, if it may be at fault.
        """
        self._steps.append((step, owner))

    def enter(self, context: contextlib.AbstractContextManager[Any]) -> None:
        """Enter a context manager, and exit it at the end of the block."""
        context.__enter__()
        self.push(lambda: context.__exit__(None, None, None))

    def __enter__(self) -> "Teardown":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failures: list[BaseException] = []
        owners: list[str] = []
        while self._steps:
            step, owner = self._steps.pop()
            try:
                step()
            except BaseException as failure:
                owners.append(owner())
                if isinstance(failure, Exception):  # an exit or an interrupt is not a failure
                    _logger.error("tearing down has failed", exc_info=failure)
                failures.append(failure)
        if error is not None or len(failures) > 1:  # a single one gets the note of the run
            _name(failures, owners)
        interrupts = [other for other in failures if not isinstance(other, Exception)]
        if interrupts:
            raise interrupts[0]
        if error is not None and failures:
            error.add_note(_note(failures))
        elif len(failures) == 1:
            raise failures[0]
        elif failures:
            raise BaseExceptionGroup("tearing down has failed", failures)


def _name(failures: list[BaseException], owners: list[str]) -> None:
    for failure, owner in zip(failures, owners, strict=True):
        if owner:
            failure.add_note(f"raised in teardown of {owner}")


def _note(failures: list[BaseException]) -> str:
    """Return the text of a note about failures, for another error."""
    if len(failures) == 1:
        story = f"while tearing down: {type(failures[0]).__name__}: {failures[0]}"
        return "; ".join([story, *getattr(failures[0], "__notes__", [])])
    group = BaseExceptionGroup("tearing down has failed as well", failures)
    return "".join(traceback.format_exception(group)).rstrip()
