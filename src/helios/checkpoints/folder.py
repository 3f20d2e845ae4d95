"""Functions for a folder of checkpoints: find the newest one, and check that others fit."""

import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from helios.checkpoints import storage, stores
from helios.checkpoints.lock import FolderLock
from helios.checkpoints.naming import PREVIOUS, SHARDED, SUFFIX, TEMPORARY, parse_name
from helios.errors import CheckpointError, ConfigurationError, DamagedCheckpointError

_logger = logging.getLogger(__name__)


def candidates(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the checkpoints in a folder, the newest first, by epoch and then by iteration."""
    found = []
    for path in (*folder.glob(f"*{SUFFIX}"), *_folders(folder)):
        where = parse_name(path.stem)
        try:
            if where is not None and path.is_dir() == (path.suffix != SUFFIX):
                found.append((where, path.stat().st_mtime_ns, path))
        except FileNotFoundError:  # another process has just deleted it
            continue
    return [path for *_, path in sorted(found, reverse=True)]


def _folders(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Iterate over sharded checkpoints, also those whose writer was killed as it replaced them."""
    yield from folder.glob(f"*{SHARDED}")
    for path in folder.glob(f"*{SHARDED}{PREVIOUS}"):
        if not path.with_suffix("").exists():
            yield path


def load_last_checkpoint(
    root: pathlib.Path | None, load: stores.Load = stores.load
) -> tuple[pathlib.Path, dict[str, Any]] | None:
    """Return the path and the content of the newest undamaged checkpoint in a folder.

    Args:
        root: the folder. If it is ``None``, the function returns ``None``.
        load: the function that verifies and reads a checkpoint.

    Raises:
        CheckpointError: the newest undamaged checkpoint holds more than plain data.
    """
    for path in candidates(root) if root is not None else []:
        try:
            return path, load(path)
        except DamagedCheckpointError as error:
            _logger.warning("%s It is skipped; an older one is used, if one exists.", error)
        except FileNotFoundError:
            _logger.warning("%s has just been deleted; an older one is used, if one exists.", path)
    return None


def find_last_checkpoint(root: pathlib.Path | None) -> pathlib.Path | None:
    """Return the path of the checkpoint that :func:`load_last_checkpoint` would load."""
    found = load_last_checkpoint(root, stores.read)
    return found[0] if found else None


def claim(folder: pathlib.Path) -> FolderLock:
    """Create a folder, check that it is writable, lock it, and delete temporary files.

    Returns:
        The lock. Release it when the run has ended.

    Raises:
        ConfigurationError: the folder cannot be created or written, or another run uses it.
    """
    probe = folder / f"writable-{os.getpid()}{SUFFIX}{TEMPORARY}"
    lock = FolderLock(folder)
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            storage.sync_folder(path.parent)  # or a power failure could remove it
        try:
            probe.write_bytes(b"?")
        finally:
            probe.unlink(missing_ok=True)
        lock.acquire()
        for path in folder.glob(f"*{SUFFIX}{TEMPORARY}"):
            path.unlink(missing_ok=True)  # its writer is dead: a live one would hold the lock
        for path in folder.glob(f"*{SHARDED}{TEMPORARY}"):
            shutil.rmtree(path)
        for path in folder.glob(f"*{SHARDED}{PREVIOUS}"):
            if path.with_suffix("").exists():
                shutil.rmtree(path)
            else:
                path.rename(path.with_suffix(""))
    except OSError as error:
        lock.release()
        raise ConfigurationError(
            f"checkpoints cannot be saved in {folder}: {error.strerror}. Make it writable, or pass"
            " another folder as chkpt_root."
        ) from error
    return lock


def require_space(folder: pathlib.Path, needed: int) -> None:
    """Raise an error if the next checkpoint would not fit on the disk.

    Args:
        folder: the folder for the next checkpoint.
        needed: the size of the newest checkpoint, in bytes.

    Raises:
        CheckpointError: less space is free.
    """
    free = free_space(folder)
    if free < needed:
        raise CheckpointError(
            f"the next checkpoint does not fit in {folder}: the newest takes {needed:,} bytes, and"
            f" {free:,} are free. Free some space, or pass another folder as chkpt_root."
        )


def free_space(folder: pathlib.Path) -> int:
    """Return how many bytes are free on the disk of a folder."""
    return shutil.disk_usage(folder).free
