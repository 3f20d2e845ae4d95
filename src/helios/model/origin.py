"""The networks that a model has before it is set up, and the weights that they had at first."""

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from helios.model import digests

if TYPE_CHECKING:
    from helios.model.model import Model

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _First:
    """A network as it was before the first run.

    Attributes:
        network: the network, without a wrapper.
        attribute: the value of the attribute that held it, perhaps with a wrapper.
        weights: copies of its parameters and buffers in host memory.
        trainable: the parameters that were trainable.
        modes: the modes of its modules.
        digests: what its weights were at the end of the newest run.
        at_end: the value of the attribute then.
    """

    network: nn.Module
    attribute: Any
    weights: dict[str, torch.Tensor]
    trainable: dict[str, bool]
    modes: dict[str, bool]
    digests: dict[str, Any] | None = None
    at_end: Any = None


class Origin:
    """Lets each ``fit`` begin with the weights of the first one.

    ``setup()`` creates most networks anew. A network that exists before, because the constructor
    has created it, would begin with the weights that an earlier run has left.
    """

    def __init__(self) -> None:
        self._first: dict[str, _First] = {}
        self._made: list[nn.Module] = []  # by setup() of an earlier run

    def begin(self, model: "Model", *, is_training: bool) -> None:
        """Remember networks that are new, and reset the others if nobody has changed them since."""
        for name, network in list(model.networks()):
            first = self._first.get(name)
            is_known = first is not None and first.network is network
            if any(network is each for each in self._made):
                continue
            if first is not None and is_known and _is_untouched(first):
                if is_training:
                    _reset(model, name, first)
            else:
                self._first[name] = _remember(network, vars(model).get(name))
                if is_training and not is_known and any(True for _ in network.parameters()):
                    _warn(model, name)

    def end(self, model: "Model") -> None:
        """Remember how the run has left the networks."""
        networks = dict(model.networks())
        for name, first in list(self._first.items()):
            if networks.get(name) is first.network:
                first.digests, first.at_end = _digests(first.network), vars(model).get(name)
        known = [first.network for first in self._first.values()]
        self._made = [n for n in networks.values() if not any(n is each for each in known)]


def _remember(network: nn.Module, attribute: Any) -> _First:
    weights = {name: each.detach().to("cpu", copy=True) for name, each in _tensors(network).items()}
    trainable = {name: each.requires_grad for name, each in network.named_parameters()}
    modes = {name: each.training for name, each in network.named_modules()}
    return _First(network, attribute, weights, trainable, modes)


def _reset(model: "Model", name: str, first: _First) -> None:
    if name in vars(model) and vars(model)[name] is first.at_end:
        setattr(model, name, first.attribute)
    with torch.no_grad():
        for label, tensor in _tensors(first.network).items():
            before = first.weights.get(label)
            if before is not None and before.shape == tensor.shape:
                tensor.copy_(before)
    for label, parameter in first.network.named_parameters():
        parameter.requires_grad_(first.trainable.get(label, parameter.requires_grad))
        parameter.grad = None
    for label, module in first.network.named_modules():
        module.training = first.modes.get(label, module.training)


def _is_untouched(first: _First) -> bool:
    return first.digests is None or first.digests == _digests(first.network)


def _digests(network: nn.Module) -> dict[str, Any] | None:
    """Return numbers that depend on all weights, or ``None`` if the device has failed."""
    try:
        found = {name: digests.digest(each) for name, each in _tensors(network).items()}
        return {name: [part.item() for part in parts] for name, parts in found.items()}
    except RuntimeError:
        return None


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    found = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: each for name, each in found.items() if _is_plain(each)}


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not nn.parameter.is_lazy(tensor)


def _warn(model: "Model", name: str) -> None:
    label = type(model).__name__
    _logger.warning(
        "%s.%s exists before setup(), so Trainer(random_seed=...) does not determine its first"
        " weights: another %s begins with other weights. Create the network in setup(), unless its"
        " weights are loaded.",
        label,
        name,
        label,
    )
