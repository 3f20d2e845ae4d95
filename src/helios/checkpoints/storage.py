"""Checkpoint files: written whole or not at all, checked when read."""

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
"""Stands behind the archive that PyTorch has written, followed by the checksum of the archive."""
_SEAL_SIZE = len(_SEAL) + 64


class _File(io.BufferedWriter):
    """A new file, with the checksum of all that was written into it."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self._digest.update(data)
        try:
            return super().write(data)
        except OSError as error:
            self.error = error  # PyTorch would raise another one in its place
            raise

    def seal(self) -> bytes:
        """Append the checksum, and return it when everything is on the disk."""
        digest = self._digest.hexdigest().encode()
        super().write(_SEAL + digest)
        self.flush()
        os.fsync(self.fileno())
        return digest


def save(payload: dict[str, Any], path: pathlib.Path) -> None:
    """Write a checkpoint so that the file is either complete and durable, or absent.

    What was written is read back once, before it takes its name.

    Args:
        payload: plain containers, numbers, strings and tensors.
        path: the file to create or replace; its folder must exist.

    Raises:
        CheckpointError: the payload holds something that could not be loaded again.
        OSError: the file cannot be written, perhaps because the disk is full. Here as above, what
            was at ``path`` is still there.
    """
    plain.check(payload)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        digest = _write(payload, temporary)
        if digest != _digest(temporary, temporary.stat().st_size - _SEAL_SIZE):
            raise DamagedCheckpointError(
                f"the checkpoint {path} is damaged: it does not read as it was written. The one"
                " before it is untouched; check the disk."
            )
        _read(temporary, "cpu", mmap=True)  # what cannot be loaded must not replace what can
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
            raise file.error from None  # the other one says only that writing has failed
        raise


def _explain(error: OSError, path: pathlib.Path, payload: dict[str, Any]) -> None:
    """Tell an error which file it is about, what was needed, and what to do."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)
    try:
        free = f"{shutil.disk_usage(path.parent).free:,}"
    except OSError:
        free = "it is not known how many"
    error.add_note(
        f"The checkpoint {path} is not saved; the one before it is untouched. It needs some"
        f" {plain.size(payload):,} bytes, and {free} are free. Make room, keep fewer checkpoints"
        " (keep_last=...), or name another folder (chkpt_root=...), and start again: the run goes"
        " on from the newest checkpoint."
    )


def load(path: pathlib.Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Check and read a checkpoint; nothing in it is executed.

    Args:
        path: the file.
        map_location: where its tensors go, as for :func:`torch.load`.

    Raises:
        DamagedCheckpointError: the file is not as it was written.
        CheckpointError: the file holds something that is not plain data.
    """
    is_sealed = verify(path)
    payload = _read(path, map_location, mmap=False)  # or the file could not be replaced meanwhile
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    if not is_sealed and payload.get("format", 1) != 1:  # format 1 did not ask for a checksum
        raise DamagedCheckpointError(
            f"the checkpoint {path} is damaged: it has no checksum. If it was saved by torch.save"
            " on purpose, helios checkpoint migrate gives it one."
        )
    return payload


def peek(path: pathlib.Path) -> dict[str, Any]:
    """Read a checkpoint without checking it; tensors are read from the file when used.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file cannot be read, or is no checkpoint.
    """
    payload = _read(path, "cpu", mmap=True)
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    return payload


def verify(path: pathlib.Path) -> bool:
    """Compare a file with its checksum.

    Returns:
        Whether it has one. If not, the checksums of its parts are right, as torch.save wrote them.

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
    return bool(seal)


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
        if "helios.trainer.TrainingState" in str(error):
            raise CheckpointError(
                f"the checkpoint {path} was written by helios-ml, the earlier Helios. Its counters"
                " are an object, not plain data, and it does not say where in the data the run"
                " was, so it cannot be continued exactly. Load its weights where helios-ml is"
                " installed, save them with torch.save, and load them in the model's setup()."
            ) from error
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


def sync_folder(folder: pathlib.Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
