"""A folder of checkpoints: which is the newest good one, and whether another one can be saved."""

import logging
import pathlib
import re
import shutil
from typing import Any, NamedTuple

from helios.errors import CheckpointError, ConfigurationError, DamagedCheckpointError
from helios.trainer import storage

_POSITION = re.compile(r".*_epoch_(\d+)_iter_(\d+)")  # greedy: the last one, whatever precedes it

_logger = logging.getLogger(__name__)


class Position(NamedTuple):
    """Where a run stood when it saved a checkpoint; the larger, the newer.

    Attributes:
        epoch: epochs completed.
        iteration: optimizer steps taken.
    """

    epoch: int
    iteration: int


def position(name: str) -> Position | None:
    """Return the position that the name of a checkpoint tells; ``None`` if it is another file."""
    found = _POSITION.match(name)
    return None if found is None else Position(int(found[1]), int(found[2]))


def candidates(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the checkpoints in a folder, the newest first, by epoch and then by iteration."""
    found = []
    for path in folder.glob(f"*{storage.SUFFIX}"):
        where = position(path.stem)
        try:
            if where is not None and path.is_file():
                found.append((where, path.stat().st_mtime_ns, path))
        except FileNotFoundError:  # another process has just deleted it
            continue
    return [path for *_, path in sorted(found, reverse=True)]


def load_last_checkpoint(
    root: pathlib.Path | None,
) -> tuple[pathlib.Path, dict[str, Any]] | None:
    """Return path and content of the newest checkpoint in a folder that is not damaged.

    Args:
        root: the folder; ``None`` is answered with ``None``.

    Raises:
        CheckpointError: the newest one that is not damaged holds more than plain data.
    """
    for path in candidates(root) if root is not None else []:
        try:
            return path, storage.load(path)
        except DamagedCheckpointError as error:
            _logger.warning("%s It is skipped; an older one is used if there is one.", error)
        except FileNotFoundError:
            _logger.warning("%s has just been deleted; an older one is used if there is one.", path)
    return None


def find_last_checkpoint(root: pathlib.Path | None) -> pathlib.Path | None:
    """Return the path of the checkpoint that :func:`load_last_checkpoint` would load."""
    found = load_last_checkpoint(root)
    return found[0] if found else None


def prepare(folder: pathlib.Path) -> None:
    """Create a folder, make sure that files can be created in it, and tidy up.

    Raises:
        ConfigurationError: it cannot be created or written.
    """
    probe = folder / f"writable{storage.SUFFIX}{storage.TEMPORARY}"
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            storage.sync_folder(path.parent)  # or a power failure could take it away again
        try:
            probe.write_bytes(b"?")
        finally:
            for path in folder.glob(f"*{storage.SUFFIX}{storage.TEMPORARY}"):
                path.unlink(missing_ok=True)  # the probe, and what killed saves have left
    except OSError as error:
        raise ConfigurationError(
            f"checkpoints cannot be saved in {folder}: {error.strerror}. Make it writable, or name"
            " another folder in chkpt_root."
        ) from error


def require_space(folder: pathlib.Path, needed: int) -> None:
    """Refuse to start where the next checkpoint would not fit.

    Args:
        folder: where it would be written.
        needed: the size of the one before it, in bytes.

    Raises:
        CheckpointError: there is less space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"the next checkpoint does not fit in {folder}: the newest takes {needed:,} bytes, and"
            f" {free:,} are free. Make room, or name another folder in chkpt_root."
        )
