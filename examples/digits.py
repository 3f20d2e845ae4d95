"""A classifier of handwritten digits, with augmentation and a scheduler."""

from typing import Any

import common
import torch
from torch import nn
from torch.utils.data import Dataset

import helios
from helios.core import rng

EPOCHS = 4
BATCH_SIZE = 64
TRAIN_SIZE = 640


class Shifted(Dataset[Any]):
    """Training images, each moved by up to one pixel in a random direction."""

    def __init__(self) -> None:
        images, labels = common.digits()
        self.images, self.labels = images[:TRAIN_SIZE], labels[:TRAIN_SIZE]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = torch.randint(-1, 2, (2,)).tolist()
        return self.images[index].roll((rows, columns), (1, 2)), self.labels[index]


def create_network() -> nn.Sequential:
    """Create a small convolutional network."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 4 * 4, 10)),
    )


class Digits(helios.DataModule):
    """The training images in random order."""

    def setup(self) -> None:
        """Create the training set."""
        params = {"batch_size": BATCH_SIZE, "shuffle": True}
        self._train_dataset = self._create_dataset(Shifted(), params)


class Classifier(helios.Model):
    """Minimizes the cross entropy."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network, optimizer and scheduler."""
        self.network = self.prepare(create_network())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Train on a batch."""
        images, labels = batch
        self.optimize(nn.functional.cross_entropy(self.network(images), labels), self.optimizer)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        """Reduce the learning rate."""
        self.scheduler.step()


def run(accumulate: int = 1, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    model = Classifier("digits")
    common.fit(model, Digits(), total_steps=EPOCHS, accumulation_steps=accumulate, **arguments)
    return {"network": model.network}


class Seeded(Shifted):
    """The same images; seeds the generators before each sample, as docs/data.md describes."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with rng.preserved_cpu_rng_state():
            rng.reseed_cpu_rngs(rng.derive_seed(common.SEED, self.epoch, index))
            return super().__getitem__(index)


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    network = create_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        batches = common.loader(Seeded(epoch), BATCH_SIZE, epoch)
        for (images, labels), size, is_last in common.in_windows(batches, accumulate):
            (nn.functional.cross_entropy(network(images), labels) / size).backward()
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
        scheduler.step()
    return {"network": network}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the accuracy on the images that training has not used."""
    images, labels = common.digits()
    network = networks["network"].eval()
    return f"accuracy: {common.accuracy(network, images[TRAIN_SIZE:], labels[TRAIN_SIZE:]):.3f}"


if __name__ == "__main__":
    common.main(run, plain, result)
