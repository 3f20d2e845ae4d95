"""A plug-in that shows progress on the terminal, in a notebook or in a log file."""

import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from helios.core import TrainingState, TrainingUnit
from helios.plugins.builtin.bar import can_redraw, create_bar, printing_above
from helios.plugins.builtin.result_table import ResultTable
from helios.plugins.plugin import Plugin

if TYPE_CHECKING:
    from tqdm.std import tqdm

_SECONDS = 0.1  # between drawings of a bar whose counter stands still


class ProgressPlugin(Plugin):
    """Shows the progress of training, validation, testing and predictions.

    On a terminal or in a notebook, one line shows the epoch, the batch or step, the time left, and
    the newest values of training and validation. If the standard error is a file or a pipe, the
    plug-in writes a line instead: for each ``on_log``, epoch, validation and test. At the end of
    training, a table shows the values of each metric. Helios autoloads the plug-in if
    ``Trainer(enable_progress_bar=True)`` is set.
    """

    def __init__(self) -> None:
        super().__init__("progress")
        self._bar: tqdm[Any] | None = None
        self._of_training = False
        self._shows_bars = True
        self._counts_batches = True
        self._epoch = 1
        self._epoch_begins_at = 0
        self._printing = contextlib.ExitStack()
        self._evaluation = ""
        self._batches = 0
        self._drawn = 0.0
        self._began = 0.0
        self._values: dict[str, str] = {}
        self._table = ResultTable()
        self._line = ""

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Return whether the trainer enables progress bars."""
        return bool(trainer.enable_progress_bar)

    def setup(self) -> None:
        """Find out whether bars can be shown; the plug-in shows one only when a phase starts."""
        self._shows_bars = self.global_rank == 0 and can_redraw()
        self._counts_batches = self._in_epochs
        self._values, self._table = {}, ResultTable()
        self._evaluation = self._line = ""

    def on_training_start(self) -> None:
        """Show a bar that starts at the present position."""
        state, self._of_training = self.trainer.state, True
        self._epoch = state.global_epoch + 1
        self._began = time.monotonic()
        if self._shows_bars:
            initial = state.global_iteration if self._counts_batches else state.current_iteration
            self._epoch_begins_at = initial - state.dataset_iter
            unit = "batch" if self._counts_batches else "step"
            self._bar = create_bar(self._story, unit, self._total_of_bar(state), initial)
            self._printing.enter_context(printing_above(self._bar))

    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Note where the epoch begins; its length may differ from that of the last one."""
        self._epoch = state.global_epoch + 1
        if self._bar is not None and self._counts_batches:
            self._epoch_begins_at = int(self._bar.n)
            self._bar.total = self._total_of_bar(state)

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Advance the bar."""
        if self._line:
            self._write_line()
        bar = self._bar
        if bar is not None:
            bar.update(1 if self._counts_batches else state.current_iteration - bar.n)

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Announce the epoch in a log file."""
        if self._in_epochs or self.trainer.print_frequency is None:
            self._announce(f"training: {self._described(state, is_epoch_over=True)}")

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Show the newest values in the bar, or in a line of a log file."""
        values = {name: f"{value:.4g}" for name, value in metrics.items()}
        self._values.update(values)
        if self._of_training:
            self._table.add(metrics, self._described(state, is_short=True))
        if self._bar is not None:
            self._bar.postfix = _joined(dict(sorted(self._values.items(), key=_is_last)))
        line = self._line or f"training: {self._described(state)}"
        self._line = ", ".join([line, _joined(values)])
        self._write_line()

    def on_validation_start(self, validation_cycle: int) -> None:
        """Show the batches of the validation."""
        self._start_evaluation("validation")

    def on_validation_batch_end(self, outputs: Any, step: int) -> None:
        """Count a batch of the validation."""
        self._advance_evaluation()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Show the training again; announce the validation in a log file."""
        self._end_evaluation()
        position = self._described(self.trainer.state, is_epoch_over=True)
        after = f", after {position}" if self._of_training else ""
        self._announce(f"validation: {self._batches} batches{after}")

    def on_testing_start(self) -> None:
        """Show a bar for the test."""
        self._start_evaluation("testing")

    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        """Count a batch of the test."""
        self._advance_evaluation()

    def on_testing_end(self) -> None:
        """Remove the bar of the test, and announce its results."""
        self._end_evaluation()
        self._announce(f"testing: {self._batches} batches")

    def on_prediction_start(self) -> None:
        """Show a bar for the predictions."""
        self._start_evaluation("predicting")

    def on_prediction_batch_end(self, outputs: Any, step: int) -> None:
        """Count a batch of the predictions."""
        self._advance_evaluation()

    def on_prediction_end(self) -> None:
        """Remove the bar of the predictions, and announce their end."""
        self._end_evaluation()
        self._announce(f"predicting: {self._batches} batches")

    def on_training_end(self) -> None:
        """Close the bar, which stays visible, and show the table."""
        position = self._described(self.trainer.state)
        self.teardown()
        if self.global_rank == 0:
            seconds = round(time.monotonic() - self._began)
            minutes, seconds = divmod(seconds, 60)
            hours, minutes = divmod(minutes, 60)
            took = f"{hours}:{minutes:02}:{seconds:02}"
            self._table.show(f"training: {position}, took {took}")

    def teardown(self) -> None:
        """Close the bar, so that it does not remain open after a run that fails."""
        self._write_line()
        self._printing.close()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._of_training = False

    # The position.

    @property
    def _total(self) -> int | None:
        total = self.trainer.total_steps
        return None if total == math.inf else int(total)

    @property
    def _in_epochs(self) -> bool:
        return self.trainer.train_unit is TrainingUnit.EPOCH

    @property
    def _batches_per_epoch(self) -> int | float:
        return self.trainer.model.session.batches_per_epoch()

    def _total_of_bar(self, state: TrainingState) -> int | None:
        """Return the number of batches or steps of the run; ``None`` if it is unknown."""
        if not self._counts_batches or self._total is None:
            return self._total
        epochs = self._total - state.global_epoch
        number = state.global_iteration - state.dataset_iter + epochs * self._batches_per_epoch
        return None if math.isinf(number) else int(number)

    def _story(self) -> str:
        """Return the position in words for the bar."""
        state, bar = self.trainer.state, self._bar
        total = "" if self._total is None else f"/{self._total}"
        if self._evaluation and not self._of_training:
            return self._evaluation_story()
        done = state.global_iteration if bar is None else int(bar.n)
        if self._counts_batches:
            batch = self._evaluation_story() or self._batch_story(done - self._epoch_begins_at)
            return f"epoch {self._epoch}{total}, {batch}"
        place = f"step {state.current_iteration if bar is None else done}{total}"
        return f"{place}, {self._evaluation_story() or f'epoch {self._epoch}'}"

    def _batch_story(self, batch: int) -> str:
        number = self._batches_per_epoch
        return f"batch {batch}" if math.isinf(number) else f"batch {batch}/{number}"

    def _evaluation_story(self) -> str:
        if not self._evaluation:
            return ""
        number = self.trainer.model.session.batches_per_evaluation()
        return f"{self._evaluation} {self._batches}{'' if number is None else f'/{number}'}"

    def _described(
        self, state: TrainingState, *, is_epoch_over: bool = False, is_short: bool = False
    ) -> str:
        """Return the position in words."""
        total = "" if self._total is None or is_short else f"/{self._total}"
        if not self._in_epochs:
            return f"{'step' if is_short else 'iteration'} {state.current_iteration}{total}"
        if is_epoch_over or is_short:
            return f"epoch {state.epoch_number}{total}"
        return f"epoch {state.epoch_number}{total}, iteration {state.current_iteration}"

    # The lines of a log file, and of evaluations without training.

    def _announce(self, line: str) -> None:
        """Keep a line, because the values that belong to it may follow in ``on_log``."""
        self._write_line()
        self._line = line

    def _write_line(self) -> None:
        if self._line and self._bar is None and self.global_rank == 0:
            print(self._line, file=sys.stderr, flush=True)
        self._line = ""

    # Evaluations.

    def _start_evaluation(self, name: str) -> None:
        self._write_line()
        self._batches, self._evaluation = 0, name
        if self._shows_bars and self._bar is None:
            total = self.trainer.model.session.batches_per_evaluation()
            self._bar = create_bar(self._story, "batch", total, leave=False)

    def _advance_evaluation(self) -> None:
        self._batches += 1
        if self._bar is None:
            return
        if not self._of_training:
            self._bar.update()
        elif (now := time.monotonic()) - self._drawn > _SECONDS:
            self._drawn = now
            self._bar.refresh()

    def _end_evaluation(self) -> None:
        self._evaluation = ""
        if self._bar is not None and not self._of_training:
            self._bar.close()
            self._bar = None


def _is_last(item: tuple[str, str]) -> bool:
    """Return whether a value comes after the others, because a narrow terminal cuts the line."""
    return item[0].startswith("throughput/")


def _joined(values: dict[str, str]) -> str:
    short = {name.removeprefix("throughput/"): value for name, value in values.items()}
    return ", ".join(f"{name}={value}" for name, value in short.items())
