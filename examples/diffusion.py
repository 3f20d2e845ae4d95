"""Diffusion: a network learns to remove noise; helios-ema averages its weights."""

from typing import Any

import common
import torch
from helios_ema import EMAPlugin
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

import helios
from helios.core import rng

EPOCHS = 20
BATCH_SIZE = 64
DECAY = 0.9
NOISE_LEVELS = torch.linspace(1e-3, 0.3, 30)  # the variance of the noise that each level adds
KEPT = (1 - NOISE_LEVELS).cumprod(dim=0)  # the share of the variance that remains at a level


def create_points() -> torch.Tensor:
    """Return points around a circle of radius 1."""
    generator = torch.Generator().manual_seed(0)
    angles = 6.2832 * torch.rand(640, generator=generator)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    return circle + 0.05 * torch.randn(circle.shape, generator=generator)


class Denoiser(nn.Module):
    """Predicts the noise in points at given levels."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Embedding(len(NOISE_LEVELS), 32)
        self.points, self.head = nn.Linear(2, 32), nn.Linear(64, 2)
        self.inner = nn.Sequential(nn.SiLU(), nn.Linear(32, 64), nn.SiLU())

    def forward(self, points: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Return the noise."""
        return self.head(self.inner(self.points(points) + self.levels(levels)))


def compute_loss(network: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """Add noise to the points, and return the error of the predicted noise."""
    levels = torch.randint(len(NOISE_LEVELS), (len(points),))
    noise = torch.randn_like(points)
    kept = KEPT[levels].unsqueeze(1)
    noisy = kept.sqrt() * points + (1 - kept).sqrt() * noise
    return nn.functional.mse_loss(network(noisy, levels), noise)


class Points(helios.DataModule):
    """The points in random order."""

    def setup(self) -> None:
        """Create the training set."""
        params = {"batch_size": BATCH_SIZE, "shuffle": True}
        self._train_dataset = self._create_dataset(TensorDataset(create_points()), params)


class Diffusion(helios.Model):
    """Minimizes the error of the predicted noise."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.network = self.prepare(Denoiser())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Train on a batch."""
        self.optimize(compute_loss(self.network, *batch), self.optimizer)


def run(accumulate: int = 1, plugins: Any = (), **arguments: Any) -> common.Networks:
    """Train with Helios."""
    model, ema = Diffusion("diffusion"), EMAPlugin(DECAY)
    settings = {"total_steps": EPOCHS, "accumulation_steps": accumulate}
    common.fit(model, Points(), plugins=[ema, *plugins], **settings, **arguments)
    return {"network": model.network, "average": ema.averages["network"].module}


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    network = Denoiser()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for epoch in range(EPOCHS):
        batches = common.loader(TensorDataset(create_points()), BATCH_SIZE, epoch)
        for batch, size, is_last in common.in_windows(batches, accumulate):
            (compute_loss(network, *batch) / size).backward()
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(network)
    return {"network": network, "average": average.module}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Generate points with the averaged weights, and return their distance from the center."""
    points = torch.randn(1000, 2)
    for level in reversed(range(len(NOISE_LEVELS))):
        added, kept = NOISE_LEVELS[level], KEPT[level]
        noise = networks["average"](points, torch.full((1000,), level))
        points = (points - added / (1 - kept).sqrt() * noise) / (1 - added).sqrt()
        if level > 0:
            points = points + added.sqrt() * torch.randn_like(points)
    radius = points.norm(dim=1)
    return f"distance from the center: {radius.mean():.2f}, with deviation {radius.std():.2f}"


if __name__ == "__main__":
    common.main(run, plain, result)
