"""The classes and hyper-parameters of a model's optimizers, to compare code and checkpoint."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from helios.errors import CheckpointError
from helios.model import stateful
from helios.model.optimizer_state import NO_HYPERPARAMETERS, class_of
from helios.model.overrides import Overrides, schedulers_in

_logger = logging.getLogger(__name__)


class OptimizerRecord:
    """The classes of a model's optimizers, and their hyper-parameters at the end of ``setup()``.

    The state of an optimizer does not contain its class. It contains the hyper-parameters, but
    schedulers change them in training. So this record is what shows an edit of the code.

    Args:
        model: the model.
        overrides: the values that do not come from the checkpoint.
        is_strict: ``True`` to refuse another class; ``False`` if the model restores its optimizers
            itself.

    Attributes:
        overridden: the differences to the checkpoint that are overridden, in words, by optimizer
            and hyper-parameter.
    """

    def __init__(self, model: object, overrides: Overrides, *, is_strict: bool) -> None:
        self._model = model
        self._overrides = overrides
        self._is_strict = is_strict
        self._initial: dict[str, dict[str, Any]] = {}
        self.overridden: dict[tuple[str, str], str] = {}

    def note(self) -> None:
        """Note the optimizers as they are now, at the end of ``setup()``."""
        self._initial = {
            name: {
                "class": class_of(optimizer),
                "groups": _hyperparameters(optimizer),
                "schedulers": {
                    each: _settings(scheduler.state_dict())
                    for each, scheduler in schedulers_in(self._model)
                    if getattr(scheduler, "optimizer", None) is optimizer
                },
            }
            for name, optimizer in self._optimizers()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the record of each optimizer by name; without groups if it was created later."""
        later = {name: {"class": class_of(each), "groups": []} for name, each in self._optimizers()}
        return {**later, **{name: self._initial[name] for name in later if name in self._initial}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Compare the optimizers with those of a checkpoint, before their states are restored.

        Hyper-parameters come from the checkpoint, so the record does, too: each further run says
        again that the code differs. Those that are overridden come from the code.

        Raises:
            CheckpointError: an optimizer has another class.
        """
        for name, optimizer in self._optimizers():
            if name in saved:
                self._require_class(name, saved[name]["class"], class_of(optimizer))
                self._compare(name, saved[name])
                if name in self._initial and saved[name]["groups"]:
                    self._initial[name] = self._record(name, saved[name])

    def _optimizers(self) -> Iterator[tuple[str, Optimizer]]:
        for name, part in stateful.stateful_attributes(self._model):
            if isinstance(part, Optimizer):
                yield name, part

    def _require_class(self, name: str, before: str, now: str) -> None:
        if before == now:
            return
        label = f"{type(self._model).__name__}.{name}"
        if self._is_strict:
            raise CheckpointError(
                f"{label} has the class {now}, but the checkpoint holds the state of the class"
                f" {before}: create an optimizer of that class in setup(), override"
                " load_state_dict() to start with a new state, or start a new run."
            )
        _logger.warning(
            "%s has the class %s, but the checkpoint holds the state of the class %s.",
            label,
            now,
            before,
        )

    def _compare(self, name: str, before: dict[str, Any]) -> None:
        """Say which values of the checkpoint the run uses, and note those that are overridden."""
        kept: list[str] = []
        names: dict[str, None] = {}
        for key, where, old, new in self._differences(name, before):
            change = f"{where} is {new!r}, but was {old!r}"
            if self._overrides.covers(name, key):
                others = self.overridden.get((name, key))
                self.overridden[name, key] = f"{others}; {change}" if others else change
            else:
                kept.append(change)
                names[key] = None
        if kept and self._is_strict:
            _logger.warning(
                "the hyper-parameters of %s.%s have changed in setup(): %s. The run uses those"
                " of the checkpoint. To use the new ones, pass fit(..., resume_overrides=%r).",
                type(self._model).__name__,
                name,
                "; ".join(kept),
                list(names),
            )

    def _differences(
        self, name: str, before: dict[str, Any]
    ) -> Iterator[tuple[str, str, Any, Any]]:
        """Iterate over what differs: the hyper-parameter, its place in words, and both values."""
        record = self._initial.get(name, {"groups": [], "schedulers": {}})
        now = record["groups"]
        if len(before["groups"]) != len(now):
            return  # the states of the groups are compared when they are restored
        for number, (old, new) in enumerate(zip(before["groups"], now, strict=True)):
            group = f" of group {number}" if len(now) > 1 else ""
            for key in sorted(old.keys() & new.keys()):
                if old[key] != new[key]:
                    yield key, f"{key}{group}", old[key], new[key]
        for scheduler, settings in before.get("schedulers", {}).items():  # older files have none
            current = record["schedulers"].get(scheduler, {})
            for key in sorted(settings.keys() & current.keys()):
                if settings[key] != current[key]:
                    yield "lr", f"{scheduler}.{key}", settings[key], current[key]

    def _record(self, name: str, saved: dict[str, Any]) -> dict[str, Any]:
        """Return the record of a checkpoint, with the overridden values of the code."""
        now, covers = self._initial[name], self._overrides.covers
        groups = [
            {**old, **{key: value for key, value in new.items() if covers(name, key)}}
            for old, new in zip(saved["groups"], now["groups"], strict=False)
        ]
        schedulers = saved.get("schedulers", now["schedulers"])
        return {
            **saved,
            "groups": groups if len(groups) == len(saved["groups"]) else saved["groups"],
            "schedulers": now["schedulers"] if covers(name, "lr") else schedulers,
        }


_PROGRESS = ("base_lrs", "last_epoch")
_CHAIN = "_schedulers"


def _settings(state: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a scheduler, as far as its state holds them."""
    found = {
        key: _plain(dict(value) if isinstance(value, dict) else value)
        for key, value in state.items()
        if key not in _PROGRESS and (key == "_milestones" or not key.startswith("_"))
        if _is_comparable(value) or (isinstance(value, dict) and all(map(_is_comparable, value)))
    }
    for number, part in enumerate(state.get(_CHAIN, ())):
        inner = _settings(part).items()
        found.update({f"{number}.{key}": value for key, value in inner})
    return found


def _hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {
            key: _plain(value)
            for key, value in group.items()
            if key not in NO_HYPERPARAMETERS and _is_comparable(value)
        }
        for group in optimizer.param_groups
    ]


def _is_comparable(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_comparable(item) for item in value)
    return isinstance(value, bool | int | float | str | torch.Tensor) or value is None


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # of a subclass, such as NumPy's
    return value
