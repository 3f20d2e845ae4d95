"""What a checkpoint holds, and how a run is restored from it."""

import logging
import pathlib
from typing import TYPE_CHECKING, Any

from helios.core import rng
from helios.errors import CheckpointError, PlanDriftError
from helios.plugins.drift import differences
from helios.trainer import storage

if TYPE_CHECKING:
    from helios.trainer.run import Run

FORMAT = 1
"""The version of the layout below. It grows when older readers could not make sense of a file."""

_KEYS = {
    "format",
    "epoch",
    "training_state",
    "model",
    "metrics",
    "datamodule",
    "rng",
    "plugins",
    "plan",
}

_logger = logging.getLogger(__name__)


class Checkpointer:
    """Saves and restores a run in one folder.

    A checkpoint is a dictionary of plain containers and tensors:

    ==================  =====================================================================
    ``format``          the version of this layout, 1
    ``version``         the version of Helios that wrote it
    ``training_state``  the counters
    ``epoch``           ``batches`` and ``samples`` of an epoch, without which no position counts,
                        or where a stream stands
    ``model``           ``Model.state_dict()``
    ``metrics``         logged values in flight, and the newest results
    ``datamodule``      ``DataModule.state_dict()``
    ``rng``             a list: the random number generators of each rank
    ``plugins``         a list: of each rank, the plug-ins' states by id
    ``plan``            what was active
    ==================  =====================================================================
    """

    def __init__(self, run: "Run", folder: pathlib.Path | None) -> None:
        self._run = run
        self._folder = folder
        self._saved_at: tuple[int, int] | None = None
        self._absent: dict[str, Any] = {}
        self._rng: dict[str, Any] | None = None

    def save(self) -> None:
        """Write a checkpoint of the present moment, if there is a folder for it."""
        if self._folder is not None:
            generators = rng.get_rng_state_dict()
            try:
                self._save(self._folder, generators)
            finally:  # states, names and hooks are the user's, and may have drawn
                rng.load_rng_state_dict(generators)

    def _save(self, folder: pathlib.Path, generators: dict[str, Any]) -> None:
        run, state = self._run, self._run.state
        name = f"{run.model.save_name}_epoch_{state.global_epoch}_iter_{state.current_iteration}"
        name = run.model.append_metadata_to_chkpt_name(name)
        path = folder / (name + storage.SUFFIX)
        folder.mkdir(parents=True, exist_ok=True)
        storage.save(self._payload(generators), path)
        self._saved_at = self._position()
        _logger.info("saved %s", path)
        run.manager.hook.on_checkpoint_saved(path=path, state=state)

    def save_if_changed(self) -> None:
        """Write a checkpoint unless the present moment is saved already."""
        if self._saved_at != self._position():
            self.save()

    def restore(self, *, for_testing: bool = False) -> bool:
        """Restore the run from the newest checkpoint that is not damaged.

        Args:
            for_testing: leave out what only training needs: optimizers, counters of the data
                and random numbers.

        Returns:
            Whether there was a checkpoint.

        Raises:
            CheckpointError: the checkpoint is too new, or does not fit.
        """
        if self._folder is None:
            return False
        storage.remove_leftovers(self._folder)
        run, state = self._run, self._run.state
        found = storage.load_last_checkpoint(self._folder, run.trainer.map_loc or "cpu")
        if found is None:
            return False
        path, payload = found[0], _checked(found[1], found[0])
        if not for_testing:
            self._compare_plans(payload["plan"], path)
        for name, value in payload["training_state"].items():
            setattr(state, name, value)
        state.running_iter = 0
        run.model.load_state_dict(payload["model"], fast_init=for_testing)
        run.model.metrics.update(payload["metrics"]["newest"])
        self._restore_plugins(payload)
        if not for_testing:
            run.model._training_log.load_state_dict(payload["metrics"]["in_flight"])
            run.datamodule.load_state_dict(payload["datamodule"])
            self._rng = payload["rng"][run.trainer.global_rank]
            run.restored_epoch = payload["epoch"]
            self._saved_at = self._position()
        _logger.info("restored %s", path)
        run.manager.hook.on_checkpoint_loaded(path=path, state=state)
        return True

    def restore_rng(self) -> None:
        """Restore the random number generators, if a checkpoint was restored."""
        if self._rng is not None:
            rng.load_rng_state_dict(self._rng)

    def _payload(self, generators: dict[str, Any]) -> dict[str, Any]:
        import helios

        run = self._run
        return {
            "format": FORMAT,
            "version": helios.__version__,
            "training_state": run.state.dict(),
            "epoch": run.epoch_state(),
            "model": run.model.state_dict(),
            "metrics": {
                "in_flight": run.model._training_log.state_dict(),
                "newest": dict(run.model.metrics),
            },
            "datamodule": run.datamodule.state_dict(),
            "rng": [generators],
            "plugins": [{**self._absent, **run.manager.state_dict()}],
            "plan": run.trainer.plan.to_dict(),
        }

    def _restore_plugins(self, payload: dict[str, Any]) -> None:
        """Give the plug-ins their states; keep those of plug-ins that are absent now."""
        states = payload["plugins"][self._run.trainer.global_rank]
        self._absent = self._run.manager.load_state_dict(states)

    def _compare_plans(self, before: dict[str, Any], path: pathlib.Path) -> None:
        """Show how the plug-ins differ from those of the checkpoint, or refuse to go on.

        Raises:
            PlanDriftError: they differ, and ``resume_plugins="strict"``.
        """
        trainer = self._run.trainer
        lines = differences(before, trainer.plan.to_dict())
        if not lines or trainer.resume_plugins == "ignore":
            return
        story = f"the plug-ins are not those of the checkpoint {path}:\n" + "\n".join(
            f"  {line}" for line in lines
        )
        if trainer.resume_plugins == "strict":
            raise PlanDriftError(
                f"{story}\nRestore the plug-ins that the run was started with, or go on as it is"
                ' with Trainer(resume_plugins="warn").'
            )
        _logger.warning("%s", story)

    def _position(self) -> tuple[int, int]:
        return self._run.state.global_epoch, self._run.state.global_iteration


def _checked(payload: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    missing = _KEYS - payload.keys()
    if not missing and payload["format"] > FORMAT:
        raise CheckpointError(
            f"{path} was written by Helios {payload.get('version')} in format {payload['format']};"
            f" this release reads up to format {FORMAT}. Install that release or a newer one."
        )
    if missing:
        raise CheckpointError(
            f"{path} is not a Helios checkpoint of format {FORMAT}: it holds nothing under"
            f" {', '.join(sorted(missing))}. Remove it, or name another folder in chkpt_root."
        )
    return payload
