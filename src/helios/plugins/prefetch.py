"""Batches that are copied to a GPU while the model computes on the batches before them."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch


class SideStream:
    """A CUDA stream for copies, beside the stream that computes.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        # Events are used again, because it takes time to create one for each batch.
        self._computed = _event()
        self._free: list[torch.cuda.Event] = []

    def copy(self, move: Callable[[Any], Any], batch: Any) -> tuple[Any, torch.cuda.Event]:
        """Enqueue the copy of a batch.

        The copy waits for all work that the other stream has so far. It may reuse the memory of a
        batch that this work still reads.

        Returns:
            The batch on the GPU, and the event after which it can be used.
        """
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_event(computing.record_event(self._computed))
        with torch.cuda.stream(self._stream):
            moved = move(batch)
        copied = self._free.pop() if self._free else _event()
        return moved, self._stream.record_event(copied)

    def wait(self, copied: torch.cuda.Event) -> None:
        """Let the stream that computes wait for a copy. The host does not wait."""
        torch.cuda.current_stream(self._device).wait_event(copied)
        self._free.append(copied)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def prefetch(
    batches: Iterable[Any], count: int, move: Callable[[Any], Any], stream: SideStream
) -> Iterator[Any]:
    """Yield batches in their order, and copy the following ones ahead.

    If the loader raises an error, the batches before it are yielded first.

    Args:
        batches: the batches in the memory of the host.
        count: the number of batches to copy ahead.
        move: the function that returns a batch on the GPU.
        stream: the stream for the copies.
    """
    ahead: collections.deque[tuple[Any, torch.cuda.Event]] = collections.deque()
    failure: Exception | None = None
    iterator = iter(batches)
    while True:
        try:
            ahead.append(stream.copy(move, next(iterator)))
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        if len(ahead) > count:
            yield _first(ahead, stream)
    while ahead:
        yield _first(ahead, stream)
    if failure is not None:
        raise failure


def _first(ahead: "collections.deque[tuple[Any, torch.cuda.Event]]", stream: SideStream) -> Any:
    batch, copied = ahead.popleft()
    stream.wait(copied)
    return batch
