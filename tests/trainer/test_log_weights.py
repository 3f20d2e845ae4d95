"""The means of logged values are means over samples, or over what the model weighs them by."""

import ast
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Logs, Make, Named, ReadAhead
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from helios import DataModule, Model, TrainingState
from helios.data.sizes import count_samples, known_size

VALUES = [1.0] * 8 + [0.0]
"""Nine samples; batches of four leave one over."""


class Plain(IterableDataset[float]):
    """A stream of the values."""

    def __iter__(self) -> Iterator[float]:
        return iter(VALUES)


class OfOneWorker(IterableDataset[float]):
    """A stream of which each worker reads its own part."""

    def __iter__(self) -> Iterator[float]:
        worker = torch.utils.data.get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return iter(VALUES[number::count])


class Bucketed(BatchSampler):
    """A batch sampler of a user's own kind."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([0, 1], [2, 3, 4, 5, 6], [7, 8])

    def __len__(self) -> int:
        return 3


def as_text(samples: list[float]) -> str:
    """Make a batch that does not show its number of samples."""
    return repr(samples)


class Values(DataModule):
    """The same values for training, validation and testing."""

    def __init__(self, dataset: Any = VALUES, **params: Any) -> None:
        super().__init__()
        self._dataset = dataset
        self._params = {"batch_size": 4, "collate_fn": as_text, **params}

    def setup(self) -> None:
        data = self._create_dataset(self._dataset, self._params)
        self._train_dataset = self._valid_dataset = self._test_dataset = data


class Averaging(Model):
    """Logs the mean of each batch."""

    def __init__(self) -> None:
        super().__init__("averaging")

    def setup(self, fast_init: bool = False) -> None: ...

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.valid_step(batch, 0)

    def valid_step(self, batch: Any, step: int) -> None:
        values = torch.as_tensor(ast.literal_eval(batch) if isinstance(batch, str) else batch)
        self.log("mean", values.mean())
        self.log("number", float(values.mean()))
        self.log("of batches", values.mean(), weight=1)

    def test_step(self, batch: Any, step: int) -> None:
        self.valid_step(batch, step)


def logged(make_trainer: Make, data: DataModule, *plugins: Any) -> list[dict[str, float]]:
    """Return what is logged in a validation, an epoch of training and a test."""
    logs = Logs()
    trainer = make_trainer(total_steps=1, valid_frequency=1, plugins=[logs, *plugins])
    trainer.fit(Averaging(), data)
    trainer.test(Averaging(), data)
    assert len(logs.calls) == 3
    return [metrics for _, _, metrics in logs.calls]


LOADERS = {
    "default": {},
    "shuffled": {"shuffle": True},
    "without seeding": {"seeding": "none"},
    "in workers": {"num_workers": 2},
    "stream": {"dataset": Plain()},
    "stream in workers": {"dataset": OfOneWorker(), "num_workers": 2},
}


@pytest.mark.parametrize("plugin", [None, ReadAhead()], ids=["", "read ahead"])
@pytest.mark.parametrize("loader", LOADERS)
def test_means_are_over_samples(make_trainer: Make, loader: str, plugin: Any) -> None:
    params: dict[str, Any] = LOADERS[loader]
    if "stream" in loader:
        pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    for metrics in logged(make_trainer, Values(**params), *filter(None, [plugin])):
        assert metrics["mean"] == metrics["number"] == pytest.approx(8 / 9, abs=1e-7)
        assert metrics["of batches"] != metrics["mean"]


@pytest.mark.parametrize("loader", ["default", "stream", "stream in workers"])
def test_batches_that_are_dropped_weigh_nothing(make_trainer: Make, loader: str) -> None:
    if "stream" in loader:
        pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    params: dict[str, Any] = LOADERS[loader]
    for metrics in logged(make_trainer, Values(drop_last=True, **params)):
        assert metrics["mean"] == 1.0


class OwnLoader(Values):
    """Evaluates with a loader of the user's own."""

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self._loader = loader

    def valid_dataloader(self) -> Any:
        return self._loader, None

    test_dataloader = valid_dataloader


TENSOR = torch.tensor(VALUES)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(VALUES, batch_size=4, collate_fn=as_text),  # type: ignore[arg-type]  # a list does
        DataLoader(
            VALUES,  # type: ignore[arg-type]  # a list does
            batch_sampler=BatchSampler(SequentialSampler(VALUES), 4, drop_last=False),
            collate_fn=as_text,
        ),
        DataLoader(TENSOR, batch_sampler=Bucketed(SequentialSampler(VALUES), 4, drop_last=False)),  # type: ignore[arg-type]  # a tensor does
        DataLoader(Plain(), batch_size=4),
        [TENSOR[:4], TENSOR[4:8], TENSOR[8:]],
    ],
    ids=["batch size", "batch sampler", "own batch sampler", "stream", "list"],
)
def test_means_of_an_own_loader(make_trainer: Make, loader: Any) -> None:
    for metrics in logged(make_trainer, OwnLoader(loader))[::2]:
        assert metrics["mean"] == pytest.approx(8 / 9, abs=1e-7)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        ([torch.tensor(1.0), {"x": torch.zeros(5)}, torch.zeros(2)], 5),
        ({"names": ["a", "b"], "x": (torch.zeros(4, 1),)}, 4),
        (["a", "b"], 1),
        (None, 1),
    ],
)
def test_size_of_a_batch_that_no_loader_knows(batch: Any, size: int) -> None:
    assert count_samples(batch) == size


def test_sizes_of_a_loader_that_is_not_read() -> None:
    size = known_size(DataLoader(range(10), batch_size=4))  # type: ignore[arg-type]  # a range does
    assert size is not None
    assert [size(number) for number in range(3)] == [4, 4, 2]
    assert known_size([1, 2]) is None
    assert known_size(DataLoader(Plain(), batch_size=4)) is None


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["number", "tensor"])
def test_weights_of_the_model(make_trainer: Make, kind: Any) -> None:
    class Tokens(Averaging):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            tokens = 10.0 * state.global_iteration
            self.log("loss", torch.tensor(float(state.global_iteration)), weight=kind(tokens))
            self.log("number", state.global_iteration, weight=kind(tokens))
            self.log("mixed", 1.0, weight=kind(tokens))
            self.log("mixed", 3.0)  # four samples, four, and one
            self.log("nothing", 1.0, weight=kind(0.0))

    logs = Logs()
    make_trainer(total_steps=1, plugins=[logs]).fit(Tokens(), Values())
    [(_, _, metrics)] = logs.calls
    assert metrics["loss"] == metrics["number"] == (10 * 1 + 20 * 2 + 30 * 3) / 60
    assert metrics["mixed"] == pytest.approx((60 * 1 + 9 * 3) / 69)
    assert math.isnan(metrics["nothing"])


@pytest.mark.parametrize(
    ("weight", "error", "text"),
    [
        (-1.0, ValueError, r"log\('x'\) got the weight -1.0: pass a finite number from 0 on"),
        (math.inf, ValueError, r"log\('x'\) got the weight inf"),
        (math.nan, ValueError, r"log\('x'\) got the weight nan"),
        (True, TypeError, r"log\('x'\) got a weight that is a bool"),
        ("4", TypeError, r"log\('x'\) got a weight that is a str"),
        (torch.ones(2), ValueError, r"log\('x'\) got a weight of shape \(2,\)"),
    ],
)
def test_weights_that_are_none(make_trainer: Make, weight: Any, error: Any, text: str) -> None:
    class Wrong(Averaging):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            self.log("x", 1.0, weight=weight)

    with pytest.raises(error, match=text):
        make_trainer(print_frequency=1).fit(Wrong(), Values())


def test_values_outside_of_a_batch_weigh_one(make_trainer: Make) -> None:
    class Outside(Averaging):
        def on_training_start(self) -> None:
            self.log("x", 0.0)

        def train_step(self, batch: Any, state: TrainingState) -> None:
            self.log("x", 1.0)

        def on_validation_start(self, validation_cycle: int) -> None:
            self.log("y", 0.0)

        def valid_step(self, batch: Any, step: int) -> None:
            self.log("y", 1.0)

        def on_validation_end(self, validation_cycle: int) -> None:
            self.log("y", 0.0)

        def on_training_epoch_end(self, current_epoch: int) -> None:
            self.log("x", 0.0)

    logs = Logs()
    make_trainer(total_steps=1, valid_frequency=1, plugins=[logs]).fit(Outside(), Values())
    assert [metrics for _, _, metrics in logs.calls] == [{"y": 9 / 11}, {"x": 9 / 11}]


def test_weight_is_what_the_loader_put_in(make_trainer: Make) -> None:
    class Filtering(Named):
        def process_validation_batch(self, batch: Any, step: int) -> Any:
            return batch[:1] if step == 0 else batch

    plain = [0.0, 1.0, 1.0, 1.0, 1.0]

    class Own(OwnLoader):
        def __init__(self) -> None:
            super().__init__(DataLoader(torch.tensor(plain), batch_size=4))  # type: ignore[arg-type]  # a tensor does

    metrics = logged(make_trainer, Own(), Filtering())[0]
    assert metrics["mean"] == 1 / 5  # the first four samples weigh four, whatever is left of them


def test_logging_in_inference_mode(make_trainer: Make) -> None:
    class Inferring(Averaging):
        def valid_step(self, batch: Any, step: int) -> None:
            with torch.inference_mode():
                self.log("x", torch.tensor(1.0) * 2)
            self.log("x", torch.tensor(2.0))

    model = Inferring()
    make_trainer(total_steps=1, valid_frequency=1).fit(model, Values())
    assert model.metrics == {"x": 2.0}
