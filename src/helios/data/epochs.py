"""Indices that bring the number of their epoch to the workers that load them.

Workers learn the epoch when they start. Persistent workers outlive an epoch, so they would seed
the samples of all epochs alike.
"""

from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast

from torch.utils.data import Sampler


class IndicesOfEpoch(list[Any]):
    """The indices of a batch, and the number of its epoch."""

    def __init__(self, indices: Iterable[Any], epoch: int) -> None:
        super().__init__(indices)
        self.epoch = epoch

    def __reduce__(self) -> Any:
        return IndicesOfEpoch, (list(self), self.epoch)


class EpochSampler(Sampler[IndicesOfEpoch]):
    """A sampler that adds the number of the epoch to the indices of another one.

    Args:
        source: a sampler of batches; or of samples, for a loader without a batch size.
        is_batched: ``True`` if the source yields batches.
    """

    def __init__(self, source: Iterable[Any], is_batched: bool) -> None:
        self.source = source
        self.epoch = 0
        """The epoch; set it before an iteration begins."""
        self._is_batched = is_batched

    def __iter__(self) -> Iterator[IndicesOfEpoch]:
        for chosen in self.source:
            yield IndicesOfEpoch(chosen if self._is_batched else [chosen], self.epoch)

    def __len__(self) -> int:
        return len(cast(Sized, self.source))
