"""The search for the largest batch size that fits into memory."""

from collections.abc import Iterable
from typing import Any

import torch

from helios.core import TrainingState, rules
from helios.data import DataModule
from helios.errors import ConfigurationError
from helios.finders.trial import Trials
from helios.model import Model
from helios.plugins import Plugin
from helios.trainer import Trainer

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of PyTorch if memory is exhausted."""


def find_batch_size(
    trainer: Trainer,
    model: Model,
    datamodule: DataModule,
    *,
    attribute: str = "batch_size",
    largest: int = 65536,
    steps: int = 3,
    refine: bool = False,
    plugins: Iterable[Any] | None = None,
) -> int:
    """Return the largest batch size with which a short training of copies fits into memory.

    The search begins with the present size and doubles it; if that one does not fit, it halves it.
    Model, data and generators stay as they are, so a run after the search equals a run without it.

    Args:
        trainer: the trainer for the later run.
        model: the model.
        datamodule: the data.
        attribute: the attribute of the data module that ``setup`` reads the size from.
        largest: the largest size to try.
        steps: the number of optimizer steps of each trial.
        refine: ``True`` to search between the largest power that fits and the next one, too.
        plugins: the plug-ins of the trials; by default, copies of those of the trainer that
            determine what a step computes, such as ``cuda``.

    Returns:
        The size. It is at most the number of samples in the training set.

    Raises:
        ConfigurationError: an argument is invalid, the objects cannot be copied, or the data module
            does not use the attribute.
        Exception: the error of a trial, unchanged, if the memory is not its cause, or if not even
            one sample fits.

    Example:
        .. code-block:: python

            data.batch_size = find_batch_size(trainer, model, data)
            trainer.fit(model, data)
    """
    given = {"attribute": attribute, "largest": largest, "steps": steps, "refine": refine}
    rules.check(given, _RULES, "find_batch_size")
    search = _Search(
        Trials(trainer, model, datamodule, plugins, "find_batch_size"), attribute, steps
    )
    start = _start(datamodule, attribute)
    fitting, failing = search.bounds(min(start, largest), largest)
    while refine and failing is not None and failing - fitting > 1:
        middle = (fitting + failing) // 2
        if search.fits(middle):
            fitting = middle
        else:
            failing = middle
    return min(fitting, search.most)


class _Search:
    """Tries sizes, and knows the number of samples that the data have."""

    def __init__(self, trials: Trials, attribute: str, steps: int) -> None:
        self._trials = trials
        self._attribute = attribute
        self._steps = steps
        self.most = 2**62
        self._error: BaseException | None = None

    def bounds(self, start: int, largest: int) -> tuple[int, int | None]:
        """Return the largest size that fits among doubles, and the next that does not, if any."""
        size, failing = start, None
        while not self.fits(size):
            failing = size
            if size == 1:
                assert self._error is not None, "fits() has set it"
                raise self._error
            size //= 2
        while failing is None and size < min(largest, self.most):
            double = min(2 * size, largest)
            if self.fits(double):
                size = double
            else:
                failing = double
        return size, failing

    def fits(self, size: int) -> bool:
        """Return whether a training with batches of this size fits into memory."""
        counter = _Counter()
        try:
            self._trials.run(
                self._steps, counter, {self._attribute: size}, [torch.OutOfMemoryError, MemoryError]
            )
        except (RuntimeError, MemoryError) as error:
            if not _is_memory(error):
                raise
            self._error = error.with_traceback(None)  # it holds the memory of the trial
            return False
        if counter.samples > size or (counter.samples < size and not counter.is_whole_epoch):
            raise ConfigurationError(
                f"find_batch_size() has set {self._attribute}={size} in a copy of the data module,"
                f" but its first batch has {counter.samples} samples: let setup() read"
                f" self.{self._attribute}, or pass attribute=... with another name."
            )
        if counter.samples < size:
            self.most = counter.samples
        return True


class _Counter(Plugin):
    """Counts the samples of the first batch."""

    def __init__(self) -> None:
        super().__init__("batch-counter")
        self.samples = 0
        self.is_whole_epoch = False

    def setup(self) -> None:
        """Do nothing; the plug-in has only one run."""

    def on_training_batch_start(self, batch: Any, samples: int, state: TrainingState) -> None:
        """Count the first batch."""
        if not self.samples:
            self.samples = samples
            self.is_whole_epoch = self.trainer.model.session.batches_per_epoch() == 1


def _start(datamodule: DataModule, attribute: str) -> int:
    size = getattr(datamodule, attribute, None)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigurationError(
            f"find_batch_size() reads {type(datamodule).__name__}.{attribute}, which is"
            f" {size!r}: set it to a whole number that setup() reads, or pass attribute=... with"
            " another name."
        )
    return size


def _is_memory(error: BaseException) -> bool:
    is_kind = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_kind or any(each in str(error) for each in _OUT_OF_MEMORY)


def _attribute(value: Any) -> str | None:
    is_name = isinstance(value, str) and value.isidentifier()
    return None if is_name else "write the name of an attribute of the data module."


_WHOLE = rules.whole("write a whole number from 1 up.", 1)
_RULES: dict[str, rules.Rule] = {
    "attribute": _attribute,
    "largest": _WHOLE,
    "steps": _WHOLE,
    "refine": rules.switch,
}
