"""Samplers that can start in the middle of an epoch, so that a run resumes at the right batch.

Each sampler draws its order from ``seed + epoch`` alone, and skips ``start_iter`` whole batches.
"""

import hashlib
from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler, Sampler

from helios.core import Registry, rng

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
        data_source: the dataset to sample; only its length is used.
        batch_size: the number of samples in a batch; :attr:`start_iter` counts such batches.
    """

    def __init__(self, data_source: Sized, batch_size: int = 1) -> None:
        self._data_source = data_source
        self.batch_size = batch_size
        self._epoch = 0
        self.start_iter = 0
        """The number of batches to skip at the beginning of each iteration."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        self._epoch = epoch

    def indices(self) -> list[int]:
        """Return the order of the whole epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices()[self.start_iter * self.batch_size :])

    def __len__(self) -> int:
        """Return the number of samples in a whole epoch, including skipped ones."""
        return len(self._data_source)


@SAMPLER_REGISTRY.register
class ResumableRandomSampler(ResumableSampler):
    """A sampler that yields each sample once, in a random order drawn from seed and epoch.

    Args:
        data_source: the dataset to sample.
        seed: the seed of the orders.
        batch_size: the number of samples in a batch.
    """

    def __init__(self, data_source: Sized, seed: int = 0, batch_size: int = 1) -> None:
        super().__init__(data_source, batch_size)
        self.seed = seed

    def indices(self) -> list[int]:
        """Return a permutation drawn from ``seed + epoch``."""
        generator = torch.Generator().manual_seed(rng.seed_of_epoch(self.seed, self._epoch))
        order: list[int] = torch.randperm(len(self), generator=generator).tolist()
        return order


@SAMPLER_REGISTRY.register
class ResumableSequentialSampler(ResumableSampler):
    """A sampler that yields each sample once, in the order of the dataset."""

    def indices(self) -> list[int]:
        """Return the indices of the samples, in order."""
        return list(range(len(self)))


@SAMPLER_REGISTRY.register
class ResumableDistributedSampler(DistributedSampler[int]):
    """A sampler that yields the samples of one process in a distributed run.

    Args:
        dataset: the dataset to sample.
        num_replicas: the number of processes; from the process group by default.
        rank: the rank of this process; from the process group by default.
        shuffle: ``True`` to draw a random order from seed and epoch.
        seed: the seed of the orders; the same in all processes.
        drop_last: ``True`` to skip the last samples if they do not divide evenly among the
            processes; ``False`` to repeat samples instead.
        batch_size: the number of samples per batch and process.
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
        """The number of batches to skip at the beginning of each iteration."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        # PyTorch's sampler seeds with seed + epoch, which must not exceed 64 bits.
        super().set_epoch(rng.seed_of_epoch(self.seed, epoch) - self.seed)

    def __iter__(self) -> Iterator[int]:
        # PyTorch's sampler yields only this process's samples, so a batch is batch_size of them.
        return iter(list(super().__iter__())[self.start_iter * self.batch_size :])


ResumableSamplerType = ResumableSampler | ResumableDistributedSampler
"""The samplers that a data loader of Helios accepts."""


def describe_order(sampler: ResumableSamplerType, epoch: int) -> str:
    """Return a text that changes if a sampler yields an epoch's samples in another order.

    Args:
        sampler: the sampler. If the class is the user's own, its order is computed once.
        epoch: the number of the epoch.
    """
    if isinstance(sampler, ResumableDistributedSampler):
        facts = [f"shuffle={sampler.shuffle}", f"seed={sampler.seed}"]
        facts += [f"num_replicas={sampler.num_replicas}", f"drop_last={sampler.drop_last}"]
    elif type(sampler) is ResumableRandomSampler:
        facts = [f"seed={sampler.seed}"]
    elif type(sampler) is ResumableSequentialSampler:
        facts = []
    else:
        facts = _facts_of_own(sampler, epoch)
    return f"{type(sampler).__name__}({', '.join(facts)})"


def _facts_of_own(sampler: ResumableSampler, epoch: int) -> list[str]:
    if type(sampler).__iter__ is not ResumableSampler.__iter__:
        seed = getattr(sampler, "seed", None)  # its indices() need not be its order
        return [] if seed is None else [f"seed={seed}"]
    sampler.set_epoch(epoch)
    order = hashlib.sha256()
    for index in sampler.indices():
        order.update(f"{index},".encode())
    return [f"order={order.hexdigest()[:8]}"]
