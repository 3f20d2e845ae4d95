"""The cost of the Optuna plug-in beside the same run without it.

A run with several objectives, or a fixed trial, costs less: it reports nothing.

    python benchmarks/optuna_plugin.py [--steps 1000] [--rounds 5]
"""

import argparse
import tempfile
from collections.abc import Callable

import optuna
from alternate import Alternation, measure
from loop import Data, Validating
from table import Row

import helios
from helios.plugins.optuna import OptunaPlugin

REPORTS = 10


class Reporting(Validating):
    """Computes the metric that the plug-in reports."""

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
        trainer.fit(Reporting(alternation), Data(steps))
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
