"""What a save in the background holds training up for, beside a save that training waits for.

A network of 200 MB is trained in both variants in turn; the wait for each save is what Helios tells
at the end of a run. Ratios are taken within a round, and their median is printed.

    python benchmarks/checkpoint.py [--megabytes 200] [--saves 5] [--rounds 3] [--folder FOLDER]
"""

import argparse
import logging
import pathlib
import statistics
import tempfile
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

import helios
from helios.trainer import plain, storage

PAUSE = 4.0  # seconds between saves: longer than a save takes, as in a run


class Large(helios.Model):
    """Does next to nothing with much memory."""

    def __init__(self, megabytes: int, pause: float) -> None:
        super().__init__("large")
        self._width = int((megabytes * 1e6 / 4 / 8) ** 0.5)
        self._pause = pause

    def setup(self, fast_init: bool = False) -> None:
        """Create a network of eight layers."""
        layers = [nn.Linear(self._width, self._width, bias=False) for _ in range(8)]
        self.net = self.prepare(nn.Sequential(*layers))

    def train_step(self, batch: object, state: helios.TrainingState) -> None:
        """Stand for a step that takes a while."""
        time.sleep(self._pause)


class Data(helios.DataModule):
    """One batch more than there are saves: an epoch that ends would be saved again."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._batches = batches

    def setup(self) -> None:
        """Create the dataset."""
        self._train_dataset = self._create_dataset(TensorDataset(torch.zeros(self._batches)), {})


class Report(logging.Handler):
    """Keeps what Helios reports of the waits, in ms: for each save, and at the end."""

    waits = (0.0, 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        """Note the figures."""
        if "training waited" in str(record.msg) and isinstance(record.args, tuple):
            _, each, end = record.args
            self.waits = (float(str(each)), float(str(end)))


def waits(root: pathlib.Path, megabytes: int, saves: int, is_async: bool) -> tuple[float, float]:
    """Train, and return the waits for each save and at the end, in ms."""
    report = Report()
    logger = logging.getLogger("helios")
    logger.addHandler(report)
    logger.setLevel(logging.INFO)
    try:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            helios.Trainer(
                train_unit="iteration",
                total_steps=saves,
                chkpt_frequency=1,
                keep_last=1,
                async_checkpoints=is_async,
                chkpt_root=folder,
                use_cpu=True,
                print_banner=False,
                autoload=False,
            ).fit(Large(megabytes, PAUSE), Data(saves + 1))
    finally:
        logger.removeHandler(report)
    return report.waits


def parts(root: pathlib.Path, megabytes: int) -> dict[str, float]:
    """Return the seconds that a copy, torch.save and a whole save take."""
    state = {"x": torch.randn(int(megabytes * 1e6 / 4))}
    seconds = {}
    snapshots = plain.Snapshots()
    with tempfile.TemporaryDirectory(dir=root) as folder:
        path = pathlib.Path(folder) / "x.pth"
        for name, action in {
            "copy in memory": lambda: snapshots.take(state),
            "torch.save": lambda: torch.save(state, path),
            "save, durable and verified": lambda: storage.save(state, path),
        }.items():
            action()
            started = time.perf_counter()
            action()
            seconds[name] = time.perf_counter() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="on the disk to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ratios, sync_ms, async_ms, end_ms = [], [], [], []
    for _ in range(arguments.rounds):
        common = arguments.folder, arguments.megabytes, arguments.saves
        each, _ = waits(*common, is_async=False)
        stall, end = waits(*common, is_async=True)
        ratios.append(stall / each)
        sync_ms.append(each)
        async_ms.append(stall)
        end_ms.append(end)
    print(
        f"{arguments.megabytes} MB, {arguments.saves} saves, {arguments.rounds} rounds; medians:\n"
        f"a save holds training up for {statistics.median(sync_ms):.0f} ms; in the background, for"
        f" {statistics.median(async_ms):.0f} ms, and {statistics.median(end_ms):.0f} ms once at"
        f" the end\nratio of the stalls: {statistics.median(ratios):.3f}"
    )
    seconds = parts(arguments.folder, arguments.megabytes)
    whole = seconds["save, durable and verified"]
    for name, value in seconds.items():
        print(f"{name:28} {value / whole:.3f} x a save")


if __name__ == "__main__":
    main()
