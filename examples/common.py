"""The parts that all examples share: data, the order of samples, accumulation, and comparison."""

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import helios
from helios.core import rng

SEED = rng.DEFAULT_SEED
CHARACTERS = "0123456789+=;"

Networks = dict[str, nn.Module]
"""Trained networks by name. Each example returns them from ``run()`` and from ``plain()``."""


# Helios.


def fit(model: helios.Model, data: helios.DataModule, **arguments: Any) -> helios.Trainer:
    """Train on the CPU, only with the plug-ins that are passed."""
    trainer = helios.Trainer(use_cpu=True, autoload=False, print_banner=False, **arguments)
    trainer.fit(model, data)
    return trainer


# The plain loop.


def loader(
    dataset: Dataset[Any], batch_size: int, epoch: int, shuffle: bool = True
) -> DataLoader[Any]:
    """Return a loader that takes the samples in the order of Helios.

    The order of an epoch is a random permutation, drawn from the seed of the run plus the number
    of the epoch.
    """
    size = len(dataset)  # type: ignore[arg-type]  # all datasets here have a length
    order = torch.randperm(size, generator=torch.Generator().manual_seed(SEED + epoch))
    return DataLoader(
        dataset,
        batch_size,
        sampler=order.tolist() if shuffle else range(size),
        generator=torch.Generator(),  # by default, an iterator draws from the global generator
    )


def in_windows(batches: Any, accumulate: int) -> Iterator[tuple[Any, int, bool]]:
    """Iterate over the batches of an epoch, and group them into optimizer steps.

    Args:
        batches: a loader or a list.
        accumulate: the batches whose gradients make one step. The last step of an epoch may have
            fewer batches.

    Yields:
        A batch, the number of batches in its step, and whether it completes the step.
    """
    for number, batch in enumerate(batches):
        position = number % accumulate
        size = min(accumulate, len(batches) - (number - position))
        yield batch, size, position + 1 == size


# Data.


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1,797 images of 8 x 8 pixels, and their labels."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return pixels, torch.tensor(labels)


@functools.cache
def text() -> torch.Tensor:
    """Return a text that consists of sums, such as ``7+5=12;``, as numbers of characters."""
    draw = random.Random(0)
    pairs = [(draw.randrange(10), draw.randrange(10)) for _ in range(560)]
    return encode("".join(f"{a}+{b}={a + b};" for a, b in pairs))


def encode(characters: Iterable[str]) -> torch.Tensor:
    """Return the numbers of characters."""
    return torch.tensor([CHARACTERS.index(character) for character in characters])


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the share of images that a network classifies correctly."""
    return (network(images).argmax(dim=1) == labels).float().mean()


# Comparison.


def are_equal(some: Networks, others: Networks) -> bool:
    """Return whether all tensors of two sets of networks are equal, bit for bit."""
    if some.keys() != others.keys():
        return False
    pairs = [(network.state_dict(), others[name].state_dict()) for name, network in some.items()]
    return all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        for one, other in pairs
    )


def main(
    run: Callable[[], Networks],
    plain: Callable[[], Networks],
    result: Callable[[Networks], str],
) -> None:
    """Train with Helios, print the result, and compare the weights with those of the plain loop."""
    networks = run()
    print(result(networks))
    print(f"same weights as the plain loop: {are_equal(networks, plain())}")
