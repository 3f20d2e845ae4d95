"""The place of a process among the processes of a run, and the base of objects that know it."""

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class Place:
    """The facts about a process that do not change during a run.

    Attributes:
        device: the device of this process.
        rank: the number of this process among all.
        local_rank: the number of this process on its node.
        world_size: the number of processes.
        local_world_size: the number of processes on this node.
    """

    device: torch.device
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def is_distributed(self) -> bool:
        """True if several processes train together."""
        return self.world_size > 1

    @property
    def map_loc(self) -> str | dict[str, str]:
        """The ``map_location`` of :func:`torch.load` for this process."""
        return str(self.device)

    def facts(self) -> dict[str, Any]:
        """Return the values of the properties of :class:`Ranked` and :class:`Placed`, by name."""
        return {
            "is_distributed": self.is_distributed,
            "map_loc": self.map_loc,
            "device": self.device,
            "rank": self.local_rank,
            "global_rank": self.rank,
            "world_size": self.world_size,
        }


class Ranked:
    """The base class of objects that know the number of their process: data modules, and more.

    The trainer sets these properties in every process, before it calls ``setup()``. They keep their
    values until the next run.
    """

    def __init__(self) -> None:
        given = vars(self)  # values from before super().__init__(), which a run refuses
        self._is_distributed: bool = given.get("_is_distributed", False)
        self._rank: int = given.get("_rank", 0)
        self._global_rank: int = given.get("_global_rank", 0)
        self._world_size: int = given.get("_world_size", 1)

    @property
    def is_distributed(self) -> bool:
        """True if several processes train together."""
        return self._is_distributed

    @is_distributed.setter
    def is_distributed(self, value: bool) -> None:
        self._is_distributed = value

    @property
    def rank(self) -> int:
        """The local rank: the number of this process on its node."""
        return self._rank

    @rank.setter
    def rank(self, value: int) -> None:
        self._rank = value

    @property
    def global_rank(self) -> int:
        """The number of this process among all processes of the run."""
        return self._global_rank

    @global_rank.setter
    def global_rank(self, value: int) -> None:
        self._global_rank = value

    @property
    def world_size(self) -> int:
        """The number of processes of the run."""
        return self._world_size

    @world_size.setter
    def world_size(self, value: int) -> None:
        self._world_size = value


class Placed(Ranked):
    """The base class of :class:`~helios.model.Model` and :class:`~helios.plugins.Plugin`."""

    def __init__(self) -> None:
        super().__init__()
        self._map_loc: str | dict[str, str] = vars(self).get("_map_loc", "")
        self._device: torch.device | None = vars(self).get("_device")

    @property
    def map_loc(self) -> str | dict[str, str]:
        """The ``map_location`` to pass to :func:`torch.load`."""
        return self._map_loc

    @map_loc.setter
    def map_loc(self, value: str | dict[str, str]) -> None:
        self._map_loc = value

    @property
    def device(self) -> torch.device:
        """The device of this process.

        Raises:
            AssertionError: no run has started yet.
        """
        assert self._device is not None, "device is known once fit() or test() has started"
        return self._device

    @device.setter
    def device(self, value: torch.device) -> None:
        self._device = value
