"""The plug-ins that the conformance test adds to its runs: they record, stop, and fail."""

from collections.abc import Generator
from typing import Any

from helios import Trainer, hookimpl
from helios.checkpoints import plain
from helios.testing.comparison import Difference, digest

Digest = dict[str, tuple[str, str]]
"""The leaves of a batch by place, each as a text and a checksum."""


class StopAfter:
    """A plug-in that requests a stop after a number of batches in this process.

    Args:
        batches: the number of batches; ``None`` to never request a stop.
    """

    def __init__(self, batches: int | None) -> None:
        self._batches = batches

    @hookimpl
    def on_training_batch_end(self, state: Any) -> None:
        """Request the stop after the last batch."""
        if state.running_iter == self._batches:
            self._trainer.request_stop("enough for this test")

    @hookimpl
    def configure_trainer(self, trainer: Trainer) -> None:
        """Store the trainer, which receives the request."""
        self._trainer = trainer


class FailAtOnce:
    """A plug-in that raises an error at the first batch.

    Args:
        error: the error.
    """

    def __init__(self, error: Exception) -> None:
        self._error = error

    @hookimpl
    def on_training_batch_start(self) -> None:
        """Raise the error."""
        raise self._error


class Recorder:
    """A plug-in that records the batches of a run, and checks the first state of another plug-in.

    Args:
        watched: the other plug-in; ``None`` to check nothing.

    Attributes:
        loaded: each batch before the plug-ins process it, with its phase.
        seen: each batch that the model receives, with its phase.
        logged: the numbers that loggers receive, by name: each with its step.
    """

    def __init__(self, watched: Any = None) -> None:
        self._watched = watched
        self.loaded: list[tuple[str, Digest]] = []
        self.seen: list[tuple[str, Digest]] = []
        self.logged: dict[str, list[tuple[int, float]]] = {}

    @property
    def batches(self) -> int:
        """The number of training batches."""
        return sum(phase == "training" for phase, _ in self.seen)

    def prepend(self, other: "Recorder") -> None:
        """Add the records of a run that this one has resumed."""
        self.loaded[:0], self.seen[:0] = other.loaded, other.seen
        for name in {**other.logged, **self.logged}:
            both = (each.logged.get(name, []) for each in (other, self))
            self.logged[name] = [number for numbers in both for number in numbers]

    @hookimpl
    def on_training_start(self) -> None:
        """Check the state, which the run would first save much later."""
        state = getattr(self._watched, "state_dict", None)
        if state is not None:
            plain.check(state(), "state_dict() before the first batch")

    @hookimpl
    def on_log(self, metrics: dict[str, float], state: Any) -> None:
        """Record the logged numbers."""
        for name, value in metrics.items():
            self.logged.setdefault(name, []).append((state.current_iteration, value))

    @hookimpl(wrapper=True)
    def process_training_batch(self, batch: Any) -> Generator[None, Any, Any]:
        """Record a training batch."""
        return (yield from self._record("training", batch))

    @hookimpl(wrapper=True)
    def process_validation_batch(self, batch: Any) -> Generator[None, Any, Any]:
        """Record a validation batch."""
        return (yield from self._record("validation", batch))

    @hookimpl(wrapper=True)
    def process_testing_batch(self, batch: Any) -> Generator[None, Any, Any]:
        """Record a test batch."""
        return (yield from self._record("testing", batch))

    def _record(self, phase: str, batch: Any) -> Generator[None, Any, Any]:
        self.loaded.append((phase, digest(batch)))
        processed = yield
        self.seen.append((phase, digest(processed)))
        return processed


def first_other(
    left: list[tuple[str, Digest]], right: list[tuple[str, Digest]], *, whole: bool = True
) -> Difference | None:
    """Return the first difference of two lists of batches, or ``None``.

    Args:
        left: the batches of one run.
        right: the batches of another run.
        whole: ``False`` to compare only as many batches as both have.
    """
    for number, ((phase, first), (other, second)) in enumerate(zip(left, right, strict=False)):
        if phase != other:
            return Difference(f" {number}", f"a batch of {phase}", f"a batch of {other}")
        nothing = ("nothing", "")
        for place in {**first, **second}:
            one, another = first.get(place, nothing), second.get(place, nothing)
            if one[1] != another[1]:
                return Difference(f" {number} ({phase}){place}", one[0], another[0])
    if whole and len(left) != len(right):
        return Difference("", f"{len(left)} batches", f"{len(right)} batches")
    return None
