"""The names ``best.pth`` and ``last.pth``: links to checkpoints of the same folder."""

import logging
import os
import pathlib
from typing import Any

from helios.checkpoints import stores
from helios.checkpoints.best import best_moment
from helios.checkpoints.naming import SUFFIX, TEMPORARY
from helios.errors import CheckpointError

_logger = logging.getLogger(__name__)

LAST, BEST = "last" + SUFFIX, "best" + SUFFIX


class Links:
    """Keeps the links in a folder up to date.

    The links are relative, so a folder may move, and they change at once, so a reader always finds
    a complete file. Files of these names that are no links stay as they are.
    """

    def __init__(self) -> None:
        self._best: tuple[str, int | None] | None = None

    def update(self, saved: pathlib.Path, payload: dict[str, Any]) -> None:
        """Let the links name a new checkpoint, if it is the newest or the best one.

        Without a file of the best weights, no link names one.

        Args:
            saved: the path of the checkpoint, which is complete.
            payload: its content.
        """
        _point(saved.with_name(LAST), saved.name)
        best = saved.with_name(BEST)
        moment = best_moment(payload)
        if moment is not None:
            _point(best, saved.name)
            self._best = saved.name, moment
        elif best.is_symlink():
            recorded = (payload.get("validated") or {}).get("best") or {}
            if self._moment_of(best) != recorded.get("batches"):
                best.unlink(missing_ok=True)

    def drop_dangling(self, saved: pathlib.Path) -> None:
        """Remove the link to the best checkpoint if that was deleted."""
        best = saved.with_name(BEST)
        if best.is_symlink() and not best.exists():
            best.unlink(missing_ok=True)

    def _moment_of(self, best: pathlib.Path) -> int | None:
        """Return the moment of the best validation of a file that the link names."""
        target = os.readlink(best)
        if self._best is None or self._best[0] != target:
            try:
                self._best = target, best_moment(stores.peek(best))
            except (CheckpointError, KeyError, TypeError, AttributeError, OSError):
                return None
        return self._best[1]


def _point(link: pathlib.Path, target: str) -> None:
    """Let a link name a file, in one step."""
    if link.exists() and not link.is_symlink():
        return  # a file of the user
    temporary = link.with_name(link.name + TEMPORARY)
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError as error:  # of a file system without links
        _logger.debug("%s is not written: %s.", link, error.strerror)
