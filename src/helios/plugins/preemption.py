"""Leaving in good order when a scheduler takes the machine away, or somebody presses Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from helios.plugins.hookspecs import hookimpl
from helios.plugins.plugin import Plugin

if TYPE_CHECKING:
    from helios.trainer import Trainer


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
        self._received: signal.Signals | None = None

    def configure_trainer(self, trainer: "Trainer") -> None:
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
        """Exit, if a signal has come; the checkpoint is saved by now, and all others are done."""
        self.teardown()  # a signal that comes now is not for this run
        if self._received is not None:
            self.trainer.model.on_training_end()
            self._leave(self._received)

    @hookimpl(trylast=True)
    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        """Exit, if a signal has come; of a test there is nothing to save."""
        if self._received is not None:
            self._leave(self._received)

    def teardown(self) -> None:
        """Put the previous handlers back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _catch(self) -> None:
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self._received:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        reason = f"received {self._received.name}"
        self.trainer.request_stop(reason, author=self.plug_id, urgent=True)

    def _leave(self, received: signal.Signals) -> NoReturn:
        if received is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received)
