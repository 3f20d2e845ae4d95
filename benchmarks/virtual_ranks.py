"""The cost of a step with virtual ranks, beside PyTorch's DDP in the same processes.

Chunks of ten steps of both run in turn, in the processes of ``torchrun``. Both compute the batches
of four ranks in a step, whatever the number of processes.

    python benchmarks/virtual_ranks.py [--steps 100] [--rounds 3]
"""

import argparse
import contextlib
import itertools
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from alternate import (
    CHUNK,
    Alternation,
    Features,
    first,
    loss_of,
    measure,
    optimizer_of,
    raw_loader,
)
from table import Row
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import helios

PROCESSES = (1, 2, 4)
VIRTUAL_RANKS = 4
WIDTH = 512


def network() -> nn.Module:
    """Return a network whose step takes some milliseconds."""
    torch.manual_seed(0)
    hidden = nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(nn.Linear(16, WIDTH), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(WIDTH, 4))


class BesideDDP(Alternation):
    """Measures a trainer beside DDP.

    Args:
        batches: the number of batches that a process computes in a step.
    """

    def __init__(self, batches: int) -> None:
        super().__init__(DistributedDataParallel(network()), iter(raw_loader()))
        self._batches_of_step = batches

    def _measure_raw(self) -> float:
        net, optimizer, batches = self.net, self._optimizer, self._batches_of_step
        started = time.perf_counter()
        for _ in range(CHUNK):
            for number, batch in enumerate(itertools.islice(self._batches, batches), 1):
                is_last = number == batches
                with contextlib.nullcontext() if is_last else net.no_sync():  # type: ignore[operator]  # DDP's
                    (loss_of(net, batch) / batches).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - started) / CHUNK * 1e6


class Data(helios.DataModule):
    """Batches that exist already.

    Args:
        batches: the number of batches of all processes.
    """

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._batches = batches

    def setup(self) -> None:
        """Create the dataset."""
        params = {"collate_fn": first, "seeding": "none"}
        self._train_dataset = self._create_dataset(Features(self._batches), params)


class Bench(helios.Model):
    """The network of the DDP loop, with its step through ``optimize``."""

    def __init__(self, beside: BesideDDP, batches: int) -> None:
        super().__init__("bench")
        self._tick = beside.tick  # no object that holds another optimizer
        self._batches_of_step = batches
        self._calls = 0

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network())
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Compute a batch of a step."""
        if self._calls % self._batches_of_step == 0:
            self._tick()
        self._calls += 1
        self.optimize(loss_of(self.net, batch), self.optimizer)


def fit(steps: int) -> Alternation:
    """Train beside the DDP loop."""
    batches = VIRTUAL_RANKS // dist.get_world_size()
    beside = BesideDDP(batches)
    helios.Trainer(
        train_unit="iteration",
        total_steps=steps,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        virtual_ranks=VIRTUAL_RANKS,
    ).fit(Bench(beside, batches), Data(steps * VIRTUAL_RANKS))
    return beside


def work(steps: int, rounds: int) -> None:
    """Measure in one of the processes that ``torchrun`` has started."""
    dist.init_process_group("gloo")
    processes = dist.get_world_size()
    name = f"virtual_ranks={VIRTUAL_RANKS} on {processes} rank{'s' * (processes > 1)}"
    found = measure({name: fit}, steps, rounds)
    if dist.get_rank() == 0:
        Row(name, "x PyTorch's DDP", [one.ratio() for one in found[name]]).emit()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", action="store_true", help="measure in this process")
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.steps, arguments.rounds)
        return
    options = ["--steps", str(arguments.steps), "--rounds", str(arguments.rounds), "--work"]
    for processes in PROCESSES:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += [f"--nproc-per-node={processes}", __file__, *options]
        subprocess.run(torchrun, check=True)


if __name__ == "__main__":
    main()
