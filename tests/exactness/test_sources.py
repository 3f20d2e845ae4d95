"""Training sources without a dataset: own sampling, and batches that depend on the model."""

import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make, ReadAhead

from helios import DataModule, Model, TrainingState
from helios.core import rng
from helios.errors import CheckpointError, ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


class Line(Model):
    """Trains on batches of numbers, and remembers them."""

    def __init__(self) -> None:
        super().__init__("line")
        self._seen: list[Any] = []

    @property
    def seen(self) -> list[Any]:
        return self._seen

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5)))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-2)

    def train_step(self, batch: torch.Tensor, state: TrainingState) -> None:
        self._seen.append(batch.tolist())
        self.optimize(self.net(batch).square().mean(), self.optimizer)


def drawn() -> Iterator[torch.Tensor]:
    """A function that draws 7 batches, each also from what it drew before."""
    sums = torch.zeros(3, 1)
    for _ in range(7):
        sums = sums + torch.randn(3, 1)
        yield sums


class Endless:
    """An iterable with a state, which it continues in the next iteration."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, 1)

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            self.sums = self.sums + torch.randn(3, 1)
            yield self.sums

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = state["sums"]


class Policy(Endless):
    """Batches that depend on the newest weights, as those of reinforcement learning do."""

    def __init__(self, model: Line) -> None:
        super().__init__()
        self.model = model

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            with torch.no_grad():
                self.sums = torch.randn(3, 1) + self.model.net(self.sums)
            yield self.sums


Run = Callable[..., tuple[list[Any], Any]]


@pytest.fixture
def run(make_trainer: Make, tmp_path: pathlib.Path) -> Run:
    """Train for 20 steps; return the batches, and the state of the model."""

    def train(
        create: Callable[[Line], Any], folder: str, stop_after: int | None = None, **arguments: Any
    ) -> tuple[list[Any], Any]:
        arguments = {"train_unit": "iteration", "total_steps": 20, **arguments}
        plugins = [StopAfter(stop_after), *arguments.pop("plugins", [])]
        trainer = make_trainer(chkpt_root=tmp_path / folder, plugins=plugins, **arguments)
        model = Line()
        trainer.fit(model, DataModule.of(train=create(model)))
        return model.seen, model.state_dict()

    return train


PLAIN: list[dict[str, Any]] = [{}, {"accumulation_steps": 2}]
SOURCES: list[tuple[Any, dict[str, Any]]] = [
    *((lambda model: drawn, arguments) for arguments in (*PLAIN, {"plugins": [ReadAhead()]})),
    *((lambda model: Endless(), arguments) for arguments in (*PLAIN, {"plugins": [ReadAhead()]})),
    *((Policy, arguments) for arguments in PLAIN),  # read ahead, it would use older weights
]


@pytest.mark.parametrize(("create", "arguments"), SOURCES)
@pytest.mark.parametrize("stop_after", [1, 11])
def test_resumed_run(run: Run, create: Any, stop_after: int, arguments: dict[str, Any]) -> None:
    batches, state = run(create, "whole", **arguments)
    first, _ = run(create, "cut", stop_after, **arguments)
    second, resumed = run(create, "cut", **arguments)
    assert first + second == batches
    assert len({str(batch) for batch in batches}) == len(batches) > 19
    assert equal(resumed, state)


def test_beside_a_plain_loop(run: Run) -> None:
    batches = [torch.full((3, 1), float(number)) for number in range(5)]
    _, state = run(lambda model: lambda: iter(batches), "whole", total_steps=5)
    rng.seed_rngs(6691)
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    for batch in batches:
        net(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert equal(dict(state["net"]), dict(net.state_dict()))


def test_epochs_begin_anew_and_end_with_the_source(run: Run) -> None:
    def counted() -> Iterator[torch.Tensor]:
        return (torch.full((1, 1), float(number)) for number in range(3))

    batches, _ = run(lambda model: counted, "epochs", train_unit="epoch", total_steps=2)
    assert batches == [[[0.0]], [[1.0]], [[2.0]]] * 2


def test_source_that_does_not_repeat_itself(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def fresh() -> Iterator[torch.Tensor]:
        nonlocal calls
        calls += 1
        while True:
            yield torch.full((1, 1), float(calls))

    run(lambda model: fresh, "cut", 3)
    with caplog.at_level(logging.INFO, "helios"):
        run(lambda model: fresh, "cut")
    assert "fresh has no state_dict, so this run reads the 3 batches" in caplog.text
    assert "does not resume exactly: batch 3 of fresh, read again, is not the one" in caplog.text


def test_source_that_has_become_shorter(run: Run) -> None:
    run(lambda model: drawn, "cut", 3)
    with pytest.raises(CheckpointError, match="the source <lambda> ends after 1 batches, but the"):
        run(lambda model: lambda: iter([torch.ones(1, 1)]), "cut")


def test_number_of_batches_is_unknown() -> None:
    with pytest.raises(RuntimeError, match="function is a source: its number of batches is known"):
        DataModule.of(train=drawn).get_train_steps_per_epoch()


def test_source_cannot_be_read_twice() -> None:
    with pytest.raises(ConfigurationError, match="the generator drawn can be read only once"):
        DataModule.of(train=drawn())
    with pytest.raises(ConfigurationError, match="the iterator list_iterator can be read only"):
        DataModule.of(train=iter([1]))


@pytest.mark.parametrize("name", ["batch_size", "num_workers"])
def test_parameter_of_datasets(name: str) -> None:
    class Sampling(DataModule):
        def setup(self) -> None:
            self._train_dataset = self._create_dataset(drawn, {name: 2})

    with pytest.raises(ConfigurationError, match=f"{name}=2 is for datasets, but drawn is a sourc"):
        Sampling().setup()


def test_source_of_validation(make_trainer: Make) -> None:
    class Evaluated(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            assert self._valid_dataset is not None
            self.pair = self.valid_dataset[:]
            self._valid_dataset = self._create_dataset(lambda: iter([self.pair]), {})

    results = []
    for data in (TinyDataModule(), Evaluated()):
        model = TinyModel()
        make_trainer(valid_frequency=1).fit(model, data)
        results.append(model.metrics)
    assert results[0] == results[1]
