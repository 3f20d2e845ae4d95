"""Copies of plain data in host memory, which training does not change."""

import collections
from typing import Any

import torch

from helios.checkpoints import plain


class Snapshots:
    """Copies plain data into host memory, so that training can continue and change the original.

    The next copy reuses the memory of the last one, because new memory pages cost several times
    as long. So a copy is valid only until the next one is taken.
    """

    def __init__(self) -> None:
        self._previous: dict[int, torch.UntypedStorage] = {}
        self._current: dict[int, torch.UntypedStorage] = {}

    def take(self, value: Any) -> Any:
        """Return a copy of a value that :func:`plain.check` accepts.

        Tensors that share memory share its copy, too, as in a file.
        """
        self._previous, self._current = self._current, {}
        copied = self._copy(value)
        self._previous = {}
        return copied

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value)
        if type(value) not in plain.CONTAINERS:
            return value  # immutable
        if not isinstance(value, dict):
            return type(value)(self._copy(item) for item in value)
        copied = type(value)({key: self._copy(item) for key, item in value.items()})
        if isinstance(value, collections.OrderedDict):
            vars(copied).update(vars(value))  # it holds the versions of a module's parts
        return copied

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:
            return tensor  # without values
        detached = tensor.detach()
        is_lazy = detached.is_conj() or detached.is_neg()
        if detached.layout is torch.strided and not detached.is_quantized and not is_lazy:
            place = detached.storage_offset(), detached.size(), detached.stride()
            copied = torch.empty(0, dtype=detached.dtype).set_(self._copy_memory(detached), *place)
        else:
            copied = detached.to("cpu", copy=True)
        if type(tensor) is torch.nn.Parameter:
            return torch.nn.Parameter(copied, tensor.requires_grad)
        return copied.requires_grad_(tensor.requires_grad)

    def _copy_memory(self, tensor: torch.Tensor) -> torch.UntypedStorage:
        key = plain.identity(tensor)
        if key not in self._current:
            new: Any = torch.UntypedStorage  # torch leaves it and its methods untyped
            storage: Any = tensor.untyped_storage()
            copied: Any = self._previous.get(key)
            if copied is None or copied.nbytes() != storage.nbytes():
                copied = new(storage.nbytes())
            self._current[key] = copied.copy_(storage)
        return self._current[key]
