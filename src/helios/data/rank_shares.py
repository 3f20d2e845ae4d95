"""The share of each process in the samples that a sampler chooses for all of them.

Process ``r`` of ``R`` reads the positions ``r``, ``r + R``, ``r + 2 * R`` and so on. So the batches
that all processes read at one step are together a batch of one process, ``R`` times as large.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from helios.core.distributed import get_global_world_size
from helios.data.batch_samplers import ResumableBatchSampler
from helios.data.samplers import (
    ResumableDistributedSampler,
    ResumableRandomSampler,
    ResumableSampler,
    ResumableSequentialSampler,
    ResumableWeightedSampler,
    in_blocks,
)

_OF_HELIOS = (ResumableRandomSampler, ResumableSequentialSampler, ResumableWeightedSampler)


class RankShare:
    """The part that both kinds of shares have in common.

    Args:
        source: the sampler, which chooses for all processes.
        rank: the rank of this process.
        ranks: the number of processes.
        drop_last: ``True`` to skip what does not divide evenly among the processes.

    Attributes:
        source: the sampler, which chooses for all processes.
        ranks: the number of processes.
        first: the number of positions at the start of the epoch that no process of this run reads,
            because an earlier run with another number of processes has read them.
        is_shared: ``False`` if the source chooses for this process alone.
        is_settled: ``True`` if the ranks have compared what their sources choose.
        is_even: ``True`` if each process must read equally many; for training.
        is_block: ``True`` if each process reads a part without gaps, so that results can be joined.
        most: the number of samples or batches that all processes share in blocks, counted from the
            first one; ``None`` for all of them.
        drops_last: ``True`` to skip what does not divide evenly among the processes.
    """

    def __init__(self, source: Any, rank: int, ranks: int, drop_last: bool) -> None:
        self.source = source
        self.ranks = ranks
        self.first = 0
        self.is_shared = True
        self.is_settled = False
        self.is_even = True
        self.is_block = False
        self.most: int | None = None
        self.drops_last = drop_last
        self._rank = rank

    @property
    def is_of_user(self) -> bool:
        """``True`` if a class of the user's own chooses; it may choose for this process alone."""
        return type(self.source) not in _OF_HELIOS

    @property
    def total(self) -> int:
        """The number of samples or batches of all processes in an epoch, without repeated ones."""
        return len(self.source)

    def digest(self) -> str:
        """Return a text that differs if the source chooses otherwise in the current epoch."""
        digest = hashlib.sha256()
        for chosen in _all(self.source):
            digest.update(f"{chosen},".encode())
        return digest.hexdigest()

    def _positions(self, *, repeats: bool) -> range:
        """Return the positions of this process in the order of the source.

        Args:
            repeats: ``True`` to let the positions run over the end of the order, so that each
                process gets equally many.
        """
        total = self.total
        if not self.is_shared:
            return range(total)
        if self.is_block:
            total = total if self.most is None else min(total, self.most)
            return range(total * self._rank // self.ranks, total * (self._rank + 1) // self.ranks)
        left = max(total - self.first, 0)
        if self.is_even and self.drops_last:
            total = self.first + left // self.ranks * self.ranks
        elif self.is_even and repeats:
            total = self.first - (-left // self.ranks) * self.ranks
        return range(self.first + self._rank, max(total, self.first + self._rank), self.ranks)


class SampleShare(RankShare, ResumableSampler):
    """The samples of one process. To be even, it repeats the first samples, as PyTorch does.

    Args:
        source: a sampler of samples.
        rank: the rank of this process.
        ranks: the number of processes.
        drop_last: ``True`` to skip the last samples rather than repeat the first ones.
    """

    def __init__(
        self, source: ResumableSampler, rank: int, ranks: int, drop_last: bool = False
    ) -> None:
        ResumableSampler.__init__(self, range(0))
        RankShare.__init__(self, _of_all(source), rank, ranks, drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        super().set_epoch(epoch)
        self.source.set_epoch(epoch)

    def indices(self) -> Sequence[int] | torch.Tensor:
        """Return the samples of this process, in order."""
        order, positions = _order_of(self.source), self._positions(repeats=True)
        if isinstance(order, torch.Tensor):
            steps = torch.arange(len(positions)).mul_(positions.step).add_(positions.start)
            return order[steps.remainder_(max(len(order), 1))]
        chosen: Sequence[int] = order[positions.start : positions.stop : positions.step]
        if len(chosen) == len(positions):
            return chosen
        return [order[position % len(order)] for position in positions]

    def __len__(self) -> int:
        """Return the number of samples of this process in a whole epoch, skipped ones included."""
        return len(self._positions(repeats=True))


class BatchShare(RankShare, ResumableBatchSampler):
    """The batches of one process.

    Args:
        source: a sampler of batches.
        rank: the rank of this process.
        ranks: the number of processes.
        drop_last: ``True`` to skip the last batches if they do not divide evenly.
    """

    def __init__(
        self, source: ResumableBatchSampler, rank: int, ranks: int, drop_last: bool = False
    ) -> None:
        ResumableBatchSampler.__init__(self)
        RankShare.__init__(self, source, rank, ranks, drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose batches are chosen next."""
        super().set_epoch(epoch)
        self.source.set_epoch(epoch)

    def batches(self) -> Iterator[list[int]]:
        """Iterate over the batches of this process."""
        positions = self._positions(repeats=False)
        for number, batch in enumerate(_all(self.source)):
            if number in positions:
                yield batch

    def __len__(self) -> int:
        """Return the number of batches of this process in each epoch, skipped ones included."""
        return len(self._positions(repeats=False))


def share_samples(
    source: ResumableSampler, rank: int, ranks: int, drop_last: bool
) -> ResumableSampler:
    """Return the share of a process in the samples of a sampler.

    A sampler that was created for another number of processes than the run has stays as it is.
    """
    known = (1, ranks, get_global_world_size())  # with virtual ranks, the last two differ
    if (
        isinstance(source, ResumableDistributedSampler | ResumableWeightedSampler)
        and source.num_replicas not in known
    ):
        return source
    if isinstance(source, ResumableDistributedSampler):
        drop_last = drop_last or source.drop_last
    return SampleShare(source, rank, ranks, drop_last)


def _of_all(source: ResumableSampler) -> ResumableSampler:
    """Return a sampler that chooses for all processes, in place of one that knows their number."""
    if type(source) is ResumableDistributedSampler:
        data = range(len(source.dataset))  # type: ignore[arg-type]  # it is sized
        return (
            ResumableRandomSampler(data, source.seed)
            if source.shuffle
            else ResumableSequentialSampler(data)
        )
    if isinstance(source, ResumableWeightedSampler):
        source = copy.copy(source)
        source.num_replicas, source.rank = 1, 0
    return source


def _order_of(source: ResumableSampler) -> Any:
    if type(source).__iter__ is ResumableSampler.__iter__:
        return source.indices()
    return list(source)  # a class with its own __iter__ need not have indices()


def _all(source: ResumableSampler | ResumableBatchSampler) -> Iterable[Any]:
    """Return all samples or batches of a sampler, in order."""
    source.start_iter = 0
    if isinstance(source, ResumableBatchSampler):
        return source
    order = _order_of(source)
    return in_blocks(order) if isinstance(order, torch.Tensor) else order
