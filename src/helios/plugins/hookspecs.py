"""The hooks: every named moment of a run, declared once.

:class:`PluginSpec` is the single source. pluggy takes the hook specifications from it,
:class:`~helios.plugins.Plugin` inherits it, and the documented table is compared with it.

A hook of kind *all* calls every implementation, in the order of the plan. A hook of kind *one* is
a capability that a single active plug-in may have; two are a conflict, found at registration.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from helios.core import TrainingState
from helios.plugins.markers import Deprecation, hookspec, unique

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from helios.model import Model
    from helios.trainer import Trainer


class PluginSpec:
    """All hooks, grouped by moment. The bodies are what a plug-in does by default."""

    # Before launch, in the parent process.

    @hookspec
    def configure_trainer(self, trainer: "Trainer") -> None:
        """Configure the trainer before training or testing.

        Called once per plug-in and trainer, also when the user has called it by hand.

        Args:
            trainer: not yet launched; plug-ins can still be registered.
        """

    @hookspec
    def configure_model(self, model: "Model") -> None:
        """Configure the model before training or testing.

        Called once per plug-in and model, also when the user has called it by hand.

        Args:
            model: not yet set up.
        """

    @unique("launch")
    def launch(self, trainer: "Trainer", target: Callable[[], Any]) -> Any:
        """Start the processes of the run, instead of the built-in launchers.

        Args:
            trainer: configured, its plan frozen.
            target: does the whole work of one process; picklable if trainer, model and data are.

        Returns:
            What ``target`` returned in the process with global rank 0.
        """
        return target()

    # In every process.

    @hookspec
    def setup(self) -> None:
        """Construct all required state. Device and process group are ready."""

    @unique("module")
    def prepare_module(self, module: "nn.Module") -> "nn.Module":
        """Place a network on its device, and wrap it for parallelism.

        Args:
            module: what a model passed to ``Model.prepare``.

        Returns:
            The network to train.
        """
        return module

    @unique("batches")
    def wrap_batches(self, batches: Iterable[Any], phase: str) -> Iterable[Any]:
        """Wrap the batches of a loader, for example to fetch them ahead.

        Called once for each iteration over a loader.

        Args:
            batches: the loader.
            phase: ``"training"``, ``"validation"`` or ``"testing"``.

        Returns:
            The same batches in the same order.
        """
        return batches

    @hookspec
    def step_context(self, phase: str) -> AbstractContextManager[Any] | None:
        """Return a context manager to be entered around the model's next step, or ``None``.

        Args:
            phase: ``"training"``, ``"validation"`` or ``"testing"``.
        """
        return None

    # Training.

    @hookspec
    def on_training_start(self) -> None:
        """Perform any necessary actions when training starts; the checkpoint is loaded."""

    @hookspec
    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Called when an epoch begins, but not when a resumed run goes on inside one.

        Args:
            state: the position of the run.
        """

    @unique("training_batch")
    def process_training_batch(self, batch: Any, state: TrainingState) -> Any:
        """Process the training batch, prior to the model's ``train_step``.

        Args:
            batch: what the dataset's loader returned.
            state: the position of the run.

        Returns:
            The batch that the model gets.
        """
        return batch

    @hookspec
    def on_training_batch_start(self, state: TrainingState) -> None:
        """Called after ``process_training_batch``, before the model's ``train_step``.

        Args:
            state: the position of the run.
        """

    @hookspec
    def on_before_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Called when the gradients are complete and unscaled, but not yet clipped.

        Args:
            optimizer: about to take a step.
            state: the position of the run.
        """

    @hookspec
    def on_after_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Called when an optimizer has really taken a step.

        Args:
            optimizer: its gradients are already reset.
            state: the position of the run.
        """

    @hookspec
    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Called after the model's ``train_step``.

        Args:
            outputs: what ``train_step`` returned.
            state: the position of the run.
        """

    @hookspec
    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        """Receive what the model logged; already on the host.

        Called every ``print_frequency`` steps with the means since the last call, and at the end
        of validation and testing with the means over all their batches.

        Args:
            metrics: values by name.
            state: the position of the run.
        """

    @unique("should_training_stop")
    def should_training_stop(self) -> bool:
        """Determine whether training should stop; asked after each batch and each validation.

        Returns:
            False if training should continue, true otherwise.
        """
        return False

    @hookspec
    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Called when an epoch is complete, before the model's method.

        Args:
            state: the position of the run; ``global_epoch`` is still the number of this epoch.
        """

    @hookspec
    def on_training_end(self) -> None:
        """Perform any necessary actions when training ends; the last checkpoint is saved."""

    # Validation.

    @hookspec
    def on_validation_start(self, validation_cycle: int) -> None:
        """Perform any necessary actions when validation starts.

        Args:
            validation_cycle: the validation cycle number, from 0.
        """

    @unique("validation_batch")
    def process_validation_batch(self, batch: Any, step: int) -> Any:
        """Process the validation batch, prior to the model's ``valid_step``.

        Args:
            batch: what the dataset's loader returned.
            step: the number of the batch, from 0.

        Returns:
            The batch that the model gets.
        """
        return batch

    @hookspec
    def on_validation_batch_end(self, outputs: Any, step: int) -> None:
        """Called after the model's ``valid_step``.

        Args:
            outputs: what ``valid_step`` returned.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_validation_end(self, validation_cycle: int) -> None:
        """Perform any necessary actions when validation ends.

        Args:
            validation_cycle: the validation cycle number, from 0.
        """

    # Testing.

    @hookspec
    def on_testing_start(self) -> None:
        """Perform any actions when testing starts."""

    @unique("testing_batch")
    def process_testing_batch(self, batch: Any, step: int) -> Any:
        """Process the testing batch, prior to the model's ``test_step``.

        Args:
            batch: what the dataset's loader returned.
            step: the number of the batch, from 0.

        Returns:
            The batch that the model gets.
        """
        return batch

    @hookspec
    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        """Called after the model's ``test_step``.

        Args:
            outputs: what ``test_step`` returned.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_testing_end(self) -> None:
        """Perform any actions when testing ends."""

    # Checkpoints, failure, the end.

    @hookspec
    def on_checkpoint_saved(self, path: "Path", state: TrainingState) -> None:
        """Called when a checkpoint is complete and durable; in the process with rank 0.

        With ``async_checkpoints`` that is at the next save, or at the end of training.

        Args:
            path: the file.
            state: the position of the run when it was saved.
        """

    @hookspec
    def on_checkpoint_loaded(self, path: "Path", state: TrainingState) -> None:
        """Called when everything has been restored from a checkpoint.

        Args:
            path: the file.
            state: the position of the run.
        """

    @hookspec
    def on_exception(self, error: BaseException, state: TrainingState) -> None:
        """Called when a run fails, before it is torn down; errors in here are only logged.

        Args:
            error: what ``fit`` or ``test`` is going to raise.
            state: the position of the run.
        """

    @hookspec
    def teardown(self) -> None:
        """Release what ``setup`` acquired.

        Called at the end of every run, in reverse order, also when the run has failed.
        """


@dataclasses.dataclass(frozen=True)
class HookInfo:
    """What the rest of the framework needs to know of a hook.

    Attributes:
        name: its name.
        arguments: the names of its arguments.
        claim: the capability that implementing it claims; ``None`` for a hook of kind *all*.
        deprecations: what of it is going to be removed.
    """

    name: str
    arguments: tuple[str, ...]
    claim: str | None
    deprecations: tuple[Deprecation, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "HookInfo":
        """Return what there is to know of a method of :class:`PluginSpec`."""
        return cls(
            name=function.__name__,
            arguments=tuple(inspect.signature(function).parameters)[1:],
            claim=getattr(function, "helios_claim", None),
            deprecations=tuple(getattr(function, "helios_deprecations", ())),
        )


HOOKS: dict[str, HookInfo] = {
    name: HookInfo.of(function)
    for name, function in vars(PluginSpec).items()
    if not name.startswith("_")
}
"""The hooks by name, in the order of their declaration."""
