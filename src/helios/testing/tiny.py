"""A tiny model and its data, for hundreds of runs per minute.

The network has dropout, so each step draws random numbers. The optimizer has momentum and the
scheduler has a counter, so a test notices a state that was not restored.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataLoaderParams, DataModule, Model, TrainingState


class TinyModel(Model):
    """A classifier with 4 input features and 2 classes.

    Args:
        save_name: the name of the checkpoints.
    """

    def __init__(self, save_name: str = "tiny") -> None:
        super().__init__(save_name)

    def setup(self, fast_init: bool = False) -> None:
        """Create the network, the optimizer and the scheduler."""
        self.net = self.prepare(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.9)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        """Optimize the cross entropy, and return it."""
        features, labels = batch
        loss = nn.functional.cross_entropy(self.net(features), labels)
        self.log("loss", loss)
        if self.optimize(loss, self.optimizer):
            self.scheduler.step()
        return loss.detach()

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        """Log and return the accuracy."""
        features, labels = batch
        accuracy: torch.Tensor = (self.net(features).argmax(dim=1) == labels).float().mean()
        self.log("accuracy", accuracy)
        return accuracy

    def test_step(self, batch: Any, step: int) -> torch.Tensor:
        """Log and return the accuracy."""
        return self.valid_step(batch, step)


class TinyDataModule(DataModule):
    """Random features with labels that a model can learn.

    Args:
        train_size: the number of training samples.
        batch_size: the number of samples per training batch; by default, the last batch has 2.
        shuffle: if True, each epoch has a new order.
        valid_size: the number of validation samples, and of test samples; 0 disables both.
    """

    def __init__(
        self, train_size: int = 22, batch_size: int = 4, shuffle: bool = True, valid_size: int = 8
    ) -> None:
        super().__init__()
        self._train_size = train_size
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._valid_size = valid_size

    def setup(self) -> None:
        """Create the same datasets at each call."""
        params = DataLoaderParams(batch_size=self._batch_size, shuffle=self._shuffle)
        self._train_dataset = self._create_dataset(_samples(self._train_size, seed=1), params)
        if self._valid_size:
            self._add_valid_dataset(_samples(self._valid_size, seed=2), {"batch_size": 3})
            self._add_test_dataset(_samples(self._valid_size, seed=3), {"batch_size": 3})


def _samples(count: int, seed: int) -> TensorDataset:
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(features, (features.sum(dim=1) > 0).long())
