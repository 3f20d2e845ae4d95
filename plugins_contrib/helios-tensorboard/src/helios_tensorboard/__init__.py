"""A plug-in that writes logged metrics into TensorBoard event files."""

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
    run hides the scalars after its checkpoint, because it writes them again. A new run in a used
    folder writes into ``tensorboard-2``. Without logged metrics, the plug-in creates no file.
    Helios autoloads it if ``Trainer(run_root=...)`` is set.
    """

    def __init__(self) -> None:
        super().__init__("tensorboard")
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    @classmethod
    def applies_to(cls, trainer: "Trainer") -> bool:
        """Return whether the run has a folder."""
        return trainer.run_root is not None

    @property
    def folder(self) -> "pathlib.Path":
        """The folder of the event files.

        Raises:
            ConfigurationError: the run has no folder.
        """
        if self.trainer.run_root is None:
            raise ConfigurationError(
                "plug-in 'tensorboard' has no folder for its event files: pass"
                " Trainer(run_root=...); it writes to <run_root>/tensorboard."
            )
        return self.trainer.run_path("tensorboard")

    def setup(self) -> None:
        """Check that the run has a folder before training or testing starts."""
        self._purge_step = None
        _ = self.folder

    def on_training_start(self) -> None:
        """Let TensorBoard hide the scalars that this run will write again.

        A test hides nothing, because it does not write the scalars of an interrupted run again.
        """
        if any(self.folder.glob("events.out.tfevents.*")):
            # Keep the scalars at the step of the checkpoint, including those of its validation.
            self._purge_step = self.trainer.state.current_iteration + 1

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Write the metrics in the process with global rank 0."""
        if self.trainer.global_rank == 0:
            if self._writer is None:
                # Import it late, so that a trainer that only inspects this class need not wait.
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder), purge_step=self._purge_step)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, state.current_iteration)

    def on_checkpoint_saved(self, path: "pathlib.Path", state: TrainingState) -> None:
        """Write all queued scalars, because a run that resumes here does not write them again."""
        if self._writer is not None:
            self._writer.flush()

    def teardown(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None  # forget it first, in case close() fails
        if writer is not None:
            writer.close()
