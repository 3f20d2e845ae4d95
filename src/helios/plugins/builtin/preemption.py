"""Leaving in good order when a scheduler takes the machine away, or somebody presses Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import Any

from helios.plugins.markers import hookimpl
from helios.plugins.plugin import Plugin


class PreemptionPlugin(Plugin):
    """On SIGTERM, SIGUSR1 or Ctrl-C, finishes the batch, saves a checkpoint, and exits.

    The exit code is the shell's for the signal: 143 for SIGTERM, 138 for SIGUSR1 on Linux. Ctrl-C
    ends in the usual ``KeyboardInterrupt``, for which the shell has 130; a second Ctrl-C raises it
    at once. Signals that the process ignores are left alone, as are all where training does not
    run in the main thread, which alone can catch them. The handlers from before are put back when
    training or testing ends.

    Not autoloaded, because it makes ``fit`` exit: name it in ``Trainer(plugins=["preemption"])``.
    """

    autoload = False
    signals = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1", "SIGINT"))

    def __init__(self) -> None:
        super().__init__("preemption")
        self._previous: dict[signal.Signals, Any] = {}
        self._was_interrupted = False

    def configure_trainer(self, trainer: Any) -> None:
        """Let a signal in a validation end it at once; there is not much time."""
        trainer.interruptible = True

    def setup(self) -> None:
        """Signals are caught while training or testing only."""

    def on_training_start(self) -> None:
        """Catch the signals."""
        self._catch()

    def on_testing_start(self) -> None:
        """Catch the signals."""
        self._catch()

    @hookimpl(trylast=True)
    def on_training_end(self) -> None:
        """Put the previous handlers back: a signal that comes now is not for this run."""
        self._put_back()

    def teardown(self) -> None:
        """Put the previous handlers back."""
        self._put_back()

    def _put_back(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _catch(self) -> None:
        self._was_interrupted = False
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._was_interrupted:
            raise KeyboardInterrupt
        self._was_interrupted = self._was_interrupted or number == signal.SIGINT
        reason = f"received {signal.Signals(number).name}"
        self.trainer.request_stop(reason, author=self.plug_id, urgent=True)
        is_interrupt = number == signal.SIGINT
        self.trainer.raise_at_end(KeyboardInterrupt() if is_interrupt else SystemExit(128 + number))
