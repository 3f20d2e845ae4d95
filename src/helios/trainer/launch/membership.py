"""The membership of this process in the group of a run."""

import contextlib
import datetime
import functools
import itertools
import logging
import os
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public

from helios.core import Group, Place, Ranks
from helios.errors import ConfigurationError
from helios.trainer.job import Job
from helios.trainer.launch import rendezvous, stacks
from helios.trainer.launch.environment import Environment, local_place
from helios.trainer.launch.guard import Guard, Peer
from helios.trainer.launch.store import StoreAddress, StoreClient, connect

_logger = logging.getLogger("helios")

_FOREVER = datetime.timedelta(days=365)
"""The time-out of collectives: a rank may wait as long as another one saves or compiles. The guard
ends a run in which a rank blocks."""
_runs = itertools.count()  # in process groups of others; all processes count the same
_stores: dict[tuple[str, int], TCPStore] = {}
"""The stores that this process serves. Other processes may need one until this process ends."""


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
    if environment is None and not (is_adopted and dist.get_world_size() > 1):
        yield
        return
    before, is_stuck = (job.place, job.group), False
    store = None if environment is None else _create_group(environment, job.place.device)
    try:
        job.group = Ranks(dist.new_group(backend="gloo", timeout=_FOREVER))
        peers = job.group.gather(Peer.here())
        job.place = _place(peers, job)
        store = store or _serve_store(job.group, peers)
        job.reporter.is_silent = job.place.rank > 0
        host = peers[job.place.rank].host
        job.reporter.process = f"rank {job.place.rank} of {len(peers)} on {host}"
        with _guarded(job, store, peers):
            yield
    except BaseException as error:
        # NCCL may wait for ranks that have gone.
        is_stuck = job.place.device.type == "cuda" and error is not job.control.final_error
        raise
    finally:
        job.place, job.group = before
        if not is_adopted and not is_stuck:
            dist.destroy_process_group()


def _create_group(environment: Environment, device: torch.device) -> StoreAddress:
    address = environment.address, environment.port
    serves = environment.rank == 0 and not environment.has_store
    if serves and address not in _stores:
        _stores[address] = TCPStore(*address, is_master=True, multi_tenant=True)
    server = None if environment.has_store else 0
    connection = _stores[address] if serves else connect(*address, rendezvous.JOIN)
    prefix = rendezvous.meet(connection, environment.rank, environment.world_size)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"{prefix}/group", connection),
        rank=environment.rank,
        world_size=environment.world_size,
        timeout=_FOREVER,
    )
    return StoreAddress(*address, prefix, server)


def _serve_store(group: Group, peers: list[Peer]) -> StoreAddress:
    """Let rank 0 serve a store for a process group whose own store is not known."""
    port, own = 0, ("", 0)
    if dist.get_rank() == 0:
        if own not in _stores:
            _stores[own] = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = _stores[own].port
    address = "127.0.0.1"
    if any(peer.host != peers[0].host for peer in peers):
        address = os.environ.get("MASTER_ADDR") or peers[0].host
    return StoreAddress(*group.broadcast((address, port)), f"helios/{next(_runs)}", 0)


@contextlib.contextmanager
def _guarded(job: Job, store: StoreAddress, peers: list[Peer]) -> Iterator[None]:
    """Guard the run, and wait for the other ranks at its end."""
    guard = _open_guard(job, store, peers)
    if job.group.agree(guard is None):  # also: the guards look for the first beat of each rank
        guard = None
    final: BaseException | None = None
    if guard is not None:
        job.guard = guard
        guard.start()
    try:
        with job.guarded():
            try:
                yield
            except BaseException as error:
                if error is not job.control.final_error:
                    raise
                final = error
            if guard is not None:
                guard.end()
            job.group.agree(True)  # the others may still need this process
        if final is not None:
            raise final
    finally:
        job.guard = None
        if guard is not None:
            guard.close()


def _open_guard(job: Job, store: StoreAddress, peers: list[Peer]) -> Guard | None:
    manager, report = job.trainer.plugin_manager, job.reporter
    try:
        return Guard(
            StoreClient(store, "guard"),
            job.place,
            peers,
            job.trainer.stall_timeout,
            functools.partial(_progress, job),
            report.position,
            lambda frame: stacks.place_in_code(frame, manager),
            is_silent=job.is_spawned,  # the parent tells of a failure
        )
    except (dist.DistError, TimeoutError) as error:
        _logger.warning(
            "%s: the store at %s:%d cannot be reached, so a rank that blocks will not be noticed:"
            " %s",
            report.process,
            store.host,
            store.port,
            error,
        )
        return None


def _progress(job: Job) -> tuple[object, ...]:
    state = job.state
    within = None if job.progress is None else job.progress()
    return state.global_iteration, state.validation_cycles, within, job.reporter.doing


def _place(peers: list[Peer], job: Job) -> Place:
    """Return the place of this process; the hosts of all processes tell what the others do not."""
    rank, device = dist.get_rank(), job.place.device
    hosts = [peer.host for peer in peers]
    counted = hosts[:rank].count(hosts[rank]), hosts.count(hosts[rank])
    local_rank, local_world_size = local_place() or counted
    _check_devices(job, local_world_size)
    if device.type == "cuda":
        device = _gpu(job.trainer.gpus, local_rank, local_world_size)
    return Place(device, rank, local_rank, len(hosts), local_world_size)


def _check_devices(job: Job, local_world_size: int) -> None:
    """Refuse arguments for another number of processes than were started."""
    trainer = job.trainer
    for name, count in (("devices", trainer.devices), ("gpus", len(trainer.gpus or ()))):
        if count and count != local_world_size:
            raise ConfigurationError(
                f"Trainer({name}=...) asks for {count} processes on a node, but {local_world_size}"
                f" were started on {socket.gethostname()}: remove {name}, or start as many."
            )


def _gpu(gpus: list[int] | None, local_rank: int, local_world_size: int) -> torch.device:
    """Return the GPU of this process; a process that sees one GPU uses it."""
    visible = torch.cuda.device_count()
    if 1 < visible < local_world_size:
        raise ConfigurationError(
            f"{local_world_size} processes on {socket.gethostname()} see {visible} GPUs: start at"
            f" most {visible} processes on this node."
        )
    number = gpus[local_rank] if gpus else local_rank
    device = torch.device("cuda", number if visible > 1 else 0)
    torch.cuda.set_device(device)
    return device
