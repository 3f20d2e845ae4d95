"""A plug-in that shows progress on the terminal, in a notebook or in a log file."""

import sys
from typing import TYPE_CHECKING, Any

from helios.core import TrainingState, TrainingUnit
from helios.plugins.plugin import Plugin

if TYPE_CHECKING:
    from tqdm.std import tqdm


class ProgressPlugin(Plugin):
    """Shows the progress of training, validation and testing.

    On a terminal or in a notebook, one bar counts the units of ``total_steps``. A temporary bar
    counts the batches of a validation or a test. If the standard error is a file or a pipe, the
    plug-in writes a line instead: for each ``on_log``, epoch, validation and test. Helios autoloads
    the plug-in if ``Trainer(enable_progress_bar=True)`` is set.
    """

    def __init__(self) -> None:
        super().__init__("progress")
        self._training: tqdm[Any] | None = None
        self._evaluation: tqdm[Any] | None = None
        self._shows_bars = True
        self._batches = 0
        self._line = ""

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Return whether the trainer enables progress bars."""
        return bool(trainer.enable_progress_bar)

    def setup(self) -> None:
        """Find out whether bars can be shown; the plug-in shows one only when a phase starts."""
        self._shows_bars = self.global_rank == 0 and _can_redraw()
        self._line = ""

    def on_training_start(self) -> None:
        """Show a bar that starts at the present position."""
        if self._shows_bars:
            self._training = _bar(
                desc="training",
                unit=self.trainer.train_unit.value,
                total=self._total,
                initial=self._position(self.trainer.state),
            )

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Advance the bar if it counts iterations."""
        self._write_line()
        self._show(state)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Advance the bar if it counts epochs; announce the epoch in a log file."""
        if self._training is not None and self._in_epochs:
            self._training.update(state.global_epoch + 1 - self._training.n)
        if self._in_epochs or self.trainer.print_frequency is None:
            self._announce(f"training: {self._described(state, is_epoch_over=True)}")

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Show the newest values next to the bar, or in a line of a log file."""
        values = {name: f"{value:.4g}" for name, value in metrics.items()}
        if self._training is not None:
            self._training.set_postfix(values)
        line = self._line or f"training: {self._described(state)}"
        self._line = ", ".join([line, *(f"{name}={value}" for name, value in values.items())])
        self._write_line()

    def on_validation_start(self, validation_cycle: int) -> None:
        """Show a bar for the validation."""
        self._start_evaluation("validation")

    def on_validation_batch_end(self, outputs: Any, step: int) -> None:
        """Advance the bar of the validation."""
        self._advance_evaluation()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Remove the bar of the validation; announce the validation in a log file."""
        self._close_evaluation()
        position = self._described(self.trainer.state, is_epoch_over=True)
        self._announce(f"validation: {self._batches} batches, after {position}")

    def on_testing_start(self) -> None:
        """Show a bar for the test."""
        self._start_evaluation("testing")

    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        """Advance the bar of the test."""
        self._advance_evaluation()

    def on_testing_end(self) -> None:
        """Remove the bar of the test; announce the test in a log file."""
        self._close_evaluation()
        self._announce(f"testing: {self._batches} batches")

    def on_training_end(self) -> None:
        """Close the bar; it stays visible."""
        self.teardown()

    def teardown(self) -> None:
        """Close all bars, so that none remains open after a run that fails."""
        self._write_line()
        self._close_evaluation()
        if self._training is not None:
            self._training.close()
            self._training = None

    @property
    def _total(self) -> int | None:
        total = self.trainer.total_steps
        return None if total == float("inf") else int(total)

    @property
    def _in_epochs(self) -> bool:
        return self.trainer.train_unit is TrainingUnit.EPOCH

    def _position(self, state: TrainingState) -> int:
        return state.global_epoch if self._in_epochs else state.current_iteration

    def _described(self, state: TrainingState, *, is_epoch_over: bool = False) -> str:
        """Return the position in words; the counter of epochs grows only after their hooks."""
        total = "" if self._total is None else f"/{self._total}"
        if not self._in_epochs:
            return f"iteration {state.current_iteration}{total}"
        if is_epoch_over:
            return f"epoch {state.global_epoch + 1}{total}"
        return f"epoch {state.global_epoch}{total}, iteration {state.current_iteration}"

    def _announce(self, line: str) -> None:
        """Keep a line, because the values that belong to it may follow in ``on_log``."""
        self._write_line()
        self._line = line

    def _write_line(self) -> None:
        if self._line and not self._shows_bars and self.global_rank == 0:
            print(self._line, file=sys.stderr, flush=True)
        self._line = ""

    def _show(self, state: TrainingState) -> None:
        if self._training is not None:
            self._training.update(self._position(state) - self._training.n)

    def _start_evaluation(self, name: str) -> None:
        self._write_line()
        self._batches = 0
        if self._shows_bars:
            self._evaluation = _bar(desc=name, unit="batch", leave=False)

    def _advance_evaluation(self) -> None:
        self._batches += 1
        if self._evaluation is not None:
            self._evaluation.update()

    def _close_evaluation(self) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None


def _can_redraw() -> bool:
    """Return whether a bar can replace its last state: on a terminal and in a notebook."""
    from tqdm import asyncio, auto  # imported only if progress is shown

    is_notebook = auto.tqdm is not asyncio.tqdm
    return is_notebook or (sys.stderr is not None and sys.stderr.isatty())


def _bar(**options: Any) -> "tqdm[Any]":
    from tqdm.auto import tqdm  # detects a notebook; imported only if a bar is shown

    return tqdm(dynamic_ncols=True, **options)
