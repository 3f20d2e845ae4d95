"""The retention of checkpoints: a run deletes old ones after it has saved a new one."""

import logging
import pathlib

from helios.checkpoints import folder, storage
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
        keep_best: the number of best checkpoints to keep in addition. A checkpoint is one of the
            best if its last validation was the best until then; the newest of them are kept.
    """

    def __init__(self, save_name: str, keep_last: int | None, keep_best: int | None) -> None:
        self._save_name = save_name
        self._keeps_all = keep_last is None and keep_best is None
        self._keep_last = keep_last or 1
        self._keep_best = keep_best or 0
        self._known: dict[pathlib.Path, bool | None] = {}

    def delete_superseded(self, saved: pathlib.Path) -> None:
        """Delete old checkpoints, and log a warning about each one that cannot be deleted.

        Args:
            saved: the new checkpoint, which is complete, verified and durable. It is always kept.
        """
        if self._keeps_all:
            return
        self._known.pop(saved, None)  # an older file may have had this name
        found = folder.candidates(saved.parent)
        older = found[found.index(saved) :] if saved in found else []
        own = [path for path in older if self._is_best(path) is not None]
        best = [path for path in own if self._is_best(path)]
        kept = {saved, *own[: self._keep_last], *best[: self._keep_best]}
        for path in own:
            if path not in kept:
                _delete(path)

    def _is_best(self, path: pathlib.Path) -> bool | None:
        """Return whether a checkpoint has the best metrics so far; ``None`` if it is not ours."""
        if path not in self._known:
            try:
                self._known[path] = self._read_is_best(path)
            except (CheckpointError, KeyError, OSError):
                return None  # damaged, written by another program, or deleted meanwhile
        return self._known[path]

    def _read_is_best(self, path: pathlib.Path) -> bool | None:
        payload = storage.peek(path)
        state = payload["training_state"]
        position = Position(state["global_epoch"], state["current_iteration"])
        name = format_name(self._save_name, position)
        saved_as = payload.get("name", name)  # format 1 did not store it
        if not path.stem.startswith(name) or path.stem != saved_as:
            return None
        is_best: bool = state["validation_cycles"] > 0 and state["early_stop_count"] == 0
        return is_best


def _delete(path: pathlib.Path) -> None:
    try:
        path.unlink(missing_ok=True)
        _logger.info("deleted %s", path)
    except OSError as error:
        _logger.warning("%s cannot be deleted: %s.", path, error.strerror)
