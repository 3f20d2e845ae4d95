"""Stop after a time of training, over all processes that resume the run."""

import time
from collections.abc import Callable
from typing import Any

from helios import Plugin


class TimerPlugin(Plugin):
    """Counts the time inside batches; ``Trainer(max_time=...)`` counts that of one process.

    Args:
        limit: the time in seconds.
        clock: a function that returns the time in seconds.
    """

    changes_results = True

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("timer")
        self.limit = limit
        self._clock = clock

    def setup(self) -> None:
        """Begin each run at zero."""
        self._elapsed = self._since = 0.0

    def on_training_batch_start(self) -> None:
        """Start the clock, without the time that a resumed run was off."""
        self._since = self._clock()

    def on_training_batch_end(self) -> None:
        """Add the time of the batch, and log it."""
        self._elapsed += self._clock() - self._since
        self.log("timer/seconds", self._elapsed)

    def should_training_stop(self) -> bool:
        """Return whether the time is over; a resumed run then stops, too."""
        return self._elapsed >= self.limit

    def state_dict(self) -> dict[str, Any]:
        """Return the time so far."""
        return {"elapsed": self._elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._elapsed = state_dict["elapsed"]
