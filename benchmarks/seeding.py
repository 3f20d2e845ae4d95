"""The cost of loading data: seeding for each batch, and the order of an epoch.

    python benchmarks/seeding.py [--batches 300] [--rounds 15] [--sizes 10000 1000000]

**Seeding.** Loads batches of 32 samples that exist already, so that little more than seeding is
left. The loaders of one row take turns, ten batches at a time, so that a disturbance of the machine
meets all of them. The figures are differences to `seeding="none"` in us a batch: the smallest and
the median over the rounds, each round being represented by its fastest turn.

**Orders.** Measures, in a process of its own for each size, the time until the first index of a
shuffled epoch, the time for each index, and the memory that the order adds at its peak.

Tried, and lost:

- Saving and restoring all four generators for each batch, and seeding them for each sample, as
  0.2 does: 390 to 430 us a batch. NumPy's `get_state` and `set_state` take 45 and 60 us, since they
  handle 624 numbers one by one; a copy of its memory takes 0.2 us.
- `random.getstate()` as the mark: 16 us, as it makes 625 numbers; a copy of its memory 0.2 us.
- A few words of the memory as the mark instead of all of it: as fast, but the first word of a
  Mersenne Twister is constant after a seed, and a position alone returns after 624 numbers.
- Comparing states of PyTorch with `torch.equal`: 5.5 us; as bytes 0.1 us.
- One draw from each generator, compared with that of a twin: it moves the training stream, and
  `random.setstate` takes 5 us to move it back.
- Proving generators only after a batch: saves 4 us, but training may have moved them as well, and
  then the state to restore is lost.
- A Feistel permutation for the order: needs neither start nor memory, but 0.4 us an index, is
  biased for small sets, and has another order than 0.2. `torch.randperm` of 32-bit numbers has the
  same order at 4 bytes an index, and for 100 million samples starts in 5 to 15 s, once an epoch.
- Deriving the seeds of a batch with arrays of NumPy: 4 us less a batch, but it takes no indices of
  more than 64 bits.
"""

import argparse
import itertools
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import Dataset

import helios
from helios.data import ResumableRandomSampler, create_dataloader

BATCH_SIZE = 32
TURN = 10  # batches
SEEDINGS = ("none", "sample", "batch")


def nothing() -> None:
    pass


DRAWS: dict[str, Callable[[], object]] = {
    "nothing": nothing,
    "torch": lambda: torch.rand(()),
    "random": random.random,
    "np.random": np.random.rand,
    "rng.get_default_numpy_rng()": lambda: helios.core.rng.get_default_numpy_rng().random(),
}


class Ready(Dataset[torch.Tensor]):
    """One sample that exists already, as often as wanted; getting it may draw a number."""

    def __init__(self, count: int, draw: Callable[[], object]) -> None:
        self.count = count
        self.draw = draw
        self.sample = torch.zeros(1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.draw()
        return self.sample


class ReadyTogether(Ready):
    """The same, for many samples at once."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        for _ in indices:
            self.draw()
        return [self.sample] * len(indices)


def first(samples: list[torch.Tensor]) -> torch.Tensor:
    return samples[0]


def best_turns(dataset: Dataset[torch.Tensor], workers: int, batches: int) -> dict[str, float]:
    """Return the time of a batch in the fastest turn of each kind of seeding, in us."""
    iterators = {}
    for seeding in SEEDINGS:
        params = helios.DataLoaderParams(
            batch_size=BATCH_SIZE, num_workers=workers, collate_fn=first, seeding=seeding
        )
        iterators[seeding] = iter(create_dataloader(dataset, params)[0])
        next(iterators[seeding])  # workers have started, and know who draws
    times: dict[str, list[float]] = {seeding: [] for seeding in SEEDINGS}
    for _ in range((batches - 1) // TURN):
        for seeding, iterator in iterators.items():
            started = time.perf_counter()
            for _ in range(TURN):
                next(iterator)
            times[seeding].append((time.perf_counter() - started) / TURN * 1e6)
    return {seeding: min(turns) for seeding, turns in times.items()}


def measure_seeding(kind: type[Ready], workers: int, batches: int, rounds: int) -> None:
    for name, draw in DRAWS.items():
        dataset = kind(batches * BATCH_SIZE, draw)
        results = [best_turns(dataset, workers, batches) for _ in range(rounds)]
        line = f"  {name:28}"
        for seeding in SEEDINGS[1:]:
            extra = [result[seeding] - result["none"] for result in results]
            fastest = min(result[seeding] for result in results)
            fastest -= min(result["none"] for result in results)
            line += f" {seeding}: {fastest:+7.1f} (median {statistics.median(extra):+7.1f})"
        print(line)


def measure_order(count: int) -> None:
    """Print a row about the order of this many samples; call it in a process of its own."""
    torch.randperm(10)
    sampler = ResumableRandomSampler(range(count))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    indices = iter(sampler)
    next(indices)
    begun = time.perf_counter()
    read = sum(1 for _ in itertools.islice(indices, 10**7))
    each = (time.perf_counter() - begun) / max(read, 1)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # of KiB on Linux
    print(
        f"  {count:>11,} samples: {begun - started:8.4f} s to the first index, {each * 1e6:5.3f} us"
        f" an index, {added:7.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**6, 10**8])
    parser.add_argument("--order", type=int, help="measure the order of this many samples only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    helios.core.rng.seed_rngs(0)
    if arguments.order:
        measure_order(arguments.order)
        return
    print(f"Over seeding='none', us a batch of {BATCH_SIZE}; {arguments.rounds} rounds.")
    for kind, workers, title in (
        (Ready, 0, "training process"),
        (ReadyTogether, 0, "training process, __getitems__"),
        (Ready, 1, "one worker process"),
    ):
        print(title)
        measure_seeding(kind, workers, arguments.batches, arguments.rounds)
    print("Order of a shuffled epoch", flush=True)
    for count in arguments.sizes:
        subprocess.run([sys.executable, __file__, "--order", str(count)], check=True)


if __name__ == "__main__":
    main()
