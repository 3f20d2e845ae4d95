"""The batches of a run: their loader, their number, and the position in an epoch."""

import collections
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from helios.core import Group, Place, TrainingState
from helios.data import DataModule, DatasetSplit, StreamPosition
from helios.data.datamodule import LoaderAndPosition, require_pair
from helios.data.loader import batch_size_of, set_position
from helios.data.orders import describe_order
from helios.data.rank_shares import RankShare
from helios.data.seeds import SeededBatches
from helios.data.sizes import BatchSize, CountedBatches, known_size
from helios.data.whole_epoch import WholeEpoch, number_of_batches
from helios.errors import CheckpointError, ConfigurationError
from helios.model.window import Window
from helios.trainer.inputs import shared_batches as shared
from helios.trainer.inputs.evaluation_loader import EvaluationLoaders
from helios.trainer.inputs.limits import Limits, first
from helios.trainer.inputs.wrapped_batches import WrapBatches

_logger = logging.getLogger(__name__)

_WINDOWS_AHEAD = 8
"""The accumulation windows of a stream that each of several ranks reads ahead."""


class Batches:
    """The batches that the loops read.

    Args:
        datamodule: the data module, which creates the loaders.
        state: the progress of the run.
        window: the accumulation window.
        wrap: the hook ``wrap_batches``, if a plug-in implements it.
        seed: the seed of the run.
        place: the place of this process.
        group: the processes of the run.
        limits: the numbers of batches to read.

    Attributes:
        per_epoch: the number of batches in an epoch; infinite until a stream has been read once.
        numbers: the number of batches of this rank in each set of the newest evaluation, by name;
            ``None`` if only its end shows it.
        divided: the names of the sets of which each rank reads a part.
        is_joint: ``True`` if all ranks must evaluate the same number of batches.
        per_evaluation: the number of batches in the newest validation or test; ``None`` if only
            its end shows it.
        begin_set: called with the name of each validation or test set that has one, before its
            first batch, and with ``None`` after the last set.
    """

    def __init__(
        self,
        datamodule: DataModule,
        state: TrainingState,
        window: Window,
        wrap: WrapBatches | None,
        seed: int,
        place: Place,
        group: Group,
        limits: Limits,
    ) -> None:
        self._datamodule = datamodule
        self._state = state
        self._window = window
        self._wrap = wrap
        self._seed = seed
        self._place = place
        self._group = group
        self._limits = limits
        self._train_loader: LoaderAndPosition | None = None
        self._restored: dict[str, Any] | None = None
        self._training_size: BatchSize | None = None
        self._evaluation_size: BatchSize | None = None
        self._validation_loaders = EvaluationLoaders(datamodule, DatasetSplit.VALID)
        self._testing_loaders = EvaluationLoaders(datamodule, DatasetSplit.TEST)
        self._prediction_loaders: EvaluationLoaders | None = None
        self.per_epoch: int | float = 0
        self.numbers: dict[str | None, int | None] = {}
        self.divided: set[str | None] = set()
        self.is_joint = False
        self.per_evaluation: int | None = None
        self.begin_set: Callable[[str | None], None] = lambda name: None

    def advance_phase(self) -> None:
        """Switch to the next training set, if one exists."""
        if self._datamodule.advance_train_phase():
            self.begin_phase()

    def count_in_epoch(self) -> int | float:
        """Return the number of batches in an epoch, also before the loader is created."""
        pair = self._train_loader or require_pair(self._datamodule, "train_dataloader")
        if pair is None:
            return 0
        return self._number_in_epoch(*pair)

    def begin_phase(self) -> None:
        """Create the loader of the current training set.

        Raises:
            ConfigurationError: the data module has no training set, or the set fills no batch.
            CheckpointError: the training set is not the one that the checkpoint was saved with.
        """
        self._train_loader = require_pair(self._datamodule, "train_dataloader")
        if self._train_loader is None:
            raise ConfigurationError(
                f"{type(self._datamodule).__name__} has no training set: assign"
                " self._train_dataset = self._create_dataset(...) in its setup()."
            )
        loader, position = self._train_loader
        self._validation_loaders.forget()  # they may depend on the phase
        if not getattr(loader, "in_order", True):
            _logger.warning(
                "the training set has in_order=False, so batches come in the order in which workers"
                " finish them: if this run resumes inside an epoch, it may repeat some batches and"
                " skip others. Remove in_order=False for a run that resumes exactly."
            )
        shared.settle_share(position, self._group)
        number = self._number_in_epoch(loader, position)
        self.per_epoch = shared.even_count(number, position, self._group)
        if self.per_epoch == 0:
            raise ConfigurationError(
                "the training set does not fill one batch, and drop_last=True drops the rest:"
                " lower batch_size."
            )
        before, self._restored = self._restored, None
        if before is not None and self._state.dataset_iter > 0:
            self._resume_inside_epoch(before)
            self._require_reachable()
        elif before is not None and isinstance(position, StreamPosition):
            carried = before.get("stream", [])[self._place.rank :]
            if carried and carried[0] is not None:
                position.load_state_dict(carried[0], 0)

    @property
    def position(self) -> Any:
        """The sampler of the training set, or the position of a stream."""
        assert self._train_loader is not None  # begin_phase() has set it
        return self._train_loader[1]

    def close(self) -> None:
        """Drop the loaders, so that their workers end now.

        Workers that only the garbage collector finds are not told to end: PyTorch waits for each
        of them for five seconds.
        """
        self._train_loader = self._training_size = self._evaluation_size = None
        self._validation_loaders.forget()
        self._testing_loaders.forget()
        self._prediction_loaders = None

    def _resume_inside_epoch(self, before: dict[str, Any]) -> None:
        assert self._train_loader is not None  # begin_phase() has set it
        position, consumed = self._train_loader[1], self._state.dataset_iter
        now, names = self._order(), ["samples", *_TERMS]
        if before.get("ranks", 1) == now.get("ranks", 1):
            if isinstance(position, RankShare):
                position.first = before.get("first", 0)
                now = self._order()
            names = [*now]
        else:
            names.remove("batch_size")  # the position is a number of samples
        names = [name for name in names if name in now]
        if any(
            before.get(name, now[name]) != now[name] for name in names
        ):  # older files have fewer
            raise CheckpointError(
                f"the checkpoint was saved after batch {consumed} of an epoch of"
                f" {_described(before)}, but the training set now has {_described(now)}, in another"
                " order, so samples would be repeated and others skipped: restore the data, the"
                " batch size, shuffle or sampler, and each random_seed that the run was started"
                " with, or start a new run."
            )
        if before.get("ranks", 1) != now.get("ranks", 1):
            self._state.dataset_iter = shared.move_position(before, now, position, consumed)
        elif isinstance(position, StreamPosition):
            position.load_state_dict(before["stream"][self._place.rank], consumed)
        number = self._number_in_epoch(*self._train_loader)
        self.per_epoch = shared.even_count(number, position, self._group)

    def _order(self) -> dict[str, Any]:
        """Return the values that the order of the samples depends on; the seed for a stream."""
        assert self._train_loader is not None  # begin_phase() has set it
        loader, position = self._train_loader
        order: dict[str, Any] = {}
        if self._place.is_distributed:
            order["ranks"] = self._place.world_size
        if isinstance(position, StreamPosition):
            return {**order, "batches": None, "samples": None, "seed": self._seed}
        order |= {
            "batches": len(loader),
            "samples": position.total if isinstance(position, RankShare) else len(position),
            "batch_size": batch_size_of(loader),
            "seed": self._seed,
        }
        if self._state.dataset_iter > 0:  # no checkpoint between epochs needs it
            order["sampler"] = describe_order(position, self._epoch)
        if isinstance(loader.dataset, SeededBatches):
            order["samples_seed"] = loader.dataset.seed
        if isinstance(position, RankShare):
            order["first"] = position.first
        return order

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the current epoch, as far as the counters do not hold it."""
        assert self._train_loader is not None  # begin_phase() has set it
        position = self._train_loader[1]
        if isinstance(position, StreamPosition):
            stream = position.state_dict(self._state.dataset_iter)
            return {**self._order(), "stream": self._group.gather(stream)}
        return self._order()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store what :meth:`state_dict` returned until the loader is created."""
        self._restored = state_dict

    def training(self) -> Iterable[Any]:
        """Return the batches of the current epoch that have not been consumed yet."""
        assert self._train_loader is not None  # begin_phase() has set it
        loader, position = self._train_loader
        state = self._state
        if state.dataset_iter == 0 and isinstance(position, RankShare) and position.first:
            position.first = 0  # this run reads the whole epoch
            self.per_epoch = self._number_in_epoch(loader, position)
        if isinstance(position, StreamPosition):
            position.expect_read_ahead(self._wrap is not None)
            self._training_size = position.size
            limit = self._limits.number("training", None)
            left = None if limit is None else limit - state.dataset_iter
            stream = first(position.read(state), left)
            return self._in_windows(self._wrapped(stream, "training", None))
        set_position(loader, position, self._seed, self._epoch, state.dataset_iter)
        batches, self._training_size = _counted(loader, position, state.dataset_iter)
        number = int(self.per_epoch) - state.dataset_iter
        batches = first(batches, number if self.per_epoch < len(loader) else None)
        return self._wrapped(batches, "training", number)

    @property
    def _epoch(self) -> int:
        """The number of the epoch that decides the order of the samples."""
        return 0 if self._limits.repeats else self._state.global_epoch

    def _number_in_epoch(self, loader: Any, position: Any) -> int | float:
        if not isinstance(position, StreamPosition):
            limit = self._limits.number("training", len(loader))
            return len(loader) if limit is None else limit
        if self._limits.repeats:
            raise ConfigurationError(
                "overfit_batches needs a map-style dataset, with __getitem__ and __len__, because a"
                " stream may return other samples each time. To read fewer batches of a stream,"
                " pass limit_batches."
            )
        return math.inf

    def _require_reachable(self) -> None:
        limit = self._limits.number("training", None) if math.isinf(self.per_epoch) else None
        last, consumed = self.per_epoch if limit is None else limit, self._state.dataset_iter
        if consumed > last:
            raise CheckpointError(
                f"the checkpoint was saved after batch {consumed} of an epoch, but this run reads"
                f" only {last} batches in each: pass a larger limit_batches, or start a new run."
            )

    def _in_windows(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of a stream, and read ahead to the end of each accumulation window.

        With epochs as the training unit, the last window may have fewer batches. The loss of its
        first batch already depends on their number. Several ranks read some windows ahead, so that
        they end the epoch together.
        """
        iterator, state = iter(batches), self._state
        ahead: collections.deque[Any] = collections.deque()
        windows = _WINDOWS_AHEAD if self._place.is_distributed else 1
        common, has_more = 0, True  # the number of batches ahead that all ranks have
        self.per_epoch = math.inf
        while math.isinf(self.per_epoch):
            accumulate = self._window.read_ahead  # a plug-in may change it
            if common < accumulate and has_more:
                wanted = windows * accumulate
                ahead.extend(itertools.islice(iterator, wanted - len(ahead)))
                common = shared.common_count(len(ahead), self._group)
                has_more = common == wanted
            if common < accumulate:
                self.per_epoch = state.dataset_iter + common
            for _ in range(min(common, accumulate)):
                common -= 1
                yield ahead.popleft()

    def validation(self) -> Iterable[Any] | None:
        """Return the validation batches, or ``None`` without a validation set."""
        return self._evaluation(self._validation_loaders, "validation")

    def testing(self) -> Iterable[Any] | None:
        """Return the test batches, or ``None`` without a test set."""
        return self._evaluation(self._testing_loaders, "testing")

    def prediction(self, split: DatasetSplit) -> Iterable[Any] | None:
        """Return the batches of a split in the order of the data, or ``None`` without a set."""
        self._prediction_loaders = EvaluationLoaders(self._datamodule, split, in_order=True)
        return self._evaluation(self._prediction_loaders, "prediction")

    def _evaluation(self, loaders: EvaluationLoaders, phase: str) -> Iterable[Any] | None:
        names: list[str | None] = [*loaders.names()] or [None]
        pairs = {name: loaders.get(name) for name in names}
        sets = {name: pair for name, pair in pairs.items() if pair is not None}
        for pair in sets.values():
            shared.settle_evaluation(
                *pair, phase, self._limits, self._group, is_joint=self.is_joint
            )
        self.numbers = {name: self._number(pair, phase) for name, pair in sets.items()}
        self.divided = {name for name, pair in sets.items() if shared.is_divided(pair[1])}
        numbers = self.numbers.values()
        self.per_evaluation = None if None in numbers else sum(filter(None, numbers))
        if None in sets:
            return self._one_set(sets[None], phase)
        return self._each_set(sets, phase) if sets else None

    def _each_set(self, sets: Mapping[str | None, LoaderAndPosition], phase: str) -> Iterator[Any]:
        """Yield the batches of all sets; the numbers of batches continue in the next set."""
        count = 0
        for name, pair in sets.items():
            self.begin_set(name)
            for batch in self._one_set(pair, phase, count):
                count += 1
                yield batch
        self.begin_set(None)

    def _one_set(self, pair: LoaderAndPosition, phase: str, start: int = 0) -> Iterable[Any]:
        """Return the batches of a set, the first of which has the number ``start``."""
        batches, size = _counted(*pair)
        self._evaluation_size = functools.partial(_after, start, size) if start else size
        limit, number = self._limit(pair, phase), self._number(pair, phase)
        if self.is_joint:
            shared.require_even(number, self._group)
        return self._wrapped(first(batches, limit), phase, number)

    def _limit(self, pair: LoaderAndPosition, phase: str) -> int | None:
        if getattr(pair[1], "most", None) is not None:  # the sampler itself reads no further
            return None
        return self._limits.number(phase, number_of_batches(pair[0]))

    def _number(self, pair: LoaderAndPosition, phase: str) -> int | None:
        """Return the number of batches to read of a set; ``None`` if only its end shows it."""
        limit = self._limit(pair, phase)
        return number_of_batches(pair[0]) if limit is None else limit

    def training_size(self, number: int) -> int:
        """Return the number of samples that the loader put into a batch of the current epoch."""
        assert self._training_size is not None  # training() set it
        return self._training_size(number)

    def evaluation_size(self, number: int) -> int:
        """Return the number of samples that the loader put into a validation or test batch."""
        assert self._evaluation_size is not None  # validation() or testing() set it
        return self._evaluation_size(number)

    def _wrapped(self, batches: Iterable[Any], phase: str, number: int | None) -> Iterable[Any]:
        return batches if self._wrap is None else self._wrap(batches, phase, number)


def _after(start: int, size: BatchSize, number: int) -> int:
    """Return the size of a batch by its number, if the numbers begin at ``start``."""
    return size(number - start)


def _counted(loader: Any, position: Any, start: int = 0) -> tuple[Iterable[Any], BatchSize]:
    """Return the batches of a loader, and the function that returns their numbers of samples."""
    size = known_size(loader)
    if size is not None:
        return WholeEpoch(loader, loader, len(loader) - start), size
    is_stream = isinstance(position, StreamPosition)
    batches = CountedBatches(loader, position.counted if is_stream else None, start)
    number = None if is_stream else number_of_batches(loader)
    if number is None:
        return batches, batches.size
    return WholeEpoch(batches, loader, number - start), batches.size


_TERMS = {
    "batch_size": "batch_size",
    "seed": "random_seed",
    "samples_seed": "DataLoaderParams.random_seed",
    "sampler": "sampler",
}
"""The parts of an order, and their names in messages."""


def _described(order: dict[str, Any]) -> str:
    if order["batches"] is None:
        seed = f"random_seed={order['seed']} and " if "seed" in order else ""
        return f"{seed}an unknown number of batches (a stream)"
    text = f"{order['batches']} batches from {order['samples']} samples"
    terms = [f"{term}={order[name]}" for name, term in _TERMS.items() if name in order]
    return f"{text} ({', '.join(terms)})" if terms else text
