"""Chunks of ten steps of a trainer, in turn with chunks of the loop that a user writes.

Both meet the same conditions within milliseconds, so their difference says more than two times of
whole runs. The chunks of the raw loop run inside of the trainer's own step, every ten steps.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

CHUNK = 10


class Features(Dataset[Any]):
    """One batch that exists already, so that loading it costs little in all variants."""

    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 16, generator=generator)
        self.y = torch.randint(4, (64,), generator=generator)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Any:
        return self.x, self.y


def first(samples: list[Any]) -> Any:
    return samples[0]


def network(tensors: int = 4) -> nn.Module:
    """Return a small network with this number of parameter tensors; the usual one has four."""
    torch.manual_seed(0)
    inner = [nn.Linear(32, 32) for _ in range(tensors // 2 - 2)]
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), *inner, nn.Linear(32, 4))


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01)


def loss_of(net: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def raw_loader(dataset: Dataset[Any] | None = None, **params: Any) -> DataLoader[Any]:
    """Return PyTorch's loader, by default of batches that exist already."""
    if dataset is None:
        return DataLoader(Features(10**7), collate_fn=first)
    return DataLoader(dataset, **params)


class Alternation:
    """Measures a trainer beside the raw loop. Call :meth:`tick` first in each of its steps.

    Args:
        net: the network of the raw loop.
        batches: the batches of the raw loop; by default of batches that exist already.
        works: ``False`` if neither loop takes steps.
    """

    def __init__(
        self, net: nn.Module | None = None, batches: Iterator[Any] | None = None, works: bool = True
    ) -> None:
        self.net = net or network()
        self._optimizer = optimizer_of(self.net)
        self._batches = batches or iter(raw_loader())
        self._works = works
        self._ticks = 0
        self._started: float | None = None
        self.trainer: list[float] = []
        self.raw: list[float] = []

    def tick(self) -> None:
        """Count a step of the trainer, and run a chunk of the raw loop if it is its turn."""
        self._ticks += 1
        if self._ticks == 1:
            self._take_turn()
        elif self._ticks > CHUNK:
            self._ticks = 1
            self._take_turn()

    def _tick_of_raw(self) -> None:
        """Cost the raw loop what :meth:`tick` costs the trainer."""
        self._ticks_of_raw += 1
        if self._ticks_of_raw == 1 or self._ticks_of_raw > CHUNK:
            pass

    def _take_turn(self) -> None:
        now = time.perf_counter()
        if self._started is not None:
            self.trainer.append((now - self._started) / CHUNK * 1e6)
            self.raw.append(self._measure_raw())
        else:
            self._measure_raw()
        self._started = time.perf_counter()

    def _measure_raw(self) -> float:
        net, optimizer, tick, works = self.net, self._optimizer, self._tick_of_raw, self._works
        self._ticks_of_raw = 0
        started = time.perf_counter()
        for batch in itertools.islice(self._batches, CHUNK):
            tick()
            if works:
                loss = loss_of(net, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return (time.perf_counter() - started) / CHUNK * 1e6

    def extra(self) -> float:
        """Return the median of the microseconds that a step of the trainer takes longer."""
        pairs = zip(self.trainer, self.raw, strict=True)
        return statistics.median(mine - other for mine, other in pairs)

    def ratio(self) -> float:
        """Return the median of the ratios."""
        pairs = zip(self.trainer, self.raw, strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    def ratio_of_all(self) -> float:
        """Return the ratio of the times of all chunks, with what only some of them contain."""
        return sum(self.trainer) / sum(self.raw)


def measure(
    variants: dict[str, Callable[[int], Alternation]], steps: int, rounds: int
) -> dict[str, list[Alternation]]:
    """Run all variants in turn, and return the measures of each round.

    Args:
        variants: functions that train some steps.
        steps: the number of steps.
        rounds: the number of rounds, after one that warms up.
    """
    torch.set_num_threads(1)
    found: dict[str, list[Alternation]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            gc.collect()
            result = run(steps if number else 20 * CHUNK)
            if number:
                found[name].append(result)
    return found
