"""The networks of a model that exist before it is set up, and their first state."""

import contextlib
import copy
import dataclasses
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from helios.model import digests, stateful

if TYPE_CHECKING:
    from helios.model.changes import Changes
    from helios.model.model import Model
    from helios.model.modes import Modes

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _First:
    """A network, an optimizer or the like, as it was before the first run.

    Attributes:
        object: the object itself, without a wrapper.
        attribute: the value of the attribute that held it, perhaps with a wrapper.
        state: a copy of its state; of a network, of all parameters and buffers in host memory.
        trainable: the parameters of a network that were trainable.
        modes: the modes of a network's modules.
        image: its state at the end of the newest run.
        at_end: the value of the attribute then.
    """

    object: Any
    attribute: Any
    state: Any
    trainable: dict[str, bool]
    modes: dict[str, bool]
    image: Any = None
    at_end: Any = None


class Origin:
    """Lets each ``fit`` begin as the first one did.

    ``setup()`` creates most objects anew. Without this class, an object that exists before, because
    the constructor has created it, would begin with the state that an earlier run has left. So
    would a plain attribute that only training changes.
    """

    def __init__(self) -> None:
        self._first: dict[str, _First] = {}
        self._made: list[Any] = []  # by setup() of an earlier run
        self._changes: Changes | None = None
        self._modes: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # They know the objects of this process.
        return {**vars(self), "_changes": None, "_modes": {}}

    def begin(self, model: "Model", *, is_training: bool) -> None:
        """Remember objects that are new, and reset the others if nobody has changed them since."""
        for module, mode in self._modes.items():
            if not module.training:  # a test has left it so
                module.training = mode
        self._modes = WeakKeyDictionary()
        if is_training and self._changes is not None:
            self._changes.undo()
            self._changes = None
        for name, part in list(stateful.stateful_attributes(model)):
            held, first = stateful.held_by(part), self._first.get(name)
            is_known = first is not None and first.object is held
            if any(held is each for each in self._made):
                continue
            if first is not None and is_known and _is_untouched(first, part):
                if is_training:
                    _reset(model, name, first, part)
            else:
                self._first[name] = _remember(held, part, vars(model).get(name))
                is_network = isinstance(part, nn.Module) and any(True for _ in part.parameters())
                if is_training and not is_known and is_network:
                    _warn(model, name)

    def end(self, model: "Model", changes: "Changes", modes: "Modes", *, is_training: bool) -> None:
        """Remember how the run has left everything."""
        self._modes = modes.of_training()
        parts = dict(stateful.stateful_attributes(model))
        with contextlib.suppress(Exception):  # a device may have failed, as the run then says
            for name, first in self._first.items():
                first.image = None
                if name in parts and stateful.held_by(parts[name]) is first.object:
                    first.at_end = vars(model).get(name)
                    first.image = digests.image(_state(parts[name]))
            if is_training:
                changes.end()
                self._changes = changes
            elif self._changes is not None:
                self._changes.end()
        known = [first.object for first in self._first.values()]
        held = [stateful.held_by(part) for part in parts.values()]
        self._made = [each for each in held if not any(each is other for other in known)]


def _remember(held: Any, part: Any, attribute: Any) -> _First:
    if not isinstance(part, nn.Module):
        return _First(held, attribute, copy.deepcopy(part.state_dict()), {}, {})
    weights = {name: each.to("cpu", copy=True) for name, each in _state(part).items()}
    trainable = {name: each.requires_grad for name, each in part.named_parameters()}
    modes = {name: each.training for name, each in part.named_modules()}
    return _First(held, attribute, weights, trainable, modes)


def _state(part: Any) -> Any:
    """Return the state of an object; of a network, all tensors, also those that are not saved."""
    if not isinstance(part, nn.Module):
        return part.state_dict()
    found = {**dict(part.named_parameters()), **dict(part.named_buffers())}
    return {
        name: each.detach()
        for name, each in found.items()
        if not nn.parameter.is_lazy(each) and each.layout is torch.strided
    }


def _is_untouched(first: _First, part: Any) -> bool:
    return first.image is None or digests.same(first.image, digests.image(_state(part)))


def _reset(model: "Model", name: str, first: _First, part: Any) -> None:
    if name in vars(model) and vars(model)[name] is first.at_end:
        setattr(model, name, first.attribute)
    if not isinstance(part, nn.Module):
        part.load_state_dict(copy.deepcopy(first.state))
        return
    for label, tensor in _state(part).items():
        before = first.state.get(label)
        if before is not None and before.shape == tensor.shape:
            tensor.copy_(before)
    for label, parameter in part.named_parameters():
        parameter.requires_grad_(first.trainable.get(label, parameter.requires_grad))
        parameter.grad = None
    for label, module in part.named_modules():
        module.training = first.modes.get(label, module.training)


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
