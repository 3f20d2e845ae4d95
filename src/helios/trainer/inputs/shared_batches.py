"""The agreement of the ranks of a run on the batches that each of them reads."""

import logging
from typing import Any

from helios.core import Group
from helios.data import StreamPosition
from helios.data.loader import batch_size_of
from helios.data.orders import describe_order
from helios.data.rank_shares import RankShare
from helios.data.whole_epoch import number_of_batches
from helios.errors import CheckpointError, ConfigurationError
from helios.trainer.inputs.limits import Limits

_logger = logging.getLogger(__name__)


def settle_share(position: object, group: Group) -> None:
    """Find out whether a sampler of the user's own chooses for all ranks, or for its own rank.

    Args:
        position: the sampler of a loader. If all ranks would read the same samples, they share
            them; otherwise each rank has its own already.
        group: the processes of the run.

    Raises:
        ConfigurationError: Helios chooses, and the ranks would share different data sets.
    """
    if not isinstance(position, RankShare) or position.is_settled:
        return
    position.is_settled = True
    orders = group.gather(position.digest() if position.is_of_user else whole_order(position))
    position.is_shared = len(set(orders)) == 1
    if not position.is_shared and not position.is_of_user:
        stories = ", ".join(f"{each} on rank {rank}" for rank, each in enumerate(orders))
        raise ConfigurationError(
            f"each rank reads its share of one data set, but the ranks have different ones:"
            f" {stories}. Give all ranks the same data set and loader parameters. If each rank has"
            " samples of its own, pass a sampler that chooses all of them."
        )


def whole_order(position: RankShare) -> str:
    """Return the number of samples that all ranks share, and who chooses their order."""
    return f"{position.total} samples of {describe_order(position.source, 0)}"


def settle_evaluation(
    loader: Any, position: object, phase: str, limits: Limits, group: Group, *, is_joint: bool
) -> None:
    """Decide which part of a set each rank evaluates.

    Each sample counts once, unless each batch needs all ranks. The parts of a prediction have no
    gaps, so that all of them together are in order, also if limits make them smaller.

    Args:
        loader: the loader of the set.
        position: its sampler.
        phase: the phase of the run.
        limits: the numbers of batches to read.
        group: the processes of the run.
        is_joint: ``True`` if all ranks must evaluate the same number of batches.
    """
    if not isinstance(position, RankShare):
        return
    position.is_even = is_joint and position.drops_last
    settle_share(position, group)
    if phase != "prediction":
        return
    position.is_block = True
    numbers = group.gather(limits.number(phase, number_of_batches(loader)))
    if known := [number for number in numbers if number is not None]:
        position.most = max(known) * (batch_size_of(loader) or 1) * position.ranks


def is_divided(position: object) -> bool:
    """Return whether each rank evaluates a part of a set, given its sampler or position."""
    return isinstance(position, RankShare | StreamPosition)


def even_count(count: int | float, position: object, group: Group) -> int | float:
    """Return the number of batches that every rank reads in an epoch of training.

    Args:
        count: the number of batches of this rank.
        position: the sampler of the loader.
        group: the processes of the run.

    Raises:
        ConfigurationError: the numbers differ, and nobody has said that the rest may be dropped.
    """
    counts = group.gather(count)
    if len(set(counts)) == 1:
        return count
    if isinstance(position, RankShare) and position.drops_last:
        return min(counts)
    stories = ", ".join(f"{each} on rank {rank}" for rank, each in enumerate(counts))
    raise ConfigurationError(
        f"the ranks have different numbers of training batches: {stories}. Each step needs a batch"
        " of every rank: let the sampler give each rank equally many, or pass drop_last=True to"
        " drop the batches that not every rank has."
    )


def require_even(count: int | None, group: Group) -> None:
    """Refuse an evaluation in which ranks read different numbers of batches, for FSDP2.

    Raises:
        ConfigurationError: the numbers differ.
    """
    counts = group.gather(count)
    if len(set(counts)) > 1:
        stories = ", ".join(f"{each} on rank {rank}" for rank, each in enumerate(counts))
        raise ConfigurationError(
            f"the ranks have different numbers of batches in an evaluation: {stories}. With"
            ' parallel="fsdp", ranks compute each batch together: pass another batch_size, or'
            " drop_last=True to skip the samples that do not divide evenly."
        )


def common_count(count: int, group: Group) -> int:
    """Return the number of batches that all ranks have, and say if some of a stream are dropped.

    Args:
        count: the number of batches that this rank has read ahead.
        group: the processes of the run.
    """
    counts = group.gather(count)
    common = min(counts)
    if common < count:
        _logger.info(
            "the streams of the ranks end together: %d batches of this rank are dropped, because"
            " another rank has no more.",
            count - common,
        )
    return common


def move_position(before: dict[str, Any], now: dict[str, Any], position: Any, consumed: int) -> int:
    """Continue an epoch that another number of ranks has begun, after the samples they have read.

    Args:
        before: the order of the samples in the checkpoint.
        now: the order of the samples in this run.
        position: the sampler of the loader.
        consumed: the number of batches that each rank had read.

    Returns:
        The number of batches of this run that those samples fill.

    Raises:
        CheckpointError: a batch of this run would begin inside of a batch that was read.
    """
    ranks, is_share = now.get("ranks", 1), isinstance(position, RankShare)
    if before["batches"] is None:
        raise CheckpointError(
            f"the checkpoint was saved inside an epoch of a stream, on {before.get('ranks', 1)}"
            f" ranks, but this run has {ranks}. Each rank has its own position in a stream: resume"
            " with as many ranks as before, or start a new run."
        )
    if consumed == before["batches"]:
        return int(now["batches"])
    step_before = before.get("ranks", 1) * (before["batch_size"] or 1)
    step = ranks * (now["batch_size"] or 1)
    read: int = min(before.get("first", 0) + consumed * step_before, now["samples"])
    whole, rest = divmod(read, step)
    if rest and not (is_share and position.is_shared):
        raise CheckpointError(
            f"the checkpoint was saved after {read} samples of an epoch, on"
            f" {before.get('ranks', 1)} ranks. They do not fill whole batches of {step} samples:"
            f" pass a batch_size that divides {read}, or resume with as many ranks as before."
        )
    if is_share:
        position.first = rest
    return int(whole)
