"""Streams: iterable-style datasets, which have neither a length nor indices.

torchdata's ``StatefulDataLoader`` returns the state of a stream from its workers after each batch.
This module creates that state, and seeds the samples. To restore a stream that has no state of its
own, it skips samples.
"""

import collections
import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from helios.core import TrainingState, rng
from helios.core.distributed import get_global_rank
from helios.core.generators import KeptStates
from helios.data.replay import has_incomplete_state
from helios.data.seeds import Seeding, as_it_is, own_streams
from helios.data.sizes import count_samples
from helios.errors import CheckpointError, ConfigurationError

_logger = logging.getLogger(__name__)


class StreamBatches(IterableDataset[Any]):
    """A dataset that yields the batches of a stream.

    Args:
        dataset: the user's iterable-style dataset.
        batch_size: the number of samples in a batch; ``None`` if each sample is a batch.
        drop_last: ``True`` to skip a last batch that is not full; each worker has one.
        collate_fn: the function that makes a batch of a list of samples.
        seeding: the moment when generators are seeded, by seed, epoch, worker and sample number.
        seed: the seed of the loader.
        replay: ``True`` to ignore a state of the dataset, and to restore a position by reading
            the consumed samples again; by default, if that state is known to be incomplete.

    Raises:
        ConfigurationError: the state is known to be incomplete, and ``replay`` is ``False``.
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        batch_size: int | None,
        drop_last: bool,
        collate_fn: Callable[..., Any],
        seeding: Seeding,
        seed: int,
        replay: bool | None = None,
    ) -> None:
        is_incomplete = has_incomplete_state(dataset)
        if is_incomplete and replay is False:
            raise ConfigurationError(
                f"{type(dataset).__name__} has a shuffle buffer whose samples are not in its state,"
                " so a run that resumes from that state would lose them: remove replay=False."
            )
        self.dataset = dataset
        self.replay = is_incomplete if replay is None else replay
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.collate_fn = collate_fn
        self.seeding = seeding
        self.seed = seed
        self.epoch = 0
        """The epoch; set it before an iteration begins, because workers copy this object."""
        self.yields_sizes = False
        """``True`` to yield pairs of the number of samples and the batch; set it as the epoch."""
        self.rank = get_global_rank()

    def __iter__(self) -> "_Reader":
        return _Reader(self)

    @property
    def name(self) -> str:
        """The name of the dataset, for messages."""
        return getattr(self.dataset, "__name__", None) or type(self.dataset).__name__

    def process_seed(self, number: int, count: int) -> int:
        """Return the seed of the epoch in one of the processes of this rank that read."""
        return rng.derive_seed(self.seed, self.epoch, self.rank * count + number)

    def set_epoch(self) -> None:
        """Pass the epoch to the dataset, if it has ``set_epoch``."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch)

    def set_epoch_for_workers(self) -> None:
        """Pass the epoch to the dataset in the training process, before workers copy the dataset.

        Workers may not do it: a dataset of Hugging Face shares its epoch with them, and its
        ``set_epoch`` adds to the shared number, so two workers at once would add twice.
        """
        with own_streams(KeptStates()):
            if self.seeding != "none":
                rng.reseed_cpu_rngs(rng.derive_seed(self.process_seed(0, 1), 0))
            self.set_epoch()


class _Reader:
    """An iterator over the batches of a stream in one process, which knows its position."""

    def __init__(self, stream: StreamBatches) -> None:
        self._stream = stream
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self._sets_epoch = worker is None
        self._seed = stream.process_seed(number, count)
        self._samples: Iterator[Any] | None = None
        self._taken = 0
        self._ended = False
        self._kept = KeptStates()

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> Any:
        with (
            own_streams(self._kept) if self._stream.seeding != "none" else contextlib.nullcontext()
        ):
            samples = self._take()
            size = self._stream.batch_size
            is_short = size is not None and len(samples) < size
            is_over = not samples or (is_short and self._stream.drop_last)
            batch = None
            if not is_over:
                batch = self._stream.collate_fn(samples[0] if size is None else samples)
        if is_over:
            raise StopIteration
        if not self._stream.yields_sizes:
            return batch
        return count_samples(batch) if size is None else len(samples), batch

    def state_dict(self) -> dict[str, Any]:
        """Return the number of samples taken, and the states of dataset and iterator, if any."""
        state: dict[str, Any] = {"taken": self._taken, "ended": self._ended}
        if self._samples is not None:
            # Copied, because a dataset may return an object that it changes later.
            for name, part in self._stateful(self._samples).items():
                state[name] = copy.deepcopy(part.state_dict())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position by the saved states, or by skipping samples if none was saved."""
        self._ended = state["ended"]
        parts = set() if self._stream.replay else state.keys() & {"dataset", "iterator"}
        if state["taken"] == 0 or (self._ended and "dataset" not in parts):
            return
        with own_streams(self._kept):  # also without seeding: the interrupted run has drawn already
            self._begin()  # before the state is restored, because set_epoch may reset it
            if "dataset" in parts:
                self._stream.dataset.load_state_dict(state["dataset"])  # type: ignore[attr-defined]  # it has one
            if self._ended:  # the dataset may carry over to the next epoch
                self._taken = state["taken"]
                return
            samples = self._iterate()
            if "iterator" in parts:
                samples.load_state_dict(state["iterator"])  # type: ignore[attr-defined]  # it has one
            if parts:
                self._taken = state["taken"]
            while self._taken < state["taken"] and not self._ended:
                self._take()
        if self._taken != state["taken"]:
            raise CheckpointError(
                f"the stream {self._stream.name} ends after {self._taken}"
                f" samples, but the checkpoint was saved after {state['taken']} samples:"
                " restore the data that the run was started with, or start a new run."
            )

    def _take(self) -> list[Any]:
        """Return the samples of the next batch; fewer at the end of the stream."""
        seeding = self._stream.seeding
        if self._samples is None:
            self._begin()
        iterator = self._iterate() if self._samples is None else self._samples
        samples: list[Any] = []
        while len(samples) < (self._stream.batch_size or 1) and not self._ended:
            if seeding == "sample" or (seeding == "batch" and not samples):
                rng.reseed_cpu_rngs(rng.derive_seed(self._seed, self._taken + 1))
            try:
                samples.append(next(iterator))
                self._taken += 1
            except StopIteration:
                self._ended = True
        return samples

    def _begin(self) -> None:
        """Seed what the dataset draws before its first sample."""
        if self._stream.seeding != "none":
            rng.reseed_cpu_rngs(rng.derive_seed(self._seed, 0))
        if self._sets_epoch:
            self._stream.set_epoch()

    def _iterate(self) -> Iterator[Any]:
        self._samples = iter(self._stream.dataset)
        return self._samples

    def _stateful(self, samples: Any) -> dict[str, Any]:
        """Return the objects whose state counts, by their names in :meth:`state_dict`."""
        if self._stream.replay:
            return {}
        parts = {"dataset": self._stream.dataset, "iterator": samples}
        if samples is self._stream.dataset:
            del parts["dataset"]
        return {name: part for name, part in parts.items() if _has_state(part)}


def _has_state(part: object) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


class StreamPosition:
    """The position of a stream, which replaces the sampler of a map-style dataset.

    Workers, accumulation and plug-ins read ahead. So this object keeps the loader's state after
    each batch until training has consumed that batch.

    Args:
        loader: a loader that :func:`create_stream_loader` created.
        stream: the dataset of the loader.
    """

    def __init__(self, loader: DataLoader[Any], stream: StreamBatches) -> None:
        self._loader: Any = loader
        self._stream = stream
        self._behind: collections.deque[tuple[int, int, dict[str, Any]]] = collections.deque()

    def expect_read_ahead(self, is_expected: bool) -> None:
        """Say whether a plug-in may read more batches than training has consumed."""

    def read(self, state: TrainingState) -> Iterator[Any]:
        """Yield the batches of the current epoch that have not been consumed yet.

        Args:
            state: the progress of the run. Its ``dataset_iter`` is the number of consumed batches
                of the epoch, and increases while this method reads on.

        Raises:
            ConfigurationError: the epoch has no batch.
        """
        self._stream.epoch = state.global_epoch
        self._loader.generator.manual_seed(rng.seed_of_epoch(self._stream.seed, state.global_epoch))
        if state.dataset_iter == 0:
            self._behind.clear()
        number = state.dataset_iter
        try:
            for size, batch in self.counted():
                number += 1
                self._behind.append((number, size, self._loader.state_dict()))
                while self._behind[0][0] < state.dataset_iter:
                    self._behind.popleft()
                yield batch
        finally:
            self._loader.load_state_dict({})  # ends the workers
        if number == 0:
            raise ConfigurationError(
                f"the stream {self._stream.name} has no batch in epoch"
                f" {state.global_epoch}: return a new iterator from each call of __iter__."
            )

    def counted(self) -> Iterator[tuple[int, Any]]:
        """Yield the batches, each after its number of samples."""
        if self._loader.num_workers > 0:
            self._stream.set_epoch_for_workers()
        self._stream.yields_sizes = True
        try:
            yield from self._loader
        finally:
            self._stream.yields_sizes = False

    def size(self, number: int) -> int:
        """Return the number of samples in a batch that :meth:`read` has yielded.

        Args:
            number: the number of the batch in its epoch; batches before the last consumed one are
                forgotten.
        """
        return next(size for behind, size, _ in self._behind if behind == number + 1)

    def state_dict(self, consumed: int) -> dict[str, Any] | None:
        """Return the position after a batch of the current epoch.

        Between two epochs, only a dataset in the training process has a position: it may carry
        over to the next epoch. Workers end with their epoch, and so does their position.

        Args:
            consumed: the number of the batch; 0 between two epochs.

        Returns:
            The position; ``None`` if nothing carries over.
        """
        if consumed == 0:
            return self._between_epochs()
        loader_state = next(state for number, _, state in self._behind if number == consumed)
        return {**self._parameters(), "loader": loader_state}

    def load_state_dict(self, state: dict[str, Any], consumed: int) -> None:
        """Start the next iteration after a batch of the current epoch.

        Args:
            state: the result of :meth:`state_dict`.
            consumed: the number of the batch; 0 between two epochs.

        Raises:
            CheckpointError: a parameter that the position depends on has changed.
        """
        if consumed == 0:
            self._carry_over(state)
            return
        for name, value in self._parameters().items():
            if state.get(name, value) != value:  # older files have fewer
                raise CheckpointError(
                    f"the checkpoint was saved inside an epoch of a stream with"
                    f" {name}={state[name]!r}, but {name} is {value!r} now: pass"
                    f" {name}={state[name]!r} until the epoch is over, or start a new run."
                )
        self._behind.append((consumed, 0, state["loader"]))  # the size was used before the save
        self._loader.load_state_dict(state["loader"])

    def _parameters(self) -> dict[str, Any]:
        return {
            "num_workers": self._loader.num_workers,
            "batch_size": self._stream.batch_size,
            "random_seed": self._stream.seed,
            "seeding": self._stream.seeding,
        }

    def _between_epochs(self) -> dict[str, Any] | None:
        dataset: Any = self._stream.dataset
        if self._loader.num_workers > 0 or self._stream.replay or not _has_state(dataset):
            return None
        state = copy.deepcopy(dataset.state_dict())
        return {"between_epochs": {"type": type(dataset).__name__, "dataset": state}}

    def _carry_over(self, state: dict[str, Any]) -> None:
        saved, dataset = state["between_epochs"], self._stream.dataset
        if saved["type"] != type(dataset).__name__ or not _has_state(dataset):
            _logger.warning(
                "the checkpoint holds the position of the stream %s, but the training set is %s"
                " now: it starts from its beginning.",
                saved["type"],
                type(dataset).__name__,
            )
        elif not self._stream.replay:
            dataset.load_state_dict(saved["dataset"])  # type: ignore[attr-defined]  # it has one


def create_stream_loader(
    stream: StreamBatches, options: dict[str, Any]
) -> tuple[DataLoader[Any], StreamPosition]:
    """Create a loader of a stream, and the object that knows its position.

    Args:
        stream: the dataset that yields the batches.
        options: the arguments of the loader that concern its workers; each one has its own copy of
            the dataset.

    Raises:
        ConfigurationError: torchdata is not installed.
    """
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader  # an extra, and slow to import
    except ImportError as error:
        raise ConfigurationError(
            f"{type(stream.dataset).__name__} is an iterable-style dataset, and only torchdata can"
            " save its position: pip install 'helios-trainer[streaming]', or write a map-style"
            " dataset, with __getitem__ and __len__."
        ) from error
    with warnings.catch_warnings():
        # torchdata 0.11 calls a function that newer releases of PyTorch deprecate.
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")
        loader: DataLoader[Any] = StatefulDataLoader(
            stream,
            batch_size=None,  # the stream yields whole batches
            collate_fn=as_it_is,
            **options,
            generator=torch.Generator(),  # or an iterator would draw from training's
        )
    return loader, StreamPosition(loader, stream)
