"""Test with the mean of the weights at the ends of the last epochs."""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from helios import Model, Plugin, TrainingState


class SWAPlugin(Plugin):
    """Averages weights and running statistics from ``epoch`` on, at a constant ``rate``."""

    changes_results = True

    def __init__(self, epoch: int = 1, rate: float = 0.02) -> None:
        super().__init__("swa")
        self.epoch = epoch
        self.rate = rate

    def setup(self) -> None:
        """Begin each run without averages."""
        self._averages: dict[str, AveragedModel] = {}
        self._saved: dict[str, Any] = {}

    def on_model_ready(self, model: Model) -> None:
        """Create the averages, with their state if the run resumes."""
        for name, network in model.networks():
            self._averages[name] = AveragedModel(network, use_buffers=True)
            if name in self._saved:
                self._averages[name].load_state_dict(self._saved[name])

    def on_gradients_ready(self, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Set the rate, whatever the schedule of the model says."""
        if state.global_epoch >= self.epoch:
            for group in optimizer.param_groups:
                group["lr"] = self.rate

    def on_training_epoch_end(self, state: TrainingState) -> None:
        """Average the weights of this moment."""
        if state.global_epoch >= self.epoch:
            for name, network in self.trainer.model.networks():
                self._averages[name].update_parameters(network)

    def on_testing_start(self) -> None:
        """Test the averages; checkpoints keep the trained weights, so training can resume."""
        for name, network in self.trainer.model.networks():
            if self._averages[name].n_averaged:
                network.load_state_dict(self._averages[name].module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {name: average.state_dict() for name, average in self._averages.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the averages until the networks exist."""
        self._saved = state_dict
