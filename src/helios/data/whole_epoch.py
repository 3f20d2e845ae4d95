"""The number of batches in an epoch: a loader that yields more or fewer than its length fails."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

from helios.data.seeds import SeededBatches
from helios.errors import ConfigurationError


class WholeEpoch:
    """The batches of an epoch, or those that are left of it.

    A dataset that raises ``StopIteration`` looks like the end of an epoch to PyTorch, and a sampler
    may yield more or fewer indices than its length. This class counts without any Python code per
    batch.

    Args:
        batches: the batches of the loader.
        loader: the loader, for messages.
        number: the number of batches that must come.
    """

    def __init__(self, batches: Any, loader: Any, number: int) -> None:
        self._batches = batches
        self._loader = loader
        self._number = number

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)  # plug-ins may ask for its dataset, for example

    def __iter__(self) -> Iterator[Any]:
        batches, counter = iter(self._batches), itertools.count(1)
        # compress() takes one number of the counter for each batch.
        counted = itertools.compress(itertools.islice(batches, self._number), counter)
        return itertools.chain(counted, self._end(batches, counter))

    def _end(self, batches: Iterator[Any], counter: "itertools.count[int]") -> Iterator[Any]:
        """Check the number after the last batch; yield nothing."""
        yielded = next(counter) - 1
        if yielded < self._number:
            raise ConfigurationError(
                f"{_name(self._loader)} yielded {yielded} of {self._number} batches, so the epoch"
                f" is not complete: {_reason(self._loader, self._number)}."
            )
        if next(batches, self) is not self:
            raise ConfigurationError(
                f"{_name(self._loader)} yielded more than {self._number} batches, its length: let"
                f" __len__() of {_sampler(self._loader)} return the number of indices that its"
                " __iter__() yields, and skip start_iter batches in __iter__()."
            )
        yield from ()


def number_of_batches(loader: Any) -> int | None:
    """Return the number of batches of a loader; ``None`` if only its end shows it."""
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return None
    try:
        return len(loader)
    except TypeError:  # a user's own loader need not have a length
        return None


def _reason(loader: Any, number: int) -> str:
    batches = getattr(loader, "batch_sampler", None)
    if batches is None:
        return "let len() of the loader return the number of its batches"
    if sum(1 for _ in itertools.islice(batches, number)) < number:
        return (
            f"let __len__() of {_sampler(loader)} return the number of indices that its"
            " __iter__() yields"
        )
    return (
        "the dataset raised StopIteration, which ends an epoch; raise another error, or let"
        " __len__() return the number of samples that exist"
    )


def _name(loader: Any) -> str:
    dataset = getattr(loader, "dataset", loader)
    return type(dataset.dataset if isinstance(dataset, SeededBatches) else dataset).__name__


def _sampler(loader: Any) -> str:
    batches = getattr(loader, "batch_sampler", None)
    return type(getattr(batches, "sampler", batches)).__name__
