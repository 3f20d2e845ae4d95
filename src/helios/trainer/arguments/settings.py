"""Checks of a trainer's arguments, so that its constructor refuses invalid ones."""

import datetime
import math
import os
import pathlib
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from helios.checkpoints.stores import is_checkpoint
from helios.core import TrainingUnit, rules
from helios.core.best_metric import BestMetric
from helios.core.rng import DEFAULT_SEED, LARGEST_SEED
from helios.core.rules import shown
from helios.data import DatasetSplit
from helios.errors import ConfigurationError, nearest
from helios.model.precision import PRECISIONS
from helios.trainer.arguments import foreign
from helios.trainer.arguments.rules import RULES as RULES
from helios.trainer.checkpointer import Wanted
from helios.trainer.predictions import Writer

ResumePolicy = Literal["strict", "warn", "ignore"]

_LONGEST_TIME = 1e12  # seconds: 30,000 years
_DURATION = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")  # Slurm's notation

REPLACED = {
    "enable_tensorboard": "install helios-tensorboard and pass run_root=...",
    "enable_file_logging": "pass run_root=...: this folder holds the log file",
    "log_path": "pass run_root=...",
    "log_root": "pass run_root=...",
    "run_path": "pass run_root=...; helios-tensorboard writes to a folder in it",
    "wandb_args": "use a plug-in for Weights & Biases",
}
"""The arguments of earlier releases, with the text to write instead."""


def refuse_unknown(unknown: Mapping[str, Any], known: list[str]) -> None:
    """Raise an error for an argument that the trainer does not have.

    Raises:
        ConfigurationError: an earlier release had the argument; the message names its
            replacement.
        TypeError: no release had the argument; the message says what replaces the word of another
            trainer, or suggests the nearest names.
    """
    for name in unknown:
        if name in REPLACED:
            raise ConfigurationError(
                f"Trainer({name}=...) is an argument of earlier releases. Instead,"
                f" {REPLACED[name]}."
            )
        foreign.refuse("Trainer", [name], foreign.ARGUMENTS)
        raise TypeError(f"Trainer() has no argument {name!r}.{nearest(name, known)}")


def check_unit(unit: TrainingUnit | str) -> TrainingUnit:
    """Return a training unit, given as such or by its name."""
    if isinstance(unit, TrainingUnit):
        return unit
    return TrainingUnit.from_str(unit if isinstance(unit, str) else shown(unit))


def check_total_steps(steps: float, early_stop_cycles: int | None) -> float:
    """Return the number of steps; it may be infinite if something else can end the run."""
    if isinstance(steps, bool) or not isinstance(steps, int | float):
        raise ConfigurationError(f"total_steps={shown(steps)}: write a whole number, or math.inf.")
    if isinstance(steps, int) and steps > sys.maxsize:
        raise ConfigurationError(
            f"total_steps={shown(steps)} is too large: write a smaller number, or math.inf."
        )
    if isinstance(steps, float) and not (math.isinf(steps) and steps > 0):
        raise ConfigurationError(
            f"total_steps={steps!r} is a fraction: write a whole number, or math.inf."
        )
    if steps < 0:
        raise ConfigurationError(f"total_steps={steps!r} is negative: write how long to train.")
    if math.isinf(steps) and early_stop_cycles == 0:
        raise ConfigurationError(
            "total_steps=math.inf with early_stop_cycles=0 is contradictory: write a number of"
            " steps in total_steps, or the number of validations without improvement before"
            " training stops in early_stop_cycles."
        )
    return steps


def check_count(
    name: str, value: int | None, smallest: int = 1, largest: float = sys.maxsize
) -> int | None:
    """Return an optional count; refuse it if it is too small or not a whole number."""
    remedy = f"write a whole number of at least {smallest}, or remove it."
    rules.check({name: value}, {name: rules.optional(rules.whole(remedy, smallest, largest))})
    return value


def check_valid_frequency(value: float | None, unit: TrainingUnit) -> float | None:
    """Return the units between validations: a count, or a fraction of an epoch."""
    if not isinstance(value, float) or not 0 < value < 1:
        return check_count("valid_frequency", value)  # type: ignore[arg-type]  # it refuses floats
    if unit is not TrainingUnit.EPOCH:
        raise ConfigurationError(
            f"valid_frequency={value} is a fraction of an epoch, but train_unit='iteration' counts"
            " optimizer steps: write a whole number of steps, or train_unit='epoch'."
        )
    return value


def check_switch(name: str, value: bool) -> bool:
    """Return an argument that must be ``True`` or ``False``."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={shown(value)}: write True or False.")
    return value


def check_policy(value: ResumePolicy) -> ResumePolicy:
    """Return the action for a resumed run whose plug-ins differ from the checkpoint's."""
    choices = typing.get_args(ResumePolicy)
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(
            f"resume_plugins={shown(value)}: write {', '.join(map(repr, choices))}."
            f"{nearest(shown(value), choices)}"
        )
    return value


def check_keep_last(
    value: int | Literal["all"] | None, root: pathlib.Path | None
) -> int | Literal["all"] | None:
    """Return the number of newest checkpoints to keep, or ``"all"``."""
    if value == "all":
        return value
    return check_retention("keep_last", value, root)


def check_retention(name: str, value: int | None, root: pathlib.Path | None) -> int | None:
    """Return the number of checkpoints to keep; it needs a folder for checkpoints."""
    count = check_count(name, value)
    if count is not None and root is None:
        raise ConfigurationError(
            f"{name}={value} without a folder for checkpoints: pass run_root=... or chkpt_root=..."
        )
    return count


def check_best(value: Sequence[Any] | None) -> BestMetric | None:
    """Return the metric by which validations are judged, and the direction that is better."""
    if value is None:
        return None
    is_pair = isinstance(value, tuple | list) and len(value) in (2, 3)
    name, mode, *rest = value if is_pair else (None, None)
    change = rest[0] if rest else 0.0
    is_number = isinstance(change, int | float) and not isinstance(change, bool)
    is_mode = isinstance(mode, str) and mode in ("min", "max")  # an array cannot be compared
    if not isinstance(name, str) or not name or not is_mode or not is_number:
        hint = nearest(mode, ("min", "max")) if isinstance(mode, str) else ""
        raise ConfigurationError(
            f"best={shown(value)}: write the name of a metric and its better direction, such as"
            ' ("accuracy", "max") or ("valid/loss", "min"), and, if you like, the smallest change'
            f" that counts as an improvement.{hint}"
        )
    if not 0 <= change <= sys.float_info.max:
        raise ConfigurationError(f"best={shown(value)}: the smallest change must not be negative.")
    return BestMetric(name, mode, float(change))  # type: ignore[arg-type]  # is_mode


def check_split(value: str) -> DatasetSplit:
    """Return the split of this name."""
    names = [split.value for split in DatasetSplit]
    if not isinstance(value, str) or value not in names:
        raise ConfigurationError(
            f"split={shown(value)}: write {', '.join(map(repr, names))}."
            f"{nearest(str(value), names)}"
        )
    return DatasetSplit(value)


def check_writer(value: Writer | None) -> Writer | None:
    """Return the function that receives predictions."""
    if value is not None and not callable(value):
        raise ConfigurationError(
            f"writer={shown(value)}: write a function that takes the predictions for a batch and"
            " the number of the batch."
        )
    return value


def check_wanted(value: str | os.PathLike[str] | None) -> Wanted:
    """Return the checkpoint to test: ``"last"``, ``"best"``, or the path of a file."""
    if value is None or value == "last" or value == "best":
        return value  # type: ignore[return-value]  # mypy does not narrow str to these values
    if not isinstance(value, str | os.PathLike) or not is_checkpoint(pathlib.Path(value)):
        raise ConfigurationError(
            f"checkpoint={value!r} is not a file: write 'last', 'best', or the path of a"
            f" checkpoint.{nearest(str(value), ('last', 'best'))}"
        )
    return pathlib.Path(value)


def check_duration(name: str, value: float | str | datetime.timedelta | None) -> float | None:
    """Return a duration in seconds; it may be a number, a timedelta, or Slurm's notation."""
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        days, hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
    elif value is None:
        return None
    else:
        seconds = math.nan if isinstance(value, str | bool) else value
    if not (isinstance(seconds, int | float) and 0 < seconds <= _LONGEST_TIME):
        raise ConfigurationError(
            f"{name}={shown(value)}: write a positive number of seconds, a datetime.timedelta, or"
            ' "HH:MM:SS" or "D-HH:MM:SS".'
        )
    return seconds


def check_folder(name: str, value: str | pathlib.Path | None) -> pathlib.Path | None:
    """Return the absolute path of a folder, which need not exist yet."""
    if value is None:
        return None
    rules.check({name: value}, {name: rules.folder})
    return pathlib.Path(value).absolute()


def check_chkpt_root(
    value: str | pathlib.Path | None, run_root: pathlib.Path | None, frequency: int | None
) -> pathlib.Path | None:
    """Return the folder for checkpoints, by default in ``run_root``; saves need one."""
    root = check_folder("chkpt_root", value)
    if root is None and run_root is not None:
        root = run_root / "checkpoints"
    if frequency is not None and root is None:
        raise ConfigurationError(
            f"chkpt_frequency={frequency} without a folder for checkpoints: pass run_root=..."
            " or chkpt_root=..."
        )
    return root


def check_seed(value: int | None) -> int:
    """Return the seed of all random numbers."""
    seed = check_count("random_seed", value, 0, math.inf)
    if seed is not None and seed > LARGEST_SEED:
        raise ConfigurationError(
            f"random_seed={shown(seed)} does not fit into 64 bits: write a whole number from 0 to"
            " 2**64 - 1, or leave it out."
        )
    return DEFAULT_SEED if seed is None else seed


def check_algorithms(enable_deterministic: bool, enable_cudnn_benchmark: bool) -> None:
    """Refuse arguments that choose algorithms in two ways."""
    if enable_deterministic and enable_cudnn_benchmark:
        raise ConfigurationError(
            "enable_deterministic=True contradicts enable_cudnn_benchmark=True, which chooses"
            " algorithms by their speed: remove one of them."
        )


def check_source_root(value: str | pathlib.Path | None) -> pathlib.Path | None:
    """Return the folder whose modules register classes; it must exist."""
    path = check_folder("src_root", value)
    if path is not None and not path.is_dir():
        raise ConfigurationError(
            f"src_root={str(value)!r} does not exist: write the path of a folder."
        )
    return path


def check_precision(name: Any) -> str:
    """Return the name of a precision; refuse an unknown one."""
    if not isinstance(name, str) or name not in PRECISIONS:
        meant = foreign.precision_meant(name)
        hint = nearest(shown(name), PRECISIONS) if meant is None else f" Did you mean {meant!r}?"
        raise ConfigurationError(
            f"precision={shown(name)} is not a precision: write {', '.join(map(repr, PRECISIONS))}."
            f"{hint}"
        )
    return name
