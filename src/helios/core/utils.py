"""Small helpers for models and data modules."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def get_from_optional(value: T | None, raise_on_empty: bool = False) -> T:
    """Return a value that must not be ``None``.

    Args:
        value: the value, or ``None``.
        raise_on_empty: ``True`` to raise ``RuntimeError`` rather than ``AssertionError``.
    """
    if value is None:
        message = "expected a value, but the optional is None"
        raise RuntimeError(message) if raise_on_empty else AssertionError(message)
    return value


def convert_to_list(value: Any) -> list[Any]:
    """Return a list unchanged, a tuple as a list, or any other value in a list."""
    if isinstance(value, list):
        return value
    return list(value) if isinstance(value, tuple) else [value]


@contextlib.contextmanager
def ChdirContext(target_path: str | pathlib.Path) -> Iterator[pathlib.Path]:  # noqa: N802 - founding name
    """Change the working directory inside the block, and yield the previous one."""
    previous = pathlib.Path.cwd()
    with contextlib.chdir(target_path):
        yield previous


class AverageTimer:
    """A timer for the average time between :meth:`start` and :meth:`record`, in seconds."""

    def __init__(self) -> None:
        self._origin = 0.0  # the intervals would have begun here without gaps between them
        self._total = 0.0
        self._count = 0

    def start(self) -> None:
        """Start an interval."""
        self._origin = time.perf_counter() - self._total

    def record(self) -> float:
        """End the interval, start the next one, and return the average so far."""
        self._count += 1
        self._total = time.perf_counter() - self._origin
        return self._total / self._count

    def get_average_time(self) -> float:
        """Return the average so far; 0.0 before the first interval ends."""
        return self._total / self._count if self._count else 0.0


def safe_torch_load(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load a file with :func:`torch.load` and ``weights_only=True``, so that no code in it runs."""
    return torch.load(path, weights_only=True, **kwargs)
