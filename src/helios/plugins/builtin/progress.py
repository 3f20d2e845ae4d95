"""A plug-in that shows progress bars on the terminal or in a notebook."""

from typing import TYPE_CHECKING, Any

from helios.core import TrainingState, TrainingUnit
from helios.plugins.plugin import Plugin

if TYPE_CHECKING:
    from tqdm.std import tqdm


class ProgressPlugin(Plugin):
    """Shows the progress of training, validation and testing.

    One bar counts the units of ``total_steps``. A temporary bar counts the batches of a validation
    or a test. Helios autoloads the plug-in if ``Trainer(enable_progress_bar=True)`` is set.
    """

    def __init__(self) -> None:
        super().__init__("progress")
        self._training: tqdm[Any] | None = None
        self._evaluation: tqdm[Any] | None = None

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Return whether the trainer enables progress bars."""
        return bool(trainer.enable_progress_bar)

    def setup(self) -> None:
        """Do nothing; the plug-in shows a bar only when a phase starts."""

    def on_training_start(self) -> None:
        """Show a bar that starts at the present position."""
        total = self.trainer.total_steps
        self._training = _bar(
            desc="training",
            unit=self.trainer.train_unit.value,
            total=None if total == float("inf") else int(total),
            initial=self._position(self.trainer.state),
        )

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Advance the bar if it counts iterations."""
        self._show(state)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Advance the bar if it counts epochs."""
        if self._training is not None and self.trainer.train_unit is TrainingUnit.EPOCH:
            self._training.update(state.global_epoch + 1 - self._training.n)

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Show the newest values next to the bar."""
        if self._training is not None:
            self._training.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()})

    def on_validation_start(self, validation_cycle: int) -> None:
        """Show a bar for the validation."""
        self._evaluation = _bar(desc="validation", unit="batch", leave=False)

    def on_validation_batch_end(self, outputs: Any, step: int) -> None:
        """Advance the bar of the validation."""
        self._advance_evaluation()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Remove the bar of the validation."""
        self._close_evaluation()

    def on_testing_start(self) -> None:
        """Show a bar for the test."""
        self._evaluation = _bar(desc="testing", unit="batch", leave=False)

    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        """Advance the bar of the test."""
        self._advance_evaluation()

    def on_testing_end(self) -> None:
        """Remove the bar of the test."""
        self._close_evaluation()

    def on_training_end(self) -> None:
        """Close the bar; it stays visible."""
        self.teardown()

    def teardown(self) -> None:
        """Close all bars, so that none remains open after a run that fails."""
        self._close_evaluation()
        if self._training is not None:
            self._training.close()
            self._training = None

    def _position(self, state: TrainingState) -> int:
        in_epochs = self.trainer.train_unit is TrainingUnit.EPOCH
        return state.global_epoch if in_epochs else state.current_iteration

    def _show(self, state: TrainingState) -> None:
        if self._training is not None:
            self._training.update(self._position(state) - self._training.n)

    def _advance_evaluation(self) -> None:
        if self._evaluation is not None:
            self._evaluation.update()

    def _close_evaluation(self) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None


def _bar(**options: Any) -> "tqdm[Any]":
    from tqdm.auto import tqdm  # detects a notebook; imported only if a bar is shown

    return tqdm(dynamic_ncols=True, **options)
