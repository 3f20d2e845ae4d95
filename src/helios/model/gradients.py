"""Averages over ranks that PyTorch's wrappers do not compute: gradients, weights, first values."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from helios.errors import ConfigurationError

_BUCKET = 2**23  # numbers in one message


class Mean:
    """Replaces the gradients of parameters by their means over all ranks.

    If a rank has no gradient of a parameter, it counts as 0. If no rank has one, none has one
    afterwards, as in one process.

    Gradients of one type travel together. Their places in a message depend on the parameters alone,
    and so does the order in which the numbers of several ranks are added.

    Args:
        parameters: the same parameters in each rank, in the same order.
        sparse: the ids of those that have sparse gradients.
    """

    def __init__(
        self, parameters: Sequence[torch.Tensor], sparse: Collection[int] = frozenset()
    ) -> None:
        self._parameters = parameters
        self._sparse_ids = sparse
        self._shapes: list[torch.Size | None] = []
        self._messages: list[_Message] = []
        self._sparse: list[torch.Tensor] = []

    def compute(self, done: Collection[int] = frozenset()) -> None:
        """Compute the means.

        Args:
            done: the ids of parameters whose gradients are means already.
        """
        shapes = [
            each.shape if each.requires_grad or each.grad is not None else None
            for each in self._parameters
        ]
        if done:
            for number, each in enumerate(self._parameters):
                if id(each) in done:
                    shapes[number] = None
        if shapes != self._shapes:
            self._shapes = shapes
            self._arrange()
        with torch.no_grad():
            for message in self._messages:
                message.average()
            if self._sparse:
                _average_sparse(self._sparse)

    def _arrange(self) -> None:
        """Give each parameter that has a shape its place in a message."""
        pairs = zip(self._parameters, self._shapes, strict=True)
        found = [each for each, shape in pairs if shape is not None]
        self._sparse = [each for each in found if id(each) in self._sparse_ids]
        dense = [each for each in found if id(each) not in self._sparse_ids]
        self._messages = []
        for alike in _divide(dense, lambda each: (each.device, each.dtype)):
            buckets = list(_buckets(alike))
            longest = max(sum(each.numel() + 1 for each in bucket) for bucket in buckets)
            buffer = alike[0].new_empty(longest)  # one after the other uses it
            self._messages += [_Message(bucket, buffer) for bucket in buckets]


class _Message:
    """The gradients of some parameters in one buffer; then, for each, whether a rank has it."""

    def __init__(self, parameters: list[torch.Tensor], buffer: torch.Tensor) -> None:
        self._parameters = parameters
        sizes = [each.numel() for each in parameters]
        self._flat = buffer[: sum(sizes) + len(sizes)]
        *parts, self._used = torch.split(self._flat, [*sizes, len(sizes)])
        pairs = zip(parts, parameters, strict=True)
        self._views = [part.view(parameter.shape) for part, parameter in pairs]
        self._share = 1.0 / dist.get_world_size()

    def average(self) -> None:
        gradients = [parameter.grad for parameter in self._parameters]
        own = [gradient for gradient in gradients if gradient is not None]
        if any(gradient.layout is not torch.strided for gradient in own):
            raise ConfigurationError(
                "a parameter has sparse gradients, which Helios averages over ranks only on the"
                " CPU, and only those of nn.Embedding and nn.EmbeddingBag: create the embedding"
                " with sparse=False."
            )
        is_whole = len(own) == len(gradients)
        if is_whole:
            views = self._views
            self._used.fill_(1.0)
        else:
            self._flat.zero_()
            flags = [gradient is not None for gradient in gradients]
            views = [view for view, flag in zip(self._views, flags, strict=True) if flag]
            self._used.copy_(torch.tensor(flags))
        if own:
            torch._foreach_copy_(views, own)
        dist.all_reduce(self._flat.mul_(self._share))
        if own:
            torch._foreach_copy_(own, views)
        if not is_whole:  # only then read from the device
            self._complete(gradients)

    def _complete(self, gradients: list[torch.Tensor | None]) -> None:
        """Add the gradients that only other ranks have."""
        rows = zip(self._parameters, gradients, self._views, self._used.tolist(), strict=True)
        for parameter, gradient, view, used in rows:
            if gradient is None and used:
                parameter.grad = torch.empty_like(parameter).copy_(view)


def sparse_parameters(networks: Iterable[nn.Module]) -> set[int]:
    """Return the ids of the parameters on the CPU that have sparse gradients."""
    return {
        id(module.weight)
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if module.sparse and module.weight.device.type == "cpu"
    }


def _average_sparse(parameters: list[torch.Tensor]) -> None:
    used = torch.tensor([parameter.grad is not None for parameter in parameters]).int()
    dist.all_reduce(used)
    for parameter, count in zip(parameters, used.tolist(), strict=True):
        if count == 0:
            continue
        gradient = parameter.grad
        if gradient is None:
            rows, values = torch.empty(1, 0).long(), parameter.new_empty(0, *parameter.shape[1:])
            mean = torch.sparse_coo_tensor(rows, values, parameter.shape, check_invariants=False)
        else:  # it is dense if the weight is used elsewhere, too
            mean = gradient if gradient.is_sparse else gradient.to_sparse(1)
            mean = mean.coalesce() / dist.get_world_size()
        dist.all_reduce(mean)
        is_dense = gradient is not None and not gradient.is_sparse
        parameter.grad = mean.to_dense() if is_dense else mean


def mean_weight(weight: float | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the mean of a weight over all ranks, as a tensor on a device."""
    mean = torch.as_tensor(weight, dtype=torch.float64).to(device, torch.float32, copy=True)
    dist.all_reduce(mean)
    return mean.div_(dist.get_world_size())


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Give all ranks the values of rank 0, in few messages of bytes."""
    is_sender = dist.get_rank() == 0
    whole = [each.detach() for each in tensors if _has_numbers(each)]
    whole.sort(key=torch.Tensor.element_size, reverse=True)  # so that all are aligned in a message
    for on_device in _divide(whole, lambda each: each.device):
        for bucket in _buckets(on_device):
            is_flat = len(bucket) == 1 and bucket[0].is_contiguous()
            parts = [each.reshape(-1).view(torch.uint8) for each in bucket]
            flat = parts[0] if is_flat else torch.cat(parts)
            dist.broadcast(flat, 0)
            if not is_sender and not is_flat:
                received = torch.split(flat, [part.numel() for part in parts])
                for tensor, part in zip(bucket, received, strict=True):
                    tensor.copy_(part.view(tensor.dtype).view(tensor.shape))


def _has_numbers(tensor: torch.Tensor) -> bool:
    is_whole = not isinstance(tensor, DTensor) and tensor.layout is torch.strided
    return is_whole and tensor.numel() > 0


def _divide(
    tensors: Iterable[torch.Tensor], kind: Callable[[torch.Tensor], Hashable]
) -> Iterable[list[torch.Tensor]]:
    """Return the tensors of each kind, in their order."""
    found: dict[Hashable, list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        found[kind(tensor)].append(tensor)
    return found.values()


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def fingerprints(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
    """Return a number for each tensor, which differs between ranks if the values differ.

    All numbers are read from a device at once.
    """
    sums: dict[torch.device, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in named:
        if _has_numbers(tensor):
            values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            whole = values.numel() // 8 * 8
            words = values[:whole].view(torch.int64).sum()
            sums[tensor.device][name] = words * 31 + values[whole:].sum(dtype=torch.int64)
    found: dict[str, int] = {}
    for each in sums.values():
        found.update(zip(each, torch.stack([*each.values()]).tolist(), strict=True))
    return found
