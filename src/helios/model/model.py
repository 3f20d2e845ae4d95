"""The base class of models: networks, losses and optimizers, and the steps that use them."""

import abc
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from helios.core import Placed, Registry, TrainingState
from helios.core.arguments import TakesArguments
from helios.errors import NoRunError
from helios.model import stateful
from helios.model.metrics import Metric
from helios.model.origin import Origin
from helios.model.prediction import predict
from helios.model.schedulers import Schedulers
from helios.model.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helios.trainer import Trainer

MODEL_REGISTRY = Registry("model")
"""The registry of models; empty at first."""


def create_model(type_name: str, *args: Any, **kwargs: Any) -> "Model":
    """Create a registered model.

    Args:
        type_name: the name of its class.
        args: positional arguments of the model.
        kwargs: keyword arguments of the model.
    """
    model: Model = MODEL_REGISTRY.get(type_name)(*args, **kwargs)
    return model


class Model(TakesArguments, Placed, abc.ABC):
    """Base class of models.

    A subclass writes :meth:`setup` and :meth:`train_step`; all other methods are optional.

    A checkpoint saves every attribute that has a state, such as a module, an optimizer or a
    scheduler, if its name does not begin with an underscore. You need not list them anywhere.

    Args:
        save_name: the name of the model in checkpoints.

    Example:
        .. code-block:: python

            class Classifier(helios.Model):
                def setup(self, fast_init: bool = False) -> None:
                    self.net = self.prepare(nn.Linear(64, 10))
                    self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

                def train_step(self, batch, state) -> None:
                    x, y = batch
                    loss = nn.functional.cross_entropy(self.net(x), y)
                    self.log("loss", loss)
                    self.optimize(loss, self.optimizer)
    """

    def __init__(self, save_name: str) -> None:
        super().__init__()
        self._save_name = save_name
        self._trainer: Trainer | None = None
        self._session: Session | None = None
        self._origin = Origin()
        self._own_metrics: dict[str, Any] = {}
        self._metrics = self._own_metrics
        self._loss_items: dict[str, torch.Tensor | None] = {}
        self._running_losses: dict[str, torch.Tensor] = {}
        self._val_scores: dict[str, Any] = {}
        self._test_scores: dict[str, Any] = {}

    @property
    def save_name(self) -> str:
        """The name of the model in checkpoints."""
        return self._save_name

    def rename(self, save_name: str) -> None:
        """Change the name of the model in checkpoints, before a run saves or restores one."""
        self._save_name = save_name

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest results of validation or testing, by name.

        After the last batch of a validation, the trainer enters the means of the values that
        :meth:`log` collected, so :meth:`on_validation_end` finds them here. It then enters the
        values that :meth:`on_validation_end` logged, and calls :meth:`have_metrics_improved`. The
        model may enter values of its own, such as the best result so far. Checkpoints save all
        entries, so they must be plain values.
        """
        return self._metrics

    @property
    def session(self) -> Session:
        """The session of the running ``fit`` or ``test``.

        The trainer sets it before ``setup()``, and removes it at the end of the run.

        Raises:
            NoRunError: no trainer runs the model.
        """
        if self._session is None:
            raise NoRunError(
                f"{type(self).__name__} is not running: call prepare(), log() and optimize() in"
                " setup() or later, while a trainer's fit() or test() runs the model."
            )
        return self._session

    @session.setter
    def session(self, session: Session | None) -> None:
        if not isinstance(session, Session | None):
            raise TypeError(
                f"the trainer sets {type(self).__name__}.session for each run, and you assigned a"
                f" {type(session).__name__}: give your own attribute another name."
            )
        ended, self._session = self._session, session
        if ended is not None:
            self._origin.end(self, ended.changes, ended.modes, is_training=ended.is_training)
        if session is not None:
            self._origin.begin(self, is_training=session.is_training)
            self._loss_items = {}
            self._running_losses = session.running_losses
        if session is not None and session.is_training:
            self._metrics = dict(self._own_metrics)  # without results of an earlier run
            self._val_scores, self._test_scores = {}, {}

    def networks(self) -> "Iterator[tuple[str, nn.Module]]":
        """Iterate over pairs of an attribute's name and the unwrapped network in it."""
        for name, part in stateful.stateful_attributes(self):
            if isinstance(part, nn.Module):
                yield name, part

    @property
    def trainer(self) -> "Trainer":
        """The trainer of the newest run.

        Raises:
            AssertionError: no run has started yet.
        """
        assert self._trainer is not None, "trainer is known once fit() or test() has started"
        return self._trainer

    @trainer.setter
    def trainer(self, value: "Trainer") -> None:
        self._trainer = value

    # The helpers of a step.

    def prepare(self, module: nn.Module, *, compile: bool = False) -> nn.Module:  # noqa: A002 - torch's name for it
        """Move a network to the device, and let the plug-ins change or wrap it.

        Args:
            module: a network. Call this method before you create the network's optimizer.
            compile: ``True`` to wrap it in ``torch.compile`` too, which does not change its state.

        Returns:
            The module to train: ``module``, or a wrapper around it.
        """
        return self.session.prepare(module, self.device, compile=compile)

    def log(
        self,
        name: str,
        value: torch.Tensor | float | Metric,
        weight: torch.Tensor | float | None = None,
    ) -> None:
        """Log a value; loggers receive the weighted mean of the values since their last call.

        Loggers receive training values every ``print_frequency`` steps, or at the end of each
        epoch without a ``print_frequency``. They receive the rest when training is complete. They
        receive the values of a validation or a test at its end, and those that are logged in
        ``on_training_epoch_end`` with that epoch. Tensors stay on their device until then.

        A metric of torchmetrics may be logged instead of a number. The model updates it; at the
        moments above, the trainer computes it, resets it, and hands out its value. Checkpoints
        save its state.

        Args:
            name: the name of the quantity.
            value: a number, a tensor with one element, or a metric of torchmetrics.
            weight: the weight of the value in the mean, such as the number of tokens or pixels
                that it is a mean of. By default, the number of samples that the loader put into
                the current batch, or 1 outside of a batch.
        """
        (self._session or self.session).log(name, value, weight)

    def optimize(
        self,
        loss: torch.Tensor,
        optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...],
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        weight: float | torch.Tensor | None = None,
        retain_graph: bool = False,
        scheduler: Schedulers | None = None,
    ) -> bool:
        """Run the backward pass, and take a step after the last batch that the step accumulates.

        A step uses the gradients of the losses that were given for its optimizer. The parameters
        of other optimizers keep the gradients that they had. After the step, the gradients of the
        optimizer are set to ``None``. With ``Trainer(precision="fp16")``, the loss is scaled, and
        a step whose gradients overflow is skipped.

        An optimizer that got a loss in a window, but none in its last batch, takes its step at the
        end of the window.

        Args:
            loss: the mean loss of the batch; divided by the number of accumulated batches.
            optimizer: the optimizer that takes the step, or several that step on this loss.
            clip_norm: the largest total norm of the gradients of all given optimizers together.
            clip_value: the largest absolute value of a gradient; applied before ``clip_norm``.
            weight: the number of samples, tokens or pixels that ``loss`` is the mean of. The
                step then uses the mean over all of them in the window: the sum of ``weight *
                loss``, divided by the sum of the weights.
            retain_graph: ``True`` to keep the graph for the backward pass of another loss.
            scheduler: the scheduler that advances after each step of the optimizer, or several.

        Returns:
            ``True`` if a step was taken.

        Raises:
            ConfigurationError: the optimizer takes its steps with a closure, as LBFGS does.
        """
        session = self._session or self.session  # the property raises an error without a run
        if scheduler is not None:
            session.schedule(optimizer, scheduler)
        return session.optimize(
            loss,
            optimizer,
            clip_norm=clip_norm,
            clip_value=clip_value,
            weight=weight,
            retain_graph=retain_graph,
        )

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all stateful attributes by name. Called to save a checkpoint."""
        return stateful.gather(self)

    def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
        """Restore what :meth:`state_dict` returned.

        Args:
            state_dict: the saved state.
            fast_init: ``True`` to restore only the networks, because the model will not be trained.
        """
        weights = (nn.Module, stateful.ParameterState)
        regroup = None if self._session is None else self._session.changes.regroup
        stateful.scatter(self, state_dict, weights if fast_init else None, regroup)

    def trained_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the state to publish after training; empty by default. Only users call it."""
        return {}

    def load_for_testing(self) -> None:
        """Load weights. Called when ``test()`` finds no checkpoint."""

    # The hooks of a run, in order.

    @abc.abstractmethod
    def setup(self, fast_init: bool = False) -> None:
        """Create networks, losses and optimizers.

        Args:
            fast_init: ``True`` if the model will only be tested, so that it can skip everything
                that only training needs.
        """

    def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
        """Return the name of a checkpoint, without its suffix, with additions of the model."""
        return chkpt_name

    def append_to_banner(self, banner: str) -> str:
        """Return the text printed when a run starts, with additions of the model."""
        return banner

    def train(self) -> None:
        """Switch to training mode; by default, each module gets the mode that it had in training.

        A module that ``setup()`` has switched to evaluation mode, such as a frozen backbone, stays
        in evaluation mode.
        """
        if self._session is not None:
            self._session.modes.train()
            return
        for _, network in self.networks():
            network.train()

    def eval(self) -> None:
        """Switch to evaluation mode; calls ``eval()`` of all networks by default."""
        if self._session is not None:
            self._session.modes.eval()
            return
        for _, network in self.networks():
            network.eval()

    def on_training_start(self) -> None:
        """Called once, before the first batch."""

    def on_training_epoch_start(self, current_epoch: int) -> None:
        """Called when an epoch begins, but not when a run resumes inside one."""

    def on_training_batch_start(self, state: TrainingState) -> None:
        """Called before each training step; clears the table of losses by default."""
        self._loss_items.clear()

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        """Train on a batch; ``on_training_batch_end`` hooks receive the returned value."""

    def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
        """Called after each training step; adds the losses to their running sums by default.

        Args:
            state: the progress of the run.
            should_log: ``True`` at multiples of ``print_frequency``, when loggers are called.
        """
        for name, loss in self._loss_items.items():
            if loss is not None:
                loss = loss.detach()  # kept on its device: a read would wait for the GPU
                running = self._running_losses.get(name)
                self._running_losses[name] = loss if running is None else running + loss

    def on_training_epoch_end(self, current_epoch: int) -> None:
        """Called when an epoch is complete, after its validation."""

    def on_training_end(self) -> None:
        """Called once, after the last batch or after a stop."""

    def should_training_stop(self) -> bool:
        """Return whether to stop training now. Called after each batch and each validation."""
        return False

    def on_validation_start(self, validation_cycle: int) -> None:
        """Called before the first validation batch; clears the validation scores by default."""
        self._val_scores.clear()

    def on_validation_batch_start(self, step: int) -> None:
        """Called before each validation step."""

    def valid_step(self, batch: Any, step: int) -> Any:
        """Validate on a batch, without gradients."""

    def on_validation_batch_end(self, step: int) -> None:
        """Called after each validation step."""

    def on_validation_end(self, validation_cycle: int) -> None:
        """Called after the last validation batch; clears the running losses by default."""
        self._running_losses.clear()

    def have_metrics_improved(self) -> bool:
        """Return whether the newest validation is the best so far.

        Early stopping counts the validations that are not.
        """
        return True

    def should_advance_dataset_phase(self) -> bool:
        """Return whether to switch to the next training set. Called at the end of an epoch."""
        return False

    def on_testing_start(self) -> None:
        """Called before the first test batch; clears the test scores by default."""
        self._test_scores.clear()

    def on_testing_batch_start(self, step: int) -> None:
        """Called before each test step."""

    def test_step(self, batch: Any, step: int) -> Any:
        """Test on a batch, without gradients."""

    def on_testing_batch_end(self, step: int) -> None:
        """Called after each test step."""

    def on_testing_end(self) -> None:
        """Called after the last test batch."""

    def predict_step(self, batch: Any, step: int) -> Any:
        """Return the predictions for a batch, without gradients.

        By default, the outputs of the model's network for the batch, or for its first part.
        """
        return predict(self, batch)


def overrides(model: Model, method: str) -> bool:
    """Return whether a model has a method of its own instead of the default of :class:`Model`."""
    own = getattr(type(model), method) is not getattr(Model, method)
    return own or method in vars(model)
