"""The check that all ranks of a run have the same plug-ins, packages and arguments."""

import platform
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from helios.core.rules import shown
from helios.errors import ConfigurationError, printable
from helios.trainer.job import Job

_ARGUMENTS = (
    "train_unit",
    "total_steps",
    "valid_frequency",
    "chkpt_frequency",
    "print_frequency",
    "accumulation_steps",
    "early_stop_cycles",
    "precision",
    "random_seed",
    "best",
    "max_time",
    "interruptible",
    "async_checkpoints",
    "resume_plugins",
)
"""The arguments of a trainer by which the ranks would call different functions, or wait for ever
for one another."""


def require_same_plan(job: Job) -> None:
    """Raise an error on all ranks if they differ, with the differences, before anything is set up.

    Raises:
        ConfigurationError: a rank has other plug-ins, versions or arguments than rank 0.
    """
    if not job.place.is_distributed:
        return
    host = socket.gethostname()
    facts = _facts(job)
    gathered = job.group.gather((host, facts, job.plan.digest))
    if all(each[1:] == gathered[0][1:] for each in gathered):
        return
    plans = job.group.gather(job.plan.to_dict())
    names = [f"rank {rank} on {each[0]}" for rank, each in enumerate(gathered)]
    stories: dict[str, list[str]] = {}  # each difference once, with the ranks that have it
    for rank in range(1, len(names)):
        lines = [*_facts_that_differ(gathered[0][1], gathered[rank][1])]
        lines += _plugins_that_differ(plans[0], plans[rank])
        for line in lines:
            stories.setdefault(line, []).append(names[rank])
    text = "\n".join(f"  {line.format(' and '.join(who))}" for line, who in stories.items())
    raise ConfigurationError(
        f"the processes of the run differ. {names[0]} is compared with the others:\n{text}\nInstall"
        " the same packages, and start the same program with the same arguments, in all processes."
    )


def _facts(job: Job) -> dict[str, str]:
    import helios

    return {
        "Helios": helios.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "the call": f"{job.purpose}()",
        "the model": type(job.model).__qualname__,
        "save_name": job.model.save_name,
        **{name: shown(getattr(job.trainer, name)) for name in _ARGUMENTS},
    }


def _facts_that_differ(first: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    for name, value in first.items():
        if other.get(name) != value:
            yield _line(f"{name} is {value}", f"{other.get(name)}")


def _plugins_that_differ(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each difference between the plans of two ranks."""
    mine = {entry["id"]: entry for entry in first["active"]}
    theirs = {entry["id"]: entry for entry in other["active"]}
    for plug_id in mine.keys() - theirs.keys():
        yield _line(f"plug-in {plug_id!r} ({_origin(mine[plug_id])}) is active", "not")
    for plug_id in theirs.keys() - mine.keys():
        origin = _origin(theirs[plug_id])
        yield _line(f"plug-in {plug_id!r} ({origin}) is not active", "it is")
    common = [plug_id for plug_id in mine if plug_id in theirs]
    for plug_id in common:
        yield from _entries_that_differ(plug_id, mine[plug_id], theirs[plug_id])
    order = [plug_id for plug_id in theirs if plug_id in mine]
    if order != common:
        yield _line(f"the order of plug-ins is {', '.join(common)}", ", ".join(order))


def _entries_that_differ(
    plug_id: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[str]:
    if _origin(mine) != _origin(theirs):
        yield _line(f"plug-in {plug_id!r} is of {_origin(mine)}", f"of {_origin(theirs)}")
    if mine["implementation"] != theirs["implementation"]:
        yield _line(
            f"plug-in {plug_id!r} is {mine['implementation']}", f"{theirs['implementation']}"
        )
    if mine["hooks"] != theirs["hooks"]:
        yield _line(
            f"plug-in {plug_id!r} implements {', '.join(mine['hooks'])}",
            ", ".join(theirs["hooks"]),
        )
    before, after = mine["configuration"], theirs["configuration"]
    for key in sorted(before.keys() | after.keys()):
        values = [shown(each[key]) if key in each else "not given" for each in (before, after)]
        if values[0] != values[1]:
            yield _line(f"the argument {key} of plug-in {plug_id!r} is {values[0]}", values[1])


def _line(here: str, there: str) -> str:
    """Return a line with a place for the names of the ranks that differ from rank 0."""
    here, there = (printable(text).replace("{", "{{").replace("}", "}}") for text in (here, there))
    return f"{here}, but {there} on {{}}"


def _origin(entry: Mapping[str, Any]) -> str:
    return f"{entry['distribution']} {entry['version']}".strip() or "no installed package"
