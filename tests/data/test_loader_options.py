"""The parameters that a loader shares with PyTorch's ``DataLoader``."""

import multiprocessing
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import numbers
from torch.utils.data import BatchSampler, Dataset, IterableDataset, SequentialSampler

from helios import DataLoaderParams
from helios.core import rng
from helios.data import (
    ResumableBatchSampler,
    ResumableRandomSampler,
    ResumableSequentialSampler,
    create_dataloader,
)
from helios.data.loader import batch_size_of, set_position
from helios.data.sizes import known_size
from helios.errors import ConfigurationError


class Noise(Dataset[torch.Tensor]):
    """Samples of two numbers: the index and a random one."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, random.random()])


class Pairs(ResumableBatchSampler):
    """Batches of two neighbours, in another order in each epoch."""

    def batches(self) -> list[list[int]]:
        pairs = [[i, i + 1] for i in range(0, 10, 2)]
        return random.Random(self.epoch).sample(pairs, len(pairs))

    def __len__(self) -> int:
        return 5


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with rng.preserved_rng_state():
        rng.seed_rngs(0)
        yield


def epoch_of(number: int, start: int = 0, **params: Any) -> list[Any]:
    loader, sampler = create_dataloader(Noise(), DataLoaderParams(random_seed=3, **params))
    set_position(loader, sampler, 3, number, start)  # type: ignore[arg-type]  # it is no stream
    return [batch.tolist() for batch in loader]


def test_samples_that_are_batches() -> None:
    whole = epoch_of(1, batch_size=None, shuffle=True)
    assert len(whole) == 11
    assert whole == [batch[0] for batch in epoch_of(1, batch_size=1, shuffle=True)]
    assert epoch_of(1, start=4, batch_size=None, shuffle=True) == whole[4:]
    for persistent in (False, True):
        params = {"batch_size": None, "num_workers": 1, "persistent_workers": persistent}
        assert epoch_of(1, start=4, shuffle=True, **params) == whole[4:]


def test_samples_that_are_batches_are_converted_only() -> None:
    params = DataLoaderParams(batch_size=None, seeding="none")
    loader, _ = create_dataloader(numbers(3), params)
    assert [batch[0].shape for batch in loader] == [torch.Size([])] * 3
    seeded_one, _ = create_dataloader(numbers(3), DataLoaderParams(batch_size=None))
    assert [batch[0].shape for batch in seeded_one] == [torch.Size([])] * 3
    assert len(loader) == len(seeded_one) == 3
    assert known_size(loader) is None  # the batch shows its size


@pytest.mark.parametrize("persistent", [False, True])
def test_batch_sampler(persistent: bool) -> None:
    whole = epoch_of(1, batch_sampler=Pairs())
    assert [[int(sample[0]) for sample in batch] for batch in whole] == list(_pairs_of(1))
    assert epoch_of(1, start=2, batch_sampler=Pairs()) == whole[2:]
    params = {"num_workers": 1, "persistent_workers": persistent}
    assert epoch_of(1, start=2, batch_sampler=Pairs(), **params) == whole[2:]


def _pairs_of(epoch: int) -> list[list[int]]:
    sampler = Pairs()
    sampler.set_epoch(epoch)
    return sampler.batches()


def test_batch_sampler_with_another_number_of_batches() -> None:
    class Short(Pairs):
        def __len__(self) -> int:
            return 6

    with pytest.raises(
        ConfigurationError, match=r"Short has 5 batches in epoch 1, but its __len__ returns 6"
    ):
        epoch_of(1, batch_sampler=Short())


def test_batch_sampler_that_cannot_resume() -> None:
    foreign: Any = BatchSampler(SequentialSampler(range(4)), 2, False)
    with pytest.raises(TypeError, match=r"batch sampler BatchSampler cannot.*sampler and batch_si"):
        create_dataloader(numbers(4), DataLoaderParams(batch_sampler=foreign))


def test_persistent_workers_keep_batch_sizes_known() -> None:
    params = DataLoaderParams(batch_size=4, num_workers=1, persistent_workers=True)
    loader, _ = create_dataloader(numbers(10), params)
    size = known_size(loader)
    assert size is not None
    assert [size(number) for number in range(3)] == [4, 4, 2]
    assert batch_size_of(loader) == 4
    assert len(loader) == 3


def test_options_reach_the_loader() -> None:
    context = multiprocessing.get_context("spawn")
    params = DataLoaderParams(
        num_workers=2,
        persistent_workers=True,
        timeout=9,
        multiprocessing_context=context,
        worker_init_fn=print,
        in_order=False,
    )
    loader, _ = create_dataloader(numbers(4), params)
    assert loader.persistent_workers
    assert loader.timeout == 9
    assert loader.multiprocessing_context is context
    assert not loader.in_order
    assert known_size(loader) is None  # the short batch may come early


class Marked(Dataset[int]):
    mark = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return Marked.mark


def _mark(worker: int) -> None:
    Marked.mark = 7 + worker


def test_worker_init_fn_is_called_in_each_worker() -> None:
    params = DataLoaderParams(num_workers=2, worker_init_fn=_mark, multiprocessing_context="fork")
    loader, _ = create_dataloader(Marked(), params)
    assert [batch.item() for batch in loader] == [7, 8]
    assert Marked.mark == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"persistent_workers": True}, r"persistent_workers=True without workers: pass num_work"),
        ({"timeout": 3}, r"timeout=3 without workers: pass num_workers, too, or remove timeout"),
        ({"multiprocessing_context": "spawn"}, r"context='spawn' without workers"),
        ({"persistent_workers": 1}, r"persistent_workers=1: write True or False"),
        ({"in_order": None}, r"in_order=None: write True or False"),
        ({"timeout": -1}, r"timeout=-1: write a number of seconds up to 2147483, or 0"),
        ({"timeout": 2**31}, r"timeout=2147483648: write a number of seconds up to 2147483"),
        ({"timeout": 10**400}, r"timeout=10+ .* 0+: write a number of seconds up to 2147483"),
        ({"timeout": float("nan")}, r"timeout=nan: write a number of seconds"),
        ({"timeout": "3"}, r"timeout='3': write a number of seconds"),
        ({"worker_init_fn": 3}, r"worker_init_fn=3: pass a function that takes the number"),
        (
            {"num_workers": 1, "multiprocessing_context": "thread"},
            r"multiprocessing_context='thread': write 'fork'",
        ),
        ({"batch_size": None, "drop_last": True}, r"drop_last=True with batch_size=None.*Remove d"),
        (
            {"batch_sampler": Pairs(), "batch_size": 2, "shuffle": True},
            r"batch_sampler=Pairs\(...\) chooses whole batches: remove batch_size, shuffle\.",
        ),
        (
            {"batch_sampler": Pairs(), "sampler": ResumableSequentialSampler(range(4))},
            r"chooses whole batches: remove sampler\.",
        ),
    ],
)
def test_refused_options(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_dataloader(numbers(4), DataLoaderParams(**params))


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.full((size,), random.random()) for size in (1, 2, 3))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_sampler": Pairs()}, "remove batch_sampler, and shuffle in its __iter__"),
        ({"num_workers": 1, "persistent_workers": True}, "persistent_workers=True is for map-sty"),
        ({"num_workers": 1, "in_order": False}, "in_order=False is for map-style datasets"),
    ],
)
def test_options_that_streams_cannot_have(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_dataloader(Stream(), DataLoaderParams(**params))


def test_stream_whose_samples_are_batches() -> None:
    loader, position = create_dataloader(Stream(), DataLoaderParams(batch_size=None))
    assert [len(batch) for batch in loader] == [1, 2, 3]
    assert [size for size, _ in position.counted()] == [1, 2, 3]  # type: ignore[union-attr]  # it is a stream


def test_parameters_can_be_copied_and_compared() -> None:
    params = DataLoaderParams(
        batch_sampler=Pairs(), multiprocessing_context=multiprocessing.get_context("spawn")
    )
    assert "batch_sampler" in params.to_dict()
    assert DataLoaderParams.from_dict(params.to_dict()).batch_sampler is None
    sampler = ResumableRandomSampler(range(4))
    assert DataLoaderParams(sampler=sampler) == DataLoaderParams(sampler=sampler)
