"""What the loop costs in two releases of Helios, measured in one run.

Each release runs in a process of its own, beside the same bare PyTorch loop. The processes take
turns, so that both meet the same conditions; differences are taken within a round.

    python benchmarks/against.py OTHER/src [--steps 1000] [--rounds 25]
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
VARIANTS = ["bare", "with_helios", "bare_without_steps", "no_step"]


def serve() -> None:
    """Run a variant for each line of input: its name, and the number of steps."""
    import loop
    import torch

    torch.set_num_threads(1)
    runs = {
        "bare": loop.bare,
        "with_helios": loop.with_helios(),
        "bare_without_steps": loop.bare_without_steps,
        "no_step": loop.with_helios(kind=loop.NoStep),
    }
    for line in sys.stdin:
        name, steps = line.split()
        print(runs[name](int(steps)) / int(steps) * 1e6, flush=True)


class Release:
    """A process that runs the variants with one release."""

    def __init__(self, source: pathlib.Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def measure(self, variant: str, steps: int) -> float:
        """Return the microseconds of a step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(variant, steps, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=pathlib.Path, nargs="?")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if arguments.other is None:
        parser.error("the folder of the other release's source is missing")
    releases = {
        "other": Release(arguments.other.resolve()),
        "this": Release(HERE.parent / "src"),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds + 1):
        for variant in VARIANTS:
            for name, release in releases.items():
                value = release.measure(variant, arguments.steps)
                if number:  # the first round warms up
                    times.setdefault((name, variant), []).append(value)
    for release in releases.values():
        release.close()
    for base, variant in (("bare", "with_helios"), ("bare_without_steps", "no_step")):
        for name in releases:
            extra = [
                mine - other
                for mine, other in zip(times[name, variant], times[name, base], strict=True)
            ]
            print(
                f"{name:6} {variant:12} {statistics.median(extra):+7.2f} us a step over {base}"
                f" ({min(extra):+.2f} to {max(extra):+.2f}),"
                f" {statistics.median(times[name, variant]):.2f} whole"
            )


if __name__ == "__main__":
    main()
