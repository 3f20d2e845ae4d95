"""Checkpoint files: written completely or not at all, and verified when read."""

import hashlib
import io
import os
import pathlib
import pickle
import shutil
import zipfile
from typing import Any

import torch

from helios.checkpoints import plain
from helios.checkpoints.naming import TEMPORARY
from helios.core import safe_torch_load
from helios.errors import CheckpointError, DamagedCheckpointError

_SEAL = b"\nhelios sha256 "
"""The text after the archive that PyTorch has written. The archive's checksum follows it."""
_SEAL_SIZE = len(_SEAL) + 64


class _File(io.BufferedWriter):
    """A new file, which computes the checksum of its content."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self._digest.update(data)
        try:
            return super().write(data)
        except OSError as error:
            self.error = error  # PyTorch would replace it by another one
            raise

    def seal(self) -> bytes:
        """Append the checksum, wait until all data is on the disk, and return the checksum."""
        digest = self._digest.hexdigest().encode()
        super().write(_SEAL + digest)
        self.flush()
        os.fsync(self.fileno())
        return digest


def save(payload: dict[str, Any], path: pathlib.Path) -> None:
    """Write a checkpoint so that the file is either complete and durable, or absent.

    A temporary file is written and read back before it gets its name.

    Args:
        payload: the content, in plain containers, numbers, strings and tensors.
        path: the path of the file to create or replace; its folder must exist.

    Raises:
        CheckpointError: the payload holds a value that could not be loaded again. A file at
            ``path`` does not change.
        OSError: the file cannot be written, perhaps because the disk is full. A file at ``path``
            does not change.
    """
    plain.check(payload)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        digest = _write(payload, temporary)
        if digest != _digest(temporary, temporary.stat().st_size - _SEAL_SIZE):
            raise DamagedCheckpointError(
                f"the checkpoint {path} is damaged: the disk returns other data than was"
                " written. The previous checkpoint is unchanged; check the disk."
            )
        _read(temporary, "cpu", mmap=True)  # an unreadable file must not replace a readable one
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _explain(error, path, payload)
        raise


def _write(payload: dict[str, Any], path: pathlib.Path) -> bytes:
    file = _File(path)
    try:
        with file:
            torch.save(payload, file)
            return file.seal()
    except Exception as error:
        if file.error is not None and error is not file.error:
            raise file.error from None  # the other one only says that a write failed
        raise


def _explain(error: OSError, path: pathlib.Path, payload: dict[str, Any]) -> None:
    """Add the file to an error, the space that it needs, and advice."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)
    try:
        free = f"{shutil.disk_usage(path.parent).free:,}"
    except OSError:
        free = "an unknown number"
    error.add_note(
        f"The checkpoint {path} is not saved; the previous one is unchanged. It needs about"
        f" {plain.size(payload):,} bytes, and {free} are free. Free some space, keep fewer"
        " checkpoints (keep_last=...), or pass another folder (chkpt_root=...). Then start again:"
        " the run resumes from the newest checkpoint."
    )


def load(path: pathlib.Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Verify and read a checkpoint, without running any code in it.

    Args:
        path: the path of the file.
        map_location: the location for its tensors, as for :func:`torch.load`.

    Raises:
        DamagedCheckpointError: the content of the file has changed.
        CheckpointError: the file holds more than plain data.
    """
    is_sealed = verify(path)
    payload = _read(path, map_location, mmap=False)  # not mapped, so that the file can be replaced
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    if not is_sealed and payload.get("format", 1) != 1:  # format 1 did not require a checksum
        raise DamagedCheckpointError(
            f"the checkpoint {path} is damaged: it has no checksum. If you saved it with torch.save"
            " on purpose, run helios checkpoint migrate to add one."
        )
    return payload


def peek(path: pathlib.Path) -> dict[str, Any]:
    """Read a checkpoint without verifying it; tensors are read from the file at their first use.

    Args:
        path: the path of the file.

    Raises:
        CheckpointError: the file cannot be read, or is not a checkpoint.
    """
    payload = _read(path, "cpu", mmap=True)
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    return payload


def verify(path: pathlib.Path) -> bool:
    """Verify a file by its checksum, or by the checksums that torch.save wrote for its parts.

    Returns:
        ``True`` if the file has a checksum of its own.

    Raises:
        DamagedCheckpointError: the file is truncated or changed.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _SEAL_SIZE))
        _, seal, digest = file.read().rpartition(_SEAL)
    if not seal:
        _verify_archive(path)
    elif digest != _digest(path, size - len(seal) - len(digest)):
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: its checksum is wrong.")
    return bool(seal)


def _verify_archive(path: pathlib.Path) -> None:
    """Verify a file without a checksum of its own, by the checksums of its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            end = 22 + len(archive.comment)  # the size of an archive's last record
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
        if "helios.trainer.TrainingState" in str(error):
            raise CheckpointError(
                f"the checkpoint {path} was written by helios-ml, the earlier Helios. Its counters"
                " are an object, not plain data, and it lacks the position in the data, so a run"
                " cannot resume from it exactly. Load its weights in an environment with helios-ml,"
                " save them with torch.save, and load them in the model's setup()."
            ) from error
        raise CheckpointError(
            f"the checkpoint {path} is refused: it holds more than plain data, which could run"
            f" code: {error}\nHelios did not write it. Remove it to resume from the previous"
            " checkpoint."
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


def sync_folder(folder: pathlib.Path) -> None:
    """Make the renames and new files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
