"""The cost of a step beside the loop that a user writes, for each way to use Helios.

The model is tiny on purpose, so that the cost of the loop shows: a step takes some 250 us.

    python benchmarks/loop.py [--steps 1000] [--rounds 5] [--hooks]
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from alternate import Alternation, Features, first, loss_of, measure, network, optimizer_of
from table import Row

import helios
from helios.plugins.builtin.progress import ProgressPlugin


class Data(helios.DataModule):
    """Batches that exist already."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def setup(self) -> None:
        """Create the datasets."""
        # The raw loop does not seed its samples either; benchmarks/data.py measures that.
        params = {"collate_fn": first, "seeding": "none"}
        self._train_dataset = self._create_dataset(Features(self.steps), params)
        self._valid_dataset = self._create_dataset(Features(1), params)


class Bench(helios.Model):
    """The network of the raw loop, with its step through ``optimize``."""

    def __init__(self, alternation: Alternation, tensors: int = 4) -> None:
        super().__init__("bench")
        self._tick = alternation.tick  # not the object: Helios would find the raw optimizer in it
        self._tensors = tensors

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network(self._tensors))
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self._tick()
        self.optimize(loss_of(self.net, batch), self.optimizer)


class ByHand(Bench):
    """Takes the step itself."""

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self._tick()
        loss_of(self.net, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Logging(Bench):
    """Logs the loss of each step."""

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step, and log its loss."""
        self._tick()
        loss = loss_of(self.net, batch)
        self.log("loss", loss)
        self.optimize(loss, self.optimizer)


class LoggingNumber(Bench):
    """Logs a number in each step."""

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step, and log a number."""
        self._tick()
        self.log("one", 1.0)
        self.optimize(loss_of(self.net, batch), self.optimizer)


class LoggingWeighted(Bench):
    """Logs the loss of each step, with the number of its samples."""

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step, and log its loss."""
        self._tick()
        loss = loss_of(self.net, batch)
        self.log("loss", loss, weight=len(batch[1]))
        self.optimize(loss, self.optimizer)


class Validating(Bench):
    """Has a validation."""

    def valid_step(self, batch: Any, step: int) -> None:
        """Do nothing."""


class Idle(helios.Plugin):
    """Implements nothing that is called per step."""

    def setup(self) -> None:
        """Do nothing."""


class Busy(Idle):
    """Is called at the end of each batch."""

    def on_training_batch_end(self, outputs: object, state: helios.TrainingState) -> None:
        """Do nothing."""


class Listen(Idle):
    """Receives what is logged."""

    def on_log(self, metrics: dict[str, float], state: helios.TrainingState) -> None:
        """Do nothing."""


def fit(
    kind: type[Bench] = Bench, *plugins: helios.Plugin, tensors: int = 4, **arguments: Any
) -> Callable[[int], Alternation]:
    """Return a function that trains beside the raw loop, and checks that both learn the same."""

    def run(steps: int) -> Alternation:
        alternation = Alternation(network(tensors))
        settings = {"train_unit": "iteration", "total_steps": steps, **arguments}
        if settings["train_unit"] == "epoch":
            settings["total_steps"] = 1
        model = kind(alternation, tensors)
        helios.Trainer(
            **settings, use_cpu=True, print_banner=False, autoload=False, plugins=plugins
        ).fit(model, Data(steps))
        mine, raw = model.net.state_dict(), alternation.net.state_dict()
        assert all(torch.equal(mine[name], raw[name]) for name in raw), "other weights"
        return alternation

    return run


def configured(steps: int) -> Alternation:
    """Train with frequencies that are not reached."""
    frequencies = dict.fromkeys(["print_frequency", "valid_frequency", "chkpt_frequency"], 10**6)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(Validating, Listen("listen"), chkpt_root=folder, **frequencies)
        return run(steps)


def with_progress_bar(steps: int) -> Alternation:
    """Train with a progress bar on a terminal, whose output nobody reads."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with contextlib.redirect_stderr(Terminal()):
        return fit(Bench, ProgressPlugin())(steps)


def many(kind: type[Idle], count: int) -> list[Idle]:
    return [kind(f"{kind.__name__}-{i}") for i in range(count)]


LOOP: dict[str, tuple[Callable[[int], Alternation], float | None]] = {
    "epochs, step through optimize": (fit(train_unit="epoch"), 0),
    "epochs, step by hand": (fit(ByHand, train_unit="epoch"), 5),
    "iterations": (fit(), 5),
    "configured, but not due": (configured, 6),
    "one tensor logged each step": (fit(Logging, train_unit="epoch"), 10),
    "one tensor logged each step, with a weight": (
        fit(LoggingWeighted, train_unit="epoch"),
        10,
    ),
    "one number logged each step": (fit(LoggingNumber, train_unit="epoch"), 10),
    "progress bar on": (with_progress_bar, 10),
    "network of 10 tensors": (fit(tensors=10, train_unit="epoch"), None),
    "network of 100 tensors": (
        lambda steps: fit(tensors=100, train_unit="epoch")(steps // 4),  # its steps take longer
        None,
    ),
    "network of 1,000 tensors": (
        lambda steps: fit(tensors=1000, train_unit="epoch")(steps // 10),
        None,
    ),
}
HOOKS: dict[str, tuple[Callable[[int], Alternation], float | None]] = {
    "no plug-in": (fit(), None),
    "10 plug-ins at each batch's end": (fit(Bench, *many(Busy, 10)), 2),
    "100 plug-ins at each batch's end": (fit(Bench, *many(Busy, 100)), 10),
    "10 idle plug-ins": (fit(Bench, *many(Idle, 10)), 0),
    "100 idle plug-ins": (fit(Bench, *many(Idle, 100)), 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hooks", action="store_true", help="measure plug-ins only")
    arguments = parser.parse_args()
    variants = HOOKS if arguments.hooks else LOOP
    runs = {name: run for name, (run, _) in variants.items()}
    found = measure(runs, arguments.steps, arguments.rounds)
    base = [one.extra() for one in found["no plug-in"]] if arguments.hooks else None
    for name, (_, target) in variants.items():
        extras = [one.extra() for one in found[name]]
        if base is None or name == "no plug-in":
            Row(name, "us a step over the raw loop", extras, target).emit()
            if "epochs, step through" in name:
                Row(name, "x the raw loop", [one.ratio() for one in found[name]], 1).emit()
        else:
            more = [mine - other for mine, other in zip(extras, base, strict=True)]
            Row(name, "us a step over no plug-in", more, target).emit()


if __name__ == "__main__":
    main()
