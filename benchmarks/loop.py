"""What Helios costs beside a bare PyTorch loop, measured in one run.

The model is tiny on purpose, so that the cost of the loop shows: one step takes some 200 us. Each
variant trains the same number of steps in turn, many rounds over; differences and ratios are taken
within a round, and their median is printed. Absolute times say more about the machine.

    python benchmarks/loop.py [--steps 2000] [--rounds 15]
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import Dataset

import helios


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


class LogStep(Bench):
    """Logs the loss of each step."""

    weight: float | None = None

    def train_step(self, batch: tuple[torch.Tensor, ...], state: helios.TrainingState) -> None:
        """Take a step, and log its loss."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss, weight=self.weight)
        self.optimize(loss, self.optimizer)


class LogAlone(NoStep):
    """Logs one tensor in each step, and does nothing else."""

    weight: float | None = None
    value = torch.tensor(1.0, requires_grad=True) * 2

    def train_step(self, batch: tuple[torch.Tensor, ...], state: helios.TrainingState) -> None:
        """Log a value."""
        self.log("loss", self.value, weight=self.weight)


class LogAloneWeighted(LogAlone):
    """Logs with a weight of its own."""

    weight = 64


class Idle(helios.Plugin):
    """Implements nothing that is called per step."""

    def setup(self) -> None:
        """Nothing."""


class Busy(Idle):
    """Is called at the end of each batch, and does nothing."""

    def on_training_batch_end(self, outputs: object, state: helios.TrainingState) -> None:
        """Nothing."""


class Listen(Idle):
    """Receives what is logged, and does nothing."""

    def on_log(self, metrics: dict[str, float], state: helios.TrainingState) -> None:
        """Nothing."""


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


def with_helios(*plugins: helios.Plugin, kind: type[Bench] = Bench) -> Callable[[int], float]:
    def run(steps: int) -> float:
        trainer = helios.Trainer(
            train_unit="iteration",
            total_steps=steps,
            use_cpu=True,
            print_banner=False,
            autoload=False,
            plugins=plugins,
        )
        model = kind("bench")
        trainer.fit(model, Data(steps))
        return model.seconds

    return run


def import_ratio(rounds: int) -> float:
    """Return how much longer importing Helios takes than importing torch, with one optimizer."""

    def seconds(module: str) -> float:
        code = f"import {module}, torch; torch.optim.SGD([torch.zeros(1)], lr=1.0)"
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    seconds("helios")  # the first one fills caches
    return statistics.median(seconds("helios") / seconds("torch") for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    idle = [Idle(f"idle-{i}") for i in range(100)]
    busy = [Busy(f"busy-{i}") for i in range(10)]
    whole = {
        "bare PyTorch": bare,
        "Helios": with_helios(),
        "Helios, 100 idle plug-ins": with_helios(*idle),
        "Helios, 10 plug-ins at each batch's end": with_helios(*busy),
        "Helios, each step logged": with_helios(Listen("listen"), kind=LogStep),
    }
    loops_alone = {
        "bare loop without steps": bare_without_steps,
        "loop of Helios": with_helios(kind=NoStep),
        "loop, 100 idle plug-ins": with_helios(*idle, kind=NoStep),
        "loop, 10 plug-ins at each batch's end": with_helios(*busy, kind=NoStep),
        "loop, each step logged": with_helios(Listen("listen"), kind=LogAlone),
        "loop, each step logged with a weight": with_helios(
            Listen("listen"), kind=LogAloneWeighted
        ),
        "loop, logged and nobody listens": with_helios(kind=LogAlone),
    }
    print(f"{arguments.steps} steps, {arguments.rounds} rounds; medians over the rounds")
    compare(whole, arguments.steps, arguments.rounds)
    compare(loops_alone, arguments.steps, arguments.rounds)
    print(f"import and one optimizer: {import_ratio(9):.3f} x torch")


def compare(variants: dict[str, Callable[[int], float]], steps: int, rounds: int) -> None:
    """Print what each variant costs beside its base: the first, or the second for those after."""
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            times[name].append(run(steps) / steps * 1e6)
    for values in times.values():
        del values[0]  # the first round warms up
    for name, values in times.items():
        base = names[1] if names.index(name) > 1 else names[0]
        pairs = list(zip(values, times[base], strict=True))
        extra = statistics.median(value - other for value, other in pairs)
        ratio = statistics.median(value / other for value, other in pairs)
        print(f"{name:40} {extra:+7.2f} us a step, {ratio:.3f} x {base}")


if __name__ == "__main__":
    main()
