"""The classes and hyper-parameters of a model's optimizers, to compare code and checkpoint."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from helios.errors import CheckpointError
from helios.model import stateful
from helios.model.optimizer_state import NO_HYPERPARAMETERS, class_of

_logger = logging.getLogger(__name__)


class OptimizerRecord:
    """The classes of a model's optimizers, and their hyper-parameters at the end of ``setup()``.

    The state of an optimizer does not contain its class. It contains the hyper-parameters, but
    schedulers change them in training. So this record is what shows an edit of the code.

    Args:
        model: the model.
        is_strict: ``True`` to refuse another class; ``False`` if the model restores its optimizers
            itself.
    """

    def __init__(self, model: object, *, is_strict: bool) -> None:
        self._model = model
        self._is_strict = is_strict
        self._initial: dict[str, dict[str, Any]] = {}

    def note(self) -> None:
        """Note the optimizers as they are now, at the end of ``setup()``."""
        self._initial = {
            name: {"class": class_of(optimizer), "groups": _hyperparameters(optimizer)}
            for name, optimizer in self._optimizers()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the record of each optimizer by name; without groups if it was created later."""
        later = {name: {"class": class_of(each), "groups": []} for name, each in self._optimizers()}
        return {**later, **{name: self._initial[name] for name in later if name in self._initial}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Compare the optimizers with those of a checkpoint, before their states are restored.

        Hyper-parameters come from the checkpoint, so the record does, too: each further run says
        again that the code differs.

        Raises:
            CheckpointError: an optimizer has another class.
        """
        for name, optimizer in self._optimizers():
            if name in saved:
                self._require_class(name, saved[name]["class"], class_of(optimizer))
                self._show_differences(name, saved[name]["groups"])
                if name in self._initial and saved[name]["groups"]:
                    self._initial[name] = saved[name]

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

    def _show_differences(self, name: str, before: list[dict[str, Any]]) -> None:
        now = self._initial.get(name, {}).get("groups", [])
        if not self._is_strict or len(before) != len(now):
            return  # the states of the groups are compared when they are restored
        changes = []
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            group = f" of group {number}" if len(now) > 1 else ""
            for key in sorted(old.keys() & new.keys()):
                if old[key] != new[key]:
                    changes.append(f"{key}{group} is {new[key]!r}, but was {old[key]!r}")
        if changes:
            _logger.warning(
                "the hyper-parameters of %s.%s have changed in setup(): %s. The run uses those"
                " of the checkpoint. To use the new ones, override load_state_dict(), and set them"
                " in optimizer.param_groups after super().load_state_dict(...).",
                type(self._model).__name__,
                name,
                "; ".join(changes),
            )


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
