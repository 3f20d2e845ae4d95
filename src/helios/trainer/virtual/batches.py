"""The batches of virtual ranks, which are read in rounds: one batch of each."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from helios.core import Alone, Group, Place, TrainingState
from helios.data import DataModule
from helios.data.rank_shares import RankShare
from helios.data.reader import reading_as
from helios.errors import ConfigurationError
from helios.model.virtual.ranks import VirtualRank, local_ranks
from helios.trainer.inputs.batches import Batches
from helios.trainer.inputs.shared_batches import whole_order

END = object()
"""The result of :meth:`Round.read` if a virtual rank has no more batches in an evaluation."""


class CreateBatches(Protocol):
    """A function that returns the batches of a rank."""

    def __call__(self, *, place: Place, group: Group) -> Batches:
        """Return the batches of a rank."""


class Round:
    """One batch of each virtual rank of a process, read when the virtual rank needs it.

    Attributes:
        read: returns the batch of a virtual rank, or :data:`END`.
    """

    def __init__(self, read: Callable[[VirtualRank], Any]) -> None:
        self.read = read


class VirtualBatches:
    """The batches of the virtual ranks of a process, with the methods of :class:`Batches`.

    Args:
        count: the number of virtual ranks of the run.
        datamodule: the data module, which creates the loaders.
        state: the progress of the run.
        place: the place of this process.
        group: the processes of the run.
        create: returns the batches of one virtual rank.

    Attributes:
        begin_set: see :class:`Batches`; each virtual rank has its own.
    """

    def __init__(
        self,
        count: int,
        datamodule: DataModule,
        state: TrainingState,
        place: Place,
        group: Group,
        create: CreateBatches,
    ) -> None:
        self._group = group
        self._count = count
        self._datamodule = datamodule
        self._state = state
        self._all = {
            rank: create(place=Place(place.device, rank, rank, count, count), group=Alone())
            for rank in local_ranks(count, place)
        }
        self._first = next(iter(self._all.values()))
        self._reading = self._first
        self.begin_set: Callable[[str | None], None] = lambda name: None

    def log_sets_of(self, ranks: Sequence[VirtualRank]) -> None:
        """Tell the logs of virtual ranks which validation or test set they read."""
        for rank in ranks:
            self._all[rank.number].begin_set = rank.evaluation_log.begin_set

    @property
    def per_epoch(self) -> int | float:
        """The number of batches of each virtual rank in an epoch."""
        return self._first.per_epoch

    @property
    def per_evaluation(self) -> int | None:
        """The number of rounds in the newest validation or test, if it is known."""
        numbers = [batches.per_evaluation for batches in self._all.values()]
        return None if None in numbers else max(filter(None, numbers), default=0)

    def count_in_epoch(self) -> int | float:
        """Return the number of batches in an epoch, also before the loaders are created."""
        with reading_as(0, self._count):
            return self._first.count_in_epoch()

    def begin_phase(self) -> None:
        """Create the loaders of the current training set."""
        for rank, batches in self._all.items():
            with reading_as(rank, self._count):
                batches.begin_phase()
        if math.isinf(self.per_epoch):
            raise _stream(self._count, self._datamodule.train_dataset)
        self._require_even()

    def _require_even(self) -> None:
        """Make sure that all virtual ranks have equally many batches, of the same sampler."""
        own = [batches.per_epoch for batches in self._all.values()]
        counts = [count for process in self._group.gather(own) for count in process]
        if len(set(counts)) > 1:
            stories = ", ".join(f"{count} for {rank}" for rank, count in enumerate(counts))
            raise ConfigurationError(
                f"Trainer(virtual_ranks={self._count}): the virtual ranks have different numbers of"
                f" training batches: {stories}. Each step needs a batch of each: pass"
                " drop_last=True to drop the batches that not each of them has."
            )
        sampler = self._first.position
        if isinstance(sampler, RankShare) and sampler.is_of_user:
            what = f"the order of the samples that {type(sampler.source).__name__} chooses"
            self._group.require_same(what, sampler.digest())
        elif isinstance(sampler, RankShare):
            self._group.require_same("the training set", whole_order(sampler))

    def advance_phase(self) -> None:
        """Switch to the next training set, if one exists."""
        if self._datamodule.advance_train_phase():
            self.begin_phase()

    def close(self) -> None:
        """Drop the loaders, so that their workers end now."""
        for batches in self._all.values():
            batches.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the values that the order of the samples depends on."""
        return self._first.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store what :meth:`state_dict` returned until the loaders are created."""
        for batches in self._all.values():
            batches.load_state_dict(state_dict)

    def training(self) -> Iterator[Round]:
        """Yield the rounds of the current epoch that have not been consumed yet."""
        left = int(self.per_epoch) - self._state.dataset_iter
        iterators = {rank: iter(batches.training()) for rank, batches in self._all.items()}
        for _ in range(left):
            yield Round(self._reader(iterators))
        for iterator in iterators.values():
            next(iterator, END)  # it checks that it has yielded all batches

    def validation(self) -> Iterable[Round] | None:
        """Return the rounds of a validation, or ``None`` without a validation set."""
        return self._evaluation(Batches.validation)

    def testing(self) -> Iterable[Round] | None:
        """Return the rounds of a test, or ``None`` without a test set."""
        return self._evaluation(Batches.testing)

    def _evaluation(self, begin: Callable[[Batches], Any]) -> Iterable[Round] | None:
        iterators = {}
        for rank, batches in self._all.items():
            with reading_as(rank, self._count):
                found = begin(batches)
            if found is None:
                return None
            if batches.per_evaluation is None:
                raise _stream(self._count, self._datamodule.valid_dataset)
            iterators[rank] = iter(found)
        return self._until_end(iterators)

    def _until_end(self, iterators: dict[int, Iterator[Any]]) -> Iterator[Round]:
        read, left = self._reader(iterators), set(iterators)

        def read_if_left(rank: VirtualRank) -> Any:
            batch = read(rank)
            if batch is END:
                left.discard(rank.number)
            return batch

        while left:
            yield Round(read_if_left)

    def _reader(self, iterators: dict[int, Iterator[Any]]) -> Callable[[VirtualRank], Any]:
        def read(rank: VirtualRank) -> Any:
            self._reading = self._all[rank.number]
            with reading_as(rank.number, self._count):  # a set may get its loader only now
                return next(iterators[rank.number], END)

        return read

    def training_size(self, number: int) -> int:
        """Return the number of samples in a batch of the virtual rank that has read it last."""
        return self._reading.training_size(number)

    def evaluation_size(self, number: int) -> int:
        """Return the number of samples in a batch of the virtual rank that has read it last."""
        return self._reading.evaluation_size(number)


def _stream(count: int, dataset: Any) -> ConfigurationError:
    return ConfigurationError(
        f"Trainer(virtual_ranks={count}) cannot share the samples of {type(dataset).__name__} among"
        " virtual ranks, because it is an iterable-style dataset or its loader has no length: write"
        " a map-style dataset, with __getitem__ and __len__."
    )
