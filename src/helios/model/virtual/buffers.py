"""The buffers of networks that a training step changes, such as BatchNorm's statistics.

Each virtual rank begins a step with the same values, and changes its own copy of them. At the end
of the step, floating-point buffers get the mean over all virtual ranks, and other buffers get the
values of virtual rank 0. A buffer that no virtual rank has changed stays as it is.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from helios.errors import ConfigurationError

if TYPE_CHECKING:
    from helios.model.model import Model

_LARGEST_COMPARED = 2**16  # numbers

Values = dict[str, torch.Tensor]
"""Values of buffers by name."""


class _Place:
    """The place of a buffer: the dictionary of its module, and its name there."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self._module = module
        self._owned = module._buffers  # noqa: SLF001 - torch has no public name for it
        self._name = name
        self._is_of_norm = isinstance(module, _NormBase)

    def get(self) -> torch.Tensor | None:
        return self._owned.get(self._name)

    def put(self, tensor: torch.Tensor) -> None:
        self._owned[self._name] = tensor

    def may_change_unseen(self, tensor: torch.Tensor) -> bool:
        """Return whether to compare the values, because PyTorch does not count all changes.

        BatchNorm's kernels change running statistics without a count.
        """
        if tensor.device.type == "cpu":
            return self._is_of_norm or tensor.numel() <= _LARGEST_COMPARED
        return tensor.dim() == 1 and not self._is_of_norm

    def changes_unseen(self, tensor: torch.Tensor) -> bool:
        """Return whether a buffer on a GPU counts as changed, without a read from the GPU."""
        is_used = self._is_of_norm and self._module.training
        return is_used and tensor.device.type != "cpu" and tensor.is_floating_point()


class Buffers:
    """The buffers of a model's networks, and the changes of them in a step.

    Args:
        model: the model.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._places: dict[str, _Place] = {}
        self._known: dict[str, tuple[torch.Tensor, int]] = {}
        self._start: Values = {}
        self._current: Values = {}  # as they were set last

    def search(self) -> None:
        """Find the buffers that the networks have now."""
        self._places = {
            f"{place}.{name}": _Place(module, name)
            for network, top in self._model.networks()
            for place, module in top.named_modules(prefix=network)
            for name in module._buffers  # noqa: SLF001 - torch has no public name for it
        }

    def require_known(self) -> None:
        """Raise an error if the batch of a virtual rank has created a buffer.

        Raises:
            ConfigurationError: one has; the message names it.
        """
        before = self._places
        self.search()
        for name in self._places:
            if name not in before:
                raise ConfigurationError(
                    f"Trainer(virtual_ranks=...): a training step creates the buffer {name!r}, so"
                    " it holds the values of one virtual rank: create it in setup(), with its shape"
                    " and type."
                )

    @property
    def names(self) -> list[str]:
        """The names of all buffers, in the same order in all processes."""
        return list(self._places)

    def begin_step(self) -> None:
        """Keep the values with which a step begins."""
        for name, tensor in self._tensors():
            if self._has_changed(name, tensor):
                self._start[name] = tensor.detach().clone()
                self._note(name, tensor)

    def take_changed(self) -> Values:
        """Return copies of the buffers that have changed, and restore their first values."""
        changed: Values = {}
        for name, tensor in self._tensors():
            if name in self._start and self._has_changed(name, tensor):
                self._require_alike(name, tensor)
                changed[name] = tensor.detach().clone()
                self._places[name].put(self._known[name][0])  # the module may have assigned another
                self._set(name, self._start[name])
        return changed

    def _has_changed(self, name: str, tensor: torch.Tensor) -> bool:
        known, version = self._known.get(name, (None, 0))
        if known is not tensor or tensor._version != version:  # noqa: SLF001 - see _note
            return True
        place = self._places[name]
        if place.may_change_unseen(tensor):
            return not torch.equal(_bits(tensor), _bits(self._current[name]))
        return place.changes_unseen(tensor)

    def put(self, values: Values) -> None:
        """Set buffers to the values of a virtual rank."""
        for name, value in values.items():
            self._set(name, value)

    def begin_values(self, names: Sequence[str]) -> Values:
        """Return the values with which the step has begun."""
        return {name: self._start[name] for name in names}

    def end_step(self, values: Values) -> None:
        """Set buffers to their values at the end of a step, with which the next one begins."""
        for name, value in values.items():
            self._start[name] = value
            self._set(name, value)

    def changed_again(self, names: Sequence[str]) -> str | None:
        """Return one of these buffers that has changed since the end of the step."""
        tensors = dict(self._tensors())
        is_on_cpu = all(tensor.device.type == "cpu" for tensor in tensors.values())
        again = (name for name in names if is_on_cpu and self._has_changed(name, tensors[name]))
        return next(again, None)

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, place in self._places.items():
            tensor = place.get()
            if tensor is not None:
                yield name, tensor

    def _set(self, name: str, value: torch.Tensor) -> None:
        tensor = self._places[name].get()
        assert tensor is not None, "a virtual rank has changed it"
        with torch.no_grad():
            tensor.copy_(value)
        self._note(name, tensor, value)

    def _note(self, name: str, tensor: torch.Tensor, value: torch.Tensor | None = None) -> None:
        # PyTorch counts most changes of a tensor, so that only small ones are compared.
        self._known[name] = tensor, tensor._version  # noqa: SLF001 - torch has no public name for it
        self._current[name] = self._start[name] if value is None else value

    def _require_alike(self, name: str, tensor: torch.Tensor) -> None:
        start = self._start[name]
        if tensor.shape != start.shape or tensor.dtype is not start.dtype:
            raise ConfigurationError(
                f"Trainer(virtual_ranks=...): a training step changes the buffer {name!r} from"
                f" {_kind(start)} to {_kind(tensor)}, so there is no mean over the virtual ranks:"
                " keep its shape and type, or make it a plain attribute of the module."
            )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, in which NaN equals NaN."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
