"""A plug-in that lowers learning rates when a metric no longer improves."""

import logging
from typing import Any, Literal

from torch.optim.lr_scheduler import ReduceLROnPlateau

from helios.core import rules
from helios.core.best_metric import Mode
from helios.errors import ConfigurationError
from helios.plugins.builtin.optimizers import OPTIMIZER, rates_of, wanted_optimizers
from helios.plugins.builtin.watched import RULES, numeric
from helios.plugins.plugin import Plugin

_logger = logging.getLogger(__name__)

_PROGRESS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")
"""The keys of PyTorch's scheduler that hold its progress; the others are its arguments."""


class PlateauPlugin(Plugin):
    """Lowers learning rates when validations no longer improve a metric.

    The plug-in steps :class:`torch.optim.lr_scheduler.ReduceLROnPlateau` with the metric of each
    validation. Its arguments have the names and the defaults of that class.

    Args:
        metric: the name of the metric, as ``valid_step`` logs it.
        mode: ``"min"`` if smaller values are better, ``"max"`` if larger ones are.
        factor: the factor by which the rates are multiplied.
        patience: the number of validations without improvement to allow.
        threshold: the smallest change that counts as an improvement.
        threshold_mode: ``"rel"`` if ``threshold`` is a fraction of the best value, ``"abs"`` if
            it is a difference.
        cooldown: the number of validations after a reduction in which none is counted.
        min_lr: the smallest rate.
        optimizer: the attribute of the model that holds the optimizer; all optimizers by default.

    Raises:
        ConfigurationError: an argument is invalid, the run does not validate, or the model has no
            such optimizer.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("plateau", {"metric": "loss", "patience": 3})])
    """

    autoload = False
    changes_results = True
    summary = "lowers learning rates when a metric no longer improves"

    def __init__(
        self,
        metric: str,
        mode: Mode = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        optimizer: str | None = None,
    ) -> None:
        super().__init__("plateau" if optimizer is None else f"plateau-{optimizer}")
        self.metric = metric
        self.optimizer = optimizer
        self._options: dict[str, Any] = {
            "mode": mode,
            "factor": factor,
            "patience": patience,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "min_lr": min_lr,
        }
        given = {**self._options, "metric": metric, "optimizer": optimizer}
        rules.check(given, _RULES, "plateau")
        self.exclusives = rates_of(optimizer)  # type: ignore[misc]  # depends on the argument
        self._schedulers: dict[str, ReduceLROnPlateau] = {}
        self._saved: dict[str, Any] = {}

    def setup(self) -> None:
        """Begin each run without schedulers."""
        self._schedulers, self._saved = {}, {}

    def on_model_ready(self, model: Any) -> None:
        """Create the schedulers, with their states if the run resumes."""
        if not model.session.is_training:
            return
        if self.trainer.valid_frequency is None:
            raise ConfigurationError(
                f"plug-in {self.plug_id!r} waits for {self.metric!r} of validations, but this run"
                " does not validate: pass Trainer(valid_frequency=...)."
            )
        for name, optimizer in wanted_optimizers(model, self.optimizer, self.plug_id).items():
            self._schedulers[name] = scheduler = ReduceLROnPlateau(optimizer, **self._options)
            if name in self._saved:
                saved = self._saved[name]
                scheduler.load_state_dict({key: saved[key] for key in _PROGRESS if key in saved})

    def on_validation_results(self, metrics: dict[str, Any]) -> None:
        """Let the schedulers judge the newest validation."""
        value = numeric(metrics, self.metric, self.plug_id)
        for name, scheduler in self._schedulers.items():
            before = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
            scheduler.step(value)
            after = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
            if after != before:
                _logger.info(
                    "plug-in %r lowers the learning rate of %s from %s to %s, because %s no longer"
                    " improves",
                    self.plug_id,
                    name,
                    _shown(before),
                    _shown(after),
                    self.metric,
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedulers by the names of their optimizers."""
        states = {name: each.state_dict() for name, each in self._schedulers.items()}
        chosen = {n: {key: each[key] for key in _PROGRESS} for n, each in states.items()}
        return {**self._saved, **chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the optimizers exist."""
        self._saved = dict(state_dict)


def _shown(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))


def _between(remedy: str, smallest: float, largest: float) -> rules.Rule:
    def rule(value: Any) -> str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and smallest <= value < largest else remedy

    return rule


_FROM_ZERO = _between("write a number from 0 up.", 0, float("inf"))
_WHOLE = rules.whole("write a whole number from 0 up.", 0)
_RULES: dict[str, rules.Rule] = {
    **RULES,
    "factor": _between("write a number from 0 up and less than 1.", 0, 1),
    "patience": _WHOLE,
    "threshold": _FROM_ZERO,
    "threshold_mode": rules.choice("rel", "abs"),
    "cooldown": _WHOLE,
    "min_lr": _FROM_ZERO,
    "optimizer": OPTIMIZER,
}
