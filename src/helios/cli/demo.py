"""Handwritten digits: the example of the README."""

import pathlib

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

import helios


class Digits(helios.DataModule):
    """1,797 images of 8 x 8 pixels, always split in the same way."""

    def setup(self) -> None:
        """Create the three datasets."""
        images, labels = load_digits(return_X_y=True)
        pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        digits = TensorDataset(pixels, torch.tensor(labels))
        split = torch.Generator().manual_seed(0)
        train, valid, test = random_split(digits, [1197, 300, 300], split)
        params = helios.DataLoaderParams(batch_size=32, shuffle=True)
        self._train_dataset = self._create_dataset(train, params)
        self._valid_dataset = self._create_dataset(valid, {"batch_size": 100})
        self._test_dataset = self._create_dataset(test, {"batch_size": 100})


class Classifier(helios.Model):
    """A small convolutional network."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        network = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10)),
        )
        self.network = self.prepare(network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Take a step on the cross entropy."""
        images, labels = (tensor.to(self.device) for tensor in batch)
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("train/loss", loss)
        self.optimize(loss, self.optimizer)

    def valid_step(self, batch: list[torch.Tensor], step: int) -> None:
        """Log the share of digits that are recognised."""
        self.log("valid/accuracy", self.accuracy(batch))

    def test_step(self, batch: list[torch.Tensor], step: int) -> None:
        """Log the share of digits that are recognised."""
        self.log("test/accuracy", self.accuracy(batch))

    def accuracy(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Return the share of digits that are recognised."""
        images, labels = (tensor.to(self.device) for tensor in batch)
        hits: torch.Tensor = self.network(images).argmax(dim=1) == labels
        return hits.float().mean()


def run(run_root: pathlib.Path, epochs: int = 20) -> float:
    """Train, test, and return the accuracy on the test set."""
    trainer = helios.Trainer(
        total_steps=epochs,
        valid_frequency=1,
        chkpt_frequency=1,
        print_frequency=10,
        enable_progress_bar=True,
        run_root=run_root,
    )
    model, digits = Classifier("digits"), Digits()
    trainer.fit(model, digits)
    trainer.test(model, digits)
    accuracy: float = model.metrics["test/accuracy"]
    print(f"test accuracy: {accuracy:.4f}")
    return accuracy
