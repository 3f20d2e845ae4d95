"""Facts about the processes of a run, and the few collectives that Helios needs.

Without a process group, the facts are those of a single process.
"""

import os
from typing import NamedTuple

import torch
import torch.distributed as dist

from helios.errors import ConfigurationError


class DistInfo(NamedTuple):
    """The place of this process among all processes.

    Attributes:
        local_rank: the number of this process on its node.
        global_rank: the number of this process among all.
        local_world_size: the number of processes on this node.
        global_world_size: the number of all processes.
    """

    local_rank: int
    global_rank: int
    local_world_size: int
    global_world_size: int

    @property
    def rank(self) -> int:
        """The number of this process among all: another name of ``global_rank``."""
        return self.global_rank

    @property
    def world_size(self) -> int:
        """The number of all processes: another name of ``global_world_size``."""
        return self.global_world_size


def is_using_torchrun() -> bool:
    """Return whether ``torchrun`` started this process."""
    return dist.is_torchelastic_launched() and "LOCAL_RANK" in os.environ


def init_dist(
    backend: str = "nccl", rank: int | None = None, world_size: int | None = None
) -> None:
    """Create the default process group.

    Args:
        backend: the name of the backend: ``"nccl"`` for GPUs, ``"gloo"`` for CPUs.
        rank: the global rank of this process; read from the environment by default.
        world_size: the number of processes; read from the environment by default.

    Raises:
        ConfigurationError: only one of ``rank`` and ``world_size`` is given.
    """
    if (rank is None) != (world_size is None):
        raise ConfigurationError(
            f"init_dist(rank={rank}, world_size={world_size}): pass both, or neither to read"
            " them from the environment."
        )
    dist.init_process_group(backend, rank=-1 if rank is None else rank, world_size=world_size or -1)


def shutdown_dist() -> None:
    """Destroy the process group, if one exists."""
    if is_dist_active():
        dist.destroy_process_group()


def is_dist_active() -> bool:
    """Return whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def get_dist_info() -> DistInfo:
    """Return ranks and world sizes; ``(0, 0, 1, 1)`` without a process group."""
    if not is_dist_active():
        return DistInfo(0, 0, 1, 1)
    local_rank = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    return DistInfo(local_rank, dist.get_rank(), local_world_size, dist.get_world_size())


def get_local_rank() -> int:
    """Return the number of this process on its node; 0 without a process group."""
    return get_dist_info().local_rank


def get_global_rank() -> int:
    """Return the number of this process among all; 0 without a process group."""
    return get_dist_info().global_rank


def get_local_world_size() -> int:
    """Return the number of processes on this node; 1 without a process group."""
    return get_dist_info().local_world_size


def get_global_world_size() -> int:
    """Return the number of all processes; 1 without a process group."""
    return get_dist_info().global_world_size


def all_reduce_tensors(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place.

    Raises:
        RuntimeError: no process group exists.
    """
    _require_group("all_reduce_tensors")
    dist.all_reduce(tensor)
    return tensor


def gather_into_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all processes, stacked along a new first dimension.

    Args:
        tensor: a tensor with the same shape and type in every process.

    Raises:
        RuntimeError: no process group exists.
    """
    _require_group("gather_into_tensor")
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts)


def safe_barrier() -> None:
    """Wait for all processes, if a process group exists."""
    if is_dist_active():
        dist.barrier()


def global_print(*values: object, global_rank: int = 0) -> None:
    """Print in the process with this global rank only."""
    if get_global_rank() == global_rank:
        print(*values, flush=True)


def local_print(*values: object, local_rank: int = 0) -> None:
    """Print in the process with this local rank on each node only."""
    if get_local_rank() == local_rank:
        print(*values, flush=True)


def _require_group(function: str) -> None:
    if not is_dist_active():
        raise RuntimeError(f"{function}() needs a process group: call init_dist() first.")
