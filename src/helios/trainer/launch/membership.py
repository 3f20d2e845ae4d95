"""The membership of this process in the group of a run."""

import contextlib
import datetime
import itertools
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public

from helios.core import Group, Place, Ranks
from helios.errors import ConfigurationError
from helios.trainer.job import Job
from helios.trainer.launch.environment import Environment, local_place

_FOREVER = datetime.timedelta(days=365)
"""The time-out of collectives. A rank may wait as long as another one saves or compiles."""
_runs = itertools.count()  # all processes count the same runs
_stores: dict[tuple[str, int], Store] = {}
"""The stores of this process, which other processes may need until it ends."""


@contextlib.contextmanager
def joined(job: Job) -> Iterator[None]:
    """Let this process take part in a run of several processes, if its environment says so.

    A process group that exists already is used, and not destroyed.

    Raises:
        ConfigurationError: the environment of this process is wrong; the message names the
            variable.
    """
    if job.place.is_distributed:  # joined already
        yield
        return
    is_adopted = dist.is_available() and dist.is_initialized()
    environment = None if is_adopted else Environment.read()
    if environment is not None:
        _create_group(environment, job.place.device)
    elif not is_adopted or dist.get_world_size() == 1:
        yield
        return
    before = job.place, job.group
    try:
        channel = dist.new_group(backend="gloo", timeout=_FOREVER)
        job.group = Ranks(channel)
        job.place = _place(job.group, job.place.device)
        job.reporter.is_silent = job.place.rank > 0
        yield
        job.group.agree(True)  # the others may still need this process
    finally:
        job.place, job.group = before
        if not is_adopted:
            dist.destroy_process_group()


def _create_group(environment: Environment, device: torch.device) -> None:
    address = environment.address, environment.port
    if address not in _stores:
        _stores[address] = TCPStore(
            *address,
            is_master=environment.rank == 0 and not environment.has_store,
            multi_tenant=True,
        )
    name = f"helios/{environment.attempt}/{next(_runs)}"
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(name, _stores[address]),
        rank=environment.rank,
        world_size=environment.world_size,
        timeout=_FOREVER,
    )


def _place(group: Group, device: torch.device) -> Place:
    """Return the place of this process; the hosts of all processes tell what the others do not."""
    rank, hosts = dist.get_rank(), group.gather(socket.gethostname())
    counted = hosts[:rank].count(hosts[rank]), hosts.count(hosts[rank])
    local_rank, local_world_size = local_place() or counted
    if device.type == "cuda":
        device = _gpu(local_rank, local_world_size)
    return Place(device, rank, local_rank, len(hosts), local_world_size)


def _gpu(local_rank: int, local_world_size: int) -> torch.device:
    """Return the GPU of this process; a process that sees one GPU uses it."""
    visible = torch.cuda.device_count()
    if 1 < visible < local_world_size:
        raise ConfigurationError(
            f"{local_world_size} processes on {socket.gethostname()} see {visible} GPUs: start at"
            f" most {visible} processes on this node."
        )
    device = torch.device("cuda", local_rank if visible > 1 else 0)
    torch.cuda.set_device(device)
    return device
