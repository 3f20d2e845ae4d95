"""The accumulation window: the batches whose gradients make one optimizer step."""

from helios.core import TrainingState, TrainingUnit


class Window:
    """The accumulation window of the current batch.

    With epochs as the training unit, the last batch of an epoch always completes a step, even if
    its window is not full. So no gradients remain for the next epoch. A resumed run begins with a
    new window, because checkpoints are saved only between windows.

    Args:
        accumulation_steps: the number of batches in a full window.
        unit: the training unit.

    Attributes:
        size: the number of batches in this window.
        is_complete: ``True`` if the current batch is the last one of the window.
    """

    def __init__(self, accumulation_steps: int, unit: TrainingUnit) -> None:
        self._accumulate = accumulation_steps
        self._in_epochs = unit is TrainingUnit.EPOCH
        self._batches = 0
        self.size = 1
        self.is_complete = True

    @property
    def read_ahead(self) -> int:
        """The number of batches of a stream to read before a window begins."""
        return self._accumulate if self._in_epochs else 1

    def add_batch(self, state: TrainingState, per_epoch: int | float) -> None:
        """Count a batch, and find out whether it completes an optimizer step.

        Args:
            state: the progress of the run; its counters are increased.
            per_epoch: the number of batches in the epoch; infinite until a stream ends.
        """
        state.global_iteration += 1
        state.running_iter += 1
        if self._accumulate > 1:
            if self.is_complete:  # the batch before; this one begins a window
                self._batches = 0
                left = per_epoch - state.dataset_iter if self._in_epochs else self._accumulate
                self.size = int(max(1, min(self._accumulate, left)))  # a loader may yield more
            self._batches += 1
            self.is_complete = self._batches == self.size
        state.current_iteration += self.is_complete
