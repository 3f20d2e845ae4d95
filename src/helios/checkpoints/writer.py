"""One file at a time is written in the background."""

import concurrent.futures
from collections.abc import Callable


class Writer:
    """Runs one job at a time in a thread; its error is raised where somebody waits for it."""

    def __init__(self) -> None:
        # The interpreter joins this thread before it exits, so a job is always finished.
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "helios-writer")
        self._job: concurrent.futures.Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Start a job; the caller has waited for the one before it."""
        assert self._job is None, "at most one job at a time"
        self._job = self._executor.submit(job)

    def wait(self) -> None:
        """Wait for the job to end, if one runs, and raise its error."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Wait for the job to end, and end the thread."""
        self._executor.shutdown()
