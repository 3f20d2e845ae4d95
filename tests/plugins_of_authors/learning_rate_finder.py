"""Find the learning rate at which the loss falls fastest, before training."""

import copy
from typing import Any

import torch

from helios import CUDAPlugin, Plugin, Trainer, TrainingState


class RangeTest(Plugin):
    """Raises the rate with each step, and records the losses."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__("range-test")
        self._rates = rates
        self.losses: list[torch.Tensor] = []

    def setup(self) -> None:
        """Do nothing; the plug-in has only one run."""

    def on_before_backward(
        self, loss: torch.Tensor, optimizer: torch.optim.Optimizer, state: TrainingState
    ) -> None:
        """Record the loss before this step, and set the rate of the step."""
        self.losses.append(loss.detach())
        for group in optimizer.param_groups:
            group["lr"] = self._rates[state.current_iteration - 1]


class LearningRateFinderPlugin(Plugin):
    """Trains copies with rising rates, and sets ``model.learning_rate``, which ``setup`` reads."""

    changes_results = True

    def __init__(self, lowest: float = 1e-3, steps: int = 12) -> None:
        super().__init__("learning-rate-finder")
        self.rates = [lowest * 2**step for step in range(steps)]

    def setup(self) -> None:
        """Do nothing; a resumed run finds the same rate, because the trial has the same seed."""

    def configure_trainer(self, trainer: Trainer) -> None:
        """Store the trainer, which knows the data when the model is configured."""
        self._owner = trainer

    def configure_model(self, model: Any) -> None:
        """Find the rate, and give it to the model."""
        test, on_cpu = RangeTest(self.rates), self._owner.device.type == "cpu"
        plugins = [test] if on_cpu else [test, CUDAPlugin()]
        arguments: Any = {"plugins": plugins, "autoload": False, "print_banner": False}
        trial = Trainer("", "iteration", len(self.rates), use_cpu=on_cpu, **arguments)
        trial.fit(*copy.deepcopy((model, self._owner.datamodule)))
        losses = torch.stack(test.losses)
        falls = losses[:-2] - losses[2:]  # of two steps, because batches differ
        model.learning_rate = self.rates[int(falls.argmax())]
