"""The best checkpoint of a run: the file of the moment at which the best validation took place."""

import logging
import pathlib
from typing import Any

from helios.checkpoints import folder, stores
from helios.checkpoints.migrations import migrate
from helios.errors import CheckpointError

_logger = logging.getLogger(__name__)


def best_moment(payload: dict[str, Any]) -> int | None:
    """Return the batches consumed at the validation that made a checkpoint the best so far.

    Args:
        payload: the content of the checkpoint.

    Returns:
        The number of batches, or ``None`` if the checkpoint was not the best. A checkpoint counts
        only if it holds the weights that were validated, not those of later steps. Earlier releases
        did not record the moment: their files count until the next validation.
    """
    state, validated = payload["training_state"], payload.get("validated")
    consumed: int = state["global_iteration"]
    if validated is None:
        is_best = state["validation_cycles"] > 0 and state["early_stop_count"] == 0
    else:
        is_best = all(
            moment is not None and moment["batches"] == consumed
            for moment in (validated["newest"], validated["best"])
        )
    return consumed if is_best else None


def load_best_checkpoint(
    root: pathlib.Path | None, load: stores.Load = stores.load
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Return path and content of the checkpoint of the best validation in a folder.

    Args:
        root: the folder.
        load: the function that verifies and reads a checkpoint.

    Raises:
        CheckpointError: no file holds the weights of the best validation; or the file that does is
            damaged.
    """
    newest = folder.load_last_checkpoint(root, load)
    if newest is None:
        raise CheckpointError(
            f'checkpoint="best": {_where(root)} has no checkpoint. Train with'
            " Trainer(valid_frequency=..., keep_best=1) and a folder for checkpoints first."
        )
    recorded = (migrate(newest[1], newest[0]).get("validated") or {}).get("best")
    for path in folder.candidates(newest[0].parent):
        try:
            moment = best_moment(stores.peek(path))
        except (CheckpointError, KeyError, TypeError, AttributeError, OSError) as error:
            _logger.warning("%s cannot be read, so it may be the best: %s", path, error)
            continue
        if moment is not None and (recorded is None or recorded["batches"] == moment):
            return path, load(path)
    story = "no validation has been the best" if recorded is None else f"it was at {recorded['at']}"
    raise CheckpointError(
        f'checkpoint="best": no file in {_where(root)} holds the weights of the best validation'
        f' ({story}). Train with Trainer(valid_frequency=..., keep_best=1), or write "last" or the'
        " path of a file."
    )


def _where(root: pathlib.Path | None) -> str:
    return "a run without run_root or chkpt_root" if root is None else str(root)
