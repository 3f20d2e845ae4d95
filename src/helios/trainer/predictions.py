"""The predictions of a run: collected in the order of the data, or passed to a writer."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from helios.core import Group

Writer = Callable[[Any, int], Any]
"""A function that receives the predictions for a batch, in host memory, and its number."""

Name = str | None
Numbers = Mapping[Name, int | None]


class Predictions:
    """Collects what the model predicts, by the names of the sets.

    Args:
        writer: receives the predictions instead, if they do not fit into memory.
        number_of: returns the number of a batch for the writer, given the name of its set and its
            number in this process.

    Attributes:
        is_complete: ``True`` if all batches were predicted.
    """

    def __init__(self, writer: Writer | None, number_of: Callable[[Name, int], int]) -> None:
        self._writer = writer
        self._number_of = number_of
        self._by_set: dict[Name, list[Any]] = {None: []}
        self._outputs = self._by_set[None]
        self._set_name: Name = None
        self.is_complete = False

    def begin_set(self, name: Name) -> None:
        """Collect the predictions of a set with a name; ``None`` after the last one."""
        if name is not None:
            self._set_name, self._outputs = name, []
            self._by_set[name] = self._outputs

    def add(self, outputs: Any, step: int) -> None:
        """Copy the predictions for a batch into host memory, and keep or write them."""
        outputs = _to_host(outputs)
        if self._writer is None:
            self._outputs.append(outputs)
        else:
            self._writer(outputs, self._number_of(self._set_name, step))

    def result(self, group: Group, divided: Collection[Name]) -> Any:
        """Return the predictions of the set, or those of each set by its name.

        Args:
            group: the processes of the run.
            divided: the names of the sets of which each process has predicted a part.
        """
        if self._writer is not None:
            return None
        whole, own = dict(self._by_set), {name: self._by_set[name] for name in divided}
        parts = group.gather(own)
        whole |= {name: [each for part in parts for each in part[name]] for name in own}
        named = {name: join(outputs) for name, outputs in whole.items() if name is not None}
        return named or join(whole[None])


def common_numbers(
    numbers: Numbers, divided: Collection[Name], group: Group, rank: int
) -> Callable[[Name, int], int]:
    """Return a function that gives batches numbers which no two batches of all ranks share.

    They are in the order of the data, as in one process, unless a set is a stream.

    Args:
        numbers: the number of batches of this rank in each set, by its name.
        divided: the names of the sets of which each rank reads a part.
        group: the processes of the run.
        rank: the number of this process.
    """
    ranks = group.gather(dict(numbers))
    if any(None in each.values() for each in ranks):
        return lambda name, step: step * len(ranks) + rank
    shifts: dict[Name, int] = {}
    here = everywhere = 0
    for name, own in numbers.items():
        counts = [each[name] or 0 for each in ranks] if name in divided else [own or 0]
        before = sum(counts[:rank]) if name in divided else 0
        shifts[name] = everywhere + before - here
        here, everywhere = here + (own or 0), everywhere + sum(counts)
    return lambda name, step: step + shifts[name]


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
