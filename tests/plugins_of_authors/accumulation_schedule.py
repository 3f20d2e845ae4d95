"""Accumulate the gradients of more batches in later epochs."""

from helios import Plugin, TrainingState


class AccumulationSchedulePlugin(Plugin):
    """Changes the number of batches of an optimizer step.

    Args:
        schedule: pairs of an epoch, and the number of batches of a step from this epoch on.
    """

    changes_results = True

    def __init__(self, schedule: tuple[tuple[int, int], ...] = ((0, 1), (1, 4))) -> None:
        super().__init__("accumulation-schedule")
        self.schedule = dict(schedule)

    def setup(self) -> None:
        """Do nothing; checkpoints contain the present number."""

    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Set the number if it changes in this epoch."""
        if state.global_epoch in self.schedule:
            self.trainer.set_accumulation_steps(self.schedule[state.global_epoch])
