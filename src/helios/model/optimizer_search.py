"""The search for the optimizers of a model, which any of its attributes may hold."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

_DEPTH = 3  # helper objects inside helper objects
_MOST_ITEMS = 10_000  # of a list or dictionary: larger ones hold data


def optimizers_in(value: Any) -> Iterator[tuple[str, Optimizer]]:
    """Iterate over the optimizers among the attributes of an object, private ones included.

    The search goes into lists, tuples, dictionaries, modules, and a few levels of helper objects.

    Yields:
        Pairs of a dotted name and an optimizer; an optimizer with several names, several times.
    """
    seen: set[int] = set()
    for name, item in vars(value).items():
        yield from _search(name, item, _DEPTH, seen)


def named_optimizers(value: Any) -> dict[str, Optimizer]:
    """Return the optimizers among the attributes of an object by their first names, each once."""
    names: dict[Optimizer, str] = {}
    for name, optimizer in optimizers_in(value):
        names.setdefault(optimizer, name)
    return {name: optimizer for optimizer, name in names.items()}


def _search(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Optimizer]]:
    if isinstance(value, Optimizer):
        yield name, value
    elif isinstance(value, torch.Tensor | type) or id(value) in seen:
        return
    elif isinstance(value, nn.Module):
        seen.add(id(value))
        for place, module in value.named_modules(prefix=name):
            for key, item in list(vars(module).items()):
                if isinstance(item, Optimizer):
                    yield f"{place}.{key}", item
    elif isinstance(value, dict | list | tuple) and len(value) > _MOST_ITEMS:
        return
    elif isinstance(value, dict):
        seen.add(id(value))
        for key, item in list(value.items()):
            yield from _search(f"{name}.{key}", item, depth, seen)
    elif isinstance(value, list | tuple):
        seen.add(id(value))
        for index, item in enumerate(value):
            yield from _search(f"{name}.{index}", item, depth, seen)
    elif depth > 0 and isinstance(getattr(value, "__dict__", None), dict) and _is_of_user(value):
        seen.add(id(value))
        for key, item in list(vars(value).items()):
            yield from _search(f"{name}.{key}", item, depth - 1, seen)


def _is_of_user(value: object) -> bool:
    """Return whether an object may hold optimizers of the model; a trainer holds other things."""
    return type(value).__module__.partition(".")[0] != "helios"
