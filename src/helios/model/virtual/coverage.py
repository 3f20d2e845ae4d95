"""Checks that virtual ranks cover a model, and that all processes have the same conditions."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from helios.core import Group
from helios.errors import ConfigurationError

if TYPE_CHECKING:
    from helios.model.model import Model


def require_covered(model: "Model") -> None:
    """Refuse networks whose results would depend on the number of processes.

    Raises:
        ConfigurationError: a network is distributed in another way, or not complete.
    """
    for name, value in vars(model).items():
        if isinstance(value, nn.parallel.DistributedDataParallel):
            raise _error(f"{name} is wrapped in DistributedDataParallel: leave the wrapper out")
    for place, module in _modules(model):
        if isinstance(module, nn.SyncBatchNorm):
            raise _error(
                f"{place} is a SyncBatchNorm, which computes with the batches of all processes: use"
                " BatchNorm, whose statistics are averaged over the virtual ranks"
            )
        for name, tensor in module.named_parameters(prefix=place, recurse=False):
            if is_lazy(tensor):
                raise _error(
                    f"{name} gets its shape and values only in the first forward pass, from the"
                    " random numbers of one virtual rank: give the layer its sizes, or call the"
                    " network once in setup()"
                )
            if isinstance(tensor, DTensor):
                raise _error(
                    f"{name} is shared among processes, as fully_shard does: leave fully_shard out"
                )


def require_alike(model: "Model", group: Group) -> None:
    """Make sure that all processes begin with the same weights and compute alike.

    Raises:
        ConfigurationError: the processes differ.
    """
    group.require_same("the number of PyTorch's threads", torch.get_num_threads())
    digest = hashlib.sha256()
    for place, module in _modules(model):
        digest.update(place.encode())
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            flat = tensor.detach().cpu().reshape(-1).contiguous()
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
    group.require_same("the model at the start of training", digest.hexdigest()[:16])


def _modules(model: "Model") -> Iterator[tuple[str, Any]]:
    for name, network in model.networks():
        yield from network.named_modules(prefix=name)


def _error(problem: str) -> ConfigurationError:
    return ConfigurationError(f"Trainer(virtual_ranks=...) does not cover this model: {problem}.")
