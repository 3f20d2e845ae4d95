"""The cost of the loop in two releases of Helios, measured in one run.

Each release runs in a process of its own, beside the same bare PyTorch loop. The processes take
turns, so that both meet the same conditions; differences are taken within a round.

    python benchmarks/against.py OTHER/src [--steps 1000] [--rounds 25]
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import Dataset

import helios

HERE = pathlib.Path(__file__).resolve().parent
VARIANTS = ["bare", "with_helios", "bare_without_steps", "no_step"]


class Features(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batches that exist already, so that the loader costs little in all variants."""

    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 16, generator=generator)
        self.y = torch.randint(4, (64,), generator=generator)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x, self.y


def only(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    return samples[0]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


class Data(helios.DataModule):
    """The same batches for Helios."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def setup(self) -> None:
        """Create the dataset."""
        # The bare loop does not seed its samples either; benchmarks/data.py measures that.
        params = {"collate_fn": only, "seeding": "none"}
        self._train_dataset = self._create_dataset(Features(self.steps), params)


class Bench(helios.Model):
    """The same network for Helios."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network())
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01)

    def train_step(self, batch: tuple[torch.Tensor, ...], state: helios.TrainingState) -> None:
        """Take a step."""
        x, y = batch
        self.optimize(nn.functional.cross_entropy(self.net(x), y), self.optimizer)

    def on_training_start(self) -> None:
        """Start the clock when everything is set up."""
        self.started = time.perf_counter()

    def on_training_end(self) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self.started


class NoStep(Bench):
    """Does nothing in a step, so that only the loops are left: far less noise, the same cost."""

    def train_step(self, batch: tuple[torch.Tensor, ...], state: helios.TrainingState) -> None:
        """Take no step."""


def bare(steps: int) -> float:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(Features(steps), collate_fn=only)
    net.train()
    started = time.perf_counter()
    for x, y in loader:
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def bare_without_steps(steps: int) -> float:
    loader = torch.utils.data.DataLoader(Features(steps), collate_fn=only)
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def with_helios(kind: type[Bench] = Bench) -> Callable[[int], float]:
    def run(steps: int) -> float:
        trainer = helios.Trainer(
            train_unit="iteration",
            total_steps=steps,
            use_cpu=True,
            print_banner=False,
            autoload=False,
        )
        model = kind("bench")
        trainer.fit(model, Data(steps))
        return model.seconds

    return run


def serve() -> None:
    """Run a variant for each line of input: its name, and the number of steps."""
    torch.set_num_threads(1)
    runs = {
        "bare": bare,
        "with_helios": with_helios(),
        "bare_without_steps": bare_without_steps,
        "no_step": with_helios(kind=NoStep),
    }
    for line in sys.stdin:
        name, steps = line.split()
        print(runs[name](int(steps)) / int(steps) * 1e6, flush=True)


class Release:
    """A process that runs the variants with one release."""

    def __init__(self, source: pathlib.Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def measure(self, variant: str, steps: int) -> float:
        """Return the microseconds of a step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(variant, steps, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=pathlib.Path, nargs="?")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if arguments.other is None:
        parser.error("the folder of the other release's source is missing")
    releases = {
        "other": Release(arguments.other.resolve()),
        "this": Release(HERE.parent / "src"),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds + 1):
        for variant in VARIANTS:
            for name, release in releases.items():
                value = release.measure(variant, arguments.steps)
                if number:  # the first round warms up
                    times.setdefault((name, variant), []).append(value)
    for release in releases.values():
        release.close()
    for base, variant in (("bare", "with_helios"), ("bare_without_steps", "no_step")):
        for name in releases:
            extra = [
                mine - other
                for mine, other in zip(times[name, variant], times[name, base], strict=True)
            ]
            print(
                f"{name:6} {variant:12} {statistics.median(extra):+7.2f} us a step over {base}"
                f" ({min(extra):+.2f} to {max(extra):+.2f}),"
                f" {statistics.median(times[name, variant]):.2f} whole"
            )


if __name__ == "__main__":
    main()
