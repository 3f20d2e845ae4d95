"""The rendezvous of the ranks of a run at the store that their launcher names."""

import datetime
import logging
import time
import uuid

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # public

from helios.errors import ConfigurationError

_logger = logging.getLogger("helios")

NEWEST = "helios/newest"
"""The key of the prefix of the newest run."""
JOIN = datetime.timedelta(minutes=30)
"""The time in which all ranks must have come to ``fit`` or ``test``."""
_WARN = datetime.timedelta(seconds=30)
_INTERVAL = 0.02


def meet(store: Store, rank: int, world_size: int) -> str:
    """Wait until all ranks have come here, but not for ever.

    The store may have keys of earlier runs, and of ranks that ``torchrun`` has started before. Its
    agents on several nodes may count the restarts differently. So each process says a word of its
    own, and takes part in the run with which rank 0 answers this word.

    Args:
        store: the store.
        rank: the rank of this process.
        world_size: the number of ranks.

    Returns:
        The beginning of all keys of this run.

    Raises:
        ConfigurationError: a rank has not come; the message names it.
    """
    word = uuid.uuid4().hex
    missing: list[int] = []
    for timeout in (_WARN, JOIN - _WARN):
        end = time.monotonic() + timeout.total_seconds()
        if rank == 0:
            prefix, missing = f"helios/{word}", _invite(store, word, world_size, end)
        else:
            prefix, missing = _join(store, word, rank, world_size, timeout)
        if not missing:
            return prefix
        story = f"rank {rank} waits for rank {' and '.join(map(str, missing))}"
        _logger.warning("%s of %d", story, world_size)
    raise ConfigurationError(
        f"rank {', '.join(map(str, missing))} of {world_size} has not come to fit() or test()"
        f" within {JOIN}: start WORLD_SIZE={world_size} processes with the same"
        " program, and see whether one of them has failed."
    )


def _invite(store: Store, word: str, world_size: int, end: float) -> list[int]:
    """Answer all ranks; return those that have not come in time."""
    prefix = f"helios/{word}"
    missing = list(range(1, world_size))
    while missing and time.monotonic() < end:
        for rank in missing:
            if store.check([_greeting(rank)]):  # it may be older than this run
                store.set(_answer(store.get(_greeting(rank)).decode()), prefix)
        missing = [rank for rank in missing if not store.check([f"{prefix}/rank/{rank}"])]
        time.sleep(_INTERVAL if missing else 0)
    if not missing:
        store.set(NEWEST, prefix)
        store.set(f"{prefix}/complete", "1")
    return missing


def _join(
    store: Store, word: str, rank: int, world_size: int, timeout: datetime.timedelta
) -> tuple[str, list[int]]:
    """Return the prefix of the run, and the ranks that have not come in time."""
    store.set(_greeting(rank), word)
    try:
        store.wait([_answer(word)], timeout)
    except dist.DistError:
        return "", [0]
    prefix = store.get(_answer(word)).decode()
    store.set(f"{prefix}/rank/{rank}", "1")
    try:
        store.wait([f"{prefix}/complete"], timeout)
    except dist.DistError:
        keys = {other: f"{prefix}/rank/{other}" for other in range(1, world_size)}
        return prefix, [other for other, key in keys.items() if not store.check([key])] or [0]
    return prefix, []


def _greeting(rank: int) -> str:
    return f"helios/greeting/{rank}"


def _answer(word: str) -> str:
    return f"helios/answer/{word}"
