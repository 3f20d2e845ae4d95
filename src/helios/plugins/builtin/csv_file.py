"""A plug-in that writes logged metrics as a table of comma-separated values."""

import csv
import io
import os
import pathlib
from typing import Any, TextIO

from helios.core import TrainingState
from helios.errors import ConfigurationError
from helios.plugins.plugin import Plugin

_POSITION = ("iteration", "batch", "epoch", "phase")
"""The first columns of the table."""


class CSVPlugin(Plugin):
    """Writes each set of logged metrics as one row of ``<run_root>/metrics.csv``.

    The first columns are ``iteration``, ``batch``, ``epoch`` and ``phase``; a column for each
    metric follows, in the order in which they come. A field is empty if the metric was not logged
    at that moment. If a new metric appears, the plug-in writes the whole table again, with a column
    more. A resumed run removes the rows of training and validation after its checkpoint, because it
    writes them again, so each row is there once. A new run in a used folder writes
    ``metrics-2.csv``, and ``Trainer(fast_dev_run=True)`` no file.

    Raises:
        ConfigurationError: the trainer has no ``run_root``.

    Example:
        .. code-block:: python

            Trainer(..., run_root="runs/first", plugins=["csv"])
    """

    autoload = False
    summary = "writes logged metrics to metrics.csv"

    def __init__(self) -> None:
        super().__init__("csv")
        self._file: TextIO | None = None
        self._columns = list(_POSITION)
        self._rows = 0
        self._is_test = False

    @property
    def path(self) -> pathlib.Path:
        """The path of the file."""
        return self.trainer.run_path("metrics.csv")

    def setup(self) -> None:
        """Begin each run without a table.

        Raises:
            ConfigurationError: the trainer has no ``run_root``.
        """
        self._file, self._columns = None, list(_POSITION)
        self._rows, self._is_test = 0, False
        if self.trainer.run_root is None and not self.trainer.limits.dev_run:
            raise ConfigurationError(
                "plug-in 'csv' writes into the folder of the run: pass Trainer(run_root=...)."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that a resumed run keeps, by their number, and the columns."""
        return {"rows": self._rows, "columns": list(self._columns)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._rows, self._columns = state_dict["rows"], list(state_dict["columns"])

    def on_testing_start(self) -> None:
        """Keep all rows; a test writes none of them again."""
        self._is_test = True

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Append a row."""
        if self.global_rank > 0 or self.trainer.limits.dev_run:
            return
        if self._file is None:
            self._open()
        new = [name for name in metrics if name not in self._columns]
        if new:
            self._add(new)
        row: dict[str, Any] = {
            "iteration": state.current_iteration,
            "batch": state.global_iteration,
            "epoch": max(state.epoch_number - 1, 0) if phase == "training" else state.global_epoch,
            "phase": phase,
            **metrics,
        }
        assert self._file is not None, "_open() has opened it"
        _writer(self._file, self._columns).writerow(row)
        self._file.flush()
        self._rows += 1

    def teardown(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """Open the table, and remove what the run writes again."""
        path = self.path
        columns, rows = _read(path)
        if self._is_test:
            kept = rows
            self._columns = [*self._columns, *(c for c in columns if c not in self._columns)]
        else:
            later = [row for row in rows[self._rows :] if row.get("phase") == "testing"]
            kept = [*rows[: self._rows], *later]
            used = [column for row in later for column, value in row.items() if value != ""]
            self._columns = list(dict.fromkeys([*self._columns, *used]))
        self._rows = len(kept)
        self._write(kept)

    def _add(self, columns: list[str]) -> None:
        _, rows = _read(self.path)
        if self._file is not None:
            self._file.close()
        self._columns += columns
        self._write(rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Write the table again, in one step, so that a reader never sees a part of it."""
        path = self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = _writer(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8", newline="")


def _writer(file: TextIO, columns: list[str]) -> "csv.DictWriter[str]":
    return csv.DictWriter(file, columns, restval="", lineterminator="\n", extrasaction="ignore")


def _read(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the complete rows of a table; none if it does not exist."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return [], []
    complete = text[: text.rfind("\n") + 1]  # a process that was killed may have left half a row
    reader = csv.DictReader(io.StringIO(complete, newline=""))
    rows = [row for row in reader if None not in row and None not in row.values()]
    return list(reader.fieldnames or []), rows
