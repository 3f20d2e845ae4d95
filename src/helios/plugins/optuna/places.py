"""The folder in which a trial saves its checkpoints, and nobody else."""

import contextlib
import dataclasses
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Callable
from typing import Any

from helios.checkpoints.folder import candidates
from helios.plugins.optuna.trials import differing

_logger = logging.getLogger(__name__)

_MARK = "trial.json"


@dataclasses.dataclass(frozen=True)
class Identity:
    """The owner of a folder.

    Attributes:
        key: the key of the trial.
        number: the number of the trial.
        study: the name of its study; ``None`` for a trial without a study.
        parameters: the parameters that are known so far, as plain values.
    """

    key: str
    number: int
    study: str | None
    parameters: dict[str, Any]

    def owns(self, mark: Any) -> bool:
        """Return whether the mark of a folder is of this trial, with the same parameters."""
        if not isinstance(mark, dict) or mark.get("key") != self.key:
            return False
        return not differing(mark.get("parameters", {}), self.parameters)


def agreed(trainer: Any, name: str, identify: Callable[[], Identity]) -> str:
    """Return the name of the folder of a trial, which rank 0 finds or claims.

    Args:
        trainer: the trainer of the trial.
        name: see :func:`find`.
        identify: a function that returns the trial.
    """
    if trainer.chkpt_root is not None and trainer.global_rank == 0:
        name = find(trainer.chkpt_root, name, identify())
    found: str = trainer.group.broadcast(name)
    return found


def find(root: pathlib.Path, name: str, identity: Identity) -> str:
    """Return the name of the folder of a trial in ``root``; claim a new one if it has none.

    Args:
        root: the folder for the checkpoints of all models.
        name: the usual name. If it is taken, the new folder's name gets a number.
        identity: the trial.
    """
    pattern = re.compile(re.escape(name) + r"(-\d+)?")
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(root.iterdir()):
            if pattern.fullmatch(folder.name) and identity.owns(_mark_of(folder)):
                return folder.name
    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}-{number}"
        if _claim(root / candidate, identity):
            break
    if number > 1:
        _logger.warning(
            "%s has checkpoints of %s. Trial %d is another one, so it starts anew, in %s.",
            root / name,
            _story(_mark_of(root / name)),
            identity.number,
            root / candidate,
        )
    return candidate


def _claim(folder: pathlib.Path, identity: Identity) -> bool:
    """Mark a folder as that of a trial, unless it is in use."""
    if candidates(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / _MARK).open("x", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(identity), file)
    except FileExistsError:  # perhaps of a trial that is starting at this moment
        return False
    return True


def _mark_of(folder: pathlib.Path) -> Any:
    try:
        return json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one whose writer was killed
        return None


def _story(mark: Any) -> str:
    if not isinstance(mark, dict):
        return "another run"
    where = "" if mark.get("study") is None else f" of the study {mark['study']!r}"
    return f"trial {mark.get('number')}{where}, parameters {mark.get('parameters')}"
