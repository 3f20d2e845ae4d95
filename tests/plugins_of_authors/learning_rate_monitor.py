"""Log the learning rates of all optimizers."""

import torch

from helios import Plugin


class LearningRateMonitorPlugin(Plugin):
    """Logs the rate of each group, by the name of the optimizer in the model."""

    def __init__(self) -> None:
        super().__init__("learning-rate-monitor")

    def setup(self) -> None:
        """Do nothing; checkpoints hold logged values that nobody has read."""

    def on_after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the rates of the step, before the schedule of the model changes them."""
        attributes = vars(self.trainer.model).items()
        name = next((name for name, part in attributes if part is optimizer), "optimizer")
        for number, group in enumerate(optimizer.param_groups):
            self.log(f"{name}/{number}/lr", group["lr"])
