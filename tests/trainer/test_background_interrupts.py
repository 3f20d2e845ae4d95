"""An error of a signal handler while a run waits for a save: the run ends once it is durable."""

import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest
from helpers import Keeping, Make, names, notes_of

from helios.checkpoints import storage
from helios.checkpoints.writer import Writer
from helios.testing import TinyDataModule, TinyModel

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")


class Interrupt(BaseException):
    """The error of a signal handler."""


class Interrupter:
    """Interrupts the main thread from another one, and waits until it has been."""

    def __init__(self) -> None:
        self._handled = threading.Event()
        self.errors: list[Interrupt] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        self._handled.set()
        self.errors.append(Interrupt(len(self.errors)))
        raise self.errors[-1]

    def __call__(self) -> None:
        self._handled.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert self._handled.wait(60)


@pytest.fixture
def interrupt() -> Iterator[Interrupter]:
    interrupter = Interrupter()
    before = signal.signal(signal.SIGUSR1, interrupter.handle)
    yield interrupter
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("times", [1, 3])
def test_run_ends_when_the_save_is_durable(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Interrupter,
    times: int,
) -> None:
    waits = threading.Event()
    real_wait, real_save = Writer.wait, storage.save

    def wait(writer: Writer) -> None:
        waits.set()
        real_wait(writer)

    def save(payload: dict[str, object], path: pathlib.Path) -> None:
        assert waits.wait(60)
        for _ in range(times):
            interrupt()
        real_save(payload, path)

    monkeypatch.setattr(Writer, "wait", wait)
    monkeypatch.setattr(storage, "save", save)
    keeping = Keeping()
    trainer = make_trainer(
        total_steps=1, chkpt_root=tmp_path, async_checkpoints=True, plugins=[keeping]
    )

    class Waiting(TinyModel):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            waits.clear()  # the run waits once before it begins a save

    with pytest.raises(Interrupt) as caught:
        trainer.fit(Waiting(), TinyDataModule())
    assert caught.value in interrupt.errors
    assert len(interrupt.errors) == times
    assert names(tmp_path / "tiny") == ["tiny_epoch_1_iter_6.pth"]  # and no lock
    storage.verify(tmp_path / "tiny/tiny_epoch_1_iter_6.pth")
    assert keeping.events == [("saved", "tiny_epoch_1_iter_6.pth")]
    assert not [each for each in threading.enumerate() if "helios" in each.name]


def test_error_of_the_save_is_not_lost(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Interrupter,
) -> None:
    def save(payload: object, path: pathlib.Path) -> None:
        interrupt()
        raise OSError("the disk is gone")

    monkeypatch.setattr(storage, "save", save)
    trainer = make_trainer(total_steps=1, chkpt_root=tmp_path, async_checkpoints=True)
    with pytest.raises(Interrupt) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert "the disk is gone" in "".join(notes_of(caught.value))


def test_closing_waits_for_a_job_that_nobody_has_waited_for(interrupt: Interrupter) -> None:
    writer, done = Writer(), []
    started = threading.Event()

    def job() -> None:
        started.wait(60)
        interrupt()
        done.append(True)

    writer.start(job)
    started.set()
    with pytest.raises(Interrupt):
        writer.close()
    assert done == [True]
