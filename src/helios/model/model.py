"""What is trained: networks, losses and optimizers, and the steps that use them."""

import abc
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from helios.core import Registry, RunFacts, TrainingState
from helios.model import stateful
from helios.model.metrics import MetricBuffer
from helios.model.precision import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class Model(RunFacts, abc.ABC):
    """Base class of models: write :meth:`setup` and :meth:`train_step`; the rest is optional.

    Attributes that do not begin with an underscore and have a state (modules, optimizers,
    schedulers) are saved in checkpoints and restored, without being listed anywhere.

    Args:
        save_name: names the checkpoints.

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
        self._metrics: dict[str, Any] = {}
        self._metrics_at_first: dict[str, Any] | None = None
        self._training_log = MetricBuffer()
        self._evaluation_log = MetricBuffer()
        self._evaluating = False
        self._precision = Precision("fp32", "cpu", self._name_of)
        self._loss_items: dict[str, torch.Tensor | None] = {}
        self._running_losses: dict[str, torch.Tensor] = {}
        self._optimizers: list[torch.optim.Optimizer] = []
        self._val_scores: dict[str, Any] = {}
        self._test_scores: dict[str, Any] = {}

    @property
    def save_name(self) -> str:
        """The name of the model in checkpoints."""
        return self._save_name

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest results of validation or testing by name.

        What :meth:`log` collected is entered at the end of a validation, just before
        :meth:`have_metrics_improved` is asked; other entries are the model's own, such as the best
        result so far. All are saved in checkpoints, so they must be plain.
        """
        return self._metrics

    def networks(self) -> "Iterator[tuple[str, nn.Module]]":
        """Iterate over pairs of attribute name and network, unwrapped."""
        for name, part in stateful.stateful_attributes(self):
            if isinstance(part, nn.Module):
                yield name, part

    def _forget_results(self) -> None:
        """Begin with the metrics that the model began with; training is not judged by another."""
        if self._metrics_at_first is None:
            self._metrics_at_first = dict(self._metrics)
        self._metrics.clear()
        self._metrics.update(self._metrics_at_first)

    def _begin(self) -> None:
        """Forget what an earlier run, perhaps one that failed, has logged and scaled."""
        self._precision = Precision(self.trainer.precision, self.device.type, self._name_of)
        self._training_log.clear()
        self._evaluation_log.clear()
        self._loss_items.clear()
        self._running_losses.clear()
        self._optimizers.clear()

    # The helpers of a step.

    def prepare(self, module: nn.Module, *, compile: bool = False) -> nn.Module:  # noqa: A002 - torch's name for it
        """Move a network to the device, and wrap it where a plug-in does parallelism.

        Args:
            module: a network, before its optimizer is created.
            compile: wrap it in ``torch.compile`` too, which leaves its state as it is.

        Returns:
            What to train: ``module``, or a wrapper around it.
        """
        prepare_module = self.trainer.hooks.prepare_module
        prepared: nn.Module
        if prepare_module is not None:
            prepared = prepare_module(module=module)
        else:
            prepared = module.to(self.device)
        if compile:
            # Not module.compile(), which skips PyTorch's own classes, such as Sequential. And not
            # dynamic: which code a shape gets would depend on the shapes that came before it, and
            # a resumed run comes by others.
            compiled: Any = torch.compile(prepared, dynamic=False)
            prepared = compiled
        return prepared

    def log(self, name: str, value: torch.Tensor | float) -> None:
        """Log a value; loggers receive the mean since they were last called.

        Training values are handed out every ``print_frequency`` steps, and dropped without one;
        values logged while validating or testing are handed out at its end. Tensors stay where
        they are until then.

        Args:
            name: what the value is.
            value: a number, or a tensor with one element.
        """
        if self._evaluating:
            self._evaluation_log.add(name, value)
        elif self.trainer.print_frequency is not None:
            self._training_log.add(name, value)

    def optimize(
        self,
        loss: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> bool:
        """Go backward, and take a step when all the batches that it accumulates have been seen.

        With ``Trainer(precision="fp16")`` the loss is scaled, and a step whose gradients have
        overflowed is left out.

        Args:
            loss: the mean loss of the batch; divided by the number of accumulated batches.
            optimizer: takes the step; its gradients are then set to ``None``.
            clip_norm: the largest total norm of the gradients.
            clip_value: the largest absolute value of a gradient; applied before ``clip_norm``.

        Returns:
            Whether a step was taken; a scheduler that counts steps goes on only then.
        """
        trainer, precision = self.trainer, self._precision
        if optimizer not in self._optimizers:
            self._optimizers.append(optimizer)
        with precision.outside:
            if trainer.accumulated_batches > 1:
                loss = loss / trainer.accumulated_batches
            scaler = precision.scaler(optimizer)
            if scaler is not None:
                loss = scaler.scale(loss)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if not trainer.is_optimizer_step:
                return False
            if scaler is not None:
                scaler.unscale_(optimizer)
            if trainer.hooks.on_before_optimizer_step is not None:
                trainer.hooks.on_before_optimizer_step(optimizer=optimizer, state=trainer.state)
            if clip_value is not None or clip_norm is not None:
                _clip(optimizer, clip_norm, clip_value)
            is_taken = precision.step(optimizer)
            optimizer.zero_grad()
            if is_taken and trainer.hooks.on_after_optimizer_step is not None:
                trainer.hooks.on_after_optimizer_step(optimizer=optimizer, state=trainer.state)
            return is_taken

    def _begin_window(self) -> None:
        """Drop the gradients that earlier steps have left behind; called before a step begins.

        The loss of a generator, for one, reaches its discriminator too. A checkpoint holds no
        gradients, so a run that went on from it would go on without.
        """
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad = None

    def _name_of(self, optimizer: torch.optim.Optimizer) -> str:
        """Return the name of the attribute that holds an optimizer, or ``""``."""
        named = stateful.stateful_attributes(self)
        return next((name for name, part in named if part is optimizer), "")

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all stateful attributes by name; called to save a checkpoint."""
        return stateful.gather(self)

    def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
        """Restore what :meth:`state_dict` returned.

        Args:
            state_dict: the saved state.
            fast_init: restore the networks only, because the model will not be trained.
        """
        weights = (nn.Module, stateful.ParameterState)
        stateful.scatter(self, state_dict, only=weights if fast_init else None)

    def trained_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what a finished model ships; empty by default. Called by users only."""
        return {}

    def load_for_testing(self) -> None:
        """Load weights when ``test()`` finds no checkpoint."""

    # The course of a run, in order.

    @abc.abstractmethod
    def setup(self, fast_init: bool = False) -> None:
        """Create networks, losses and optimizers.

        Args:
            fast_init: the model is going to be tested, so what only training needs can be left
                out.
        """

    def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
        """Return the name of a checkpoint, without suffix, with the model's own additions."""
        return chkpt_name

    def append_to_banner(self, banner: str) -> str:
        """Return the text that is shown when a run starts, with the model's own additions."""
        return banner

    def train(self) -> None:
        """Switch to training: the networks' ``train()`` by default."""
        for _, network in self.networks():
            network.train()

    def eval(self) -> None:
        """Switch to evaluation: the networks' ``eval()`` by default."""
        for _, network in self.networks():
            network.eval()

    def on_training_start(self) -> None:
        """Called once, before the first batch."""

    def on_training_epoch_start(self, current_epoch: int) -> None:
        """Called when an epoch begins, but not when a resumed run goes on inside one."""

    def on_training_batch_start(self, state: TrainingState) -> None:
        """Called before each training step; empties the table of losses by default."""
        self._loss_items.clear()

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        """Train on a batch; whatever is returned is handed to ``on_training_batch_end`` hooks."""

    def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
        """Called after each training step; sums up the table of losses by default.

        Args:
            state: the position of the run.
            should_log: this step is one at which loggers are called.
        """
        for name, loss in self._loss_items.items():
            if loss is not None:
                loss = loss.detach()  # stays on its device: reading it would wait for the GPU
                running = self._running_losses.get(name)
                self._running_losses[name] = loss if running is None else running + loss

    def on_training_epoch_end(self, current_epoch: int) -> None:
        """Called when an epoch is complete, after its validation."""

    def on_training_end(self) -> None:
        """Called once, after the last batch or when training was stopped."""

    def should_training_stop(self) -> bool:
        """Whether to end training now; asked after each batch and each validation."""
        return False

    def on_validation_start(self, validation_cycle: int) -> None:
        """Called before the first validation batch; empties the validation scores by default."""
        self._val_scores.clear()

    def on_validation_batch_start(self, step: int) -> None:
        """Called before each validation step."""

    def valid_step(self, batch: Any, step: int) -> Any:
        """Validate on a batch, without gradients."""

    def on_validation_batch_end(self, step: int) -> None:
        """Called after each validation step."""

    def on_validation_end(self, validation_cycle: int) -> None:
        """Called after the last validation batch; empties the running losses by default."""
        self._running_losses.clear()

    def have_metrics_improved(self) -> bool:
        """Whether the newest validation is the best so far; early stopping counts the others."""
        return True

    def should_advance_dataset_phase(self) -> bool:
        """Whether to go on to the next training set; asked where an epoch ends."""
        return False

    def on_testing_start(self) -> None:
        """Called before the first test batch; empties the test scores by default."""
        self._test_scores.clear()

    def on_testing_batch_start(self, step: int) -> None:
        """Called before each test step."""

    def test_step(self, batch: Any, step: int) -> Any:
        """Test on a batch, without gradients."""

    def on_testing_batch_end(self, step: int) -> None:
        """Called after each test step."""

    def on_testing_end(self) -> None:
        """Called after the last test batch."""


def _clip(
    optimizer: torch.optim.Optimizer, clip_norm: float | None, clip_value: float | None
) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if clip_value is not None:
        nn.utils.clip_grad_value_(parameters, clip_value)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
