"""The lock of a folder: a second run would delete files that the first is writing."""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket

from helios.errors import ConfigurationError

_logger = logging.getLogger(__name__)

_NAME = ".lock"
_held: set[pathlib.Path] = set()  # record locks do not exclude the same process


class FolderLock:
    """A lock on a folder, held by one run.

    It is a record lock of the operating system, so it always ends with its process. Unlike the
    ``flock`` of the ``filelock`` package, it is not inherited by the workers that load data. With
    ``flock``, a worker that outlives a killed run for seconds would still hold the lock.

    Args:
        folder: the folder, which must exist.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder.resolve() / _NAME
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise an error.

        Raises:
            ConfigurationError: another run holds it.
        """
        if self._path in _held:
            self._refuse(f"process {os.getpid()}, this one")
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                owner = os.pread(file, 200, 0).decode(errors="replace").strip()
                os.close(file)
                self._refuse(owner or "another process")
            except OSError as error:
                _logger.warning("%s cannot be locked: %s.", self._path.parent, error.strerror)
            if os.fstat(file).st_nlink:
                self._file = file
            else:
                os.close(file)  # its holder has just deleted it
        _held.add(self._path)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock, if it was taken."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a user may have deleted the folder
                self._path.unlink()
            os.close(self._file)
            self._file = None
            _held.discard(self._path)

    def _refuse(self, owner: str) -> None:
        raise ConfigurationError(
            f"another run is saving checkpoints in {self._path.parent} ({owner}). Wait until it has"
            " ended, or pass another folder as chkpt_root or another save_name."
        )
