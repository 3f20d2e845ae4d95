"""A plug-in that changes the learning rates of a model in each step or epoch."""

import logging
import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from helios.core import TrainingState, TrainingUnit, rules
from helios.errors import ConfigurationError
from helios.plugins.builtin.optimizers import (
    OPTIMIZER,
    rates_of,
    wanted_optimizers,
    warn_of_no_step,
)
from helios.plugins.plugin import Plugin

_logger = logging.getLogger(__name__)

Factory = Callable[[Optimizer], LRScheduler]
"""A function that creates a scheduler, such as ``lambda optimizer: StepLR(optimizer, 30)``."""


class SchedulerPlugin(Plugin):
    """Changes learning rates by a schedule, without lines in the model.

    The schedules by name multiply the rates that the model has set. ``warmup`` raises them linearly
    from 0. Then ``"constant"`` keeps them, ``"linear"`` lowers them linearly to 0 at the end of
    training, and ``"cosine"`` lowers them along half a cosine. The values are those of the
    functions with these names in Hugging Face's transformers.

    The plug-in sees the steps that the model takes with ``self.optimize(loss, optimizer)``. Its
    schedulers, with their positions, are in the checkpoints.

    Args:
        schedule: ``"constant"``, ``"linear"``, ``"cosine"``, or a function that receives an
            optimizer and returns a scheduler of :mod:`torch.optim.lr_scheduler`.
        warmup: the units in which the rates rise: a whole number, or a fraction of the training.
        unit: ``"step"`` to advance after each step of the optimizer, or ``"epoch"`` to advance at
            the end of each epoch.
        length: the number of units until the rates are 0; by default those of the training.
        optimizer: the attribute of the model that holds the optimizer; all optimizers by default.

    Raises:
        ConfigurationError: an argument is invalid, or the model has no such optimizer.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("scheduler", {"schedule": "cosine", "warmup": 0.1})])
    """

    autoload = False
    changes_results = True
    summary = "changes learning rates by a schedule"

    def __init__(
        self,
        schedule: str | Factory,
        warmup: int | float = 0,
        unit: Literal["step", "epoch"] = "step",
        length: int | None = None,
        optimizer: str | None = None,
    ) -> None:
        super().__init__("scheduler" if optimizer is None else f"scheduler-{optimizer}")
        given = {
            "schedule": schedule,
            "warmup": warmup,
            "unit": unit,
            "length": length,
            "optimizer": optimizer,
        }
        rules.check(given, _RULES, "scheduler")
        if callable(schedule) and warmup:
            raise ConfigurationError(
                f"warmup={warmup} of scheduler: it belongs to the schedules by name. Combine your"
                " scheduler with a warm-up in torch.optim.lr_scheduler.SequentialLR."
            )
        self.schedule = schedule
        self.warmup = warmup
        self.unit = unit
        self.length = length
        self.optimizer = optimizer
        self._by_optimizer: dict[Optimizer, LRScheduler] = {}
        self._names: dict[Optimizer, str] = {}
        self._saved: dict[str, Any] = {}
        self._is_told = False
        self.exclusives = rates_of(optimizer)  # type: ignore[misc]  # depends on the argument

    def setup(self) -> None:
        """Begin each run without schedulers."""
        self._by_optimizer, self._names, self._saved = {}, {}, {}
        self._is_told = False

    def on_model_ready(self, model: Any) -> None:
        """Create the schedulers, with their states if the run resumes."""
        if not model.session.is_training:
            return
        for name, optimizer in wanted_optimizers(model, self.optimizer, self.plug_id).items():
            self._warn_of_another(model, optimizer, name)
            scheduler = self._create(optimizer)
            if name in self._saved:
                scheduler.load_state_dict(self._saved[name])
            self._by_optimizer[optimizer], self._names[optimizer] = scheduler, name

    def on_after_optimizer_step(self, optimizer: Optimizer) -> None:
        """Advance the scheduler of this optimizer."""
        if self.unit == "step" and optimizer in self._by_optimizer:
            self._by_optimizer[optimizer].step()

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Advance all schedulers that count epochs; tell of those that saw no step."""
        for optimizer, scheduler in self._by_optimizer.items():
            if self.unit == "epoch":
                scheduler.step()
            elif scheduler.last_epoch == 0 and not self._is_told:
                self._is_told = True
                warn_of_no_step(self.plug_id, self._names[optimizer])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedulers by the names of their optimizers."""
        states = {self._names[o]: each.state_dict() for o, each in self._by_optimizer.items()}
        return {**self._saved, **states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the optimizers exist."""
        self._saved = dict(state_dict)

    def _warn_of_another(self, model: Any, optimizer: Optimizer, name: str) -> None:
        """Warn if the model schedules the same rates, because both would change them."""
        for attribute, value in vars(model).items():
            if isinstance(value, LRScheduler) and value.optimizer is optimizer:
                _logger.warning(
                    "plug-in %r and %s.%s both change the learning rate of %s: remove one of them.",
                    self.plug_id,
                    type(model).__name__,
                    attribute,
                    name,
                )

    def _create(self, optimizer: Optimizer) -> LRScheduler:
        if isinstance(self.schedule, str):
            return LambdaLR(optimizer, self._factor())
        scheduler: Any = self.schedule(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
            remedy = "a scheduler of torch.optim.lr_scheduler that advances without a metric"
            if isinstance(scheduler, ReduceLROnPlateau):
                remedy += ', or use the plug-in "plateau"'
            raise ConfigurationError(
                f"the function in schedule=... of scheduler returned a {type(scheduler).__name__}:"
                f" return {remedy}."
            )
        return scheduler

    def _factor(self) -> Callable[[int], float]:
        """Return the function from the position in the schedule to the factor of the rates."""
        is_fraction = isinstance(self.warmup, float)
        needs_length = self.schedule != "constant" or is_fraction
        length = self._length() if needs_length else 0
        warmup = math.ceil(self.warmup * length) if is_fraction else int(self.warmup)
        shape = _SHAPES[str(self.schedule)]

        def factor(position: int) -> float:
            if position < warmup:
                return position / warmup
            return shape((position - warmup) / max(1, length - warmup))

        return factor

    def _length(self) -> int:
        if self.length is not None:
            return self.length
        trainer = self.trainer
        length = trainer.estimated_steps
        if self.unit == "epoch" and trainer.train_unit is TrainingUnit.EPOCH:
            length = trainer.total_steps
        elif self.unit == "epoch":
            length = (
                math.ceil(length / trainer.steps_per_epoch) if math.isfinite(length) else length
            )
        if not math.isfinite(length):
            raise ConfigurationError(
                f"schedule={self.schedule!r} of scheduler ends with the training, but the number"
                f" of {self.unit}s in this run is unknown: pass length=... to the plug-in."
            )
        return int(length)


_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: max(0.0, 1.0 - progress),
    "cosine": lambda progress: max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))),
}
"""The factors by the part of the schedule that is over, after the warm-up."""


def _schedule(value: Any) -> str | None:
    if callable(value) or (isinstance(value, str) and value in _SHAPES):
        return None
    names = ", ".join(map(repr, _SHAPES))
    return f"write {names}, or a function that receives an optimizer and returns a scheduler."


def _warmup(value: Any) -> str | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_fraction = isinstance(value, float) and 0 <= value < 1
    return None if is_whole or is_fraction else "write a whole number, or a fraction below 1."


_RULES: dict[str, rules.Rule] = {
    "schedule": _schedule,
    "warmup": _warmup,
    "unit": rules.choice("step", "epoch"),
    "length": rules.optional(rules.whole("write a whole number from 1 up.", 1)),
    "optimizer": OPTIMIZER,
}
