"""What seeding of samples costs, measured in one run.

Goes through an epoch whose samples exist already, so that hardly more than seeding is left, with
each kind of seeding in turn, many rounds over. Differences are taken within a round, and their
median is printed: of a batch, "batch" less "none"; of each further sample, "sample" less "batch".
In the training process, a batch costs more, since the training stream is put aside and back.

    python benchmarks/seeding.py [--batches 300] [--rounds 15]
"""

import argparse
import statistics
import time

import torch
from torch.utils.data import Dataset

import helios
from helios.data import create_dataloader

BATCH_SIZE = 32


class Ready(Dataset[torch.Tensor]):
    """One sample that exists already, as often as wanted."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sample = torch.zeros(1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sample


def first(samples: list[torch.Tensor]) -> torch.Tensor:
    return samples[0]


def seconds(seeding: str, workers: int, batches: int) -> float:
    params = helios.DataLoaderParams(
        batch_size=BATCH_SIZE, num_workers=workers, collate_fn=first, seeding=seeding
    )
    loader, _ = create_dataloader(Ready(batches * BATCH_SIZE), params)
    iterator = iter(loader)
    next(iterator)  # workers have started
    started = time.perf_counter()
    for _ in iterator:
        pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    helios.core.rng.seed_rngs(0)
    print(
        f"{arguments.batches} batches of {BATCH_SIZE} samples, {arguments.rounds} rounds; medians"
        " over the rounds"
    )
    for workers, where in enumerate(("training process", "worker process")):
        per_batch, per_sample = [], []
        for _ in range(arguments.rounds):
            none, batch, sample = (
                seconds(seeding, workers, arguments.batches) / arguments.batches * 1e6
                for seeding in ("none", "batch", "sample")
            )
            per_batch.append(batch - none)
            per_sample.append((sample - batch) / (BATCH_SIZE - 1))
        print(
            f"{where:20} {statistics.median(per_batch):+7.2f} us a batch,"
            f" {statistics.median(per_sample):+6.2f} us each further sample"
        )


if __name__ == "__main__":
    main()
