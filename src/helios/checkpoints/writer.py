"""The writer, which saves checkpoints in the background, one at a time."""

import concurrent.futures
from collections.abc import Callable


class Writer:
    """Runs one job at a time in a thread. :meth:`wait` raises the job's error."""

    def __init__(self) -> None:
        # The interpreter joins this thread before it exits, so a job is always finished.
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "helios-writer")
        self._job: concurrent.futures.Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Start a job. Call :meth:`wait` for the previous job first."""
        assert self._job is None, "at most one job at a time"
        self._job = self._executor.submit(job)

    def wait(self) -> None:
        """Wait for the job to end, if one is running, and raise its error."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Wait for the job to end, and end the thread."""
        self._executor.shutdown()
