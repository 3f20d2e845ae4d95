"""The names of checkpoints: they tell the position of the run."""

import os
import pathlib
import re
from typing import NamedTuple

SUFFIX = ".pth"
TEMPORARY = ".tmp"
"""The suffix of a file that is being written, after :data:`SUFFIX`."""

_LONGEST_NAME = 255  # bytes, on all common file systems
_NAME = re.compile(r".*_epoch_(\d+)_iter_(\d+)")  # greedy: the last one, whatever precedes it


class Position(NamedTuple):
    """The position of a run when it saved a checkpoint; the larger, the newer.

    Attributes:
        epoch: epochs completed.
        iteration: optimizer steps taken.
    """

    epoch: int
    iteration: int


def format_name(save_name: str, position: Position) -> str:
    """Return the name of a checkpoint, without suffix and without what the model appends."""
    return f"{save_name}_epoch_{position.epoch}_iter_{position.iteration}"


def parse_name(name: str) -> Position | None:
    """Return the position in the name of a checkpoint; ``None`` if it is another file."""
    found = _NAME.match(name)
    return None if found is None else Position(int(found[1]), int(found[2]))


def is_file_name(name: str) -> bool:
    """Whether a name can be that of a folder, and of the files of checkpoints in it."""
    longest = os.fsencode(name + SUFFIX + TEMPORARY)
    is_one_part = pathlib.PurePath(name).name == name and name != ".."
    return is_one_part and len(longest) <= _LONGEST_NAME
