"""The beginning of a run: from a checkpoint, from given weights, or anew."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from helios.checkpoints import folder, runs, stores
from helios.core.rules import shown
from helios.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The arguments of ``fit`` that say how training begins.

    Attributes:
        checkpoint: the file to resume from; ``None`` for the newest, if there is one.
        is_new: ``True`` to begin anew, beside the checkpoints that exist.
        init_from: the file with the first weights of a new run.
        overrides: the names of values that a resumed run takes from ``setup()``.
    """

    checkpoint: pathlib.Path | None = None
    is_new: bool = False
    init_from: pathlib.Path | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, resume: Any, init_from: Any, overrides: Any, *, is_trial: bool) -> "Beginning":
        """Return the beginning for these arguments of ``fit``; a trial begins anew.

        Raises:
            ConfigurationError: an argument is invalid, or two of them contradict each other.
        """
        is_switch = isinstance(resume, bool)
        checkpoint = None if is_switch else _file("resume", resume, "True, False, or ")
        weights = None if init_from is None else _file("init_from", init_from, "")
        if checkpoint is not None and weights is not None:
            raise ConfigurationError(
                f"resume={shown(resume)} contradicts init_from={shown(init_from)}: a checkpoint"
                " that a run resumes from has its own weights. Remove one of them."
            )
        if is_trial:
            return cls(is_new=True, init_from=weights, overrides=_names(overrides))
        return cls(checkpoint, resume is False, weights, _names(overrides))

    def folders(self, root: pathlib.Path | None) -> tuple[pathlib.Path | None, bool]:
        """Return the folder for the checkpoints of the run, and whether it leaves another run.

        A run that begins anew, or from another checkpoint than the newest one of its folder, gets
        a folder of its own, because it would otherwise replace the checkpoints that are there.

        Args:
            root: the folder of the model; ``None`` if nothing is saved.
        """
        if root is None:
            return None, self.checkpoint is not None
        if self.is_new:
            return runs.new_run(root), False
        newest = runs.newest_run(root)
        if self.checkpoint is None:
            return newest, False
        is_newest = self.checkpoint in [path.resolve() for path in folder.candidates(newest)[:1]]
        return (newest, False) if is_newest else (runs.new_run(root), True)


def _file(name: str, value: Any, others: str) -> pathlib.Path:
    is_path = isinstance(value, str | os.PathLike)
    if not is_path or not stores.is_checkpoint(pathlib.Path(value)):
        problem = "is not a file" if is_path else "is not a path"
        raise ConfigurationError(
            f"{name}={shown(value)} {problem}: write {others}the path of a file, such as"
            " 'runs/a/checkpoints/net/best.pth'."
        )
    return pathlib.Path(value).resolve()  # the file of a link may change while training


def _names(overrides: Any) -> tuple[str, ...]:
    is_list = isinstance(overrides, Sequence) and not isinstance(overrides, str | bytes)
    if not is_list or not all(isinstance(name, str) for name in overrides):
        raise ConfigurationError(
            f"resume_overrides={shown(overrides)}: write the new values in setup() of the model,"
            " and here a list of their names, such as ['lr'] or ['scheduler']."
        )
    return tuple(overrides)
