"""Errors of user code: each comes out unchanged, with a note that says what Helios was doing."""

import contextlib
import inspect
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import (
    DATA_METHODS,
    MODEL_METHODS,
    Failing,
    FailingModel,
    FailingPlugin,
    Make,
    UserError,
    is_of_testing,
    notes_of,
    overriding,
)

import helios
from helios import Plugin, Trainer
from helios.errors import InvalidPluginError
from helios.plugins.builtin.preemption import PreemptionPlugin
from helios.testing import TinyDataModule, TinyModel

PLUGIN_HOOKS = [n for n in vars(FailingPlugin) if not n.startswith("_") and n != "on_exception"]
PLACES = [
    *(f"data.{name}" for name in [*DATA_METHODS, "teardown"]),
    *(f"model.{name}" for name in MODEL_METHODS),
    *(f"plugin.{name}" for name in PLUGIN_HOOKS),
]


def run_that_fails(
    make_trainer: Make, root: pathlib.Path, place: str, error: BaseException
) -> tuple[FailingPlugin, Trainer]:
    """Fit or test where the error comes up; check that it comes out, the object itself."""
    fail = Failing(place, error)
    plugin = FailingPlugin(fail)
    model = overriding(TinyModel, "model", fail, MODEL_METHODS)()
    data = overriding(TinyDataModule, "data", fail, [*DATA_METHODS, "teardown"])()
    folder = {} if is_of_testing(place) else {"run_root": root, "chkpt_frequency": 1}
    trainer = make_trainer(
        total_steps=1, valid_frequency=1, print_frequency=2, plugins=[plugin], **folder
    )
    run = trainer.test if is_of_testing(place) else trainer.fit
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is checked below
        run(model, data)
    assert caught.value is error
    return plugin, trainer


@pytest.mark.parametrize("place", PLACES)
def test_error_comes_out_as_it_is(make_trainer: Make, tmp_path: pathlib.Path, place: str) -> None:
    error = UserError("the user's own message")
    plugin, _ = run_that_fails(make_trainer, tmp_path, place, error)
    assert error.args == ("the user's own message",)
    assert error.__cause__ is None
    assert len(notes_of(error)) == 1
    (note,) = notes_of(error)
    assert note.startswith("Helios was ")
    assert "'tiny'" in note
    if place.startswith("plugin."):
        hook = place.removeprefix("plugin.")
        assert f"{hook} of plug-in 'failing'" in note
        assert "not installed" in note  # the distribution, were there one
        assert pathlib.Path(inspect.getfile(FailingPlugin)).name in note
    else:
        assert "of plug-in" not in note, "a plug-in is blamed for what it did not do"
    assert plugin.told == [error]


@pytest.mark.parametrize(
    ("place", "doing"),
    [
        ("model.setup", "setting up 'tiny'"),
        ("model.train_step", "training 'tiny': epoch 0, batch 0 of it, iteration 1"),
        ("model.on_training_epoch_end", "training 'tiny': epoch 0, batch 6 of it, iteration 6"),
        ("model.on_training_end", "ending the training of 'tiny': epoch 1"),
        ("model.test_step", "testing 'tiny'"),
        ("data.teardown", "tearing down"),
        ("plugin.teardown", "tearing down"),
    ],
)
def test_note_says_what_was_going_on(
    make_trainer: Make, tmp_path: pathlib.Path, place: str, doing: str
) -> None:
    error = UserError()
    run_that_fails(make_trainer, tmp_path, place, error)
    assert doing in "".join(notes_of(error))


def test_note_of_an_installed_plugin_names_its_distribution(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UserError()

    def fail(self: PreemptionPlugin) -> None:
        raise error

    monkeypatch.setattr(PreemptionPlugin, "on_training_end", fail)
    with pytest.raises(UserError):
        make_trainer(plugins=["preemption"]).fit(TinyModel(), TinyDataModule())
    (note,) = notes_of(error)
    wanted = f"on_training_end of plug-in 'preemption' (helios-trainer {helios.__version__}, "
    assert wanted in note


class Indirect(Plugin):
    """Fails in what its hooks return, not in the hooks."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__("indirect")
        self._where, self._error = where, error

    def setup(self) -> None: ...

    def wrap_batches(self, batches: Any, phase: str) -> Iterator[Any]:
        yield from batches
        if self._where == "wrap_batches":
            raise self._error

    @contextlib.contextmanager
    def _around(self) -> Iterator[None]:
        if self._where == "entering":
            raise self._error
        yield
        if self._where == "leaving":
            raise self._error

    def step_context(self, phase: str) -> Any:
        return self._around()

    def state_dict(self) -> dict[str, Any]:
        if self._where == "state_dict":
            raise self._error
        return {"x": 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._where == "load_state_dict":
            raise self._error


@pytest.mark.parametrize(
    "where", ["wrap_batches", "entering", "leaving", "state_dict", "load_state_dict"]
)
def test_note_names_a_plugin_that_fails_outside_of_its_hooks(
    make_trainer: Make, tmp_path: pathlib.Path, where: str
) -> None:
    error = UserError()
    arguments = {"total_steps": 1, "chkpt_root": tmp_path}
    if where == "load_state_dict":
        make_trainer(plugins=[Indirect("", error)], **arguments).fit(TinyModel(), TinyDataModule())
    trainer = make_trainer(plugins=[Indirect(where, error)], **arguments)
    with pytest.raises(UserError) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert caught.value is error
    (note,) = notes_of(error)
    assert "plug-in 'indirect' (not installed" in note


@pytest.mark.parametrize("run", ["fit", "test"])
def test_step_context_that_swallows_errors(make_trainer: Make, run: str) -> None:
    class Suppressing(Plugin):
        def __init__(self) -> None:
            super().__init__("suppressing")

        def setup(self) -> None: ...

        def step_context(self) -> Any:
            return contextlib.suppress(UserError)

    class Failing(FailingModel):
        def test_step(self, batch: Any, step: int) -> Any:
            raise UserError

    trainer = make_trainer(total_steps=1, plugins=[Suppressing()])
    with pytest.raises((UserError, InvalidPluginError)):
        getattr(trainer, run)(Failing(), TinyDataModule())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["model.train_step", "plugin.on_training_batch_end"])
def test_interrupt_passes(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    kind: type[BaseException],
    place: str,
) -> None:
    error = kind("now")
    plugin, _ = run_that_fails(make_trainer, tmp_path, place, error)
    assert plugin.told == [error]
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_errors_are_logged_as_faults(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = UserError("a fault")
    run_that_fails(make_trainer, tmp_path, "model.train_step", error)
    faults = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [fault.exc_info[1] for fault in faults if fault.exc_info] == [error]
    log = (tmp_path / "helios.log").read_text()
    assert log.count("UserError: a fault") == 1


@pytest.mark.parametrize("run", ["fit", "test"])
@pytest.mark.parametrize("listed", ["train_exceptions", "test_exceptions"])
@pytest.mark.parametrize("kind", [UserError, type("Derived", (UserError,), {})])
def test_expected_errors_are_no_faults(
    make_trainer: Make,
    caplog: pytest.LogCaptureFixture,
    run: str,
    listed: str,
    kind: type[Exception],
) -> None:
    error = kind("expected")

    class Expecting(Plugin):
        def __init__(self) -> None:
            super().__init__("expecting")

        def configure_trainer(self, trainer: Trainer) -> None:
            append = {
                "train_exceptions": self._append_train_exceptions,
                "test_exceptions": self._append_test_exceptions,
            }[listed]
            append([KeyError, UserError], trainer)

        def setup(self) -> None:
            raise error

    trainer = make_trainer(plugins=[Expecting()])
    with pytest.raises(UserError) as caught:
        getattr(trainer, run)(TinyModel(), TinyDataModule())
    assert caught.value is error
    is_expected = listed.startswith({"fit": "train", "test": "test"}[run])
    faults = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(faults) == (not is_expected)
