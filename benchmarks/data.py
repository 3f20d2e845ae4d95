"""The cost of loading and seeding beside PyTorch's loader with the same samples.

Both loops take the same step. The order of many samples is measured in processes of its own.

    python benchmarks/data.py [--steps 300] [--rounds 5]
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import peak_memory
import torch
from alternate import Alternation, loss_of, measure, network, optimizer_of, raw_loader
from table import Row
from torch.utils.data import Dataset

import helios
from helios.data import ResumableRandomSampler

BATCH_SIZE = 32
DRAWS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "torch": lambda: torch.rand(1),
    "random": random.random,
    "numpy": np.random.rand,
}


class Samples(Dataset[Any]):
    """Samples that exist already, and that draw one random number each."""

    def __init__(self, count: int, draws: str) -> None:
        self.draw = DRAWS[draws]
        self.sample = torch.randn(64, 16), torch.randint(4, (64,))
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.draw()
        return self.sample


def first(samples: list[Any]) -> Any:
    return samples[0]


class Data(helios.DataModule):
    """The samples for Helios."""

    def __init__(self, steps: int, draws: str, **params: Any) -> None:
        super().__init__()
        self._samples = Samples(steps * params["batch_size"], draws)
        self._params = {"collate_fn": first, **params}

    def setup(self) -> None:
        """Create the dataset."""
        self._train_dataset = self._create_dataset(self._samples, self._params)


class Model(helios.Model):
    """The network of the raw loop."""

    def __init__(self, alternation: Alternation) -> None:
        super().__init__("bench")
        self._tick = alternation.tick  # not the object: Helios would find the raw optimizer in it

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network())
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self._tick()
        self.optimize(loss_of(self.net, batch), self.optimizer)


def fit(draws: str = "nothing", **params: Any) -> Callable[[int], Alternation]:
    params.setdefault("batch_size", BATCH_SIZE)

    def run(steps: int) -> Alternation:
        samples = Samples(10**8, draws)
        raw = raw_loader(samples, batch_size=params["batch_size"], collate_fn=first)
        alternation = Alternation(batches=iter(raw))
        trainer = helios.Trainer(total_steps=1, use_cpu=True, print_banner=False, autoload=False)
        trainer.fit(Model(alternation), Data(steps, draws, **params))
        return alternation

    return run


VARIANTS: dict[str, tuple[Callable[[int], Alternation], float | None]] = {
    'its own loader, batches of one, seeding="none"': (fit(batch_size=1, seeding="none"), 5),
    'its own loader, 32 samples, seeding="none"': (fit(seeding="none"), 5),
    "default seeding, 32 samples that draw nothing": (fit(), 15),
    "default seeding, 32 samples that draw from torch": (fit("torch"), 90),
    "default seeding, 32 samples that draw from random": (fit("random"), 180),
    "default seeding, 32 samples that draw from NumPy": (fit("numpy"), 180),
}


def order(count: int) -> None:
    """Print the seconds until the first index of a shuffled order, and the memory for it, in MB."""

    class Many(Dataset[Any], Sized):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> int:
            return index

    next(iter(ResumableRandomSampler(range(10), batch_size=1)))
    before = peak_memory.reset()
    started = time.perf_counter()
    next(iter(ResumableRandomSampler(Many(), batch_size=1)))
    seconds = time.perf_counter() - started
    print(seconds * 1000, peak_memory.read() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--order", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.order:
        return order(arguments.order)
    runs = {name: run for name, (run, _) in VARIANTS.items()}
    for name, found in measure(runs, arguments.steps, arguments.rounds).items():
        extras = [one.extra() for one in found]
        Row(name, "us a step over PyTorch's loader", extras, VARIANTS[name][1]).emit()
    for count in (10**4, 10**6, 10**8):
        found_ms, found_mb = [], []
        for _ in range(arguments.rounds):
            command = [sys.executable, __file__, "--order", str(count)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            milliseconds, megabytes = map(float, output.split())
            found_ms.append(milliseconds)
            found_mb.append(megabytes)
        memory = statistics.median(found_mb)
        Row(f"first index of {count:,} shuffled samples", "ms", found_ms, memory=memory).emit()


if __name__ == "__main__":
    main()
