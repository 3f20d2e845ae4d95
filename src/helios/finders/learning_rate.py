"""The learning-rate range test: train with a rising rate, and see where the loss falls."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from helios.core import TrainingState, rules
from helios.data import DataModule
from helios.errors import ConfigurationError
from helios.finders.trial import Trials
from helios.model import Model
from helios.plugins import Plugin, hookimpl
from helios.trainer import Trainer

_SMOOTHING = 0.98  # of the running mean of losses
_SKIPPED_AT_START, _SKIPPED_AT_END = 10, 1
_FEWEST = 3  # losses that have a slope


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """The result of a range test.

    Attributes:
        rates: the rate of each step.
        losses: the mean loss of each step, before the step.
        smoothed: the running means of the losses.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss falls fastest.

        The first 10 steps and the last one do not count.

        Raises:
            ConfigurationError: the test has too few steps with a finite loss.
        """
        used = [
            (rate, loss)
            for rate, loss in zip(self.rates, self.smoothed, strict=True)
            if math.isfinite(loss)
        ][_SKIPPED_AT_START:-_SKIPPED_AT_END]
        if len(used) < _FEWEST:
            raise ConfigurationError(
                f"{len(used)} losses are too few for a suggestion, because the loss has risen or is"
                " not finite: pass a lower lowest=..., or more steps=..."
            )
        slopes = torch.gradient(torch.tensor([loss for _, loss in used], dtype=torch.float64))[0]
        return used[int(slopes.argmin())][0]


def find_learning_rate(
    trainer: Trainer,
    model: Model,
    datamodule: DataModule,
    *,
    lowest: float = 1e-8,
    highest: float = 1.0,
    steps: int = 100,
    spacing: Literal["exponential", "linear"] = "exponential",
    stop_factor: float | None = 4.0,
    plugins: Iterable[Any] | None = None,
) -> LearningRates:
    """Train copies with rising learning rates, and return the losses.

    Model, data and generators stay as they are, so a run after the test equals a run without it.
    The trial uses the device, precision, accumulation and seed of the trainer.

    Args:
        trainer: the trainer for the later run.
        model: the model. All its optimizers get the rate of the test, in all groups.
        datamodule: the data.
        lowest: the rate of the first step.
        highest: the rate of the last step.
        steps: the number of optimizer steps.
        spacing: how the rate rises: ``"exponential"`` or ``"linear"``.
        stop_factor: the test ends when the smoothed loss is so many times its smallest value;
            ``None`` to take all steps.
        plugins: the plug-ins of the trial; by default, copies of those of the trainer that
            determine what a step computes, such as ``cuda``.

    Returns:
        The rates, the losses, and a suggestion.

    Raises:
        ConfigurationError: an argument is invalid, or the objects cannot be copied.
        Exception: the error of the trial, unchanged.

    Example:
        .. code-block:: python

            found = find_learning_rate(trainer, model, data)
            model.learning_rate = found.suggestion  # setup() reads it
            trainer.fit(model, data)
    """
    given = {"lowest": lowest, "highest": highest, "steps": steps, "spacing": spacing}
    rules.check({**given, "stop_factor": stop_factor}, _RULES, "find_learning_rate")
    if lowest >= highest:
        raise ConfigurationError(
            f"find_learning_rate(lowest={lowest}, highest={highest}): the rate must rise."
        )
    test = _RangeTest(_rates(lowest, highest, steps, spacing), stop_factor)
    Trials(trainer, model, datamodule, plugins, "find_learning_rate").run(steps, test, {}, [])
    if not test.losses:
        raise ConfigurationError(
            "find_learning_rate() saw no loss: let train_step call self.optimize(loss, optimizer)."
        )
    return LearningRates(test.rates[: len(test.losses)], test.losses, test.smoothed)


def _rates(lowest: float, highest: float, steps: int, spacing: str) -> list[float]:
    parts = [step / (steps - 1) for step in range(steps)]
    if spacing == "linear":
        return [lowest + part * (highest - lowest) for part in parts]
    return [lowest * (highest / lowest) ** part for part in parts]


class _RangeTest(Plugin):
    """Sets the rate of each step, and records the losses before it."""

    changes_results = True

    def __init__(self, rates: list[float], stop_factor: float | None) -> None:
        super().__init__("range-test")
        self.rates = rates
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._stop_factor = stop_factor
        self._of_step: list[Tensor] = []
        self._mean = 0.0

    def setup(self) -> None:
        """Do nothing; the plug-in has only one run."""

    def on_before_backward(self, loss: Tensor, optimizer: Optimizer, state: TrainingState) -> None:
        """Record the loss of a batch."""
        self._of_step.append(loss.detach())

    @hookimpl(trylast=True)
    def on_gradients_ready(self, optimizer: Optimizer, state: TrainingState) -> None:
        """Set the rate, whatever a schedule says."""
        rate = self.rates[min(state.current_iteration, len(self.rates)) - 1]
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def on_training_batch_end(
        self, outputs: Any, batch: Any, samples: int, state: TrainingState
    ) -> None:
        """Add the mean loss of a complete step, and end the test if the loss has risen."""
        if not self._of_step or not self.trainer.is_optimizer_step:
            return
        loss = float(torch.stack([each.float().reshape(()) for each in self._of_step]).mean())
        self._of_step = []
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        self.losses.append(loss)
        self.smoothed.append(self._mean / (1 - _SMOOTHING ** len(self.losses)))
        factor = self._stop_factor
        has_risen = factor is not None and self.smoothed[-1] > factor * min(self.smoothed)
        if len(self.losses) > 1 and (has_risen or not math.isfinite(loss)):
            self.trainer.request_stop("the loss has risen")


def _positive(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and 0 < value < math.inf else "write a positive number."


def _factor(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and value > 1 else "write a number above 1, or None."


_RULES: dict[str, rules.Rule] = {
    "lowest": _positive,
    "highest": _positive,
    "steps": rules.whole("write a whole number from 2 up.", 2),
    "spacing": rules.choice("exponential", "linear"),
    "stop_factor": rules.optional(_factor),
}
