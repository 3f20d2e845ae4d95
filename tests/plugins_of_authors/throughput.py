"""Measure the samples that a second of training processes."""

import time

from helios import Plugin


class ThroughputPlugin(Plugin):
    """Logs ``samples/second`` whenever loggers are called."""

    critical = False

    def __init__(self) -> None:
        super().__init__("throughput")
        self._samples = 0
        self._since = 0.0

    def setup(self) -> None:
        """Do nothing."""

    def on_training_start(self) -> None:
        """Start the clock; a resumed run does not count the time between."""
        self._samples, self._since = 0, time.perf_counter()

    def on_training_batch_end(self, samples: int) -> None:
        """Count the samples."""
        self._samples += samples

    def on_log(self, metrics: dict[str, float], phase: str) -> None:
        """Add the value to those of training."""
        if phase == "training":
            now = time.perf_counter()
            metrics["samples/second"] = self._samples / max(now - self._since, 1e-9)
            self._samples, self._since = 0, now
