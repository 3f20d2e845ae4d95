"""Checkpoint files: written whole or not at all, checked when read, the newest good one found."""

import collections
import logging
import os
import pathlib
import re
import zipfile
from typing import Any

import torch

from helios.core import safe_torch_load
from helios.errors import CheckpointError

SUFFIX = ".pth"
_TEMPORARY = ".tmp"
_POSITION = re.compile(r".*_epoch_(\d+)_iter_(\d+)")  # greedy: the last one, whatever precedes it
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.nn.Parameter)
_PLAIN_TORCH = (torch.device, torch.dtype, torch.Size)
_CONTAINERS = (list, tuple, dict, set, collections.OrderedDict)

_logger = logging.getLogger(__name__)


def save(payload: dict[str, Any], path: pathlib.Path) -> None:
    """Write a checkpoint so that the file is either complete and durable, or absent.

    Args:
        payload: plain containers, numbers, strings and tensors.
        path: the file to create or replace; its folder must exist.

    Raises:
        CheckpointError: the payload holds something that could not be loaded again, or the file
            did not read back as it was written. What was at ``path`` is still there.
    """
    _check_plain(payload, "")
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        verify(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: pathlib.Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Check and read a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: the file is damaged, or holds something that is not plain data.
    """
    verify(path)
    try:
        payload = safe_torch_load(path, map_location=map_location)
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: {error}\nIt is damaged, or was not written by"
            " Helios. Remove it to go on from the one before it."
        ) from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    return payload


def verify(path: pathlib.Path) -> None:
    """Compare every part of a file with its checksum.

    Raises:
        CheckpointError: the file is cut or changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged: {error}.") from error
    if damaged is not None:
        raise CheckpointError(f"the checkpoint {path} is damaged: checksum of {damaged} is wrong.")


def candidates(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the checkpoints in a folder, the newest first, by epoch and then by iteration."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        position = _POSITION.match(path.stem)
        if position:
            found.append((int(position[1]), int(position[2]), path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(found, reverse=True)]


def find_last_checkpoint(root: pathlib.Path | None) -> pathlib.Path | None:
    """Return the newest checkpoint in a folder that is not damaged.

    Args:
        root: the folder; ``None`` is answered with ``None``.
    """
    for path in candidates(root) if root is not None else []:
        try:
            verify(path)
        except CheckpointError as error:
            _logger.warning("%s It is skipped; an older one is used if there is one.", error)
        else:
            return path
    return None


def remove_leftovers(folder: pathlib.Path) -> None:
    """Delete what saves that were killed have left behind."""
    for path in folder.glob(f"*{SUFFIX}{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _check_plain(value: Any, where: str) -> None:
    """Refuse what ``torch.load(weights_only=True)`` would refuse, while nothing is lost yet."""
    if type(value) in _PLAIN or isinstance(value, _PLAIN_TORCH):
        return
    if type(value) not in _CONTAINERS:
        raise CheckpointError(
            f"cannot save checkpoint entry {where}: it is a {type(value).__module__}."
            f"{type(value).__qualname__}, which could not be loaded again safely. State must be"
            " plain: numbers, strings, tensors, and lists, tuples and dictionaries of them."
        )
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            _check_plain(key, f"{where}, key {key!r}")
        _check_plain(item, f"{where}[{key!r}]")


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
