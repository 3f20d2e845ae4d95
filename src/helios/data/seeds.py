"""The random numbers of samples: a function of seed, epoch and index.

So augmentation does not depend on the number of workers, their prefetching, the batch size, the
number of processes, or the batch at which a run was interrupted. The generators that training
draws from do not change.
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


Seeding = Literal["sample", "batch", "none"]
"""The moment when generators are seeded: before each sample, once per batch, or never."""


class SeededBatches(Dataset[Any]):
    """A dataset that loads and collates whole batches with seeded generators.

    The seed of a sample is :func:`helios.core.rng.derive_seed` of seed, epoch and index. The
    collate function draws from the generators as the last sample left them, so its random numbers
    are determined, too. With ``"batch"``, only the first sample is seeded, and the other samples
    draw from the same generators after it.

    Args:
        dataset: the user's map-style dataset.
        collate_fn: the function that makes a batch of a list of samples.
        seeding: ``"sample"`` or ``"batch"``.
        seed: the seed of the loader.
    """

    def __init__(
        self, dataset: Dataset[Any], collate_fn: Callable[..., Any], seeding: Seeding, seed: int
    ) -> None:
        self.dataset = dataset
        self.epoch = 0
        """The epoch; set it before an iteration begins, because workers copy this object."""
        self._collate_fn = collate_fn
        self._seeding = seeding
        self.seed = seed
        # PyTorch's loader calls it to load many samples at once, if the dataset has it.
        self._fetch: Callable[[list[Any]], Any] | None = getattr(dataset, "__getitems__", None)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitems__(self, indices: list[Any]) -> Any:
        """Return the batch of these samples. PyTorch's loader calls this method."""
        base = rng.derive_seed(self.seed, self.epoch)
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
                f"the sampler of {type(self.dataset).__name__} yields {index!r}, but a seed needs a"
                " whole number: yield whole numbers, or pass seeding='none'."
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
                " for one index rather than a list of one sample, so Helios cannot seed each"
                " sample: pass seeding='batch'."
            )
        return samples[0]

    def _load_all(self, indices: list[Any]) -> Any:
        if self._fetch is not None:
            return self._fetch(indices)
        return [self.dataset[index] for index in indices]


def own_streams() -> contextlib.AbstractContextManager[None]:
    """Restore the generators at the end of the block, if it runs in the training process."""
    if get_worker_info() is None:
        return rng.preserved_cpu_rng_state()
    return contextlib.nullcontext()


def as_it_is(batch: Any) -> Any:
    """Return an already collated batch; the ``collate_fn`` of seeded loaders."""
    return batch
