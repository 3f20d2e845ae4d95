"""Checks of what ``fit`` and ``test`` are given, before anything runs."""

from typing import TYPE_CHECKING

from helios.data import DataModule
from helios.errors import ConfigurationError, nearest
from helios.model import Model
from helios.model.releases import accepts_flag
from helios.plugins.declarations.bodies import problem_of
from helios.plugins.run_properties import find_overwritten
from helios.trainer.arguments import settings
from helios.trainer.arguments.methods import find_uncallable, overridden

if TYPE_CHECKING:
    from helios.trainer import Trainer


def check_kinds(model: object, datamodule: object) -> None:
    """Refuse what is not a model and a datamodule, or cannot be set up."""
    for value, kind in ((model, Model), (datamodule, DataModule)):
        if not isinstance(value, kind):
            raise TypeError(
                f"fit() and test() take a Model and a DataModule, in this order; got"
                f" {type(value).__name__} instead of a {kind.__name__}.{_data_hint(value, kind)}"
            )
        if not hasattr(value, "is_distributed"):  # both set it in __init__
            raise TypeError(
                f"{type(value).__name__}.__init__ does not call super().__init__(); add the call."
            )
        for overwritten in find_overwritten(value):
            raise ConfigurationError(f"{type(value).__name__}: {overwritten}")
        for name, method in overridden(value):
            if problem := problem_of(method, name, is_hook=False):
                raise TypeError(f"{type(value).__name__}.{name}() {problem}")
        for name, signature in find_uncallable(value):
            raise TypeError(
                f"{type(value).__name__}.{name}() has other arguments than Helios passes: write"
                f" {signature}."
            )
    if not accepts_flag(model.setup, 0):  # type: ignore[attr-defined]  # a Model by now
        raise TypeError(
            f"{type(model).__name__}.setup() has other arguments than Helios passes: write"
            " def setup(self, fast_init: bool = False), or def setup(self)."
        )
    if not accepts_flag(model.load_state_dict, 1):  # type: ignore[attr-defined]  # a Model by now
        raise TypeError(
            f"{type(model).__name__}.load_state_dict() has other arguments than Helios passes:"
            " write def load_state_dict(self, state_dict, fast_init: bool = False)."
        )


def _data_hint(value: object, kind: type) -> str:
    """Return how to make a data module of a dataset or of a loader."""
    if kind is not DataModule or isinstance(value, Model):
        return ""
    return (
        " A dataset or a DataLoader becomes one with helios.DataModule.of(train=...), which also"
        " takes valid=... and test=..."
    )


def check_step(model: Model) -> None:
    """Refuse a model that would train nothing."""
    if type(model).train_step is Model.train_step:
        meant = [name for name in vars(type(model)) if name.startswith("train")]
        raise TypeError(
            f"{type(model).__name__} has no train_step, so nothing would be trained: write"
            f" def train_step(self, batch, state).{nearest('train_step', meant)}"
        )


def check_arguments(trainer: "Trainer") -> None:
    """Check the arguments of training again, since a program may have assigned others.

    Raises:
        ConfigurationError: an argument is invalid, or the trainer was not told how long to train.
    """
    total_steps = settings.check_total_steps(trainer.total_steps, trainer.early_stop_cycles)
    settings.check_count("early_stop_cycles", trainer.early_stop_cycles, 0)
    settings.check_valid_frequency(trainer.valid_frequency, trainer.train_unit)
    for name in ("chkpt_frequency", "print_frequency", "accumulation_steps"):
        settings.check_count(name, getattr(trainer, name))
    if total_steps == 0:
        raise ConfigurationError(
            "total_steps is 0, so nothing would be trained: pass Trainer(total_steps=...)."
        )
