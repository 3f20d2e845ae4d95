"""A GAN: two optimizers, and a loss whose gradients reach the network of the other optimizer."""

from typing import Any

import common
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import TensorDataset

import helios
from helios.core import rng

EPOCHS = 5
BATCH_SIZE = 64
NOISE = 4


def create_points() -> torch.Tensor:
    """Return points around a circle of radius 2."""
    generator = torch.Generator().manual_seed(0)
    angles = 6.2832 * torch.rand(640, generator=generator)
    circle = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return circle + 0.1 * torch.randn(circle.shape, generator=generator)


def create_networks() -> tuple[nn.Module, nn.Module]:
    """Create generator and discriminator."""
    generator = nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    return generator, discriminator


def create_optimizers(
    generator: nn.Module, discriminator: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Create an optimizer for each network."""
    networks = (generator, discriminator)
    first, second = (torch.optim.Adam(n.parameters(), lr=3e-3, betas=(0.5, 0.99)) for n in networks)
    return first, second


def loss_of_discriminator(
    generator: nn.Module, discriminator: nn.Module, real: torch.Tensor, detach: bool
) -> torch.Tensor:
    """Return how badly the discriminator separates real points from generated ones.

    Without ``detach``, the gradients of this loss reach the generator too.
    """
    fake = generator(torch.randn(len(real), NOISE))
    if detach:
        fake = fake.detach()
    return softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()


def loss_of_generator(generator: nn.Module, discriminator: nn.Module, count: int) -> torch.Tensor:
    """Return how well the discriminator recognizes generated points."""
    return softplus(-discriminator(generator(torch.randn(count, NOISE)))).mean()


class Points(helios.DataModule):
    """The points in random order."""

    def setup(self) -> None:
        """Create the training set."""
        params = {"batch_size": BATCH_SIZE, "shuffle": True}
        self._train_dataset = self._create_dataset(TensorDataset(create_points()), params)


class GAN(helios.Model):
    """Trains the discriminator, and then the generator, on each batch."""

    def __init__(self, detach: bool) -> None:
        super().__init__("gan")
        self.detach = detach

    def setup(self, fast_init: bool = False) -> None:
        """Create networks and optimizers."""
        generator, discriminator = create_networks()
        self.generator, self.discriminator = self.prepare(generator), self.prepare(discriminator)
        self.optimizers = create_optimizers(self.generator, self.discriminator)

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Train on a batch. Each optimizer uses only the gradients of its own loss."""
        networks, (real,) = (self.generator, self.discriminator), batch
        loss = loss_of_discriminator(*networks, real, self.detach)
        self.optimize(loss, self.optimizers[1])
        self.optimize(loss_of_generator(*networks, len(real)), self.optimizers[0])


def run(accumulate: int = 1, detach: bool = True, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    model = GAN(detach)
    common.fit(model, Points(), total_steps=EPOCHS, accumulation_steps=accumulate, **arguments)
    return {"generator": model.generator, "discriminator": model.discriminator}


def plain(accumulate: int = 1, detach: bool = True) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    generator, discriminator = networks = create_networks()
    optimizers = create_optimizers(*networks)
    for epoch in range(EPOCHS):
        batches = common.loader(TensorDataset(create_points()), BATCH_SIZE, epoch)
        for (real,), size, is_last in common.in_windows(batches, accumulate):
            # inputs=...: the gradients of a loss reach one network, and leave the other one alone.
            loss = loss_of_discriminator(*networks, real, detach)
            (loss / size).backward(inputs=list(discriminator.parameters()))
            if is_last:
                optimizers[1].step()
                optimizers[1].zero_grad()
            loss = loss_of_generator(*networks, len(real))
            (loss / size).backward(inputs=list(generator.parameters()))
            if is_last:
                optimizers[0].step()
                optimizers[0].zero_grad()
    return {"generator": generator, "discriminator": discriminator}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the distance of generated points from the center; that of real points is 2."""
    radius = networks["generator"](torch.randn(1000, NOISE)).norm(dim=1)
    return f"distance from the center: {radius.mean():.2f}, with deviation {radius.std():.2f}"


if __name__ == "__main__":
    common.main(run, plain, result)
