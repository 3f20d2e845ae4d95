"""Averages over ranks that PyTorch's wrappers do not compute: gradients, weights, first values."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from helios.errors import ConfigurationError

_BUCKET = 2**23  # numbers in one message


def average_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Replace each gradient by its mean over all ranks.

    If a rank has no gradient of a parameter, it counts as 0. If no rank has one, none has one
    afterwards, as in one process.

    Args:
        parameters: the same parameters in each rank, in the same order.
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.requires_grad or parameter.grad is not None:
            by_kind[parameter.device, parameter.dtype].append(parameter)
    for each in by_kind.values():
        for bucket in _buckets(each):
            _average(bucket)


def _buckets(parameters: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _average(parameters: list[torch.Tensor]) -> None:
    gradients = [parameter.grad for parameter in parameters]
    for gradient in gradients:
        if gradient is not None and gradient.layout is not torch.strided:
            raise ConfigurationError(
                "a parameter has sparse gradients, and its optimizer steps on the sum of several"
                " batches or beside another optimizer. Helios averages only dense gradients over"
                " ranks in this case: create the embedding with sparse=False."
            )
    pieces = [
        (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1)
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    pieces.append(pieces[0].new_tensor([gradient is not None for gradient in gradients]))
    flat = torch.cat(pieces).div_(dist.get_world_size())
    dist.all_reduce(flat)
    *means, used = torch.split(flat, [piece.numel() for piece in pieces])
    # Read from the device only if a gradient is missing here.
    is_missing = any(gradient is None for gradient in gradients)
    is_used = used.tolist() if is_missing else [True] * len(means)
    for parameter, mean, use in zip(parameters, means, is_used, strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(mean.view_as(parameter))
        elif use:
            parameter.grad = mean.view_as(parameter).clone()


def mean_weight(weight: float | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the mean of a weight over all ranks, as a tensor on a device."""
    mean = torch.as_tensor(weight, dtype=torch.float64).to(device, torch.float32, copy=True)
    dist.all_reduce(mean)
    return mean.div_(dist.get_world_size())


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Give all ranks the values of rank 0."""
    for tensor in tensors:
        if not isinstance(tensor, DTensor) and tensor.numel():
            values = tensor.detach()
            if values.is_contiguous():
                dist.broadcast(values, 0)
            else:
                copy = values.contiguous()
                dist.broadcast(copy, 0)
                values.copy_(copy)


def fingerprints(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
    """Return a number for each tensor, which differs between ranks if the values differ.

    All numbers are read from a device at once.
    """
    sums: dict[torch.device, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in named:
        if not isinstance(tensor, DTensor) and tensor.numel() and tensor.layout is torch.strided:
            values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            whole = values.numel() // 8 * 8
            words = values[:whole].view(torch.int64).sum()
            sums[tensor.device][name] = words * 31 + values[whole:].sum(dtype=torch.int64)
    found: dict[str, int] = {}
    for each in sums.values():
        found.update(zip(each, torch.stack([*each.values()]).tolist(), strict=True))
    return found
