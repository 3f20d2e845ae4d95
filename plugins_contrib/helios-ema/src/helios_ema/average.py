"""The exponential moving average of one network."""

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.overrides import TorchFunctionMode

from helios.errors import ConfigurationError

Owner = tuple[Tensor | nn.Module, str]
"""The identity of a tensor: a parameter and ``""``, or a layer and the name of a statistic.

A layer replaces its statistics when it moves to another device, but it keeps its parameters.
"""


@dataclasses.dataclass(eq=False)
class Average:
    """The average of one tensor of a network.

    Attributes:
        owner: the identity of the tensor.
        tensor: the average; float32 or wider, because small steps would vanish in 16 bits.
        has_started: ``False`` if ``tensor`` is only a copy, because no step was averaged yet.
    """

    owner: Owner
    tensor: Tensor
    has_started: bool = False

    @property
    def weight(self) -> Tensor:
        """The present tensor of the network, detached."""
        return weight_of(self.owner)


class AveragedNetwork:
    """The exponential moving average of a network's weights.

    The average includes the parameters and the running statistics of normalisation layers, so the
    statistics match the averaged weights. All other buffers are copied. An average would truncate
    counters, and would turn a mask of ``-inf`` into a mask of NaN.

    Each tensor has an average of its own. If the network gets a new parameter, its average starts
    with the next update, and all others continue.

    Args:
        network: the network.
        decay: the fraction of the average that each update keeps.
        warmup: ``True`` to keep less of it in the first updates: ``(1 + n) / (10 + n)`` in update
            ``n``, up to ``decay``.
        others: averages of other networks, which may contain the same tensors.

    Attributes:
        n_averaged: the number of updates.
    """

    def __init__(
        self,
        network: nn.Module,
        decay: float,
        others: "Iterable[AveragedNetwork]" = (),
        *,
        warmup: bool = False,
    ) -> None:
        self.n_averaged = 0
        self._decay = decay
        self._warmup = warmup
        self._network = network
        self._averages: dict[str, Average] = {}
        self._by_owner: dict[Owner, Average] = {}
        self._module: nn.Module | None = None
        self.follow(network, others)

    def __getstate__(self) -> dict[str, Any]:
        # Pickle would separate the storages of the copy from the averages.
        return {**vars(self), "_module": None}

    @property
    def averages(self) -> Mapping[str, Average]:
        """The averages by the name of the tensor."""
        return self._averages

    @property
    def module(self) -> nn.Module:
        """A copy of the network with the averages as its weights, in float32 or wider.

        Later updates change the weights of the copy, until the network gets other parameters.

        Raises:
            ConfigurationError: ``copy.deepcopy`` cannot copy the network.
        """
        self._copy_others()
        if self._module is None:
            self._module = self._copy()
        return self._module

    # Updates.

    def update_parameters(self, network: nn.Module) -> None:
        """Update the averages with the weights of a network, which may be another one than before.

        Args:
            network: the network.
        """
        self.follow(network)
        self.update()

    def update(self) -> None:
        """Update the averages with the present weights; new averages start with a copy."""
        started = [average for average in self._averages.values() if average.has_started]
        if started:
            update = get_ema_multi_avg_fn(self._present_decay())  # type: ignore[no-untyped-call]  # torch does not annotate it
            weights = [average.weight.to(average.tensor.dtype) for average in started]
            update([average.tensor for average in started], weights, self.n_averaged)
        for average in self._averages.values():
            if not average.has_started:
                average.tensor.copy_(average.weight)
                average.has_started = True
        self.n_averaged += 1
        self._copy_others()

    def _present_decay(self) -> float:
        """Return the fraction of the average that the next update keeps."""
        if not self._warmup:
            return self._decay
        return min(self._decay, (1 + self.n_averaged) / (10 + self.n_averaged))

    def follow(self, network: nn.Module, others: "Iterable[AveragedNetwork]" = ()) -> None:
        """Keep the averages of the tensors that a network still has, and add those of new ones.

        Args:
            network: the network.
            others: averages of other networks, which may contain the same tensors.
        """
        averages: dict[str, Average] = {}
        is_same = network is self._network
        for name, owner in owners(network):
            average, weight = self._by_owner.get(owner), weight_of(owner)
            if average is None or average.tensor.shape != weight.shape:
                copied = weight.to(wide(weight), copy=True)
                average = self._adopt(owner, others) or Average(owner, copied)
            elif (average.tensor.device, average.tensor.dtype) != (weight.device, wide(weight)):
                average.tensor = average.tensor.to(weight.device, wide(weight))
                is_same = False
            averages[name] = average
        if not is_same or averages != self._averages:
            self._network, self._averages, self._module = network, averages, None
            self._by_owner = {average.owner: average for average in averages.values()}
        if not any(average.has_started for average in averages.values()):
            self.n_averaged = 0

    def _adopt(self, owner: Owner, others: "Iterable[AveragedNetwork]") -> Average | None:
        """Return a copy of the average that another network has of the same tensor."""
        for other in others:
            average = other._by_owner.get(owner)  # noqa: SLF001 - of the same class
            is_same_size = average is not None and average.tensor.shape == weight_of(owner).shape
            if average is not None and average.has_started and is_same_size:
                self.n_averaged = max(self.n_averaged, other.n_averaged)
                return dataclasses.replace(average, tensor=average.tensor.clone())
        return None

    # State.

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages, and the number of updates."""
        tensors = {f"module.{n}": a.tensor for n, a in self._averages.items() if a.has_started}
        return {"n_averaged": torch.tensor(self.n_averaged), **tensors}

    def take(self, saved: dict[str, Any]) -> None:
        """Move saved averages into the averages that have not started yet.

        Args:
            saved: the result of :meth:`state_dict`. Its tensors may have other types. Entries that
                do not fit the network stay in it.
        """
        n_averaged = int(saved.get("n_averaged", 0))
        if n_averaged == 0:  # release 0.1 saved the weights themselves before the first update
            saved.clear()
        for name, average in self._averages.items():
            tensor = saved.get(f"module.{name}")
            if tensor is None or average.has_started or tensor.shape != average.tensor.shape:
                continue
            average.tensor.copy_(_divided(saved.pop(f"module.{name}"), average.tensor))
            average.has_started = True
            self.n_averaged = n_averaged

    # The copy.

    def _copy(self) -> nn.Module:
        try:
            with _DetachedCopies():
                module = copy.deepcopy(self._network)
        except Exception as error:
            raise ConfigurationError(
                f"copy.deepcopy cannot copy {type(self._network).__name__}, so its averages are no"
                f" module ({type(error).__name__}: {error}): load state_dict() into a network that"
                " you create, or give the class a __deepcopy__ method. Validation and testing need"
                " no copy."
            ) from error
        tensors = _tensors(module)
        if any(average.tensor.dtype != average.weight.dtype for average in self._averages.values()):
            for tensor in tensors.values():  # a layer computes with weights and buffers of one type
                tensor.data = tensor.to(wide(tensor))
        for name, average in self._averages.items():
            tensors[name].data = average.tensor
        return module

    def _copy_others(self) -> None:
        """Copy the tensors that are not averaged; forget a copy that has other tensors."""
        if self._module is None:
            return
        present, copies = _tensors(self._network), _tensors(self._module)
        if {n: t.shape for n, t in present.items()} != {n: t.shape for n, t in copies.items()}:
            self._module = None
            return
        for name in present.keys() - self._averages.keys():
            copies[name].detach().copy_(present[name].detach())


class _DetachedCopies(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy results of computations, such as activations that a layer keeps.

    PyTorch copies only tensors that the user created.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def owners(network: nn.Module) -> Iterator[tuple[str, Owner]]:
    """Iterate over the names and the owners of the tensors to average.

    A lazy layer has no tensors before its first batch.

    Args:
        network: the network with the parameters and buffers.
    """
    for name, parameter in network.named_parameters():
        if not is_lazy(parameter) and _is_continuous(parameter):
            yield name, (parameter, "")
    for path, layer in network.named_modules():
        if isinstance(layer, _NormBase):
            for attribute in ("running_mean", "running_var"):
                tensor = getattr(layer, attribute)
                if tensor is not None and not is_lazy(tensor) and _is_continuous(tensor):
                    yield f"{path}.{attribute}".removeprefix("."), (layer, attribute)


def weight_of(owner: Owner) -> Tensor:
    """Return the present tensor of a network, detached."""
    holder, attribute = owner
    tensor = getattr(holder, attribute) if attribute else holder
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def wide(tensor: Tensor) -> torch.dtype:
    """Return the type of a tensor's average: that of the tensor, but at least float32."""
    if tensor.is_complex():
        return torch.promote_types(tensor.dtype, torch.complex64)
    is_narrow = tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    return torch.float32 if is_narrow else tensor.dtype


def _divided(whole: Tensor, average: Any) -> Tensor:
    """Return a saved average, divided between processes as an average of the present run is."""
    if not hasattr(average, "full_tensor") or hasattr(whole, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    divided: Tensor = distribute_tensor(
        whole.to(average.device, average.dtype), average.device_mesh, average.placements
    )
    return divided


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: tensor for name, tensor in tensors if not is_lazy(tensor)}


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
