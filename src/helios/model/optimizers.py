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


class Step:
    """The next step of optimizers that step together.

    Attributes:
        optimizers: the optimizers.
        is_single: ``True`` for one optimizer.
        apart: the parameters that only other optimizers step.
        groups: the number of their parameter groups when ``apart`` was found.
        losses: the number of losses in the window; 0 if the step is not pending.
        clip_norm: see :meth:`~helios.model.Model.optimize`.
        clip_value: see :meth:`~helios.model.Model.optimize`.
        weight: the sum of the weights of the losses in the window, if they have weights.
    """

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self.optimizers = optimizers
        self.is_single = len(optimizers) == 1
        self.apart: list[torch.Tensor] = []
        self.groups = 0
        self.losses = 0
        self.clip_norm: float | None = None
        self.clip_value: float | None = None
        self.weight: float | torch.Tensor | None = None

    def __str__(self) -> str:
        return " and ".join(type(optimizer).__name__ for optimizer in self.optimizers)

    def weigh(self, loss: torch.Tensor, weight: float | torch.Tensor | None) -> torch.Tensor:
        """Return a loss times its weight, and add the weight to that of the window."""
        if self.losses > 1 and (weight is None) != (self.weight is None):
            raise ConfigurationError(
                f"optimize({self}) got a weight for some losses of a window and none for others:"
                " pass weight= for all of them, or for none."
            )
        if weight is None:
            return loss
        weight = weight.detach() if isinstance(weight, torch.Tensor) else weight
        self.weight = weight if self.weight is None else self.weight + weight
        return loss * weight

    def divide(self) -> None:
        """Divide the gradients by the weights of the whole window."""
        weight, self.weight = self.weight, None
        if isinstance(weight, torch.Tensor) or weight:
            for parameter in parameters_of(self.optimizers):
                if parameter.grad is not None:
                    parameter.grad.div_(weight)

    def clip(self) -> None:
        """Clip each gradient, and then the norm of the gradients of all optimizers together."""
        parameters = parameters_of(self.optimizers)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)


class Optimizers:
    """The optimizers of a model, as far as they exist, and the steps that they take.

    Args:
        model: the model. Its attributes are searched again when they change.
    """

    def __init__(self, model: object) -> None:
        self._model = model
        self._attributes = vars(model)
        self._count = -1
        self._steps: dict[Optimizer | tuple[Optimizer, ...], Step] = {}
        self._known: list[tuple[Optimizer, int]] = []
        self._parameters: list[torch.Tensor] = []
        self._stepped: set[int] = set()

    def name_of(self, optimizer: Optimizer) -> str:
        """Return the name of an optimizer in checkpoints; ``""`` if no attribute holds it."""
        name = stateful.name_of(self._model, optimizer)
        if name:
            return name
        found = optimizers_in(self._model)
        return next((name for name, other in found if other is optimizer), "")

    def step_of(self, optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...]) -> Step:
        """Return the step for a loss.

        Args:
            optimizer: the optimizer that the loss is for, or several that step together.

        Raises:
            ConfigurationError: an optimizer takes its steps with a closure, or is already in
                another step of this window.
            TypeError: the object is no optimizer.
        """
        key = tuple(optimizer) if isinstance(optimizer, list | tuple) else optimizer
        step = self._steps.get(key) or self._add(key)
        groups = len(step.optimizers[0].param_groups) if step.is_single else _groups(step)
        if groups != step.groups or len(self._attributes) != self._count:
            self._search()
        if step.losses == 0 and len(self._steps) > 1:
            self._refuse_overlap(step)
        return step

    def pending(self) -> list[Step]:
        """Return the steps that got a loss in this window, and have not been taken."""
        return [step for step in self._steps.values() if step.losses]

    def drop_gradients(self) -> None:
        """Drop the gradients of all optimizers that a loss was given to."""
        for optimizer, groups in self._known:
            if len(optimizer.param_groups) != groups:
                self._search()
                break
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = None

    def _add(self, key: Optimizer | tuple[Optimizer, ...]) -> Step:
        given = key if isinstance(key, tuple) else (key,)
        for optimizer in given:
            _check(optimizer)
        self._steps[key] = step = Step(given)
        self._count = -1
        return step

    def _refuse_overlap(self, step: Step) -> None:
        for other in self.pending():
            if not set(other.optimizers).isdisjoint(step.optimizers):
                raise ConfigurationError(
                    f"optimize() got {other}, and then {step} in one accumulation window, so one"
                    " optimizer would belong to two steps: always give it alone, or always in the"
                    " same list."
                )

    def _search(self) -> None:
        """Find the optimizers that the model has now, and what each step must leave alone."""
        used = [optimizer for step in self._steps.values() for optimizer in step.optimizers]
        found = [optimizer for _, optimizer in optimizers_in(self._model)]
        known = list(dict.fromkeys([*found, *used]))
        self._known = [(optimizer, len(optimizer.param_groups)) for optimizer in known]
        self._count = len(self._attributes)
        everything = parameters_of(known)
        for step in self._steps.values():
            mine = {id(parameter) for parameter in parameters_of(step.optimizers)}
            step.apart = [parameter for parameter in everything if id(parameter) not in mine]
            step.groups = _groups(step)
        self._parameters = parameters_of(used)
        before, self._stepped = self._stepped, {id(parameter) for parameter in everything}
        for parameter in everything:
            if before and id(parameter) not in before:  # no optimizer stepped it until now
                parameter.grad = None  # of losses that were not for it


def _groups(step: Step) -> int:
    return sum(len(optimizer.param_groups) for optimizer in step.optimizers)


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
