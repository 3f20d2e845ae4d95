"""The end of a run: stop requests, the time limit, and early stopping."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal

from helios.core import TrainingState, TrainingUnit
from helios.model.window import Window

_DECIDED = "should_training_stop"
"""The reason of a stop that this hook decided, or whose reason a checkpoint does not hold."""


@dataclasses.dataclass(frozen=True)
class StopRequest:
    """A request to stop training.

    Attributes:
        reason: the reason, in the author's words.
        author: the id of the plug-in that made the request, or ``"the model"``, ``"the trainer"``,
            ``"early stopping"``, or ``"the user"``.
        urgent: ``True`` to stop before a validation is complete.
        is_decided: ``True`` if ``should_training_stop`` returned ``True``, or if the request is
            final. A resumed run then stops, too.
        is_shown: ``True`` if the terminal has shown it already.
    """

    reason: str
    author: str
    urgent: bool = False
    is_decided: bool = dataclasses.field(default=False, compare=False)
    is_shown: bool = dataclasses.field(default=False, compare=False)


Task = Literal["a validation", "a checkpoint"]


@dataclasses.dataclass
class Wishes:
    """The requests of one rank, which the other ranks do not know yet.

    Attributes:
        stops: its requests to stop.
        withdrawn: the authors whose requests are withdrawn.
        tasks: the validation and the checkpoint that it asks for.
        error: the error that it raises after its normal end.
    """

    stops: list[StopRequest] = dataclasses.field(default_factory=list)
    withdrawn: list[str] = dataclasses.field(default_factory=list)
    tasks: set[Task] = dataclasses.field(default_factory=set)
    error: BaseException | None = None


class Control:
    """The only object that decides whether a run continues.

    Args:
        state: the progress of the run.
        window: the accumulation window.
        unit: the training unit.
        total_steps: the number of training units to train for.
        early_stop_cycles: the number of validations without improvement before training stops.
        max_time: the time limit of the run, in seconds from now.

    Attributes:
        total_steps: the number of training units to train for.
        requests: the requests to stop, in the order in which they came.
        has_deadline: ``True`` if the run has a time limit.
        interruptible: ``True`` if an urgent stop interrupts a validation at once.
        validation_due: ``True`` if a validation is due now and not complete yet.
        save_due: ``True`` if a checkpoint is due when the current epoch has ended.
        is_asked: ``True`` if there is a request: to stop, to validate or to save.
        is_shared: ``True`` if requests wait until the ranks have told one another.
        watches_clock: ``True`` if the time limit counts in this process.
        final_error: the error that the run raises after its normal end.
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
        self.total_steps = total_steps
        self._early_stop_cycles = early_stop_cycles
        self._max_time = max_time
        self._deadline = None if max_time is None else time.monotonic() + max_time
        self.has_deadline = max_time is not None
        self.requests: list[StopRequest] = []
        self.interruptible = False
        self.validation_due = False
        self.save_due = False
        self.final_error: BaseException | None = None
        self.is_asked = False
        self.is_shared = False
        self.watches_clock = True
        self._asked_for: set[str] = set()
        self._wishes = Wishes()
        self._restored_reasons: list[str] = []

    def request(self, request: StopRequest) -> None:
        """Request a stop; with several ranks, from the next point at which they agree."""
        if not self.is_shared:
            self.add(request)
        elif request not in self._wishes.stops:
            self._wishes.stops.append(request)

    def add(self, request: StopRequest) -> None:
        """Add a request to stop that all ranks make, unless the same request exists."""
        self.is_asked = True
        if request not in self.requests:
            self.requests.append(request)
        elif request.is_decided:
            self.requests[self.requests.index(request)] = request

    def withdraw(self, author: str) -> bool:
        """Drop the requests of an author to stop, and return whether it had made any."""
        mine = self._wishes.stops
        had_any = any(request.author == author for request in [*self.requests, *mine])
        if self.is_shared:
            mine[:] = [request for request in mine if request.author != author]
            self._wishes.withdrawn.append(author)
        else:
            self._drop(author)
        return had_any

    def _drop(self, author: str) -> None:
        self.requests[:] = [request for request in self.requests if request.author != author]
        self.is_asked = bool(self.requests or self._asked_for)

    def wish(self, for_what: Task) -> None:
        """Ask for a validation or a checkpoint, as :meth:`request` does for a stop."""
        if self.is_shared:
            self._wishes.tasks.add(for_what)
        else:
            self.ask(for_what)

    def ask(self, for_what: Task) -> None:
        """Ask in all ranks for a validation or a checkpoint after the current optimizer step."""
        self._asked_for.add(for_what)
        self.is_asked = True

    def tell(self) -> Wishes:
        """Return what this rank has requested since the last call."""
        told, self._wishes = self._wishes, Wishes()
        told.error = self.final_error
        return told

    def hear(self, wishes: Sequence[Wishes]) -> None:
        """Do in this rank what any rank has requested; all ranks hear the same."""
        for each in wishes:
            for author in each.withdrawn:
                self._drop(author)
        for each in wishes:
            for request in each.stops:
                self.add(request)
            for task in each.tasks:
                self.ask(task)
            self.final_error = self.final_error or each.error

    def take(self, for_what: Task) -> bool:
        """Return whether somebody has asked for a validation or a checkpoint, and forget it."""
        was_asked = for_what in self._asked_for
        self._asked_for.discard(for_what)
        self.is_asked = bool(self.requests or self._asked_for)
        return was_asked

    def decide(self, author: str) -> None:
        """Stop because ``should_training_stop`` returned ``True``."""
        self.request(StopRequest(_DECIDED, author, is_decided=True))

    def is_stop_requested(self) -> bool:
        """Return whether a stop was requested or the time limit is reached."""
        is_late = self._deadline is not None and time.monotonic() >= self._deadline
        if is_late and self.watches_clock:
            reason = f"max_time={self._max_time:g} seconds are over"
            self.request(StopRequest(reason, "the trainer", urgent=True))
        return bool(self.requests)

    def must_leave(self) -> bool:
        """Return whether to interrupt a validation at once; a resumed run repeats it."""
        is_urgent = self.is_stop_requested() and any(each.urgent for each in self.requests)
        return self.interruptible and is_urgent

    def is_finished(self) -> bool:
        """Return whether training is complete, stopped early, or stopped by a request.

        A stop waits for the end of the accumulation window, so that no gradients are lost.
        """
        is_stopped = bool(self.requests) and self._window.is_complete
        return is_stopped or self._is_complete() or self._is_stale()

    def has_ended(self) -> bool:
        """Return whether training ends here at each start, unless an argument changes."""
        return self._is_complete() or self._is_stale() or bool(self.decisions())

    def end_early(self, story: Callable[[], str]) -> None:
        """Name early stopping as the author of the end, if it has ended the run."""
        if self._is_stale() and not self._is_complete():
            self.add(StopRequest(story(), "early stopping"))

    def _is_complete(self) -> bool:
        return self._state.units(self._unit) >= self.total_steps

    def _is_stale(self) -> bool:
        cycles = self._early_stop_cycles
        if cycles is None:
            return False
        return self._state.early_stop_count >= cycles and self._state.validation_cycles > 0

    def reason_to_end(self) -> str:
        """Return a sentence about why a run has nothing to train, and how to train longer."""
        state, unit = self._state, self._unit.value
        done = state.units(self._unit)
        if done >= self.total_steps:
            return (
                f"it has completed {done} {unit}s of total_steps={self.total_steps}. To train"
                " longer, pass a larger total_steps."
            )
        decided = [request for request in self.requests if request.is_decided]
        if decided and decided[0].reason != _DECIDED:
            return (
                f"{decided[0].author} has ended it: {decided[0].reason}. To train longer, change"
                " the arguments of that plug-in, or start a new run in another folder."
            )
        if decided:
            return (
                "should_training_stop has ended it. To train again, start a new run in another"
                " folder."
            )
        return (
            f"the metrics have not improved for {state.early_stop_count} validations, and"
            f" early_stop_cycles={self._early_stop_cycles}. To train longer, pass a larger"
            " early_stop_cycles."
        )

    # The state in checkpoints.

    def load_validation_due(self, is_due: bool) -> None:
        """Restore whether a validation is due, because a stop interrupted it."""
        self.validation_due = is_due

    def decisions(self) -> list[str]:
        """Return the authors of the stops that a resumed run must repeat."""
        return [request.author for request in self.requests if request.is_decided]

    def reasons(self) -> list[str]:
        """Return the reasons of the stops of :meth:`decisions`."""
        return [request.reason for request in self.requests if request.is_decided]

    def load_reasons(self, reasons: list[str]) -> None:
        """Store what :meth:`reasons` returned, for :meth:`load_decisions`."""
        self._restored_reasons = reasons

    def load_decisions(self, authors: list[str]) -> None:
        """Repeat the stops that :meth:`decisions` returned; older files have no reasons."""
        reasons = itertools.chain(self._restored_reasons, itertools.repeat(_DECIDED))
        for author, reason in zip(authors, reasons, strict=False):
            self.add(StopRequest(reason, author, is_decided=True))
