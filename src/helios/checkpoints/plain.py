"""Plain data: the values that a checkpoint may hold, and their size."""

import collections
from collections.abc import Iterator
from typing import Any

import torch

from helios.errors import CheckpointError

_LARGEST_INT = 255 * 8 - 1  # bits: PyTorch's safe unpickler reads integers of up to 255 bytes
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.nn.Parameter)
_PLAIN_TORCH = (torch.device, torch.dtype, torch.Size)
_DEEPEST = 100  # levels of containers; PyTorch writes them by recursion
_LONGEST_PLACE = 200
CONTAINERS = (list, tuple, dict, set, collections.OrderedDict, collections.Counter)
"""The types that may contain other plain values."""


def check(value: Any, where: str = "") -> None:
    """Raise an error for a value that ``torch.load(weights_only=True)`` would not load.

    This check runs before a save, when the value is not lost yet.

    Args:
        value: the value to save.
        where: the location of the value in the checkpoint, for the message.

    Raises:
        CheckpointError: the value, or one inside it, is not plain; the message names its location.
    """
    _check(value, where, set())


def _check(value: Any, where: str, around: set[int]) -> None:
    """Do the work of :func:`check`; the ids of the containers around the value are known."""
    if is_divided(value):
        return  # each rank saves its part
    is_odd = value == b"" if type(value) is bytes else _is_huge(value)
    if (not is_odd and type(value) in _PLAIN) or isinstance(value, _PLAIN_TORCH):
        return
    if is_odd or type(value) not in CONTAINERS:
        raise CheckpointError(
            f"cannot save checkpoint entry {where}: it is a {type(value).__module__}."
            f"{type(value).__qualname__}, which could not be loaded again safely. State must be"
            " plain: numbers, strings, tensors, and lists, tuples and dictionaries of them."
        )
    if id(value) in around or len(around) >= _DEEPEST:
        reason = (
            "contains itself" if id(value) in around else f"is more than {_DEEPEST} levels deep"
        )
        raise CheckpointError(
            f"cannot save checkpoint entry {where[:_LONGEST_PLACE]}: it {reason}. State must be"
            " plain: save a flat list or dictionary, with numbers in place of references."
        )
    around.add(id(value))
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            _check(key, f"{where}, key {key!r}", around)
        _check(item, f"{where}[{key!r}]", around)
    around.discard(id(value))


def is_divided(value: Any) -> bool:
    """Return whether a value is a tensor that ranks have divided among themselves."""
    return isinstance(value, torch.Tensor) and hasattr(value, "device_mesh")


def _is_huge(value: Any) -> bool:
    return type(value) is int and value.bit_length() > _LARGEST_INT


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Iterate over all tensors in plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) in CONTAINERS:
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def size(value: Any) -> int:
    """Return the size of the tensors in plain containers, in bytes; count shared memory once."""
    dense = [tensor for tensor in tensors(value) if tensor.layout is torch.strided]
    return sum({identity(tensor): tensor.untyped_storage().nbytes() for tensor in dense}.values())


def identity(tensor: torch.Tensor) -> int:
    """Return a number that is equal for two tensors if they share memory."""
    storage = tensor.untyped_storage()
    return int(storage._cdata)  # noqa: SLF001 - torch.save identifies storages by it
