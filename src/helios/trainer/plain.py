"""Plain data: what a checkpoint may hold, how large it is, and a copy that nobody changes."""

import collections
from collections.abc import Iterator
from typing import Any

import torch

from helios.errors import CheckpointError

_LARGEST_INT = 255 * 8 - 1  # bits: PyTorch's safe unpickler reads integers of up to 255 bytes
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.nn.Parameter)
_PLAIN_TORCH = (torch.device, torch.dtype, torch.Size)
_CONTAINERS = (list, tuple, dict, set, collections.OrderedDict)


def check(value: Any, where: str = "") -> None:
    """Refuse what ``torch.load(weights_only=True)`` would refuse, while nothing is lost yet.

    Args:
        value: what is to be saved.
        where: the place of the value in the checkpoint, for the message.

    Raises:
        CheckpointError: the value, or one inside it, is not plain; the message says where it is.
    """
    is_odd = value == b"" if type(value) is bytes else _is_huge(value)
    if (not is_odd and type(value) in _PLAIN) or isinstance(value, _PLAIN_TORCH):
        return
    if is_odd or type(value) not in _CONTAINERS:
        raise CheckpointError(
            f"cannot save checkpoint entry {where}: it is a {type(value).__module__}."
            f"{type(value).__qualname__}, which could not be loaded again safely. State must be"
            " plain: numbers, strings, tensors, and lists, tuples and dictionaries of them."
        )
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            check(key, f"{where}, key {key!r}")
        check(item, f"{where}[{key!r}]")


def _is_huge(value: Any) -> bool:
    return type(value) is int and value.bit_length() > _LARGEST_INT


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Iterate over all tensors in plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) in _CONTAINERS:
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def size(value: Any) -> int:
    """Return how many bytes the tensors in plain containers take, shared memory counted once."""
    dense = [tensor for tensor in tensors(value) if tensor.layout is torch.strided]
    return sum({_identity(tensor): tensor.untyped_storage().nbytes() for tensor in dense}.values())


class Snapshots:
    """Copies plain data into host memory, so that training may go on and change the original.

    The memory of a copy is used again for the next one: it takes a multiple of the time to get
    new pages from the system. So a copy is good until the next one is taken.
    """

    def __init__(self) -> None:
        self._previous: dict[int, torch.UntypedStorage] = {}
        self._current: dict[int, torch.UntypedStorage] = {}

    def take(self, value: Any) -> Any:
        """Copy what :func:`check` lets pass.

        Tensors that share memory share the copy of it, as they would in a file.
        """
        self._previous, self._current = self._current, {}
        copied = self._copy(value)
        self._previous = {}
        return copied

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value)
        if type(value) not in _CONTAINERS:
            return value  # cannot change
        if not isinstance(value, dict):
            return type(value)(self._copy(item) for item in value)
        copied = type(value)((key, self._copy(item)) for key, item in value.items())
        if isinstance(value, collections.OrderedDict):
            vars(copied).update(vars(value))  # the versions of a module's parts
        return copied

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        plain = tensor.detach()
        is_lazy = plain.is_conj() or plain.is_neg()
        if plain.layout is torch.strided and not plain.is_quantized and not is_lazy:
            place = plain.storage_offset(), plain.size(), plain.stride()
            copied = torch.empty(0, dtype=plain.dtype).set_(self._copy_memory(plain), *place)
        else:
            copied = plain.to("cpu", copy=True)
        if type(tensor) is torch.nn.Parameter:
            return torch.nn.Parameter(copied, tensor.requires_grad)
        return copied.requires_grad_(tensor.requires_grad)

    def _copy_memory(self, tensor: torch.Tensor) -> torch.UntypedStorage:
        identity = _identity(tensor)
        if identity not in self._current:
            new: Any = torch.UntypedStorage  # torch leaves it and its methods untyped
            storage: Any = tensor.untyped_storage()
            copied: Any = self._previous.get(identity)
            if copied is None or copied.nbytes() != storage.nbytes():
                copied = new(storage.nbytes())
            self._current[identity] = copied.copy_(storage)
        return self._current[identity]


def _identity(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # what torch.save tells storages apart by
