"""A function that finds streams whose own state is incomplete, so that Helios must replay them."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

_LIBRARY = "datasets"
_BUFFER = "BufferShuffledExamplesIterable"
_LONGEST = 1000  # a longer container holds samples rather than streams


def has_incomplete_state(dataset: IterableDataset[Any]) -> bool:
    """Return whether the state of a dataset is known to lack samples.

    ``datasets`` of Hugging Face does not save the samples in the buffer of ``shuffle()``. Streams
    of other classes that hold such a dataset are searched, too.

    Args:
        dataset: the user's iterable-style dataset.
    """
    seen: set[int] = set()
    waiting: list[Any] = [dataset]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if _is_of_library(part) and type(part).__name__ == _BUFFER:
            return True
        waiting.extend(_parts_of(part))
    return False


def _parts_of(part: Any) -> Iterator[Any]:
    """Iterate over the streams among the attributes of a stream, also inside containers."""
    for value in getattr(part, "__dict__", {}).values():
        values: Any = [value]
        if isinstance(value, list | tuple | dict) and len(value) <= _LONGEST:
            values = value.values() if isinstance(value, dict) else value
        for item in values:
            if isinstance(item, IterableDataset) or _is_of_library(item):
                yield item


def _is_of_library(part: Any) -> bool:
    return type(part).__module__.partition(".")[0] == _LIBRARY
