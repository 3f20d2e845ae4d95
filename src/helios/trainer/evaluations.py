"""The public methods of a trainer that evaluate weights, and the start of all its runs."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from helios.data import DataModule
from helios.errors import ConfigurationError
from helios.model import Model
from helios.trainer.arguments import settings
from helios.trainer.arguments.checks import check_kinds
from helios.trainer.current_run import CurrentRun
from helios.trainer.job import Job, Outcome, Prediction, Purpose, Trained
from helios.trainer.launch import launch
from helios.trainer.launch.membership import joined
from helios.trainer.predictions import Writer
from helios.trainer.preparation import prepare
from helios.trainer.work import work

if TYPE_CHECKING:
    from helios.trainer import Trainer

Checkpoint = str | os.PathLike[str] | None


class Evaluations(CurrentRun):
    """The part of a trainer that evaluates weights that exist.

    By default, :meth:`validate`, :meth:`test` and :meth:`predict` use the weights of the newest
    checkpoint. Without a checkpoint, they use the weights that this trainer has just trained. If it
    has not trained this model, they call ``Model.load_for_testing``, which may load weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trained: tuple[Model, Trained] | None = None

    def validate(
        self, model: Model, datamodule: DataModule, checkpoint: Checkpoint = None
    ) -> dict[str, Any]:
        """Validate a model once, without training it.

        Nothing judges the results, so neither early stopping nor the best validation changes.

        Args:
            model: the model to validate.
            datamodule: the data module, which provides the batches.
            checkpoint: see :meth:`test`.

        Returns:
            The results, which are also in ``model.metrics``.

        Raises:
            CheckpointError: the checkpoint does not exist or cannot be used.
            Exception: the error that was raised in the run, unchanged, with a note on its origin.
        """
        self._evaluate("validate", model, datamodule, checkpoint)
        return dict(model.metrics)

    def test(self, model: Model, datamodule: DataModule, checkpoint: Checkpoint = None) -> None:
        """Test a model with the newest checkpoint's weights, if one exists.

        Args:
            model: the model to test.
            datamodule: the data module, which provides the batches.
            checkpoint: the weights to test: ``"last"`` for those of the newest checkpoint,
                ``"best"`` for those of the best validation, or the path of a checkpoint.

        Raises:
            CheckpointError: the checkpoint does not exist or cannot be used.
            Exception: the error that was raised in the run, unchanged, with a note on its origin.
        """
        self._evaluate("test", model, datamodule, checkpoint)

    def predict(
        self,
        model: Model,
        datamodule: DataModule,
        checkpoint: Checkpoint = None,
        *,
        split: str = "test",
        writer: Writer | None = None,
    ) -> Any:
        """Return what a model predicts for each sample, in the order of the data.

        The samples come in the order of the dataset, whatever its parameters say of shuffling,
        samplers and short batches.

        Args:
            model: the model, whose ``predict_step`` returns the predictions for a batch.
            datamodule: the data module, which provides the batches.
            checkpoint: see :meth:`test`.
            split: the data: ``"test"``, ``"valid"`` or ``"train"``.
            writer: a function that receives the predictions for each batch, in host memory, and
                the number of the batch; for predictions that do not fit into memory together.

        Returns:
            The predictions, in host memory: tensors of all batches joined along their first
            dimension, in the structure that ``predict_step`` returns. A dictionary by name if the
            split has several sets; ``None`` with a ``writer``.

        Raises:
            CheckpointError: the checkpoint does not exist or cannot be used.
            StoppedError: the prediction was stopped before it was complete.
            Exception: the error that was raised in the run, unchanged, with a note on its origin.
        """
        prediction = Prediction(settings.check_split(split), settings.check_writer(writer))
        return self._evaluate("predict", model, datamodule, checkpoint, prediction).predictions

    def _evaluate(
        self,
        purpose: Purpose,
        model: Model,
        datamodule: DataModule,
        checkpoint: Checkpoint,
        prediction: Prediction | None = None,
    ) -> Outcome:
        check_kinds(model, datamodule)
        wanted = settings.check_wanted(checkpoint)
        known = self._trained
        trained = known[1] if known is not None and known[0] is model else None
        job = Job.create(
            purpose,
            cast("Trainer", self),
            model,
            datamodule,
            self.state,
            trained,
            wanted,
            prediction=prediction,
        )
        with self._running(job):
            self._outcome = self._run(job)
        return self._outcome

    def _run(self, job: Job) -> Outcome:
        """Run a job, in this process or in the processes that a launcher starts."""
        report = job.reporter
        with report.accounts(job.purpose), report.errors(job.expected), self._joined(job):
            prepare(job)
            outcome = launch(job, functools.partial(work, job))
            report.failures = outcome.failures  # other processes may have worked
        job.model.metrics.update(outcome.metrics)  # another process may have trained
        return outcome

    def _joined(self, job: Job) -> contextlib.AbstractContextManager[None]:
        """Join the other processes of the run, unless a plug-in starts processes."""
        has_launcher = self.plugin_manager.claimant("launch")
        return contextlib.nullcontext() if has_launcher else joined(job)

    @contextlib.contextmanager
    def _running(self, job: Job) -> Iterator[None]:
        if self._job is not None:
            raise ConfigurationError(
                "this trainer is in the middle of a run: start the other run with its own Trainer."
            )
        self._job, self._model, self._datamodule = job, job.model, job.datamodule
        try:
            yield
        except BaseException:
            self._outcome = job.outcome()
            raise
        finally:
            self._job = None
            self.plugin_manager.frozen = False
