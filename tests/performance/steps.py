"""Runs whose steps are counted: of instructions of Python, of calls, and of the processor.

As a script under ``valgrind``, it counts the instructions of the processor; see
``test_instructions.py``.
"""

import ctypes
import gc
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import helios

OnStep = Callable[[int], None]
WARM = 20
"""The steps before the first that is counted."""


class Ready(Dataset[Any]):
    """Samples that exist already and draw no random numbers."""

    def __init__(self, count: int) -> None:
        self.sample = torch.zeros(8, 4), torch.zeros(8, dtype=torch.long)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.sample


def first(samples: list[Any]) -> Any:
    return samples[0]


class Data(helios.DataModule):
    """Batches that exist already."""

    def __init__(self, steps: int, batch_size: int, seeding: str) -> None:
        super().__init__()
        self._count = steps * batch_size
        self._params = {"collate_fn": first, "seeding": seeding, "batch_size": batch_size}

    def setup(self) -> None:
        self._train_dataset = self._create_dataset(Ready(self._count), self._params)
        self._valid_dataset = self._create_dataset(Ready(1), self._params)


class Empty(helios.Model):
    """Does nothing in a step."""

    def __init__(self, on_step: OnStep) -> None:
        super().__init__("counted")
        self._on_step = on_step
        self._steps = 0

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        self._on_step(self._steps)
        self._steps += 1
        self.step(batch)

    def step(self, batch: Any) -> None:
        """Do the work of a step."""


class Validating(Empty):
    """Has a validation."""

    def valid_step(self, batch: Any, step: int) -> None: ...


class Optimizing(Empty):
    """Takes its steps through Helios."""

    def step(self, batch: Any) -> None:
        self.optimize(nn.functional.cross_entropy(self.net(batch[0]), batch[1]), self.optimizer)


class ByHand(Empty):
    """Takes its steps itself."""

    def step(self, batch: Any) -> None:
        nn.functional.cross_entropy(self.net(batch[0]), batch[1]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class LoggingTensor(Empty):
    """Logs a tensor in each step."""

    value = torch.tensor(1.0)

    def step(self, batch: Any) -> None:
        self.log("loss", self.value)


class LoggingNumber(LoggingTensor):
    """Logs a number in each step."""

    value: Any = 1.0


class Busy(helios.Plugin):
    """Is called at the end of each batch."""

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any, state: helios.TrainingState) -> None: ...


class Idle(helios.Plugin):
    """Is not called in a step."""

    def setup(self) -> None: ...


def fit(
    on_step: OnStep,
    steps: int,
    kind: type[Empty] = Empty,
    *plugins: helios.Plugin,
    batch_size: int = 1,
    seeding: str = "none",
    **arguments: Any,
) -> None:
    """Train, and call a function at the beginning of each step."""
    settings = {"train_unit": "iteration", "total_steps": steps, **arguments}
    trainer = helios.Trainer(
        **settings, use_cpu=True, print_banner=False, autoload=False, plugins=plugins
    )
    trainer.fit(kind(on_step), Data(steps, batch_size, seeding))


def fit_configured(on_step: OnStep, steps: int) -> None:
    """Train with frequencies that are not reached, and a folder for checkpoints."""
    frequencies = dict.fromkeys(["print_frequency", "valid_frequency", "chkpt_frequency"], 10**6)
    with tempfile.TemporaryDirectory() as folder:
        fit(on_step, steps, Validating, chkpt_root=folder, **frequencies)


RUNS: dict[str, Callable[[OnStep, int], None]] = {
    "empty step": fit,
    "empty step, in epochs": lambda on_step, steps: fit(
        on_step, steps, train_unit="epoch", total_steps=1
    ),
    "configured, but not due": fit_configured,
    "step through optimize": lambda on_step, steps: fit(on_step, steps, Optimizing),
    "step by hand": lambda on_step, steps: fit(on_step, steps, ByHand),
    "logs a tensor": lambda on_step, steps: fit(on_step, steps, LoggingTensor),
    "logs a number": lambda on_step, steps: fit(on_step, steps, LoggingNumber),
    "logs a tensor for loggers": lambda on_step, steps: fit(
        on_step, steps, LoggingTensor, print_frequency=10**6
    ),
    "logs a number for loggers": lambda on_step, steps: fit(
        on_step, steps, LoggingNumber, print_frequency=10**6
    ),
    "10 plug-ins at each batch's end": lambda on_step, steps: fit(
        on_step, steps, Empty, *[Busy(f"busy-{i}") for i in range(10)]
    ),
    "100 idle plug-ins": lambda on_step, steps: fit(
        on_step, steps, Empty, *[Idle(f"idle-{i}") for i in range(100)]
    ),
    "batch of 32 samples, seeding='none'": lambda on_step, steps: fit(
        on_step, steps, batch_size=32
    ),
    "batch of 32 samples, seeded": lambda on_step, steps: fit(
        on_step, steps, batch_size=32, seeding="sample"
    ),
}
"""The runs to count, by their names in ``counts.json``."""


def bare(on_step: OnStep, steps: int) -> None:
    """Go through the batches without Helios."""
    loader = DataLoader(Ready(steps), collate_fn=first)
    for step, _ in enumerate(loader):
        on_step(step)


def main() -> None:
    """Count some steps of each named run with valgrind's callgrind."""
    library, steps, *names = sys.argv[1:]
    valgrind = ctypes.CDLL(library)
    torch.set_num_threads(1)
    for name in names:

        def on_step(step: int, name: str = name) -> None:
            if step == WARM:
                # Objects that exist elsewhere decide when a collection falls into the steps.
                gc.collect()
                gc.disable()
                valgrind.start()
            if step == WARM + int(steps):
                valgrind.stop(name.encode())
                gc.enable()

        run = bare if name == "bare" else RUNS[name]
        run(on_step, WARM + int(steps) + 1)


if __name__ == "__main__":
    main()
