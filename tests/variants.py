"""Variants of the tiny model and its data that let a plug-in set or see more."""

from typing import Any

import torch

from helios import DataLoaderParams
from helios.testing import TinyDataModule, TinyModel


class TinyModelWithRate(TinyModel):
    """A model whose ``setup`` reads its learning rate from an attribute."""

    learning_rate = 0.05

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate


class TinyModelWithLogits(TinyModel):
    """A model that returns the outputs of the network for each batch of an evaluation."""

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        super().valid_step(batch, step)
        logits: torch.Tensor = self.net(batch[0])
        return logits


class TinyDataWithSize(TinyDataModule):
    """Data whose ``setup`` reads the batch size from an attribute."""

    batch_size = 2

    def setup(self) -> None:
        super().setup()
        params = DataLoaderParams(batch_size=self.batch_size, shuffle=True)
        self._train_dataset = self._create_dataset(self.train_dataset, params)


class Scripted(TinyModel):
    """Validates with given results."""

    values = (0.1, 0.3, 0.2, 0.4)

    def valid_step(self, batch: Any, step: int) -> Any: ...

    def on_validation_end(self, validation_cycle: int) -> None:
        self.metrics["accuracy"] = self.values[validation_cycle]
