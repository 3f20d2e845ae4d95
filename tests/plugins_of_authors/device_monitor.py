"""Log how busy the processor is, and how full the memory of the GPU."""

import time

import torch

from helios import Plugin


class DeviceMonitorPlugin(Plugin):
    """Adds its values whenever loggers are called; it never waits for the GPU."""

    critical = False

    def __init__(self) -> None:
        super().__init__("device-monitor")

    def setup(self) -> None:
        """Do nothing."""

    def on_training_start(self) -> None:
        """Start the clocks; a resumed run does not count the time between."""
        self._since = time.perf_counter(), time.process_time()

    def on_log(self, metrics: dict[str, float], phase: str) -> None:
        """Add the values to those of training."""
        if phase != "training":
            return
        (wall, busy), now = self._since, (time.perf_counter(), time.process_time())
        metrics["cpu/busy_cores"] = (now[1] - busy) / max(now[0] - wall, 1e-9)
        self._since = now
        if self.device.type == "cuda":
            metrics["gpu/peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
            torch.cuda.reset_peak_memory_stats(self.device)
