"""The moments of training at which loggers are called, for plug-ins that measure."""

import abc
from typing import Any

from helios.core import TrainingState
from helios.plugins.plugin import Plugin


class CadencePlugin(Plugin):
    """Base class of plug-ins that log one value for each time that loggers are called.

    A value that is logged at this moment is the only one of its name, so loggers receive the value
    itself, and not a mean.
    """

    _reported_at = -1

    def setup(self) -> None:
        """Begin each run without a report."""
        self._reported_at = -1

    @abc.abstractmethod
    def _report(self, state: TrainingState) -> None:
        """Log the values of this moment."""

    def on_training_batch_end(
        self, outputs: Any, batch: Any, samples: int, state: TrainingState
    ) -> None:
        """Report every ``print_frequency`` steps."""
        frequency = self.trainer.print_frequency
        if (
            frequency is not None
            and state.current_iteration % frequency == 0
            and self.trainer.is_optimizer_step
        ):
            self._reported_at = state.current_iteration
            self._report(state)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Report at the end of each epoch, if the trainer has no ``print_frequency``."""
        if self.trainer.print_frequency is None:
            self._reported_at = state.current_iteration
            self._report(state)

    def on_training_end(self) -> None:
        """Report the last steps."""
        state = self.trainer.state
        if state.running_iter and self._reported_at != state.current_iteration:
            self._report(state)
