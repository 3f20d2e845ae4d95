"""The parameters of plain loaders of PyTorch, which Helios replaces by loaders that can resume."""

import contextlib
from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from helios.core import rng
from helios.data.batch_samplers import ResumableBatchSampler
from helios.data.loader import DataLoaderParams
from helios.data.samplers import (
    ResumableSampler,
    ResumableSamplerType,
    ResumableWeightedSampler,
)

_ALIKE = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "persistent_workers",
)
"""The parameters that have the same name and meaning in both kinds of loaders."""


def is_plain(loader: object) -> bool:
    """Return whether a loader does only what its parameters say, and its samplers have lengths.

    A class with an ``__iter__`` of its own may do anything.
    """
    if not isinstance(loader, DataLoader):
        return False
    kind: Any = next(each for each in type(loader).__mro__ if "__iter__" in vars(each))
    is_known = kind is DataLoader or kind.__module__.startswith("torchdata.")
    if isinstance(loader.dataset, IterableDataset):
        return is_known
    return is_known and isinstance(loader.batch_sampler or loader.sampler, Sized)


def parameters_of(loader: DataLoader[Any], seed: int) -> DataLoaderParams:
    """Return parameters with which a loader of Helios chooses and loads samples alike.

    The orders are those of the loader's own generator, if it has one, and else of the run's seed.

    Args:
        loader: a plain loader.
        seed: the seed of the run, for samplers that draw from the global generators.
    """
    params: dict[str, Any] = {name: getattr(loader, name) for name in _ALIKE}
    params["prefetch_factor"] = loader.prefetch_factor if loader.num_workers else None
    if loader.collate_fn not in (default_collate, default_convert):
        params["collate_fn"] = loader.collate_fn
    if isinstance(loader.dataset, IterableDataset):
        params["batch_size"] = loader.batch_size
        params["drop_last"] = loader.drop_last
        return DataLoaderParams(**params)
    params["in_order"] = getattr(loader, "in_order", True)
    batches = loader.batch_sampler
    if batches is None:
        params["batch_size"] = None
        params.update(_order_of(loader.sampler, seed))
    elif type(batches) is BatchSampler and isinstance(batches.sampler, Sized):
        params["batch_size"], params["drop_last"] = batches.batch_size, batches.drop_last
        params.update(_order_of(batches.sampler, seed))
    elif isinstance(batches, ResumableBatchSampler):
        params["batch_sampler"] = batches
    else:
        params["batch_sampler"] = PlainBatchSampler(batches, seed)
    return DataLoaderParams(**params)


def _order_of(sampler: Any, seed: int) -> dict[str, Any]:
    """Return the parameters that choose the order of the samples."""
    own = getattr(sampler, "generator", None)
    own_seed = own.initial_seed() if isinstance(own, torch.Generator) else None
    if isinstance(sampler, ResumableSamplerType):
        return {"sampler": sampler}
    if type(sampler) is SequentialSampler:
        return {"shuffle": False}
    if type(sampler) is RandomSampler and not sampler.replacement:
        if sampler.num_samples == len(sampler.data_source):
            return {"shuffle": True, "random_seed": own_seed}
    elif type(sampler) is DistributedSampler:
        return {"shuffle": sampler.shuffle, "random_seed": sampler.seed}
    elif type(sampler) is WeightedRandomSampler:
        chosen = sampler.weights, sampler.num_samples, sampler.replacement
        drawn = ResumableWeightedSampler(*chosen, seed=seed if own_seed is None else own_seed)
        return {"sampler": drawn}
    return {"sampler": PlainSampler(sampler, seed)}


class PlainSampler(ResumableSampler):
    """The order of any sampler, drawn with generators that depend on seed and epoch only.

    Args:
        sampler: a sampler with a length.
        seed: the seed of the orders.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        super().__init__(sampler)
        self._sampler = sampler
        self._seed = seed

    def indices(self) -> list[int]:
        """Return the order of the epoch."""
        with _seeded(self._sampler, self._seed, self.epoch):
            return list(self._sampler)


class PlainBatchSampler(ResumableBatchSampler):
    """The batches of any sampler, drawn with generators that depend on seed and epoch only.

    Args:
        sampler: a sampler of batches, with a length.
        seed: the seed of the orders.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        super().__init__()
        self._sampler = sampler
        self._seed = seed

    def batches(self) -> list[list[int]]:
        """Return the batches of the epoch."""
        with _seeded(self._sampler, self._seed, self.epoch):
            return [list(batch) for batch in self._sampler]

    def __len__(self) -> int:
        return len(self._sampler)


@contextlib.contextmanager
def _seeded(sampler: Any, seed: int, epoch: int) -> Iterator[None]:
    """Seed the global generators, and those of a sampler and of the sampler in it."""
    chosen = rng.derive_seed(seed, epoch)
    with rng.preserved_cpu_rng_state():
        rng.reseed_cpu_rngs(chosen)
        for part in (sampler, getattr(sampler, "sampler", None)):
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(chosen)  # type: ignore[union-attr]  # it has one
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(epoch)  # type: ignore[union-attr]  # it has one
        yield
