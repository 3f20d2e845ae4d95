"""Logged metrics as TensorBoard event files, in the folder of the run."""

from typing import TYPE_CHECKING

from helios import Plugin, TrainingState
from helios.errors import ConfigurationError

if TYPE_CHECKING:
    import pathlib

    from torch.utils.tensorboard import SummaryWriter

    from helios import Trainer

__all__ = ["TensorBoardPlugin"]


class TensorBoardPlugin(Plugin):
    """Writes each logged metric as a scalar into event files in ``<run_root>/tensorboard``.

    The step of a scalar is ``state.current_iteration``, the number of optimizer steps. A resumed
    run hides what was written after its checkpoint, since it will be written again. Without
    logged metrics no file is created. Autoloaded where ``Trainer(run_root=...)``.
    """

    def __init__(self) -> None:
        super().__init__("tensorboard")
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    @classmethod
    def applies_to(cls, trainer: "Trainer") -> bool:
        """Whether the run has a folder."""
        return trainer.run_root is not None

    @property
    def folder(self) -> "pathlib.Path":
        """The folder of the event files.

        Raises:
            ConfigurationError: the run has no folder.
        """
        if self.trainer.run_root is None:
            raise ConfigurationError(
                "plug-in 'tensorboard' has no folder to write into: pass Trainer(run_root=...);"
                " event files go to <run_root>/tensorboard."
            )
        return self.trainer.run_root / "tensorboard"

    def setup(self) -> None:
        """Make sure that there is a folder to write into, before anything is computed."""
        self._purge_step = None
        _ = self.folder

    def on_training_start(self) -> None:
        """Have TensorBoard drop what an earlier run wrote and this one is going to write again.

        A test drops nothing: what a run that was cut short has written is still all there is.
        """
        if any(self.folder.glob("events.out.tfevents.*")):
            # What was logged at the step of the checkpoint, its validation included, is kept.
            self._purge_step = self.trainer.state.current_iteration + 1

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Write the metrics; of several processes, the first does it for all."""
        if self.trainer.global_rank == 0:
            if self._writer is None:
                # Imported here: a trainer that only looks at this class need not wait for it.
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder), purge_step=self._purge_step)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, state.current_iteration)

    def on_checkpoint_saved(self, path: "pathlib.Path", state: TrainingState) -> None:
        """Write out what is queued: a run that goes on from here will not write it again."""
        if self._writer is not None:
            self._writer.flush()

    def teardown(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None  # not to be used again if closing fails
        if writer is not None:
            writer.close()
