"""Ctrl-C and SIGTERM: the first one ends a run after a complete step, the second one at once."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from helios.trainer.control import Control, StopRequest

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_USUAL: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""The handlers that this module replaces. Those of users, and of plug-ins, stay."""
_MARK = "helios_has_shown_it"


class Interrupts:
    """A context manager that catches Ctrl-C and SIGTERM in the main thread.

    Args:
        control: the object that decides whether the run continues.

    Attributes:
        loses_nothing: ``True`` while the run can end in good order and save a checkpoint. At other
            times, it has nothing to save, so the first signal ends it at once.
    """

    def __init__(self, control: Control) -> None:
        self.loses_nothing = False
        self._control = control
        self._process = os.getpid()
        self._was_caught = False
        self._replaced: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number, usual in _USUAL.items():
                if signal.getsignal(number) == usual:
                    self._replaced[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        while self._replaced:
            signal.signal(*self._replaced.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that user code has forked
            signal.signal(number, _USUAL[signal.Signals(number)])
            os.kill(os.getpid(), number)
            return
        name, error = _NAMES[signal.Signals(number)], _error_of(number)
        if self._was_caught or not self.loses_nothing:
            where = f", in {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
            _show(f"{name}: the run ends at once{where}.")
            raise error
        self._was_caught = True
        _show(
            f"{name}: the run ends after this step and saves a checkpoint, so it can resume. Press"
            " Ctrl-C again to end it at once."
        )
        reason = f"received {signal.Signals(number).name}"
        self._control.request(StopRequest(reason, "the user", urgent=True, is_shown=True))
        if self._control.final_error is None:
            self._control.final_error = error


def _error_of(number: int) -> BaseException:
    return hide(KeyboardInterrupt()) if number == signal.SIGINT else SystemExit(128 + number)


def _show(line: str) -> None:
    with contextlib.suppress(OSError):  # sys.stderr may be in the middle of a write
        os.write(2, f"\n{line}\n".encode())


def hide(error: BaseException) -> BaseException:
    """Let Python end without a traceback of this error, if nobody catches it; return the error."""
    setattr(error, _MARK, True)
    if not isinstance(sys.excepthook, _Hook):
        sys.excepthook = _Hook(sys.excepthook)
    return error


class _Hook:
    """The last resort for errors that nobody catches; it skips those that were shown already.

    Args:
        previous: the function for all other errors.
    """

    def __init__(self, previous: Any) -> None:
        self._previous = previous

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not hasattr(error, _MARK):
            self._previous(kind, error, trace)
