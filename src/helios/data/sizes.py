"""The number of samples that a loader put into each batch."""

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from helios.data.epochs import EpochSampler

BatchSize = Callable[[int], int]
"""A function that returns the number of samples in a batch, by the number of the batch."""


class CountedBatches:
    """Batches with the number of samples in each.

    Args:
        batches: the batches, with ``__len__`` if their loader has it.
        pairs: returns an iterator of the same batches, each after its number of samples; by
            default, the batches themselves show it.
        start: the number of the first batch.
    """

    def __init__(
        self,
        batches: Any,
        pairs: Callable[[], Iterator[tuple[int, Any]]] | None = None,
        start: int = 0,
    ) -> None:
        self._batches = batches
        self._pairs = pairs
        self._start = start
        self._sizes: list[int] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        self._sizes = []
        for size, batch in self._count() if self._pairs is None else self._pairs():
            self._sizes.append(size)
            yield batch

    def size(self, number: int) -> int:
        """Return the number of samples in a batch that was read."""
        return self._sizes[number - self._start]

    def _count(self) -> Iterator[tuple[int, Any]]:
        return ((count_samples(batch), batch) for batch in self._batches)


def known_size(loader: Any) -> BatchSize | None:
    """Return the function that knows the sizes of a loader's batches without reading them.

    ``None`` if only the batches show it: the loader iterates over a stream, takes batches out of
    order, or has no batch sampler of PyTorch's.
    """
    if not isinstance(loader, DataLoader) or not loader.in_order:
        return None
    batches: Any = loader.batch_sampler
    if isinstance(batches, EpochSampler):
        batches = batches.source
    if type(batches) is not BatchSampler or not isinstance(batches.sampler, Sized):
        return None
    try:
        samples, size = len(batches.sampler), batches.batch_size
    except TypeError:  # PyTorch's sampler for streams has no length
        return None

    def size_of(number: int) -> int:
        left = samples - number * size
        return size if left >= size or left <= 0 else left

    return size_of


def count_samples(batch: Any) -> int:
    """Return the first dimension of the first tensor in a batch that has dimensions, or 1."""
    tensor = next(_tensors(batch), None)
    return 1 if tensor is None else int(tensor.shape[0])


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        if batch.dim():
            yield batch
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from _tensors(item)
    elif isinstance(batch, list | tuple):
        for item in batch:
            yield from _tensors(item)
