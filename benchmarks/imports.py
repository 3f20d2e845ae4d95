"""The time of imports beside ``import torch``, each in a process of its own.

Times are those of the processor: other programs then disturb less.

    python benchmarks/imports.py [--rounds 5]
"""

import argparse
import resource
import subprocess
import sys

from table import Row

_ALL = "import torch, helios; [getattr(helios, name) for name in helios.__all__]"
_STEP = "torch.optim.SGD([torch.zeros(1)], lr=1.0)"
RATIOS = [
    ("import helios, torch", "import helios, torch", "import torch", 1.03),
    ("all public names", _ALL, "import torch", None),
    ("all public names, and an optimizer", f"{_ALL}; {_STEP}", f"import torch; {_STEP}", 1.03),
]


def milliseconds(*arguments: str) -> float:
    """Return the time of the processor that a new interpreter takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name, code, base, target in RATIOS:
        ratios = []
        for number in range(arguments.rounds + 1):
            ratio = milliseconds("-c", code) / milliseconds("-c", base)
            if number:  # the first one fills caches
                ratios.append(ratio)
        Row(name, "x import torch", ratios, target).emit()
    times = [milliseconds("-m", "helios.cli", "--help") for _ in range(arguments.rounds)]
    Row("helios --help", "ms", times).emit()


if __name__ == "__main__":
    main()
