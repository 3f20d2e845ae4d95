"""A plug-in that averages the weights of the last epochs (stochastic weight averaging)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.swa_utils import get_swa_multi_avg_fn

from helios.core import TrainingState, TrainingUnit, rules
from helios.errors import ConfigurationError
from helios.plugins.plugin import Plugin


class SWAPlugin(Plugin):
    """Validates and tests with the mean of the weights at the ends of the last epochs.

    From epoch ``start`` on, the plug-in adds the weights of each network to their mean at the end
    of each epoch. The running statistics of batch normalization are averaged, too, instead of a
    further pass over the training set. Validations, tests and predictions then use the means, and
    training continues with the trained weights. Checkpoints contain both.

    Args:
        start: the first epoch to average, from 0; or a fraction of the training.
        lr: the learning rate of all optimizers from then on, whatever a schedule says; ``None`` to
            keep the schedule.

    Raises:
        ConfigurationError: an argument is invalid, or the length of the training is unknown.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("swa", {"start": 0.75, "lr": 0.01})])
            helios.checkpoints.export.export_weights(path, "swa.safetensors", averages="swa")
    """

    autoload = False
    changes_results = True
    exclusives = ("weights-of-evaluations",)
    summary = "validation and testing use means of the weights of the last epochs"

    def __init__(self, start: int | float = 0.75, lr: float | None = None) -> None:
        super().__init__("swa")
        rules.check({"start": start, "lr": lr}, _RULES, "swa")
        self.start = start
        self.lr = lr
        self._means: dict[str, dict[str, Tensor]] = {}
        self._counts: dict[str, int] = {}
        self._averaged = -1
        self._first = 0
        self._trained: list[tuple[Tensor, Tensor]] = []

    def setup(self) -> None:
        """Begin each run without means."""
        self._means, self._counts, self._averaged, self._trained = {}, {}, -1, []

    def averages(self, name: str) -> dict[str, Tensor]:
        """Return the state of a network with the means in place of the trained weights.

        Args:
            name: the attribute of the model that holds the network.
        """
        network = dict(self.trainer.model.networks())[name]
        means = {key: _whole(mean) for key, mean in self._means.get(name, {}).items()}
        return {key: means.get(key, value) for key, value in network.state_dict().items()}

    def on_training_start(self) -> None:
        """Find the first epoch to average."""
        self._first = self.start if isinstance(self.start, int) else self._epoch(self.start)

    def on_gradients_ready(self, optimizer: Optimizer, state: TrainingState) -> None:
        """Set the rate, whatever a schedule says."""
        if self.lr is not None and state.global_epoch >= self._first:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(self.lr)
                else:
                    group["lr"] = self.lr

    def on_validation_start(self) -> None:
        """Exchange the weights for the means."""
        state, session = self.trainer.state, self.trainer.model.session
        if session.is_training and state.dataset_iter == session.batches_per_epoch():
            self._average(state.global_epoch)  # the validation of an epoch comes before its end
        self._exchange()

    def on_validation_end(self) -> None:
        """Restore the trained weights."""
        self._restore()

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Add the weights of this epoch."""
        self._average(state.global_epoch)

    def on_testing_start(self) -> None:
        """Exchange the weights for the means."""
        self._exchange()

    def on_testing_end(self) -> None:
        """Restore the trained weights."""
        self._restore()

    def on_prediction_start(self) -> None:
        """Exchange the weights for the means."""
        self._exchange()

    def on_prediction_end(self) -> None:
        """Restore the trained weights."""
        self._restore()

    def teardown(self) -> None:
        """Restore the trained weights if a validation or a test was interrupted."""
        self._restore()

    def state_dict(self) -> dict[str, Any]:
        """Return the means by network, the numbers of epochs in them, and the newest epoch."""
        networks = {
            name: {f"module.{key}": tensor for key, tensor in means.items()}
            for name, means in self._means.items()
        }
        return {"networks": networks, "counts": dict(self._counts), "averaged": self._averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._means = {
            name: {key.removeprefix("module."): tensor.to(self.device) for key, tensor in n.items()}
            for name, n in state_dict["networks"].items()
        }
        self._counts, self._averaged = dict(state_dict["counts"]), state_dict["averaged"]

    @torch.no_grad()
    def _average(self, epoch: int) -> None:
        if epoch < self._first or epoch <= self._averaged:
            return
        for name, network in self.trainer.model.networks():
            present = dict(_averaged_tensors(network))
            if not present:
                continue  # losses and metrics are also modules
            means = self._means.setdefault(name, {})
            self._spread(means, present)
            if present.keys() != means.keys():  # the network is new, or has changed its form
                means.clear()
                self._counts[name] = 0
            if means:
                weights = [present[key].to(mean.dtype) for key, mean in means.items()]
                update = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                update(list(means.values()), weights, self._counts[name])
            for key in [key for key in present if key not in means]:
                means[key] = present[key].to(_wide(present[key]), copy=True)
            self._counts[name] = self._counts.get(name, 0) + 1
        self._averaged = epoch

    @torch.no_grad()
    def _exchange(self) -> None:
        # Networks may share weights, so keep all of them before the first one changes.
        present = {n: dict(_averaged_tensors(net)) for n, net in self.trainer.model.networks()}
        for name, means in self._means.items():
            self._spread(means, present.get(name, {}))
        pairs = [
            (present[name][key], mean)
            for name, means in self._means.items()
            for key, mean in means.items()
            if key in present.get(name, {})
        ]
        self._trained = [(tensor, tensor.clone()) for tensor, _ in pairs]
        for tensor, mean in pairs:
            tensor.copy_(mean)

    def _spread(self, means: dict[str, Tensor], present: dict[str, Tensor]) -> None:
        """Divide restored means between the processes, as their network is divided."""
        for key, mean in means.items():
            tensor: Any = present.get(key)
            if hasattr(tensor, "full_tensor") and not hasattr(mean, "full_tensor"):
                from torch.distributed.tensor import distribute_tensor

                means[key] = distribute_tensor(mean, tensor.device_mesh, tensor.placements)

    @torch.no_grad()
    def _restore(self) -> None:
        for tensor, trained in self._trained:
            tensor.copy_(trained)
        self._trained = []

    def _epoch(self, fraction: float) -> int:
        trainer = self.trainer
        epochs: float = trainer.total_steps
        if trainer.train_unit is TrainingUnit.ITERATION:
            per_epoch = trainer.steps_per_epoch
            epochs = epochs / per_epoch if math.isfinite(per_epoch) else math.inf
        if not math.isfinite(epochs):
            raise ConfigurationError(
                f"start={fraction} of swa is a fraction of the training, but the number of epochs"
                " in this run is unknown: write the number of the first epoch to average."
            )
        return int(fraction * epochs)


def _averaged_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors that have a mean: no counters, masks or lazy parameters."""
    for name, parameter in network.named_parameters():
        if not is_lazy(parameter) and parameter.is_floating_point():
            yield name, parameter.detach()
    for path, layer in network.named_modules():
        if isinstance(layer, _NormBase):
            for attribute in ("running_mean", "running_var"):
                tensor = getattr(layer, attribute)
                if tensor is not None and not is_lazy(tensor):
                    yield f"{path}.{attribute}".removeprefix("."), tensor.detach()


def _whole(mean: Any) -> Tensor:
    """Return a mean as a plain tensor, also if several processes hold parts of it."""
    whole: Tensor = mean.full_tensor() if hasattr(mean, "full_tensor") else mean
    return whole


def _wide(tensor: Tensor) -> torch.dtype:
    """Return the type of a mean: at least float32, because small changes vanish in 16 bits."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _start(value: Any) -> str | None:
    is_epoch = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_fraction = isinstance(value, float) and 0 <= value < 1
    remedy = "write the number of an epoch, from 0, or a fraction of the training below 1."
    return None if is_epoch or is_fraction else remedy


def _rate(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and 0 <= value < math.inf else "write a learning rate, or None."


_RULES: dict[str, rules.Rule] = {"start": _start, "lr": rules.optional(_rate)}
