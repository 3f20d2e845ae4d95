"""A plug-in that saves and exits when a scheduler stops the job, or on Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import Any

from helios.plugins.markers import hookimpl
from helios.plugins.plugin import Plugin


class PreemptionPlugin(Plugin):
    """On SIGTERM, SIGUSR1 or Ctrl-C, finishes the batch, saves a checkpoint, and exits.

    The exit code is the one that shells use for the signal: 143 for SIGTERM, 138 for SIGUSR1 on
    Linux. After Ctrl-C, ``fit`` raises the usual ``KeyboardInterrupt``, which gives exit code 130.
    A second Ctrl-C raises it at once. The plug-in does not catch signals that the process ignores.
    Outside the main thread it catches none, because Python allows handlers only in the main
    thread. When training or testing ends, the plug-in restores the previous handlers.

    It is not autoloaded, because it makes ``fit`` exit: name it in
    ``Trainer(plugins=["preemption"])``.
    """

    autoload = False
    signals = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1", "SIGINT"))

    def __init__(self) -> None:
        super().__init__("preemption")
        self._previous: dict[signal.Signals, Any] = {}
        self._was_interrupted = False

    def configure_trainer(self, trainer: Any) -> None:
        """Let a signal end a validation at once, because little time remains."""
        trainer.interruptible = True

    def setup(self) -> None:
        """Do nothing; the plug-in catches signals only during training and testing."""

    def on_training_start(self) -> None:
        """Catch the signals."""
        self._catch_signals()

    def on_testing_start(self) -> None:
        """Catch the signals."""
        self._catch_signals()

    @hookimpl(trylast=True)
    def on_training_end(self) -> None:
        """Restore the previous handlers, because a later signal is not for this run."""
        self._restore_handlers()

    def teardown(self) -> None:
        """Restore the previous handlers."""
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _catch_signals(self) -> None:
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
