"""Fine-tuning: a pretrained backbone that is frozen for one epoch, and early stopping."""

import functools
from typing import Any

import common
import torch
from digits import create_network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import helios
from helios.core import rng

EPOCHS = 30  # at most: early stopping ends the run
PATIENCE = 2
BATCH_SIZE = 32
TRAIN_SIZE, VALID_SIZE = 320, 200


def create_datasets() -> tuple[TensorDataset, TensorDataset]:
    """Create the training set and the validation set, with the digits 5 to 9."""
    images, labels = (tensor[common.digits()[1] >= 5] for tensor in common.digits())
    end = TRAIN_SIZE + VALID_SIZE
    train = TensorDataset(images[:TRAIN_SIZE], labels[:TRAIN_SIZE])
    return train, TensorDataset(images[TRAIN_SIZE:end], labels[TRAIN_SIZE:end])


@functools.cache
def pretrain() -> dict[str, torch.Tensor]:
    """Train a network on the digits 0 to 4, and return its state."""
    images, labels = (tensor[common.digits()[1] < 5] for tensor in common.digits())
    with torch.random.fork_rng(devices=[]):  # keeps the random numbers of the run
        torch.manual_seed(0)
        network = create_network()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(5):
            cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


def create_pretrained_network() -> nn.Sequential:
    """Create a network with a pretrained, frozen backbone and a new head."""
    network = create_network()
    network.load_state_dict(pretrain())
    network[-1] = nn.Linear(network[-1].in_features, 10)
    network[:-1].requires_grad_(False)
    return network


class Digits(helios.DataModule):
    """The digits 5 to 9."""

    def setup(self) -> None:
        """Create the training set and the validation set."""
        train, valid = create_datasets()
        params = {"batch_size": BATCH_SIZE, "shuffle": True}
        self._train_dataset = self._create_dataset(train, params)
        self._valid_dataset = self._create_dataset(valid, {"batch_size": VALID_SIZE})


class Classifier(helios.Model):
    """Trains the head, and from the second epoch on, the backbone too."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.network = self.prepare(create_pretrained_network())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-3)

    def on_training_epoch_start(self, current_epoch: int) -> None:
        """Freeze the backbone's statistics in the first epoch; unfreeze it in the second."""
        if current_epoch == 0:
            self.network[:-1].eval()
        elif current_epoch == 1:
            self.network[:-1].requires_grad_(True).train()

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Train on a batch."""
        images, labels = batch
        self.optimize(cross_entropy(self.network(images), labels), self.optimizer)

    def valid_step(self, batch: list[torch.Tensor], step: int) -> None:
        """Log the accuracy."""
        self.log("valid/accuracy", common.accuracy(self.network, *batch))

    def have_metrics_improved(self) -> bool:
        """Return whether this validation is the best so far."""
        newest, best = self.metrics["valid/accuracy"], self.metrics.get("best", 0.0)
        self.metrics["best"] = max(best, newest)
        return newest > best


def run(accumulate: int = 1, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    settings = {"valid_frequency": 1, "early_stop_cycles": PATIENCE, "total_steps": EPOCHS}
    model = Classifier("fine-tune")
    common.fit(model, Digits(), accumulation_steps=accumulate, **settings, **arguments)
    return {"network": model.network}


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    network = create_pretrained_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    train, valid = create_datasets()
    best, stale = 0.0, 0
    for epoch in range(EPOCHS):
        network.train()
        if epoch == 0:
            network[:-1].eval()
        elif epoch == 1:
            network[:-1].requires_grad_(True)
        batches = common.loader(train, BATCH_SIZE, epoch)
        for batch, size, is_last in common.in_windows(batches, accumulate):
            (cross_entropy(network(batch[0]), batch[1]) / size).backward()
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
        network.eval()
        with torch.no_grad():
            newest = common.accuracy(network, *valid.tensors).item()
        best, stale = max(best, newest), 0 if newest > best else stale + 1
        if stale == PATIENCE:
            break
    return {"network": network}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the accuracy on the validation set."""
    _, valid = create_datasets()
    return f"accuracy: {common.accuracy(networks['network'].eval(), *valid.tensors):.3f}"


if __name__ == "__main__":
    common.main(run, plain, result)
