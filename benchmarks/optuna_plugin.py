"""The cost of the Optuna plug-in beside the same run without it.

A run with several objectives, or a fixed trial, costs less: it reports nothing.

    python benchmarks/optuna_plugin.py [--steps 1000] [--rounds 5]
"""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import optuna
from alternate import Alternation, Features, first, loss_of, measure, network, optimizer_of
from table import Row

import helios
from helios.plugins.optuna import OptunaPlugin

REPORTS = 10


class Data(helios.DataModule):
    """Batches that exist already."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def setup(self) -> None:
        """Create the datasets."""
        params = {"batch_size": 1, "collate_fn": first, "seeding": "none"}
        self._train_dataset = self._create_dataset(Features(self._steps), params)
        self._valid_dataset = self._create_dataset(Features(1), params)


class Model(helios.Model):
    """The network of the raw loop."""

    def __init__(self, alternation: Alternation) -> None:
        super().__init__("bench")
        self._alternation = alternation

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.net = self.prepare(network())
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        """Take a step."""
        self._alternation.tick()
        self.optimize(loss_of(self.net, batch), self.optimizer)

    def on_validation_end(self, validation_cycle: int) -> None:
        """Compute the reported metric."""
        self.metrics["score"] = float(validation_cycle)


def fit(url: str | None) -> Callable[[int], Alternation]:
    def run(steps: int) -> Alternation:
        alternation = Alternation()
        plugins = []
        if url is not None:
            study = optuna.create_study(storage=url or None, pruner=optuna.pruners.NopPruner())
            plugins = [OptunaPlugin(study.ask(), "score")]
        trainer = helios.Trainer(
            train_unit="iteration",
            total_steps=steps,
            valid_frequency=max(1, steps // REPORTS),
            use_cpu=True,
            print_banner=False,
            autoload=False,
            plugins=plugins,
        )
        trainer.fit(Model(alternation), Data(steps))
        return alternation

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            "no plug-in": fit(None),
            "a study in memory": fit(""),
            "a study in SQLite": fit(f"sqlite:///{folder}/study.db"),
        }
        found = measure(variants, arguments.steps, arguments.rounds)
    base = found.pop("no plug-in")
    for name, rounds in found.items():
        # Each is divided by the raw loop beside it first, which was as fast or slow as it.
        pairs = zip(rounds, base, strict=True)
        ratios = [mine.ratio() / other.ratio() for mine, other in pairs]
        Row(f"Optuna plug-in, {name}", "x the same run without it", ratios, 1.03).emit()


if __name__ == "__main__":
    main()
