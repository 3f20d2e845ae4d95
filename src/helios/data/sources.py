"""Sources: batches that come from no dataset, such as own sampling or reinforcement learning.

A source is an iterable of batches, or a function that returns an iterator over them. The training
process reads it, one batch at a time, so that a batch may depend on the weights of the model. An
iterable may have a state; otherwise, a resumed run reads the batches of its epoch again.
"""

import hashlib
import logging
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from helios.core.rng import preserved_rng_state
from helios.data.seeds import as_it_is
from helios.data.streams import StreamBatches, StreamPosition
from helios.errors import CheckpointError, ConfigurationError

_logger = logging.getLogger(__name__)


def is_source(batches: object) -> bool:
    """Return whether an object is a source of batches, and not a dataset of samples."""
    if isinstance(batches, Dataset | type) or hasattr(batches, "__getitem__"):
        return False
    return hasattr(batches, "__iter__") or callable(batches)


def require_source(batches: object, params: Any) -> None:
    """Check a source with the parameters of its loader; accept everything else.

    Args:
        batches: a dataset or a source.
        params: the ``DataLoaderParams``. Their ``batch_size`` becomes ``None``.

    Raises:
        ConfigurationError: the source cannot be read for each epoch, or a parameter is for
            datasets.
    """
    if not is_source(batches):
        return
    kind = type(batches).__name__
    has_state = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
    if hasattr(batches, "__next__") and not has_state:
        what = "generator" if isinstance(batches, types.GeneratorType) else "iterator"
        raise ConfigurationError(
            f"the {what} {getattr(batches, '__name__', kind)} can be read only once, but each epoch"
            " and each resumed run reads its batches from the beginning: pass the function that"
            " returns it, without calling it, or an object with __iter__()."
        )
    if params.batch_size == 1:  # the default
        params.batch_size = None
    for name in ("batch_size", "shuffle", "num_workers", "drop_last", "sampler", "batch_sampler"):
        if getattr(params, name):
            raise ConfigurationError(
                f"{name}={getattr(params, name)!r} is for datasets, but {_name(batches)} is a"
                f" source, which yields whole batches in the training process: remove {name}, or"
                " write a Dataset with __getitem__() and __len__()."
            )


class _Function:
    """The batches that a function returns, from their beginning for each iteration."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.__name__ = _name(function)
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return iter(self._function())


class SourceLoader:
    """A loader that reads a source in the training process, one batch at a time.

    Args:
        stream: the batches of the source.

    Attributes:
        dataset: the batches of the source.
        count: the number of batches that were read in this epoch.
        keeps_states: ``True`` to copy the state after each batch, because a plug-in reads ahead.
    """

    num_workers = 0

    def __init__(self, stream: StreamBatches) -> None:
        self.dataset = stream
        self.generator = torch.Generator()
        self.count = 0
        self.keeps_states = False
        self._restored: dict[str, Any] | None = None
        self._reader: Any = None
        self._newest: Any = None

    def __iter__(self) -> Iterator[Any]:
        self._reader, restored = iter(self.dataset), self._restored
        self._restored, self.count = None, 0
        if restored is not None:
            with preserved_rng_state():  # of a GPU, too, from which a source may draw
                self._restore(restored)
        for batch in self._reader:
            self._newest, self.count = batch, self.count + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the newest batch; if nobody reads ahead, nothing."""
        return self.complete_state() if self.keeps_states else {}

    def complete_state(self) -> dict[str, Any]:
        """Return the state after the newest batch; without a state, a digest of that batch."""
        state: dict[str, Any] = self._reader.state_dict()
        if not _has_position(state):
            state["digest"] = digest(self._newest)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at a saved state; with an empty one, at the beginning."""
        self._restored = state or None

    def _restore(self, state: dict[str, Any]) -> None:
        self.count = state["taken"]
        if _has_position(state) or state["ended"]:
            self._reader.load_state_dict(state)
            return
        name = self.dataset.name
        _logger.info(
            "%s has no state_dict, so this run reads the %d batches of the epoch before the"
            " checkpoint again.",
            name,
            self.count,
        )
        for number in range(self.count):
            self._newest = next(self._reader, None)
            if self._newest is None:
                raise CheckpointError(
                    f"the source {name} ends after {number} batches, but the checkpoint was saved"
                    f" after {self.count} batches: restore what the run was started with, or start"
                    " a new run."
                )
        if state.get("digest", "") not in ("", digest(self._newest)):
            _logger.warning(
                "this run does not resume exactly: batch %d of %s, read again, is not the one from"
                " before the checkpoint. Give the source state_dict() and load_state_dict(), or"
                " let its batches depend only on the global random number generators. If"
                " train_step changes a batch in place, ignore this.",
                self.count,
                name,
            )


def _has_position(state: dict[str, Any]) -> bool:
    return "dataset" in state or "iterator" in state


class SourcePosition(StreamPosition):
    """The position of a source. Its state is taken when a checkpoint is saved, not for each batch.

    Args:
        loader: the loader of the source.
    """

    def __init__(self, loader: SourceLoader) -> None:
        super().__init__(loader, loader.dataset)  # type: ignore[arg-type]  # it is used like one
        self._source = loader

    def expect_read_ahead(self, is_expected: bool) -> None:
        """Say whether a plug-in may read more batches than training has consumed."""
        self._source.keeps_states = is_expected

    def state_dict(self, consumed: int) -> dict[str, Any] | None:
        """Return the position after a batch of the current epoch; see the base class."""
        position = super().state_dict(consumed)
        if position is not None and position.get("loader") == {}:
            is_newest = self._source.count == consumed
            read_again = {"taken": consumed, "ended": False}
            position["loader"] = self._source.complete_state() if is_newest else read_again
        return position


def create_source_loader(
    batches: Any, params: Any, seed: int
) -> tuple[DataLoader[Any], StreamPosition]:
    """Create a loader of a source, and the object that knows its position.

    Args:
        batches: the source.
        params: the ``DataLoaderParams`` of the loader.
        seed: the seed of the loader.
    """
    require_source(batches, params)
    iterable: Any = batches if hasattr(batches, "__iter__") else _Function(batches)
    stream = StreamBatches(
        iterable, None, False, params.collate_fn or as_it_is, params.seeding, seed, params.replay
    )
    loader = SourceLoader(stream)
    return loader, SourcePosition(loader)  # type: ignore[return-value]  # it is used like one


def digest(batch: Any) -> str:
    """Return a text that differs if the numbers of a batch differ."""
    found = hashlib.sha256()
    for part in _numbers(batch):
        found.update(part)
    return found.hexdigest()[:16]


def _numbers(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield repr((value.dtype, tuple(value.shape))).encode()
        if value.layout is torch.strided and value.numel():
            flat = value.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float | str | bytes):
        yield repr(value).encode()


def _name(batches: Any) -> str:
    return getattr(batches, "__name__", None) or type(batches).__name__
