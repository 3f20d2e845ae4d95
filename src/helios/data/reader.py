"""The rank that loaders are created for: that of this process, or a virtual one."""

import contextlib
from collections.abc import Iterator

from helios.core.distributed import get_dist_info

_virtual: list[tuple[int, int]] = []


def reading_rank() -> tuple[int, int]:
    """Return the number of the rank that reads what a loader created now loads, and of all."""
    if _virtual:
        return _virtual[-1]
    place = get_dist_info()
    return place.global_rank, place.global_world_size


@contextlib.contextmanager
def reading_as(rank: int, ranks: int) -> Iterator[None]:
    """Create loaders for a virtual rank in the block.

    Args:
        rank: the number of the virtual rank.
        ranks: the number of virtual ranks.
    """
    _virtual.append((rank, ranks))
    try:
        yield
    finally:
        _virtual.pop()
