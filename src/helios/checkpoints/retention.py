"""The retention of checkpoints: a run deletes old ones after it has saved a new one."""

import logging
import pathlib
from typing import NamedTuple

from helios.checkpoints import folder, stores
from helios.checkpoints.best import best_moment
from helios.checkpoints.naming import Position, format_name
from helios.errors import CheckpointError

_logger = logging.getLogger(__name__)


class Retention:
    """Deletes the checkpoints of one model that the user does not want to keep.

    It deletes only files that this model saved under their current name, so it keeps copies under
    other names. It also keeps damaged files, and checkpoints newer than the one just saved. It
    keeps all checkpoints if both arguments are ``None``.

    Args:
        save_name: the name of the model.
        keep_last: the number of newest checkpoints to keep; 1 by default if ``keep_best`` is given.
        keep_best: the number of best checkpoints to keep in addition: the newest of those that hold
            the weights of a validation that was the best so far.
    """

    def __init__(self, save_name: str, keep_last: int | None, keep_best: int | None) -> None:
        self._save_name = save_name
        self._keeps_all = keep_last is None and keep_best is None
        self._keep_last = keep_last or 1
        self._keep_best = keep_best or 0
        self._known: dict[pathlib.Path, _Own | None] = {}

    def delete_superseded(self, saved: pathlib.Path) -> int:
        """Delete old checkpoints, and log a warning about each one that cannot be deleted.

        Args:
            saved: a checkpoint that is complete, verified and durable. It is always kept.

        Returns:
            The number of deleted files.
        """
        if self._keeps_all:
            return 0
        self._known.pop(saved, None)  # an older file may have had this name
        found = folder.candidates(saved.parent)
        older = found[found.index(saved) :] if saved in found else []
        own = {path: known for path in older if (known := self._look_at(path)) is not None}
        best: dict[int, pathlib.Path] = {}
        for path, known in own.items():
            if known.best_moment is not None:  # one file for each validation, the newest
                best.setdefault(known.best_moment, path)
        wanted = {saved, *list(own)[: self._keep_last], *list(best.values())[: self._keep_best]}
        return sum(_delete(path) for path in own if path not in wanted)

    def _look_at(self, path: pathlib.Path) -> "_Own | None":
        """Return the facts about a checkpoint; ``None`` if it is not ours."""
        if path not in self._known:
            try:
                self._known[path] = self._read(path)
            except (CheckpointError, KeyError, TypeError, AttributeError, OSError):
                return None  # damaged, written by another program, or deleted meanwhile
        return self._known[path]

    def _read(self, path: pathlib.Path) -> "_Own | None":
        payload = stores.peek(path)
        state = payload["training_state"]
        position = Position(state["global_epoch"], state["current_iteration"])
        name = format_name(self._save_name, position)
        saved_as = payload.get("name", name)  # format 1 did not store it
        if not path.stem.startswith(name) or path.stem != saved_as:
            return None
        return _Own(best_moment(payload))


class _Own(NamedTuple):
    best_moment: int | None


def _delete(path: pathlib.Path) -> bool:
    try:
        stores.delete(path)
        _logger.info("deleted %s", path)
    except OSError as error:
        _logger.warning("%s cannot be deleted: %s.", path, error.strerror)
        return False
    return True
