"""The searches before training: their results, beside PyTorch's loop, and no trace of them."""

import copy
import pathlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make
from torch import nn
from torch.utils.data import TensorDataset
from variants import TinyDataWithSize, TinyModelWithRate

from helios import DataModule, Plugin
from helios.core import rng
from helios.errors import ConfigurationError
from helios.finders import LearningRates, find_batch_size, find_learning_rate
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


class Ordered(DataModule):
    """Numbers in a fixed order."""

    def setup(self) -> None:
        values = torch.linspace(-1, 1, 24).reshape(12, 2)
        self._train_dataset = self._create_dataset(
            TensorDataset(values, values.sum(dim=1)), {"batch_size": 3}
        )


class Regression(TinyModel):
    """Begins with known weights, and has a schedule that the test must override."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = nn.Linear(2, 1)
        nn.init.constant_(self.net.weight, 0.3)
        nn.init.constant_(self.net.bias, -0.2)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=9.0, momentum=0.5)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)

    def train_step(self, batch: Any, state: Any) -> Any:
        loss = nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[1])
        self.optimize(loss, self.optimizer, scheduler=self.scheduler)


def losses_by_hand(rates: list[float], accumulate: int) -> list[float]:
    """Train in plain PyTorch with these rates, and return the loss of each step."""
    values = torch.linspace(-1, 1, 24).reshape(12, 2)
    net = nn.Linear(2, 1)
    nn.init.constant_(net.weight, 0.3)
    nn.init.constant_(net.bias, -0.2)
    optimizer = torch.optim.SGD(net.parameters(), lr=9.0, momentum=0.5)
    batches = [values[start : start + 3] for start in range(0, 12, 3)]
    losses, number = [], 0
    for rate in rates:
        of_step = []
        optimizer.zero_grad()
        for _ in range(accumulate):
            batch = batches[number % 4]
            number += 1
            loss = nn.functional.mse_loss(net(batch)[:, 0], batch.sum(dim=1))
            (loss / accumulate).backward()
            of_step.append(loss.detach())
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(float(torch.stack(of_step).mean()))
    return losses


@pytest.mark.parametrize("spacing", ["exponential", "linear"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_losses_are_those_of_a_loop_by_hand(
    make_trainer: Make, spacing: Any, accumulate: int
) -> None:
    trainer = make_trainer(accumulation_steps=accumulate)
    found = find_learning_rate(
        trainer, Regression(), Ordered(), lowest=1e-4, highest=0.5, steps=30, spacing=spacing
    )
    assert found.rates[0] == 1e-4
    assert found.rates[-1] == pytest.approx(0.5)
    steps = np.diff(np.log(found.rates) if spacing == "exponential" else found.rates)
    assert np.allclose(steps, steps[0])
    assert found.losses == losses_by_hand(found.rates, accumulate)


def test_the_suggestion_is_where_the_smoothed_loss_falls_fastest() -> None:
    rates = [10.0 ** (step / 10 - 5) for step in range(50)]
    losses = [1 / (1 + np.exp((step - 30) / 2)) for step in range(50)]
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):  # as fast.ai and Lightning smooth
        mean = 0.98 * mean + 0.02 * loss
        smoothed.append(mean / (1 - 0.98**step))
    expected = rates[10:-1][int(np.gradient(np.array(smoothed[10:-1])).argmin())]
    assert LearningRates(rates, losses, smoothed).suggestion == expected
    with pytest.raises(ConfigurationError, match="1 losses are too few for a suggestion"):
        _ = LearningRates(rates[:12], losses[:12], smoothed[:12]).suggestion


def test_it_ends_when_the_loss_has_risen(make_trainer: Make) -> None:
    settings: dict[str, Any] = {"lowest": 1e-3, "highest": 1e3, "steps": 60}
    found = find_learning_rate(make_trainer(), Regression(), Ordered(), **settings)
    assert len(found.losses) < 60
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert 1e-3 < found.suggestion < 1
    to_the_end = find_learning_rate(
        make_trainer(), Regression(), Ordered(), **settings, stop_factor=None
    )
    assert to_the_end.losses[: len(found.losses)] == found.losses
    assert len(to_the_end.losses) > len(found.losses)


# Traces.


class Drawing(Plugin):
    """Draws from each generator when training starts, and records the numbers."""

    def __init__(self) -> None:
        super().__init__("drawing")
        self.drawn: list[Any] = []

    def setup(self) -> None: ...

    def on_training_batch_end(self) -> None:
        self.drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))


def search_rate(trainer: Any, model: Any, data: Any) -> None:
    find_learning_rate(trainer, model, data, steps=14)


def search_size(trainer: Any, model: Any, data: Any) -> None:
    find_batch_size(trainer, model, data, largest=8)


@pytest.mark.parametrize("search", [search_rate, search_size])
def test_no_trace_is_left(make_trainer: Make, tmp_path: pathlib.Path, search: Any) -> None:
    results = []
    for searches in (False, True):
        root, parts = tmp_path / str(searches), []
        for stop in (8, None):  # before the run, and before it resumes inside an epoch
            drawing = Drawing()
            trainer = make_trainer(plugins=[drawing, StopAfter(stop)], run_root=root)
            model, data = TinyModelWithRate(), TinyDataWithSize()
            torch.manual_seed(5)
            before = repr((vars(model), vars(data)))
            if searches:
                search(trainer, model, data)
            assert before == repr((vars(model), vars(data)))
            parts += [torch.rand(3), random.getstate() is None]
            trainer.fit(model, data)
            if searches:  # trained networks stay as they are, too
                weights = copy.deepcopy(model.state_dict())
                search(trainer, model, data)
                assert equal(weights, model.state_dict())
            parts += [drawing.drawn, model.state_dict(), trainer.state.global_iteration]
        files = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        results.append((parts, files))
    assert equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_the_default_generator_stays_unseeded(make_trainer: Make) -> None:
    before = rng.peek_default_numpy_rng()
    rng.replace_default_numpy_rng(None)
    try:
        search_rate(make_trainer(), TinyModel(), TinyDataModule())
        assert rng.peek_default_numpy_rng() is None
    finally:
        rng.replace_default_numpy_rng(before)


# Batch sizes.


class Memory(TinyModel):
    """Has memory for some samples, and fails as a device does."""

    def __init__(self, most: int, error: Callable[[], Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self._most, self._error = most, error
        self._tried: list[int] = []

    def train_step(self, batch: Any, state: Any) -> Any:
        if len(batch[0]) > self._most:
            raise self._error()
        return super().train_step(batch, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Memory":
        return Memory(self._most, self._error)


@pytest.mark.parametrize(
    ("most", "start", "refine", "expected"),
    [
        (5, 2, False, 4),
        (5, 2, True, 5),
        (5, 16, False, 4),  # it halves
        (7, 3, True, 7),
        (1, 8, False, 1),
        (100, 2, False, 22),  # the whole training set
    ],
)
def test_the_largest_size_that_fits(
    make_trainer: Make, most: int, start: int, refine: bool, expected: int
) -> None:
    data = TinyDataWithSize()
    data.batch_size = start
    assert find_batch_size(make_trainer(), Memory(most), data, refine=refine) == expected
    assert data.batch_size == start


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("CUDA error: out of memory"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 TB"),
        MemoryError,
    ],
)
def test_memory_is_exhausted_in_many_words(make_trainer: Make, error: Any) -> None:
    assert find_batch_size(make_trainer(), Memory(4, error), TinyDataWithSize()) == 4


def test_the_largest_size_may_be_given(make_trainer: Make) -> None:
    for largest in (1, 5, 8):
        found = find_batch_size(make_trainer(), Memory(99), TinyDataWithSize(), largest=largest)
        assert found == largest


def test_plain_data_have_a_size_to_search(make_trainer: Make) -> None:
    features = torch.zeros(20, 4)
    data: Any = DataModule.of(TensorDataset(features, features[:, 0].long()), batch_size=2)
    found = find_batch_size(make_trainer(), Memory(9), data)
    assert (found, data.batch_size) == (8, 2)
    data.batch_size = found
    trainer = make_trainer(total_steps=1)
    trainer.fit(TinyModel(), data)
    assert trainer.state.global_iteration == 3


def test_errors_of_users_are_raised(make_trainer: Make) -> None:
    with pytest.raises(ZeroDivisionError):
        find_batch_size(make_trainer(), Memory(3, ZeroDivisionError), TinyDataWithSize())
    faulty = Memory(3, lambda: RuntimeError("another fault"))
    with pytest.raises(RuntimeError, match="another fault"):
        find_batch_size(make_trainer(), faulty, TinyDataWithSize())
    with pytest.raises(torch.OutOfMemoryError):  # not even one sample fits
        find_batch_size(make_trainer(), Memory(0), TinyDataWithSize())


# Plug-ins, and wrong arguments.


class Negating(Plugin):
    """Changes the batches, so that a trial without it would be another training."""

    changes_results = True

    def __init__(self) -> None:
        super().__init__("negating")
        self.calls = 0

    def setup(self) -> None: ...

    def process_training_batch(self, batch: Any, state: Any) -> Any:
        self.calls += 1
        return [-batch[0], batch[1]]


def test_plug_ins_that_form_the_batches_belong_to_the_trial(make_trainer: Make) -> None:
    plugin = Negating()
    trainer = make_trainer(plugins=[plugin])
    settings: dict[str, Any] = {"steps": 12, "lowest": 1e-3}
    plain = find_learning_rate(make_trainer(), Regression(), Ordered(), **settings)
    negated = find_learning_rate(trainer, Regression(), Ordered(), **settings)
    chosen = find_learning_rate(trainer, Regression(), Ordered(), **settings, plugins=[])
    assert negated.losses[0] != plain.losses[0]
    assert chosen == plain
    assert plugin.calls == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowest": 0}, "lowest=0 of find_learning_rate: write a positive number."),
        ({"steps": 1}, "steps=1 of find_learning_rate: write a whole number from 2 up."),
        ({"stop_factor": 1}, "stop_factor=1 of find_learning_rate: write a number above 1, or No"),
        ({"spacing": "log"}, "spacing='log' of find_learning_rate: write 'exponential' or 'line"),
        ({"lowest": 1.0, "highest": 0.5}, "(lowest=1.0, highest=0.5): the rate must rise."),
    ],
)
def test_wrong_arguments_of_the_range_test(
    make_trainer: Make, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_learning_rate(make_trainer(), TinyModel(), TinyDataModule(), **arguments)
    assert message in str(caught.value)


class Ignoring(TinyDataModule):
    batch_size = 4


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (TinyDataModule(), {}, "reads TinyDataModule.batch_size, which is None: set it to a whol"),
        (Ignoring(), {}, "has set batch_size=8 in a copy of the data module, but its first batch"),
        (Ignoring(), {"attribute": "x y"}, "attribute='x y' of find_batch_size: write the name of"),
        (Ignoring(), {"largest": 0}, "largest=0 of find_batch_size: write a whole number from 1 u"),
    ],
)
def test_wrong_arguments_of_the_search(
    make_trainer: Make, data: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_batch_size(make_trainer(), TinyModel(), data, **arguments)
    assert message in str(caught.value)


def test_what_cannot_be_tried_is_refused(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = TinyModel()
    with pytest.raises(TypeError, match=r"got a TinyDataModule as model: pass a Model."):
        find_learning_rate(make_trainer(), TinyDataModule(), model)  # type: ignore[arg-type]
    with (
        (tmp_path / "open").open("w") as model.file,
        pytest.raises(ConfigurationError, match=r"TypeError: .*create in setup\(\) what canno"),
    ):
        find_learning_rate(make_trainer(), model, TinyDataModule())
    model = TinyModel()
    model.train_step = lambda batch, state: None
    with pytest.raises(ConfigurationError, match=r"saw no loss: let train_step call self.optimize"):
        find_learning_rate(make_trainer(), model, TinyDataModule(), steps=2)
    for name, value in [("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_PORT", "1")]:
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ConfigurationError, match="works in a single process"):
        find_learning_rate(make_trainer(), TinyModel(), TinyDataModule())
