"""Ctrl-C and SIGTERM without any plug-in: the run saves what it has done, and can be resumed."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
import torch
from helpers import FailingModel, Make, Named, UserError, files, names, read

from helios import TrainingState
from helios.testing import TinyDataModule, TinyModel, equal

NUMBERS = [signal.SIGINT, signal.SIGTERM]


class Interrupted(TinyModel):
    """Sends its own process signals in its third batch, and counts its batches."""

    def __init__(self, *numbers: signal.Signals) -> None:
        super().__init__()
        self._numbers = list(numbers)
        self.batches = 0
        self.handlers: list[Any] = []

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self.batches += 1
        self.handlers = handlers()
        if state.global_iteration == 3:
            while self._numbers:
                os.kill(os.getpid(), self._numbers.pop(0))
        return super().train_step(batch, state)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


def kind_of(number: signal.Signals) -> type[BaseException]:
    return KeyboardInterrupt if number == signal.SIGINT else SystemExit


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("unit", "accumulation", "batches"), [("epoch", 1, 3), ("iteration", 2, 4)]
)
def test_first_signal_saves_and_the_run_resumes(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    unit: str,
    accumulation: int,
    batches: int,
) -> None:
    def fit(model: TinyModel, folder: str) -> Any:
        options = {"train_unit": unit, "accumulation_steps": accumulation, "total_steps": 5}
        trainer = make_trainer(chkpt_root=tmp_path / folder, print_banner=True, **options)
        trainer.fit(model, TinyDataModule())
        return model.state_dict()

    before, model = handlers(), Interrupted(number)
    with pytest.raises(kind_of(number)):
        fit(model, "cut")
    assert (model.batches, handlers()) == (batches, before)
    assert not set(model.handlers) & set(before)
    (path,) = files(tmp_path / "cut/tiny")
    assert read(path)["training_state"]["global_iteration"] == batches
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    output, errors = capfd.readouterr()
    assert errors.split("\n") == [
        "",
        f"{name}: the run ends after this step and saves a checkpoint, so it can resume. Press"
        " Ctrl-C again to end it at once.",
        "",
    ]
    assert "stopped" not in output  # once is enough
    assert equal(fit(TinyModel(), "cut"), fit(TinyModel(), "whole"))


@pytest.mark.parametrize("first", NUMBERS)
@pytest.mark.parametrize("second", NUMBERS)
def test_second_signal_ends_at_once(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    torn_down = []

    class Plug(Named):
        def teardown(self) -> None:
            torn_down.append(True)

    model = Interrupted(first, second)
    trainer = make_trainer(chkpt_root=tmp_path, plugins=[Plug()])
    with pytest.raises(kind_of(second)):
        trainer.fit(model, TinyDataModule())
    assert (model.batches, names(tmp_path / "tiny"), torn_down) == (3, [], [True])
    assert f": the run ends at once, in {__file__}:" in capfd.readouterr().err


def test_reason_is_known(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(chkpt_root=tmp_path)
    with caplog.at_level("INFO", "helios"), pytest.raises(KeyboardInterrupt):
        trainer.fit(Interrupted(signal.SIGINT), TinyDataModule())
    (request,) = trainer.stop_requests
    assert (request.reason, request.author) == ("received SIGINT", "the user")
    assert "stopped: received SIGINT (requested by the user)" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_signal_before_the_first_batch_ends_at_once(
    make_trainer: Make, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Setting(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make_trainer(chkpt_root=tmp_path).fit(Setting(), TinyDataModule())
    assert "Ctrl-C: the run ends at once" in capfd.readouterr().err


def test_signal_in_the_last_batch(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Late(TinyModel):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make_trainer(chkpt_root=tmp_path, total_steps=1).fit(Late(), TinyDataModule())
    assert names(tmp_path / "tiny") == ["tiny_epoch_1_iter_6.pth"]


# Who else handles signals.


def test_without_a_folder_nothing_changes(make_trainer: Make) -> None:
    before, model = handlers(), Interrupted(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_trainer().fit(model, TinyDataModule())
    assert (model.batches, model.handlers) == (3, before)


def test_own_handlers_stay(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    def own(number: int, frame: Any) -> None: ...

    before = [signal.signal(number, own) for number in NUMBERS]
    try:
        model = Interrupted(signal.SIGINT)
        make_trainer(chkpt_root=tmp_path, total_steps=1).fit(model, TinyDataModule())
        assert (model.batches, model.handlers) == (6, [own, own])
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)


def test_failed_run_puts_the_handlers_back(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    before = handlers()
    with pytest.raises(UserError):
        make_trainer(chkpt_root=tmp_path).fit(FailingModel(), TinyDataModule())
    assert handlers() == before


def test_other_threads_leave_signals_alone(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    model = Interrupted()
    trainer = make_trainer(chkpt_root=tmp_path, total_steps=1)
    thread = threading.Thread(target=trainer.fit, args=(model, TinyDataModule()))
    thread.start()
    thread.join()
    assert (model.batches, model.handlers) == (6, handlers())


def spin(started: Any) -> None:
    started.set()
    while True:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_of_a_user_can_be_terminated(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    codes = []

    class Forking(TinyModel):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            context = multiprocessing.get_context("fork")
            started = context.Event()
            child = context.Process(target=spin, args=(started,))
            child.start()
            assert started.wait(60)
            child.terminate()
            child.join(60)
            codes.append(child.exitcode)

    make_trainer(chkpt_root=tmp_path, total_steps=1).fit(Forking(), TinyDataModule())
    assert codes == [-signal.SIGTERM]


# What the terminal shows, and what the shell is told.

SCRIPT = """
    import os, pathlib, signal, sys
    from helios import Trainer
    from helios.testing import TinyDataModule, TinyModel

    class Interrupted(TinyModel):
        def train_step(self, batch, state):
            while numbers:
                os.kill(os.getpid(), numbers.pop(0))
            return super().train_step(batch, state)

    root = pathlib.Path(sys.argv[1])
    for case in sys.argv[2:]:
        if os.fork() == 0:
            numbers = [int(number) for number in case.split("-")]
            for name, stream in (("out", 1), ("err", 2)):
                os.dup2(os.open(root / f"{case}.{name}", os.O_CREAT | os.O_WRONLY), stream)
            trainer = Trainer(
                total_steps=2, use_cpu=True, autoload=False, chkpt_root=root / case,
                print_banner=False, valid_frequency=1,
            )
            trainer.fit(Interrupted(), TinyDataModule())
            print("not reached")
            os._exit(0)
        _, status = os.wait()
        print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_terminal_shows_no_traceback(tmp_path: pathlib.Path) -> None:
    cases = {"2": (-signal.SIGINT, 1), "2-2": (-signal.SIGINT, 2), "15": (143, 1), "2-15": (143, 2)}
    shell = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), *cases],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    codes = [int(code) for code in shell.stdout.split()]
    assert codes == [code for code, _ in cases.values()]
    for case, (_, lines) in cases.items():
        told = (tmp_path / f"{case}.err").read_text().split("\n")
        assert len(list(filter(None, told))) == lines, told
        assert (tmp_path / f"{case}.out").read_text() == ""
        assert len(names(tmp_path / case / "tiny")) == (lines == 1)
