"""Samplers whose position can be set, so that a run continues with the batch it would have had.

Each draws its order from ``seed + epoch`` alone, and skips ``start_iter`` whole batches.
"""

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler, Sampler

from helios.core import Registry

SAMPLER_REGISTRY = Registry("sampler")
"""The registry of samplers; holds the three of this module."""


def create_sampler(type_name: str, *args: Any, **kwargs: Any) -> "ResumableSamplerType":
    """Create a registered sampler.

    Args:
        type_name: the name of its class.
        args: positional arguments of the sampler.
        kwargs: keyword arguments of the sampler.
    """
    sampler: ResumableSamplerType = SAMPLER_REGISTRY.get(type_name)(*args, **kwargs)
    return sampler


class ResumableSampler(Sampler[int]):
    """Base class of samplers that can start in the middle of an epoch.

    Args:
        data_source: what is sampled; only its length is used.
        batch_size: samples per batch, the unit in which :attr:`start_iter` counts.
    """

    def __init__(self, data_source: Sized, batch_size: int = 1) -> None:
        self._data_source = data_source
        self.batch_size = batch_size
        self._epoch = 0
        self.start_iter = 0
        """Batches to skip at the beginning of an iteration; kept until it is changed."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next."""
        self._epoch = epoch

    def indices(self) -> list[int]:
        """Return the order of the whole epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices()[self.start_iter * self.batch_size :])

    def __len__(self) -> int:
        """Return the samples of a whole epoch, whatever is skipped."""
        return len(self._data_source)


@SAMPLER_REGISTRY.register
class ResumableRandomSampler(ResumableSampler):
    """Every sample once, in a random order that is a function of seed and epoch.

    Args:
        data_source: what is sampled.
        seed: chooses the sequence of orders.
        batch_size: samples per batch.
    """

    def __init__(self, data_source: Sized, seed: int = 0, batch_size: int = 1) -> None:
        super().__init__(data_source, batch_size)
        self._seed = seed

    def indices(self) -> list[int]:
        """Return a permutation drawn from ``seed + epoch``."""
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(len(self), generator=generator).tolist()
        return order


@SAMPLER_REGISTRY.register
class ResumableSequentialSampler(ResumableSampler):
    """Every sample once, in the order of the dataset."""

    def indices(self) -> list[int]:
        """Return the numbers of the samples, in order."""
        return list(range(len(self)))


@SAMPLER_REGISTRY.register
class ResumableDistributedSampler(DistributedSampler[int]):
    """The share of one process in a distributed run.

    Args:
        dataset: what is sampled.
        num_replicas: processes; from the process group by default.
        rank: number of this process; from the process group by default.
        shuffle: draw a random order from seed and epoch.
        seed: chooses the sequence of orders; the same in all processes.
        drop_last: leave out the tail that does not divide evenly, rather than repeat samples.
        batch_size: samples per batch and process.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        batch_size: int = 1,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)
        self.batch_size = batch_size
        self.start_iter = 0
        """Batches to skip at the beginning of an iteration; kept until it is changed."""

    def __iter__(self) -> Iterator[int]:
        # PyTorch's sampler yields this process's share; a batch is batch_size samples of it.
        return iter(list(super().__iter__())[self.start_iter * self.batch_size :])


ResumableSamplerType = ResumableSampler | ResumableDistributedSampler
"""What a data loader of Helios accepts as its sampler."""
