"""The optimizers of a model, and the parameters that each of them steps."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from helios.errors import ConfigurationError
from helios.model import stateful

_DEPTH = 3  # helper objects inside helper objects


def parameters_of(optimizers: Sequence[Optimizer]) -> list[torch.Tensor]:
    """Return the parameters of optimizers, each once, in the order of their groups."""
    found = {
        id(parameter): parameter
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return list(found.values())


def optimizers_in(value: Any) -> Iterator[tuple[str, Optimizer]]:
    """Iterate over the optimizers among the attributes of an object, private ones included.

    The search goes into lists, tuples, dictionaries, and a few levels of helper objects.

    Yields:
        Pairs of a dotted name and an optimizer; an optimizer with several names, several times.
    """
    seen: set[int] = set()
    for name, item in vars(value).items():
        yield from _search(name, item, _DEPTH, seen)


def _search(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Optimizer]]:
    if isinstance(value, Optimizer):
        yield name, value
    elif isinstance(value, nn.Module | torch.Tensor | type) or id(value) in seen:
        return
    elif isinstance(value, dict):
        seen.add(id(value))
        for key, item in list(value.items()):
            yield from _search(f"{name}.{key}", item, depth, seen)
    elif isinstance(value, list | tuple):
        seen.add(id(value))
        for index, item in enumerate(value):
            yield from _search(f"{name}.{index}", item, depth, seen)
    elif depth > 0 and isinstance(getattr(value, "__dict__", None), dict) and _is_of_user(value):
        seen.add(id(value))
        for key, item in list(vars(value).items()):
            yield from _search(f"{name}.{key}", item, depth - 1, seen)


def _is_of_user(value: object) -> bool:
    """Return whether an object may hold optimizers of the model; a trainer holds other things."""
    return type(value).__module__.partition(".")[0] != "helios"


class Optimizers:
    """Knows the optimizers of a model, as far as they exist, and what each one steps.

    Args:
        model: the model. Its attributes are searched again when they change.
    """

    def __init__(self, model: object) -> None:
        self._model = model
        self._used: list[Optimizer] = []
        self._known: list[Optimizer] = []
        self._named: list[tuple[str, Optimizer]] = []
        self._shape: tuple[int, ...] = ()
        self._apart: dict[tuple[Optimizer, ...], list[torch.Tensor]] = {}
        self._parameters: list[torch.Tensor] = []

    def name_of(self, optimizer: Optimizer) -> str:
        """Return the name of an optimizer in checkpoints; ``""`` if no attribute holds it."""
        name = stateful.name_of(self._model, optimizer)
        if name:
            return name
        found = optimizers_in(self._model)
        return next((name for name, other in found if other is optimizer), "")

    def use(self, given: tuple[Optimizer, ...]) -> list[torch.Tensor]:
        """Take note that a loss is given to optimizers.

        Args:
            given: the optimizers that the loss is for.

        Returns:
            The parameters that only other optimizers step.

        Raises:
            ConfigurationError: an optimizer takes its steps with a closure.
            TypeError: one of them is no optimizer.
        """
        for optimizer in given:
            if optimizer not in self._used:
                _check(optimizer)
                self._used.append(optimizer)
                self._shape = ()
        if self._shape != self._current_shape():
            self._search()
        if given not in self._apart:
            mine = {id(parameter) for parameter in parameters_of(given)}
            everything = parameters_of(self._known)
            self._apart[given] = [p for p in everything if id(p) not in mine]
        return self._apart[given]

    def drop_gradients(self) -> None:
        """Drop the gradients of all optimizers that a loss was given to."""
        if self._shape != self._current_shape():
            self._search()
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = None

    def _current_shape(self) -> tuple[int, ...]:
        """Return numbers that change if the model gets other optimizers, or one other groups."""
        attributes = vars(self._model)
        groups = [len(optimizer.param_groups) for optimizer in self._known]
        same = all(attributes.get(name) is optimizer for name, optimizer in self._named)
        return (len(attributes), same, *groups)

    def _search(self) -> None:
        found = list(optimizers_in(self._model))
        before = {id(parameter) for parameter in self._parameters}
        self._known = list(dict.fromkeys([*(other for _, other in found), *self._used]))
        self._named = [(name, other) for name, other in found if name in vars(self._model)]
        self._shape = self._current_shape()
        self._apart = {}
        self._parameters = parameters_of(self._used)
        for parameter in self._parameters:
            if id(parameter) not in before:  # gradients of losses that were not for it
                parameter.grad = None


def _check(optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimize() got a {type(optimizer).__name__} as its optimizer: pass a"
            " torch.optim.Optimizer, or a list of several that step on one loss."
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        name = type(optimizer).__name__
        raise ConfigurationError(
            f"{name} takes its steps with a closure that computes the loss several times, so"
            " optimize() cannot drive it. Write its step by hand in train_step:\n"
            "    def closure():\n"
            "        self.optimizer.zero_grad()\n"
            "        loss = ...\n"
            "        loss.backward()\n"
            "        return loss\n"
            "    self.optimizer.step(closure)"
        )
