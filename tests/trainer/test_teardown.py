"""Teardown: everything that was set up is torn down, in reverse, whatever else fails."""

from collections.abc import Callable

import pytest
import torch
from helpers import FailingModel, Make, UserError, notes_of

from helios import Model, Plugin, hookimpl
from helios.testing import TinyDataModule, TinyModel


class Lasting(Plugin):
    """Writes down when it is set up and torn down; fails where it is told to."""

    def __init__(self, plug_id: str, events: list[str], fail: Callable[[str], None]) -> None:
        super().__init__(plug_id)
        self._events, self._fail = events, fail

    def setup(self) -> None:
        self._fail(f"{self.plug_id}.setup")
        self._events.append(f"setup {self.plug_id}")

    def on_exception(self, error: BaseException) -> None:
        self._events.append(f"told {self.plug_id} {type(error).__name__}")
        self._fail(f"{self.plug_id}.on_exception")

    def teardown(self) -> None:
        self._events.append(f"teardown {self.plug_id}")
        self._fail(f"{self.plug_id}.teardown")


class LastingData(TinyDataModule):
    def __init__(self, events: list[str], fail: Callable[[str], None]) -> None:
        super().__init__()
        self._events, self._fail = events, fail

    def setup(self) -> None:
        super().setup()
        self._events.append("setup data")

    def teardown(self) -> None:
        self._events.append("teardown data")
        self._fail("data.teardown")


def run_with_three(
    make_trainer: Make, fail: Callable[[str], None], model: Model | None = None
) -> tuple[list[str], BaseException | None]:
    """Fit with three plug-ins; return what happened, and what came out."""
    events: list[str] = []
    plugins = [Lasting(plug_id, events, fail) for plug_id in "abc"]
    try:
        trainer = make_trainer(total_steps=1, plugins=plugins)
        trainer.fit(model or TinyModel(), LastingData(events, fail))
    except BaseException as error:
        return events, error
    return events, None


def failing_at(**errors: BaseException) -> Callable[[str], None]:
    wanted = {place.replace("_", ".", 1): error for place, error in errors.items()}

    def fail(place: str) -> None:
        if place in wanted:
            raise wanted[place]

    return fail


ALL_SET_UP = ["setup a", "setup b", "setup c", "setup data"]
ALL_TORN_DOWN = ["teardown data", "teardown c", "teardown b", "teardown a"]
ALL_TOLD = ["told a UserError", "told b UserError", "told c UserError"]


def test_teardown_after_success(make_trainer: Make) -> None:
    events, error = run_with_three(make_trainer, failing_at())
    assert error is None
    assert events == ALL_SET_UP + ALL_TORN_DOWN


def test_teardown_after_failure(make_trainer: Make) -> None:
    events, error = run_with_three(make_trainer, failing_at(), FailingModel())
    assert isinstance(error, UserError)
    assert events == ALL_SET_UP + ALL_TOLD + ALL_TORN_DOWN


def test_only_what_was_set_up_is_torn_down(make_trainer: Make) -> None:
    mine = UserError()
    events, error = run_with_three(make_trainer, failing_at(b_setup=mine))
    assert error is mine
    assert events == ["setup a", *ALL_TOLD, "teardown a"]


@pytest.mark.parametrize("failing", ["a", "b", "c", "data"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
def test_teardown_goes_on_after_a_failure_of_its_own(
    make_trainer: Make, failing: str, kind: type[BaseException]
) -> None:
    benchmark = torch.backends.cudnn.benchmark
    fail = failing_at(**{f"{failing}_teardown": kind("late")})
    events, error = run_with_three(make_trainer, fail)
    assert [event for event in events if event.startswith("teardown")] == ALL_TORN_DOWN
    assert isinstance(error, kind)
    assert torch.backends.cudnn.benchmark is benchmark


def test_teardown_that_fails_does_not_hide_the_error(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    late = [OSError("late in a"), OSError("late in c")]
    fail = failing_at(a_teardown=late[0], c_teardown=late[1])
    events, error = run_with_three(make_trainer, fail, FailingModel())
    assert events == ALL_SET_UP + ALL_TOLD + ALL_TORN_DOWN
    assert str(error) == "the model's"
    notes = notes_of(error)  # type: ignore[arg-type]  # there is one
    assert len([note for note in notes if note.startswith("Helios was")]) == 1
    (group,) = [note for note in notes if "late in" in note]
    assert notes.index(group) == len(notes) - 1  # after what is said of the first cause
    assert "ExceptionGroup: tearing down has failed as well (2 sub-exceptions)" in group
    assert 0 < group.index("OSError: late in c") < group.index("OSError: late in a")
    assert group.count(", in teardown\n") == 2  # where each of them came from
    assert group.count("raised in teardown of plug-in 'c' (not installed, ") == 1
    assert group.count("raised in teardown of plug-in 'a' (not installed, ") == 1
    logged = [r.exc_info[1] for r in caplog.records if r.exc_info]
    assert [error, late[1], late[0]] == logged


def test_one_failure_of_teardown_beside_the_error(make_trainer: Make) -> None:
    fail = failing_at(b_teardown=OSError("late in b"))
    _, error = run_with_three(make_trainer, fail, FailingModel())
    note = notes_of(error)[-1]  # type: ignore[arg-type]  # there is one
    assert note.startswith("while tearing down: OSError: late in b; raised in teardown of plug-in")
    assert "plug-in 'b' (not installed, " in note


def test_two_failures_of_teardown_alone(make_trainer: Make) -> None:
    late = [OSError("late in a"), OSError("late in c")]
    fail = failing_at(a_teardown=late[0], c_teardown=late[1])
    events, error = run_with_three(make_trainer, fail)
    assert [event for event in events if event.startswith("teardown")] == ALL_TORN_DOWN
    assert isinstance(error, ExceptionGroup)
    assert set(error.exceptions) == set(late)
    for failure, plug_id in zip(late, "ac", strict=True):
        (note,) = notes_of(failure)
        assert note.startswith(f"raised in teardown of plug-in {plug_id!r} (not installed, ")


def test_failing_teardown_of_the_data_is_named(make_trainer: Make) -> None:
    late = [OSError("late in a"), OSError("late in the data")]
    fail = failing_at(a_teardown=late[0], data_teardown=late[1])
    run_with_three(make_trainer, fail)
    assert notes_of(late[1]) == ["raised in teardown of LastingData"]


@pytest.mark.parametrize("kind", [OSError, SystemExit])
def test_on_exception_that_fails_is_only_logged(
    make_trainer: Make, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    fail = failing_at(b_on_exception=kind("in the handler"))
    events, error = run_with_three(make_trainer, fail, FailingModel())
    assert events == ALL_SET_UP + ALL_TOLD + ALL_TORN_DOWN
    assert str(error) == "the model's"
    assert "'b'" in caplog.text
    assert "in the handler" in caplog.text


def test_objects_with_hookimpls_are_told_and_torn_down(make_trainer: Make) -> None:
    class Plain:
        def __init__(self) -> None:
            self.events: list[str] = []

        @hookimpl
        def setup(self) -> None:
            self.events.append("setup")

        @hookimpl
        def on_exception(self, error: BaseException) -> None:
            self.events.append(str(error))

        @hookimpl
        def teardown(self) -> None:
            self.events.append("teardown")

    plain = Plain()
    with pytest.raises(UserError):
        make_trainer(plugins=[plain]).fit(FailingModel(), TinyDataModule())
    assert plain.events == ["setup", "the model's", "teardown"]
