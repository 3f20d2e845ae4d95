"""The processes of a run, and the values that they exchange.

The trainer uses a group for any number of processes, so no caller needs a special case for one.
"""

import abc
from typing import Any, TypeVar

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
