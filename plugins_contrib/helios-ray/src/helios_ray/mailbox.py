"""The actor through which the program and the workers of a run speak."""

import asyncio
import dataclasses
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

STOP = "stop"
"""The order to end the run after a complete step, and to save a checkpoint."""
ABORT = "abort"
"""The order to end all processes at once."""


@dataclasses.dataclass(frozen=True)
class Letter:
    """The result of a worker, as bytes, because the actor need not know what they mean.

    Attributes:
        rank: the rank of the worker.
        error: the error that it has raised.
        outcome: what the run returned.
    """

    rank: int
    error: bytes | None = None
    outcome: bytes | None = None


def open_mailbox() -> Any:
    """Start the actor, on the node of this process."""

    # Ray sends a class inside a function with its code, so the process of the actor need not import
    # this package and PyTorch, which takes seconds.
    class Mailbox:
        """Keeps orders for the workers, and their results for the program."""

        def __init__(self) -> None:
            self.orders: list[str] = []
            self.ordered = asyncio.Condition()
            self.present: set[int] = set()
            self.is_over = False
            self.letters: list[Any] = []

        async def arrive(self, rank: int) -> bool:
            """Note that a worker begins; return whether it has something to do."""
            if rank in self.present:  # Ray has started all workers again
                self.present.clear()
                if not self.is_over:
                    self.letters.clear()
            self.present.add(rank)
            return not self.is_over

        async def has_begun(self) -> bool:
            """Return whether a worker has begun."""
            return bool(self.present)

        async def post(self, letter: Any, is_over: bool) -> None:
            """Keep the result of a worker.

            Args:
                letter: the result.
                is_over: ``True`` if another attempt could not change it.
            """
            if not self.is_over or is_over:
                self.letters.append(letter)
            self.is_over = self.is_over or is_over

        async def read(self) -> list[Any]:
            """Return the results of the last attempt, in the order in which they came."""
            return self.letters

        async def give(self, order: str) -> None:
            """Give an order to all workers."""
            async with self.ordered:
                self.orders.append(order)
                self.is_over = True
                self.ordered.notify_all()

        async def order(self, number: int) -> str:
            """Wait for an order, and return it."""
            async with self.ordered:
                await self.ordered.wait_for(lambda: len(self.orders) > number)
                return self.orders[number]

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote: Any = ray.remote  # it has no types for this strategy
    return remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
