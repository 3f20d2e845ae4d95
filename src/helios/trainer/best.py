"""The newest validation and the best one: which is which, and what a run says of them."""

import dataclasses
import logging
from typing import Any

from helios.core import Group, TrainingState, TrainingUnit
from helios.core.best_metric import BestMetric, number_of
from helios.errors import ConfigurationError
from helios.model import Model
from helios.trainer.verdicts import verdict

_logger = logging.getLogger(__name__)

_SHOWN = 3  # metrics in a line


@dataclasses.dataclass
class _Moment:
    """A validation: the batches consumed by then, and the position in words."""

    batches: int
    at: str


@dataclasses.dataclass
class _Best(_Moment):
    """The best validation, with the metric that decided; without one, the model has decided."""

    name: str | None = None
    mode: str | None = None
    value: float | None = None


class Validations:
    """Judges validations, and knows the newest and the best one.

    Args:
        metric: the metric that decides; ``None`` to ask ``model.have_metrics_improved()``.
        model: the model, with its metrics.
        state: the position of the run.
        unit: the training unit, for messages.
        group: the processes of the run; the one with rank 0 judges.
    """

    def __init__(
        self,
        metric: BestMetric | None,
        model: Model,
        state: TrainingState,
        unit: TrainingUnit,
        group: Group,
    ) -> None:
        self._metric = metric
        self._model = model
        self._state = state
        self._unit = unit
        self._group = group
        self._newest: _Moment | None = None
        self._best: _Best | None = None

    def judge(self) -> bool:
        """Return whether the validation that has just ended is the best so far.

        Raises:
            UnknownNameError: the metrics do not have the one that decides.
            ConfigurationError: that metric is not a number.
        """
        state = self._state
        if self._unit is TrainingUnit.EPOCH:
            at = f"epoch {state.global_epoch + 1}"
        else:
            at = f"iteration {state.current_iteration}"
        self._newest = _Moment(state.global_iteration, at)
        best = _Best(state.global_iteration, at)
        metric = self._metric
        if metric is None:
            answer = self._model.have_metrics_improved()
            improved = verdict(self._model, "have_metrics_improved", answer)
        else:
            best.name, best.mode, best.value = metric.name, metric.mode, self._read(metric.name)
            improved = metric.is_better(best.value, self._best.value if self._best else None)
        improved = self._group.broadcast(improved)
        if improved:
            self._best = best
        return improved

    def is_at_best(self) -> bool:
        """Return whether the weights are still those of the best validation, if one can tell.

        If nothing judges the validations, each counts as the best, and this is never true.
        """
        has_judge = self._metric is not None or has_own_judge(self._model)
        return has_judge and self._is_now(self._newest) and self._is_now(self._best)

    def story_of_end(self) -> str:
        """Return why early stopping has ended the run."""
        count, newest, best = self._state.early_stop_count, self._newest, self._best
        metric = f" of {self._metric.name} ({self._metric.mode})" if self._metric else ""
        story = f"no improvement{metric} for {count} validation{'s' * (count != 1)}"
        if best is not None:
            value = "" if best.value is None else f" {best.value:g}"
            story += f", best{value} at {best.at}"
        return story if newest is None else f"{story}, stopped at {newest.at}"

    def story_of_weights(self) -> str:
        """Return how the weights of this moment were validated; ``""`` if never."""
        newest, best = self._newest, self._best
        if newest is None:
            return ""
        numbers = {
            name: value
            for name, value in self._model.metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        judge = self._metric.name if self._metric else best and best.name
        if judge in numbers:
            numbers = {judge: numbers[judge]}
        values = " ".join(f"{name}={value:g}" for name, value in list(numbers.items())[:_SHOWN])
        if not self._is_now(newest):
            return f"newest validation at {newest.at}: {values}".removesuffix(": ")
        is_judged = has_own_judge(self._model) or (best is not None and best.name is not None)
        is_best = is_judged and self._is_now(best)
        return " ".join(filter(None, ["validated", values, "(best)" * is_best]))

    # What a checkpoint keeps.

    def state_dict(self) -> dict[str, Any]:
        """Return both validations, as plain dictionaries."""
        both = {"newest": self._newest, "best": self._best}
        return {name: moment and dataclasses.asdict(moment) for name, moment in both.items()}

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        """Restore both validations; checkpoints of earlier releases have none."""
        saved = state_dict or {"newest": None, "best": None}
        self._newest = _Moment(**saved["newest"]) if saved["newest"] else None
        self._best = _Best(**saved["best"]) if saved["best"] else None
        before, metric = self._best, self._metric
        if before and metric and (before.name, before.mode) != (metric.name, metric.mode):
            _logger.warning(
                "best=(%r, %r) is not the metric of the checkpoint, so its best value starts anew.",
                metric.name,
                metric.mode,
            )
            before.value = None

    def _read(self, name: str) -> float:
        return number_of(self._model.metrics, name, f"Trainer(best=...) names {name!r}")

    def _is_now(self, moment: _Moment | None) -> bool:
        return moment is not None and moment.batches == self._state.global_iteration


def has_own_judge(model: Model) -> bool:
    """Return whether a model judges its validations itself."""
    return getattr(model.have_metrics_improved, "__func__", None) is not Model.have_metrics_improved


def check_judge(metric: BestMetric | None, valid_frequency: float | None, model: Model) -> None:
    """Refuse to train if nothing or two would judge the validations.

    Raises:
        ConfigurationError: there are no validations, or the model judges them itself.
    """
    if metric is None:
        return
    given = f"Trainer(best=({metric.name!r}, {metric.mode!r}))"
    if valid_frequency is None:
        raise ConfigurationError(f"{given} without validations: pass valid_frequency=..., too.")
    if has_own_judge(model):
        raise ConfigurationError(
            f"{given} contradicts {type(model).__name__}.have_metrics_improved, which judges the"
            " validations as well: leave one of them out."
        )
