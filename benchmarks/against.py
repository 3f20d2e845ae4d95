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
from alternate import Features, first, loss_of, network, optimizer_of, raw_loader

import helios

HERE = pathlib.Path(__file__).resolve().parent
VARIANTS = ["bare", "with_helios", "bare_without_steps", "no_step"]


class Data(helios.DataModule):
    """The same batches for Helios."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def setup(self) -> None:
        """Create the dataset."""
        # The bare loop does not seed its samples either; benchmarks/data.py measures that.
        params = {"collate_fn": first, "seeding": "none"}
        self._train_dataset = self._create_dataset(Features(self.steps), params)


class Bench(helios.Model):
    """The same network for Helios."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network())
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: tuple[torch.Tensor, ...], state: helios.TrainingState) -> None:
        """Take a step."""
        self.optimize(loss_of(self.net, batch), self.optimizer)

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
    optimizer = optimizer_of(net)
    loader = raw_loader(Features(steps), collate_fn=first)
    net.train()
    started = time.perf_counter()
    for batch in loader:
        loss_of(net, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def bare_without_steps(steps: int) -> float:
    loader = raw_loader(Features(steps), collate_fn=first)
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
