"""The batches whose gradients make one optimizer step."""

from helios.core import TrainingState, TrainingUnit


class Window:
    """The accumulation window that the running batch belongs to.

    In epochs, the last batch completes a step however few batches its window has, so that nothing
    is carried from one epoch to the next.

    Args:
        accumulation_steps: the batches of a whole window.
        unit: the training unit.

    Attributes:
        size: the number of batches in this window.
        is_complete: whether the running batch is the last one of the window.
    """

    def __init__(self, accumulation_steps: int, unit: TrainingUnit) -> None:
        self._accumulate = accumulation_steps
        self._in_epochs = unit is TrainingUnit.EPOCH
        self.size = 1
        self.is_complete = True

    @property
    def read_ahead(self) -> int:
        """How many batches of a stream must be known when a window begins."""
        return self._accumulate if self._in_epochs else 1

    def add_batch(self, state: TrainingState, per_epoch: int | float) -> None:
        """Count a batch, and determine whether it completes an optimizer step.

        Args:
            state: its counters are advanced.
            per_epoch: the batches of the epoch; infinite until the end of a stream is known.
        """
        state.global_iteration += 1
        state.running_iter += 1
        if self._accumulate > 1:
            if self._in_epochs:
                in_window = state.dataset_iter % self._accumulate
                left = per_epoch - (state.dataset_iter - in_window)
                self.size = int(min(self._accumulate, left))
                self.is_complete = in_window + 1 == self.size
            else:
                self.size = self._accumulate
                self.is_complete = state.global_iteration % self._accumulate == 0
        state.current_iteration += self.is_complete
