"""Checkpoint files: written whole or not at all, checked when read, the newest good one found."""

import collections
import hashlib
import logging
import os
import pathlib
import pickle
import re
import zipfile
from typing import Any

import torch

from helios.core import safe_torch_load
from helios.errors import CheckpointError, DamagedCheckpointError

SUFFIX = ".pth"
_TEMPORARY = ".tmp"
_SEAL = b"\nhelios sha256 "
"""Stands behind the archive that PyTorch has written, followed by the checksum of the archive."""
_SEAL_SIZE = len(_SEAL) + 64
_LARGEST_INT = 255 * 8 - 1  # bits: PyTorch's safe unpickler reads integers of up to 255 bytes
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
        CheckpointError: the payload holds something that could not be loaded again. What was at
            ``path`` is still there.
    """
    _check_plain(payload, "")
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
        _verify_archive(temporary)
        seal = _SEAL + _digest(temporary, temporary.stat().st_size)
        with open(temporary, "ab") as file:
            file.write(seal)
            file.flush()
            os.fsync(file.fileno())
        verify(temporary)
        _read(temporary, "cpu", mmap=True)  # what cannot be loaded must not replace what can
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: pathlib.Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Check and read a checkpoint; nothing in it is executed.

    Args:
        path: the file.
        map_location: where its tensors go, as for :func:`torch.load`.

    Raises:
        DamagedCheckpointError: the file is not as it was written.
        CheckpointError: the file holds something that is not plain data.
    """
    verify(path)
    payload = _read(path, map_location, mmap=False)  # or the file could not be replaced meanwhile
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    return payload


def verify(path: pathlib.Path) -> None:
    """Compare a file with its checksum.

    Raises:
        DamagedCheckpointError: the file is cut or changed.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _SEAL_SIZE))
        _, seal, digest = file.read().rpartition(_SEAL)
    if not seal:
        _verify_archive(path)
    elif digest != _digest(path, size - len(seal) - len(digest)):
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: its checksum is wrong.")


def _verify_archive(path: pathlib.Path) -> None:
    """Check a file that was not sealed by :func:`save`, by the checksums of its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            end = 22 + len(archive.comment)  # of the record that ends an archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: {error}.") from error
    if damaged is not None:
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged in its part {damaged}.")
    with open(path, "rb") as file:
        file.seek(-end, os.SEEK_END)
        if not file.read().startswith(b"PK\5\6"):
            raise DamagedCheckpointError(f"the checkpoint {path} is damaged: its end is cut off.")


def _read(path: pathlib.Path, map_location: Any, mmap: bool) -> Any:
    try:
        return safe_torch_load(path, map_location=map_location, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the checkpoint {path} is refused: it holds more than plain data, which could run"
            f" code: {error}\nIt was not written by Helios. Remove it to go on from the one before"
            " it."
        ) from error
    except Exception as error:
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: {error}.") from error


def _digest(path: pathlib.Path, size: int) -> bytes:
    """Return the SHA-256 of the first bytes of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest().encode()


def candidates(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the checkpoints in a folder, the newest first, by epoch and then by iteration."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        position = _POSITION.match(path.stem)
        if position:
            found.append((int(position[1]), int(position[2]), path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(found, reverse=True)]


def load_last_checkpoint(
    root: pathlib.Path | None, map_location: Any = "cpu"
) -> tuple[pathlib.Path, dict[str, Any]] | None:
    """Return path and content of the newest checkpoint in a folder that is not damaged.

    Args:
        root: the folder; ``None`` is answered with ``None``.
        map_location: where its tensors go, as for :func:`torch.load`.

    Raises:
        CheckpointError: the newest one that is not damaged holds more than plain data.
    """
    for path in candidates(root) if root is not None else []:
        try:
            return path, load(path, map_location)
        except DamagedCheckpointError as error:
            _logger.warning("%s It is skipped; an older one is used if there is one.", error)
    return None


def find_last_checkpoint(root: pathlib.Path | None) -> pathlib.Path | None:
    """Return the path of the checkpoint that :func:`load_last_checkpoint` would load."""
    found = load_last_checkpoint(root)
    return found[0] if found else None


def remove_leftovers(folder: pathlib.Path) -> None:
    """Delete what saves that were killed have left behind."""
    for path in folder.glob(f"*{SUFFIX}{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _check_plain(value: Any, where: str) -> None:
    """Refuse what ``torch.load(weights_only=True)`` would refuse, while nothing is lost yet."""
    is_odd = value == b"" if type(value) is bytes else _is_huge(value)
    if (not is_odd and type(value) in _PLAIN) or isinstance(value, _PLAIN_TORCH):
        return
    if is_odd or type(value) not in _CONTAINERS:
        raise CheckpointError(
            f"cannot save checkpoint entry {where}: it is a {type(value).__module__}."
            f"{type(value).__qualname__}, which could not be loaded again safely. State must be"
            " plain: numbers, strings, tensors, and lists, tuples and dictionaries of them."
        )
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            _check_plain(key, f"{where}, key {key!r}")
        _check_plain(item, f"{where}[{key!r}]")


def _is_huge(value: Any) -> bool:
    return type(value) is int and value.bit_length() > _LARGEST_INT


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
