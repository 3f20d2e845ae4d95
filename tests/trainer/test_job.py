"""The job of a run: another process can do it, and what it brings back is the outcome."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, UserError, notes_of

from helios import Plugin, TrainingState
from helios.errors import InvalidPluginError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal
from helios.trainer import ShippedError
from helios.trainer.job import Outcome


class Elsewhere(Plugin):
    """Does the work of a run in another process, which is started anew."""

    def __init__(self) -> None:
        super().__init__("elsewhere")
        self.process = 0

    def launch(self, target: Callable[[], Outcome]) -> Outcome:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            self.process, outcome = pool.apply(_with_process, (target,))
        return outcome

    def setup(self) -> None: ...


class Counting(Plugin):
    """Fails in the process that asked for the run."""

    critical = False

    def __init__(self, parent: int) -> None:
        super().__init__("counting")
        self._parent = parent

    def setup(self) -> None:
        assert os.getpid() != self._parent

    def on_training_batch_end(self, state: TrainingState) -> None:
        if state.global_iteration == 8:
            self.trainer.request_stop("eight are enough")


def _with_process(target: Callable[[], Outcome]) -> tuple[int, Outcome]:
    return os.getpid(), target()


def test_another_process_does_the_job(make_trainer: Make) -> None:
    here, there = TinyModel(), TinyModel()
    expected = make_trainer(plugins=[StopAfter(8)], valid_frequency=1)
    expected.fit(here, TinyDataModule())
    elsewhere = Elsewhere()
    trainer = make_trainer(plugins=[elsewhere, Counting(os.getpid())], valid_frequency=1)
    state = trainer.fit(there, TinyDataModule())
    assert elsewhere.process not in (0, os.getpid())
    assert trainer.state is state
    assert state.global_iteration == 8
    assert there.metrics == here.metrics != {}
    requests = [(request.reason, request.author) for request in trainer.stop_requests]
    assert requests == [("eight are enough", "counting")]
    assert [entry.id for entry in trainer.plan.active] == ["elsewhere", "counting"]


def test_a_test_elsewhere_has_the_weights_that_were_trained_elsewhere(make_trainer: Make) -> None:
    here, there = TinyModel(), TinyModel()
    for model, plugins in ((here, []), (there, [Elsewhere()])):
        trainer = make_trainer(plugins=plugins)
        trainer.fit(model, TinyDataModule())
        trainer.test(model, TinyDataModule())
    assert equal(there.metrics, here.metrics)
    assert "accuracy" in here.metrics


def test_outcome_can_be_pickled(make_trainer: Make) -> None:
    trainer = make_trainer(total_steps=1)
    trainer.fit(TinyModel(), TinyDataModule())
    outcome = Outcome(trainer.state, trainer.stop_requests, trainer.plan)
    assert pickle.loads(pickle.dumps(outcome)) == outcome


@pytest.mark.parametrize("value", [None, TrainingState(), 3])
def test_launcher_that_returns_something_else(make_trainer: Make, value: Any) -> None:
    class Forgetful(Plugin):
        def launch(self, target: Callable[[], Outcome]) -> Any:
            target()
            return value

        def setup(self) -> None: ...

    trainer = make_trainer(plugins=[Forgetful("forgetful")])
    with pytest.raises(InvalidPluginError, match="return what target") as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert "plug-in 'forgetful'" in str(caught.value)
    assert f"returned {repr(value)[:60]}" in str(caught.value)


@pytest.mark.parametrize("kind", ["of an earlier run", "of nobody"])
def test_launcher_that_returns_the_outcome_of_another_run(make_trainer: Make, kind: str) -> None:
    class Stale(Plugin):
        kept = None if kind == "of an earlier run" else Outcome()

        def launch(self, target: Callable[[], Outcome]) -> Any:
            if self.kept is None:
                self.kept = target()
            return self.kept

        def setup(self) -> None: ...

    trainer = make_trainer(plugins=[Stale("stale")], total_steps=1)
    if kind == "of an earlier run":
        trainer.fit(TinyModel(), TinyDataModule())
    with pytest.raises(InvalidPluginError, match="returned the outcome of another run from launch"):
        trainer.fit(TinyModel(), TinyDataModule())
    with pytest.raises(InvalidPluginError, match=r"plug-in 'stale' .*: call target"):
        trainer.test(TinyModel(), TinyDataModule())


def test_launcher_that_returns_something_without_a_text(make_trainer: Make) -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    class Odd(Plugin):
        def launch(self, target: Callable[[], Outcome]) -> Any:
            return Silent()

        def setup(self) -> None: ...

    with pytest.raises(InvalidPluginError, match=r"'odd' .* returned <.*Silent> from launch"):
        make_trainer(plugins=[Odd("odd")]).fit(TinyModel(), TinyDataModule())


def test_error_that_a_launcher_brings_back(make_trainer: Make) -> None:
    class Shipping(Plugin):
        """Raises the error of its process as if another one had raised and reported it."""

        final: Any = None
        seen = 0

        def launch(self, trainer: Any, target: Callable[[], Outcome]) -> Any:
            try:
                return target()
            except BaseException as error:
                self.final, self.seen = error is trainer.final_error, 0
                raise ShippedError.pack(error).unpack() or error from None

        def on_exception(self, error: BaseException) -> None:
            self.seen += 1

        def setup(self) -> None: ...

    class Failing(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            raise UserError("of a step")

    class Ending(TinyModel):
        def on_training_end(self) -> None:
            self.trainer.raise_at_end(UserError("of the end"))

    for model, text, is_final in ((Failing(), "step", False), (Ending(), "end", True)):
        plugin = Shipping("shipping")
        trainer = make_trainer(plugins=[plugin], total_steps=1)
        with pytest.raises(UserError, match=f"of (a|the) {text}") as caught:
            trainer.fit(model, TinyDataModule())
        assert (plugin.final, plugin.seen) == (is_final, 0)
        assert all("launch" not in note for note in notes_of(caught.value))
        assert len(notes_of(caught.value)) == 1
        assert trainer.final_error is None  # no run is in progress


def test_launcher_chooses_the_device_of_its_processes(make_trainer: Make) -> None:
    class Chooser(Plugin):
        seen: Any = None

        def configure_trainer(self, trainer: Any) -> None:
            trainer.device = torch.device("cuda")

        def launch(self, trainer: Any, target: Callable[[], Outcome]) -> Any:
            self.seen = target.args[0].place.device  # type: ignore[attr-defined]  # the job
            raise UserError

        def setup(self) -> None: ...

    plugin = Chooser("chooser")
    with pytest.raises(UserError):
        make_trainer(plugins=[plugin]).fit(TinyModel(), TinyDataModule())
    assert plugin.seen == torch.device("cuda")
