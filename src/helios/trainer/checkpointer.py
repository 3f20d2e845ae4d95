"""When checkpoints are written, and how a run is restored from one."""

import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from helios.checkpoints import folder, migrations, plain, storage
from helios.checkpoints.lock import FolderLock
from helios.checkpoints.naming import SUFFIX, Position, format_name, is_file_name, parse_name
from helios.checkpoints.retention import Retention
from helios.checkpoints.snapshot import Snapshots
from helios.checkpoints.writer import Writer
from helios.core import Group, Place, TrainingState
from helios.errors import ConfigurationError, PlanDriftError
from helios.model import Model
from helios.plugins import PluginPlan
from helios.plugins.drift import differences
from helios.trainer import parts
from helios.trainer.parts import Generators, Part

if TYPE_CHECKING:
    from helios.trainer import Trainer

_logger = logging.getLogger(__name__)

OnSaved = Callable[[pathlib.Path, TrainingState], None]


@dataclasses.dataclass(frozen=True)
class SaveSettings:
    """How checkpoints are kept.

    Attributes:
        folder: the folder of the model; ``None`` to save nothing.
        keep_last: see :class:`~helios.trainer.Trainer`.
        keep_best: see :class:`~helios.trainer.Trainer`.
        in_background: whether to write while training goes on.
        resume_plugins: what to do if the plug-ins are not those of the checkpoint.
    """

    folder: pathlib.Path | None
    keep_last: int | None
    keep_best: int | None
    in_background: bool
    resume_plugins: str

    @classmethod
    def of(cls, trainer: "Trainer", model: Model) -> "SaveSettings":
        """Return the settings of a trainer for a model.

        Raises:
            ConfigurationError: the model's name cannot be that of a folder.
        """
        name, root = model.save_name, trainer.chkpt_root
        if not is_file_name(name):
            raise ConfigurationError(
                f"save_name={name!r} of {type(model).__name__} cannot be the name of its"
                " folder and files of checkpoints: leave out separators, and folders above."
            )
        return cls(
            folder=None if root is None else root / name,
            keep_last=trainer.keep_last,
            keep_best=trainer.keep_best,
            in_background=trainer.async_checkpoints,
            resume_plugins=trainer.resume_plugins,
        )


class Checkpointer:
    """Saves and restores a run in one folder.

    A checkpoint is a dictionary of plain containers and tensors. It holds ``format``, the version
    of this layout; ``version``, that of Helios; ``name``, the name under which it was saved,
    without suffix; ``plan``, what was active; and the table of :mod:`helios.trainer.parts`.

    Args:
        settings: the folder, and what is kept in it.
        table: the parts of a checkpoint.
        generators: the random number generators, which saving must not move.
        model: names the files.
        state: the position of the run.
        plan: the plan of the run.
        place: the place of this process.
        group: the processes of the run.
        on_saved: called when a checkpoint is durable.
    """

    def __init__(
        self,
        settings: SaveSettings,
        table: Sequence[Part],
        generators: Generators,
        model: Model,
        state: TrainingState,
        plan: PluginPlan,
        place: Place,
        group: Group,
        on_saved: OnSaved,
    ) -> None:
        self._settings = settings
        self._table = table
        self._generators = generators
        self._model = model
        self._state = state
        self._plan = plan
        self._place = place
        self._group = group
        self._on_saved = on_saved
        self._retention = Retention(model.save_name, settings.keep_last, settings.keep_best)
        self._writer: Writer | None = None
        self._lock: FolderLock | None = None
        self._snapshots = Snapshots()
        self._kept_snapshots = Snapshots()  # not of those that are being written
        self._durable: list[tuple[pathlib.Path, TrainingState]] = []
        self._stalls: list[float] = []
        self._saved_at: tuple[int, int, int] | None = None
        self._kept: dict[str, Any] | None = None

    def open(self) -> None:
        """Make sure that checkpoints can be saved, before anything is computed.

        Raises:
            ConfigurationError: the folder cannot be created or written, or another run uses it.
        """
        if self._settings.folder is not None:
            self._lock = folder.claim(self._settings.folder)
            if self._settings.in_background:
                self._writer = Writer()

    def close(self) -> None:
        """Wait until what is being written is durable, and let other runs use the folder."""
        try:
            self.flush()
        finally:
            if self._writer is not None:
                self._writer.close()
            if self._lock is not None:
                self._lock.release()

    # Saving.

    def save(self) -> None:
        """Write a checkpoint of the present moment, if there is a folder for it.

        In the background, a copy is written while training goes on.

        Raises:
            CheckpointError: a state is not plain.
            OSError: this checkpoint, or the one that was written in the background, cannot be
                written.
        """
        if self._settings.folder is not None:
            started = time.perf_counter()
            self.flush()  # at most one is being written
            with self._generators.held():  # states and names are the user's, and may draw
                self._save(self._settings.folder)
            self._stalls.append(time.perf_counter() - started)

    def save_if_changed(self) -> None:
        """Write a checkpoint unless the present moment is saved already."""
        if self._saved_at != self._position():
            self.save()

    def flush(self) -> None:
        """Wait until what is being written is durable, and tell the plug-ins."""
        if self._writer is not None:
            self._writer.wait()
        if self._durable:
            with self._generators.held():
                while self._durable:
                    self._on_saved(*self._durable.pop(0))

    def finish(self) -> None:
        """Flush at the end of training, and report how long saving has held it up."""
        started = time.perf_counter()
        self.flush()
        if self._stalls:
            _logger.info(
                "%d checkpoints saved: training waited %.1f ms for each on average, and %.1f ms at"
                " its end",
                len(self._stalls),
                1000 * sum(self._stalls) / len(self._stalls),
                1000 * (time.perf_counter() - started),
            )

    def keep(self) -> None:
        """Keep a copy of the present moment in memory, to be saved instead of later ones."""
        if self._settings.folder is not None:
            with self._generators.held():
                self._kept = self._kept_snapshots.take(self._payload())

    def discard(self) -> None:
        """Forget the copy."""
        self._kept = None

    def _save(self, root: pathlib.Path) -> None:
        state = self._state
        name = self._name()
        payload = {**(self._kept or self._payload()), "name": name}
        self._saved_at = self._position()
        write = functools.partial(self._write, root / (name + SUFFIX))
        if self._writer is None:
            write(payload, state)
            self.flush()
        else:
            plain.check(payload)
            copies = self._snapshots.take(payload), dataclasses.replace(state)
            self._writer.start(functools.partial(write, *copies))

    def _write(self, path: pathlib.Path, payload: dict[str, Any], state: TrainingState) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up meanwhile
        storage.save(payload, path)
        _logger.info("saved %s", path)
        self._durable.append((path, state))
        self._retention.delete_superseded(path)

    def _payload(self) -> dict[str, Any]:
        import helios

        return {
            "format": migrations.FORMAT,
            "version": helios.__version__,
            "name": "",  # filled in when it is saved, which may be later
            **parts.save(self._table, self._group),
            "plan": self._plan.to_dict(),
        }

    def _name(self) -> str:
        model, state = self._model, self._state
        position = Position(state.global_epoch, state.current_iteration)
        given = format_name(model.save_name, position)
        name = model.append_metadata_to_chkpt_name(given)
        is_appended = isinstance(name, str) and name.startswith(given)
        if not is_appended or parse_name(name) != position or not is_file_name(name):
            raise ConfigurationError(
                f"{type(model).__name__}.append_metadata_to_chkpt_name({given!r}) returned"
                f" {name!r}, which is no checkpoint of this position, or no name of a file: append"
                " a short text without separators that begins with no digit, such as '_loss-0.5'."
            )
        return name

    # Restoring.

    def restore(self, *, compare_plans: bool) -> pathlib.Path | None:
        """Restore the run from the newest checkpoint that is not damaged.

        Args:
            compare_plans: look whether the plug-ins are those of the checkpoint.

        Returns:
            The file, or ``None`` if the folder has no checkpoint.

        Raises:
            CheckpointError: the checkpoint is too new, or does not fit.
            PlanDriftError: the plug-ins differ, and ``resume_plugins="strict"``.
        """
        # Into host memory, whatever the device: optimizers and generators keep part of it there.
        found = self._group.broadcast(folder.load_last_checkpoint(self._settings.folder))
        if found is None:
            return None
        path, payload = found[0], migrations.migrate(found[1], found[0])
        if compare_plans:
            self._compare_plans(payload["plan"], path)
        parts.restore(self._table, payload, self._place)
        self._saved_at = self._position()
        return path

    def require_space(self, path: pathlib.Path) -> None:
        """Refuse to train if a checkpoint as large as this one does not fit into the folder."""
        folder.require_space(path.parent, path.stat().st_size)

    def _compare_plans(self, before: dict[str, Any], path: pathlib.Path) -> None:
        """Show how the plug-ins differ from those of the checkpoint, or refuse to resume.

        Raises:
            PlanDriftError: they differ, and ``resume_plugins="strict"``.
        """
        lines = differences(before, self._plan.to_dict())
        if not lines or self._settings.resume_plugins == "ignore":
            return
        story = f"the plug-ins are not those of the checkpoint {path}:\n" + "\n".join(
            f"  {line}" for line in lines
        )
        if self._settings.resume_plugins == "strict":
            raise PlanDriftError(
                f"{story}\nRestore the plug-ins that the run was started with, or go on as it is"
                ' with Trainer(resume_plugins="warn").'
            )
        _logger.warning("%s", story)

    def _position(self) -> tuple[int, int, int]:
        state = self._state
        return state.global_epoch, state.global_iteration, state.validation_cycles
