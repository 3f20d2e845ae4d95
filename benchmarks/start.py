"""Discovery, registration and freezing of plug-ins: the cost of a start, beside importlib_metadata.

Discovery is measured in folders of strangers, in which no distribution offers a plug-in; the ratio
is taken within a round.

    python benchmarks/start.py [--rounds 5] [--distributions 50 500 5000] [--plugins 1 100 1000]
"""

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import importlib_metadata
from table import Row

import helios
from helios.plugins import PluginManager
from helios.plugins.discovery.entry_points import GROUP, discover


class Idle(helios.Plugin):
    """Implements two hooks."""

    def __init__(self, number: int) -> None:
        super().__init__(f"idle-{number}")

    def setup(self) -> None:
        """Do nothing."""

    def on_training_start(self) -> None:
        """Do nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--distributions", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--plugins", type=int, nargs="+", default=[1, 100, 1000])
    given = parser.parse_args()
    trainers = [trainer() for _ in range(given.rounds + 1)][1:]
    Row("Trainer(autoload=False) without plug-ins", "ms", trainers, 5).emit()
    for count in given.plugins:
        rounds = [registration(count) for _ in range(given.rounds)]
        Row(f"register {count:,} plug-ins", "ms each", [each for each, _ in rounds], 0.9).emit()
        target = 5 if count == 1 else None
        Row(f"freeze {count:,} plug-ins", "ms", [ms for _, ms in rounds], target).emit()
    for count in given.distributions:
        measure_discovery(count, given.rounds)


def milliseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def trainer() -> float:
    return milliseconds(
        lambda: helios.Trainer(total_steps=1, use_cpu=True, print_banner=False, autoload=False)
    )


def registration(count: int) -> tuple[float, float]:
    """Return the time of each registration, and that of freezing all of them."""
    manager, plugins = PluginManager(), [Idle(number) for number in range(count)]
    each = milliseconds(lambda: [manager.register(plugin) for plugin in plugins]) / count
    return each, milliseconds(manager.freeze)


def measure_discovery(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            write_stranger(pathlib.Path(folder), number)
        sys.path.insert(0, folder)
        try:
            theirs, ours = [], []
            for _ in range(rounds + 1):
                theirs.append(milliseconds(lambda: importlib_metadata.entry_points(group=GROUP)))
                ours.append(milliseconds(discover))
        finally:
            sys.path.remove(folder)
    name = f"discovery among {count:,} more distributions"
    ratios = [own / other for own, other in zip(ours[1:], theirs[1:], strict=True)]
    Row(name, "x entry_points()", ratios, 1.1).emit()
    Row(name, "ms", ours[1:]).emit()


def write_stranger(folder: pathlib.Path, number: int) -> None:
    """Write the metadata of a distribution that offers a command."""
    info = folder / f"stranger_{number}-1.0.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: stranger-{number}\nVersion: 1.0\n"
    (info / "METADATA").write_text(text)
    (info / "RECORD").write_text("".join(f"stranger_{number}/{i}.py,,\n" for i in range(20)))
    (info / "entry_points.txt").write_text("[console_scripts]\nstranger = stranger:main\n")


if __name__ == "__main__":
    main()
