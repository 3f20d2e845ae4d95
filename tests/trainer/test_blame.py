"""Errors name who is at fault, and what the run was doing."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import FailingModel, Fault, Make, Named, UserError, notes_of

from helios import Trainer
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel


class Swallows(Named):
    """Swallows the errors of each step, as ``contextlib.suppress`` would."""

    @contextlib.contextmanager
    def step_context(self, phase: str) -> Iterator[None]:
        with contextlib.suppress(Exception):
            yield


class PassesOn(Named):
    """Raises the error of the step again, by hand."""

    def step_context(self, phase: str) -> "PassesOn":
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            raise error


@pytest.mark.parametrize("plugin", [Swallows, PassesOn])
def test_context_manager_is_not_blamed_for_the_error_of_the_model(
    make_trainer: Make, plugin: type[Named]
) -> None:
    with pytest.raises(UserError) as caught:
        make_trainer(plugins=[plugin()]).fit(FailingModel(), TinyDataModule())
    (note,) = notes_of(caught.value)
    assert "plug-in" not in note
    assert caught.traceback[-1].name == "train_step"


def test_context_manager_is_blamed_for_its_own_error(make_trainer: Make) -> None:
    class Fails(Named):
        @contextlib.contextmanager
        def step_context(self, phase: str) -> Iterator[None]:
            try:
                yield
            finally:
                raise Fault("the plug-in's")

    with pytest.raises(Fault) as caught:
        make_trainer(plugins=[Fails()]).fit(FailingModel(), TinyDataModule())
    assert "raised in step_context of plug-in 'named'" in notes_of(caught.value)[0]


class FailsIn(TinyModel):
    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        if self._place == "valid_step":
            raise UserError
        return super().valid_step(batch, step)

    def have_metrics_improved(self) -> bool:
        if self._place == "have_metrics_improved":
            raise UserError
        return True

    def on_training_epoch_end(self, current_epoch: int) -> None:
        if self._place == "on_training_epoch_end":
            raise UserError


@pytest.mark.parametrize(
    ("place", "doing"),
    [
        ("valid_step", "validating"),
        ("have_metrics_improved", "validating"),
        ("on_training_epoch_end", "training"),  # after a validation
    ],
)
def test_error_says_what_the_run_was_doing(make_trainer: Make, place: str, doing: str) -> None:
    with pytest.raises(UserError) as caught:
        make_trainer(valid_frequency=1).fit(FailsIn(place), TinyDataModule())
    assert notes_of(caught.value)[0].startswith(f"Helios was {doing} 'tiny': epoch 0, batch 6")


# Expected exceptions.

NO_EXCEPTIONS = ["ValueError", 3, None, int, ValueError("an instance"), (OSError, "x")]


@pytest.mark.parametrize("kind", NO_EXCEPTIONS, ids=str)
@pytest.mark.parametrize("purpose", ["train", "test"])
def test_what_is_no_exception_is_refused_when_it_is_appended(
    make_trainer: Make, kind: Any, purpose: str
) -> None:
    class Expects(Named):
        def configure_trainer(self, trainer: Trainer) -> None:
            getattr(self, f"_append_{purpose}_exceptions")(kind, trainer)

    with pytest.raises(ConfigurationError, match="is not an exception type, so a run") as caught:
        make_trainer(plugins=[Expects()]).fit(FailingModel(), TinyDataModule())
    assert "raised in configure_trainer of plug-in 'named'" in notes_of(caught.value)[0]


def test_list_of_expected_exceptions_stays_whole(make_trainer: Make) -> None:
    expected = make_trainer().train_exceptions
    expected += [KeyError]
    expected[0] = OSError
    expected.insert(0, ValueError)
    for change in (
        lambda: expected.append("x"),  # type: ignore[arg-type]  # on purpose
        lambda: expected.extend([KeyError, "x"]),  # type: ignore[list-item]  # on purpose
        lambda: expected.insert(0, 3),  # type: ignore[arg-type]  # on purpose
        lambda: expected.__setitem__(0, "x"),  # type: ignore[call-overload]  # on purpose
        lambda: expected.__setitem__(slice(0, 1), ["x"]),  # type: ignore[list-item]  # on purpose
        lambda: expected.__iadd__(["x"]),  # type: ignore[list-item]  # on purpose
    ):
        with pytest.raises(ConfigurationError):
            change()
    assert expected == [ValueError, OSError]


def test_list_that_was_assigned_is_checked_before_the_run(make_trainer: Make) -> None:
    trainer = make_trainer()
    trainer.train_exceptions = ["ValueError"]  # type: ignore[list-item]  # on purpose
    with pytest.raises(ConfigurationError, match="'ValueError' is not an exception type"):
        trainer.fit(FailingModel(), TinyDataModule())
