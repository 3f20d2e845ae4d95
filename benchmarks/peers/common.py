"""Functions that the scripts of the peers share. They need ``benchmarks`` in ``PYTHONPATH``."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable

from alternate import Alternation, measure
from table import Row

STEPS, ROUNDS = 1000, 5
Fit = Callable[[int], Alternation]


def report(
    name: str, module: str | None, step: Fit, hooks: dict[str, Fit], steps: int = STEPS
) -> None:
    """Measure what the first argument of the script names, and print the rows.

    Args:
        name: the distribution of the peer.
        module: the module that a user imports; ``None`` not to measure its import.
        step: a function that trains some steps.
        hooks: the same with callbacks, by the name of the row.
        steps: the number of steps in a round.
    """
    by = f"{name} {importlib.metadata.version(name)}"
    if sys.argv[1] == "loop":
        (found,) = measure({"step": step}, steps, ROUNDS).values()
        extras = [one.extra() for one in found]
        Row("epochs, the usual step", "us a step over the raw loop", extras, by=by).emit()
    elif sys.argv[1] == "hooks":
        both = measure({"none": step, **hooks}, steps, ROUNDS)
        base = [one.extra() for one in both.pop("none")]
        for row, found in both.items():
            extras = [one.extra() - none for one, none in zip(found, base, strict=True)]
            Row(row, "us a step over no callback", extras, by=by).emit()
    elif module is not None:
        ratios = [_ratio_of_imports(module) for _ in range(ROUNDS)]
        Row(f"import {module}, torch", "x import torch", ratios, by=by).emit()


def _ratio_of_imports(module: str) -> float:
    """Return the time to import PyTorch and then a module, over that of PyTorch alone."""
    code = (
        "import time; times = [time.perf_counter()]; import torch;"
        " times.append(time.perf_counter())"
        f"; import {module}; print((time.perf_counter() - times[0]) / (times[1] - times[0]))"
    )
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
