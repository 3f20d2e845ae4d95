"""The cost of a step on a GPU, and of batches that are copied ahead.

A step computes with two layers on some rows of a batch of 64 MiB, so the number of rows decides
how long the computation takes beside the copy. The batches lie in page-locked memory already.

    python benchmarks/gpu.py [--steps 100] [--rounds 5]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from table import Row
from torch import nn
from torch.utils.data import Dataset

import helios
from helios import CUDAPlugin

WIDTH = 4096
ROWS = {"a tenth of the step": 4096, "about as long as the computation": 256}
"""The rows to compute with, by the time that the copy takes."""


class Batches(Dataset[Any]):
    """Batches of one size in page-locked memory."""

    def __init__(self, steps: int, size: int) -> None:
        self._batches = [torch.randn(size, WIDTH).pin_memory() for _ in range(4)]
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._batches[index % 4]


def first(samples: list[torch.Tensor]) -> tuple[torch.Tensor]:
    """Return the batch as it is."""
    return (samples[0],)


class Data(helios.DataModule):
    """The batches as a training set."""

    def __init__(self, dataset: Batches) -> None:
        super().__init__()
        self._dataset = dataset

    def setup(self) -> None:
        """Use the batches as they are."""
        params = {"collate_fn": first, "seeding": "none", "pin_memory": False}
        self._train_dataset = self._create_dataset(self._dataset, params)


def network(width: int) -> nn.Module:
    """Return the network of all loops."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).cuda()


def loss_of(net: nn.Module, batch: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    """Return a loss of some rows and columns of a batch."""
    return net(batch[:rows, :width]).square().mean()


class Bench(helios.Model):
    """Measures the time of all steps, from the first to the end of the work of the last."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__("bench")
        self._rows, self._width = rows, width
        self._started = self.seconds = 0.0

    def setup(self) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network(self._width))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-4)

    def on_training_start(self) -> None:
        """Start the clock."""
        torch.cuda.synchronize()
        self._started = time.perf_counter()

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self.optimize(loss_of(self.net, batch[0], self._rows, self._width), self.optimizer)

    def on_training_end(self) -> None:
        """Stop the clock."""
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._started


def fit(model: Bench, plugin: CUDAPlugin, batches: Batches, steps: int) -> None:
    """Train with the plug-in."""
    helios.Trainer(
        train_unit="iteration",
        total_steps=steps,
        use_cpu=False,
        print_banner=False,
        autoload=False,
        plugins=[plugin],
    ).fit(model, Data(batches))


def with_helios(prefetch: int, rows: int, width: int, size: int) -> Callable[[int], float]:
    """Return a function that trains some steps, and returns the microseconds of a step."""

    def run(steps: int) -> float:
        model = Bench(rows, width)
        fit(model, CUDAPlugin(prefetch=prefetch), Batches(steps, size), steps)
        return model.seconds / steps * 1e6

    return run


def by_hand(
    rows: int, width: int, size: int, copies: bool = True, computes: bool = True
) -> Callable[[int], float]:
    """Return a function that takes the steps of a plain loop, or a part of them."""

    def run(steps: int) -> float:
        net = network(width)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
        dataset = Batches(steps, size)
        on_gpu = dataset[0].cuda()
        loader = torch.utils.data.DataLoader(dataset, collate_fn=first)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for (batch,) in loader:
            moved = batch.cuda(non_blocking=True) if copies else on_gpu
            if computes:
                loss_of(net, moved, rows, width).backward()
                optimizer.step()
                optimizer.zero_grad()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / steps * 1e6

    return run


def measure(runs: dict[str, Callable[[int], float]], steps: int, rounds: int) -> dict[str, Any]:
    """Run all in turn, and return the figures of each round after one that warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            microseconds = run(steps)
            if number:
                found[name].append(microseconds)
    return found


def beside_the_copy(steps: int, rounds: int) -> Iterator[Row]:
    """Yield the rows of large batches."""
    for share, rows in ROWS.items():
        case = (rows, WIDTH, WIDTH)
        runs = {
            "compute": by_hand(*case, copies=False),
            "copy": by_hand(*case, computes=False),
            "plain loop": by_hand(*case),
            "CUDAPlugin()": with_helios(0, *case),
            "CUDAPlugin(prefetch=2)": with_helios(2, *case),
        }
        found = measure(runs, steps, rounds)
        for name, values in found.items():
            yield Row(f"copy is {share}: {name}", "us a step", values)
        bounds = [max(pair) for pair in zip(found["compute"], found["copy"], strict=True)]
        target = 1.05 if "tenth" in share else None
        for name in ("plain loop", "CUDAPlugin(prefetch=2)"):
            ratios = [one / bound for one, bound in zip(found[name], bounds, strict=True)]
            is_ours = name != "plain loop"
            unit = "x max(compute, copy)"
            yield Row(f"copy is {share}: {name}", unit, ratios, target if is_ours else None)


class Beside(Bench):
    """Takes chunks of steps in turn with the plain loop, so that both meet the same conditions."""

    CHUNK = 50

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self._ticks = 0
        self.ours: list[float] = []
        self.plain: list[float] = []

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step; after each chunk, run one of the plain loop."""
        self._ticks += 1
        if self._ticks % self.CHUNK == 0:
            torch.cuda.synchronize()
            self.ours.append((time.perf_counter() - self._started) / self.CHUNK * 1e6)
            self.plain.append(by_hand(self._rows, self._width, self._rows)(self.CHUNK))
            self._started = time.perf_counter()
        super().train_step(batch, state)


def small_batches(steps: int, rounds: int) -> Iterator[Row]:
    """Yield the rows of small batches, whose steps take as long as Python takes to start them."""
    size = 64
    found: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for prefetch in (0, 2):
            model = Beside(size)
            fit(model, CUDAPlugin(prefetch=prefetch), Batches(20 * steps, size), 20 * steps)
            pair = statistics.median(model.ours), statistics.median(model.plain)
            if number:
                found.setdefault(f"CUDAPlugin(prefetch={prefetch})", []).append(pair)
    for name, pairs in found.items():
        yield Row(f"small batches: {name}", "us a step", [ours for ours, _ in pairs])
        ratios = [ours / plain for ours, plain in pairs]
        yield Row(f"small batches: {name}", "x the plain loop", ratios)
    without, ahead = ([ours / plain for ours, plain in pairs] for pairs in found.values())
    ratios = [one / other for one, other in zip(ahead, without, strict=True)]
    yield Row("small batches: CUDAPlugin(prefetch=2)", "x CUDAPlugin()", ratios, 1.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("needs a CUDA device")
    for rows in (beside_the_copy, small_batches):
        for row in rows(arguments.steps, arguments.rounds):
            row.emit()


if __name__ == "__main__":
    main()
