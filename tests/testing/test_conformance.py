"""The conformance kit finds what it is there to find, and nothing else."""

import contextlib
import random
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from helpers import Make

from helios import Plugin, TrainingState, hookimpl
from helios.errors import InvalidPluginError
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.plugins.builtin.progress import ProgressPlugin
from helios.testing import (
    ConformanceError,
    StopAfter,
    TinyDataModule,
    TinyModel,
    check_conformance,
    equal,
)


class Good(Plugin):
    """Averages the weights, and writes the average back now and then."""

    changes_results = True

    def __init__(self) -> None:
        super().__init__("good")
        self._average: Any = None
        self._steps = 0

    def setup(self) -> None: ...

    def on_after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        weight = optimizer.param_groups[0]["params"][0].detach()
        if self._average is None:
            self._average = weight.clone()
        self._average = 0.9 * self._average + 0.1 * weight
        self._steps += 1
        if self._steps % 5 == 0:
            weight.copy_(self._average)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average, self._steps = state_dict["average"], state_dict["steps"]


class ForgetsAll(Good):
    """Saves nothing of what influences the weights."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class ForgetsPart(Good):
    """Saves the average, but not the counter."""

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average = state_dict["average"]


class DoesNotRestore(Plugin):
    """Has a state, which it does not take back; the weights do not show it."""

    def __init__(self) -> None:
        super().__init__("amnesiac")
        self._steps = 0

    def setup(self) -> None: ...

    def on_training_batch_end(self) -> None:
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class DrawsOnStart(Plugin):
    """Moves the random numbers of the run, in every process anew."""

    changes_results = True

    def __init__(self) -> None:
        super().__init__("drawing")

    def setup(self) -> None: ...

    def on_training_batch_start(self, state: TrainingState) -> None:
        if state.running_iter == 1:
            torch.rand(())


class Swallows(Plugin):
    """Hides errors of the run around which it stands."""

    def __init__(self) -> None:
        super().__init__("swallowing")

    def setup(self) -> None: ...

    def launch(self, target: Callable[[], Any]) -> Any:
        with contextlib.suppress(Exception):
            return target()


class Replaces(Swallows):
    """Raises an error of its own instead."""

    def launch(self, target: Callable[[], Any]) -> Any:
        try:
            return target()
        except Exception as error:
            raise RuntimeError("something has failed") from error


class NotPlain(Plugin):
    """Has a state that cannot be saved."""

    def __init__(self) -> None:
        super().__init__("not-plain")

    def setup(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"generator": random.Random(0)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class FailsInTest(Plugin):
    """Fails in a test only."""

    def __init__(self) -> None:
        super().__init__("fails-in-test")

    def setup(self) -> None: ...

    def on_testing_batch_end(self) -> None:
        raise ZeroDivisionError


class Misspelt(Plugin):
    """Has a method that would never be called."""

    def __init__(self) -> None:
        super().__init__("misspelt")

    def setup(self) -> None: ...

    def on_train_start(self) -> None: ...


class Plain:
    """An object with hookimpls, one of them a wrapper, and no state."""

    @hookimpl(wrapper=True)
    def on_training_batch_end(self) -> Generator[None, Any, Any]:
        return (yield)


@pytest.mark.parametrize("create", [Plain, MetricsFilePlugin, ProgressPlugin])
def test_good_plugins_pass(create: Callable[[], Any]) -> None:
    check_conformance(create)


def test_kit_leaves_nothing_behind(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Good] = []

    def create() -> Good:
        made.append(Good())
        return made[-1]

    monkeypatch.chdir(tmp_path)
    check_conformance(create)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
    # a new object for each run, so that nothing is carried over in memory
    assert (
        len(made) == len(set(map(id, made))) == 1 + 2 + 2 + 3 + 1
    )  # the last two stops share a run
    assert all(plugin.trainer.run_root.name != "bare" for plugin in made)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (ForgetsAll, r"stops after \d batches and resumes ends .* different state of the model"),
        (ForgetsPart, r"stops after \d batches and resumes ends .* different state of the model"),
        (
            DoesNotRestore,
            r"stops after \d batches and resumes ends .* different state of the plug-in",
        ),
        (DrawsOnStart, r"stops after \d batches and resumes ends .* different state of the model"),
        (Swallows, "swallows the error"),
        (Replaces, "hides the error"),
    ],
)
def test_bad_plugins_are_found(create: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_conformance(create)
    assert issubclass(ConformanceError, AssertionError)


def test_a_state_that_begins_late_is_tested() -> None:
    class Late(Good):
        """Counts in the last epoch, and forgets the number."""

        def on_training_epoch_start(self, state: TrainingState) -> None:
            self._late = 0

        def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
            if state.global_epoch == 2:
                self._late = getattr(self, "_late", 0) + 1
                self.log("late", self._late)

    with pytest.raises(ConformanceError, match=r"stops after 8 and 16 batches .* logged numbers"):
        check_conformance(Late)


@pytest.mark.parametrize(
    ("create", "error"),
    [(NotPlain, RuntimeError), (FailsInTest, ZeroDivisionError), (Misspelt, InvalidPluginError)],
)
def test_errors_of_plugins_come_out(create: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        check_conformance(create)


def test_arguments_reach_the_trainers_and_installed_plugins_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    active: set[str] = set()
    seen: list[int] = []

    class Looking(Good):
        def on_training_start(self) -> None:
            seen.append(self.trainer.accumulation_steps)
            active.update(self.trainer.plugins)

    check_conformance(Looking, accumulation_steps=2)
    assert seen == [2] * 9
    assert active == {"good", "Recorder", "StopAfter", "FailAtOnce"}


# What the kit is made of.


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.tensor([1.0, 1.0000001]), False),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), False),
        (torch.ones(2), torch.ones(1, 2), False),
        (torch.ones(1), 1.0, False),
        (torch.ones(1), [1.0], False),
        ({"a": [1, (torch.ones(1),)]}, {"a": [1, (torch.ones(1),)]}, True),
        ({"a": [1, (torch.ones(1),)]}, {"a": [1, (torch.zeros(1),)]}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1, 2], [1, 2, 3], False),
        ([1], (1,), False),
        (1, 1.0, False),
        (True, 1, False),
        ("a", "a", True),
        (None, None, True),
    ],
)
def test_equal(left: Any, right: Any, same: bool) -> None:
    assert equal(left, right) is same
    assert equal(right, left) is same


@pytest.mark.parametrize("value", [float("nan"), torch.tensor([float("nan"), 1.0])])
def test_equal_to_the_bit_where_there_is_no_number(value: Any) -> None:
    # a run that diverged and was resumed exactly is equal to the one that was not
    copy = value.clone() if isinstance(value, torch.Tensor) else float("nan")
    assert equal({"loss": value}, {"loss": copy})


def test_zeros_of_different_sign_are_different_bits() -> None:
    assert not equal(torch.tensor(0.0), torch.tensor(-0.0))


@pytest.mark.parametrize("batches", [1, 5, 6, 7, None])
def test_stop_after(make_trainer: Make, batches: int | None) -> None:
    trainer = make_trainer(plugins=[StopAfter(batches)])
    state = trainer.fit(TinyModel(), TinyDataModule())
    assert state.global_iteration == (batches or 12)
    assert len(trainer.stop_requests) == (batches is not None)


def test_stop_after_counts_the_batches_of_this_process(make_trainer: Make, tmp_path: Any) -> None:
    for total in (4, 8):
        trainer = make_trainer(chkpt_root=tmp_path, plugins=[StopAfter(4)])
        assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == total


def test_tiny_model_has_everything_that_can_go_wrong(make_trainer: Make) -> None:
    model = TinyModel()
    make_trainer(total_steps=1).fit(model, TinyDataModule())
    assert list(model.state_dict()) == ["net", "optimizer", "scheduler"]
    assert model.state_dict()["optimizer"]["state"][0]["momentum_buffer"].abs().sum() > 0
    assert any(isinstance(layer, torch.nn.Dropout) for layer in model.net)
    assert model.scheduler.last_epoch == 6


def test_tiny_data_does_not_depend_on_the_random_numbers_of_the_run() -> None:
    def samples(seed: int) -> Any:
        torch.manual_seed(seed)
        data = TinyDataModule()
        data.setup()
        return [data.train_dataset, data.valid_dataset, data.test_dataset]

    for left, right in zip(samples(0), samples(1), strict=True):
        assert equal(list(left.tensors), list(right.tensors))
    train, valid, test = samples(0)
    assert not torch.equal(valid.tensors[0], test.tensors[0])
    assert len(train) == 22
    assert not TinyDataModule(valid_size=0).valid_dataset
