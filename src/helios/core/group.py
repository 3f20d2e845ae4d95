"""The processes of a run, and what they tell one another.

The trainer asks a group, whether it has one process or many: no caller has a case for one.
"""

import abc
from typing import Any, TypeVar

T = TypeVar("T")


class Group(abc.ABC):
    """All processes of a run. Each method must be called by all of them, at the same point."""

    @abc.abstractmethod
    def agree(self, wish: bool) -> bool:
        """Return whether any process wishes it: the same answer in all of them."""

    @abc.abstractmethod
    def gather(self, value: T) -> list[T]:
        """Return the plain values of all processes, by rank."""

    @abc.abstractmethod
    def sum(self, value: float) -> float:
        """Return the sum over all processes."""

    @abc.abstractmethod
    def broadcast(self, value: T) -> T:
        """Return the value of the process with rank 0."""

    @abc.abstractmethod
    def require_same(self, what: str, value: Any) -> None:
        """Refuse to run if a value differs between processes.

        Args:
            what: the name of the value, for the message.
            value: a plain value.

        Raises:
            ConfigurationError: the values differ.
        """


class Alone(Group):
    """The group of a run in one process: it answers with what it is given."""

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
