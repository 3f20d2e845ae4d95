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

    A line contains ``iteration``, ``batch``, ``epoch`` and ``metrics``; those of a test also
    contain ``"phase": "test"``, and those of ``validate`` and ``predict`` the phase of ``on_log``.
    A value that is not finite is a string. A resumed run removes the lines of training after its
    checkpoint, because it writes them again. A new run in a used folder writes
    ``metrics-2.jsonl``. Helios autoloads the plug-in if ``Trainer(run_root=...)`` is set.
    """

    def __init__(self) -> None:
        super().__init__("metrics-file")
        self._file: TextIO | None = None
        self._size = 0
        self._is_training = False

    @classmethod
    def applies_to(cls, trainer: Any) -> bool:
        """Return whether the run has a folder."""
        return trainer.run_root is not None

    @property
    def path(self) -> "pathlib.Path":
        """The path of the file."""
        assert self.trainer.run_root is not None, "metrics-file needs Trainer(run_root=...)"
        return self.trainer.run_path("metrics.jsonl")

    def setup(self) -> None:
        """Create the folder, and reset the state of an earlier run."""
        self._size = 0
        self._is_training = False
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the size of the file in bytes, without the lines that a resumed run removes."""
        if self._file is not None:
            self._size = os.fstat(self._file.fileno()).st_size
        return {"size": self._size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the size at which a resumed run continues the file."""
        self._size = state_dict["size"]

    def on_training_start(self) -> None:
        """Remove lines only in training, because other runs write none of them again."""
        self._is_training = True

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Append a line, in the process with rank 0."""
        if self.global_rank > 0:
            return
        if self._file is None:
            if self._is_training and self.path.exists():
                _remove_training(self.path, self._size)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        # JSON has no NaN and no infinity, so the plug-in writes them as strings.
        values = {name: v if math.isfinite(v) else str(v) for name, v in metrics.items()}
        line: dict[str, Any] = {
            "iteration": state.current_iteration,
            "batch": state.global_iteration,
            "epoch": max(state.epoch_number - 1, 0) if phase == "training" else state.global_epoch,
            "metrics": values,
        }
        if not self._is_training:
            line["phase"] = "test" if phase == "testing" else phase
        self._file.write(json.dumps(line) + "\n")

    def teardown(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._size = os.fstat(self._file.fileno()).st_size
            self._file.close()
            self._file = None


def _remove_training(path: "pathlib.Path", size: int) -> None:
    """Remove the lines of training after a position, and an incomplete line at the end."""
    with path.open("r+b") as file:
        file.seek(min(size, path.stat().st_size))
        start = file.tell()
        kept = [line for line in file if line.endswith(b"\n") and not _is_of_training(line)]
        file.seek(start)
        file.writelines(kept)
        file.truncate()


def _is_of_training(line: bytes) -> bool:
    try:
        return "phase" not in json.loads(line)
    except (ValueError, TypeError):  # not a line of ours
        return True
