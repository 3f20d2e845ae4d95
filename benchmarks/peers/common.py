"""Functions that the scripts of the peers share. They need ``benchmarks`` in ``PYTHONPATH``."""

import importlib.metadata
import subprocess
import sys
import time
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
        ratios = [_seconds(f"import torch, {module}") / _seconds("import torch") for _ in range(5)]
        Row(f"import {module}, torch", "x import torch", ratios, by=by).emit()


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started
