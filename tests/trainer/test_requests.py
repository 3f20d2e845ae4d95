"""Validations and checkpoints that hooks request, and what a trainer tells of the training."""

import logging
import math
from typing import Any

import pytest
from helpers import Make, Named

from helios.errors import NoRunError
from helios.testing import TinyDataModule, TinyModel

BATCHES = 6
"""The number of batches in an epoch of the tiny data."""


class Requesting(Named):
    """Requests a validation or a checkpoint after some batches, and notes what comes."""

    def __init__(self, method: str, *batches: int) -> None:
        super().__init__("requesting")
        self._method = method
        self._batches = batches
        self._seen: list[Any] = []

    def on_training_batch_end(self, state: Any) -> None:  # type: ignore[override]
        if state.global_iteration in self._batches:
            getattr(self.trainer, self._method)("for a test")

    def on_validation_results(self, validation_cycle: int) -> None:  # type: ignore[override]
        self._seen.append(("validated", self.trainer.state.global_iteration, validation_cycle))

    def on_checkpoint_saved(self, state: Any) -> None:  # type: ignore[override]
        self._seen.append(("saved", state.global_iteration))


UNITS: list[dict[str, Any]] = [
    {"train_unit": "epoch", "total_steps": 2},
    {"train_unit": "iteration", "total_steps": 12},
]


@pytest.mark.parametrize("arguments", UNITS)
def test_a_requested_validation_follows_the_step(
    arguments: dict[str, Any], make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plugin = Requesting("request_validation", 2, 6, 9)
    make_trainer(plugins=[plugin], **arguments).fit(TinyModel(), TinyDataModule())
    assert plugin._seen == [("validated", 2, 0), ("validated", 6, 1), ("validated", 9, 2)]
    assert "requesting requests a validation: for a test" in caplog.messages


@pytest.mark.parametrize("arguments", UNITS)
def test_a_requested_checkpoint_follows_the_step(
    arguments: dict[str, Any], make_trainer: Make, tmp_path: Any
) -> None:
    plugin = Requesting("request_save", 2, 6, 9)
    make_trainer(plugins=[plugin], run_root=tmp_path, **arguments).fit(
        TinyModel(), TinyDataModule()
    )
    assert plugin._seen == [("saved", 2), ("saved", 6), ("saved", 9), ("saved", 12)]


def test_a_request_where_one_is_due_changes_nothing(make_trainer: Make, tmp_path: Any) -> None:
    plugins = [Requesting("request_validation", 6), Requesting("request_save", 6)]
    plugins[1].__init__("request_save", 6)  # type: ignore[misc]
    plugins[1]._plug_id = "other"
    make_trainer(
        plugins=plugins, total_steps=1, valid_frequency=1, chkpt_frequency=1, run_root=tmp_path
    ).fit(TinyModel(), TinyDataModule())
    assert plugins[0]._seen == [("validated", 6, 0), ("saved", 6)]


def test_requests_wait_for_the_end_of_the_window(make_trainer: Make, tmp_path: Any) -> None:
    plugin = Requesting("request_save", 1)
    make_trainer(plugins=[plugin], total_steps=1, accumulation_steps=4, run_root=tmp_path).fit(
        TinyModel(), TinyDataModule()
    )
    assert plugin._seen == [("saved", 4), ("saved", 6)]


@pytest.mark.parametrize("arguments", UNITS)
def test_a_resumed_run_repeats_an_interrupted_validation(
    arguments: dict[str, Any], make_trainer: Make, tmp_path: Any
) -> None:
    class Stopping(Requesting):
        def on_validation_batch_start(self, step: int) -> None:  # type: ignore[override]
            self.trainer.request_stop("enough", urgent=True)

    arguments = {**arguments, "run_root": tmp_path, "max_time": 1000.0}
    first = Stopping("request_validation", 3)
    make_trainer(plugins=[first], **arguments).fit(TinyModel(), TinyDataModule())
    assert first._seen == [("saved", 3)]
    second = Requesting("request_validation", 3)
    make_trainer(plugins=[second], **arguments).fit(TinyModel(), TinyDataModule())
    assert second._seen == [("validated", 3, 0), ("saved", 12)]


class Sizes(TinyModel):
    """Notes what the trainer tells in ``setup``, for example for a schedule."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self._told = self.trainer.steps_per_epoch, self.trainer.estimated_steps


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"total_steps": 3}, (BATCHES, 3 * BATCHES)),
        ({"total_steps": 3, "accumulation_steps": 4}, (2, 6)),
        ({"total_steps": 7, "train_unit": "iteration"}, (BATCHES, 7)),
    ],
)
def test_the_number_of_steps(arguments: dict[str, Any], told: Any, make_trainer: Make) -> None:
    model, data = Sizes(), TinyDataModule()
    trainer = make_trainer(**arguments)
    trainer.fit(model, data)
    assert model._told == told
    assert trainer.state.current_iteration == told[1]
    assert trainer.datamodule is data


def test_an_endless_training_has_no_last_step(make_trainer: Make) -> None:
    class Once(Named):
        def on_training_batch_end(self) -> None:  # type: ignore[override]
            self.trainer.request_stop("enough")

    model = Sizes()
    make_trainer(plugins=[Once()], total_steps=math.inf).fit(model, TinyDataModule())
    assert model._told == (BATCHES, math.inf)


def test_without_a_run_nothing_is_known(make_trainer: Make) -> None:
    trainer = make_trainer()
    trainer.request_save("nobody")
    trainer.request_validation("nobody")
    with pytest.raises(AssertionError, match="data are known once"):
        _ = trainer.datamodule
    trainer.fit(TinyModel(), TinyDataModule())
    with pytest.raises(NoRunError, match="not running"):
        _ = trainer.steps_per_epoch
