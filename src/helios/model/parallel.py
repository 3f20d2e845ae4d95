"""The training of one model by several ranks, with PyTorch's DDP or FSDP2.

Ranks hold the same weights, and each step uses the mean of their gradients. In the usual case, a
model with one prepared network and one optimizer, DDP computes that mean during the backward pass.
In all other cases, Helios computes it when the step is taken, so that it is right for parameters
that are outside of a wrapper, that only some losses reach, or that were added later.
"""

import inspect
import types
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from helios.core import Group, Place
from helios.errors import RanksDifferError
from helios.model import gradients, shards, stateful

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from helios.model.model import Model
    from helios.model.optimizers import Step

Kind = Literal["ddp", "fsdp"]


class Replica(nn.parallel.DistributedDataParallel):
    """PyTorch's wrapper, which also has the methods and attributes of the network.

    Attributes:
        managed: the parameters whose gradients it averages.
        has_synchronized: ``True`` if the newest forward pass was one whose backward pass computes
            the mean of the gradients.
        is_closed: ``True`` after the run: the network then computes without the other ranks.
    """

    def __init__(self, module: nn.Module, device_ids: list[torch.device] | None) -> None:
        managed = [each for each in module.parameters() if each.requires_grad]
        # The flag lets a network have parts that only some batches reach, as in one process. If no
        # part is unused, PyTorch advises to switch the flag off; so one parameter is.
        unused = nn.Parameter(managed[0].new_zeros(1))
        module.register_parameter("helios_unused", unused)
        try:
            super().__init__(module, device_ids, find_unused_parameters=True)
        finally:
            del module.helios_unused
        self.managed = managed
        self.has_synchronized = self.is_closed = False

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Compute the network, as PyTorch's wrapper does."""
        if self.is_closed:
            return self.module(*inputs, **kwargs)
        self.has_synchronized = self.require_backward_grad_sync and torch.is_grad_enabled()
        return super().forward(*inputs, **kwargs)  # type: ignore[no-untyped-call]  # torch leaves it

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def __getitem__(self, key: Any) -> Any:
        return self.module[key]


class Parallel:
    """The engine with which the ranks of a run train a model.

    Args:
        model: the model.
        place: the place of this process.
        group: the processes of the run.
        kind: ``"ddp"`` or ``"fsdp"``; ``None`` if a plug-in wraps networks.
    """

    def __init__(self, model: "Model", place: Place, group: Group, kind: Kind | None) -> None:
        self._model = model
        self._place = place
        self._group = group
        self._kind = kind
        self._uses_optimize = calls_optimize(type(model))
        self._replicas: list[Replica] = []
        self._sharded: list[FSDPModule] = []
        self._mesh: DeviceMesh | None = None
        self._is_single = False
        self._reduced: set[int] = set()
        self._watches: list[RemovableHandle] = []
        self._rest: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a network that is on the device; return one that is wrapped already as it is."""
        is_wrapped = isinstance(module, nn.parallel.DistributedDataParallel | FSDPModule)
        if self._kind is None or is_wrapped:
            return module
        if self._kind == "fsdp":
            return self._shard(module)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return module  # DDP refuses it; begin() makes it equal in all ranks
        is_on_gpu = self._place.device.type == "cuda"
        replica = Replica(module, [self._place.device] if is_on_gpu else None)
        self._replicas.append(replica)
        return replica

    def _shard(self, module: nn.Module) -> nn.Module:
        if self._mesh is None:
            self._mesh = init_device_mesh(self._place.device.type, (self._place.world_size,))
        gradients.broadcast([*module.parameters(), *module.buffers()])
        if not any(isinstance(each, FSDPModule) for each in module.modules()):
            for layers in [each for each in module.modules() if isinstance(each, nn.ModuleList)]:
                for layer in layers:
                    fully_shard(layer, mesh=self._mesh)
        fully_shard(module, mesh=self._mesh)
        shards.load_whole_states(module)
        self._sharded.append(module)  # type: ignore[arg-type]  # fully_shard() changes its class
        return module

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state of the model with whole tensors; all ranks must call this."""
        return shards.whole(state) if self._sharded else state

    def begin(self, optimizers: Collection[Optimizer]) -> None:
        """Give all ranks the same weights, and decide who computes the mean of the gradients.

        Args:
            optimizers: the optimizers of the model.
        """
        for optimizer in optimizers:
            if self._sharded:
                shards.load_whole_optimizer_states(optimizer)
            if self._kind is not None:
                watch = optimizer.register_step_pre_hook(self._reduce_by_hand)
                self._watches.append(watch)
        managed = self._managed()
        if self._kind is not None:
            gradients.broadcast(each for _, each in self._tensors() if id(each) not in managed)
        self._is_single = len(self._replicas) + len(self._sharded) == 1 and len(optimizers) == 1
        self.synchronize(is_last=True)

    @property
    def needs_batches(self) -> bool:
        """``True`` if :meth:`synchronize` must be called before each batch."""
        return self._uses_optimize

    def synchronize(self, *, is_last: bool) -> None:
        """Decide, before a batch, whether its backward pass computes the mean of the gradients.

        Args:
            is_last: ``True`` if the batch completes an optimizer step.
        """
        by_hand = not self._uses_optimize  # such steps need the mean after each backward pass
        for replica in self._replicas:
            replica.require_backward_grad_sync = by_hand or (self._is_single and is_last)
        for module in self._sharded:
            module.set_requires_gradient_sync(by_hand or is_last or not self._is_single)

    def reduce(self, step: "Step", *, is_only: bool) -> None:
        """Compute the mean of the gradients of a step, as far as no wrapper has computed it.

        Args:
            step: the step.
            is_only: ``True`` if the model has no other step, and the backward pass of the current
                batch has reached this one.
        """
        if self._kind is None:
            return
        self._reduced.update(map(id, step.optimizers))
        if is_only and self._is_single and all(each.has_synchronized for each in self._replicas):
            rest = self._rest_of(step)
        else:
            rest = _whole(step.parameters)
        if rest:
            gradients.average_gradients(rest)

    def _rest_of(self, step: "Step") -> list[torch.Tensor]:
        """Return the parameters of a step that the only replica does not know."""
        if self._rest is None or self._rest[0] is not step.parameters:
            managed = self._managed()
            rest = [each for each in _whole(step.parameters) if id(each) not in managed]
            self._rest = step.parameters, rest
        return self._rest[1]

    def _reduce_by_hand(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Do the work of :meth:`reduce` before a step that the model takes by hand."""
        if id(optimizer) in self._reduced:
            self._reduced.discard(id(optimizer))
            return
        synchronized = [each for each in self._replicas if each.has_synchronized]
        managed = {id(each) for replica in synchronized for each in replica.managed}
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        rest = [each for each in _whole(parameters) if id(each) not in managed]
        if rest:
            gradients.average_gradients(rest)

    def agree(self, wish: bool) -> bool:
        """Return whether any rank wishes it."""
        return self._group.agree(wish)

    def any_of(self, reason: str | None) -> str | None:
        """Return the reason of the first rank that has one."""
        return next(filter(None, self._group.gather(reason)), None)

    def close(self) -> None:
        """Stop watching the steps of optimizers, and release the networks from the group.

        Called at the end of the run.
        """
        for watch in self._watches:
            watch.remove()
        for replica in self._replicas:
            replica.is_closed = True

    def mean_weight(self, weight: float | torch.Tensor) -> torch.Tensor:
        """Return the mean of a weight over all ranks."""
        return gradients.mean_weight(weight, self._place.device)

    def begin_evaluation(self) -> None:
        """Let ranks evaluate different numbers of batches, with the buffers of rank 0."""
        self._share_buffers()
        for replica in self._replicas:
            replica.require_forward_param_sync = False

    def _share_buffers(self) -> None:
        """Give all ranks the buffers of rank 0, as DDP does before a training step."""
        for replica in self._replicas:
            gradients.broadcast(replica.module.buffers())

    def require_same_weights(self) -> None:
        """Raise an error if ranks have different weights, and share the buffers of rank 0.

        Raises:
            RanksDifferError: they have; the message names the first parameter.
        """
        if self._kind is None:
            return
        self._share_buffers()
        own = gradients.fingerprints(self._parameters())
        first, *others = self._group.gather(own)
        for rank, other in enumerate(others, start=1):
            names = [name for name in first if other.get(name) != first[name]]
            if names:
                label = type(self._model).__name__
                raise RanksDifferError(
                    f"{label}.{names[0]} has other values in rank {rank} than in rank 0, so the"
                    " ranks no longer train one model. Take each step in every rank, with"
                    f" self.optimize(loss, optimizer), and change the weights of {label} nowhere"
                    " else in one rank alone."
                )

    def _managed(self) -> set[int]:
        """Return the ids of what the replicas keep equal: parameters that were trainable."""
        found = set()
        for replica in self._replicas:
            found |= {id(each) for each in replica.managed}
        return found

    def _parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, part in stateful.stateful_attributes(self._model):
            if isinstance(part, nn.Module):
                for label, parameter in part.named_parameters():
                    if not nn.parameter.is_lazy(parameter):
                        yield f"{name}.{label}", parameter
            elif isinstance(part, stateful.ParameterState):
                yield name, part.parameter

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self._parameters()
        for name, network in self._model.networks():
            for label, buffer in network.named_buffers():
                yield f"{name}.{label}", buffer


def _whole(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the parameters that FSDP2 has not divided; it averages the gradients of the others."""
    return [each for each in parameters if not isinstance(each, DTensor)]


def calls_optimize(kind: type) -> bool:
    """Return whether a method of a model seems to call ``optimize()``, and not only by hand."""
    own = [each for each in kind.__mro__ if not each.__module__.startswith("helios.model.")]
    functions = [
        inspect.unwrap(value) for each in own for value in vars(each).values() if callable(value)
    ]
    codes = [getattr(function, "__code__", None) for function in functions]
    return any(_mentions(code, "optimize") for code in codes if code is not None)


def _mentions(code: types.CodeType, name: str) -> bool:
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return name in code.co_names or any(_mentions(each, name) for each in inner)
