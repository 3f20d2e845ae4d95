"""The cost of seeding each batch.

    python benchmarks/seeding.py [--batches 100] [--rounds 5]

Loads batches of 32 samples that exist already, so that little more than seeding is left. The
loaders of one row take turns, ten batches at a time, so that a disturbance of the machine meets all
of them. The figures are differences to `seeding="none"`; the fastest turn represents a round.

No step of a model runs between the batches, so the caches of the processor still hold all that
seeding needs. In training, they do not, and the same work takes about twice as long: data.py
measures the default seeding of the training process so, and this script does not measure it again.

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
- Seeding `random` with the `init_by_array` of NumPy, and copying the memory: 9.5 us, as NumPy
  converts the key with care; Python takes 5.2 us.
- Computing the twisters of 32 samples side by side with arrays: a seed is a chain of 1,870 steps,
  and each step takes an array some 2 us.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from table import Row
from torch.utils.data import Dataset

import helios
from helios.data import create_dataloader

BATCH_SIZE = 32
TURN = 10  # batches
SEEDINGS = ("none", "sample", "batch")
IN_TRAINING = "training process"


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


def measure_seeding(kind: type[Ready], workers: int, title: str, batches: int, rounds: int) -> None:
    for name, draw in DRAWS.items():
        dataset = kind(batches * BATCH_SIZE, draw)
        results = [best_turns(dataset, workers, batches) for _ in range(rounds)]
        for seeding in SEEDINGS[2:] if title == IN_TRAINING else SEEDINGS[1:]:
            extra = [result[seeding] - result["none"] for result in results]
            row = f"seeding={seeding!r}, {title}, {BATCH_SIZE} samples that draw from {name}"
            Row(row, "us a batch over seeding='none'", extra).emit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    helios.core.rng.seed_rngs(0)
    for kind, workers, title in (
        (Ready, 0, IN_TRAINING),
        (ReadyTogether, 0, "__getitems__"),
        (Ready, 1, "one worker"),
    ):
        measure_seeding(kind, workers, title, arguments.batches, arguments.rounds)


if __name__ == "__main__":
    main()
