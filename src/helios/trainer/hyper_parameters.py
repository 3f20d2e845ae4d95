"""The hyper-parameters of a run: the arguments of model, data module and trainer."""

import inspect
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from helios.core.arguments import TakesArguments, arguments_of, plain
from helios.data import DataModule
from helios.model import Model

if TYPE_CHECKING:
    from helios.trainer import Trainer

_logger = logging.getLogger(__name__)

FILE = "hyper-parameters.json"
"""The file in ``run_root`` that holds them."""
_MISSING = object()


class HyperParameters:
    """The arguments that model, data module and trainer were created with, as plain values.

    Args:
        trainer: the trainer.
        model: the model.
        datamodule: the data module.
    """

    def __init__(self, trainer: "Trainer", model: Model, datamodule: DataModule) -> None:
        self._of_trainer = _without_defaults(trainer)
        self._now = {"model": _described(model), "data": _described(datamodule)}

    def to_dict(self) -> dict[str, Any]:
        """Return all for the file in the folder of the run; of the trainer, those given."""
        return {**self._now, "trainer": self._of_trainer}

    def state_dict(self) -> dict[str, Any]:
        """Return those that a resumed run compares."""
        return self._now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Say which of them differ from those of the checkpoint.

        Checkpoints of earlier releases have none.
        """
        for part, saved in state_dict.items():
            now = self._now[part]
            differences = list(_differences(saved["arguments"], now["arguments"]))
            if differences:
                _logger.warning(
                    "%s was created with other arguments than the run that saved the checkpoint:"
                    " %s. If you do not mean this, pass the former values, or start a new run.",
                    now["class"],
                    "; ".join(differences),
                )


def model_story(model: Model) -> str:
    """Return the arguments of a model for the header of a run; ``""`` without any."""
    described = _described(model)
    shown = ", ".join(f"{name}={value!r}" for name, value in described["arguments"].items())
    return f"model {described['class']}({shown})" if shown else ""


def _without_defaults(trainer: TakesArguments) -> dict[str, Any]:
    constructor: Any = type(trainer).__init__
    parameters = inspect.signature(constructor).parameters
    defaults = {name: plain(parameter.default) for name, parameter in parameters.items()}
    taken = arguments_of(trainer).items()
    return {name: value for name, value in taken if value != defaults.get(name, _MISSING)}


def _described(taker: TakesArguments) -> dict[str, Any]:
    arguments = {name: v for name, v in arguments_of(taker).items() if name != "save_name"}
    return {"class": type(taker).__name__, "arguments": arguments}


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted(saved.keys() | now.keys()):
        before, after = saved.get(name, _MISSING), now.get(name, _MISSING)
        if before is _MISSING:
            yield f"{name} is new, with {after!r}"
        elif after is _MISSING:
            yield f"{name} is gone, and was {before!r}"
        elif before != after and not (before != before and after != after):  # both are NaN
            yield f"{name} is {after!r}, and was {before!r}"
