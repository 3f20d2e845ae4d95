"""The search for a checkpoint: rank 0 searches, and all ranks verify the folders that it reads."""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

from helios.checkpoints import stores
from helios.core import Group, Place
from helios.errors import DamagedCheckpointError

T = TypeVar("T")


def find(group: Group, place: Place, search: Callable[[stores.Load], T]) -> T:
    """Return the same checkpoint in all ranks.

    All ranks must call this.

    Args:
        group: the processes of the run.
        place: the place of this process.
        search: returns a checkpoint, given the function that verifies and reads one. Only rank 0
            calls it, because others may not see the same files.
    """

    def check(path: pathlib.Path, pieces: Any) -> None:
        group.broadcast((path, pieces))
        problems = group.gather(_problem(path, pieces, place))
        for rank, problem in enumerate(problems):
            if problem:
                note = f" (found by rank {rank})" if rank else ""
                raise DamagedCheckpointError(problem + note)

    if place.rank > 0:
        while (task := group.broadcast(None)) is not None:
            group.gather(_problem(*task, place))
        return group.broadcast(None)  # type: ignore[return-value]  # rank 0 sends it
    try:
        found = search(lambda path: stores.read(path, check))
    finally:
        group.broadcast(None)
    return group.broadcast(found)


def _problem(path: pathlib.Path, pieces: Any, place: Place) -> str:
    """Verify the share of this rank in the files of a folder, and return what is wrong."""
    from helios.checkpoints import sharded_load  # imports much of torch.distributed

    try:
        sharded_load.verify(path, pieces, sorted(pieces)[place.rank :: place.world_size])
    except (DamagedCheckpointError, OSError) as error:
        return str(error)
    return ""
