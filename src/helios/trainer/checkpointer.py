"""The checkpointer, which saves and restores a run."""

import contextlib
import dataclasses
import errno
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from helios.checkpoints import folder, migrations, plain, search, storage, stores
from helios.checkpoints.best import load_best_checkpoint
from helios.checkpoints.links import Links
from helios.checkpoints.lock import FolderLock
from helios.checkpoints.naming import (
    SHARDED,
    SUFFIX,
    Position,
    format_name,
    is_file_name,
    parse_name,
)
from helios.checkpoints.retention import Retention
from helios.checkpoints.shards import Shards
from helios.checkpoints.snapshot import Snapshots
from helios.checkpoints.writer import Writer
from helios.core import Alone, Group, Place, Ranks, TrainingState
from helios.errors import CheckpointError, ConfigurationError, PlanDriftError
from helios.model import Model
from helios.model.session import Session
from helios.plugins import PluginPlan
from helios.plugins.plans.drift import differences
from helios.trainer import parts
from helios.trainer.parts import Generators, Part
from helios.trainer.save_settings import SaveSettings

_logger = logging.getLogger(__name__)

OnSaved = Callable[[pathlib.Path, TrainingState], None]
Wanted = Literal["last", "best"] | pathlib.Path | None
"""The checkpoint to restore; ``None`` for the newest, if there is one."""
Content = tuple[dict[str, Any], Shards]
"""The content of a checkpoint, and the tensors that ranks have divided."""


class Checkpointer:
    """Saves and restores a run in one folder.

    A checkpoint is a dictionary of plain containers and tensors. Its keys are ``format``, the
    version of this layout; ``version``, the version of Helios; ``name``, the name of the file
    without its suffix; ``plan``, the active plug-ins; and the parts that
    :mod:`helios.trainer.parts` lists.

    Args:
        settings: the folder, and the number of checkpoints to keep in it.
        table: the parts of a checkpoint.
        generators: the random number generators, which a save must not change.
        model: the model, whose name the files bear.
        state: the progress of the run.
        plan: the plan of the run.
        place: the place of this process.
        group: the processes of the run.
        session: the session of the run.
        on_saved: the function to call when a checkpoint is durable.
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
        session: Session,
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
        self._session = session
        self._on_saved = on_saved
        self._writes = place.rank == 0  # one process writes for all
        self._retention = Retention(model.save_name, settings.kept.last, settings.kept.best)
        self._links = Links()
        self._writer: Writer | None = None
        self._lock: FolderLock | None = None
        self._snapshots = Snapshots()
        self._kept_snapshots = Snapshots()  # its own, as the others may still be written
        self._durable: list[tuple[pathlib.Path, TrainingState]] = []
        self._newest: pathlib.Path | None = None
        self._read: dict[str, Any] | None = None
        self._stalls: list[float] = []
        self._saved_at: tuple[int, int, int] | None = None
        self._kept: Content | None = None

    def open(self) -> None:
        """Check that checkpoints can be saved, before any computation starts.

        Raises:
            ConfigurationError: the folder cannot be created or written, or another run uses it.
        """
        if self._settings.folder is not None and self._writes:
            self._lock = folder.claim(self._settings.folder)
            if self._settings.in_background:
                self._writer = Writer()

    def close(self) -> None:
        """Wait until all checkpoints are durable, and let other runs use the folder."""
        with contextlib.ExitStack() as stack:  # each step follows, whatever the others raise
            if self._lock is not None:
                stack.callback(self._lock.release)
            if self._writer is not None:
                stack.callback(self._writer.close)
            self.flush()

    # Saving.

    def save(self) -> None:
        """Write a checkpoint of the current state, if the run has a folder for it.

        In the background, a copy is written while training continues.

        Raises:
            CheckpointError: a state is not plain.
            OSError: this checkpoint cannot be written, or the last one could not be written in
                the background.
        """
        if self._settings.folder is not None:
            started = time.perf_counter()
            self._session.require_same_weights()
            self._flush_together()  # at most one is written at a time
            with self._generators.held():  # user code returns states and names, and may draw
                self._save(self._settings.folder)
            if not self._settings.in_background:
                self._flush_together()
            self._stalls.append(time.perf_counter() - started)

    def check(self) -> None:
        """Check that the current state could be saved, in a run that saves nothing.

        Raises:
            CheckpointError: a state is not plain.
        """
        with self._generators.held():
            plain.check(self._content()[0])

    def save_if_changed(self) -> None:
        """Write a checkpoint unless the current state is saved already."""
        if self._saved_at != self._position():
            self.save()

    def flush(self) -> None:
        """Wait until all checkpoints are durable, and tell the plug-ins."""
        if self._writer is not None:
            self._writer.wait()
        if self._durable:
            with self._generators.held():
                while self._durable:
                    self._on_saved(*self._durable.pop(0))

    def _flush_together(self) -> None:
        """Flush in all ranks, when the one that writes has written."""
        if self._writer is not None:
            self._writer.wait()
        self._group.agree(True)  # a write may take longer than a collective may wait
        self.flush()

    def finish(self) -> None:
        """Flush at the end of training, and log how long training waited for saves."""
        started = time.perf_counter()
        self._flush_together()
        if self._stalls:
            _logger.info(
                "%d checkpoints saved: training waited %.1f ms for each on average, and %.1f ms at"
                " its end",
                len(self._stalls),
                1000 * sum(self._stalls) / len(self._stalls),
                1000 * (time.perf_counter() - started),
            )

    def keep(self) -> None:
        """Keep a copy of the current state in memory. The next save writes it."""
        if self._settings.folder is not None:
            with self._generators.held():
                payload, shards = self._content()
                plain.check(payload)
                payload, parts = self._kept_snapshots.take((payload, shards.local()))
                self._kept = payload, shards.replaced(parts)

    def discard(self) -> None:
        """Drop the copy that :meth:`keep` made."""
        self._kept = None

    def _save(self, root: pathlib.Path) -> None:
        state = self._state
        name = self._group.broadcast(self._name())
        payload, shards = self._kept or self._content()
        payload = {**payload, "name": name}
        self._saved_at = self._position()
        path = root / (name + (SHARDED if shards.parts else SUFFIX))
        if shards.parts:
            self._write_shards(path, payload, shards)
            return
        if not self._writes:
            self._durable.append((path, dataclasses.replace(state)))
            return
        write = functools.partial(self._write, path)
        if self._writer is None:
            write(payload, state)
        else:
            plain.check(payload)
            copies = self._snapshots.take(payload), dataclasses.replace(state)
            self._writer.start(functools.partial(write, *copies))

    def _write(self, path: pathlib.Path, payload: dict[str, Any], state: TrainingState) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)  # a user may have deleted it meanwhile
        self._store(lambda: storage.save(payload, path), Alone())
        self._finish_write(path, payload, state)

    def _write_shards(self, path: pathlib.Path, payload: dict[str, Any], shards: Shards) -> None:
        """Write a checkpoint together with the other ranks, which each write their parts."""
        from helios.checkpoints import sharded_save  # imports much of torch.distributed

        group, state = self._group, dataclasses.replace(self._state)
        assert isinstance(group, Ranks), "one process divides no tensors"
        if self._writes:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._store(lambda: sharded_save.save(payload, path, shards, group), group)
        if self._writes:
            self._finish_write(path, payload, state)
        else:
            self._durable.append((path, state))

    def _store(self, write: Callable[[], None], group: Group) -> None:
        """Write a checkpoint, and once more if the disk is full and old ones can be deleted."""
        try:
            write()
        except OSError as error:
            is_full = self._writes and error.errno in (errno.ENOSPC, errno.EDQUOT)
            newest = self._newest if is_full else None
            if not group.broadcast(newest and self._retention.delete_superseded(newest)):
                raise
            write()  # the deleted files have made room

    def _finish_write(
        self, path: pathlib.Path, payload: dict[str, Any], state: TrainingState
    ) -> None:
        _logger.info("saved %s", path)
        self._newest = path
        self._durable.append((path, state))
        self._links.update(path, payload)
        self._retention.delete_superseded(path)
        self._links.drop_dangling(path)

    def _content(self) -> Content:
        import helios

        shards = Shards()
        payload = {
            "format": migrations.FORMAT,
            "version": helios.__version__,
            "name": "",  # set when it is saved, perhaps later
            **parts.save(self._table, self._group, shards),
            "plan": self._plan.to_dict(),
        }
        return payload, shards

    def _name(self) -> str:
        model, state = self._model, self._state
        position = Position(state.global_epoch, state.current_iteration)
        given = format_name(model.save_name, position)
        name = model.append_metadata_to_chkpt_name(given)
        is_appended = isinstance(name, str) and name.startswith(given)
        if not is_appended or parse_name(name) != position or not is_file_name(name):
            raise ConfigurationError(
                f"{type(model).__name__}.append_metadata_to_chkpt_name({given!r}) returned"
                f" {name!r}, which is not a valid name of this checkpoint: append a short text"
                " without separators that does not begin with a digit, such as '_loss-0.5'."
            )
        return name

    # Restoring.

    def begin_restore(self, wanted: Wanted = None, *, compare_plans: bool) -> pathlib.Path | None:
        """Read a checkpoint, by default the newest that is not damaged, and restore early parts.

        Args:
            wanted: see :meth:`Trainer.test`.
            compare_plans: ``True`` to compare the plug-ins with those of the checkpoint.

        Returns:
            The path of the checkpoint, or ``None`` if the folder has none and none is wanted.

        Raises:
            CheckpointError: the checkpoint has a newer format, or the wanted one does not exist.
            PlanDriftError: the plug-ins differ, and ``resume_plugins`` is ``"strict"``.
        """
        # Load into host memory, because optimizers and generators keep part of their state there.
        self._require_shared()
        found = search.find(self._group, self._place, lambda load: self._find(wanted, load))
        if found is None:
            return None
        path, payload = found[0], migrations.migrate(found[1], found[0])
        if compare_plans:
            self._compare_plans(payload["plan"], path)
        payload = stores.fill(path, payload, self._session.mesh)
        self._read = migrations.complete(payload)
        parts.restore([part for part in self._table if part.is_early], self._read, self._place)
        self._newest = path if self._is_mine(path) else None
        return path

    def restore(self) -> None:
        """Restore the other parts of the checkpoint that :meth:`begin_restore` has read, if any.

        Raises:
            CheckpointError: the checkpoint does not match the model.
        """
        states, self._read = self._read, None
        if states is not None:
            parts.restore([part for part in self._table if not part.is_early], states, self._place)
            self._saved_at = self._position()

    def _require_shared(self) -> None:
        """Refuse to train if ranks could not write into one folder, and must."""
        group, folder = self._group, self._settings.folder
        must_share = self._session.is_training and self._session.mesh is not None
        if must_share and folder is not None and isinstance(group, Ranks):
            from helios.checkpoints import sharded_save  # imports much of torch.distributed

            sharded_save.require_shared(folder, group)

    def require_space(self, path: pathlib.Path) -> None:
        """Refuse to train if a checkpoint as large as this one does not fit into the folder.

        Superseded checkpoints are deleted if it does not fit otherwise.
        """
        root = self._settings.folder
        if not self._writes or root is None:
            return
        needed = stores.size(path)
        if folder.free_space(root) < needed and self._is_mine(path):
            self._retention.delete_superseded(path)
        folder.require_space(root, needed)

    def _is_mine(self, path: pathlib.Path) -> bool:
        """Return whether a checkpoint is in the folder of this run."""
        root = self._settings.folder
        return root is not None and path.parent.resolve() == root.resolve()

    def _find(
        self, wanted: Wanted, load: stores.Load
    ) -> tuple[pathlib.Path, dict[str, Any]] | None:
        root = self._settings.folder
        if isinstance(wanted, pathlib.Path):
            return wanted, load(wanted)
        if wanted == "best":
            return load_best_checkpoint(root, load)
        found = folder.load_last_checkpoint(root, load)
        if wanted == "last" and found is None:
            where = "a run without run_root or chkpt_root" if root is None else root
            raise CheckpointError(
                f'checkpoint="last": {where} has no checkpoint. Train first, or leave checkpoint='
                " out to test what this trainer has just trained."
            )
        return found

    def _compare_plans(self, before: dict[str, Any], path: pathlib.Path) -> None:
        """Log how the plug-ins differ from those of the checkpoint, or refuse to resume.

        Raises:
            PlanDriftError: they differ, and ``resume_plugins`` is ``"strict"``.
        """
        lines = differences(before, self._plan.to_dict())
        if not lines or self._settings.resume_plugins == "ignore":
            return
        story = f"the plug-ins are not those of the checkpoint {path}:\n" + "\n".join(
            f"  {line}" for line in lines
        )
        if self._settings.resume_plugins == "strict":
            raise PlanDriftError(
                f"{story}\nRestore the plug-ins that the run was started with, or resume with these"
                ' plug-ins: Trainer(resume_plugins="warn").'
            )
        _logger.warning("%s", story)

    def _position(self) -> tuple[int, int, int]:
        state = self._state
        return state.global_epoch, state.global_iteration, state.validation_cycles
