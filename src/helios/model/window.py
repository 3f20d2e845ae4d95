"""The accumulation window: the batches whose gradients make one optimizer step."""

from helios.core import TrainingUnit


class Window:
    """The accumulation window of the current batch.

    With epochs as the training unit, the last batch of an epoch always completes a step, even if
    its window is not full. So no gradients remain for the next epoch. A resumed run begins with a
    new window, because checkpoints are saved only between windows.

    Args:
        accumulation_steps: the number of batches in a full window.
        unit: the training unit.

    Attributes:
        accumulation_steps: the number of batches in the next full window.
        size: the number of batches in this window.
        accumulates: ``True`` if a window may have several batches; otherwise, no batch needs
            :meth:`add_batch`.
        is_complete: ``True`` if the current batch is the last one of the window.
    """

    def __init__(self, accumulation_steps: int, unit: TrainingUnit) -> None:
        self.accumulation_steps = accumulation_steps
        self._is_set = False
        self._in_epochs = unit is TrainingUnit.EPOCH
        self._batches = 0
        self.accumulates = accumulation_steps > 1
        self.size = 1
        self.is_complete = True

    @property
    def read_ahead(self) -> int:
        """The number of batches of a stream to read before a window begins."""
        return self.accumulation_steps if self._in_epochs else 1

    def set_next(self, accumulation_steps: int) -> None:
        """Set the number of batches of the windows that begin from now on."""
        self.accumulation_steps = accumulation_steps
        self.accumulates = self.accumulates or accumulation_steps > 1
        self._is_set = True

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches that :meth:`set_next` has set, if it has."""
        return {"accumulation_steps": self.accumulation_steps} if self._is_set else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if state_dict:
            self.set_next(state_dict["accumulation_steps"])

    def add_batch(self, number: int, per_epoch: int | float) -> None:
        """Find out whether a batch completes an optimizer step.

        Args:
            number: the number of the batch in its epoch.
            per_epoch: the number of batches in the epoch; infinite until a stream ends.
        """
        if self.is_complete:  # the batch before; this one begins a window
            self._batches = 0
            full = self.accumulation_steps
            left = per_epoch - number if self._in_epochs else full
            self.size = int(max(1, min(full, left)))  # a loader may yield more
        self._batches += 1
        self.is_complete = self._batches == self.size
