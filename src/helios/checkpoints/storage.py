"""Checkpoint files: written completely or not at all, and verified when read."""

import contextlib
import io
import os
import pathlib
import pickle
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from helios.checkpoints import plain
from helios.checkpoints.checksum import BLOCK, Checksum, Task, of_file
from helios.checkpoints.naming import TEMPORARY
from helios.checkpoints.written import Written
from helios.core import safe_torch_load
from helios.errors import CheckpointError, DamagedCheckpointError

_SEAL = b"\nhelios sha256 "
"""The text after the archive that PyTorch has written. The archive's checksum follows it."""
_SEAL_SIZE = len(_SEAL) + 64
_SYNCED = 32 << 20  # bytes: large enough to cost the disk no more operations


class _File(io.BufferedWriter):
    """A new file, which computes the checksum of its content.

    Args:
        path: the path of the file.
        payload: the plain data that will be written.
    """

    def __init__(self, path: pathlib.Path, payload: Any = None) -> None:
        self._checksum = Checksum()
        super().__init__(io.FileIO(path, "wb"))
        self.written = Written(payload)
        self.error: OSError | None = None
        self._unsynced = 0
        self._sync: Task[None] | None = None

    def write(self, data: Any) -> int:
        self.written.append(data)
        whole = memoryview(data).cast("B")
        try:
            for start in range(0, len(whole), BLOCK):
                part = bytes(whole[start : start + BLOCK])  # another thread may change the data
                self._checksum.update(part)
                super().write(part)
            self._unsynced += len(whole)
            if self._unsynced >= _SYNCED:
                self._start_sync()
        except OSError as error:
            self.error = error  # PyTorch would replace it by another one
            raise
        return len(whole)

    def _start_sync(self) -> None:
        """Let the disk work on the data so far, while the next data is written and digested."""
        self._finish_sync()
        self._unsynced = 0
        self._sync = Task(lambda: os.fsync(self.fileno()))

    def _finish_sync(self) -> None:
        sync, self._sync = self._sync, None
        if sync is not None:
            sync.result()  # the system reports an error of the disk only once

    def seal(self) -> bytes:
        """Append the checksum, wait until all data is on the disk, and return the checksum."""
        digest = self._checksum.digest()
        self._finish_sync()
        super().write(_SEAL + digest)
        self.written.append(_SEAL + digest)
        self.flush()
        os.fsync(self.fileno())
        return digest

    def close(self) -> None:
        """End the threads, and close the file."""
        with contextlib.ExitStack() as stack:  # each step follows, whatever the others raise
            stack.callback(self._checksum.close)
            stack.callback(super().close)
            stack.callback(self._finish_sync)


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
        digest, written = _write(payload, temporary)
        # An unreadable file must not replace a readable one.
        _read_beside(lambda: _compare(temporary, path, digest, written), temporary, mmap=True)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _explain(error, path, payload)
        raise


def _write(payload: dict[str, Any], path: pathlib.Path) -> tuple[bytes, Written]:
    file = _File(path, payload)
    try:
        with file:
            torch.save(payload, file)
            return file.seal(), file.written
    except Exception as error:
        if file.error is not None and error is not file.error:
            raise file.error from None  # the other one only says that a write failed
        raise


def _compare(temporary: pathlib.Path, path: pathlib.Path, digest: bytes, written: Written) -> None:
    """Raise an error if a file does not hold what was written."""
    # The checksum decides: memory that another thread has changed meanwhile proves nothing.
    if not written.is_content_of(temporary) and not _has_checksum(temporary, digest):
        raise DamagedCheckpointError(
            f"the checkpoint {path} is damaged: the disk returns other data than was"
            " written. The previous checkpoint is unchanged; check the disk."
        )


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
    if _read_seal(path) is None:
        verify(path)
        payload, is_sealed = _read(path, map_location, mmap=False), False
    else:
        payload, is_sealed = _read_beside(lambda: verify(path), path, map_location), True
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    if not is_sealed and payload.get("format", 1) != 1:  # format 1 did not require a checksum
        raise DamagedCheckpointError(
            f"the checkpoint {path} is damaged: it has no checksum. If you saved it with torch.save"
            " on purpose, run helios checkpoint migrate to add one."
        )
    return payload


def _read_beside(
    check: Callable[[], Any], path: pathlib.Path, map_location: Any = "cpu", mmap: bool = False
) -> Any:
    """Read a file while a thread checks it. Damage matters more than what it leads to."""
    error = payload = None
    checked = Task(check)
    try:
        payload = _read(path, map_location, mmap)
    except Exception as raised:
        error = raised
    checked.result()
    if error is not None:
        raise error
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
    seal = _read_seal(path)
    if seal is None:
        _verify_archive(path)
    elif not _has_checksum(path, seal):
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: its checksum is wrong.")
    return seal is not None


def _read_seal(path: pathlib.Path) -> bytes | None:
    """Return the checksum at the end of a file; ``None`` if it has none."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _SEAL_SIZE))
        _, seal, digest = file.read().rpartition(_SEAL)
    return digest if seal else None


def _has_checksum(path: pathlib.Path, digest: bytes) -> bool:
    """Return whether a file ends with this checksum, and has it."""
    size = path.stat().st_size - _SEAL_SIZE
    return _read_seal(path) == digest == of_file(path, size)


def _verify_archive(path: pathlib.Path) -> None:
    """Verify a file without a checksum of its own, by the checksums of its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            end = 22 + len(archive.comment)  # the size of an archive's last record
    except Exception as error:  # of zipfile and of each kind of compression
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read at all
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


def sync_folder(folder: pathlib.Path) -> None:
    """Make the renames and new files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
