"""Checks of the parameters that a ``DataLoader`` takes for its batches and its workers."""

from typing import TYPE_CHECKING

from helios.errors import ConfigurationError

if TYPE_CHECKING:
    from helios.data.loader import DataLoaderParams


def check_batches(params: "DataLoaderParams") -> None:
    """Refuse parameters that a batch sampler, or a loader without a batch size, would ignore."""
    if params.batch_sampler is not None:
        ignored = {
            "batch_size": params.batch_size != 1,
            "shuffle": params.shuffle,
            "sampler": params.sampler is not None,
            "drop_last": params.drop_last,
        }
        names = [name for name, is_given in ignored.items() if is_given]
        if names:
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
    given = {
        "persistent_workers": params.persistent_workers,
        "timeout": params.timeout > 0,
        "multiprocessing_context": params.multiprocessing_context is not None,
    }
    for name, is_given in given.items():
        if is_given:
            raise ConfigurationError(
                f"{name}={getattr(params, name)!r} without workers: pass num_workers, too, or"
                f" remove {name}."
            )
