"""The optimizers of a model, and the parameters that each of them steps."""

import inspect
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from helios.errors import ConfigurationError
from helios.model import stateful
from helios.model.optimizer_search import named_optimizers, optimizers_in
from helios.model.schedulers import Schedulers, check_schedulers

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_MOST_STEPS = 16  # a model may create optimizers for one step each


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


def _has_own_reset(optimizer: Optimizer) -> bool:
    is_own = getattr(type(optimizer), "zero_grad", None) is not Optimizer.zero_grad
    return is_own or "zero_grad" in vars(optimizer)


class Step:
    """The next step of optimizers that step together.

    Attributes:
        optimizers: the optimizers.
        single: the optimizer, if it is only one.
        is_alone: ``True`` if it is one optimizer, and no other one has parameters.
        has_own_reset: ``True`` if an optimizer has its own ``zero_grad()``.
        parameters: the parameters of the optimizers.
        apart: the parameters that only other optimizers step.
        unused: the parameters of ``apart`` whose optimizers have not been given a loss.
        shared: the parameters that other optimizers step, too.
        kept: the shared parameters with the gradients of this step, between two of its losses.
        groups: the number of their parameter groups when ``apart`` was found.
        losses: the number of losses in the window; 0 if the step is not pending.
        clip_norm: see :meth:`~helios.model.Model.optimize`.
        clip_value: see :meth:`~helios.model.Model.optimize`.
        weight: the sum of the weights of the losses in the window, if they have weights.
        schedulers: the schedulers that advance after the step.
    """

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self.optimizers = optimizers
        self.single = optimizers[0] if len(optimizers) == 1 else None
        self.is_alone = False
        self.has_own_reset = any(map(_has_own_reset, optimizers))
        self.parameters: list[torch.Tensor] = []
        self.apart: list[torch.Tensor] = []
        self.unused: list[torch.Tensor] = []
        self.shared: list[torch.Tensor] = []
        self.kept: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self.groups = 0
        self.losses = 0
        self.clip_norm: float | None = None
        self.clip_value: float | None = None
        self.weight: float | torch.Tensor | None = None
        self.schedulers: tuple[LRScheduler, ...] = ()

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
        if isinstance(weight, torch.Tensor):
            weight = weight.detach().reshape(()).clone()  # the model may change its tensor later
        self.weight = weight if self.weight is None else self.weight + weight
        return loss * weight

    def schedule(self, given: Schedulers) -> None:
        """Let schedulers advance after the step, if they are those of its optimizers."""
        found = tuple(given) if isinstance(given, list | tuple) else (given,)
        if found != self.schedulers:
            check_schedulers(found, self.optimizers)
            self.schedulers = found

    def advance(self) -> None:
        """Advance the schedulers, because the step was taken."""
        for each in self.schedulers:
            each.step()

    def divide(self) -> None:
        """Divide the gradients by the weights of the whole window."""
        weight, self.weight = self.weight, None
        if isinstance(weight, torch.Tensor):
            weight = weight + (weight == 0)  # as below, but without a read of the device
        elif not weight:
            return  # the gradients are 0, too
        for parameter in parameters_of(self.optimizers):
            if (gradient := parameter.grad) is not None:
                if isinstance(weight, torch.Tensor) and weight.device != gradient.device:
                    weight = weight.to(gradient.device)
                gradient.div_(weight)

    def drop_gradients(self) -> None:
        """Set the gradients to ``None``, as ``zero_grad()`` does.

        Most of the time of ``zero_grad()`` is that of its label in PyTorch's profiler.
        """
        single = self.single
        if self.has_own_reset or single is None or len(single.param_groups) != self.groups:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        else:
            for parameter in self.parameters:
                parameter.grad = None

    def keep_shared(self) -> None:
        """Take away the gradients of parameters that other optimizers step, too."""
        self.kept = [(parameter, parameter.grad) for parameter in self.shared]
        for parameter in self.shared:
            parameter.grad = None

    def restore_shared(self) -> None:
        """Restore the gradients that :meth:`keep_shared` took away."""
        for parameter, gradient in self.kept:
            parameter.grad = gradient
        self.kept = []

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
        self._given: list[weakref.ref[Optimizer]] = []
        self._known: list[tuple[Optimizer, int]] = []
        self._used: list[torch.Tensor] = []
        self._unused: list[torch.Tensor] = []
        self._left: set[int] | None = None
        self._notes_left = False
        self._is_first = True
        self._has_withheld = False
        self._watches: list[RemovableHandle] = []
        self._nodes: list[Any] = []

    @property
    def are_used(self) -> bool:
        """``True`` if the model has given a loss for one of them."""
        return bool(self._given)

    def known(self) -> list[Optimizer]:
        """Return the optimizers that the model has, as far as they were found."""
        return [optimizer for optimizer, _ in self._known]

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
        try:
            step = self._steps[optimizer]  # type: ignore[index]  # a list has no hash
        except (KeyError, TypeError):
            key = tuple(optimizer) if isinstance(optimizer, list | tuple | dict) else optimizer
            step = self._steps.get(key) or self._add(key)
        single = step.single
        groups = _groups(step) if single is None else len(single.param_groups)
        if groups != step.groups or len(self._attributes) != self._count:
            self._search()
        if step.losses == 0 and len(self._steps) > 1:
            self._refuse_overlap(step)
        return step

    def named(self) -> dict[str, Optimizer]:
        """Return the optimizers that the attributes of the model hold, by name, each once."""
        return named_optimizers(self._model)

    def pending(self) -> list[Step]:
        """Return the steps that got a loss in this window, and have not been taken."""
        return [step for step in self._steps.values() if step.losses]

    def drop_gradients(self) -> None:
        """Drop the gradients of all optimizers that a loss was given to, before a window begins.

        Checkpoints do not hold them, so a resumed run would not have them. Gradients of the others
        may belong to steps that the model takes by hand.
        """
        if len(self._attributes) != self._count:
            self._search()
        for optimizer, groups in self._known:
            if len(optimizer.param_groups) != groups:
                self._search()
                break
        for parameter in self._used:
            if parameter.grad is not None:
                parameter.grad = None
        if self._notes_left:
            self._note_left()

    def hold_nodes(self) -> None:
        """Hold the nodes in which PyTorch adds the gradients; called before each epoch.

        Otherwise, each forward pass would create a node for each parameter, at 1 us each. A node
        knows the shape of its parameter, which may have changed since the last epoch.
        """
        self._nodes = []
        known = parameters_of(optimizer for optimizer, _ in self._known)
        usual = [p for p in known if type(p) is nn.Parameter]  # lazy and other ones may have none
        trained = [p for p in usual if p.requires_grad and not p.is_inference()]
        self._nodes = [get_gradient_edge(each).node for each in trained]

    def _note_left(self) -> None:
        """Take note of the gradients that remain from earlier windows, unless nobody needs them.

        A model that takes all its steps by hand does not pay for this in each window.
        """
        if self._used or self._is_first:
            self._left = {id(each) for each in self._unused if each.grad is not None}
            self._has_withheld = self._is_first = False
        else:
            self._left = None
            self._notes_left = False

    def note_withheld(self, step: Step) -> None:
        """Take note of gradients that optimizers of steps by hand do not get from a loss."""
        if any(parameter.grad is not None for parameter in step.unused):
            self._has_withheld = True

    def waiting_by_hand(self) -> list[torch.Tensor]:
        """Return the parameters that have gradients for steps that the model takes by hand."""
        return [parameter for parameter in self._unused if parameter.grad is not None]

    def close(self) -> None:
        """Release the optimizers: stop watching the steps that the model takes by hand."""
        for watch in self._watches:
            watch.remove()
        self._watches, self._nodes = [], []

    def _add(self, key: Any) -> Step:
        given = tuple(dict.fromkeys(key)) if isinstance(key, tuple) else (key,)
        if not given:
            raise TypeError("optimize() got no optimizer: pass one, or a list of several.")
        for optimizer in given:
            _check(optimizer)
        if len(self._steps) >= _MOST_STEPS:
            self._known = []
            self._steps = {each: step for each, step in self._steps.items() if step.losses}
        live = self._live()
        self._given += [weakref.ref(optimizer) for optimizer in given if optimizer not in live]
        self._steps[key] = step = Step(given)
        self._count = -1
        return step

    def _live(self) -> list[Optimizer]:
        live = [reference() for reference in self._given]
        return [optimizer for optimizer in live if optimizer is not None]

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
        used = self._live()
        known = list(dict.fromkeys([*(found for _, found in optimizers_in(self._model)), *used]))
        self._given = [weakref.ref(optimizer) for optimizer in used]
        self._known = [(optimizer, len(optimizer.param_groups)) for optimizer in known]
        self._count = len(self._attributes)
        self._drop_foreign(used)
        mine = {id(parameter) for parameter in self._used}
        self._unused = [each for each in parameters_of(known) if id(each) not in mine]
        self._notes_left = bool(self._unused)
        for step in self._steps.values():
            self._divide(step, known)
        self.close()
        if used:
            self._watches = [
                optimizer.register_step_pre_hook(self._check_step_by_hand)
                for optimizer in known
                if optimizer not in used
            ]
        self.hold_nodes()

    def _drop_foreign(self, used: list[Optimizer]) -> None:
        """Drop the gradients of new parameters: they are of losses that were not for them.

        Keep those that the model has added by hand in this window.
        """
        kept = {id(parameter) for parameter in self._used}
        if self._left is not None:
            kept |= {id(each) for each in self._unused if id(each) not in self._left}
        self._used = parameters_of(used)
        for parameter in self._used:
            if id(parameter) not in kept:
                parameter.grad = None

    def _divide(self, step: Step, known: list[Optimizer]) -> None:
        """Find the parameters that a step shares with others, and those that it does not step."""
        mine = {id(parameter) for parameter in parameters_of(step.optimizers)}
        unused = {id(parameter) for parameter in self._unused}
        rest = parameters_of(each for each in known if each not in step.optimizers)
        step.apart = [parameter for parameter in rest if id(parameter) not in mine]
        step.unused = [parameter for parameter in step.apart if id(parameter) in unused]
        step.shared = [parameter for parameter in rest if id(parameter) in mine]
        step.parameters = parameters_of(step.optimizers)
        step.is_alone = step.single is not None and not rest
        step.groups = _groups(step)

    def _check_step_by_hand(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Raise an error if the model steps on gradients that ``optimize()`` withheld."""
        has_closure = len(args) > 1 or kwargs.get("closure") is not None
        if self._has_withheld and not has_closure and not has_gradients(optimizer):
            name = type(optimizer).__name__
            raise ConfigurationError(
                f"{name} ({self.name_of(optimizer) or 'unnamed'}) takes a step by hand, but has no"
                " gradients: a loss that you pass to optimize() leaves gradients only for the"
                " optimizers that you pass with it. If both step on this loss, write"
                " self.optimize(loss, [first, second]) and no step by hand."
            )


def _groups(step: Step) -> int:
    return sum(len(optimizer.param_groups) for optimizer in step.optimizers)


def _check(optimizer: Any) -> None:
    if not all(hasattr(optimizer, name) for name in ("param_groups", "step", "zero_grad")):
        raise TypeError(
            f"optimize() got a {type(optimizer).__name__} as its optimizer: pass a"
            " torch.optim.Optimizer, or a list of several that step on one loss."
        )
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
