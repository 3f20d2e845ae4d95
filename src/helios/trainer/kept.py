"""The checkpoints that a run keeps, also if nobody has said how many."""

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING

from helios.checkpoints import folder

if TYPE_CHECKING:
    from helios.trainer import Trainer

_FREQUENT = 10
"""A run that saves more checkpoints keeps only the newest ones by default."""
_DEFAULT = 3


@dataclasses.dataclass(frozen=True)
class Kept:
    """The numbers of checkpoints to keep.

    Attributes:
        last: the number of newest ones; ``None`` for all.
        best: the number of best ones in addition.
        story: a line about the default, if that deletes any; otherwise ``""``.
    """

    last: int | None
    best: int | None
    story: str = ""

    @classmethod
    def of(cls, trainer: "Trainer", root: pathlib.Path | None) -> "Kept":
        """Return what a run keeps in its folder.

        If the folder has more checkpoints than the default would have left, a run without this
        default has saved them, and all are kept.
        """
        given = trainer.keep_last
        if given == "all" or root is None:
            return cls(None, None)
        if given is not None or trainer.keep_best is not None:
            return cls(given, trainer.keep_best)
        frequency = trainer.chkpt_frequency
        number = 0.0 if frequency is None else trainer.total_steps / frequency
        # One more, because a process may be killed before it deletes; another one is the best.
        if number <= _FREQUENT or len(folder.candidates(root)) > _DEFAULT + 2:
            return cls(None, None)
        count = "many checkpoints" if math.isinf(number) else f"{int(number)} checkpoints"
        return cls(
            _DEFAULT,
            1,
            f"of {count}, the {_DEFAULT} newest and the best one are kept (keep_last={_DEFAULT} by"
            f' default): pass keep_last="all" to keep all',
        )
