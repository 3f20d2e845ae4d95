"""The values of attributes as plain data, with the identity of the objects among them.

A node is a number, a string or another plain scalar, or a dictionary with a ``kind``. Two nodes with
one ``number`` are one object. ``was`` is the path that an object had at the end of set-up: the same
object of another process is found there, and is changed in place, because others may hold it too.
"""

import collections
import pathlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from helios.model.stateful import Stateful

Node = Any

_SCALARS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Size)
_LARGEST_INT = 255 * 8 - 1  # bits that PyTorch's safe unpickler reads
_SEQUENCES = {t.__name__: t for t in (list, tuple, set, frozenset, collections.deque)}
_MAPPINGS: dict[str, Any] = {
    t.__name__: t
    for t in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
}
_FACTORIES = {t.__name__: t for t in (int, float, str, list, dict, set, bool)}
_LARGE = 2**26  # bytes of a tensor of which a digest is kept, and no copy


class MissingError(LookupError):
    """Raised if a value holds an object that set-up does not create any more."""


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

    Attributes:
        unsaved: paths and types of the objects that no node can hold.
        tensors: the nodes of tensors.
    """

    def __init__(
        self, known: Known, weights: Weights, device: torch.device, *, enroll: bool = False
    ) -> None:
        self.unsaved: list[tuple[str, str]] = []
        self.tensors: list[dict[str, Any]] = []
        self._known = known
        self._weights = weights
        self._device = device
        self._enroll = enroll
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []

    def encode(self, value: Any, path: str) -> Node:
        """Return the node of a value.

        Args:
            value: the value of an attribute, or one inside it.
            path: its path, for messages and to know it again.
        """
        if type(value) is int and value.bit_length() > _LARGEST_INT:
            return {"kind": "int", "value": hex(value)}
        if type(value) in _SCALARS:
            return value
        if isinstance(value, bytes | pathlib.PurePath | np.generic):
            return self._encode_constant(value, path)
        if id(value) in self._numbers:
            return {"kind": "same", "number": self._numbers[id(value)]}
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        if self._enroll:
            self._known.add(path, value)
        number, was = self._numbers[id(value)], self._known.path_of(value)
        node = self._encode_object(value, path, was)
        node.update(number=number, was=was)
        return node

    def _encode_constant(self, value: Any, path: str) -> Node:
        if type(value) is bytes:
            return {"kind": "bytes", "value": value.hex()}
        if type(value) in (pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath):
            return {"kind": "path", "value": str(value)}
        if isinstance(value, np.generic) and _is_numeric(value.dtype):
            return {"kind": "scalar", "value": torch.from_numpy(np.array(value).reshape(1))}
        return self._encode_unknown(value, path, None)

    def _encode_object(self, value: Any, path: str, was: str | None) -> dict[str, Any]:
        kind: Any = type(value)
        if kind in (torch.Tensor, torch.nn.Parameter):
            return self._encode_tensor(value, was)
        if kind is np.ndarray and _is_numeric(value.dtype):
            # A copy, because a checkpoint may be written while training continues.
            return {"kind": "array", "value": torch.from_numpy(np.array(value, order="C"))}
        if _SEQUENCES.get(kind.__name__) is kind:
            items: Any = enumerate(sorted(value, key=repr) if "set" in kind.__name__ else value)
            nodes = [self.encode(item, f"{path}.{index}") for index, item in items]
            node = {"kind": kind.__name__, "items": nodes}
            return {**node, "maxlen": value.maxlen} if kind is collections.deque else node
        if _MAPPINGS.get(kind.__name__) is kind:
            pairs = [
                [self.encode(key, f"{path}, key"), self.encode(item, f"{path}[{key!r}]")]
                for key, item in value.items()
            ]
            node = {"kind": kind.__name__, "items": pairs}
            if kind is collections.defaultdict:
                return {**node, "factory": self._factory(value.default_factory, path, was)}
            return node
        if kind is random.Random:
            return {"kind": "random", "items": self.encode(value.getstate(), f"{path}.state")}
        if kind is np.random.Generator:
            state = self.encode(value.bit_generator.state, f"{path}.state")
            return {"kind": "generator", "items": state}
        return self._encode_unknown(value, path, was)

    def _encode_unknown(self, value: Any, path: str, was: str | None) -> dict[str, Any]:
        """Return the node of an object that is known by its path alone."""
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if was is None:
            self.unsaved.append((path, name))
        if isinstance(value, Stateful) or isinstance(value, torch.Generator):
            return {"kind": "stateful", "type": name}
        return {"kind": "object", "type": name}

    def _factory(self, factory: Any, path: str, was: str | None) -> str | None:
        if factory is None or _FACTORIES.get(factory.__name__) is factory:
            return None if factory is None else str(factory.__name__)
        if was is None:
            self.unsaved.append((path, "collections.defaultdict"))
        return None

    def _encode_tensor(self, tensor: torch.Tensor, was: str | None) -> dict[str, Any]:
        node: dict[str, Any] = {"kind": "tensor", "is_parameter": _is_parameter(tensor)}
        node["requires_grad"] = tensor.requires_grad and tensor.is_leaf
        name, whole = self._weights.by_memory.get(memory_of(tensor), ("", tensor))
        if name and whole.dtype == tensor.dtype and not node["requires_grad"]:
            return {**node, "of": name, "place": _place(tensor)}
        owner = None if was is not None else self._known.path_of_memory(tensor)
        if owner is not None:
            node |= {"within": owner, "place": _place(tensor)}
        node["device"] = "run" if tensor.device == self._device else str(tensor.device)
        node["value"] = tensor.detach()
        self.tensors.append(node)
        return node


class Decoder:
    """Converts nodes to values again.

    Args:
        known: the objects that exist at the end of set-up in this process.
        weights: the parameters and buffers in this process.
        device: the device of the run.
    """

    def __init__(self, known: Known, weights: Weights, device: torch.device) -> None:
        self._known = known
        self._weights = weights
        self._device = device
        self._numbered: dict[int, Any] = {}
        self._memories: dict[Any, torch.Tensor] = {}

    def decode(self, node: Node, current: Any = None) -> Any:
        """Return the value of a node.

        Args:
            node: what an encoder returned.
            current: the value that will be replaced, which knows its device best.

        Raises:
            MissingError: the value holds an object that does not exist in this process.
        """
        if type(node) is not dict:
            return node
        kind = node["kind"]
        if kind in _CONSTANTS:
            return _CONSTANTS[kind](node["value"])
        if kind == "same":
            return self._numbered[node["number"]]
        known = self._known.get(node["was"])
        if kind == "tensor":
            value = self._tensor(node, known, current)
        elif kind in ("array", "random", "generator"):
            value = self._other(node, known)
        elif kind in _MAPPINGS or kind in _SEQUENCES:
            return self._container(node, known)
        elif known is None:
            raise MissingError(node["was"])
        else:
            value = known
        self._numbered[node["number"]] = value
        return value

    def _container(self, node: dict[str, Any], known: Any) -> Any:
        kind, number = node["kind"], node["number"]
        if kind in ("tuple", "frozenset"):
            items = map(self.decode, node["items"])
            self._numbered[number] = _SEQUENCES[kind](items)
            return self._numbered[number]
        value = known if type(known) is (_MAPPINGS | _SEQUENCES)[kind] else _create(node)
        if kind == "deque" and value.maxlen != node["maxlen"]:
            value = _create(node)
        self._numbered[number] = value  # before its items, which may hold it
        if kind in _MAPPINGS:
            pairs = [(self.decode(key), self.decode(item)) for key, item in node["items"]]
            value.clear()
            for key, item in pairs:
                value[key] = item
            return value
        items = [self.decode(item) for item in node["items"]]
        value.clear()
        value.update(items) if kind == "set" else value.extend(items)
        return value

    def _tensor(self, node: dict[str, Any], known: Any, current: Any) -> torch.Tensor:
        if "of" in node:
            whole = self._weights.by_name.get(node["of"])
            if whole is None:
                raise MissingError(node["of"])
            if isinstance(known, torch.Tensor) and memory_of(known) == memory_of(whole):
                return known
            offset, size, stride = node["place"]
            return torch.as_strided(whole.detach(), size, stride, offset)
        value: torch.Tensor = node["value"]
        if isinstance(known, torch.Tensor) and _fits(known, value):
            with torch.no_grad():
                known.copy_(value)
            return known.requires_grad_(node["requires_grad"])
        owner = self._known.get(node.get("within"))
        if isinstance(owner, torch.Tensor) and owner.dtype == value.dtype:
            offset, size, stride = node["place"]
            return torch.as_strided(owner.detach(), size, stride, offset).copy_(value)
        value = self._copy(value.detach(), self._device_for(node["device"], current))
        if node["is_parameter"]:
            return torch.nn.Parameter(value, node["requires_grad"])
        return value.requires_grad_(node["requires_grad"])

    def _copy(self, value: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Copy a tensor to a device; tensors that share memory share the copy of it."""
        if not _is_dense(value) or not memory_of(value):
            return value.to(device, copy=True)
        key = memory_of(value), value.dtype, device
        if key not in self._memories:
            storage = value.untyped_storage()
            whole = torch.empty(0, dtype=value.dtype, device=value.device).set_(
                storage, 0, (storage.nbytes() // value.element_size(),)
            )
            self._memories[key] = whole.to(device, copy=True)
        offset, size, stride = _place(value)
        return torch.as_strided(self._memories[key], size, stride, offset)

    def _device_for(self, saved: str, current: Any) -> torch.device:
        if saved == "run":
            return self._device
        is_moved = isinstance(current, torch.Tensor) and current.device.type != saved
        return current.device if is_moved and saved != "cpu" else torch.device(saved)

    def _other(self, node: dict[str, Any], known: Any) -> Any:
        if node["kind"] == "array":
            array = node["value"].numpy().copy()
            if type(known) is not np.ndarray or known.shape != array.shape:
                return array
            if known.dtype != array.dtype or not known.flags.writeable:
                return array
            known[...] = array
            return known
        state = self.decode(node["items"])
        if node["kind"] == "random":
            value = known if type(known) is random.Random else random.Random()
            value.setstate(state)
            return value
        name = state["bit_generator"]
        if type(known) is not np.random.Generator or type(known.bit_generator).__name__ != name:
            known = np.random.Generator(getattr(np.random, name)())
        known.bit_generator.state = state
        return known


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "path": pathlib.Path,
    "scalar": lambda tensor: tensor.numpy()[0],
}


def same(one: Node, other: Node) -> bool:
    """Return whether two nodes have the same value, bit for bit.

    A new object with an old value is no change, but a known object in the place of another is.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return _same_tensors(one, other)
    if isinstance(one, dict):
        if one.get("requires_grad") and other.get("requires_grad"):
            return True  # it is trained, so the model saves its value
        if "digest" in one and "value" in other:
            other = _digested(other)
        skipped = {"was", "device"}
        if other.get("was") not in (None, one.get("was")) or one.keys() != other.keys():
            return False
        return all(same(one[key], other[key]) for key in one if key not in skipped)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other) if isinstance(one, float | complex) else bool(one == other)


def _same_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    if one.layout is not torch.strided:
        return torch.equal(one.to_dense(), other.to_dense())
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def keep(node: dict[str, Any]) -> None:
    """Make the node of a tensor independent of what changes the tensor later."""
    if node["requires_grad"]:
        node["value"] = None  # never compared
    elif node["value"].untyped_storage().nbytes() > _LARGE and _is_dense(node["value"]):
        digested = _digested(node)
        node.clear()
        node.update(digested)
    else:
        node["value"] = node["value"].clone()


def _digested(node: dict[str, Any]) -> dict[str, Any]:
    """Return a node with a digest of its tensor, which a large tensor would have no memory for."""
    value = node["value"]
    node = {**node, "digest": [value.dtype, value.shape]}
    if _is_dense(value):
        node["digest"] += [_digest(part) for part in _bytes(value).split(_LARGE)]
    del node["value"]
    return node


def _digest(data: torch.Tensor) -> torch.Tensor:
    """Return a number that depends on each byte and its position; it stays on the device."""
    data = torch.nn.functional.pad(data, (0, -data.numel() % 8)).view(torch.int64)
    mixed = data + torch.arange(len(data), device=data.device) * 0x1E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    return (mixed ^ (mixed >> 32)).sum()


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided


def memory_of(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's memory, or 0 if it has none of its own."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def trim(nodes: list[dict[str, Any]]) -> None:
    """Copy tensors that are a small part of a memory which no other node uses.

    A file would hold all of that memory.
    """
    users = collections.Counter(memory_of(node["value"]) for node in nodes)
    for node in nodes:
        value = node["value"]
        if value.layout is torch.strided and users[memory_of(value)] == 1:
            if value.untyped_storage().nbytes() > value.numel() * value.element_size():
                node["value"] = value.clone()


def _place(tensor: torch.Tensor) -> list[Any]:
    return [tensor.storage_offset(), list(tensor.size()), list(tensor.stride())]


def _is_parameter(tensor: torch.Tensor) -> bool:
    return type(tensor) is torch.nn.Parameter


def _is_numeric(dtype: Any) -> bool:
    return dtype.kind in "biufc" and dtype.isnative and dtype.itemsize <= 16 and dtype.char != "g"


def _fits(known: torch.Tensor, value: torch.Tensor) -> bool:
    return known.shape == value.shape and known.dtype == value.dtype and known.is_leaf


def _create(node: dict[str, Any]) -> Any:
    kind = node["kind"]
    if kind == "deque":
        return collections.deque(maxlen=node["maxlen"])
    if kind == "defaultdict":
        return collections.defaultdict(_FACTORIES.get(node["factory"]))
    return (_MAPPINGS | _SEQUENCES)[kind]()

