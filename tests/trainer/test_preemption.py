"""Signals from a real parent to a real child, and what a run does about its time limit."""

import datetime
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
import torch
from helpers import Make, files

from helios import Plugin, Trainer, TrainingState
from helios.errors import ConfigurationError
from helios.plugins.builtin.preemption import PreemptionPlugin
from helios.testing import TinyDataModule, TinyModel, equal
from helios.trainer import StopRequest

LIMIT = 1.0  # seconds: more than setting up takes

CHILD = """
    import os, sys
    from helios import Trainer
    from helios.testing import TinyDataModule, TinyModel

    root, place = sys.argv[1:]

    def wait(here):
        # Tells the parent where the run is, and waits there for the parent's word.
        global place
        if here == place:
            place = None
            print("in", here, flush=True)
            sys.stdin.readline()

    class Waiting(TinyModel):
        def train_step(self, batch, state):
            if state.global_iteration == 8:
                wait("training")
            return super().train_step(batch, state)

        def valid_step(self, batch, step):
            if self.trainer.state.validation_cycles == 1 and step == 1:
                wait("validation")
            return super().valid_step(batch, step)

        def test_step(self, batch, step):
            wait("testing")
            print("tested", step, flush=True)
            return super().test_step(batch, step)

    class Told(Trainer):
        def request_stop(self, *arguments, **options):
            super().request_stop(*arguments, **options)
            print("asked to stop", flush=True)

    def save_is_to_be_renamed(event, arguments):
        if event == "os.rename" and "epoch_2" in str(arguments[1]):
            wait("a save")

    sys.addaudithook(save_is_to_be_renamed)
    model, data = Waiting(), TinyDataModule()
    trainer = Told(
        total_steps=3, valid_frequency=1, chkpt_frequency=2, print_frequency=4, use_cpu=True,
        autoload=False, print_banner=False, run_root=root, plugins=["metrics-file", "preemption"],
    )
    trainer.test(model, data) if place == "testing" else trainer.fit(model, data)
    print("not reached")
"""


class Child:
    """A process that trains until it is at a place, and waits there."""

    def __init__(self, root: pathlib.Path, place: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(root), place],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.expect(f"in {place}")

    def expect(self, line: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == line + "\n"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def leave(self, word: str = "go on\n") -> tuple[int, str]:
        """Let it go on, and return its exit code and what it has printed."""
        with self._process as process:
            output, _ = process.communicate(word, timeout=60)
        return process.returncode, output


def go_on(make_trainer: Make, root: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    model = TinyModel()
    state = make_trainer(
        total_steps=3,
        valid_frequency=1,
        print_frequency=4,
        run_root=root,
        plugins=["metrics-file", "preemption"],
    ).fit(model, TinyDataModule())
    counters = state.dict()
    del counters["average_iter_time"], counters["running_iter"]
    return model.state_dict(), counters, (root / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, -signal.SIGINT)],
)
@pytest.mark.parametrize(
    ("place", "saved"),
    [
        ("training", ["tiny_epoch_1_iter_8.pth"]),
        ("validation", ["tiny_epoch_1_iter_12.pth"]),
        ("a save", ["tiny_epoch_2_iter_12.pth"]),
    ],
)
def test_signal_while_training(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    place: str,
    saved: list[str],
    number: signal.Signals,
    code: int,
) -> None:
    child = Child(tmp_path / "cut", place)
    child.send(number)
    child.expect("asked to stop")
    assert child.leave() == (code, "")
    folder = tmp_path / "cut/checkpoints/tiny"
    assert [path.name for path in files(folder)] == saved
    payload = torch.load(folder / saved[0], weights_only=True)
    assert payload["validation_due"] is (place == "validation")
    assert equal(go_on(make_trainer, tmp_path / "cut"), go_on(make_trainer, tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_testing(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    child = Child(tmp_path, "testing")
    child.send(number)
    child.expect("asked to stop")
    code = 143 if number == signal.SIGTERM else -signal.SIGINT
    assert child.leave() == (code, "tested 0\n")  # of three batches
    assert not (tmp_path / "metrics.jsonl").exists()


def test_second_interrupt_leaves_at_once(tmp_path: pathlib.Path) -> None:
    child = Child(tmp_path, "training")
    child.send(signal.SIGINT)
    child.expect("asked to stop")
    child.send(signal.SIGINT)
    assert child.leave("") == (-signal.SIGINT, "")
    assert list(files(tmp_path, "**/*.pth")) == []


# In this process.


class Signalling(Plugin):
    """Sends this process a signal after a batch, and sees who catches signals meanwhile."""

    def __init__(self, number: signal.Signals | None = None) -> None:
        super().__init__("signalling")
        self._number = number
        self.caught: list[Any] = []
        self.batches = 0

    def setup(self) -> None: ...

    def on_training_batch_end(self) -> None:
        self._after_batch()

    def on_testing_batch_end(self) -> None:
        self._after_batch()

    def _after_batch(self) -> None:
        self.batches += 1
        self.caught = [signal.getsignal(number) for number in PreemptionPlugin.signals]
        if self._number is not None:
            signal.raise_signal(self._number)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in PreemptionPlugin.signals]


def test_handlers_are_put_back_after_a_test(make_trainer: Make) -> None:
    before, signalling = handlers(), Signalling()
    trainer = make_trainer(plugins=["preemption", signalling])
    trainer.test(TinyModel(), TinyDataModule())
    assert handlers() == before
    assert not set(signalling.caught) & set(before)


def test_interrupted_test_ends_after_its_batch(make_trainer: Make) -> None:
    before, signalling = handlers(), Signalling(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        make_trainer(plugins=[signalling, "preemption"]).test(TinyModel(), TinyDataModule())
    assert caught.value.code == 143
    assert (signalling.batches, handlers()) == (1, before)


def test_interrupt_ends_in_the_usual_error(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    before = handlers()
    trainer = make_trainer(chkpt_root=tmp_path, plugins=["preemption", Signalling(signal.SIGTERM)])
    trainer.plugins["signalling"]._number = signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyModel(), TinyDataModule())
    assert [path.name for path in files(tmp_path / "tiny")] == ["tiny_epoch_0_iter_1.pth"]
    assert handlers() == before


def test_ignored_signals_stay_ignored(make_trainer: Make) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell's & do
    try:
        signalling = Signalling(signal.SIGINT)
        trainer = make_trainer(total_steps=1, plugins=["preemption", signalling])
        assert trainer.fit(TinyModel(), TinyDataModule()).global_epoch == 1
        assert signal.SIG_IGN in signalling.caught
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# Stops in validation and testing.


class AskingInValidation(TinyModel):
    """Asks for a stop in the first batch of the first validation."""

    def __init__(self, urgent: bool) -> None:
        super().__init__()
        self._urgent = urgent
        self.validated = 0

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self.validated += 1
        if self.validated == 1:
            self.trainer.request_stop("by the test", urgent=self._urgent)
        return super().valid_step(batch, step)


@pytest.mark.parametrize(
    ("urgent", "interruptible", "validated"),
    [(True, True, 1), (True, False, 3), (False, True, 3), (False, False, 3)],
)
def test_only_an_urgent_stop_leaves_a_validation(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    urgent: bool,
    interruptible: bool,
    validated: int,
) -> None:
    trainer = make_trainer(valid_frequency=1, chkpt_root=tmp_path)
    trainer.interruptible = interruptible
    model = AskingInValidation(urgent)
    state = trainer.fit(model, TinyDataModule())
    assert (model.validated, state.validation_cycles) == (validated, validated == 3)
    (path,) = files(tmp_path / "tiny")
    assert torch.load(path, weights_only=True)["validation_due"] is (validated == 1)
    assert trainer.stop_requests == [StopRequest("by the test", "the model", urgent)]


def test_nothing_is_copied_where_nothing_may_interrupt(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    class Counting(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self._gathered = 0

        def state_dict(self) -> dict[str, Any]:
            self._gathered += 1
            return super().state_dict()

    def gathered(**arguments: Any) -> int:
        model = Counting()
        make_trainer(valid_frequency=1, **arguments).fit(model, TinyDataModule())
        return model._gathered

    assert gathered(chkpt_root=tmp_path / "plain") == 1  # the save at the end
    assert gathered(chkpt_root=tmp_path / "limited", max_time=3600) == 3


def test_stop_of_a_test_leaves_no_results(make_trainer: Make) -> None:
    logged: list[Any] = []

    class Logging(Plugin):
        def __init__(self) -> None:
            super().__init__("logging")

        def setup(self) -> None: ...

        def on_testing_batch_end(self, step: int) -> None:
            logged.append(step)
            if len(logged) == 2:
                self.trainer.request_stop("seen enough")

        def on_log(self, metrics: dict[str, float]) -> None:
            logged.append(metrics)

    trainer, model = make_trainer(plugins=[Logging()]), TinyModel()
    trainer.test(model, TinyDataModule())
    assert (logged, model.metrics) == ([0, 1], {})
    trainer.test(model, TinyDataModule())  # the request was for the run before
    assert logged[2:5] == [0, 1, 2]
    assert trainer.stop_requests == []


# The time limit.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        (datetime.timedelta(minutes=2), 120),
        ("00:01:30", 90),
        ("48:00:00", 172800),
        ("1-02:03:04", 93784),
        (None, None),
    ],
)
def test_durations(make_trainer: Make, value: Any, seconds: float | None) -> None:
    trainer = make_trainer(max_time=value)
    assert trainer.max_time == seconds
    assert trainer.interruptible is (value is not None)


@pytest.mark.parametrize(
    "value",
    [0, -1, float("nan"), float("inf"), True, "90", "1:2:3", "00:61:00", "1d", [], "0:00:00"],
)
def test_refused_durations(make_trainer: Make, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(max_time=value)
    assert str(caught.value) == (
        f"max_time={value!r}: write a positive number of seconds, a datetime.timedelta, or"
        ' "HH:MM:SS" or "D-HH:MM:SS".'
    )


class Slow(TinyModel):
    """Spends the time of the run in one place."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place
        self._started = 0.0
        self.tested = 0

    def _spend(self, place: str) -> None:
        while place == self._place and time.monotonic() < self._started + LIMIT:
            pass

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self._spend("training")
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self._spend("validation")
        return super().valid_step(batch, step)

    def test_step(self, batch: Any, step: int) -> torch.Tensor:
        self._spend("testing")
        self.tested += 1
        return super().valid_step(batch, step)

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self._started = time.monotonic()  # later than the clock of the run


@pytest.mark.parametrize(("place", "batches"), [("training", 1), ("validation", 4)])
def test_time_is_over(make_trainer: Make, tmp_path: pathlib.Path, place: str, batches: int) -> None:
    def train(root: pathlib.Path, model: TinyModel, **arguments: Any) -> tuple[Any, Trainer]:
        trainer = make_trainer(
            train_unit="iteration",
            total_steps=9,
            valid_frequency=4,
            chkpt_root=root,
            **arguments,
        )
        state = trainer.fit(model, TinyDataModule())
        return (state.global_iteration, state.validation_cycles), trainer

    resumed, whole = TinyModel(), TinyModel()
    end, _ = train(tmp_path / "whole", whole)  # first, since it imports what the next one needs
    position, trainer = train(tmp_path / "cut", Slow(place), max_time=LIMIT)
    assert position == (batches, 0)
    assert trainer.stop_requests == [
        StopRequest("max_time=1 seconds are over", "the trainer", urgent=True)
    ]
    assert train(tmp_path / "cut", resumed)[0] == end == (9, 2)
    assert equal(resumed.state_dict(), whole.state_dict())
    assert equal(resumed.metrics, whole.metrics)


def test_time_for_a_test_is_over(make_trainer: Make) -> None:
    model = Slow("testing")
    make_trainer(max_time=LIMIT).test(model, TinyDataModule())
    assert (model.tested, model.metrics) == (1, {})


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_signal_behind_the_last_batch_of_a_test(make_trainer: Make) -> None:
    class Ending(TinyModel):
        def on_testing_batch_end(self, step: int) -> None:
            if step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SystemExit) as caught:
        make_trainer(plugins=["preemption"]).test(Ending(), TinyDataModule())
    assert caught.value.code == 128 + signal.SIGUSR1


def test_second_ctrl_c_leaves_at_once_whatever_came_between(make_trainer: Make) -> None:
    seen = []

    class Interrupted(TinyModel):
        def train_step(self, batch: Any, state: Any) -> torch.Tensor:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                seen.append(number)
                os.kill(os.getpid(), number)
            return super().train_step(batch, state)

    with pytest.raises(KeyboardInterrupt):
        make_trainer(plugins=["preemption"]).fit(Interrupted(), TinyDataModule())
    assert seen == [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
