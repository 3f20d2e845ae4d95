"""Progress bars, on the terminal or in a notebook."""

from typing import TYPE_CHECKING, Any

from helios.core import TrainingState, TrainingUnit
from helios.plugins.plugin import Plugin

if TYPE_CHECKING:
    from tqdm.std import tqdm


class ProgressPlugin(Plugin):
    """Shows how far training, validation and testing have come.

    One bar counts the units of ``total_steps``; another one, which goes away again, the batches
    of a validation or test. Autoloaded where ``Trainer(enable_progress_bar=True)``.
    """

    def __init__(self) -> None:
        super().__init__("progress")
        self._training: tqdm[Any] | None = None
        self._evaluation: tqdm[Any] | None = None

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Whether the trainer was asked for progress bars."""
        return bool(trainer.enable_progress_bar)

    def setup(self) -> None:
        """Nothing is shown before something has begun."""

    def on_training_start(self) -> None:
        """Show the position that training begins at."""
        total = self.trainer.total_steps
        self._training = _bar(
            desc="training",
            unit=self.trainer.train_unit.value,
            total=None if total == float("inf") else int(total),
            initial=self._position(self.trainer.state),
        )

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Move on, if the bar counts iterations."""
        self._show(state)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Move on, if the bar counts epochs."""
        if self._training is not None and self.trainer.train_unit is TrainingUnit.EPOCH:
            self._training.update(state.global_epoch + 1 - self._training.n)

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Show the newest values beside the bar."""
        if self._training is not None:
            self._training.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()})

    def on_validation_start(self, validation_cycle: int) -> None:
        """Show a bar for the validation."""
        self._evaluation = _bar(desc="validation", unit="batch", leave=False)

    def on_validation_batch_end(self, outputs: Any, step: int) -> None:
        """Move the validation's bar on."""
        self._advance_evaluation()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Remove the validation's bar."""
        self._close_evaluation()

    def on_testing_start(self) -> None:
        """Show a bar for the test."""
        self._evaluation = _bar(desc="testing", unit="batch", leave=False)

    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        """Move the test's bar on."""
        self._advance_evaluation()

    def on_testing_end(self) -> None:
        """Remove the test's bar."""
        self._close_evaluation()

    def on_training_end(self) -> None:
        """Leave the bar as it is, and go to the next line."""
        self.teardown()

    def teardown(self) -> None:
        """Close what is still shown; a run that fails must not leave a bar behind."""
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
    from tqdm.auto import tqdm  # chooses between terminal and notebook; not needed without a bar

    return tqdm(dynamic_ncols=True, **options)
