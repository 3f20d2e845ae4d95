"""Positions: a loader that starts at a batch yields what the whole epoch yields from there."""

import sys
from typing import Any

import pytest
import torch
from helpers import numbers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from helios.data import (
    COLLATE_FN_REGISTRY,
    SAMPLER_REGISTRY,
    DataLoaderParams,
    ResumableDistributedSampler,
    ResumableRandomSampler,
    ResumableSequentialSampler,
    create_collate_fn,
    create_dataloader,
    create_sampler,
)
from helios.data.loader import set_position
from helios.errors import ConfigurationError

KINDS = ("random", "sequential", "distributed")


def sampler_of(kind: str, count: int, batch_size: int) -> Any:
    if kind == "random":
        return ResumableRandomSampler(range(count), seed=5, batch_size=batch_size)
    if kind == "sequential":
        return ResumableSequentialSampler(range(count), batch_size=batch_size)
    return ResumableDistributedSampler(
        numbers(count), num_replicas=2, rank=1, seed=5, batch_size=batch_size
    )


@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 40),
    batch_size=st.integers(1, 7),
    epoch=st.integers(0, 5),
    start=st.integers(0, 12),
)
def test_start_iter_skips_whole_batches(
    kind: str, count: int, batch_size: int, epoch: int, start: int
) -> None:
    sampler = sampler_of(kind, count, batch_size)
    sampler.set_epoch(epoch)
    whole = list(sampler)
    sampler.start_iter = start
    assert list(sampler) == whole[start * batch_size :]
    assert len(sampler) == len(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_a_function_of_seed_and_epoch(kind: str) -> None:
    orders = []
    for epoch in (0, 1, 0):
        sampler = sampler_of(kind, 30, 4)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2]
    assert (orders[0] == orders[1]) == (kind == "sequential")


def test_every_sample_once() -> None:
    assert sorted(sampler_of("random", 30, 4)) == list(range(30))


def test_registry_holds_the_four() -> None:
    assert len(SAMPLER_REGISTRY.keys()) == 4
    sampler = create_sampler("ResumableRandomSampler", range(3), seed=1, batch_size=2)
    assert isinstance(sampler, ResumableRandomSampler)


def test_loader_starts_at_a_batch_and_leaves_the_training_stream_alone() -> None:
    params = DataLoaderParams(batch_size=4, shuffle=True, random_seed=3)
    loader, sampler = create_dataloader(numbers(22), params)
    set_position(loader, sampler, seed=3, epoch=2, start_iter=0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = [batch[0].tolist() for batch in loader]
    assert torch.equal(torch.get_rng_state(), before)
    set_position(loader, sampler, seed=3, epoch=2, start_iter=4)
    assert [batch[0].tolist() for batch in loader] == whole[4:]
    assert len(loader) == 6


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "4"])
def test_bad_batch_size(batch_size: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"batch_size=.*at least 1"):
        create_dataloader(numbers(4), DataLoaderParams(batch_size=batch_size))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"seeding": "samples"}, r"seeding='samples': write 'sample', 'batch' or 'none'\."),
        ({"seeding": None}, r"seeding=None: write 'sample', 'batch' or 'none'\."),
        ({"num_workers": -1}, "num_workers=-1: write a whole number of processes, at least 0"),
        ({"num_workers": True}, "num_workers=True: write a whole number"),
        (
            {"num_workers": 1, "prefetch_factor": 0},
            "prefetch_factor=0: write a whole number of batches, at least 1",
        ),
        (
            {"prefetch_factor": 2},
            r"prefetch_factor=2 without workers.*pass num_workers, too, or remove pref",
        ),
    ],
)
def test_bad_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_dataloader(numbers(4), DataLoaderParams(**params))


def test_prefetch_factor_reaches_the_loader() -> None:
    params = DataLoaderParams(num_workers=2, prefetch_factor=5)
    assert create_dataloader(numbers(4), params)[0].prefetch_factor == 5


def test_empty_dataset() -> None:
    with pytest.raises(ConfigurationError, match="TensorDataset is empty"):
        create_dataloader(numbers(0), DataLoaderParams())


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    ("name", "value"), [("shuffle", True), ("sampler", ResumableSequentialSampler(range(3)))]
)
def test_order_of_a_stream(name: str, value: Any) -> None:
    params = DataLoaderParams(**{name: value})
    message = f"Stream is an iterable-style dataset.*remove {name}, and shuffle in its __iter__"
    with pytest.raises(ConfigurationError, match=message):
        create_dataloader(Stream(), params)


def test_stream_without_torchdata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", None)
    with pytest.raises(
        ConfigurationError,
        match=r"Stream is an iterable-style.*pip install 'helios-trainer\[streaming\]', or write",
    ):
        create_dataloader(Stream(), DataLoaderParams())


def test_foreign_sampler() -> None:
    sampler: Any = torch.utils.data.SequentialSampler(range(4))
    with pytest.raises(TypeError, match=r"SequentialSampler cannot start.*ResumableSampler"):
        create_dataloader(numbers(4), DataLoaderParams(sampler=sampler))


def test_distributed_loader_has_its_share() -> None:
    sampler = ResumableDistributedSampler(
        numbers(8), num_replicas=2, rank=0, shuffle=False, batch_size=2
    )
    loader, _ = create_dataloader(numbers(8), DataLoaderParams(batch_size=2, sampler=sampler))
    assert [batch[0].tolist() for batch in loader] == [[0, 2], [4, 6]]


def test_params_round_trip() -> None:
    params = DataLoaderParams(batch_size=3, drop_last=True)
    assert DataLoaderParams.from_dict({**params.to_dict(), "unknown": 1}) == params
    assert DataLoaderParams.from_dict({"sampler": object()}).sampler is None


def test_collate_functions() -> None:
    assert create_collate_fn("default_collate") is torch.utils.data.default_collate

    @COLLATE_FN_REGISTRY
    class Counting:
        def __call__(self, samples: list[Any]) -> int:
            return len(samples)

    assert create_collate_fn("Counting")([1, 2]) == 2


@pytest.mark.parametrize(("seed", "epoch"), [(3, 1), (3, 2), (7, 1), (2**64 - 1, 1)])
def test_order_is_that_of_the_sum_of_seed_and_epoch(seed: int, epoch: int) -> None:
    """Released orders must not change: PyTorch draws them from ``seed + epoch``."""
    generator = torch.Generator().manual_seed((seed + epoch) % 2**64)
    expected = torch.randperm(10, generator=generator).tolist()
    sampler = ResumableRandomSampler(range(10), seed=seed)
    sampler.set_epoch(epoch)
    assert list(sampler) == expected
    spread = ResumableDistributedSampler(numbers(10), num_replicas=1, rank=0, seed=seed)
    spread.set_epoch(epoch)
    assert list(spread) == expected
