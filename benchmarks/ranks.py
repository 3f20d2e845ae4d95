"""The cost of a step on several ranks, beside PyTorch's DDP in the same processes.

Chunks of ten steps of both run in turn, in the processes of ``torchrun``. Control points, which
are rare, and the comparison of weights after the first step are in few chunks, so the median does
not show them: the rows "all steps" do.

python benchmarks/ranks.py [--steps 600] [--rounds 5] [--ranks 1 2 4] [--tensors 4 100]
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

    def __init__(self, tensors: int) -> None:
        super().__init__("bench")
        self._tensors = tensors

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer, and those of the raw loop."""
        alternation = Alternation(DistributedDataParallel(network(self._tensors)))
        self._tick = alternation.tick  # not the object: Helios would find the raw network in it
        MEASURED[:] = [alternation]
        self.net = self.prepare(network(self._tensors))
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self._tick()
        self.optimize(loss_of(self.net, batch), self.optimizer)


def measure(steps: int, rounds: int, tensors: int) -> list[tuple[float, float]]:
    """Return two ratios of each round, after one that warms up: the usual one, and all steps'.

    Called on each rank.
    """
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
        trainer.fit(Parallel(tensors), Data(steps * dist.get_world_size()))
        if number:
            ratios.append((MEASURED[0].ratio(), MEASURED[0].ratio_of_all()))
    dist.destroy_process_group()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--tensors", type=int, nargs="+", default=[4, 100])
    parser.add_argument("--into", help="the file for the ratios of this rank")
    arguments = parser.parse_args()
    if arguments.into is not None:
        [tensors] = arguments.tensors
        ratios = measure(arguments.steps, arguments.rounds, tensors)
        pathlib.Path(f"{arguments.into}-{os.environ['RANK']}").write_text(json.dumps(ratios))
        return
    for tensors in arguments.tensors:
        # A network of 100 tensors takes about twenty times as long.
        steps = arguments.steps if tensors < 100 else arguments.steps // 4
        for count in arguments.ranks:
            ratios = ratios_of(count, steps, arguments.rounds, tensors)
            name = f"{count} rank{'s' * (count > 1)}"
            if tensors != 4:
                name += f", network of {tensors} tensors"
            unit, (usual, of_all) = "x PyTorch's DDP", zip(*ratios, strict=True)
            Row(name, unit, usual, 1.03 if tensors == 4 else None).emit()
            Row(f"{name}, all steps", unit, of_all).emit()


def ratios_of(count: int, steps: int, rounds: int, tensors: int) -> list[tuple[float, float]]:
    """Return the ratios that rank 0 has measured, in processes that this starts."""
    with tempfile.TemporaryDirectory() as folder:
        into = str(pathlib.Path(folder, "ratios"))
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        run += [f"--nproc-per-node={count}", __file__, f"--steps={steps}", f"--rounds={rounds}"]
        subprocess.run([*run, f"--tensors={tensors}", f"--into={into}"], check=True)
        found: list[tuple[float, float]] = json.loads(pathlib.Path(f"{into}-0").read_text())
    return found


if __name__ == "__main__":
    main()
