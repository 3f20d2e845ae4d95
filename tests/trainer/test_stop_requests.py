"""Requests to stop: who may ask, when a request takes effect, and what is told of it."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make, Named

from helios import Trainer, TrainingState, hookimpl
from helios.testing import StopAfter, TinyDataModule, TinyModel
from helios.trainer import StopRequest


class StopIn(Named):
    """Asks for a stop in one hook."""

    def __init__(self, hook: str) -> None:
        super().__init__("stopper")
        self._hook = hook

    def on_training_start(self) -> None:
        self._maybe("on_training_start")

    def on_training_batch_end(self) -> None:
        self._maybe("on_training_batch_end")

    def on_validation_end(self) -> None:
        self._maybe("on_validation_end")

    def on_training_epoch_end(self) -> None:
        self._maybe("on_training_epoch_end")

    def on_checkpoint_saved(self) -> None:
        self._maybe("on_checkpoint_saved")

    def _maybe(self, hook: str) -> None:
        if hook == self._hook and not self.trainer.stop_requests:
            self.trainer.request_stop(f"asked in {hook}")


@pytest.mark.parametrize(
    ("unit", "hook", "batches"),
    [
        ("epoch", "on_training_start", 0),
        ("epoch", "on_training_batch_end", 1),
        ("epoch", "on_validation_end", 6),
        ("epoch", "on_training_epoch_end", 6),
        ("epoch", "on_checkpoint_saved", 6),
        ("iteration", "on_training_start", 0),
        ("iteration", "on_training_batch_end", 1),
        ("iteration", "on_validation_end", 4),
        ("iteration", "on_training_epoch_end", 6),
        ("iteration", "on_checkpoint_saved", 5),
    ],
)
def test_stop_from_a_plugin(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str, hook: str, batches: int
) -> None:
    trainer = make_trainer(
        train_unit=unit,
        total_steps=99,
        valid_frequency=1 if unit == "epoch" else 4,
        chkpt_frequency=1 if unit == "epoch" else 5,
        chkpt_root=tmp_path,
        plugins=[StopIn(hook)],
    )
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == batches
    assert trainer.stop_requests == [StopRequest(f"asked in {hook}", "stopper")]


def test_stop_takes_effect_where_a_step_is_complete(make_trainer: Make) -> None:
    trainer = make_trainer(accumulation_steps=4, plugins=[StopAfter(2)])
    state = trainer.fit(TinyModel(), TinyDataModule())
    assert (state.global_iteration, state.current_iteration) == (4, 1)


def test_stop_does_not_lose_the_gradients_at_the_end_of_an_epoch(make_trainer: Make) -> None:
    trainer = make_trainer(
        train_unit="iteration", total_steps=99, accumulation_steps=4, plugins=[StopAfter(5)]
    )
    state = trainer.fit(TinyModel(), TinyDataModule())
    assert (state.global_iteration, state.current_iteration) == (8, 2)


def test_stop_from_the_model(make_trainer: Make) -> None:
    class Stopping(TinyModel):
        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if state.global_iteration == 3:
                self.trainer.request_stop("the loss is not finite")

    trainer = make_trainer()
    assert trainer.fit(Stopping(), TinyDataModule()).global_iteration == 3
    assert trainer.stop_requests == [StopRequest("the loss is not finite", "the model")]


def test_stop_from_outside(make_trainer: Make) -> None:
    class Data(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            outside()

    trainer = make_trainer()

    def outside() -> None:
        trainer.request_stop("enough")

    assert trainer.fit(TinyModel(), Data()).global_iteration == 0
    assert trainer.stop_requests == [StopRequest("enough", "the user")]


def test_stop_inside_a_launcher_is_not_the_launchers(make_trainer: Make) -> None:
    class Launching(Named):
        def launch(self, target: Callable[[], Any]) -> Any:
            return target()

    class Stopping(TinyModel):
        def on_training_start(self) -> None:
            self.trainer.request_stop("by the model")

    trainer = make_trainer(plugins=[Launching("launcher")])
    trainer.fit(Stopping(), TinyDataModule())
    assert [request.author for request in trainer.stop_requests] == ["the model"]


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_final_request_stops_a_resumed_run_too(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str, final: bool
) -> None:
    class Stopping(Named):
        def on_training_batch_end(self) -> None:
            self.trainer.request_stop("enough")  # the same request: the final one counts
            self.trainer.request_stop("enough", final=final)

    arguments = {"train_unit": unit, "total_steps": 2, "chkpt_root": tmp_path}
    trainer = make_trainer(plugins=[Stopping("stopper")], **arguments)
    batches = trainer.fit(TinyModel(), TinyDataModule()).global_iteration
    assert trainer.stop_requests == [StopRequest("enough", "stopper")]
    assert batches == 1
    for _ in range(2):
        trainer = make_trainer(**arguments)
        trainer.fit(TinyModel(), TinyDataModule())
        assert trainer.is_complete is not final
        assert trainer.stop_requests == [StopRequest("enough", "stopper")] * final
        assert not final or trainer.state.running_iter == 0


def test_stop_in_an_authors_name(make_trainer: Make) -> None:
    class Stopping(Named):
        def on_training_batch_end(self) -> None:
            self.trainer.request_stop("word from above", author="the scheduler")

    trainer = make_trainer(plugins=[Stopping()])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.stop_requests == [StopRequest("word from above", "the scheduler")]


def test_many_may_ask(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "helios")

    class Plain:
        @hookimpl
        def configure_trainer(self, trainer: Trainer) -> None:
            self._trainer = trainer

        @hookimpl
        def on_training_batch_end(self) -> None:
            self._trainer.request_stop("me, too")

    trainer = make_trainer(plugins=[StopIn("on_training_batch_end"), Plain()])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.stop_requests == [
        StopRequest("asked in on_training_batch_end", "stopper"),
        StopRequest("me, too", "Plain"),
    ]
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("stopped:")]
    assert told == [
        "stopped: asked in on_training_batch_end (requested by stopper)",
        "stopped: me, too (requested by Plain)",
    ]


@pytest.mark.parametrize("who", ["plug-in", "model"])
@pytest.mark.parametrize("answer", [True, 1])
def test_should_training_stop(make_trainer: Make, who: str, answer: Any) -> None:
    class Voting(Named):
        polls = 0

        def should_training_stop(self) -> Any:
            self.polls += 1
            return who == "plug-in" and self.polls == 3 and answer

    class VotingModel(TinyModel):
        def should_training_stop(self) -> Any:
            return who == "model" and self.trainer.state.global_iteration == 3 and answer

    trainer = make_trainer(plugins=[Voting("voter")])
    assert trainer.fit(VotingModel(), TinyDataModule()).global_iteration == 3
    author = "voter" if who == "plug-in" else "the model"
    assert trainer.stop_requests == [StopRequest("should_training_stop", author)]


def test_polls(make_trainer: Make) -> None:
    # after each batch, and after each validation
    class Polled(TinyModel):
        polls = 0

        def should_training_stop(self) -> bool:
            self.polls += 1
            return False

    model = Polled()
    make_trainer(total_steps=2, valid_frequency=2).fit(model, TinyDataModule())
    assert model.polls == 12 + 1


def test_one_request_where_the_answer_stays_the_same(make_trainer: Make) -> None:
    class Stopping(TinyModel):
        def should_training_stop(self) -> bool:
            return self.trainer.state.global_iteration >= 2

    trainer = make_trainer(accumulation_steps=4)
    assert trainer.fit(Stopping(), TinyDataModule()).global_iteration == 4
    assert trainer.stop_requests == [StopRequest("should_training_stop", "the model")]
