"""Runs at once in one process would share PyTorch's generators."""

import threading

import pytest
from helpers import Make

from helios import TrainingState
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel, equal


class Meeting(TinyModel):
    """Waits in its first batch until somebody has tried to run beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.tried = threading.Event(), threading.Event()

    def on_training_batch_start(self, state: TrainingState) -> None:
        super().on_training_batch_start(state)
        self.started.set()
        assert self.tried.wait(60)


def test_second_thread_is_refused_and_the_first_run_is_exact(make_trainer: Make) -> None:
    alone, beside = TinyModel(), Meeting()
    make_trainer().fit(alone, TinyDataModule())
    trainer = make_trainer()
    thread = threading.Thread(target=trainer.fit, args=(beside, TinyDataModule()))
    thread.start()
    assert beside.started.wait(60)
    try:
        with pytest.raises(ConfigurationError, match="n_jobs=1, and several processes"):
            make_trainer().fit(TinyModel(), TinyDataModule())
    finally:
        beside.tried.set()
        thread.join()
    assert equal(beside.state_dict(), alone.state_dict())
    make_trainer().fit(TinyModel(), TinyDataModule())  # the process is free again


def test_run_inside_of_a_hook(make_trainer: Make) -> None:
    class Nesting(TinyModel):
        def on_training_start(self) -> None:
            make_trainer().fit(TinyModel("inner"), TinyDataModule())

    first, second = Nesting(), Nesting()
    for model in (first, second):
        make_trainer().fit(model, TinyDataModule())
    assert equal(first.state_dict(), second.state_dict())


def test_failed_run_frees_the_process(make_trainer: Make) -> None:
    class Failing(TinyModel):
        def on_training_start(self) -> None:
            raise OSError("no such luck")

    with pytest.raises(OSError, match="no such luck"):
        make_trainer().fit(Failing(), TinyDataModule())
    thread = threading.Thread(target=make_trainer().fit, args=(TinyModel(), TinyDataModule()))
    thread.start()
    thread.join()
    trainer = make_trainer()
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.state.global_epoch == 2
