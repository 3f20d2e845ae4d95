"""The orders that samplers draw: those of PyTorch, without a list of Python's numbers."""

import itertools
import math
from typing import Any

import pytest
import torch
from helpers import numbers
from torch.utils.data import DistributedSampler, WeightedRandomSampler

from helios import DataLoaderParams
from helios.data import (
    ResumableDistributedSampler,
    ResumableRandomSampler,
    ResumableSampler,
    ResumableSequentialSampler,
    ResumableWeightedSampler,
    create_dataloader,
    create_sampler,
)
from helios.data.orders import describe_order
from helios.errors import ConfigurationError

LONG = 2**17 + 3  # several blocks


@pytest.mark.parametrize("count", [1, 2, 21, LONG])
def test_random_order_is_that_of_randperm(count: int) -> None:
    sampler = ResumableRandomSampler(range(count), seed=5)
    sampler.set_epoch(2)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(7)).tolist()
    assert list(sampler) == order
    sampler.batch_size, sampler.start_iter = 2**16 - 1, 1
    assert list(sampler) == order[2**16 - 1 :]


def test_indices_are_numbers_of_python() -> None:
    for sampler in (
        ResumableRandomSampler(range(3)),
        ResumableSequentialSampler(range(3)),
        ResumableWeightedSampler([1.0, 2.0]),
        ResumableDistributedSampler(numbers(3), 2, 0),
    ):
        assert {type(index) for index in sampler} == {int}


def test_long_orders_are_no_lists() -> None:
    count = 10**15  # a list, or a tensor, would not fit into any memory
    assert list(itertools.islice(ResumableSequentialSampler(range(count)), 3)) == [0, 1, 2]
    assert ResumableRandomSampler(range(LONG)).indices().element_size() == 4


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("count", "replicas"), [(22, 1), (22, 4), (3, 8), (24, 4)])
def test_distributed_order_is_that_of_pytorch(
    shuffle: bool, drop_last: bool, count: int, replicas: int
) -> None:
    for rank in range(replicas):
        arguments: Any = (numbers(count), replicas, rank, shuffle, 5, drop_last)
        theirs: DistributedSampler[Any] = DistributedSampler(*arguments)
        ours = ResumableDistributedSampler(*arguments, batch_size=2)
        assert isinstance(ours, ResumableSampler)
        assert isinstance(ours, DistributedSampler)
        for epoch in (0, 3):
            theirs.set_epoch(epoch)
            ours.set_epoch(epoch)
            assert list(ours) == list(theirs)
            assert len(ours) == len(theirs)
        ours.start_iter = 1
        assert list(ours) == list(theirs)[2:]


@pytest.mark.parametrize("replacement", [True, False])
def test_weighted_order_is_that_of_pytorch(replacement: bool) -> None:
    weights = [0.1, 0.0, 3.0, 1.0, 1.0]
    generator = torch.Generator().manual_seed(9)
    theirs = list(WeightedRandomSampler(weights, 4, replacement, generator))
    ours = create_sampler("ResumableWeightedSampler", weights, 4, replacement, seed=8)
    ours.set_epoch(1)
    assert list(ours) == theirs
    assert len(ours) == 4
    loader, sampler = create_dataloader(numbers(5), DataLoaderParams(batch_size=3, sampler=ours))
    sampler.start_iter = 1  # type: ignore[union-attr]  # it is no stream
    assert [batch[0].tolist() for batch in loader] == [theirs[3:]]


def test_processes_share_a_weighted_drawing() -> None:
    whole = list(ResumableWeightedSampler([1.0, 2.0, 3.0], 7, seed=4))
    shares = [
        list(ResumableWeightedSampler([1.0, 2.0, 3.0], 7, seed=4, num_replicas=3, rank=rank))
        for rank in range(3)
    ]
    together = [index for indices in zip(*shares, strict=True) for index in indices]
    assert together == [*whole, *whole[:2]]
    assert all(len(share) == math.ceil(7 / 3) for share in shares)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, -1.0],), "must be one finite number for each sample, none of them negative"),
        (([1.0, math.nan],), "must be one finite number for each sample"),
        (([[1.0]],), "must be one finite number for each sample"),
        (([0.0, 0.0],), r"cannot draw num_samples=2 of 0 samples whose weight is above 0"),
        (([1.0, 0.0], 2, False), r"num_samples=2 of 1 samples.*replacement=True"),
        (([1.0], 0), r"num_samples=0.*at least 1"),
    ],
)
def test_weights_that_cannot_be_drawn_from(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ResumableWeightedSampler(*arguments)


class Backwards(ResumableSampler):
    def indices(self) -> torch.Tensor:
        return torch.arange(len(self)).flip(0).roll(self.epoch)


def test_own_sampler_with_a_tensor() -> None:
    sampler = Backwards(range(5), batch_size=2)
    sampler.set_epoch(1)
    assert list(sampler) == [0, 4, 3, 2, 1]
    sampler.start_iter = 2
    assert list(sampler) == [1]


def test_changed_orders_have_other_descriptions() -> None:
    samplers = [
        ResumableWeightedSampler([1.0, 2.0]),
        ResumableWeightedSampler([1.0, 3.0]),
        ResumableWeightedSampler([1.0, 2.0], seed=1),
        ResumableWeightedSampler([1.0, 2.0], 3),
        Backwards(range(3)),
        Backwards(range(4)),
    ]
    descriptions = [describe_order(sampler, 0) for sampler in samplers]
    assert len(set(descriptions)) == len(samplers)
    assert descriptions == [describe_order(sampler, 0) for sampler in samplers]


def test_description_does_not_depend_on_the_kind_of_sequence() -> None:
    class Listed(ResumableSampler):
        def indices(self) -> list[int]:
            return [2, 1, 0]

    description = describe_order(Listed(range(3)), 0)
    assert description.partition("(")[2] == describe_order(Backwards(range(3)), 0).partition("(")[2]
