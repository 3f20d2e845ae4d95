"""SHA-256 checksums, computed in a thread while their data are written or read."""

import hashlib
import pathlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

BLOCK = 1 << 20
"""The size of the parts in which files are read and written, in bytes."""

_QUEUED = 8  # parts: a writer that is further ahead waits, so that memory stays small
_Result = TypeVar("_Result")


class Task(Generic[_Result]):
    """Runs a function in a thread of its own. :meth:`result` waits for it.

    The executors of :mod:`concurrent.futures` refuse work while the interpreter exits, but a
    checkpoint that is being written then must be completed.

    Args:
        function: the function to run.
    """

    def __init__(self, function: Callable[[], _Result]) -> None:
        self._function = function
        self._results: list[_Result] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="helios-checksum")
        self._thread.start()

    def result(self) -> _Result:
        """Wait until the function has ended, and return its result or raise its error."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except Exception as error:
            self._error = error


class Checksum:
    """Computes the checksum of data in a thread, while the caller writes the data.

    Call :meth:`digest` or :meth:`close` at the end, because they end the thread. Data of less than
    1 MiB need no thread.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._parts: list[bytes] = []
        self._size = 0
        self._queue: queue.Queue[list[bytes] | None] = queue.Queue(_QUEUED)
        self._task: Task[None] | None = None

    def update(self, data: bytes) -> None:
        """Append data."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= BLOCK:
            if self._task is None:
                self._task = Task(self._digest_queue)
            self._queue.put(self._parts)
            self._parts, self._size = [], 0

    def digest(self) -> bytes:
        """Return the checksum of all data, as hexadecimal digits."""
        self.close()
        self._digest.update(b"".join(self._parts))
        self._parts = []
        return self._digest.hexdigest().encode()

    def close(self) -> None:
        """End the thread."""
        task, self._task = self._task, None
        if task is not None:
            self._queue.put(None)
            task.result()

    def _digest_queue(self) -> None:
        while (parts := self._queue.get()) is not None:
            for part in parts:
                self._digest.update(part)


def of_file(path: pathlib.Path, size: int) -> bytes:
    """Return the checksum of the first bytes of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while size > 0 and (count := file.readinto(block[:size])):
            digest.update(block[:count])
            size -= count
    return digest.hexdigest().encode()
