"""The training of one model by several ranks, with PyTorch's DDP or FSDP2.

Ranks hold the same weights, and each step uses the mean of their gradients. Helios computes it when
the step is taken, so that it is right for parameters that are outside of a wrapper, that only some
losses reach, or that were added later. Two kinds of models leave this to DDP, which computes the
mean during the backward pass: on GPUs, where both overlap, those with one prepared network and one
optimizer; and those that call ``backward()`` themselves, which may clip the gradients next.
"""

import inspect
import itertools
import types
import weakref
from collections.abc import Collection, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from helios.core import Group, Place
from helios.errors import ConfigurationError, RanksDifferError
from helios.model import alike, gradients, shards, stateful
from helios.model.replica import Replica

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from helios.model.model import Model
    from helios.model.optimizers import Step

Kind = Literal["ddp", "fsdp"]


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
        names = _names_in(type(model))
        self._is_by_hand = "optimize" not in names or "backward" in names
        self._is_eager = self._is_by_hand or place.device.type == "cuda"
        self._replicas: list[Replica] = []
        self._sharded: list[FSDPModule] = []
        self._mesh: DeviceMesh | None = None
        self._equal: list[torch.Tensor] = []  # in all ranks, since prepare()
        self._is_single = False
        self._begins_window = True
        self._reduced: set[int] = set()
        self._means: MutableMapping[Step, tuple[list[torch.Tensor], gradients.Mean]]
        self._means = weakref.WeakKeyDictionary()
        self._watches: list[RemovableHandle] = []

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a network in its wrapper. One that is wrapped already stays as it is."""
        is_wrapped = isinstance(module, nn.parallel.DistributedDataParallel | FSDPModule)
        if self._kind is None or is_wrapped:
            return module
        if self._kind == "fsdp":
            return self._shard(module)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return module  # DDP refuses it; begin() makes it equal in all ranks
        lazy = [name for name, each in module.named_parameters() if nn.parameter.is_lazy(each)]
        if lazy:
            raise ConfigurationError(
                f"prepare() got a {type(module).__name__} whose {lazy[0]} gets its shape only in"
                " the first forward pass, so ranks cannot have the same values: call the network"
                " once before you prepare it."
            )
        gpu = self._place.device if self._place.device.type == "cuda" else None
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        if not self._is_eager:  # else, DDP does so
            self._equalize(f"the {type(module).__name__} that prepare() got", tensors)
        self._equal += tensors.values()
        replica = Replica(module, gpu, is_eager=self._is_eager)
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

    @property
    def mesh(self) -> DeviceMesh | None:
        """The ranks that have divided the networks; ``None`` if they are whole."""
        return self._mesh

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
        if self._kind is not None:
            equal = {id(tensor) for tensor in self._equal}
            rest = {name: each for name, each in self._tensors() if id(each) not in equal}
            label = type(self._model).__name__
            self._equalize(label, rest)
            alike.require_same_optimizers(self._group, label, optimizers)
        self._is_single = len(self._replicas) + len(self._sharded) == 1 and len(optimizers) == 1
        self.synchronize(is_last=True)

    @property
    def needs_batches(self) -> bool:
        """``True`` if :meth:`synchronize` must be called before each batch."""
        return not self._is_by_hand

    def synchronize(self, *, is_last: bool) -> None:
        """Decide, before a batch, whether its backward pass computes the mean of the gradients.

        Args:
            is_last: ``True`` if the batch completes an optimizer step.
        """
        is_now = self._is_by_hand or (self._is_single and is_last)
        for replica in self._replicas if self._is_eager else ():
            replica.require_backward_grad_sync = is_now
        for module in self._sharded:
            module.set_requires_gradient_sync(is_now or not self._is_single)
        if self._begins_window and not (self._is_eager and self._is_single):  # else, DDP does so
            self._share_buffers()
        self._begins_window = is_last

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
        parameters, mean = self._means.get(step, (None, None))
        if mean is None or parameters is not step.parameters:
            mean = self._mean_of(step.parameters)
            self._means[step] = step.parameters, mean
        is_done = self._is_eager and self._is_single and is_only
        mean.compute(self._averaged() if is_done else frozenset())

    def _reduce_by_hand(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Do the work of :meth:`reduce` before a step that the model takes by hand."""
        if id(optimizer) in self._reduced:
            self._reduced.discard(id(optimizer))
            return
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self._mean_of(parameters).compute(self._averaged())

    def _averaged(self) -> frozenset[int]:
        """Return the ids of the parameters whose gradients DDP has averaged."""
        return frozenset().union(*(replica.averaged for replica in self._replicas))

    def _mean_of(self, parameters: list[torch.Tensor]) -> gradients.Mean:
        """Return the mean of gradients, except those of FSDP2, which averages them itself."""
        whole = [each for each in parameters if not isinstance(each, DTensor)]
        networks = [network for _, network in self._model.networks()]
        return gradients.Mean(whole, gradients.sparse_parameters(networks))

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
        self._drop_whole_weights()

    def mean_weight(self, weight: float | torch.Tensor) -> torch.Tensor:
        """Return the mean of a weight over all ranks."""
        return gradients.mean_weight(weight, self._place.device)

    def begin_evaluation(self) -> None:
        """Let ranks evaluate different numbers of batches, with the buffers of rank 0."""
        self._share_buffers()
        for replica in self._replicas:
            replica.require_forward_param_sync = False
        self._drop_whole_weights()

    def end_evaluation(self) -> None:
        """Let the next batch compute with the weights of training, which averages may replace."""
        self._drop_whole_weights()

    def _drop_whole_weights(self) -> None:
        """Drop the gathered weights that FSDP2 keeps after a forward pass without a backward one.

        Otherwise, the next forward pass would compute with them, even if the weights have changed.
        """
        for module in self._sharded:
            for each in module.modules():  # type: ignore[attr-defined]  # they are modules, too
                if isinstance(each, FSDPModule):
                    each.reshard()

    def _share_buffers(self) -> None:
        """Give all ranks the buffers of rank 0, as DDP does before a training step."""
        found = [replica.module.buffers() for replica in self._replicas if replica.has_buffers]
        if found:
            gradients.broadcast(itertools.chain(*found))

    def require_same_weights(self) -> None:
        """Raise an error if ranks have different weights, and share the buffers of rank 0.

        Raises:
            RanksDifferError: they have; the message names the first parameter.
        """
        if self._kind is None:
            return
        self._share_buffers()
        alike.require_same_weights(self._group, type(self._model).__name__, self._parameters())

    def _equalize(self, owner: str, tensors: dict[str, torch.Tensor]) -> None:
        """Give all ranks the values of rank 0.

        Raises:
            RanksDifferError: the ranks have different tensors.
        """
        own = {name: f"{[*each.shape]}, {each.dtype}" for name, each in tensors.items()}
        first, *others = self._group.gather(own)
        for rank, other in enumerate(others, start=1):
            for name in dict.fromkeys([*first, *other]):
                if first.get(name) != other.get(name):
                    raise RanksDifferError(
                        f"{owner} differs between ranks: {name} is {first.get(name, 'missing')} in"
                        f" rank 0, and {other.get(name, 'missing')} in rank {rank}. Create the same"
                        " networks in all ranks."
                    )
        gradients.broadcast(tensors.values())

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


def _names_in(kind: type) -> set[str]:
    """Return the names of the functions, methods and attributes that the code of a model uses."""
    own = [each for each in kind.__mro__ if not each.__module__.startswith("helios.model.")]
    functions = [
        inspect.unwrap(value) for each in own for value in vars(each).values() if callable(value)
    ]
    codes = [getattr(function, "__code__", None) for function in functions]
    return {name for code in codes if code is not None for name in _names_of(code)}


def _names_of(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names_of(each)
