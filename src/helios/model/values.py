"""The values of attributes as plain data, with the identity of the objects among them.

A node is a number, a string or another plain scalar, or a dictionary with a ``kind``. Nodes with
one ``number`` are one object. ``was`` is the path that an object had at the end of set-up. In
another process, the same object has this path. It is changed in place, because others may hold it.
"""

import collections
import io
import random
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from helios.model import constants
from helios.model.stateful import DEEPEST, Stateful, too_deep

Node = Any

_SCALARS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Size)
_LARGEST_INT = 255 * 8 - 1  # bits that PyTorch's safe unpickler reads
SEQUENCES: dict[str, Any] = {
    t.__name__: t for t in (list, tuple, set, frozenset, collections.deque)
}
MAPPINGS: dict[str, Any] = {
    t.__name__: t
    for t in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
}
FACTORIES: dict[str, Any] = {t.__name__: t for t in (int, float, str, list, dict, set, bool)}


class Known:
    """The objects that existed at the end of set-up, and their paths."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._objects: dict[str, Any] = {}  # also keeps them alive, so that ids stay unique
        self._by_memory: dict[int, str] = {}

    def add(self, path: str, value: Any) -> None:
        """Add an object; the first path of an object counts."""
        if id(value) not in self._paths and path not in self._objects:
            self._paths[id(value)] = path
            self._objects[path] = value
            if isinstance(value, torch.Tensor):
                self._by_memory.setdefault(memory_of(value), path)

    def path_of(self, value: Any) -> str | None:
        """Return the path of an object, or ``None`` for a newer one."""
        return self._paths.get(id(value))

    def path_of_memory(self, tensor: torch.Tensor) -> str | None:
        """Return the path of a tensor that uses the same memory, or ``None``."""
        path = self._by_memory.get(memory_of(tensor))
        owner = self.get(path)
        is_same = owner is not None and memory_of(owner) == memory_of(tensor) != 0
        return path if is_same and owner.dtype == tensor.dtype else None

    def get(self, path: str | None) -> Any:
        """Return the object of a path, or ``None``."""
        return None if path is None else self._objects.get(path)


class Weights(NamedTuple):
    """The parameters and buffers of the networks, by the memory that they use and by name."""

    by_memory: dict[int, tuple[str, torch.Tensor]]
    by_name: dict[str, torch.Tensor]


class Encoder:
    """Converts values to nodes.

    Args:
        known: the objects that existed at the end of set-up.
        weights: what the model saves anyway.
        device: the device of the run.
        enroll: ``True`` to add every object to ``known``.
        depth: how far to look into objects of users, whose content no node can hold.

    Attributes:
        content: the public attributes of such objects, as nodes, by the path of the object.
        unsaved: paths and types of the objects that no node can hold.
        iterators: paths of iterators, and a text about them. Their positions change unseen.
        tensors: the nodes of tensors.
        tensors_inside: the nodes of tensors in ``content``.
    """

    def __init__(
        self,
        known: Known,
        weights: Weights,
        device: torch.device,
        *,
        enroll: bool = False,
        depth: int = 0,
    ) -> None:
        self.content: dict[str, list[Node]] = {}
        self.unsaved: list[tuple[str, str]] = []
        self.iterators: list[tuple[str, str]] = []
        self.tensors: list[dict[str, Any]] = []
        self.tensors_inside: list[dict[str, Any]] = []
        self._known = known
        self._weights = weights
        self._device = device
        self._enroll = enroll
        self._depth = depth
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._level = 0

    def encode(self, value: Any, path: str) -> Node:
        """Return the node of a value.

        Args:
            value: the value of an attribute, or one inside it.
            path: its path, for messages and to know it again.

        Raises:
            CheckpointError: the value is too deep.
        """
        if type(value) is int and value.bit_length() > _LARGEST_INT:
            return {"kind": "int", "value": hex(value)}
        if type(value) in _SCALARS:
            return value
        if isinstance(value, np.generic) and _is_numeric(value.dtype):
            return {"kind": "scalar", "value": torch.from_numpy(np.array(value).reshape(1))}
        if (constant := constants.encode(value)) is not None:
            return constant
        if id(value) in self._numbers:
            return {"kind": "same", "number": self._numbers[id(value)]}
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        if self._enroll:
            self._known.add(path, value)
        number, was = self._numbers[id(value)], self._known.path_of(value)
        if self._level > DEEPEST:
            raise too_deep(path)
        self._level += 1
        node = self._encode_object(value, path, was)
        self._level -= 1
        node.update(number=number, was=was)
        return node

    def _encode_object(self, value: Any, path: str, was: str | None) -> dict[str, Any]:
        kind: Any = type(value)
        if kind in (torch.Tensor, torch.nn.Parameter):
            return self._encode_tensor(value, was)
        if kind is np.ndarray and _is_numeric(value.dtype):
            # A copy, because a checkpoint may be written while training continues.
            return {"kind": "array", "value": torch.from_numpy(np.array(value, order="C"))}
        label: str = kind.__name__
        if SEQUENCES.get(label) is kind:
            items: Any = enumerate(_sorted(value, path) if "set" in label else value)
            nodes = [self.encode(item, f"{path}.{index}") for index, item in items]
            node = {"kind": label, "items": nodes}
            return {**node, "maxlen": value.maxlen} if kind is collections.deque else node
        if MAPPINGS.get(label) is kind:
            pairs = [
                [self.encode(key, f"{path}, key"), self.encode(item, f"{path}[{key!r}]")]
                for key, item in value.items()
            ]
            node = {"kind": label, "items": pairs}
            if kind is collections.defaultdict:
                return {**node, "factory": self._factory(value.default_factory, path, was)}
            return node
        if constants.is_named_tuple(value):
            nodes = [self.encode(item, f"{path}.{index}") for index, item in enumerate(value)]
            return {"kind": "namedtuple", "type": constants.name_of(kind), "items": nodes}
        if kind is bytearray:
            return {"kind": "bytearray", "value": value.hex()}
        if kind is types.SimpleNamespace:
            return {"kind": "namespace", "items": self.encode(dict(vars(value)), path)}
        if kind is random.Random:
            return {"kind": "random", "items": self.encode(value.getstate(), f"{path}.state")}
        if kind is np.random.Generator:
            state = self.encode(value.bit_generator.state, f"{path}.state")
            return {"kind": "generator", "items": state}
        if kind is np.random.RandomState:
            state = self.encode(value.get_state(legacy=False), f"{path}.state")
            return {"kind": "random-state", "items": state}
        return self._encode_unknown(value, path, was)

    def _encode_unknown(self, value: Any, path: str, was: str | None) -> dict[str, Any]:
        """Return the node of an object that is known by its path alone."""
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if was is None:
            self.unsaved.append((path, name))
        if isinstance(value, Stateful | torch.Generator):
            return {"kind": "stateful", "type": name}
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            self.iterators.append((path, f"the position of the {type(value).__name__}"))
        if self._depth > 0 and _is_of_user(value):
            self._look_into(value, was or path)
        is_known = was is not None or _are_equal(value, self._known.get(path))
        return {"kind": "object", "type": name, "is_known": is_known}

    def _look_into(self, value: Any, path: str) -> None:
        inner = Encoder(
            self._known, self._weights, self._device, enroll=self._enroll, depth=self._depth - 1
        )
        public = [(name, each) for name, each in vars(value).items() if not name.startswith("_")]
        nodes = [[name, inner.encode(each, f"{path}.{name}")] for name, each in public]
        nodes += inner.encode(_items_of(value), f"{path}.items")["items"]
        self.content |= {path: nodes, **inner.content}
        self.iterators += inner.iterators
        self.tensors_inside += [*inner.tensors, *inner.tensors_inside]

    def _factory(self, factory: Any, path: str, was: str | None) -> str | None:
        if factory is None or FACTORIES.get(factory.__name__) is factory:
            return None if factory is None else str(factory.__name__)
        if was is None:
            self.unsaved.append((path, "collections.defaultdict"))
        return None

    def _encode_tensor(self, tensor: torch.Tensor, was: str | None) -> dict[str, Any]:
        node: dict[str, Any] = {"kind": "tensor", "is_parameter": _is_parameter(tensor)}
        node["requires_grad"] = tensor.requires_grad and tensor.is_leaf
        name, whole = self._weights.by_memory.get(memory_of(tensor), ("", tensor))
        if name and whole.dtype == tensor.dtype and not node["requires_grad"]:
            return {**node, "of": name, "place": place_of(tensor)}
        owner = None if was is not None else self._known.path_of_memory(tensor)
        if owner is not None:
            node |= {"within": owner, "place": place_of(tensor)}
        node["device"] = [str(tensor.device), str(self._device)]
        node["value"] = tensor.detach()
        self.tensors.append(node)
        return node


def _sorted(values: Any, path: str) -> list[Any]:
    try:
        return sorted(values, key=repr)
    except RecursionError:
        raise too_deep(path) from None


def is_dense(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has a memory that views may share."""
    # A lazy parameter has neither shape nor memory yet; one that FSDP2 divides has it elsewhere.
    is_divided = hasattr(tensor, "device_mesh")
    return tensor.layout is torch.strided and not is_divided and not is_lazy(tensor)


def memory_of(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's memory, or 0 if it has none of its own."""
    return tensor.untyped_storage().data_ptr() if is_dense(tensor) else 0


def trim(nodes: list[dict[str, Any]]) -> None:
    """Copy tensors that are a small part of a memory which no other node uses.

    A file would hold all of that memory.
    """
    users = collections.Counter(memory_of(node["value"]) for node in nodes)
    for node in nodes:
        value = node["value"]
        size = value.numel() * value.element_size()
        is_alone = is_dense(value) and users[memory_of(value)] == 1
        if is_alone and value.untyped_storage().nbytes() > size:
            node["value"] = value.clone()


def place_of(tensor: torch.Tensor) -> list[Any]:
    """Return where a tensor is in its memory."""
    return [tensor.storage_offset(), list(tensor.size()), list(tensor.stride())]


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:
        return False


def _items_of(value: Any) -> list[Any]:
    """Return what an object holds if its class derives from a list, a dictionary or a set."""
    if isinstance(value, dict):
        return [list(pair) for pair in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return list(value) if isinstance(value, list | tuple | collections.deque) else []


def _is_of_user(value: Any) -> bool:
    package = type(value).__module__.partition(".")[0]
    known = {"helios", "torch", "numpy", *sys.stdlib_module_names} - {"collections"}  # UserDict
    is_foreign = package in known
    is_dataset = isinstance(value, torch.utils.data.Dataset)  # large, and no state of training
    return not is_foreign and not is_dataset and isinstance(getattr(value, "__dict__", None), dict)


def _is_parameter(tensor: torch.Tensor) -> bool:
    return type(tensor) is torch.nn.Parameter


def _is_numeric(dtype: Any) -> bool:
    return dtype.kind in "biufc" and dtype.isnative and dtype.itemsize <= 16 and dtype.char != "g"
