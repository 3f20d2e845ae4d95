"""A plug-in that writes logged metrics as JSON lines into the folder of the run."""

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

    A line contains ``iteration``, ``batch``, ``epoch`` and ``metrics``. A value that is not finite
    is a string. A resumed run removes the lines after its checkpoint, because it writes them again.
    Helios autoloads the plug-in if ``Trainer(run_root=...)`` is set.
    """

    def __init__(self) -> None:
        super().__init__("metrics-file")
        self._file: TextIO | None = None
        self._size = 0

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Return whether the run has a folder."""
        return trainer.run_root is not None

    @property
    def path(self) -> "pathlib.Path":
        """The path of the file."""
        assert self.trainer.run_root is not None, "metrics-file needs Trainer(run_root=...)"
        return self.trainer.run_root / "metrics.jsonl"

    def setup(self) -> None:
        """Create the folder, and reset the state of an earlier run."""
        self._size = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the present size of the file in bytes."""
        return {"size": self.path.stat().st_size if self.path.exists() else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the size at which a resumed run continues the file."""
        self._size = state_dict["size"]

    def on_training_start(self) -> None:
        """Remove the lines that the run will write again."""
        if self.path.exists():
            os.truncate(self.path, min(self._size, self.path.stat().st_size))

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Append a line."""
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        # JSON has no NaN and no infinity, so the plug-in writes them as strings.
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
