"""Texts that show whether two runs read their samples in the same order."""

import hashlib
from typing import Any

import torch

from helios.data.batch_samplers import ResumableBatchSampler
from helios.data.rank_shares import RankShare
from helios.data.samplers import (
    ResumableDistributedSampler,
    ResumableRandomSampler,
    ResumableSampler,
    ResumableSamplerType,
    ResumableSequentialSampler,
    ResumableWeightedSampler,
    in_blocks,
)


def describe_order(sampler: ResumableSamplerType | ResumableBatchSampler, epoch: int) -> str:
    """Return a text that changes if a sampler yields an epoch's samples in another order.

    Args:
        sampler: the sampler. If the class is the user's own, its order is computed once.
        epoch: the number of the epoch.
    """
    if isinstance(sampler, RankShare):
        if sampler.is_shared:  # the order of all processes does not depend on their number
            return describe_order(sampler.source, epoch)
        return f"each process with its own {type(sampler.source).__name__}"
    if isinstance(sampler, ResumableDistributedSampler):
        facts = [f"shuffle={sampler.shuffle}", f"seed={sampler.seed}"]
        facts += [f"num_replicas={sampler.num_replicas}", f"drop_last={sampler.drop_last}"]
    elif type(sampler) is ResumableWeightedSampler:
        names = ("seed", "num_samples", "replacement", "num_replicas")
        facts = [f"{name}={getattr(sampler, name)}" for name in names]
        facts += [f"weights={hashlib.sha256(sampler.weights.numpy().tobytes()).hexdigest()[:8]}"]
    elif type(sampler) is ResumableRandomSampler:
        facts = [f"seed={sampler.seed}"]
    elif type(sampler) is ResumableSequentialSampler:
        facts = []
    else:
        facts = _facts_of_own(sampler, epoch)
    return f"{type(sampler).__name__}({', '.join(facts)})"


def _facts_of_own(sampler: ResumableSampler | ResumableBatchSampler, epoch: int) -> list[str]:
    base = ResumableSampler if isinstance(sampler, ResumableSampler) else ResumableBatchSampler
    if type(sampler).__iter__ is not base.__iter__:
        seed = getattr(sampler, "seed", None)  # indices() or batches() need not be its order
        return [] if seed is None else [f"seed={seed}"]
    sampler.set_epoch(epoch)
    choose = sampler.indices if isinstance(sampler, ResumableSampler) else sampler.batches
    chosen: Any = choose()
    order = hashlib.sha256()
    for index in in_blocks(chosen) if isinstance(chosen, torch.Tensor) else chosen:
        order.update(f"{index},".encode())
    return [f"order={order.hexdigest()[:8]}"]
