"""The writer, which saves checkpoints in the background, one at a time."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable

_TICK = 0.1
"""Seconds; a signal that arrives just before a thread waits is handled when the wait ends."""


class Writer:
    """Runs one job at a time in a thread. :meth:`wait` raises the job's error.

    A signal handler may raise an error while the writer waits for a job. The writer then waits on,
    and raises that error when the job has ended. Otherwise the process could end before the job.
    """

    def __init__(self) -> None:
        # The interpreter joins this thread before it exits. But an interrupted join counts as done.
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "helios-writer")
        self._executor.submit(int)  # starts the thread
        self._job: _Job | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start a job. Call :meth:`wait` for the previous job first."""
        assert self._job is None, "at most one job at a time"
        self._job = job = _Job(work)
        try:
            self._executor.submit(job.run)
        except BaseException:  # of a signal handler, before or after the job was submitted
            self._executor.submit(job.run)  # it runs only once
            raise

    def wait(self) -> None:
        """Wait for the job to end, if one is running, and raise its error."""
        if self._job is not None:
            self._job.finish()
            job, self._job = self._job, None
            if job.error is not None:
                raise job.error

    def close(self) -> None:
        """Wait for the job to end, and end the thread."""
        try:
            if self._job is not None:
                self._job.finish()
        finally:
            self._executor.shutdown()


class _Job:
    """A function that runs once, in another thread.

    Attributes:
        error: the error that it raised, if any.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._is_claimed = threading.Lock()
        # Not an Event: an error of a signal handler in its methods could leave it locked.
        self._is_running = threading.Lock()
        self._is_running.acquire()
        self._has_ended = False

    def run(self) -> None:
        """Call the function, unless it was called before."""
        if self._is_claimed.acquire(blocking=False):
            try:
                self._work()
            except BaseException as error:
                self.error = error
            finally:
                self._has_ended = True
                self._is_running.release()

    def finish(self) -> None:
        """Wait for the end of the job; the error of a signal handler is raised only then."""
        try:
            while not self._has_ended:
                self._is_running.acquire(timeout=_TICK)
        except BaseException:
            with contextlib.suppress(BaseException):  # the first error counts
                self.finish()
            raise
