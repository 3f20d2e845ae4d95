"""Comparisons of states and batches bit for bit, which name the first difference."""

import dataclasses
import hashlib
import reprlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_MISSING = object()
_SHOWN = 4  # numbers of a tensor in messages


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first place at which two values differ.

    Attributes:
        place: the keys and indices that lead to the place; empty for the values themselves.
        left: the first value there, as text.
        right: the second value there, as text.
    """

    place: str
    left: str
    right: str


def equal(left: Any, right: Any) -> bool:
    """Return whether two states, including their tensors, are equal bit for bit."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        same_kind = left.dtype == right.dtype and left.shape == right.shape
        return same_kind and torch.equal(_bytes(left), _bytes(right))
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return bool(left == right)


def difference(left: Any, right: Any, place: str = "") -> Difference | None:
    """Return the first difference of two states, or ``None`` if they are equal bit for bit.

    Args:
        left: the first state.
        right: the second state.
        place: the place of both in a larger state.
    """
    if left is not _MISSING and right is not _MISSING and equal(left, right):
        return None
    for key, first, second in _items(left, right):
        if (inner := difference(first, second, f"{place}[{key!r}]")) is not None:
            return inner
    if isinstance(left, dict) and isinstance(right, dict):
        return Difference(place, f"the keys {list(left)}", f"the keys {list(right)}")
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return _first_element(left, right, place)
    return Difference(place, _text(left), _text(right))


def _items(left: Any, right: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Iterate over the keys of two containers of the same type, with the items of both."""
    if type(left) is not type(right):
        return
    if isinstance(left, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            yield key, left.get(key, _MISSING), right.get(key, _MISSING)
    elif isinstance(left, list | tuple):
        for index in range(max(len(left), len(right))):
            first, second = (
                each[index] if index < len(each) else _MISSING for each in (left, right)
            )
            yield index, first, second


def _first_element(left: torch.Tensor, right: torch.Tensor, place: str) -> Difference:
    """Return the first difference of two tensors that are not equal."""
    if left.dtype != right.dtype or left.shape != right.shape or not left.ndim:
        return Difference(place, _text(left), _text(right))
    rows = [_bytes(each).reshape(left.numel(), -1) for each in (left, right)]
    position = int((rows[0] != rows[1]).any(dim=1).nonzero()[0])
    index = [int(each) for each in torch.unravel_index(torch.tensor(position), left.shape)]
    values = [repr(each[tuple(index)].item()) for each in (left, right)]
    return Difference(f"{place}{index}", *values)


def _text(value: Any) -> str:
    """Return a short text for a value."""
    if value is _MISSING:
        return "nothing"
    if not isinstance(value, torch.Tensor):
        return reprlib.repr(value)
    kind = f"{value.dtype} of shape {list(value.shape)}"
    if value.layout is not torch.strided or not value.numel():
        return kind
    first = [repr(number.item()) for number in value.detach().reshape(-1)[:_SHOWN]]
    more = ["..."] if value.numel() > _SHOWN else []
    return f"{kind}: {', '.join([*first, *more])}"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor.

    Bytes compare exactly; values do not, since NaN differs from itself and -0.0 equals 0.0.
    """
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def digest(value: Any) -> dict[str, tuple[str, str]]:
    """Return the leaves of a batch: by place, a text and a checksum of each.

    A batch may change after the call. The device of a tensor does not count.
    """
    return {place: (_text(leaf), _checksum(leaf)) for place, leaf in _leaves(value, "", ())}


def _leaves(value: Any, place: str, around: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if id(value) in around:
        return
    around = (*around, id(value))
    if isinstance(value, torch.Tensor | str | bytes):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}[{key!r}]", around)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}[{index}]", around)
    elif hasattr(value, "__array__"):
        yield place, torch.as_tensor(value)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        for name, item in vars(value).items():
            yield from _leaves(item, f"{place}.{name}", around)
    else:
        yield place, value


def _checksum(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        dense = leaf if leaf.layout is torch.strided else leaf.to_dense()
        content = bytes(str((dense.dtype, list(dense.shape))), "ascii") + bytes(
            _bytes(dense).numpy().data
        )
    elif isinstance(leaf, bool | int | float | complex | str | bytes | None):
        content = bytes(repr(leaf), "utf-8", "backslashreplace")
    else:
        content = bytes(type(leaf).__qualname__, "utf-8")  # its repr may hold an address
    return hashlib.sha256(content).hexdigest()
