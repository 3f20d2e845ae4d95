"""The names of checkpoints, which contain the position of the run."""

import pathlib
import re
from typing import NamedTuple

from helios.core import rules

SUFFIX = ".pth"
SHARDED = ".dcp"
"""The suffix of a folder to which several ranks write."""
CONTENT = "helios.pt"
"""The file in such a folder with everything that is not divided among ranks."""
TEMPORARY = ".tmp"
"""The suffix of a file or folder that is being written, after its own."""
PREVIOUS = ".old"
"""The suffix of a folder that is being replaced, after its own."""

_NAME = re.compile(r".*_epoch_(\d+)_iter_(\d+)")  # greedy: finds the last match in the name


class Position(NamedTuple):
    """The position of a run when it saved a checkpoint. A larger position is newer.

    Attributes:
        epoch: the number of completed epochs.
        iteration: the number of optimizer steps taken.
    """

    epoch: int
    iteration: int


def format_name(save_name: str, position: Position) -> str:
    """Return the name of a checkpoint, without its suffix and the model's additions."""
    return f"{save_name}_epoch_{position.epoch}_iter_{position.iteration}"


def parse_name(name: str) -> Position | None:
    """Return the position in the name of a checkpoint; ``None`` for any other name."""
    found = _NAME.match(name)
    return None if found is None else Position(int(found[1]), int(found[2]))


def is_file_name(name: str) -> bool:
    """Return whether a folder, and the checkpoint files in it, can have this name."""
    is_one_part = pathlib.PurePath(name).name == name and name != ".."
    return is_one_part and rules.is_file_name(name + SUFFIX + TEMPORARY)
