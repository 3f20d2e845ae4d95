"""Logged metrics as JSON lines, in the folder of the run."""

import json
import math
import os
from typing import TYPE_CHECKING, Any, TextIO

from helios.core import TrainingState
from helios.plugins.plugin import Plugin

if TYPE_CHECKING:
    import pathlib


class MetricsFilePlugin(Plugin):
    """Writes each set of logged metrics as one line of ``<run_root>/metrics.jsonl``.

    A line holds ``iteration``, ``batch``, ``epoch`` and ``metrics``; a value that is not finite is
    a string. A resumed run drops the lines
    that were written after its checkpoint, since they will be written again. Autoloaded where
    ``Trainer(run_root=...)``.
    """

    def __init__(self) -> None:
        super().__init__("metrics-file")
        self._file: TextIO | None = None
        self._size = 0

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Whether the run has a folder."""
        return trainer.run_root is not None

    @property
    def path(self) -> "pathlib.Path":
        """The file."""
        assert self.trainer.run_root is not None, "metrics-file needs Trainer(run_root=...)"
        return self.trainer.run_root / "metrics.jsonl"

    def setup(self) -> None:
        """Make sure that the folder is there, and forget an earlier run."""
        self._size = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return how much of the file belongs to the run so far, in bytes."""
        return {"size": self.path.stat().st_size if self.path.exists() else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where a resumed run is to go on writing."""
        self._size = state_dict["size"]

    def on_training_start(self) -> None:
        """Drop what the run is going to write again."""
        if self.path.exists():
            os.truncate(self.path, min(self._size, self.path.stat().st_size))

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Append a line."""
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        # JSON has no NaN and no infinity: those are written as strings.
        values = {name: v if math.isfinite(v) else str(v) for name, v in metrics.items()}
        line: dict[str, Any] = {
            "iteration": state.current_iteration,
            "batch": state.global_iteration,
            "epoch": state.global_epoch,
            "metrics": values,
        }
        self._file.write(json.dumps(line) + "\n")

    def teardown(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
