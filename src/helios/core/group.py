"""The processes of a run, and the values that they exchange.

The trainer uses a group for any number of processes, so no caller needs a special case for one.
"""

import abc
import io
import socket
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from helios.core.rules import shown
from helios.errors import ConfigurationError

T = TypeVar("T")


class Group(abc.ABC):
    """All processes of a run. All of them must call each method, at the same point."""

    @abc.abstractmethod
    def agree(self, wish: bool) -> bool:
        """Return the same answer in all processes: whether any process wishes it."""

    @abc.abstractmethod
    def gather(self, value: T) -> list[T]:
        """Return the plain values of all processes, in the order of their ranks."""

    @abc.abstractmethod
    def sum(self, value: float) -> float:
        """Return the sum over all processes."""

    @abc.abstractmethod
    def broadcast(self, value: T) -> T:
        """Return the value of the process with rank 0."""

    @abc.abstractmethod
    def require_same(self, what: str, value: Any) -> None:
        """Raise an error if a value differs between processes.

        Args:
            what: the name of the value, for the message.
            value: a plain value.

        Raises:
            ConfigurationError: the values differ.
        """


class Alone(Group):
    """The group of a run in one process. Its methods return their arguments."""

    def agree(self, wish: bool) -> bool:
        """Return the wish."""
        return wish

    def gather(self, value: T) -> list[T]:
        """Return the value, in a list."""
        return [value]

    def sum(self, value: float) -> float:
        """Return the value."""
        return value

    def broadcast(self, value: T) -> T:
        """Return the value."""
        return value

    def require_same(self, what: str, value: Any) -> None:
        """Accept any value."""


class Ranks(Group):
    """The group of a run in several processes.

    It sends plain values between CPUs, also in a run on GPUs.

    Args:
        channel: a process group of gloo that holds all processes of the run.

    Attributes:
        channel: the process group.
        rank: the number of this process in it.
    """

    def __init__(self, channel: dist.ProcessGroup) -> None:
        self.channel = channel
        self.rank = channel.rank()

    def agree(self, wish: bool) -> bool:
        """Return whether any process wishes it."""
        return self._reduced(int(wish), torch.int32, dist.ReduceOp.MAX) > 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        values: list[Any] = [None] * self.channel.size()
        dist.all_gather_object(values, _encoded(value), self.channel)
        return [_decoded(each) for each in values]

    def sum(self, value: float) -> float:
        """Return the sum over all processes, in 64 bits."""
        return float(self._reduced(value, torch.float64, dist.ReduceOp.SUM))

    def broadcast(self, value: T) -> T:
        """Return the value of the process with rank 0."""
        is_sender = self.rank == 0
        values: list[Any] = [_encoded(value) if is_sender else None]
        dist.broadcast_object_list(values, 0, self.channel)
        received: T = value if is_sender else _decoded(values[0])
        return received

    def require_same(self, what: str, value: Any) -> None:
        """Raise an error that names the ranks and hosts whose values differ from rank 0's."""
        (first, host), *others = self.gather((value, socket.gethostname()))
        differing = [
            f"{shown(other)} on rank {rank} ({its_host})"
            for rank, (other, its_host) in enumerate(others, 1)
            if other != first
        ]
        if differing:
            raise ConfigurationError(
                f"{what} differs between the processes of the run: {shown(first)} on rank 0"
                f" ({host}), but {', '.join(differing)}. Start all processes with the same"
                " program, packages, arguments and data."
            )

    def _reduced(self, value: float, dtype: torch.dtype, operation: Any) -> float:
        tensor = torch.tensor(value, dtype=dtype)
        dist.all_reduce(tensor, operation, self.channel)
        return tensor.item()


def _encoded(value: Any) -> bytes:
    """Return a value as bytes; plain pickle cannot restore all tensors."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _decoded(data: bytes) -> Any:
    # The other processes run the same program, so their bytes are as safe as their code.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
