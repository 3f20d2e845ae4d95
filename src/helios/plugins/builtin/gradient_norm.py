"""A plug-in that logs the norm of the gradients, and checks that it is finite."""

import logging
import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from helios.core import TrainingState, rules
from helios.plugins.builtin.optimizers import warn_of_no_step
from helios.plugins.plugin import Plugin

_logger = logging.getLogger(__name__)

_PREFIX = "gradient-norm/"


class GradientNormPlugin(Plugin):
    """Logs the total norm of the gradients of each optimizer, before they are clipped.

    Loggers receive the mean over their steps as ``gradient-norm/`` and the name of the attribute
    that holds the optimizer. The norms stay on their device until then, so nothing waits for a GPU.
    A step that is skipped, because gradients in fp16 have overflowed, does not count.

    If a gradient is infinite or not a number, so is the mean. The plug-in then writes a warning, or
    raises an error.

    Args:
        norm: the order of the norm; ``math.inf`` for the largest absolute value.
        on_non_finite: ``"warn"``, or ``"raise"`` to end the run with a ``FloatingPointError``.

    Example:
        .. code-block:: python

            Trainer(..., print_frequency=50, plugins=["gradient-norm"])
    """

    autoload = False
    summary = "logs the norm of the gradients"

    def __init__(self, norm: float = 2.0, on_non_finite: Literal["warn", "raise"] = "warn") -> None:
        super().__init__("gradient-norm")
        rules.check({"norm": norm, "on_non_finite": on_non_finite}, _RULES, "gradient-norm")
        self.norm = norm
        self.on_non_finite = on_non_finite
        self._names: dict[Optimizer, str] = {}
        self._pending: dict[Optimizer, Tensor] = {}
        self._is_told = False

    def setup(self) -> None:
        """Begin each run without norms."""
        self._names, self._pending, self._is_told = {}, {}, False

    @torch.no_grad()
    def on_before_optimizer_step(self, optimizer: Optimizer, state: TrainingState) -> None:
        """Compute the norm, on the device."""
        gradients = [
            parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if gradients:
            total: Any = get_total_norm(gradients, float(self.norm))
            # The gradients of a sharded network have one norm, of all shards together.
            self._pending[optimizer] = total.full_tensor() if _is_sharded(total) else total

    def on_after_optimizer_step(self, optimizer: Optimizer, state: TrainingState) -> None:
        """Log the norm of a step that was taken."""
        total = self._pending.pop(optimizer, None)
        if total is not None:
            name = self._names.get(optimizer) or self._name(optimizer)
            self.log(_PREFIX + name, total)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Tell once if the plug-in sees no steps."""
        if not self._names and not self._is_told:
            self._is_told = True
            for name in self.trainer.model.session.named_optimizers():
                warn_of_no_step(self.plug_id, name)

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Check the means, which are numbers now."""
        for name, mean in metrics.items():
            if phase == "training" and name.startswith(_PREFIX) and not math.isfinite(mean):
                story = (
                    f"the gradients of {name.removeprefix(_PREFIX)} are not finite: their mean norm"
                    f" up to iteration {state.current_iteration} is {mean}. The plug-in"
                    " 'anomaly-detection' finds the operation."
                )
                if self.on_non_finite == "raise":
                    raise FloatingPointError(story)
                _logger.warning("%s", story)

    def _name(self, optimizer: Optimizer) -> str:
        found = self.trainer.model.session.named_optimizers()
        self._names = {each: name for name, each in found.items()}
        return self._names.setdefault(optimizer, type(optimizer).__name__)


def _is_sharded(total: Tensor) -> bool:
    return hasattr(total, "full_tensor")


def _norm(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and value > 0 else "write a positive number, such as 2, or math.inf."


_RULES: dict[str, rules.Rule] = {"norm": _norm, "on_non_finite": rules.choice("warn", "raise")}
