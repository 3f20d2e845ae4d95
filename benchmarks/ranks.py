"""The cost of a step on several ranks, beside PyTorch's DDP in the same processes.

Chunks of ten steps of both run in turn, in the processes of ``torchrun``.

python benchmarks/ranks.py [--steps 600] [--rounds 5] [--ranks 1 2 4]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from alternate import Alternation, loss_of, network, optimizer_of
from loop import Data
from table import Row
from torch.nn.parallel import DistributedDataParallel

import helios

MEASURED: list[Alternation] = []
"""The newest measurement of this process."""


class Parallel(helios.Model):
    """The network of the raw loop, which runs in turn with this model."""

    def __init__(self) -> None:
        super().__init__("bench")

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer, and those of the raw loop."""
        alternation = Alternation(DistributedDataParallel(network()))
        self._tick = alternation.tick  # not the object: Helios would find the raw network in it
        MEASURED[:] = [alternation]
        self.net = self.prepare(network())
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self._tick()
        self.optimize(loss_of(self.net, batch), self.optimizer)


def measure(steps: int, rounds: int) -> list[float]:
    """Return the ratio of each round, after one that warms up; called on each rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ratios = []
    for number in range(rounds + 1):
        trainer = helios.Trainer(
            train_unit="iteration",
            total_steps=steps if number else 100,
            use_cpu=True,
            print_banner=False,
            autoload=False,
        )
        trainer.fit(Parallel(), Data(steps * dist.get_world_size()))
        if number:
            ratios.append(MEASURED[0].ratio())
    dist.destroy_process_group()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--into", help="the file for the ratios of this rank")
    arguments = parser.parse_args()
    if arguments.into is not None:
        ratios = measure(arguments.steps, arguments.rounds)
        pathlib.Path(f"{arguments.into}-{os.environ['RANK']}").write_text(json.dumps(ratios))
        return
    for count in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            into = str(pathlib.Path(folder, "ratios"))
            run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            options = [f"--steps={arguments.steps}", f"--rounds={arguments.rounds}"]
            run += [f"--nproc-per-node={count}", __file__, *options, f"--into={into}"]
            subprocess.run(run, check=True)
            ratios = json.loads(pathlib.Path(f"{into}-0").read_text())
        Row(f"{count} rank{'s' * (count > 1)}", "x PyTorch's DDP", ratios, 1.03).emit()


if __name__ == "__main__":
    main()
