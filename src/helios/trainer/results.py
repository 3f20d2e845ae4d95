"""The values that a model logs: handed out to loggers, and entered into its metrics."""

import logging
from itertools import repeat
from numbers import Real
from typing import Any

from helios.core import Group, TrainingState
from helios.model import Model
from helios.model.metrics import MetricBuffer
from helios.model.session import Session
from helios.plugins.calls.callers import HookCallers

_logger = logging.getLogger(__name__)


class Results:
    """Reads the values that a model has logged, once, and sends them where they belong.

    Args:
        session: the session of the model, which collects the values.
        model: the model.
        hooks: the bound hooks of the run.
        state: the progress of the run.
        group: the processes of the run; all of them call each method at the same points.
        print_frequency: see :class:`~helios.trainer.Trainer`.
    """

    def __init__(
        self,
        session: Session,
        model: Model,
        hooks: HookCallers,
        state: TrainingState,
        group: Group,
        print_frequency: int | None,
    ) -> None:
        self._session = session
        self._model = model
        self._hooks = hooks
        self._state = state
        self._group = group
        self._differing: set[str] = set()
        self._in_epochs = print_frequency is None
        # Of all ranks, because one of them may switch a plug-in off.
        self._has_loggers = group.agree(hooks.on_log is not None)
        self._entered: dict[str, float] = {}

    @property
    def epoch_log(self) -> MetricBuffer:
        """The buffer for values that are logged at the end of an epoch.

        Without a ``print_frequency``, loggers receive all values then, so they need not be apart.
        """
        return self._session.training_log if self._in_epochs else self._session.epoch_log

    def log_training(self) -> None:
        """Read the values logged in training since the last call, and send them to loggers."""
        self._hand_out(self._session.training_log, "training")

    def log_epoch(self) -> None:
        """Read the values logged at the end of an epoch, and send them to loggers."""
        self._hand_out(self.epoch_log, "training")

    def log_evaluation(self, phase: str) -> None:
        """Read the values logged in an evaluation, and send them to loggers."""
        self.enter()
        self._entered = {}
        self._share_metrics()
        self._hand_out(self._session.evaluation_log, phase)

    def enter(self) -> None:
        """Enter what the model has logged while evaluating into its metrics, once per value."""
        means = self._session.evaluation_log.means()
        new = {name: mean for name, mean in means.items() if self._entered.get(name) != mean}
        self._model.metrics.update(new)
        self._entered = means

    def _share_metrics(self) -> None:
        """Give all ranks the numbers of rank 0, because a model may set other ones in each rank."""
        metrics = self._model.metrics
        ranks = self._group.gather({n: v for n, v in metrics.items() if isinstance(v, Real)})
        for name, value in ranks[0].items():
            others = [each.get(name, value) for each in ranks]
            if name not in self._differing and not all(map(_is_same, others, repeat(value))):
                self._differing.add(name)
                self._warn(name, others)
            if name not in metrics or not _is_same(metrics[name], value):
                metrics[name] = value

    def _warn(self, name: str, values: list[Any]) -> None:
        if self._session.place.rank == 0:
            stories = ", ".join(f"{value:g} on rank {rank}" for rank, value in enumerate(values))
            _logger.warning(
                "model.metrics[%r] has different values: %s. All ranks use that of rank 0. Call"
                " self.log(%r, ...) to combine the values of all ranks, or"
                " self.trainer.group.gather(...) to combine them yourself.",
                name,
                stories,
                name,
            )

    def _hand_out(self, log: MetricBuffer, phase: str) -> None:
        if not self._has_loggers:
            log.clear()
        elif (metrics := log.read()) and self._hooks.on_log is not None:
            self._hooks.on_log(metrics=metrics, phase=phase, state=self._state)


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)  # NaN equals NaN here
