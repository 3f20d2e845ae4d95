"""Samplers that can start in the middle of an epoch, so that a run resumes at the right batch.

Each sampler draws its order from ``seed + epoch`` alone, and skips ``start_iter`` whole batches.
"""

import itertools
import math
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler, Sampler

from helios.core import Registry, rng
from helios.core.distributed import get_dist_info
from helios.errors import ConfigurationError

_BLOCK = 2**16  # indices that exist as Python's numbers at a time

SAMPLER_REGISTRY = Registry("sampler")
"""The registry of samplers; holds the four of this module."""


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
    """The base class of samplers that can start in the middle of an epoch.

    A subclass writes :meth:`indices`, and :meth:`__len__` if its order does not have the length of
    the dataset. The order may depend on :attr:`epoch`, but not on anything that changes within an
    epoch: a resumed run computes it again.

    Args:
        data_source: the dataset to sample; only its length is used.
        batch_size: the number of samples in a batch; :attr:`start_iter` counts such batches. The
            loader sets it.

    Example:
        .. code-block:: python

            class EasyOnesFirst(helios.data.ResumableSampler):
                def __init__(self, difficulties: list[float]) -> None:
                    super().__init__(difficulties)
                    self.difficulties = torch.tensor(difficulties)

                def indices(self) -> torch.Tensor:
                    return self.difficulties.argsort()
    """

    def __init__(self, data_source: Sized, batch_size: int = 1) -> None:
        self._data_source = data_source
        self.batch_size = batch_size
        self._epoch = 0
        self.start_iter = 0
        """The number of batches to skip at the beginning of each iteration."""

    @property
    def epoch(self) -> int:
        """The epoch whose order is drawn next."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        self._epoch = epoch

    def indices(self) -> Sequence[int] | torch.Tensor:
        """Return the order of the whole epoch: a sequence, or a tensor for a long one.

        A list takes about 40 bytes an index, a tensor 4 or 8.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        order, start = self.indices(), self.start_iter * self.batch_size
        if isinstance(order, torch.Tensor):
            return in_blocks(order[start:])
        return iter(order[start:])

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

    def indices(self) -> torch.Tensor:
        """Return a permutation drawn from ``seed + epoch``."""
        return _permutation(len(self), self.seed, self.epoch)


@SAMPLER_REGISTRY.register
class ResumableSequentialSampler(ResumableSampler):
    """A sampler that yields each sample once, in the order of the dataset."""

    def indices(self) -> range:
        """Return the indices of the samples, in order."""
        return range(len(self))


@SAMPLER_REGISTRY.register
class ResumableWeightedSampler(ResumableSampler):
    """A sampler that draws samples in proportion to their weights, from ``seed + epoch``.

    It draws as PyTorch's ``WeightedRandomSampler`` does. In a distributed run, the processes share
    the samples of one drawing.

    Args:
        weights: the weight of each sample of the dataset; they need not sum to 1.
        num_samples: the number of samples to draw for an epoch of all processes; one for each
            weight by default.
        replacement: ``True`` to draw a sample any number of times; ``False`` at most once.
        seed: the seed of the orders; the same in all processes.
        batch_size: the number of samples per batch and process.
        num_replicas: the number of processes; from the process group by default.
        rank: the rank of this process; from the process group by default.

    Raises:
        ConfigurationError: a weight is negative or not finite, or too few are above 0.
    """

    def __init__(
        self,
        weights: Sequence[float] | torch.Tensor,
        num_samples: int | None = None,
        replacement: bool = True,
        seed: int = 0,
        batch_size: int = 1,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        super().__init__(self.weights, batch_size)
        self.num_samples = len(self.weights) if num_samples is None else num_samples
        self.replacement = replacement
        self.seed = seed
        place = get_dist_info()
        self.num_replicas = place.global_world_size if num_replicas is None else num_replicas
        self.rank = place.global_rank if rank is None else rank
        self._check()

    def _check(self) -> None:
        is_usable = (self.weights >= 0) & self.weights.isfinite()
        if self.weights.dim() != 1 or not bool(is_usable.all()):
            raise ConfigurationError(
                "the weights of ResumableWeightedSampler must be one finite number for each sample,"
                " none of them negative."
            )
        positive = int((self.weights > 0).sum())
        needed = 1 if self.replacement else self.num_samples
        if self.num_samples < 1 or positive < needed:
            raise ConfigurationError(
                f"ResumableWeightedSampler cannot draw num_samples={self.num_samples} of {positive}"
                " samples whose weight is above 0: pass a num_samples of at least 1, and"
                " replacement=True to draw samples more than once."
            )

    def indices(self) -> torch.Tensor:
        """Return the samples of this process that are drawn from ``seed + epoch``."""
        generator = torch.Generator().manual_seed(rng.seed_of_epoch(self.seed, self.epoch))
        drawn = torch.multinomial(
            self.weights, self.num_samples, self.replacement, generator=generator
        )
        return drawn[_share(self.num_samples, len(self), self.num_replicas, self.rank)]

    def __len__(self) -> int:
        """Return the number of samples of this process in a whole epoch."""
        return math.ceil(self.num_samples / self.num_replicas)


@SAMPLER_REGISTRY.register
class ResumableDistributedSampler(ResumableSampler, DistributedSampler[int]):
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
        DistributedSampler.__init__(self, dataset, num_replicas, rank, shuffle, seed, drop_last)
        ResumableSampler.__init__(self, dataset, batch_size)  # type: ignore[arg-type]  # it is sized

    def indices(self) -> torch.Tensor:
        """Return the samples of this process, in the order of PyTorch's sampler."""
        count = len(self._data_source)
        share = _share(count, self.num_samples, self.num_replicas, self.rank)
        return _permutation(count, self.seed, self.epoch)[share] if self.shuffle else share

    def __len__(self) -> int:
        """Return the number of samples of this process in a whole epoch."""
        return self.num_samples


def _permutation(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Return all indices in a random order, which does not depend on the size of a number."""
    generator = torch.Generator().manual_seed(rng.seed_of_epoch(seed, epoch))
    dtype = torch.int32 if count <= torch.iinfo(torch.int32).max else torch.int64
    return torch.randperm(count, generator=generator, dtype=dtype)


def _share(count: int, share: int, num_replicas: int, rank: int) -> torch.Tensor:
    """Return the positions of one process in an order; after the end, it begins again."""
    return torch.arange(share).mul_(num_replicas).add_(rank).remainder_(count)


ResumableSamplerType = ResumableSampler | ResumableDistributedSampler
"""The samplers that a data loader of Helios accepts."""


def in_blocks(order: torch.Tensor) -> Iterator[int]:
    """Iterate over a tensor without making all of its numbers Python's at once."""
    starts = range(0, len(order), _BLOCK)
    return itertools.chain.from_iterable(order[i : i + _BLOCK].tolist() for i in starts)
