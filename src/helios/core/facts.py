"""What the trainer tells models and plug-ins about the process that they run in."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from helios.trainer import Trainer


class RunFacts:
    """Base of :class:`~helios.model.Model` and :class:`~helios.plugins.Plugin`.

    The trainer fills these properties in every process, before ``setup()`` is called.
    """

    def __init__(self) -> None:
        self._is_distributed = False
        self._map_loc: str | dict[str, str] = ""
        self._device: torch.device | None = None
        self._rank = 0
        self._trainer: Trainer | None = None

    @property
    def is_distributed(self) -> bool:
        """Whether several processes train together."""
        return self._is_distributed

    @is_distributed.setter
    def is_distributed(self, value: bool) -> None:
        self._is_distributed = value

    @property
    def map_loc(self) -> str | dict[str, str]:
        """Where :func:`torch.load` should place tensors: its ``map_location``."""
        return self._map_loc

    @map_loc.setter
    def map_loc(self, value: str | dict[str, str]) -> None:
        self._map_loc = value

    @property
    def device(self) -> torch.device:
        """The device of this process; an ``AssertionError`` before the trainer has set it."""
        assert self._device is not None, "device is known once fit() or test() has started"
        return self._device

    @device.setter
    def device(self, value: torch.device) -> None:
        self._device = value

    @property
    def rank(self) -> int:
        """The local rank: the number of this process on its node."""
        return self._rank

    @rank.setter
    def rank(self, value: int) -> None:
        self._rank = value

    @property
    def trainer(self) -> "Trainer":
        """The trainer; an ``AssertionError`` before the trainer has set it."""
        assert self._trainer is not None, "trainer is known once fit() or test() has started"
        return self._trainer

    @trainer.setter
    def trainer(self, value: "Trainer") -> None:
        self._trainer = value
