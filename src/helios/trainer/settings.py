"""Checks of a trainer's arguments: everything that can be refused is refused at construction."""

import datetime
import math
import pathlib
import re
import typing
from collections.abc import Mapping
from typing import Any, Literal

import torch

from helios.core import TrainingUnit
from helios.core.rng import DEFAULT_SEED
from helios.errors import ConfigurationError, nearest
from helios.model.precision import PRECISIONS

ResumePolicy = Literal["strict", "warn", "ignore"]

_DURATION = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")  # as Slurm writes it

REPLACED = {
    "enable_tensorboard": "install helios-tensorboard and pass run_root=...",
    "enable_file_logging": "pass run_root=...: its folder holds the log file",
    "log_path": "pass run_root=...",
    "log_root": "pass run_root=...",
    "run_path": "pass run_root=...; helios-tensorboard writes below it",
    "wandb_args": "use a plug-in for Weights & Biases",
}
"""Arguments of earlier releases, and what to write instead."""


def refuse_unknown(unknown: Mapping[str, Any], known: list[str]) -> None:
    """Refuse arguments that the trainer does not have.

    Raises:
        ConfigurationError: an earlier release had the argument; the message names what
            replaces it.
        TypeError: no release had it; the message offers the nearest names.
    """
    for name in unknown:
        if name in REPLACED:
            raise ConfigurationError(
                f"Trainer({name}=...) is an argument of earlier releases. Instead,"
                f" {REPLACED[name]}."
            )
        raise TypeError(f"Trainer() has no argument {name!r}.{nearest(name, known)}")


def check_unit(unit: TrainingUnit | str) -> TrainingUnit:
    """Return the training unit that was given by itself or by its name."""
    return unit if isinstance(unit, TrainingUnit) else TrainingUnit.from_str(str(unit))


def check_total_steps(steps: float, early_stop_cycles: int | None) -> float:
    """Return the number of steps; it may be infinite if something else ends the run."""
    if isinstance(steps, bool) or not isinstance(steps, int | float):
        raise ConfigurationError(f"total_steps={steps!r}: write a whole number, or math.inf.")
    if isinstance(steps, float) and not (math.isinf(steps) and steps > 0):
        raise ConfigurationError(
            f"total_steps={steps!r} is a fraction: write a whole number, or math.inf."
        )
    if steps < 0:
        raise ConfigurationError(f"total_steps={steps!r} is negative: write how long to train.")
    if math.isinf(steps) and early_stop_cycles == 0:
        raise ConfigurationError(
            "total_steps=math.inf with early_stop_cycles=0 is contradictory: give a number of"
            " steps, or of validations without improvement after which to stop."
        )
    return steps


def check_count(name: str, value: int | None, smallest: int = 1) -> int | None:
    """Return an optional count, or refuse it if it is too small or not a whole number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ConfigurationError(
            f"{name}={value!r}: write a whole number of at least {smallest}, or leave it out."
        )
    return value


def check_switch(name: str, value: bool) -> bool:
    """Return an argument that is on or off."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r}: write True or False.")
    return value


def check_policy(value: ResumePolicy) -> ResumePolicy:
    """Return what is to happen if the plug-ins are not those of the checkpoint."""
    choices = typing.get_args(ResumePolicy)
    if value not in choices:
        raise ConfigurationError(
            f"resume_plugins={value!r}: write {', '.join(map(repr, choices))}."
            f"{nearest(str(value), choices)}"
        )
    return value


def check_retention(name: str, value: int | None, root: pathlib.Path | None) -> int | None:
    """Return how many checkpoints to keep; there must be a folder that they are in."""
    count = check_count(name, value)
    if count is not None and root is None:
        raise ConfigurationError(
            f"{name}={value} without a folder of checkpoints: pass run_root=... or chkpt_root=..."
        )
    return count


def check_duration(name: str, value: float | str | datetime.timedelta | None) -> float | None:
    """Return a duration in seconds, given as a number, as a timedelta, or as Slurm writes it."""
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
    elif value is None:
        return None
    else:
        seconds = math.nan if isinstance(value, str | bool) else value
    if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise ConfigurationError(
            f"{name}={value!r}: write a positive number of seconds, a datetime.timedelta, or"
            ' "HH:MM:SS" or "D-HH:MM:SS".'
        )
    return seconds


def check_folder(name: str, value: str | pathlib.Path | None) -> pathlib.Path | None:
    """Return the absolute path of a folder that exists or can still be made."""
    if value is None:
        return None
    path = pathlib.Path(value).absolute()
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"{name}={str(value)!r} is a file: name a folder.")
    return path


def check_chkpt_root(
    value: str | pathlib.Path | None, run_root: pathlib.Path | None, frequency: int | None
) -> pathlib.Path | None:
    """Return the folder for checkpoints, by default below ``run_root``; saving needs one."""
    root = check_folder("chkpt_root", value)
    if root is None and run_root is not None:
        root = run_root / "checkpoints"
    if frequency is not None and root is None:
        raise ConfigurationError(
            f"chkpt_frequency={frequency} without a folder to save in: pass run_root=..."
            " or chkpt_root=..."
        )
    return root


def check_seed(value: int | None) -> int:
    """Return the seed of all random numbers."""
    seed = check_count("random_seed", value, 0)
    return DEFAULT_SEED if seed is None else seed


def check_algorithms(enable_deterministic: bool, enable_cudnn_benchmark: bool) -> None:
    """Refuse to have algorithms chosen in two ways."""
    if enable_deterministic and enable_cudnn_benchmark:
        raise ConfigurationError(
            "enable_deterministic=True contradicts enable_cudnn_benchmark=True, which picks"
            " algorithms by their speed: leave one of them out."
        )


def check_source_root(value: str | pathlib.Path | None) -> pathlib.Path | None:
    """Return the folder whose modules register classes; it must exist."""
    path = check_folder("src_root", value)
    if path is not None and not path.is_dir():
        raise ConfigurationError(f"src_root={str(value)!r} does not exist: name a folder.")
    return path


def check_precision(name: str) -> str:
    """Return the name of a precision, or refuse one that there is not."""
    if name not in PRECISIONS:
        raise ConfigurationError(
            f"precision={name!r} is not a precision: write {', '.join(map(repr, PRECISIONS))}."
            f"{nearest(str(name), PRECISIONS)}"
        )
    return name


def check_device(use_cpu: bool | None, gpus: list[int] | None) -> torch.device:
    """Return the device to run on: the first GPU that was asked for or found, or the CPU.

    Raises:
        ConfigurationError: the arguments contradict each other or name a GPU that is not there.
        RuntimeError: a GPU is required, but there is none.
    """
    if use_cpu and gpus is not None:
        raise ConfigurationError(f"use_cpu=True contradicts gpus={gpus!r}: leave one of them out.")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not available and (use_cpu is False or gpus is not None):
        asked = "use_cpu=False" if gpus is None else f"gpus={gpus!r}"
        message = (
            f"{asked} asks for a GPU, but PyTorch finds none here: leave it out to use the CPU."
        )
        raise RuntimeError(message) if gpus is None else ConfigurationError(message)
    if use_cpu or not available:
        return torch.device("cpu")
    if gpus is not None and (not gpus or not all(0 <= gpu < available for gpu in gpus)):
        raise ConfigurationError(
            f"gpus={gpus!r}: write numbers from 0 to {available - 1}, the GPUs that are visible."
        )
    if gpus is not None and len(gpus) > 1:
        raise ConfigurationError(
            f"gpus={gpus!r}: this release trains in one process, on one GPU. Write one number."
        )
    return torch.device("cuda", gpus[0] if gpus else 0)
