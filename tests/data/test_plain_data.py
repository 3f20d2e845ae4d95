"""Data modules made of plain datasets and loaders, beside PyTorch's loaders."""

import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make, numbers
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from helios import DataModule, TrainingState
from helios.data import ResumableWeightedSampler
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


def collated(samples: list[Any]) -> Any:
    """Collate as PyTorch does, with a function of its own."""
    return default_collate(samples)


def batches(data: DataModule, split: str = "train") -> list[list[Any]]:
    pair = getattr(data, f"{split}_dataloader")()
    assert pair is not None
    return [batch[0].tolist() for batch in pair[0]]


def flat(found: list[list[Any]]) -> list[Any]:
    return [sample for batch in found for sample in batch]


class Reversed(Sampler[int]):
    """A sampler of a user; with ``noise``, it draws from the global generators."""

    def __init__(self, size: int, noise: bool = False) -> None:
        self.size = size
        self.noise = noise

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.size))[::-1]
        return iter(random.sample(order, self.size) if self.noise else order)

    def __len__(self) -> int:
        return self.size


class Pairs(Sampler[list[int]]):
    """A sampler of batches of a user."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 9], [1, 8, 7]])

    def __len__(self) -> int:
        return 2


class Own(DataLoader[Any]):
    """A loader that does more than its parameters say."""

    def __iter__(self) -> Any:
        return iter([batch[0] * 2 for batch in super().__iter__()])


ORDERED = [
    {"batch_size": 3},
    {"batch_size": 3, "drop_last": True},
    {"batch_size": None},
    {"batch_size": 4, "sampler": Reversed(10), "collate_fn": collated},
    {"batch_sampler": BatchSampler(SequentialSampler(range(10)), 4, drop_last=False)},
    {"batch_sampler": Pairs()},
]


@pytest.mark.parametrize("params", ORDERED)
def test_loader_yields_the_same_batches(params: dict[str, Any]) -> None:
    loader = DataLoader(numbers(10), **params)
    expected = [batch[0].tolist() for batch in loader]
    for split in ("train", "valid", "test"):
        assert batches(DataModule.of(**{split: loader}), split) == expected


def test_shuffled_loader() -> None:
    loader = DataLoader(numbers(10), batch_size=3, shuffle=True)
    found = batches(DataModule.of(train=loader))
    assert [len(batch) for batch in found] == [3, 3, 3, 1]
    assert flat(found) != sorted(flat(found)) == list(range(10))
    own = DataLoader(numbers(10), 3, shuffle=True, generator=torch.Generator().manual_seed(5))
    as_parameters = DataModule.of(train=numbers(10), batch_size=3, random_seed=5)
    assert batches(DataModule.of(train=own)) == batches(as_parameters) != found


def test_weighted_loader() -> None:
    weights = [1.0, 0.0, 3.0, 2.0]
    sampler = WeightedRandomSampler(weights, 20, generator=torch.Generator().manual_seed(3))
    data = DataModule.of(train=DataLoader(numbers(4), batch_size=5, sampler=sampler))
    expected = list(ResumableWeightedSampler(weights, 20, seed=3))
    assert flat(batches(data)) == expected
    assert expected == list(sampler.__class__(weights, 20, generator=seeded(3)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_workers_and_their_parameters() -> None:
    loader = DataLoader(numbers(4), 2, num_workers=1, timeout=60, persistent_workers=True)
    data = DataModule.of(train=loader)
    made = data._train_dataset.params  # type: ignore[attr-defined]  # it has one
    assert (made.num_workers, made.timeout, made.persistent_workers) == (1, 60, True)
    assert made.prefetch_factor == 2


def test_datasets_with_parameters() -> None:
    data = DataModule.of(train=numbers(6), valid=numbers(5), test=[1, 2, 3], batch_size=4)
    found = flat(batches(data))
    assert found != sorted(found) == list(range(6))
    assert batches(data, "valid") == [[0, 1, 2, 3], [4]]
    assert isinstance(data.test_dataset, list)
    unshuffled = DataModule.of(train=numbers(6), batch_size=4, shuffle=False, drop_last=True)
    assert batches(unshuffled) == [[0, 1, 2, 3]]
    sampled = DataModule.of(
        train=numbers(4), batch_size=2, sampler=ResumableWeightedSampler([0.0, 1.0, 0.0, 0.0])
    )
    assert batches(sampled) == [[1, 1], [1, 1]]


class Wide(TinyModel):
    """Remembers the batches."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[Any] = []

    @property
    def seen(self) -> list[Any]:
        return self._seen

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self._seen.append(batch[0].tolist())
        return super().train_step(batch, state)


def samples(count: int = 22) -> TensorDataset:
    data = TinyDataModule(train_size=count)
    data.setup()
    dataset: TensorDataset = data.train_dataset
    return dataset


def test_run_like_that_of_a_class(make_trainer: Make) -> None:
    states = []
    tiny = TinyDataModule()
    tiny.setup()
    valid = DataLoader(tiny.valid_dataset, batch_size=3)
    for data in (tiny, DataModule.of(train=samples(), valid=valid, batch_size=4)):
        model = Wide()
        make_trainer(valid_frequency=1).fit(model, data)
        states.append((model.state_dict(), model.metrics, model.seen))
    assert equal(states[0], states[1])


@pytest.mark.parametrize("stop_after", [3, 9])
@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(samples(), 4, shuffle=True),
        lambda: DataLoader(samples(), 4, sampler=RandomSampler(samples(), True, 30)),
        lambda: DataLoader(samples(), 4, sampler=Reversed(22, noise=True)),
        lambda: DataLoader(
            samples(), batch_sampler=BatchSampler(Reversed(22, noise=True), 4, drop_last=True)
        ),
    ],
)
def test_resumed_run(
    make_trainer: Make, tmp_path: pathlib.Path, loader: Any, stop_after: int
) -> None:
    def run(folder: str, stop: int | None = None) -> tuple[Any, Any]:
        model = Wide()
        trainer = make_trainer(chkpt_root=tmp_path / folder, plugins=[StopAfter(stop)])
        trainer.fit(model, DataModule.of(train=loader()))
        return model.seen, model.state_dict()

    seen, state = run("whole")
    first, _ = run("cut", stop_after)
    second, resumed = run("cut")
    assert first + second == seen
    assert seen[: len(seen) // 2] != seen[len(seen) // 2 :]
    assert equal(resumed, state)


def test_loader_of_another_class() -> None:
    own = Own(numbers(4), batch_size=2)
    data = DataModule.of(train=own)
    loader, _ = data.train_dataloader()  # type: ignore[misc]  # not None
    assert [batch.tolist() for batch in loader] == [[0, 2], [4, 6]]


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> Any: ...


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got no dataset: pass train"),
        ({"train": (torch.ones(2), torch.ones(2))}, r"a tuple: pass torch.*TensorDataset\(inputs"),
        ({"train": TensorDataset}, "got the class TensorDataset: pass an instance"),
        ({"train": TinyDataModule()}, r"a TinyDataModule: pass it to fit\(model, datamodule\)"),
        ({"train": 3}, "got a int: pass a dataset, a DataLoader, an iterable of batches"),
        ({"train": "folder"}, "got a str: pass a dataset"),
        ({"train": {"a": numbers(2)}}, "training reads one set. To train on several, pass"),
        ({"train": numbers(2), "valid": {}}, "an empty dictionary of datasets"),
        ({"train": numbers(2), "valid": {3: numbers(2)}}, "a dataset of the name 3: write a text"),
        ({"train": numbers(2), "batchsize": 3}, "no parameter 'batchsize'. Did you mean 'batch_s"),
        ({"train": numbers(2), "batch_size": 0}, "batch_size=0: write a whole number"),
        (
            {"train": DataLoader(numbers(2)), "batch_size": 3},
            "batch_size=.* has no effect, because each set is a DataLoader: remove batch_size",
        ),
        (
            {"train": lambda: iter([]), "batch_size": 3},
            "batch_size=.* has no effect, because each set is a source of batches",
        ),
    ],
)
def test_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=message):
        DataModule.of(**arguments)


def test_fit_names_the_way_from_a_loader(make_trainer: Make) -> None:
    loader: Any = DataLoader(numbers(2))
    with pytest.raises(TypeError, match=r"helios.DataModule.of\(train=\.\.\.\)"):
        make_trainer().fit(TinyModel(), loader)
