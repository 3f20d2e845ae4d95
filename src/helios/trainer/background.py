"""One job at a time in the background."""

import threading
from collections.abc import Callable


class Background:
    """Runs a job in a thread; its error is raised where somebody waits for it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Start a job; the one before it has been waited for."""
        assert self._thread is None, "at most one job at a time"
        # Not a daemon: an interpreter that exits lets the job finish.
        self._thread = threading.Thread(target=self._run, args=(job,), name="helios-background")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the job to end, if there is one, and raise what it has raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
