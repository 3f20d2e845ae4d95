"""Processes that the trainer spawns: what they bring back, and how they end."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from faulty import BoomError
from started_ranks import StartRanks

from helios import Plugin, Trainer, TrainingState, hookimpl
from helios.testing import TinyDataModule, TinyModel


class Expected(TinyModel):
    def train_step(self, batch: Any, state: TrainingState) -> Any:
        if state.global_epoch == 1:
            raise BoomError("expected", 5)
        return super().train_step(batch, state)


class Wraps(Plugin):
    """Wraps the launch, and leaves it to the trainer."""

    def __init__(self) -> None:
        super().__init__("wraps")
        self.seen: list[int] = []

    def setup(self) -> None: ...

    @hookimpl(wrapper=True)
    def launch(self, trainer: Any, target: Any) -> Any:
        outcome = yield
        self.seen.append(outcome.state.global_iteration)
        return outcome


def spawn() -> dict[str, Any]:
    wraps = Wraps()
    trainer = Trainer(
        use_cpu=True, total_steps=2, valid_frequency=1, autoload=False, devices=2, plugins=[wraps]
    )
    trainer.train_exceptions.append(BoomError)
    with pytest.raises(BoomError) as error:
        trainer.fit(Expected(), TinyDataModule())
    failed = trainer.state
    model = TinyModel()
    state = trainer.fit(model, TinyDataModule())  # a failed run leaves nothing behind
    return {
        "code": error.value.code,
        "notes": error.value.__notes__,
        "failed": failed.dict(),
        "state": state.dict(),
        "same state": state is trainer.state,
        "finite": all(bool(torch.isfinite(each).all()) for each in model.net.parameters()),
        "own": model.optimizer.param_groups[0]["params"][0] is next(model.net.parameters()),
        "trainer": model.trainer is trainer,
        "metrics": sorted(model.metrics),
        "seen": wraps.seen,
        "environment": os.environ.get("WORLD_SIZE"),
    }


def test_spawned_run_comes_back(ranks: StartRanks) -> None:
    rank = ranks.alone(spawn)
    assert rank.errors == ""
    found = rank.result
    notes = found["notes"]
    assert found["code"] == 5
    assert found["failed"]["global_epoch"] == 1
    assert any("Helios was training 'tiny'" in note and "of 2 on " in note for note in notes)
    assert any("BoomError: expected 5" in note and "in train_step" in note for note in notes)
    assert found["state"]["global_iteration"] == 6
    assert found["state"]["validation_cycles"] == 2
    assert found["metrics"] == ["accuracy"]
    assert found["same state"]
    assert found["finite"]
    assert found["own"]
    assert found["trainer"]
    assert found["environment"] is None
    assert found["seen"] == [6]


class Announces(Plugin):
    def __init__(self, folder: str) -> None:
        super().__init__("announces")
        self.folder = folder

    def setup(self) -> None: ...

    def on_training_batch_end(self, state: TrainingState) -> None:
        path = pathlib.Path(self.folder, f"training-{self.global_rank}")
        if state.global_iteration == 3:
            path.write_text(str(os.getpid()))


def train_for_long(folder: str) -> None:
    trainer = Trainer(
        use_cpu=True,
        total_steps=10**6,
        chkpt_root=folder,
        plugins=[Announces(folder), "preemption"],
        autoload=False,
        devices=2,
    )
    trainer.fit(TinyModel(), TinyDataModule())


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_signal_reaches_all(
    ranks: StartRanks, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    started = ranks.start_alone(train_for_long, str(tmp_path), timeout=120)
    marks = [tmp_path / f"training-{rank}" for rank in range(2)]
    wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    started.processes[0].send_signal(number)
    [parent] = started.wait()
    assert parent.status == (143 if number == signal.SIGTERM else -signal.SIGINT), parent
    saved = [path for path in tmp_path.rglob("*.pth") if not path.is_symlink()]
    assert len(saved) == 1
    for mark in marks:
        assert not pathlib.Path(f"/proc/{mark.read_text()}").exists()


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


PROGRAM = """
import helios
from helios.testing import TinyDataModule, TinyModel

class Mine(TinyModel): ...

trainer = helios.Trainer(use_cpu=True, total_steps=1, devices=2, autoload=False)
trainer.fit(Mine(), TinyDataModule())
"""


def test_interactive_program_is_refused(python_of_ranks: list[str]) -> None:
    done = subprocess.run(
        [*python_of_ranks, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "cannot import Mine, because it is defined in an interactive session" in done.stderr


@pytest.mark.long
def test_program_without_a_guard(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert 'call them under if __name__ == "__main__":' in done.stderr
    assert "ended with exit code 1" in done.stderr


OWN_ERROR = """
import multiprocessing
import os
import sys
import threading

from helios import Trainer
from helios.testing import TinyDataModule, TinyModel

if "HELIOS_TEST_INTERPRETER" in os.environ:  # which imports no program of its own
    sys.modules["__mp_main__"] = sys.modules["__main__"]
    multiprocessing.set_executable(os.environ["HELIOS_TEST_INTERPRETER"])


class Own(ValueError):
    def __init__(self, what, *, code):
        super().__init__(f"{what}: {code}")
        self.code = code
        self.lock = threading.Lock()


class Raises(TinyModel):
    def train_step(self, batch, state):
        if self.global_rank == 1:
            raise Own("own", code=8)
        return super().train_step(batch, state)


def main():
    arguments = {"total_steps": 1, "valid_frequency": 1, "autoload": False, "print_banner": False}
    trainer = Trainer(use_cpu=True, devices=2, **arguments)
    trainer.train_exceptions.append(Own)
    try:
        trainer.fit(Raises(), TinyDataModule())
    except Own as error:
        print(error, error.code, len(error.__notes__))
    trainer.fit(TinyModel(), TinyDataModule())
    print(trainer.state.global_iteration)


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.long)])
def test_error_whose_class_is_in_the_program(
    ranks: StartRanks, tmp_path: pathlib.Path, python_of_ranks: list[str], is_whole: bool
) -> None:
    """Its own constructor and its lock are no obstacle; a normal end writes no warning."""
    program = tmp_path / "program.py"
    program.write_text(OWN_ERROR)
    _, variables = ranks.prepared(spawn)
    done = subprocess.run(
        [*([sys.executable] if is_whole else python_of_ranks), str(program)],
        env=os.environ | ({} if is_whole else variables),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "own: 8 8 2\n3\n"
