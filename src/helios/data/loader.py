"""Functions that create a data loader from a dataset and its parameters."""

import dataclasses
from collections.abc import Callable, Sized
from multiprocessing.context import BaseContext
from typing import Any, Self, cast, get_args

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    default_collate,
    default_convert,
)

from helios.core import Registry, rules
from helios.core.rng import DEFAULT_SEED, seed_of_epoch
from helios.data.batch_samplers import ResumableBatchSampler
from helios.data.epochs import EpochSampler
from helios.data.options import check_batches, check_stream, check_workers
from helios.data.parameter_rules import RULES, SEED_RULE
from helios.data.rank_shares import BatchShare, share_samples
from helios.data.reader import reading_rank
from helios.data.samplers import (
    ResumableRandomSampler,
    ResumableSampler,
    ResumableSamplerType,
    ResumableSequentialSampler,
)
from helios.data.seeds import SeededBatches, Seeding, WorkerStart, as_it_is
from helios.data.sources import create_source_loader, is_source
from helios.data.streams import StreamBatches, StreamPosition, create_stream_loader
from helios.errors import ConfigurationError

COLLATE_FN_REGISTRY = Registry("collate function")
"""The registry of collate functions; holds PyTorch's ``default_collate``."""
COLLATE_FN_REGISTRY.register(default_collate)


def create_collate_fn(type_name: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Return a registered collate function, or an instance of a registered class.

    Args:
        type_name: the name of the function or class.
        args: positional arguments of the class.
        kwargs: keyword arguments of the class.
    """
    registered: Callable[..., Any] = COLLATE_FN_REGISTRY.get(type_name)
    if isinstance(registered, type):
        return cast(Callable[..., Any], registered(*args, **kwargs))
    return registered


@dataclasses.dataclass
class DataLoaderParams:
    """The parameters of a data loader.

    Attributes:
        random_seed: the seed for the order of the samples, from 0 to 2**64 - 1; the trainer's by
            default.
        batch_size: the number of samples per batch and process; ``None`` if each sample of the
            dataset is a batch already, as for PyTorch's ``DataLoader``.
        shuffle: ``True`` to draw a new order for each epoch.
        num_workers: the number of processes that load samples; with 0, the training process loads
            them.
        pin_memory: ``True`` to load into page-locked memory; no effect without CUDA.
        drop_last: ``True`` to skip a last batch that is not full.
        is_distributed: ``True`` to share the samples among processes, ``False`` to let each process
            read all of them. The trainer sets it.
        sampler: a resumable sampler that replaces the one that ``shuffle`` chooses.
        batch_sampler: a :class:`~helios.data.ResumableBatchSampler`, which chooses whole batches;
            it replaces ``batch_size``, ``shuffle``, ``sampler`` and ``drop_last``.
        collate_fn: the function that makes a batch of a list of samples; PyTorch's by default.
        seeding: the moment when Python's, NumPy's and PyTorch's generators are seeded, by seed,
            epoch and index. ``"sample"`` seeds them before each sample. ``"batch"`` seeds them
            only before the first sample of a batch; this costs less, but the random numbers then
            depend on the batch size. ``"none"`` is for samples that draw no random numbers.
        prefetch_factor: the number of batches that each worker reads ahead; PyTorch's default by
            default.
        replay: for a stream: ``True`` if a resumed run reads the consumed samples of its epoch
            again, although the dataset has a ``state_dict``; ``False`` if it trusts that state.
            By default, it trusts each state but those that are known to be incomplete.
        persistent_workers: ``True`` to keep the workers from one epoch to the next.
        timeout: the number of seconds to wait for a batch of a worker; 0 to wait for ever.
        multiprocessing_context: the way to start workers: ``"fork"``, ``"spawn"``,
            ``"forkserver"``, or a context of :mod:`multiprocessing`.
        worker_init_fn: a function to call at the start of each worker, with its number.
        in_order: ``False`` to take each batch as soon as a worker has loaded it. A resumed run
            may then repeat some batches of its epoch and skip others.
    """

    random_seed: int | None = None
    batch_size: int | None = 1
    shuffle: bool = False
    num_workers: int = 0
    pin_memory: bool = True
    drop_last: bool = False
    is_distributed: bool | None = None
    sampler: ResumableSamplerType | None = None
    collate_fn: Callable[..., Any] | None = None
    seeding: Seeding = "sample"
    prefetch_factor: int | None = None
    replay: bool | None = None
    batch_sampler: ResumableBatchSampler | None = None
    persistent_workers: bool = False
    timeout: float = 0
    multiprocessing_context: str | BaseContext | None = None
    worker_init_fn: Callable[[int], Any] | None = None
    in_order: bool = True

    def __post_init__(self) -> None:
        """Check the kind of each parameter.

        Raises:
            ConfigurationError: a parameter is wrong; the message says what to write.
            TypeError: the sampler is not resumable.
        """
        rules.check(self.to_dict(), RULES)
        rules.check(self.to_dict(), SEED_RULE, of="DataLoaderParams")  # a trainer has one, too
        if self.sampler is not None:
            _check_resumable(self.sampler)
        if self.batch_sampler is not None:
            _check_resumable_batches(self.batch_sampler)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> Self:
        """Create parameters from a dictionary; unknown keys and samplers are ignored."""
        known = {field.name for field in dataclasses.fields(cls)} - {"sampler", "batch_sampler"}
        return cls(**{key: value for key, value in params.items() if key in known})


def create_dataloader(
    dataset: Any, params: DataLoaderParams
) -> tuple[DataLoader[Any], ResumableSamplerType | ResumableBatchSampler | StreamPosition]:
    """Create a data loader that can start in the middle of an epoch.

    Args:
        dataset: a map-style dataset, an iterable-style one, here called a stream, or a source of
            batches.
        params: the parameters of the loader.

    Returns:
        The loader, and the object that knows its position: its sampler, or a stream's position.

    Raises:
        ConfigurationError: the dataset is empty, a parameter is invalid, or the dataset is a
            stream and torchdata is not installed.
        TypeError: ``params.sampler`` or ``params.batch_sampler`` is not resumable.
    """
    if is_source(dataset):
        return create_source_loader(dataset, params, _seed(params))
    _check(params)
    _check_replay(dataset, params.replay)
    collate_fn = params.collate_fn
    if collate_fn is None:
        collate_fn = default_convert if params.batch_size is None else default_collate
    # What both kinds of loaders take as PyTorch's do.
    options: dict[str, Any] = {
        "num_workers": params.num_workers,
        "pin_memory": params.pin_memory and torch.cuda.is_available(),
        "prefetch_factor": params.prefetch_factor,
        "timeout": params.timeout,
        "multiprocessing_context": params.multiprocessing_context,
        "worker_init_fn": WorkerStart(params.worker_init_fn),
    }
    if isinstance(dataset, IterableDataset):
        check_stream(dataset, params)
        stream = StreamBatches(
            dataset,
            params.batch_size,
            params.drop_last,
            collate_fn,
            params.seeding,
            _seed(params),
            params.replay,
        )
        return create_stream_loader(stream, options)
    if len(cast(Sized, dataset)) == 0:
        raise ConfigurationError(
            f"the dataset {type(dataset).__name__} is empty: give it at least one sample."
        )
    sampler: ResumableSamplerType | ResumableBatchSampler
    rank, ranks = reading_rank()
    is_shared = bool(params.is_distributed) and ranks > 1
    if params.batch_sampler is not None:
        sampler = params.batch_sampler
        _check_resumable_batches(sampler)
        if is_shared:
            sampler = BatchShare(sampler, rank, ranks, params.drop_last)
    else:
        sampler = params.sampler or _default_sampler(dataset, params)
        _check_resumable(sampler)
        if is_shared:
            sampler = share_samples(sampler, rank, ranks, params.drop_last)
        sampler.batch_size = params.batch_size or 1  # its start_iter counts batches of this size
    if params.seeding != "none":
        dataset = SeededBatches(dataset, collate_fn, params.seeding, _seed(params))
        collate_fn = as_it_is
    loader = DataLoader(
        dataset,
        **_order(sampler, params),
        **options,
        collate_fn=collate_fn,
        # Its own generator, because the loader's iterators must not draw from training's.
        generator=torch.Generator().manual_seed(_seed(params)),
        persistent_workers=params.persistent_workers,
        in_order=params.in_order,
    )
    return loader, sampler


def _order(
    sampler: ResumableSamplerType | ResumableBatchSampler, params: DataLoaderParams
) -> dict[str, Any]:
    """Return the arguments of a ``DataLoader`` that choose the samples of each batch."""
    travels = params.persistent_workers and params.seeding != "none"  # the epoch does
    if isinstance(sampler, ResumableBatchSampler):
        return {"batch_sampler": EpochSampler(sampler, is_batched=True) if travels else sampler}
    if not travels:
        names = ("batch_size", "drop_last")
        return {"sampler": sampler, **{name: getattr(params, name) for name in names}}
    if params.batch_size is None:
        return {"batch_size": None, "sampler": EpochSampler(sampler, is_batched=False)}
    batches = BatchSampler(sampler, params.batch_size, params.drop_last)
    return {"batch_sampler": EpochSampler(batches, is_batched=True)}


def _check(params: DataLoaderParams) -> None:
    """Refuse parameters that PyTorch would accept silently or reject with an unclear message."""
    if params.seeding not in get_args(Seeding):
        raise ConfigurationError(f"seeding={params.seeding!r}: write 'sample', 'batch' or 'none'.")
    if params.shuffle and params.sampler is not None:
        raise ConfigurationError(
            f"shuffle=True contradicts sampler={type(params.sampler).__name__}(...), which chooses"
            " the order itself: remove one of them."
        )
    if params.batch_size is not None:
        _check_count("batch_size", params.batch_size, "samples", 1)
    _check_count("num_workers", params.num_workers, "processes", 0)
    if params.prefetch_factor is not None:
        _check_count("prefetch_factor", params.prefetch_factor, "batches", 1)
        if params.num_workers == 0:
            raise ConfigurationError(
                f"prefetch_factor={params.prefetch_factor} without workers to read ahead: pass"
                " num_workers, too, or remove prefetch_factor."
            )
    check_batches(params)
    check_workers(params)


def _check_resumable(sampler: Any) -> None:
    if not isinstance(sampler, ResumableSamplerType):
        raise TypeError(
            f"the sampler {type(sampler).__name__} cannot start in the middle of an epoch: derive"
            " it from helios.data.ResumableSampler or helios.data.ResumableDistributedSampler."
        )


def _check_resumable_batches(sampler: Any) -> None:
    if not isinstance(sampler, ResumableBatchSampler):
        raise TypeError(
            f"the batch sampler {type(sampler).__name__} cannot start in the middle of an epoch:"
            " derive it from helios.data.ResumableBatchSampler; or, if it makes batches of the"
            " samples of a sampler, pass sampler and batch_size instead."
        )


def _check_replay(dataset: Dataset[Any], replay: bool | None) -> None:
    if replay is None:
        return
    if not isinstance(replay, bool):
        raise ConfigurationError(f"replay={replay!r}: write True or False, or leave it out.")
    if not isinstance(dataset, IterableDataset):
        raise ConfigurationError(
            f"replay={replay} is for streams, but {type(dataset).__name__} is a map-style dataset,"
            " which Helios can read from any sample on: leave replay out."
        )


def _check_count(name: str, value: Any, things: str, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ConfigurationError(
            f"{name}={value!r}: write a whole number of {things}, at least {smallest}."
        )


def _default_sampler(dataset: Dataset[Any], params: DataLoaderParams) -> ResumableSampler:
    data = cast(Sized, dataset)
    if params.shuffle:
        return ResumableRandomSampler(data, _seed(params))
    return ResumableSequentialSampler(data)


def _seed(params: DataLoaderParams) -> int:
    return DEFAULT_SEED if params.random_seed is None else params.random_seed


def set_position(
    loader: DataLoader[Any],
    sampler: ResumableSamplerType | ResumableBatchSampler,
    seed: int,
    epoch: int,
    start_iter: int,
) -> None:
    """Set the batch of an epoch at which the next iteration of a loader begins.

    Args:
        loader: a loader that :func:`create_dataloader` created.
        sampler: the sampler of the loader.
        seed: the seed of the run. With the epoch, it seeds the workers, which matters only if
            samples are not seeded.
        epoch: the epoch. With the loader's own seed, it determines the order and the random
            numbers of the samples.
        start_iter: the number of batches to skip.
    """
    sampler.set_epoch(epoch)
    sampler.start_iter = start_iter
    for part in (loader.dataset, loader.batch_sampler, loader.sampler):
        if isinstance(part, SeededBatches | EpochSampler):
            part.epoch = epoch
    if loader.generator is None:  # a user's own loader would draw from training's
        loader.generator = torch.Generator()
    loader.generator.manual_seed(seed_of_epoch(seed, epoch))


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """Return the batch size that a loader was created with; ``None`` without one."""
    batches: Any = loader.batch_sampler
    if isinstance(batches, EpochSampler):
        return getattr(batches.source, "batch_size", None)
    return loader.batch_size
