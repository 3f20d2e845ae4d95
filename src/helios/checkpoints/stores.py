"""The two stores of checkpoints: a file, or a folder to which several ranks have written."""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from helios.checkpoints import storage
from helios.checkpoints.naming import CONTENT, TEMPORARY

Check = Callable[[pathlib.Path, Mapping[str, Any]], None]
"""A function that verifies the files of a folder, by what they must hold."""

Load = Callable[[pathlib.Path], dict[str, Any]]


def is_checkpoint(path: pathlib.Path) -> bool:
    """Return whether a path may be that of a checkpoint: a file, or a folder of shards."""
    return path.is_file() or (path / CONTENT).is_file()


def load(path: pathlib.Path) -> dict[str, Any]:
    """Verify and read a checkpoint with whole tensors, without running any code in it.

    Raises:
        DamagedCheckpointError: the content has changed.
        CheckpointError: it holds more than plain data.
    """
    return fill(path, read(path))


def read(path: pathlib.Path, check: Check | None = None) -> dict[str, Any]:
    """Verify and read a checkpoint; the divided tensors in a folder have no values yet.

    Args:
        path: the path of the file or folder.
        check: the function that verifies a folder; by default, this process alone does.

    Raises:
        DamagedCheckpointError: the content has changed.
        CheckpointError: it holds more than plain data.
    """
    if not path.is_dir():
        return storage.load(path)
    from helios.checkpoints import sharded_load  # imports much of torch.distributed

    return sharded_load.read(path, check or sharded_load.verify)


def fill(path: pathlib.Path, payload: dict[str, Any], mesh: Any = None) -> dict[str, Any]:
    """Return the result of :func:`read` with its divided tensors.

    Args:
        path: the path of the file or folder.
        payload: the content.
        mesh: the ranks among which to divide the tensors; ``None`` for whole tensors.

    Raises:
        CheckpointError: the folder is damaged, or holds more than plain data.
    """
    if "shards" not in payload:
        return payload
    from helios.checkpoints import sharded_load

    return sharded_load.fill(path, payload, mesh)


def peek(path: pathlib.Path) -> dict[str, Any]:
    """Read a checkpoint without verifying it; the divided tensors in a folder have no values.

    Raises:
        CheckpointError: it cannot be read, or is no checkpoint.
    """
    if not path.is_dir():
        return storage.peek(path)
    from helios.checkpoints import sharded_load

    return sharded_load.peek(path)


def verify(path: pathlib.Path) -> bool:
    """Verify a checkpoint by its checksums.

    Returns:
        ``True`` if it has checksums of its own.

    Raises:
        DamagedCheckpointError: it is truncated or changed.
    """
    if not path.is_dir():
        return storage.verify(path)
    read(path)
    return True


def size(path: pathlib.Path) -> int:
    """Return the size of a checkpoint on the disk, in bytes."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.iterdir())


def delete(path: pathlib.Path) -> None:
    """Delete a checkpoint, so that no part of it is left under its name."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    dying = path.with_name(path.name + TEMPORARY)
    shutil.rmtree(dying, ignore_errors=True)
    path.rename(dying)
    shutil.rmtree(dying)
