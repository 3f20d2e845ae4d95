"""Record what PyTorch does in a few training steps."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.profiler import profile, record_function, schedule

from helios import Plugin


class ProfilerPlugin(Plugin):
    """Writes a trace of some batches into the folder of the run, for ``chrome://tracing``.

    Args:
        skip: the number of batches before; one more batch warms up the profiler.
        batches: the number of batches to record.
    """

    critical = False

    def __init__(self, skip: int = 0, batches: int = 2) -> None:
        super().__init__("profiler")
        self.skip = skip
        self.batches = batches

    def setup(self) -> None:
        """Do nothing; the profiler starts with training."""
        self._profile: Any = None

    def on_training_start(self) -> None:
        """Start the profiler, also in a resumed run."""
        if self.trainer.run_root is not None:
            moments = schedule(wait=self.skip, warmup=1, active=self.batches, repeat=1)
            self._profile = profile(schedule=moments, on_trace_ready=self._write)
            self._profile.start()

    def step_context(self, phase: str) -> AbstractContextManager[Any]:
        """Name the steps of the model in the trace."""
        return record_function(f"helios {phase} step")

    def on_training_batch_end(self) -> None:
        """Tell the profiler that the next batch begins."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, finished: torch.profiler.profile) -> None:
        step = self.trainer.state.current_iteration
        finished.export_chrome_trace(str(self.trainer.run_path(f"trace-{step}.json")))

    def teardown(self) -> None:
        """Stop the profiler, also if the run has failed."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
