"""What a checkpoint holds, when it is written, and how a run is restored from it."""

import dataclasses
import functools
import logging
import os
import pathlib
import time
from typing import TYPE_CHECKING, Any

from helios.core import TrainingState, rng
from helios.errors import ConfigurationError, PlanDriftError
from helios.plugins.drift import differences
from helios.trainer import folder, formats, plain, storage
from helios.trainer.background import Background
from helios.trainer.retention import Retention, chkpt_name

if TYPE_CHECKING:
    from helios.trainer.run import Run

_LONGEST_NAME = 255  # bytes, on all common file systems

_logger = logging.getLogger(__name__)


class Checkpointer:
    """Saves and restores a run in one folder: the subfolder of ``chkpt_root`` for the model.

    A checkpoint is a dictionary of plain containers and tensors:

    ==================  =====================================================================
    ``format``          the version of this layout, 2
    ``version``         the version of Helios that wrote it
    ``name``            the name under which it was saved, without suffix
    ``training_state``  the counters
    ``epoch``           ``batches`` and ``samples`` of an epoch, without which no position counts,
                        or where a stream stands
    ``model``           ``Model.state_dict()``
    ``validation_due``  a stop has left the validation of this moment
    ``scalers``         of losses in fp16, by the name of their optimizer
    ``metrics``         logged values in flight, sums of losses, and the newest results
    ``datamodule``      ``DataModule.state_dict()``
    ``rng``             a list: the random number generators of each rank
    ``plugins``         a list: of each rank, the plug-ins' states by id
    ``plan``            what was active
    ==================  =====================================================================

    Raises:
        ConfigurationError: the model's name cannot be that of a folder.
    """

    def __init__(self, run: "Run") -> None:
        trainer, save_name = run.trainer, run.model.save_name
        if not _is_file_name(save_name):
            raise ConfigurationError(
                f"save_name={save_name!r} of {type(run.model).__name__} cannot be the name of its"
                " folder and files of checkpoints: leave out separators, and folders above."
            )
        self._run = run
        self.folder = None if trainer.chkpt_root is None else trainer.chkpt_root / save_name
        self._retention = Retention(save_name, trainer.keep_last, trainer.keep_best)
        self._background = Background() if trainer.async_checkpoints else None
        self._snapshots = plain.Snapshots()
        self._kept_snapshots = plain.Snapshots()  # not of those that are being written
        self._durable: list[tuple[pathlib.Path, TrainingState]] = []
        self._stalls: list[float] = []
        self._saved_at: tuple[int, int, int] | None = None
        self._absent: dict[str, Any] = {}
        self._rng: dict[str, Any] | None = None
        self._kept: dict[str, Any] | None = None

    def prepare(self) -> None:
        """Make sure that checkpoints can be saved, before anything is computed.

        Raises:
            ConfigurationError: the folder cannot be created or written.
        """
        if self.folder is not None:
            folder.prepare(self.folder)

    # Saving.

    def save(self) -> None:
        """Write a checkpoint of the present moment, if there is a folder for it.

        With ``async_checkpoints``, it is copied, and written while training goes on.

        Raises:
            CheckpointError: a state is not plain.
            OSError: this checkpoint, or the one that was written in the background, cannot be
                written.
        """
        if self.folder is not None:
            started = time.perf_counter()
            generators = rng.get_rng_state_dict()
            try:
                self.settle()  # at most one is being written
                self._save(self.folder, generators)
            finally:  # states, names and hooks are the user's, and may have drawn
                rng.load_rng_state_dict(generators)
            self._stalls.append(time.perf_counter() - started)

    def save_if_changed(self) -> None:
        """Write a checkpoint unless the present moment is saved already."""
        if self._saved_at != self._position():
            self.save()

    def settle(self) -> None:
        """Wait until what is being written is durable, and tell the plug-ins."""
        if self._background is not None:
            self._background.wait()
        while self._durable:
            path, state = self._durable.pop(0)
            self._run.manager.hook.on_checkpoint_saved(path=path, state=state)

    def finish(self) -> None:
        """Settle at the end of training, and report how long saving has held it up."""
        started = time.perf_counter()
        with rng.preserved_rng_state():
            self.settle()
        if self._stalls:
            _logger.info(
                "%d checkpoints saved: training waited %.1f ms for each on average, and %.1f ms at"
                " its end",
                len(self._stalls),
                1000 * sum(self._stalls) / len(self._stalls),
                1000 * (time.perf_counter() - started),
            )

    def keep(self) -> None:
        """Keep a copy of the present moment in memory, to be saved instead of later ones.

        Only where a validation may be left, since it costs time and the memory of a checkpoint.
        """
        if self.folder is not None and self._run.trainer.interruptible:
            with rng.preserved_rng_state():
                payload = self._payload(rng.get_rng_state_dict())
                self._kept = self._kept_snapshots.take(payload)

    def discard(self) -> None:
        """Forget the copy."""
        self._kept = None

    def _save(self, root: pathlib.Path, generators: dict[str, Any]) -> None:
        state = self._run.state
        name = self._name()
        payload = {**(self._kept or self._payload(generators)), "name": name}
        self._saved_at = self._position()
        write = functools.partial(self._write, root / (name + storage.SUFFIX))
        if self._background is None:
            write(payload, state)
            self.settle()
        else:
            plain.check(payload)
            copies = self._snapshots.take(payload), dataclasses.replace(state)
            self._background.start(functools.partial(write, *copies))

    def _write(self, path: pathlib.Path, payload: dict[str, Any], state: TrainingState) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up meanwhile
        storage.save(payload, path)
        _logger.info("saved %s", path)
        self._durable.append((path, state))
        self._retention.delete_superseded(path)

    def _name(self) -> str:
        model, state = self._run.model, self._run.state
        given = chkpt_name(model.save_name, state.global_epoch, state.current_iteration)
        name = model.append_metadata_to_chkpt_name(given)
        where = (state.global_epoch, state.current_iteration)
        is_appended = isinstance(name, str) and name.startswith(given)
        if not is_appended or folder.position(name) != where or not _is_file_name(name):
            raise ConfigurationError(
                f"{type(model).__name__}.append_metadata_to_chkpt_name({given!r}) returned"
                f" {name!r}, which is no checkpoint of this position, or no name of a file: append"
                " a short text without separators that begins with no digit, such as '_loss-0.5'."
            )
        return name

    # Restoring.

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
        if self.folder is None:
            return False
        run, state = self._run, self._run.state
        # Into host memory, whatever the device: optimizers and generators keep part of it there.
        found = folder.load_last_checkpoint(self.folder)
        if found is None:
            return False
        path, payload = found[0], formats.upgraded(found[1], found[0])
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
            run.model._running_losses.update(payload["metrics"]["running_losses"])
            run.validation_due = payload["validation_due"]
            for author in payload["stops"]:
                run.decide_to_stop(author)
            run.model._precision.load_state_dict(payload["scalers"])
            run.datamodule.load_state_dict(payload["datamodule"])
            self._rng = payload["rng"][run.trainer.global_rank]
            run.batches.restored = payload["epoch"]
            self._saved_at = self._position()
            if not run.is_finished():
                folder.require_space(self.folder, path.stat().st_size)
        run.reporter.show_restored(path)
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
            "format": formats.FORMAT,
            "version": helios.__version__,
            "name": "",  # filled in when it is saved, which may be later
            "training_state": run.state.dict(),
            "epoch": run.batches.state_dict(),
            "model": run.model.state_dict(),
            "validation_due": run.validation_due,
            "stops": [stop.author for stop in run.trainer.stop_requests if stop.is_decided],
            "scalers": run.model._precision.state_dict(),
            "metrics": {
                "in_flight": run.model._training_log.state_dict(),
                "running_losses": dict(run.model._running_losses),
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

    def _position(self) -> tuple[int, int, int]:
        state = self._run.state
        return state.global_epoch, state.global_iteration, state.validation_cycles


def _is_file_name(name: str) -> bool:
    longest = os.fsencode(name + storage.SUFFIX + storage.TEMPORARY)
    is_one_part = pathlib.PurePath(name).name == name and name != ".."
    return is_one_part and len(longest) <= _LONGEST_NAME
