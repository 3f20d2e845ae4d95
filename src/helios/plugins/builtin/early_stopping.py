"""A plug-in that ends training when a metric no longer improves."""

import math
from pathlib import Path
from typing import Any, Literal

from helios.core import TrainingState, rules
from helios.core.best_metric import BestMetric, Mode
from helios.errors import ConfigurationError
from helios.plugins.builtin.watched import RULES, numeric
from helios.plugins.plugin import Plugin


class EarlyStoppingPlugin(Plugin):
    """Ends training when a metric has not improved for some validations.

    The metric may be another one than that of ``Trainer(best=...)``, which judges the best
    checkpoint. If both are the same, ``Trainer(best=..., early_stop_cycles=...)`` needs no plug-in.

    The run ends for good: if it is started again, it trains only if ``patience`` is larger.

    Args:
        metric: the name of the metric, as it was logged.
        mode: ``"min"`` if smaller values are better, ``"max"`` if larger ones are.
        patience: the number of values in a row without improvement after which training ends.
        min_change: the change that counts as an improvement must be larger than this.
        phase: ``"validation"`` to judge each validation; ``"training"`` to judge the value that
            loggers receive in training, every ``print_frequency`` steps or once an epoch.

    Raises:
        ConfigurationError: an argument is invalid, or the run does not validate.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("early-stopping", {"metric": "loss", "patience": 5})])
    """

    autoload = False
    changes_results = True
    summary = "ends training when a metric no longer improves"

    def __init__(
        self,
        metric: str,
        mode: Mode = "min",
        patience: int = 3,
        min_change: float = 0.0,
        phase: Literal["validation", "training"] = "validation",
    ) -> None:
        super().__init__("early-stopping")
        given = {
            "metric": metric,
            "mode": mode,
            "patience": patience,
            "min_change": min_change,
            "phase": phase,
        }
        rules.check(given, _RULES, "early-stopping")
        self.patience = patience
        self.phase = phase
        self._metric = BestMetric(metric, mode, float(min_change))
        self._best: float | None = None
        self._best_at = ""
        self._count = 0

    def setup(self) -> None:
        """Begin each run without a best value."""
        self._best, self._best_at, self._count = None, "", 0

    def on_training_start(self) -> None:
        """Refuse a run that would never have a value to judge."""
        if self.phase == "validation" and self.trainer.valid_frequency is None:
            raise ConfigurationError(
                f"plug-in 'early-stopping' waits for {self._metric.name!r} of validations, but this"
                " run does not validate: pass Trainer(valid_frequency=...), or"
                " phase='training' to the plug-in."
            )

    def on_validation_results(self, metrics: dict[str, Any]) -> None:
        """Judge the newest validation."""
        if self.phase == "validation":
            name = self._metric.name
            self._judge(numeric(metrics, name, "early-stopping"), self.trainer.state)

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Judge the newest value of training."""
        if self.phase == phase == "training" and self._metric.name in metrics:
            self._judge(metrics[self._metric.name], state)

    def on_checkpoint_loaded(self, path: Path) -> None:
        """End a run again that had ended, unless ``patience`` is larger now."""
        if self.trainer.withdraw_stops(self.plug_id) and self._count >= self.patience:
            self.trainer.request_stop(self._story(), self.plug_id, final=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and the number of values since."""
        return {"best": self._best, "best_at": self._best_at, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._best = state_dict["best"]
        self._best_at = state_dict["best_at"]
        self._count = state_dict["count"]

    def _judge(self, value: float, state: TrainingState) -> None:
        if self._metric.is_better(value, self._best):
            self._best, self._count = value, 0
            self._best_at = f"iteration {state.current_iteration}"
        else:
            self._count += 1
            if self._count >= self.patience:
                self.trainer.request_stop(self._story(), self.plug_id, final=True)

    def _story(self) -> str:
        many = f"{self._count} {'validation' if self.phase == 'validation' else 'value'}"
        story = f"no improvement of {self._metric.name} ({self._metric.mode}) for {many}"
        story += "s" * (self._count != 1)
        return story if self._best is None else f"{story}, best {self._best:g} at {self._best_at}"


def _not_negative(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and 0 <= value < math.inf else "write a number from 0 up."


_RULES: dict[str, rules.Rule] = {
    **RULES,
    "patience": rules.whole("write a whole number from 1 up.", 1),
    "min_change": _not_negative,
    "phase": rules.choice("validation", "training"),
}
