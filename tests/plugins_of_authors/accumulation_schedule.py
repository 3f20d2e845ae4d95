"""Accumulate the gradients of more batches in later epochs."""

from typing import Any

import torch

from helios import Plugin, TrainingState


class AccumulationSchedulePlugin(Plugin):
    """Skips steps until enough gradients are added up; the last batch of an epoch takes one.

    For a model with one optimizer, and ``Trainer(accumulation_steps=1)``. The counters of the
    trainer count the skipped steps.

    Args:
        schedule: pairs of an epoch, and the number of batches of a step from this epoch on.
    """

    changes_results = True

    def __init__(self, schedule: tuple[tuple[int, int], ...] = ((0, 1), (1, 4))) -> None:
        super().__init__("accumulation-schedule")
        self.schedule = schedule

    def setup(self) -> None:
        """Begin each run without gradients."""
        self._sums: dict[int, torch.Tensor] = {}
        self._batches = 0

    def on_before_optimizer_step(
        self, optimizer: torch.optim.Optimizer, state: TrainingState
    ) -> None:
        """Add the gradients to those of earlier batches, and skip the step or use the mean."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        for number, parameter in enumerate(parameters):
            if parameter.grad is not None:
                self._sums[number] = parameter.grad + self._sums.get(number, 0)
        self._batches += 1
        wanted = [batches for epoch, batches in self.schedule if epoch <= state.global_epoch][-1]
        is_last = state.dataset_iter + 1 == self.trainer.steps_per_epoch
        if self._batches < wanted and not is_last:
            self.trainer.skip_step(f"it has the gradients of {self._batches} of {wanted} batches")
            return
        for number, total in self._sums.items():
            parameters[number].grad = total / self._batches
        self._sums, self._batches = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the gradients of the step that is not taken yet."""
        return {"sums": dict(self._sums), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them on the device."""
        self._batches = state_dict["batches"]
        self._sums = {number: sum_.to(self.device) for number, sum_ in state_dict["sums"].items()}
