"""The states of plug-ins: an empty one counts, and observers cannot end the run with theirs."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Fault, Keeping, Make, Named, files, read

from helios import Trainer
from helios.errors import InvalidPluginError
from helios.testing import TinyDataModule, TinyModel, equal


def train(make_trainer: Make, steps: int, *plugins: Any, **arguments: Any) -> Trainer:
    trainer = make_trainer(total_steps=steps, plugins=plugins, **arguments)
    trainer.fit(TinyModel(), TinyDataModule())
    return trainer


class Countdown(Named):
    """Holds something only until it has been used, as a warm-up does."""

    def __init__(self) -> None:
        super().__init__()
        self.left = {"batches": 3}

    def on_training_batch_end(self) -> None:
        for name in list(self.left):
            self.left[name] -= 1
            if not self.left[name]:
                del self.left[name]

    def state_dict(self) -> dict[str, int]:
        return dict(self.left)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.left = dict(state_dict)


def test_empty_state_is_restored(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    train(make_trainer, 1, Countdown(), chkpt_root=tmp_path)
    resumed = Countdown()
    train(make_trainer, 2, resumed, chkpt_root=tmp_path)
    assert resumed.left == {}


@pytest.mark.parametrize("state", [{}, [], 0, "", False])
def test_any_empty_state_is_saved(make_trainer: Make, tmp_path: pathlib.Path, state: Any) -> None:
    train(make_trainer, 1, Keeping(state), chkpt_root=tmp_path)
    resumed = Keeping({"of": "a new run"})
    train(make_trainer, 2, resumed, chkpt_root=tmp_path)
    assert resumed.state == state


def test_plugin_without_a_state_saves_none(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    train(make_trainer, 1, Named(), chkpt_root=tmp_path)
    (path,) = files(tmp_path, "**/*.pth")
    assert read(path)["plugins"] == [{}]


# Observers: critical = False.


class Observer(Named):
    critical = False

    def __init__(self) -> None:
        super().__init__()
        self.state = {"kept": 1}

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


class NotPlain(Observer):
    def state_dict(self) -> Any:
        return {"mean": np.float64(1)}


class OldFormat(Observer):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise KeyError("mean")


class OnExit(Observer):
    @contextlib.contextmanager
    def step_context(self, phase: str) -> Iterator[None]:
        yield
        raise Fault("after the step")


class OnEntry(Observer):
    @contextlib.contextmanager
    def step_context(self, phase: str) -> Iterator[None]:
        raise Fault("before the step")
        yield


class NoContext(Observer):
    def step_context(self, phase: str) -> Any:
        return 3


OBSERVERS = {
    NotPlain: "state_dict",
    OldFormat: "load_state_dict",
    OnExit: "step_context",
    OnEntry: "step_context",
    NoContext: "step_context",
}


@pytest.mark.parametrize("kind", OBSERVERS)
def test_observer_does_not_end_the_run(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    kind: type[Observer],
) -> None:
    alone = train(make_trainer, 2).model.state_dict()
    train(make_trainer, 1, kind(), chkpt_root=tmp_path)
    with caplog.at_level(logging.ERROR, "helios"):
        trainer = train(make_trainer, 2, kind(), chkpt_root=tmp_path)
    assert equal(trainer.model.state_dict(), alone)
    assert trainer.plugin_manager.quarantined["named"].hook == OBSERVERS[kind]
    assert f"failed in {OBSERVERS[kind]}, so Helios switches it off" in caplog.text


def test_state_that_an_observer_cannot_load_is_kept(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    first = OldFormat()
    first.state = {"kept": 2}
    train(make_trainer, 1, first, chkpt_root=tmp_path)
    train(make_trainer, 2, OldFormat(), chkpt_root=tmp_path)
    mended = Observer()
    train(make_trainer, 3, mended, chkpt_root=tmp_path)
    assert mended.state == {"kept": 2}


def test_critical_plugin_ends_the_run(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnExit, "critical", True)
    with pytest.raises(Fault, match="after the step"):
        train(make_trainer, 1, OnExit())


class Model(TinyModel):
    def train_step(self, batch: Any, state: Any) -> torch.Tensor:
        raise Fault("the model's")


def test_error_of_the_model_passes_the_context_of_an_observer(make_trainer: Make) -> None:
    class Around(Observer):
        @contextlib.contextmanager
        def step_context(self, phase: str) -> Iterator[None]:
            yield

    trainer = make_trainer(plugins=[Around()])
    with pytest.raises(Fault, match="the model's"):
        trainer.fit(Model(), TinyDataModule())
    assert trainer.plugin_manager.quarantined == {}


# Observers with half of a state.


class Unrestored(Named):
    critical = False

    def state_dict(self) -> Any:
        return {"mean": np.float64(1)}


class Unsaved(Named):
    critical = False

    def load_state_dict(self, state_dict: Any) -> None:
        raise AssertionError("nothing was saved")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Unrestored, "state_dict has no load_state_dict, so a resumed run would lose the state"),
        (Unsaved, "load_state_dict has no state_dict, so no checkpoint would hold a state"),
    ],
)
def test_observer_with_half_of_a_state_runs_without_it(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    kind: type[Named],
    told: str,
) -> None:
    for steps in (1, 2):
        caplog.clear()
        trainer = train(make_trainer, steps, kind(), chkpt_root=tmp_path)
        (warning,) = (message for message in caplog.messages if told in message)
        assert warning.startswith("plug-in 'named' (")
        assert trainer.state.global_epoch == steps
    assert "named" not in read(max(files(tmp_path, "**/*_2_*.pth")))["plugins"][0]


def test_critical_plugin_with_half_of_a_state_is_refused(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unrestored, "critical", True)
    with pytest.raises(InvalidPluginError, match="a resumed run would lose the state: add load_"):
        make_trainer(plugins=[Unrestored()])
