"""A plug-in that stops, skips or rolls back if a loss or a gradient is not finite."""

import copy
import logging
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from helios.core import TrainingState, rules
from helios.plugins.plugin import Plugin

_logger = logging.getLogger(__name__)

_WAYS_OUT = (
    "Try a smaller learning rate (fit(..., resume_overrides=['lr'])), clip_norm, or"
    " ('nan-guard', {'action': 'skip'}). The plug-in 'anomaly-detection' finds the operation."
)


class NanGuardPlugin(Plugin):
    """Reacts to a loss or a gradient that is infinite or not a number.

    ``"stop"`` checks on the device, and reads the result only when loggers are called, before a
    validation and before a checkpoint is saved. So it costs no host synchronisation per step, and
    no checkpoint holds what followed. ``"skip"`` and ``"roll-back"`` read one value per optimizer
    step, because the step must not be taken.

    ``"roll-back"`` restores the model, with its optimizers and schedulers, as it was at the start
    of the epoch, or up to ``every`` steps ago, and continues with the next batch. It keeps a copy
    of this state, which checkpoints hold, too.

    With several ranks, a loss of one of them counts for all, so all react in the same step.

    In fp16, gradients overflow now and then, and the step is skipped anyway. So only the losses
    count there. Steps that the model takes by hand are not checked.

    Args:
        action: ``"stop"`` to end the run with a ``FloatingPointError``, ``"skip"`` to skip the
            optimizer step, or ``"roll-back"``.
        patience: the number of skips in a row, or of roll-backs to the same state, that end the
            run with the error.
        every: the number of optimizer steps between two copies, in addition to that of each
            epoch; for ``"roll-back"``.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("nan-guard", {"action": "skip"})])
    """

    autoload = False
    summary = "reacts to losses and gradients that are not finite"
    changes_results = True

    def __init__(
        self,
        action: Literal["stop", "skip", "roll-back"] = "stop",
        patience: int = 10,
        every: int | None = None,
    ) -> None:
        super().__init__("nan-guard")
        given = {"action": action, "patience": patience, "every": every}
        rules.check(given, _RULES, "nan-guard")
        self.action = action
        self.patience = patience
        self.every = every
        self.setup()

    def setup(self) -> None:
        """Begin each run without a finding."""
        self._losses: dict[Optimizer, Tensor] = {}
        self._found: Tensor | None = None
        self._checked_at = self._in_a_row = 0
        self._is_due = self._must_roll_back = False
        self._copy: dict[str, Any] | None = None

    @torch.no_grad()
    def on_before_backward(self, loss: Tensor, optimizer: Optimizer, state: TrainingState) -> None:
        """Check the loss, on its device."""
        bad = ~loss.detach().isfinite().all()
        before = self._losses.get(optimizer)
        self._losses[optimizer] = bad if before is None else before | bad

    @torch.no_grad()
    def on_gradients_ready(self, optimizer: Optimizer, state: TrainingState) -> None:
        """Check the gradients, and take note of the result or react to it."""
        bad = self._losses.pop(optimizer, None)
        if self.trainer.precision != "fp16":
            in_gradients = _are_bad(optimizer)
            bad = in_gradients if bad is None or in_gradients is None else bad | in_gradients
        if self.action == "stop":
            if bad is not None:
                found = self._found
                self._found = bad if found is None else found | bad.to(found.device)
        elif self._in_any_rank(bad):
            self._react(state)
        elif self.action == "skip":
            self._in_a_row = 0

    def on_optimizer_step_skipped(self, optimizer: Optimizer) -> None:
        """Forget the losses of a step that is not taken."""
        self._losses.pop(optimizer, None)

    def on_training_batch_end(
        self, outputs: Any, batch: Any, samples: int, state: TrainingState
    ) -> None:
        """Roll back, and note when a copy is due."""
        if self._must_roll_back:
            self._must_roll_back = False
            self.trainer.model.load_state_dict(copy.deepcopy(self._copy or {}))
        if self.every and self.trainer.is_optimizer_step:
            self._is_due = self._is_due or state.current_iteration % self.every == 0

    def on_training_batch_start(self, batch: Any, samples: int, state: TrainingState) -> None:
        """Copy the model after every few steps."""
        if self._is_due:
            self._take_copy()

    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Copy the model at the start of each epoch."""
        self._take_copy()

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Read the finding, because the metrics have been read, too."""
        self._check(state)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Read the finding."""
        self._check(state)

    def on_validation_start(self, validation_cycle: int) -> None:
        """Read the finding."""
        self._check(self.trainer.state)

    def on_training_end(self) -> None:
        """Read the finding of the last steps."""
        self._check(self.trainer.state)

    def state_dict(self) -> dict[str, Any]:
        """Return the copy and the counters; raise the error instead of saving what followed it."""
        self._check(self.trainer.state)
        return {
            "checked_at": self._checked_at,
            "in_a_row": self._in_a_row,
            "is_due": self._is_due,
            "copy": self._copy,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the copy and the counters."""
        self._checked_at, self._in_a_row = state_dict["checked_at"], state_dict["in_a_row"]
        self._is_due = state_dict["is_due"]
        self._copy = state_dict["copy"] if self.action == "roll-back" else None

    def _react(self, state: TrainingState) -> None:
        where = f"iteration {state.current_iteration}"
        self._in_a_row += 1
        if self._in_a_row >= self.patience:
            times = f"{self._in_a_row} times" if self._in_a_row > 1 else "once"
            since = "in a row" if self.action == "skip" else "since the last copy of the model"
            raise FloatingPointError(
                f"a loss or a gradient was not finite {times} {since}, up to {where}. {_WAYS_OUT}"
            )
        _logger.warning("a loss or a gradient of %s is not finite: %s.", where, self.action)
        self.trainer.skip_step("a loss or a gradient is not finite")
        self._must_roll_back = self.action == "roll-back"

    def _take_copy(self) -> None:
        self._is_due = False
        if self.action == "roll-back":
            self._copy = copy.deepcopy(self.trainer.model.state_dict())
            self._in_a_row = 0

    def _in_any_rank(self, found: Tensor | None) -> bool:
        """Read a finding. The loss of one rank may be bad although all gradients are finite."""
        return self.trainer.group.agree(found is not None and bool(found))

    def _check(self, state: TrainingState) -> None:
        found, self._found = self._found, None
        since, self._checked_at = self._checked_at, state.current_iteration
        if self._in_any_rank(found):
            raise FloatingPointError(
                f"a loss or a gradient was not finite in the iterations {since + 1} to"
                f" {state.current_iteration}. No checkpoint holds what followed. {_WAYS_OUT}"
            )


def _are_bad(optimizer: Optimizer) -> Tensor | None:
    """Return whether a gradient is not finite, on the device; ``None`` without gradients."""
    gradients = [
        parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if not gradients:
        return None
    largest: Any = get_total_norm(gradients, float("inf"))  # NaN if one of them is
    whole: Tensor = largest.full_tensor() if hasattr(largest, "full_tensor") else largest
    return ~whole.isfinite()


_RULES: dict[str, rules.Rule] = {
    "action": rules.choice("stop", "skip", "roll-back"),
    "patience": rules.whole("write a whole number of at least 1.", 1),
    "every": rules.optional(rules.whole("write a whole number of at least 1, or remove it.", 1)),
}
