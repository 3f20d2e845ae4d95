"""The comparison of nodes, and digests of tensors that are too large to be copied."""

from typing import Any

import torch

from helios.model.values import Encoder, Known, Node, Weights, is_dense

_LARGE = 2**26  # bytes of a tensor of which a digest is kept, and no copy


def same(one: Node, other: Node) -> bool:
    """Return whether two nodes have the same value, bit for bit.

    A new object with an old value is no change, but a known object in the place of another is.

    Args:
        one: the earlier node.
        other: the later node.
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
        elif "digest" in other and "value" in one:
            one = _digested(one)
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
    elif is_dense(node["value"]) and node["value"].untyped_storage().nbytes() > _LARGE:
        reduce(node)
    else:
        node["value"] = node["value"].clone()


def reduce(node: dict[str, Any]) -> None:
    """Replace the tensor of a node by its digest."""
    if node["value"] is not None:
        digested = _digested(node)
        node.clear()
        node.update(digested)


def image(value: Any) -> Node:
    """Return the node of a plain value, with digests of its tensors."""
    encoder = Encoder(Known(), Weights({}, {}), torch.device("cpu"))
    node = encoder.encode(value, "")
    for each in encoder.tensors:
        reduce(each)
    return node


def _digested(node: dict[str, Any]) -> dict[str, Any]:
    """Return a node with a digest of its tensor, which a large tensor would have no memory for."""
    value = node["value"]
    node = {**node, "digest": [value.dtype, value.shape]}
    if is_dense(value):
        node["digest"] += digest(value)
    del node["value"]
    return node


def digest(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return numbers that depend on each byte of a tensor, in pieces; they stay on the device."""
    return [_digest(part) for part in torch.split(_bytes(tensor.detach()), _LARGE)]


def _digest(data: torch.Tensor) -> torch.Tensor:
    """Return a number that depends on each byte and its position; it stays on the device."""
    data = torch.nn.functional.pad(data, (0, -data.numel() % 8)).view(torch.int64)
    mixed = data + torch.arange(len(data), device=data.device) * 0x1E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    return (mixed ^ (mixed >> 32)).sum()
