"""The default storage of a search: a file to which all its processes append."""

import fcntl
import os
import pathlib
from typing import Any


class _RecordLock:
    """A lock that ends with its process.

    Optuna's own locks outlive a process that is killed; others then wait for half a minute.

    Args:
        path: the file to lock.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Release the lock."""
        assert self._file is not None
        os.close(self._file)
        self._file = None


def open_journal(folder: pathlib.Path) -> Any:
    """Return the storage in a folder."""
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    lock: Any = _RecordLock(folder / "study.log.lock")  # Optuna's base class is private
    return JournalStorage(JournalFileBackend(str(folder / "study.log"), lock))
