"""A plug-in that logs the speed of training, the time to its end, and the memory that it needs."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from helios.core import TrainingState, rules
from helios.errors import ConfigurationError
from helios.plugins.builtin.cadence import CadencePlugin

_MEGABYTE = 1e6


class ThroughputPlugin(CadencePlugin):
    """Logs samples per second, the time to the end, and the memory, whenever loggers are called.

    The values appear in the files of metrics, and beside the progress bar:

    - ``throughput/samples_per_second``, ``throughput/steps_per_second`` and
      ``throughput/tokens_per_second``, since the last value, in all processes together, without
      the time of validations;
    - ``throughput/seconds_left`` until ``total_steps``, at the mean speed of this process so far,
      with validations and checkpoints;
    - ``throughput/memory_mb``, the most memory that this process has used: of the GPU, or of the
      machine if it trains on the CPU.

    Args:
        tokens: the key, or the position, of the tensor in a batch whose elements are the tokens; or
            a function that receives a batch and returns their number. A tensor that it returns
            stays on its device.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("throughput", {"tokens": "input_ids"})])
    """

    autoload = False
    critical = False
    summary = "logs the speed of training"

    def __init__(self, tokens: str | int | Callable[[Any], Any] | None = None) -> None:
        super().__init__("throughput")
        rules.check({"tokens": tokens}, {"tokens": _tokens}, "throughput")
        self.tokens = tokens
        self._paused: float | None = None
        self._counted: Any = 0
        self._started, self._first = 0.0, 0
        self._begin(0)

    def setup(self) -> None:
        """Begin each run with a new clock."""
        super().setup()
        self._begin(0)

    def on_training_start(self) -> None:
        """Start the clock; a resumed run does not count the time between."""
        self._begin(self.trainer.state.current_iteration)
        self._started, self._first = self._since, self._step

    def on_validation_start(self) -> None:
        """Stop the clock."""
        if self._paused is None:
            self._paused = _now()

    def on_validation_results(self) -> None:
        """Let the clock go on."""
        if self._paused is not None:
            self._since += _now() - self._paused
            self._paused = None

    def on_training_batch_end(
        self, outputs: Any, batch: Any, samples: int, state: TrainingState
    ) -> None:
        """Count a batch, and report if loggers are called."""
        self._samples += samples
        if self.tokens is not None:
            self._counted += self._tokens_of(batch)
        super().on_training_batch_end(outputs, batch, samples, state)

    def _begin(self, step: int) -> None:
        self._since, self._paused = _now(), None
        self._samples, self._counted, self._step = 0, 0, step

    def _tokens_of(self, batch: Any) -> Any:
        if callable(self.tokens):
            return self.tokens(batch)
        try:
            return batch[self.tokens].numel()
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"tokens={self.tokens!r} of throughput names no tensor in a batch of type"
                f" {type(batch).__name__} ({type(error).__name__}: {error}): write its key or its"
                " position, or a function that receives the batch and returns the number."
            ) from error

    def _report(self, state: TrainingState) -> None:
        seconds = max(_now() - self._since, 1e-9)
        ranks = self.trainer.world_size
        self.log("throughput/samples_per_second", ranks * self._samples / seconds)
        self.log("throughput/steps_per_second", (state.current_iteration - self._step) / seconds)
        if self.tokens is not None:
            self.log("throughput/tokens_per_second", ranks * self._counted / seconds)
        left = self._seconds_left(state)
        if left is not None:
            self.log("throughput/seconds_left", left)
        memory = _peak_memory(self.device)
        if memory is not None:
            self.log("throughput/memory_mb", memory / _MEGABYTE)
        self._begin(state.current_iteration)

    def _seconds_left(self, state: TrainingState) -> float | None:
        done = state.current_iteration - self._first
        total = self.trainer.estimated_steps
        if done <= 0 or not math.isfinite(total):
            return None
        return (_now() - self._started) / done * max(0, total - state.current_iteration)


def _now() -> float:
    return time.perf_counter()


def _peak_memory(device: torch.device) -> float | None:
    """Return the most bytes that this process has used; ``None`` if the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource  # Windows has none
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def _tokens(value: Any) -> str | None:
    is_place = isinstance(value, str | int) and not isinstance(value, bool)
    if value is None or is_place or callable(value):
        return None
    return "write the key or the position of a tensor in a batch, or a function of the batch."
