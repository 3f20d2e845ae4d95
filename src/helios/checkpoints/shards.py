"""Tensors that ranks have divided among themselves, and the values around them."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from helios.checkpoints import plain

PER_RANK = None
"""The step in the path of a tensor that stands for the number of a rank."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of a divided tensor that this process holds.

    Attributes:
        local: the part, in memory of this process.
        offsets: the place of its first element in the whole tensor.
        shape: the shape of the whole tensor.
    """

    local: torch.Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


class Shards:
    """The divided tensors of a checkpoint, which are not in the file with all other values.

    Attributes:
        parts: the part of each tensor in this process, by a name that is the same in all ranks.
        table: for each tensor its ``name``, its ``path`` in the payload, and the ``dim`` along
            which it is divided; ``None`` if it is not divided along one dimension.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Shard] = {}
        self.table: list[dict[str, Any]] = []

    def local(self) -> dict[str, torch.Tensor]:
        """Return the parts in this process."""
        return {name: part.local for name, part in self.parts.items()}

    def replaced(self, local: Mapping[str, torch.Tensor]) -> "Shards":
        """Return the same tensors with copies of the parts in this process."""
        copy = Shards()
        copy.table = self.table
        copy.parts = {
            name: dataclasses.replace(part, local=local[name]) for name, part in self.parts.items()
        }
        return copy

    def take(self, state: Any, *path: Any) -> Any:
        """Return a state with tensors without values in place of divided ones.

        Args:
            state: plain containers, with tensors in them.
            path: the keys under which a checkpoint holds the state.

        Raises:
            CheckpointError: a state with divided tensors is not plain. Other states stay as they
                are, and the save checks them.
        """
        if not _has_divided(state):
            return state
        plain.check(state, "".join(f"[{step!r}]" for step in path if step is not PER_RANK))
        return _mapped(state, path, self._take)

    def _take(self, value: Any, path: tuple[Any, ...]) -> Any:
        if not plain.is_divided(value):
            return value
        name = ".".join(str(step) for step in path if step is not PER_RANK)
        if name in self.parts:  # "a.b" is one key or two
            name = f"{name}#{len(self.parts)}"
        dims = [each.dim for each in value.placements if each.is_shard()]
        chunks = value.__create_chunk_list__()
        local = value.detach().to_local()
        offsets = tuple(chunks[0].offsets) if chunks else (0,) * value.dim()
        self.parts[name] = Shard(local, offsets, tuple(value.shape))
        dim = dims[0] if len(dims) == 1 else None
        self.table.append({"name": name, "path": list(path), "dim": dim})
        return torch.empty(value.shape, dtype=value.dtype, device="meta")


def filled(payload: dict[str, Any], tensors: Mapping[tuple[Any, ...], Any]) -> dict[str, Any]:
    """Return the content of a checkpoint with its divided tensors.

    Args:
        payload: the content, with tensors without values.
        tensors: the tensors by path.
    """
    per_rank = {path[0] for path in tensors if path[1] is PER_RANK}

    def find(value: Any, path: tuple[Any, ...]) -> Any:
        return tensors.get(path, value) if isinstance(value, torch.Tensor) else value

    return {
        name: [_mapped(each, (name, PER_RANK), find) for each in part]
        if name in per_rank
        else _mapped(part, (name,), find)
        for name, part in payload.items()
    }


def _has_divided(state: Any) -> bool:
    """Return whether a state has divided tensors; it may contain itself, or be very deep."""
    seen: set[int] = set()
    waiting = [state]
    while waiting:
        value = waiting.pop()
        if plain.is_divided(value):
            return True
        if type(value) in plain.CONTAINERS and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return False


def _mapped(value: Any, path: tuple[Any, ...], function: Any) -> Any:
    """Return plain data with each value that is no container replaced by a function of it."""
    if type(value) in (list, tuple):
        items = enumerate(value)
        return type(value)(_mapped(each, (*path, index), function) for index, each in items)
    if type(value) in (dict, collections.OrderedDict):
        found = type(value)((k, _mapped(each, (*path, k), function)) for k, each in value.items())
        if isinstance(value, collections.OrderedDict):
            vars(found).update(vars(value))  # it holds the versions of a module's parts
        return found
    return function(value, path)
