"""The values that a resumed run takes from ``setup()`` instead of from its checkpoint."""

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from helios.errors import ConfigurationError, nearest
from helios.model import stateful
from helios.model.optimizer_state import NO_HYPERPARAMETERS

_OF_SCHEDULES = ("lr", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum")
"""The keys of a parameter group that belong to the learning rate and its schedule."""
_PROGRESS_OF_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class Overrides:
    """The overridden values of a run.

    A learning rate and its schedulers belong together. So if one of them is overridden, all of them
    become as if the run had always had those of ``setup()``: Helios sets up the schedulers anew,
    and lets them take the steps that they had taken.

    Args:
        model: the model.
        names: hyper-parameters (``"lr"``), those of one optimizer (``"optimizer.weight_decay"``),
            or schedulers (``"scheduler"``).
    """

    def __init__(self, model: object, names: Iterable[str]) -> None:
        self._model = model
        self._names = tuple(names)
        self._groups: dict[str, list[dict[str, Any]]] = {}
        self._schedules: dict[str, dict[str, Any]] = {}
        self._wanted: dict[str, set[str]] = {}

    def note(self) -> None:
        """Note the values of ``setup()``, and which of them are overridden.

        Raises:
            ConfigurationError: the model has no value with one of the names.
        """
        if not self._names:
            return
        optimizers, schedulers = dict(self._optimizers()), dict(self._schedulers())
        for name, optimizer in optimizers.items():
            self._groups[name] = [
                {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
                for group in optimizer.param_groups
            ]
        for name, scheduler in schedulers.items():
            self._schedules[name] = copy.deepcopy(scheduler.state_dict())
        for name in self._names:
            self._note(name, optimizers, schedulers)

    def covers(self, optimizer: str, key: str) -> bool:
        """Return whether a hyper-parameter of an optimizer is overridden."""
        wanted = self._wanted.get(optimizer, set())
        return key in wanted or ("lr" in wanted and key in _OF_SCHEDULES)

    def apply(self, differing: Collection[tuple[str, str]]) -> None:
        """Replace the restored values.

        Args:
            differing: the pairs of an optimizer and a hyper-parameter that differ from those of
                the checkpoint. Nothing else is replaced, so a run that resumes again with the same
                overrides continues with what has become of them.
        """
        for name, optimizer in self._optimizers():
            keys = {key for owner, key in differing if owner == name and self.covers(name, key)}
            if "lr" in keys:
                self._replay(name, optimizer)
            for group, new in zip(optimizer.param_groups, self._groups.get(name, []), strict=False):
                group.update({key: copy.deepcopy(new[key]) for key in keys - {"lr"} if key in new})

    def _note(
        self, name: str, optimizers: dict[str, Optimizer], schedulers: dict[str, Any]
    ) -> None:
        owner, _, key = name.rpartition(".")
        if name in schedulers:
            self._want(self._owner(schedulers[name]), "lr")
            return
        found = [
            each
            for each, groups in self._groups.items()
            if owner in ("", each) and any(key in group for group in groups)
        ]
        if not found:
            keys = {key for groups in self._groups.values() for group in groups for key in group}
            known = sorted(keys - NO_HYPERPARAMETERS) + list(schedulers)
            raise ConfigurationError(
                f"resume_overrides names {name!r}, but {type(self._model).__name__} has no such"
                f" value after setup().{nearest(name, known)} It has: {', '.join(known)}; those of"
                f" one optimizer are {next(iter(optimizers), 'optimizer')}.lr and so on."
            )
        for each in found:
            self._want(each, key)

    def _want(self, optimizer: str, key: str) -> None:
        self._wanted.setdefault(optimizer, set()).add(key)

    def _owner(self, scheduler: Any) -> str:
        optimizer = getattr(scheduler, "optimizer", None)
        return next((name for name, each in self._optimizers() if each is optimizer), "")

    def _replay(self, name: str, optimizer: Optimizer) -> None:
        """Give an optimizer the learning rates of ``setup()``, at the restored position."""
        mine = [(each, part) for each, part in self._schedulers() if self._owner(part) == name]
        positions = {each: _position(part) for each, part in mine}
        cycled = ("momentum", "betas") if any(_cycles(part) for _, part in mine) else ()
        for group, new in zip(optimizer.param_groups, self._groups[name], strict=False):
            keys = [key for key in (*_OF_SCHEDULES, *cycled) if key in new]
            group.update({key: copy.deepcopy(new[key]) for key in keys})
        for each, part in mine:
            fresh = copy.deepcopy(self._schedules[each])
            if isinstance(part, ReduceLROnPlateau):  # its steps depend on metrics
                fresh.update({key: getattr(part, key) for key in _PROGRESS_OF_PLATEAU})
            part.load_state_dict(fresh)
        with warnings.catch_warnings():
            # PyTorch warns because no optimizer steps in between, and about deprecated arguments.
            warnings.simplefilter("ignore")
            for each, part in mine:
                if not isinstance(part, ReduceLROnPlateau):
                    for _ in range(positions[each] - _position(part)):
                        part.step()

    def _optimizers(self) -> Iterator[tuple[str, Optimizer]]:
        for name, part in stateful.stateful_attributes(self._model):
            if isinstance(part, Optimizer):
                yield name, part

    def _schedulers(self) -> Iterator[tuple[str, Any]]:
        yield from schedulers_in(self._model)


def schedulers_in(model: object) -> Iterator[tuple[str, Any]]:
    """Iterate over pairs of an attribute's name and the scheduler of PyTorch in it."""
    for name, part in stateful.stateful_attributes(model):
        if isinstance(part, LRScheduler | ReduceLROnPlateau):
            yield name, part


def _position(scheduler: Any) -> int:
    """Return the number of steps of a scheduler; a chain of several has none of its own."""
    state = scheduler.state_dict()
    number: int = state.get("last_epoch", state.get("_schedulers", [state])[0].get("last_epoch", 0))
    return number


def _cycles(scheduler: Any) -> bool:
    return bool(getattr(scheduler, "cycle_momentum", False))
