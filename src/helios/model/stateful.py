"""Functions that find, save and restore the attributes of a model that have a state."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from helios.errors import CheckpointError, nearest
from helios.model.optimizer_state import require_same_groups

DEEPEST = 100
"""The levels of lists, dictionaries and other containers in an attribute."""


@runtime_checkable
class Stateful(Protocol):
    """An object with a state, such as PyTorch's modules, optimizers, schedulers and scalers."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state."""


class ParameterState:
    """An adapter that saves and restores a parameter that belongs to no module.

    Args:
        parameter: a parameter, or another tensor that is trained.
    """

    def __init__(self, parameter: torch.Tensor) -> None:
        self._parameter = parameter

    @property
    def parameter(self) -> torch.Tensor:
        """The tensor itself."""
        return self._parameter

    def state_dict(self) -> dict[str, Any]:
        """Return the values."""
        return {"value": self._parameter.detach()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values in place, because optimizers hold the tensor itself."""
        value = state_dict["value"]
        if value.shape != self._parameter.shape:
            raise ValueError(
                f"the saved tensor has the shape {tuple(value.shape)}, but the tensor to restore"
                f" has the shape {tuple(self._parameter.shape)}"
            )
        with torch.no_grad():
            self._parameter.copy_(value)


class GeneratorState:
    """An adapter that saves and restores a random number generator.

    Args:
        generator: a generator on any device; its saved state is in host memory.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    @property
    def generator(self) -> torch.Generator:
        """The generator itself."""
        return self._generator

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return {"state": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state."""
        self._generator.set_state(state_dict["state"])


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside ``DistributedDataParallel`` and ``torch.compile``."""
    inner: Any = module
    while True:
        if isinstance(inner, nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif hasattr(inner, "_orig_mod"):  # torch.compile
            inner = inner._orig_mod  # noqa: SLF001 - torch has no public name for it
        else:
            return inner  # type: ignore[no-any-return]  # _orig_mod is untyped


def stateful_attributes(owner: object) -> Iterator[tuple[str, Stateful]]:
    """Iterate over the stateful attributes of an object, also inside lists, tuples and dicts.

    Yields:
        Pairs of a dotted name (``"net"``, ``"optimizers.0"``) and the stateful object.
    """
    for name, value in vars(owner).items():
        if not name.startswith("_"):
            yield from _stateful_in(name, value, ())


def _stateful_in(name: str, value: Any, around: tuple[Any, ...]) -> Iterator[tuple[str, Stateful]]:
    if isinstance(value, nn.Module):
        yield name, unwrap(value)
    elif isinstance(value, torch.Tensor):
        if value.requires_grad and value.is_leaf:  # nn.Parameter, or a tensor used as one
            yield name, ParameterState(value)
    elif isinstance(value, torch.Generator):
        yield name, GeneratorState(value)
    elif isinstance(value, type):
        return
    elif isinstance(value, Stateful):
        yield name, value
    elif any(value is each for each in around):
        return  # a list that contains itself: its items have been found
    elif len(around) > DEEPEST:
        raise too_deep(name)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _stateful_in(f"{name}.{index}", item, (*around, value))
    elif isinstance(value, dict):
        labels = Counter(map(str, value))
        for key, item in value.items():
            label = str(key) if labels[str(key)] == 1 else repr(key)  # 1 and "1" are two keys
            yield from _stateful_in(f"{name}.{label}", item, (*around, value))


def too_deep(name: str) -> CheckpointError:
    """Return the error for an attribute with more levels than Helios follows."""
    return CheckpointError(
        f"the attribute {name[:100]}... is more than {DEEPEST} levels deep, so its state cannot be"
        " found: use a flat list or dictionary."
    )


def held_by(part: Stateful) -> Any:
    """Return the object whose state it is, which is inside of an adapter."""
    if isinstance(part, ParameterState):
        return part.parameter
    return part.generator if isinstance(part, GeneratorState) else part


def name_of(owner: object, part: object) -> str:
    """Return the dotted name of a stateful attribute, or ``""`` if the owner has no such one."""
    return next((name for name, other in stateful_attributes(owner) if other is part), "")


def gather(owner: object) -> dict[str, Any]:
    """Return the states of all stateful attributes by dotted name.

    Raises:
        CheckpointError: two attributes would have the same name.
    """
    return {name: part.state_dict() for name, part in _by_name(owner).items()}


def _by_name(owner: object) -> dict[str, Stateful]:
    parts: dict[str, Stateful] = {}
    for name, part in stateful_attributes(owner):
        if name in parts:
            raise CheckpointError(
                f"two states of {type(owner).__name__} have the name {name!r}, and a checkpoint can"
                " hold only one of them: rename a key of the dictionary."
            )
        parts[name] = part
    return parts


def scatter(
    owner: object,
    states: dict[str, Any],
    only: tuple[type, ...] | None = None,
    before: Callable[[str, object], None] | None = None,
) -> None:
    """Restore what :func:`gather` returned, and change nothing if the names do not match.

    Args:
        owner: the object whose attributes are restored.
        states: states by dotted name.
        only: the types of the attributes to restore; all types by default.
        before: called with the name of each attribute and the attribute, before any is restored.

    Raises:
        CheckpointError: an attribute has no saved state, or a saved state has no attribute.
    """
    parts = _by_name(owner)
    if only is not None:
        parts = {name: part for name, part in parts.items() if isinstance(part, only)}
        states = {name: state for name, state in states.items() if name in parts}
    label = type(owner).__name__
    if missing := parts.keys() - states.keys():
        raise CheckpointError(
            f"the checkpoint holds nothing for {label}.{min(missing)}."
            f"{nearest(min(missing), states)} A model with other attributes saved it:"
            " restore the attribute's old name, or override load_state_dict()."
        )
    if unknown := states.keys() - parts.keys():
        raise CheckpointError(
            f"the checkpoint holds a state for {label}.{min(unknown)}, which the model does not"
            f" have after setup().{nearest(min(unknown), parts)} Create the attribute in setup(),"
            " or override load_state_dict()."
        )
    if before is not None:
        for name, part in parts.items():
            before(name, part)
    for name, part in parts.items():
        try:
            require_same_groups(f"{label}.{name}", part, states[name])
            part.load_state_dict(states[name])
        except Exception as error:
            error.add_note(f"while restoring {label}.{name} from a checkpoint")
            raise
