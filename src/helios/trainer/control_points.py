"""The control points of a run: the moments at which its ranks tell one another what to do."""

import pickle
import time
from collections.abc import Callable

from helios.model.evaluation_buffer import EvaluationBuffer
from helios.trainer.control import Control
from helios.trainer.job import Job

_INTERVAL = 1.0  # seconds between two points, about
_GROWTH = 4  # times as many steps as before, at most
_BATCHES = 8  # of an evaluation, between two points


class ControlPoints:
    """The control points of a run in one process, which knows all requests at once.

    Args:
        control: the object that decides whether the run continues.
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def begin(self) -> None:
        """Begin to count steps, at the start of training."""

    def is_due(self) -> bool:
        """Return whether ranks meet after this step, or after the validation that has just ended.

        All ranks find the same answer.
        """
        return False

    def meet(self) -> None:
        """Tell all ranks what this one has requested, and hear what the others have."""

    # Evaluations, in which ranks may have different numbers of batches.

    def must_leave(self, batch: int | None = None) -> bool:
        """Return whether all ranks interrupt a validation at once; a resumed run repeats it.

        Args:
            batch: the number of the batch that has ended; ``None`` before the first.
        """
        return self._control.must_leave()

    def must_stop(self, batch: int) -> bool:
        """Return whether all ranks interrupt a test."""
        return self._control.is_stop_requested()

    def has_validated(self) -> bool:
        """Return whether the validation is complete, when all ranks have read their batches."""
        return True

    def has_tested(self) -> bool:
        """Return whether the test is complete, when all ranks have read their batches."""
        return True


class SharedControlPoints(ControlPoints):
    """The control points of a run of several ranks.

    A message at every step would cost more than many steps. So ranks meet every few steps, and
    before each validation, save and end of an epoch. Rank 0 says at each point how many steps
    remain until the next one, because clocks differ.

    Args:
        job: the job of the run.
        log: the values that are logged in an evaluation.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        job: Job,
        log: EvaluationBuffer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(job.control)
        self._state = job.state
        self._group = job.group
        self._log = log
        self._clock = clock
        self._next = self._interval = 1
        self._last: tuple[float, int] | None = None
        self._cycle = job.state.validation_cycles
        has_loggers = job.group.agree(job.trainer.hooks.on_log is not None)
        self._print_frequency = job.trainer.print_frequency if has_loggers else None
        job.control.is_shared = True
        job.control.watches_clock = job.place.rank == 0

    def begin(self) -> None:
        """Begin to count steps at the start of training, whose hooks may have requested a stop."""
        self.meet()
        self._last = self._clock(), self._state.current_iteration
        self._next, self._cycle = self._state.current_iteration + 1, self._state.validation_cycles

    def is_due(self) -> bool:
        """Return whether the next point is reached, or hooks may just have requested something.

        They may after a validation, and after loggers were called.
        """
        step, cycle = self._state.current_iteration, self._state.validation_cycles
        if step >= self._next or cycle != self._cycle:
            return True
        return self._print_frequency is not None and step % self._print_frequency == 0

    def meet(self) -> None:
        """Send the requests of this rank to all ranks, and add those of all ranks."""
        self._meet(has_ended=True)

    def _meet(self, *, has_ended: bool) -> bool:
        """Meet, and return whether all ranks have no further batch in the current evaluation."""
        wishes = self._control.tell()
        wishes.error = _sent(wishes.error)
        messages = self._group.gather((wishes, has_ended, self._steps()))
        self._control.hear([each for each, _, _ in messages])
        self._interval = messages[0][2]
        self._next = self._state.current_iteration + self._interval
        self._cycle = self._state.validation_cycles
        return all(ended for _, ended, _ in messages)

    def _steps(self) -> int:
        """Return the number of steps until the next point, by the clock of this rank."""
        now, step = self._clock(), self._state.current_iteration
        before, self._last = self._last, (now, step)
        if before is None or step == before[1]:
            return self._interval
        seconds, most = (now - before[0]) / (step - before[1]), self._interval * _GROWTH
        return max(1, min(most, int(_INTERVAL / seconds) if seconds > 0 else most))

    def must_leave(self, batch: int | None = None) -> bool:
        """Return whether all ranks interrupt a validation; they meet before it, too."""
        if batch is None or (self._control.interruptible and self._is_point(batch)):
            self._control.is_stop_requested()  # the time limit may be over
            self._meet(has_ended=False)
        return self._control.must_leave()

    def must_stop(self, batch: int) -> bool:
        """Return whether all ranks interrupt a test."""
        if self._is_point(batch):
            self._control.is_stop_requested()
            self._meet(has_ended=False)
        return bool(self._control.requests)

    def has_validated(self) -> bool:
        """Wait for ranks with more batches, if something may interrupt the validation."""
        return not self._control.interruptible or self._wait(self._control.must_leave)

    def has_tested(self) -> bool:
        """Wait for ranks with more batches."""
        return self._wait(lambda: bool(self._control.requests))

    def _is_point(self, batch: int) -> bool:
        # While one of several sets is evaluated, ranks exchange other messages at its end.
        return batch % _BATCHES == _BATCHES - 1 and self._log.set_name is None

    def _wait(self, must_end: Callable[[], bool]) -> bool:
        while not self._meet(has_ended=True):
            if must_end():
                return False
        return not must_end()


def create_points(job: Job, log: EvaluationBuffer) -> ControlPoints:
    """Return the control points of a run."""
    return SharedControlPoints(job, log) if job.place.is_distributed else ControlPoints(job.control)


def _sent(error: BaseException | None) -> BaseException | None:
    """Return an error that can be sent to other ranks."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"another rank ends the run: {type(error).__name__}: {error}")
    return error
