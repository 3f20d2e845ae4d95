"""The cost of saving and loading beside torch.save with fsync and torch.load.

The variants take turns; ratios are taken within a round.

    python benchmarks/checkpoint.py [--megabytes 10 100 1000] [--rounds 5] [--folder FOLDER]
"""

import argparse
import gc
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import peak_memory
import torch
from table import Row

from helios.checkpoints import folder as folders
from helios.checkpoints import storage
from helios.checkpoints.naming import SUFFIX, Position, format_name
from helios.checkpoints.snapshot import Snapshots

WAITS = {100: 12, 1000: 93}
"""The milliseconds for which a background save of so many MB blocked training in release 0.2."""


def state(megabytes: int) -> dict[str, Any]:
    """Return a state of this size, in 20 tensors."""
    return {f"layer-{i}": torch.randn(megabytes * 10**6 // 4 // 20) for i in range(20)}


def torch_save(payload: dict[str, Any], path: pathlib.Path) -> None:
    with open(path, "wb") as file:
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())


def torch_load(path: pathlib.Path) -> Any:
    return torch.load(path, weights_only=True)


def milliseconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def peak(action: Callable[[], Any]) -> float:
    """Return the memory that an action and its result add at their peak, in MB."""
    gc.collect()
    before = peak_memory.reset()
    kept = action()  # what was loaded must exist until the peak is read
    added = peak_memory.read() - before
    del kept
    return added


def measure(root: pathlib.Path, megabytes: int, rounds: int) -> None:
    """Measure one size."""
    payload, snapshots = state(megabytes), Snapshots()
    theirs, ours = root / "theirs.pth", root / "ours.pth"
    actions: dict[str, Callable[[], Any]] = {
        "torch.save": lambda: torch_save(payload, theirs),
        "save": lambda: storage.save(payload, ours),
        "torch.load": lambda: torch_load(theirs),
        "load": lambda: storage.load(ours),
        "copy": lambda: snapshots.take(payload),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            value = milliseconds(action)
            if number:  # the first round warms up
                times[name].append(value)
    size = f"{megabytes:,} MB"
    for base, name in (("torch.save", "save"), ("torch.load", "load")):
        pairs = zip(times[name], times[base], strict=True)
        Row(f"{name} {size}", f"x {base}", [mine / their for mine, their in pairs], 1.5).emit()
        Row(f"{name} {size}", "ms", times[name], memory=peak(actions[name])).emit()
        memory = peak(actions[base])
        Row(f"{name} {size}", "ms", times[base], by="PyTorch", memory=memory).emit()
    row = f"wait of training for a background save of {size}"
    memory = peak(lambda: Snapshots().take(payload))
    Row(row, "ms", times["copy"], WAITS.get(megabytes), memory=memory).emit()
    theirs.unlink()
    ours.unlink()


def measure_folders(root: pathlib.Path, rounds: int) -> None:
    """Measure the search for the newest checkpoint among many."""
    for count in (10, 100, 1000):
        folder = root / str(count)
        folder.mkdir()
        storage.save({"x": 1}, folder / "one")
        for number in range(count):
            os.link(folder / "one", folder / (format_name("net", Position(1, number)) + SUFFIX))
        times = [
            milliseconds(lambda: folders.find_last_checkpoint(folder))  # noqa: B023
            for _ in range(rounds + 1)
        ]
        Row(f"find the newest of {count:,} checkpoints", "ms", times[1:]).emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="on the disk to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for megabytes in arguments.megabytes:
            measure(pathlib.Path(folder), megabytes, arguments.rounds)
        measure_folders(pathlib.Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
