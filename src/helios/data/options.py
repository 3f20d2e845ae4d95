"""Checks of the parameters that a ``DataLoader`` takes for its batches and its workers."""

import dataclasses
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from helios.errors import ConfigurationError

if TYPE_CHECKING:
    from helios.data.loader import DataLoaderParams


def check_batches(params: "DataLoaderParams") -> None:
    """Refuse parameters that a batch sampler, or a loader without a batch size, would ignore."""
    names = _given(params, "batch_size", "shuffle", "sampler", "drop_last")
    if params.is_distributed and "drop_last" in names:
        names.remove("drop_last")  # it drops batches that not every process has
    if params.batch_sampler is not None and names:
        raise ConfigurationError(
            f"batch_sampler={type(params.batch_sampler).__name__}(...) chooses whole batches:"
            f" remove {', '.join(names)}."
        )
    if params.batch_size is None and params.drop_last:
        raise ConfigurationError(
            "drop_last=True with batch_size=None: without a batch size, each sample is a batch, so"
            " none is short. Remove drop_last."
        )


def check_workers(params: "DataLoaderParams") -> None:
    """Refuse parameters of worker processes if a loader has no workers."""
    if params.num_workers > 0:
        return
    for name in _given(params, "persistent_workers", "timeout", "multiprocessing_context"):
        raise ConfigurationError(
            f"{name}={getattr(params, name)!r} without workers: pass num_workers, too, or"
            f" remove {name}."
        )


def check_stream(dataset: IterableDataset[Any], params: "DataLoaderParams") -> None:
    """Refuse parameters that an iterable-style dataset would ignore."""
    kind = type(dataset).__name__
    for name in _given(params, "shuffle", "sampler", "batch_sampler"):
        raise ConfigurationError(
            f"{kind} is an iterable-style dataset, which chooses the order of its samples itself:"
            f" remove {name}, and shuffle in its __iter__."
        )
    for name in _given(params, "persistent_workers", "in_order"):
        raise ConfigurationError(
            f"{name}={getattr(params, name)} is for map-style datasets, but {kind} is an"
            f" iterable-style one, whose workers know its position: remove {name}."
        )


def _given(params: "DataLoaderParams", *names: str) -> list[str]:
    """Return those of these parameters that do not have their default."""
    defaults = {field.name: field.default for field in dataclasses.fields(params)}
    return [name for name in names if getattr(params, name) != defaults[name]]
