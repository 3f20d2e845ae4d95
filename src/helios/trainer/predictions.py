"""The predictions of a run: collected in the order of the data, or passed to a writer."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from helios.core import Group

Writer = Callable[[Any, int], Any]
"""A function that receives the predictions for a batch, in host memory, and its number."""


class Predictions:
    """Collects what the model predicts, by the names of the sets.

    Args:
        writer: receives the predictions instead, if they do not fit into memory.

    Attributes:
        is_complete: ``True`` if all batches were predicted.
    """

    def __init__(self, writer: Writer | None) -> None:
        self._writer = writer
        self._by_set: dict[str | None, list[Any]] = {None: []}
        self._outputs = self._by_set[None]
        self.is_complete = False

    def begin_set(self, name: str | None) -> None:
        """Collect the predictions of a set with a name; ``None`` after the last one."""
        if name is not None:
            self._outputs = self._by_set[name] = []

    def add(self, outputs: Any, step: int) -> None:
        """Copy the predictions for a batch into host memory, and keep or write them."""
        outputs = _to_host(outputs)
        if self._writer is None:
            self._outputs.append(outputs)
        else:
            self._writer(outputs, step)

    def result(self, group: Group) -> Any:
        """Return the predictions of the set, or those of each set by its name.

        Args:
            group: the processes that have predicted a part of each set.
        """
        if self._writer is not None:
            return None
        parts = group.gather(self._by_set)
        whole = {name: [each for part in parts for each in part[name]] for name in self._by_set}
        named = {name: join(outputs) for name, outputs in whole.items() if name is not None}
        return named or join(whole[None])


def join(outputs: list[Any]) -> Any:
    """Return the predictions for all batches as one object of the same structure.

    Tensors and arrays are joined along their first dimension; if their other dimensions differ,
    the result is the list of their rows. Lists are joined, and the parts of tuples and dictionaries
    each for itself. Of anything else, the result is a list with an item for each batch.
    """
    first: Any = outputs[0] if outputs else None
    if _are(outputs, torch.Tensor) and all(each.dim() for each in outputs):
        same = len({(each.shape[1:], each.dtype) for each in outputs}) == 1
        return torch.cat(outputs) if same else [row for each in outputs for row in each]
    if _are(outputs, np.ndarray) and all(each.ndim for each in outputs):
        same = len({(each.shape[1:], each.dtype) for each in outputs}) == 1
        return np.concatenate(outputs) if same else [row for each in outputs for row in each]
    if _are(outputs, list):
        return [item for each in outputs for item in each]
    if _are(outputs, Mapping) and len({frozenset(each) for each in outputs}) == 1:
        return {key: join([each[key] for each in outputs]) for key in first}
    if _are(outputs, tuple) and len({len(each) for each in outputs}) == 1:
        parts = [join(list(part)) for part in zip(*outputs, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return outputs


def _are(outputs: list[Any], kind: type) -> bool:
    return bool(outputs) and all(isinstance(each, kind) for each in outputs)


def _to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _to_host(item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [_to_host(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return [_to_host(item) for item in value] if isinstance(value, list) else value
