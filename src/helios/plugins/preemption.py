"""Leaving in good order when a scheduler takes the machine away."""

import signal
import threading
from types import FrameType
from typing import Any

from helios.plugins.hookspecs import hookimpl
from helios.plugins.plugin import Plugin


class PreemptionPlugin(Plugin):
    """On SIGTERM or SIGUSR1, finishes the step, saves a checkpoint, and exits.

    The exit code is the shell's for the signal: 143 for SIGTERM, 138 for SIGUSR1 on Linux. The
    signals' handlers are put back when training ends. Not autoloaded, because it makes ``fit``
    exit: name it in ``Trainer(plugins=["preemption"])``.
    """

    autoload = False
    signals = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1"))  # as available

    def __init__(self) -> None:
        super().__init__("preemption")
        self._previous: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None

    def setup(self) -> None:
        """Signals are caught while training only."""

    def on_training_start(self) -> None:
        """Catch the signals; only the main thread can."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._previous[number] = signal.signal(number, self._on_signal)

    @hookimpl(trylast=True)
    def on_training_end(self) -> None:
        """Exit, if a signal has come; the checkpoint is saved by now, and all others are done."""
        if self._received is not None:
            self.trainer.model.on_training_end()
            raise SystemExit(128 + self._received)

    def teardown(self) -> None:
        """Put the previous handlers back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        self.trainer.request_stop(f"received {self._received.name}", author=self.plug_id)
