"""The declarations of all hooks.

:class:`PluginSpec` declares each hook once, with its bases. pluggy reads the specifications from
it, :class:`~helios.plugins.Plugin` inherits from it, and a test compares the documentation with it.

Many plug-ins may implement a hook of kind *all*, but only one may implement one of kind *one*.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from helios.core import TrainingState
from helios.plugins.evaluation_hooks import EvaluationSpec
from helios.plugins.markers import chain, hookspec, unique

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from helios.model import Model
    from helios.trainer import Trainer


class TrainingSpec:
    """The hooks of launch, set-up and training."""

    # Before launch, in the parent process.

    @hookspec
    def configure_trainer(self, trainer: "Trainer") -> None:
        """Configure the trainer before training or testing, once; a call by the user counts.

        Args:
            trainer: the trainer before launch; you can still register plug-ins.
        """

    @hookspec
    def configure_model(self, model: "Model") -> None:
        """Configure the model before training or testing.

        Args:
            model: the model before its ``setup``; once per plug-in, a call by the user included.
        """

    @unique("launch")
    def launch(self, trainer: "Trainer", target: Callable[[], Any]) -> Any:
        """Start the processes of the run in place of the built-in launcher.

        Args:
            trainer: the configured trainer with its frozen plan.
            target: the function that does all work of one process; picklable if the trainer, the
                model and the data are picklable.

        Returns:
            The return value of ``target`` in the process with global rank 0.
        """
        return target()

    # In every process.

    @hookspec
    def setup(self) -> None:
        """Construct all required state; the device and the process group are ready."""

    @chain("module")
    def prepare_module(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """Change or wrap a network. The one with ``exclusives = ("module",)`` is called last.

        Args:
            module: the network from ``Model.prepare`` or the plug-in before, on its device.

        Returns:
            The network to train.
        """
        return module

    @hookspec
    def on_model_ready(self, model: "Model") -> None:
        """Change the model between its ``setup`` and the restoring of its state.

        The state of the plug-in is already restored, so it can give the model its saved form.

        Args:
            model: the model after its ``setup``.
        """

    @unique("batches")
    def wrap_batches(self, batches: Iterable[Any], phase: str) -> Iterable[Any]:
        """Wrap the batches of a loader, once per iteration over it, for example to prefetch them.

        Args:
            batches: the loader.
            phase: ``"training"``, ``"validation"`` or ``"testing"``.

        Returns:
            The same batches in the same order.
        """
        return batches

    @hookspec
    def step_context(self, phase: str) -> AbstractContextManager[Any] | None:
        """Return a context manager for the model's next step, or ``None``.

        Args:
            phase: ``"training"``, ``"validation"`` or ``"testing"``.
        """
        return None

    # Training.

    @hookspec
    def on_training_start(self) -> None:
        """Perform any necessary actions when training starts, after the checkpoint is loaded."""

    @hookspec
    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Called when an epoch begins, but not when a run resumes inside an epoch.

        Args:
            state: the position of the run.
        """

    @unique("training_batch")
    def process_training_batch(self, batch: Any, state: TrainingState) -> Any:
        """Process the training batch, prior to the model's ``train_step``.

        Args:
            batch: the batch that the loader returned.
            state: the position of the run.

        Returns:
            The batch for the model.
        """
        return batch

    @hookspec
    def on_training_batch_start(self, batch: Any, samples: int, state: TrainingState) -> None:
        """Called after ``process_training_batch``, before the model's ``train_step``.

        Args:
            batch: the batch that the model will receive.
            samples: the number of samples that the loader put into it.
            state: the position of the run.
        """

    @hookspec
    def on_before_backward(
        self, loss: "torch.Tensor", optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Called before the backward pass of a loss, for each optimizer that it is for.

        Args:
            loss: the loss that the model passed to ``optimize``.
            optimizer: the optimizer that will step on its gradients.
            state: the position of the run.
        """

    @hookspec
    def on_after_backward(
        self, loss: "torch.Tensor", optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Called after the backward pass of a loss; gradients may be scaled and not complete.

        Args:
            loss: the loss that the model passed to ``optimize``.
            optimizer: the optimizer that will step on its gradients.
            state: the position of the run.
        """

    @hookspec
    def on_before_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Called when the gradients are complete and unscaled, but not yet clipped.

        Args:
            optimizer: the optimizer before its step.
            state: the position of the run.
        """

    @hookspec
    def on_gradients_ready(self, optimizer: "torch.optim.Optimizer", state: TrainingState) -> None:
        """Called when the gradients are clipped, immediately before the step.

        Args:
            optimizer: the optimizer before its step.
            state: the position of the run.
        """

    @hookspec
    def on_after_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Called when an optimizer has taken a step, but not when the step was skipped.

        Args:
            optimizer: the optimizer after its step, with its gradients reset.
            state: the position of the run.
        """

    @hookspec
    def on_optimizer_step_skipped(
        self, optimizer: "torch.optim.Optimizer", reason: str, state: TrainingState
    ) -> None:
        """Called in place of ``on_after_optimizer_step`` when a step was skipped.

        Args:
            optimizer: the optimizer, with its gradients reset.
            reason: the reason that ``skip_step`` received, or that gradients overflowed in fp16.
            state: the position of the run.
        """

    @hookspec
    def on_training_batch_end(
        self, outputs: Any, batch: Any, samples: int, state: TrainingState
    ) -> None:
        """Called after the model's ``train_step``.

        Args:
            outputs: the return value of ``train_step``.
            batch: the batch that the model received.
            samples: the number of samples that the loader put into it.
            state: the position of the run.
        """

    @hookspec
    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Receive the metrics that the model logged, already on the host.

        Called every ``print_frequency`` steps, or at the end of each epoch without it, with the
        means since the last call, and with the rest when training is complete, perhaps after
        ``on_training_end``. Called at the end of validation, testing and an epoch with the values
        that were logged there.

        Args:
            metrics: the values by name.
            phase: ``"training"``, ``"validation"`` or ``"testing"``, where they were logged.
            state: the position of the run.
        """

    @unique("should_training_stop")
    def should_training_stop(self) -> bool:
        """Return whether training should stop; called after each batch and each validation."""
        return False

    @hookspec
    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Called when an epoch is complete, before the method of the model.

        Args:
            state: the position of the run; ``global_epoch`` is still the number of this epoch.
        """

    @hookspec
    def on_training_end(self) -> None:
        """Perform any necessary actions when training ends, after the last checkpoint is saved."""


class PluginSpec(EvaluationSpec, TrainingSpec):
    """All hooks, grouped by moment; each body is the default of a plug-in."""

    # Checkpoints, failure, teardown.

    @hookspec
    def on_checkpoint_saved(self, path: "Path", state: TrainingState) -> None:
        """Called in the process with rank 0 when a checkpoint is complete and durable.

        With ``async_checkpoints``, called at the next save or at the end of training.

        Args:
            path: the file of the checkpoint.
            state: the position of the run at the time of the save.
        """

    @hookspec
    def on_checkpoint_loaded(self, path: "Path", state: TrainingState) -> None:
        """Called when everything is restored from a checkpoint.

        Args:
            path: the file of the checkpoint.
            state: the position of the run.
        """

    @hookspec
    def on_exception(self, error: BaseException, state: TrainingState) -> None:
        """Called when a run fails, before teardown; an error in this hook is only logged.

        Args:
            error: the exception that ``fit`` or ``test`` will raise.
            state: the position of the run.
        """

    @hookspec
    def teardown(self) -> None:
        """Release what ``setup`` acquired; called in reverse order, even if the run has failed."""
