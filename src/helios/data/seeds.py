"""Random numbers of samples: a function of seed, epoch and index, wherever a sample is loaded.

So augmentation does not depend on the number of workers, on how far they read ahead, on the size
of batches, on the number of processes, or on where a run was cut. The training stream is left as it
was found.
"""

import contextlib
import operator
import signal
from collections.abc import Callable, Sized
from typing import Any, Literal, cast

from torch.utils.data import Dataset, get_worker_info

from helios.core import rng
from helios.errors import ConfigurationError

_SIGNALS = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1", "SIGINT"))


def leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore, in a worker process, the signals that the training process has a handler for.

    Whoever stops a job signals all of its processes. A worker that died of it would end the
    training process before that has saved a checkpoint; it ends its workers itself.

    Args:
        worker: the number of the worker.
    """
    for number in _SIGNALS:
        handler = signal.getsignal(number)  # inherited where workers are forked
        if callable(handler) and handler is not signal.default_int_handler:
            signal.signal(number, signal.SIG_IGN)


Seeding = Literal["sample", "batch", "none"]
"""When the generators are seeded: before each sample, once a batch, or not at all."""


class SeededBatches(Dataset[Any]):
    """What a loader fetches batches from: loads and collates them with seeded generators.

    A sample is seeded by :func:`helios.core.rng.derive_seed` of seed, epoch and index. Collating
    goes on with the numbers of the last sample, so it is determined, too. With ``"batch"``, only
    the first sample is seeded, and the others go on with its numbers.

    Args:
        dataset: the user's map-style dataset.
        collate_fn: makes a batch of a list of samples.
        seeding: ``"sample"`` or ``"batch"``.
        seed: the seed of the run.
    """

    def __init__(
        self, dataset: Dataset[Any], collate_fn: Callable[..., Any], seeding: Seeding, seed: int
    ) -> None:
        self.dataset = dataset
        self.epoch = 0
        """Set before an iteration begins: worker processes have a copy of this object."""
        self._collate_fn = collate_fn
        self._seeding = seeding
        self._seed = seed
        # Where a dataset can load many samples at once, PyTorch's loader asks it for all of them.
        self._fetch: Callable[[list[Any]], Any] | None = getattr(dataset, "__getitems__", None)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitems__(self, indices: list[Any]) -> Any:
        """Return the batch of these samples; PyTorch's loader calls it where it exists."""
        base = rng.derive_seed(self._seed, self.epoch)
        with own_streams():
            if self._seeding == "sample":
                samples = [self._load_one(index, base) for index in indices]
            else:
                self._reseed(base, indices[0])
                samples = self._load_all(indices)
            return self._collate_fn(samples)

    def _reseed(self, base: int, index: Any) -> None:
        try:
            seed = rng.derive_seed(base, operator.index(index))
        except TypeError:
            raise ConfigurationError(
                f"the sampler of {type(self.dataset).__name__} yields {index!r}, from which no seed"
                " can be made: let it yield whole numbers, or pass seeding='none'."
            ) from None
        rng.reseed_cpu_rngs(seed)

    def _load_one(self, index: Any, base: int) -> Any:
        self._reseed(base, index)
        if self._fetch is None:
            return self.dataset[index]
        samples = self._fetch([index])
        if not isinstance(samples, list | tuple) or len(samples) != 1:
            raise ConfigurationError(
                f"{type(self.dataset).__name__}.__getitems__ returned a {type(samples).__name__}"
                " for one index rather than a list of one sample, so samples cannot be seeded one"
                " by one: pass seeding='batch'."
            )
        return samples[0]

    def _load_all(self, indices: list[Any]) -> Any:
        if self._fetch is not None:
            return self._fetch(indices)
        return [self.dataset[index] for index in indices]


def own_streams() -> contextlib.AbstractContextManager[None]:
    """Keep the training stream as it is, where samples are loaded in the training process."""
    if get_worker_info() is None:
        return rng.preserved_cpu_rng_state()
    return contextlib.nullcontext()


def as_it_is(batch: Any) -> Any:
    """Return a batch that is collated already; the ``collate_fn`` of seeded loaders."""
    return batch
