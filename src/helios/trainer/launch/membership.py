"""The membership of this process in the group of a run."""

import contextlib
import dataclasses
import datetime
import functools
import itertools
import logging
import os
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public

from helios.core import Group, Place, Ranks
from helios.errors import ConfigurationError
from helios.trainer.job import Job
from helios.trainer.launch import stacks
from helios.trainer.launch.environment import Environment, local_place
from helios.trainer.launch.guard import Guard, Peer

_logger = logging.getLogger("helios")

_FOREVER = datetime.timedelta(days=365)
"""The time-out of collectives: a rank may wait as long as another one saves or compiles. The guard
ends a run in which a rank blocks."""
_CONNECT = datetime.timedelta(seconds=30)
_JOIN = datetime.timedelta(minutes=30)
"""The time in which all ranks must have come to ``fit`` or ``test``."""
_runs = itertools.count()  # all processes count the same runs
_stores: dict[tuple[str, int], TCPStore] = {}
"""The stores that this process serves. Other processes may need one until this process ends."""


@dataclasses.dataclass(frozen=True)
class _Store:
    """The store of a run: where it is, and the beginning of all its keys."""

    address: str
    port: int
    prefix: str

    def connect(self, timeout: datetime.timedelta = _CONNECT) -> TCPStore:
        return TCPStore(self.address, self.port, is_master=False, timeout=timeout)


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


def _create_group(environment: Environment, device: torch.device) -> _Store:
    address = environment.address, environment.port
    serves = environment.rank == 0 and not environment.has_store
    if serves and address not in _stores:
        _stores[address] = TCPStore(*address, is_master=True, multi_tenant=True)
    store = _Store(*address, f"helios/{environment.attempt}/{next(_runs)}")
    connection = _stores[address] if serves else store.connect(_JOIN)
    _await_all(PrefixStore(store.prefix, connection), environment)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"{store.prefix}/group", connection),
        rank=environment.rank,
        world_size=environment.world_size,
        timeout=_FOREVER,
    )
    return store


def _await_all(store: Store, environment: Environment) -> None:
    """Wait until all ranks have come here, but not for ever.

    Raises:
        ConfigurationError: a rank has not come; the message names it.
    """
    keys = [f"rank/{rank}" for rank in range(environment.world_size)]
    store.set(keys[environment.rank], socket.gethostname())
    for timeout in (_CONNECT, _JOIN - _CONNECT):
        try:
            store.wait(keys, timeout)
        except dist.DistError:
            missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        else:
            return
        story = f"rank {environment.rank} waits for rank {' and '.join(missing)}"
        _logger.warning("%s of %d", story, environment.world_size)
    raise ConfigurationError(
        f"rank {', '.join(missing)} of {environment.world_size} has not come to fit() or test()"
        f" within {_JOIN}: start WORLD_SIZE={environment.world_size} processes with the same"
        " program, and see whether one of them has failed."
    )


def _serve_store(group: Group, peers: list[Peer]) -> _Store:
    """Let rank 0 serve a store for a process group whose own store is not known."""
    port, own = 0, ("", 0)
    if dist.get_rank() == 0:
        if own not in _stores:
            _stores[own] = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = _stores[own].port
    address = "127.0.0.1"
    if any(peer.host != peers[0].host for peer in peers):
        address = os.environ.get("MASTER_ADDR") or peers[0].host
    return _Store(*group.broadcast((address, port)), f"helios/{next(_runs)}")


@contextlib.contextmanager
def _guarded(job: Job, store: _Store, peers: list[Peer]) -> Iterator[None]:
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


def _open_guard(job: Job, store: _Store, peers: list[Peer]) -> Guard | None:
    manager, report = job.trainer.plugin_manager, job.reporter
    try:
        return Guard(
            store.connect,
            f"{store.prefix}/guard",
            job.place,
            peers,
            job.trainer.stall_timeout,
            functools.partial(_progress, job),
            report.position,
            lambda frame: stacks.place_in_code(frame, manager),
            is_silent=job.is_spawned,  # the parent tells of a failure
        )
    except dist.DistError as error:
        _logger.warning(
            "%s: the store at %s:%d cannot be reached, so a rank that blocks will not be noticed:"
            " %s",
            report.process,
            store.address,
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
