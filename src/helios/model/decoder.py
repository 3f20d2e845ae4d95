"""The way back from nodes to the values of attributes, on the same objects."""

import collections
import enum
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from helios.model import constants
from helios.model.values import (
    FACTORIES,
    MAPPINGS,
    SEQUENCES,
    Known,
    Node,
    Weights,
    is_dense,
    memory_of,
    place_of,
)


class MissingError(LookupError):
    """Raised if a value holds an object that set-up does not create any more."""


class Decoder:
    """Converts nodes to values again.

    Args:
        known: the objects that exist at the end of set-up in this process.
        weights: the parameters and buffers in this process.
        device: the device of the run.
        renew: ``True`` to create lists and the like anew, because users may hold the known ones.
    """

    def __init__(
        self, known: Known, weights: Weights, device: torch.device, *, renew: bool = False
    ) -> None:
        self._known = known
        self._weights = weights
        self._device = device
        self._numbered: dict[int, Any] = {}
        self._renewed: dict[str, Any] | None = {} if renew else None
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
        if kind == "enum":
            return _class_of(node, enum.Enum).__members__[node["value"]]
        if kind == "same":
            return self._numbered[node["number"]]
        known = self._known.get(node["was"])
        if kind == "tensor":
            value = self._tensor(node, known, current)
        elif kind in ("array", "bytearray", "namespace"):
            value = self._mutable(node, known)
        elif kind in ("random", "generator", "random-state"):
            value = self._generator(node, known)
        elif kind == "namedtuple":
            # Its constructor may be the user's, and is not needed.
            value = tuple.__new__(_class_of(node, tuple), map(self.decode, node["items"]))
        elif kind in MAPPINGS or kind in SEQUENCES:
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
            self._numbered[number] = SEQUENCES[kind](map(self.decode, node["items"]))
            return self._numbered[number]
        if self._renewed is not None:
            factory = getattr(known, "default_factory", None)
            known = self._renewed.setdefault(node["was"], _create(node))
            if kind == "defaultdict":
                known.default_factory = factory
        value = known if type(known) is (MAPPINGS | SEQUENCES)[kind] else _create(node)
        if kind == "deque" and value.maxlen != node["maxlen"]:
            value = _create(node)
        self._numbered[number] = value  # before its items, which may hold it
        if kind in MAPPINGS:
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
        if node.get("value") is None:
            raise MissingError(node["was"])  # a digest is left of it
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
        if not is_dense(value) or not memory_of(value):
            return value.to(device, copy=True)
        key = memory_of(value), value.dtype, device
        if key not in self._memories:
            storage = value.untyped_storage()
            size = [storage.nbytes() // value.element_size()]
            whole = torch.empty(0, dtype=value.dtype, device=value.device)
            whole.set_(storage, 0, size, [1])
            self._memories[key] = whole.to(device, copy=True)
        offset, size, stride = place_of(value)
        return torch.as_strided(self._memories[key], size, stride, offset)

    def _device_for(self, saved: list[str], current: Any) -> torch.device:
        """Return the device that a tensor had; on another kind of machine, that of today."""
        device, of_run = map(torch.device, saved)
        if of_run.type != self._device.type and isinstance(current, torch.Tensor):
            return current.device
        return self._device if device == of_run else device

    def _mutable(self, node: dict[str, Any], known: Any) -> Any:
        if node["kind"] == "bytearray":
            known = known if type(known) is bytearray and self._renewed is None else bytearray()
            known[:] = bytes.fromhex(node["value"])
            return known
        if node["kind"] == "namespace":
            is_kept = type(known) is types.SimpleNamespace and self._renewed is None
            known = known if is_kept else types.SimpleNamespace()
            items = self.decode(node["items"])
            vars(known).clear()
            vars(known).update(items)
            return known
        array = node["value"].numpy().copy()
        if type(known) is not np.ndarray or known.shape != array.shape:
            return array
        if known.dtype != array.dtype or not known.flags.writeable:
            return array
        known[...] = array
        return known

    def _generator(self, node: dict[str, Any], known: Any) -> Any:
        state = self.decode(node["items"])
        if node["kind"] == "random":
            value = known if type(known) is random.Random else random.Random()
            value.setstate(state)
            return value
        if node["kind"] == "random-state":
            known = known if type(known) is np.random.RandomState else np.random.RandomState()
            known.set_state(state)
            return known
        name = state["bit_generator"]
        if type(known) is not np.random.Generator or type(known.bit_generator).__name__ != name:
            known = np.random.Generator(getattr(np.random, name)())
        known.bit_generator.state = state
        return known


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    **constants.DECODERS,
    "int": lambda text: int(text, 16),
    "scalar": lambda tensor: tensor.numpy()[0],
}


def _class_of(node: dict[str, Any], base: type) -> Any:
    """Return the class of a node; it must be imported already."""
    found = constants.find_class(node["type"], base)
    if found is None or (base is tuple and not hasattr(found, "_fields")):
        raise MissingError(f"class {node['type'].replace(':', '.')}")
    return found


def _fits(known: torch.Tensor, value: torch.Tensor) -> bool:
    is_expanded = any(step == 0 and size > 1 for step, size in _steps(known))
    is_alike = known.shape == value.shape and known.dtype == value.dtype
    return is_alike and known.is_leaf and not is_expanded


def _steps(tensor: torch.Tensor) -> list[tuple[int, int]]:
    return list(zip(tensor.stride(), tensor.shape, strict=True)) if is_dense(tensor) else []


def _create(node: dict[str, Any]) -> Any:
    kind = node["kind"]
    if kind == "deque":
        return collections.deque(maxlen=node["maxlen"])
    if kind == "defaultdict":
        return collections.defaultdict(FACTORIES.get(node["factory"]))
    return (MAPPINGS | SEQUENCES)[kind]()
