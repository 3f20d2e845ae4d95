"""The random numbers of samples: a function of seed, epoch and index.

So augmentation does not depend on the number of workers, their prefetching, the batch size, the
number of processes, or the batch at which a run was interrupted. The generators that training
draws from do not change.
"""

import contextlib
import signal
from collections.abc import Callable, Collection, Iterator, Sized
from typing import Any, Literal, cast

from torch.utils.data import Dataset, get_worker_info

from helios.core import rng
from helios.core.generators import CPU_GENERATORS, STATE_READS, CPUGenerator, KeptStates
from helios.data.epochs import IndicesOfEpoch
from helios.errors import ConfigurationError

_SIGNALS = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1", "SIGINT"))


def leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore, in a worker process, the signals that the training process handles.

    A scheduler that stops a job signals all of its processes. If a worker died of the signal, the
    training process would fail before it has saved a checkpoint. The training process ends its
    workers itself.

    Args:
        worker: the number of the worker.
    """
    for number in _SIGNALS:
        handler = signal.getsignal(number)  # a forked worker inherits it
        if callable(handler) and handler is not signal.default_int_handler:
            signal.signal(number, signal.SIG_IGN)


class WorkerStart:
    """The start of a worker: :func:`leave_signals_to_the_trainer`, then the user's function.

    Args:
        worker_init_fn: the user's function.
    """

    def __init__(self, worker_init_fn: Callable[[int], Any] | None) -> None:
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker: int) -> None:
        """Start the worker of this number."""
        leave_signals_to_the_trainer(worker)
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker)


Seeding = Literal["sample", "batch", "none"]
"""The moment when generators are seeded: before each sample, once per batch, or never."""


class _Draws:
    """The generators that samples draw from, that the collate function adds, and the others."""

    def __init__(
        self, samples: Collection[CPUGenerator], collate_fn: Collection[CPUGenerator]
    ) -> None:
        def only(wanted: Callable[[CPUGenerator], bool]) -> tuple[CPUGenerator, ...]:
            return tuple(each for each in CPU_GENERATORS if wanted(each))

        self.samples = only(lambda each: each in samples)
        self.collate_fn = only(lambda each: each in collate_fn and each not in samples)
        self.seeded = self.samples + self.collate_fn
        self.others = only(lambda each: each not in self.seeded)
        self.not_of_samples = self.collate_fn + self.others

    def united_with(self, other: "_Draws") -> "_Draws":
        return _Draws(self.samples + other.samples, self.collate_fn + other.collate_fn)


class SeededBatches(Dataset[Any]):
    """A dataset that loads and collates whole batches with seeded generators.

    The seed of a sample is :func:`helios.core.rng.derive_seed` of seed, epoch and index. The
    collate function draws from the generators as the last sample left them, so its random numbers
    are determined, too. With ``"batch"``, only the first sample is seeded, and the other samples
    draw from the same generators after it.

    Seeding can take longer than loading, so this class seeds only the generators that somebody
    draws from. It loads the first batch of a process with all of them seeded, and sees who draws
    from which. After each later batch, it checks that the others have not moved. If one has, it
    loads the batch once more in the way of the first one.

    Args:
        dataset: the user's map-style dataset.
        collate_fn: the function that makes a batch of a list of samples; of one sample, for a
            loader without a batch size.
        seeding: ``"sample"`` or ``"batch"``.
        seed: the seed of the loader.
    """

    def __init__(
        self, dataset: Dataset[Any], collate_fn: Callable[..., Any], seeding: Seeding, seed: int
    ) -> None:
        self.dataset = dataset
        self.epoch = 0
        """The epoch of indices that do not bring theirs; set it before an iteration begins."""
        self._collate_fn = collate_fn
        self._seeding = seeding
        self.seed = seed
        # PyTorch's loader calls it to load many samples at once, if the dataset has it.
        self._fetch: Callable[[list[Any]], Any] | None = getattr(dataset, "__getitems__", None)
        self._kept = KeptStates()
        self._draws: _Draws | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_draws": None}  # another process sees for itself

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitems__(self, indices: list[Any]) -> Any:
        """Return the batch of these samples. PyTorch's loader calls this method."""
        return self._load(indices, self._collate_fn)

    def __getitem__(self, index: Any) -> Any:
        """Return one sample. PyTorch's loader calls this method if it has no batch size."""
        indices = index if isinstance(index, IndicesOfEpoch) else [index]
        return self._load(indices, lambda samples: self._collate_fn(samples[0]))

    def _load(self, indices: list[Any], collate_fn: Callable[..., Any]) -> Any:
        base = rng.derive_seed(self.seed, getattr(indices, "epoch", self.epoch))
        in_worker, draws, touched = get_worker_info() is not None, self._draws, CPU_GENERATORS
        counts_reads = STATE_READS.begin()
        unsure = self._kept.keep(
            draws.not_of_samples if in_worker and draws is not None else CPU_GENERATORS
        )
        try:
            if draws is not None:
                if unsure:
                    draws = draws.united_with(_Draws(unsure, ()))
                loaded = self._load_by(draws, indices, base, collate_fn)
                if loaded is not None:
                    touched = draws.seeded
                    return loaded[0]
            return self._load_and_watch(indices, base, collate_fn)
        finally:
            if counts_reads:
                STATE_READS.end()
            if not in_worker:
                self._kept.restore(touched)

    def _load_by(
        self, draws: _Draws, indices: list[Any], base: int, collate_fn: Callable[..., Any]
    ) -> tuple[Any] | None:
        """Return the batch, with only some generators seeded; ``None`` if another one has moved."""
        reads, unproven = STATE_READS.count, draws.not_of_samples
        try:
            samples = self._load_samples(draws.samples, indices, base)
            if draws.collate_fn:
                if self._kept.have_moved(draws.collate_fn):
                    return None
                self._seed_collate_fn(draws.collate_fn, indices, base)
            unproven = draws.others
            batch = collate_fn(samples)
        except Exception:
            if STATE_READS.count == reads and not self._kept.have_moved(unproven):
                raise
            return None
        if STATE_READS.count != reads or self._kept.have_moved(unproven):
            return None
        return (batch,)

    def _load_and_watch(self, indices: list[Any], base: int, collate_fn: Callable[..., Any]) -> Any:
        """Return the batch, with all generators seeded, and see who draws from which."""
        reads, by_samples = STATE_READS.count, set[CPUGenerator]()
        samples: Any = []
        if self._seeding == "batch":
            self._seed(CPU_GENERATORS, base, indices[0])
            watched = _Marks()
            samples = self._load_all(indices)
            by_samples = watched.moved()
        else:
            for index in indices:
                self._seed(CPU_GENERATORS, base, index)
                watched = _Marks()
                samples += self._load_all([index])
                by_samples |= watched.moved()
            if self._fetch is not None and not by_samples and STATE_READS.count == reads:
                together = self._load_all(indices)  # as later batches are loaded
                by_samples = watched.moved()
                if by_samples:
                    self._seed_collate_fn(CPU_GENERATORS, indices, base)
                else:
                    samples = together
        watched = _Marks()
        batch = collate_fn(samples)
        by_all = CPU_GENERATORS if STATE_READS.count != reads else by_samples
        draws = _Draws(by_all, watched.moved())
        self._draws = draws if self._draws is None else self._draws.united_with(draws)
        return batch

    def _load_samples(
        self, generators: tuple[CPUGenerator, ...], indices: list[Any], base: int
    ) -> Any:
        if self._seeding == "batch":
            self._seed(generators, base, indices[0])
            return self._load_all(indices)
        if not generators:
            return self._load_all(indices)
        samples: list[Any] = []
        reseed, *others = [generator.seeder for generator in generators]
        dataset, fetches = self.dataset, self._fetch is not None
        for index, seed in zip(indices, self._derive_seeds(base, indices), strict=True):
            reseed(seed)  # mostly the only one, and this is called for each sample
            for reseed_other in others:
                reseed_other(seed)
            samples.append(self._load_all([index])[0] if fetches else dataset[index])
        return samples

    def _load_all(self, indices: list[Any]) -> Any:
        if self._fetch is None:
            return [self.dataset[index] for index in indices]
        samples = self._fetch(indices)
        if self._seeding == "batch":
            return samples
        if not isinstance(samples, list | tuple) or len(samples) != len(indices):
            raise ConfigurationError(
                f"{type(self.dataset).__name__}.__getitems__ returned a {type(samples).__name__}"
                f" for {len(indices)} indices rather than a list of as many samples, so Helios"
                " cannot seed each sample: pass seeding='batch'."
            )
        return list(samples)

    def _seed_collate_fn(
        self, generators: tuple[CPUGenerator, ...], indices: list[Any], base: int
    ) -> None:
        """Seed generators from which no sample has drawn, as the last seed of a sample does."""
        self._seed(generators, base, indices[0 if self._seeding == "batch" else -1])

    def _seed(self, generators: tuple[CPUGenerator, ...], base: int, index: Any) -> None:
        (seed,) = self._derive_seeds(base, [index])
        for generator in generators:
            generator.seed(seed)

    def _derive_seeds(self, base: int, indices: list[Any]) -> list[int]:
        try:
            return rng.derive_seeds(base, indices)
        except TypeError:
            wrong = next(each for each in indices if not hasattr(each, "__index__"))
            raise ConfigurationError(
                f"the sampler of {type(self.dataset).__name__} yields {wrong!r}, but a seed needs a"
                " whole number: yield whole numbers, or pass seeding='none'."
            ) from None


class _Marks:
    """The marks of all generators at a moment."""

    def __init__(self) -> None:
        self._marks = [generator.mark() for generator in CPU_GENERATORS]

    def moved(self) -> set[CPUGenerator]:
        marks = zip(CPU_GENERATORS, self._marks, strict=True)
        return {generator for generator, mark in marks if generator.mark() != mark}


@contextlib.contextmanager
def own_streams(kept: KeptStates) -> Iterator[None]:
    """Restore the generators at the end of the block, if it runs in the training process.

    Args:
        kept: the states that the last such block has kept.
    """
    if get_worker_info() is not None:
        yield
        return
    kept.keep()
    try:
        yield
    finally:
        kept.restore()


def as_it_is(batch: Any) -> Any:
    """Return an already collated batch; the ``collate_fn`` of seeded loaders."""
    return batch
