"""The settings for the checkpoints of a run."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from helios.checkpoints.naming import is_file_name
from helios.errors import ConfigurationError
from helios.model import Model
from helios.trainer.beginning import Beginning
from helios.trainer.kept import Kept

if TYPE_CHECKING:
    from helios.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class SaveSettings:
    """The settings for the checkpoints of a run.

    Attributes:
        folder: the folder of the model; ``None`` to save nothing.
        kept: the numbers of checkpoints to keep.
        keep_best: see :class:`~helios.trainer.Trainer`.
        in_background: ``True`` to write checkpoints while training continues.
        resume_plugins: the action if the plug-ins differ from those of the checkpoint.
        leaves_run: ``True`` if the run resumes from a checkpoint of another run, whose files
            stay as they are.
    """

    folder: pathlib.Path | None
    kept: Kept
    keep_best: int | None
    in_background: bool
    resume_plugins: str
    leaves_run: bool = False

    @classmethod
    def of(cls, trainer: "Trainer", model: Model, beginning: Beginning) -> "SaveSettings":
        """Return the settings of a trainer for a model.

        Raises:
            ConfigurationError: the model's name cannot be the name of a folder.
        """
        name, root = model.save_name, trainer.chkpt_root
        if not is_file_name(name):
            raise ConfigurationError(
                f"save_name={name!r} of {type(model).__name__} cannot be the name of its"
                " checkpoint folder and files: write a short name without separators, such as"
                " 'resnet'."
            )
        folder, leaves_run = beginning.folders(None if root is None else root / name)
        return cls(
            folder=folder,
            kept=Kept.of(trainer, folder),
            keep_best=trainer.keep_best,
            in_background=trainer.async_checkpoints,
            resume_plugins=trainer.resume_plugins,
            leaves_run=leaves_run,
        )
