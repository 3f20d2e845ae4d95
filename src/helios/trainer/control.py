"""May the run go on? Stop requests, the time limit, and early stopping."""

import dataclasses
import time

from helios.core import Group, TrainingState, TrainingUnit
from helios.model.window import Window


@dataclasses.dataclass(frozen=True)
class StopRequest:
    """A request to end training.

    Attributes:
        reason: why, in the words of who asked.
        author: the id of the plug-in that asked, or ``"the model"``, ``"the trainer"``, or
            ``"the user"``.
        urgent: a validation is not completed before.
        is_decided: the answer of ``should_training_stop``, which a resumed run keeps to.
    """

    reason: str
    author: str
    urgent: bool = False
    is_decided: bool = dataclasses.field(default=False, compare=False)


class Control:
    """Decides whether a run goes on; the only one that does.

    Args:
        state: the position of the run.
        window: the accumulation window.
        unit: the training unit.
        total_steps: the units to train for.
        early_stop_cycles: the validations without improvement after which to stop.
        max_time: the seconds that the run may take, from now on.

    Attributes:
        requests: the requests to stop, in the order in which they came.
        interruptible: whether an urgent stop leaves a validation at once.
        validation_due: whether the validation that belongs to this moment is still to be completed.
        final_error: the error that the run raises when it has ended in good order.
    """

    def __init__(
        self,
        state: TrainingState,
        window: Window,
        *,
        unit: TrainingUnit,
        total_steps: int | float,
        early_stop_cycles: int | None,
        max_time: float | None,
    ) -> None:
        self._state = state
        self._window = window
        self._unit = unit
        self._total_steps = total_steps
        self._early_stop_cycles = early_stop_cycles
        self._max_time = max_time
        self._deadline = None if max_time is None else time.monotonic() + max_time
        self.requests: list[StopRequest] = []
        self.interruptible = False
        self.validation_due = False
        self.final_error: BaseException | None = None

    def request(self, request: StopRequest) -> None:
        """Take a request to stop, unless it is known."""
        if request not in self.requests:
            self.requests.append(request)

    def decide(self, author: str) -> None:
        """Stop because of an answer of ``should_training_stop``, given now or before a resume."""
        self.request(StopRequest("should_training_stop", author, is_decided=True))

    def is_stop_requested(self) -> bool:
        """Whether anyone wants the run to end, or its time is over."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            reason = f"max_time={self._max_time:g} seconds are over"
            self.request(StopRequest(reason, "the trainer", urgent=True))
        return bool(self.requests)

    def must_leave(self, group: Group) -> bool:
        """Whether to leave a validation at once; a resumed run repeats it."""
        is_urgent = self.is_stop_requested() and any(each.urgent for each in self.requests)
        return group.agree(self.interruptible and is_urgent)

    def is_stopped(self) -> bool:
        """Whether a stop was requested, and no accumulated gradients would be lost by it."""
        return bool(self.requests) and self._window.is_complete

    def is_finished(self) -> bool:
        """Whether training has reached its end, was stopped early, or was asked to stop."""
        state, cycles = self._state, self._early_stop_cycles
        is_stale = cycles is not None and state.early_stop_count >= cycles
        return (
            state.units(self._unit) >= self._total_steps
            or (is_stale and state.validation_cycles > 0)
            or self.is_stopped()
        )

    # What a checkpoint keeps.

    def load_validation_due(self, is_due: bool) -> None:
        """Repeat the validation that a stop has left."""
        self.validation_due = is_due

    def decisions(self) -> list[str]:
        """Return the authors of the stops that a resumed run keeps to."""
        return [request.author for request in self.requests if request.is_decided]

    def load_decisions(self, authors: list[str]) -> None:
        """Repeat the stops that :meth:`decisions` returned."""
        for author in authors:
            self.decide(author)
