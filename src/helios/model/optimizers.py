"""The optimizers of a model, and the parameters that each of them steps."""

import inspect
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from helios.errors import ConfigurationError
from helios.model import stateful

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_DEPTH = 3  # helper objects inside helper objects
_MOST = 10_000  # items of a list or dictionary: larger ones hold data


def parameters_of(optimizers: Iterable[Optimizer]) -> list[torch.Tensor]:
    """Return the parameters of optimizers, each once, in the order of their groups."""
    found = {
        id(parameter): parameter
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return list(found.values())


def has_gradients(optimizer: Optimizer) -> bool:
    """Return whether a parameter of an optimizer has a gradient."""
    groups = optimizer.param_groups
    return any(parameter.grad is not None for group in groups for parameter in group["params"])


def given_optimizers(value: Any) -> tuple[Optimizer, ...]:
    """Return the optimizers that were passed alone or in a list, each once.

    Raises:
        TypeError: one of them is no optimizer.
    """
    if hasattr(value, "param_groups"):
        return (value,)
    given = list(value) if isinstance(value, Iterable) and not isinstance(value, dict) else [value]
    for optimizer in given:
        if not all(hasattr(optimizer, name) for name in ("param_groups", "step", "zero_grad")):
            raise TypeError(
                f"optimize() got a {type(optimizer).__name__} as its optimizer: pass a"
                " torch.optim.Optimizer, or a list of several that step on one loss."
            )
    if not given:
        raise TypeError("optimize() got no optimizer: pass one, or a list of several.")
    return tuple(dict.fromkeys(given))


def optimizers_in(value: Any) -> Iterator[tuple[str, Optimizer]]:
    """Iterate over the optimizers among the attributes of an object, private ones included.

    The search goes into lists, tuples, dictionaries, modules, and a few levels of helper objects.

    Yields:
        Pairs of a dotted name and an optimizer; an optimizer with several names, several times.
    """
    seen: set[int] = set()
    for name, item in vars(value).items():
        yield from _search(name, item, _DEPTH, seen)


def _search(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Optimizer]]:
    if isinstance(value, Optimizer):
        yield name, value
    elif isinstance(value, torch.Tensor | type) or id(value) in seen:
        return
    elif isinstance(value, nn.Module):
        seen.add(id(value))
        for place, module in value.named_modules(prefix=name):
            for key, item in list(vars(module).items()):
                if isinstance(item, Optimizer):
                    yield f"{place}.{key}", item
    elif isinstance(value, dict | list | tuple) and len(value) > _MOST:
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


class Split:
    """The parameters of a model, as optimizers that get a loss divide them.

    Attributes:
        groups: the number of parameter groups of each optimizer, which may get more.
        others: the parameters that only other optimizers step.
        shared: the parameters that other optimizers step, too.
        withheld: the parameters of ``others`` whose optimizers have not been given a loss.
    """

    def __init__(
        self, given: tuple[Optimizer, ...], known: list[Optimizer], used: list[Optimizer]
    ) -> None:
        self.groups = [len(optimizer.param_groups) for optimizer in given]
        mine = {id(parameter) for parameter in parameters_of(given)}
        rest = parameters_of([optimizer for optimizer in known if optimizer not in given])
        mine_or_used = mine | {id(parameter) for parameter in parameters_of(used)}
        self.others = [parameter for parameter in rest if id(parameter) not in mine]
        self.shared = [parameter for parameter in rest if id(parameter) in mine]
        self.withheld = [p for p in self.others if id(p) not in mine_or_used]


class Optimizers:
    """Knows the optimizers of a model, as far as they exist, and what each one steps.

    Args:
        model: the model. Its attributes are searched again when they change.
    """

    def __init__(self, model: object) -> None:
        self._model = model
        self._attributes = -1  # not searched yet
        self._named: list[tuple[str, Optimizer]] = []
        self._groups: list[tuple[Optimizer, int]] = []
        self._given: list[weakref.ref[Optimizer]] = []  # a model may create one for each step
        self._used: list[torch.Tensor] = []
        self._unused: list[torch.Tensor] = []
        self._left: set[int] | None = None
        self._splits: dict[tuple[Optimizer, ...], Split] = {}
        self._watches: list[RemovableHandle] = []
        self._is_first = True
        self.has_withheld = False
        self.version = 0
        """A number that grows with each search, after which a :class:`Split` is out of date."""

    def name_of(self, optimizer: Optimizer) -> str:
        """Return the name of an optimizer in checkpoints; ``""`` if no attribute holds it."""
        name = stateful.name_of(self._model, optimizer)
        if name:
            return name
        found = optimizers_in(self._model)
        return next((name for name, other in found if other is optimizer), "")

    def split(self, given: tuple[Optimizer, ...]) -> Split:
        """Return how optimizers that get a loss divide the parameters of the model.

        Raises:
            ConfigurationError: an optimizer takes its steps with a closure.
        """
        split = self._splits.get(given)
        if split is None or split.groups != [len(each.param_groups) for each in given]:
            for optimizer in given:
                _check(optimizer)
            self._splits, self._groups = {}, []  # which would keep optimizers of one step alive
            live = self._live()
            self._given += [weakref.ref(each) for each in given if each not in live]
            known, used = self._search()
            split = self._splits[given] = Split(given, known, used)
        return split

    def begin_window(self) -> None:
        """Drop the gradients of all optimizers that a loss was given to.

        Gradients of the others may belong to steps that the model takes by hand.
        """
        if self._has_changed():
            self._search()
        for parameter in self._used:
            if parameter.grad is not None:
                parameter.grad = None
        if self._unused:
            # A model that takes all its steps by hand does not pay for this in each window.
            self._left = None
            if self._used or self._is_first:
                self._left = {id(each) for each in self._unused if each.grad is not None}
            self.has_withheld = self._is_first = False

    def close(self) -> None:
        """Stop watching the steps that the model takes by hand."""
        for watch in self._watches:
            watch.remove()
        self._watches = []

    def _live(self) -> list[Optimizer]:
        live = [reference() for reference in self._given]
        return [optimizer for optimizer in live if optimizer is not None]

    def _has_changed(self) -> bool:
        """Return whether the model got other optimizers, or one of them other groups."""
        attributes = vars(self._model)
        if len(attributes) != self._attributes:
            return True
        for name, optimizer in self._named:
            if attributes.get(name) is not optimizer:
                return True
        for optimizer, groups in self._groups:  # noqa: SIM110 - a generator costs more per window
            if len(optimizer.param_groups) != groups:
                return True
        return False

    def _search(self) -> tuple[list[Optimizer], list[Optimizer]]:
        """Search the model, and return its optimizers and those that a loss was given to."""
        self.version += 1
        self._splits, attributes = {}, vars(self._model)
        found, used = list(optimizers_in(self._model)), self._live()
        known = list(dict.fromkeys([*(other for _, other in found), *used]))
        self._given = [weakref.ref(optimizer) for optimizer in used]
        self._attributes = len(attributes)
        self._named = [(name, other) for name, other in found if name in attributes]
        self._groups = [(optimizer, len(optimizer.param_groups)) for optimizer in known]
        self._watch([optimizer for optimizer in known if optimizer not in used])
        kept = {id(parameter) for parameter in self._used}
        if self._left is not None:
            kept |= {id(p) for p in self._unused if id(p) not in self._left}
        mine = parameters_of(used)
        for parameter in mine:
            if id(parameter) not in kept:  # a gradient of earlier windows, or of other losses
                parameter.grad = None
        ids = {id(parameter) for parameter in mine}
        self._unused = [p for p in parameters_of(known) if id(p) not in ids]
        self._used = mine
        return known, used

    def _watch(self, optimizers: list[Optimizer]) -> None:
        """Watch for steps that the model takes by hand."""
        self.close()
        self._watches = [
            optimizer.register_step_pre_hook(self._check_step_by_hand) for optimizer in optimizers
        ]

    def _check_step_by_hand(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Raise an error if the model steps on gradients that :meth:`Model.optimize` withheld."""
        has_closure = len(args) > 1 or kwargs.get("closure") is not None
        if self.has_withheld and not has_closure and not has_gradients(optimizer):
            name = type(optimizer).__name__
            raise ConfigurationError(
                f"{name} ({self.name_of(optimizer) or 'unnamed'}) takes a step by hand, but has no"
                " gradients: a loss that you pass to optimize() leaves gradients only for the"
                " optimizers that you pass with it. If both step on this loss, write"
                " self.optimize(loss, [first, second]) and no step by hand."
            )


def _check(optimizer: Any) -> None:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
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
