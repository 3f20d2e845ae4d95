"""The runs in a folder, as their files describe them: plan, hyper-parameters, metrics, checkpoints.

This module reads files only; it needs neither the code of a run nor its plug-ins.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from helios.checkpoints.naming import SHARDED, SUFFIX
from helios.errors import ConfigurationError, nearest

_PLAN = re.compile(r"plan(?:-(\d+))?\.json$")


@dataclasses.dataclass
class Series:
    """The values of a metric in the order in which they were logged.

    Attributes:
        iterations: the number of optimizer steps at each value.
        epochs: the number of the epoch of each value, from 0.
        values: the values; some may not be finite.
    """

    iterations: list[int] = dataclasses.field(default_factory=list)
    epochs: list[int] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the first, last, smallest and largest value, and where the extremes are."""
        finite = [(v, i) for v, i in zip(self.values, self.iterations, strict=True) if v == v]
        smallest, largest = min(finite, default=None), max(finite, default=None)
        return {
            "first": self.values[0],
            "last": self.values[-1],
            "smallest": None if smallest is None else smallest[0],
            "smallest at": None if smallest is None else smallest[1],
            "largest": None if largest is None else largest[0],
            "largest at": next((i for v, i in finite if largest and v == largest[0]), None),
        }


@dataclasses.dataclass
class RunRecord:
    """A run, as its files describe it.

    Attributes:
        name: the folder, with the number of the run if the folder holds several.
        folder: the ``run_root``.
        number: the number of the run in its folder.
        plan: the content of its plan.
        hyper_parameters: the content of ``hyper-parameters.json``; empty for earlier releases.
        metrics: the metrics of training and validation by name.
        tests: the newest results of tests by name.
        epoch: the number of the epoch of the last logged value, from 0.
        iteration: the number of optimizer steps at the last logged value.
        checkpoints: the paths of the checkpoints in the folder, the newest last. All runs of a
            folder share them.
        unreadable: the number of lines of the metrics file that are damaged.
    """

    name: str
    folder: pathlib.Path
    number: int
    plan: dict[str, Any]
    hyper_parameters: dict[str, Any]
    metrics: dict[str, Series] = dataclasses.field(default_factory=dict)
    tests: dict[str, float] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    iteration: int = 0
    checkpoints: list[str] = dataclasses.field(default_factory=list)
    unreadable: int = 0

    @property
    def epoch_number(self) -> int:
        """The number of the epoch of the last logged value, from 1; 0 if no value was logged."""
        return self.epoch + bool(self.iteration)

    @property
    def model(self) -> str:
        """The class of the model; ``""`` if the run is of an earlier release."""
        return str(self.hyper_parameters.get("model", {}).get("class", ""))

    def arguments(self) -> dict[str, Any]:
        """Return all hyper-parameters by ``part.name``."""
        found = {}
        for part in ("model", "data"):
            described = self.hyper_parameters.get(part, {})
            found.update({f"{part}.{k}": v for k, v in described.get("arguments", {}).items()})
        given = self.hyper_parameters.get("trainer", {})
        return found | {f"trainer.{name}": value for name, value in given.items()}

    def plugins(self) -> list[str]:
        """Return the active plug-ins, with their versions."""
        active = self.plan.get("active", [])
        return [f"{entry.get('id')} {entry.get('version', '')}".strip() for entry in active]


def find_runs(root: pathlib.Path) -> list[RunRecord]:
    """Return the runs in a folder and in the folders below it, sorted by name.

    Raises:
        ConfigurationError: the folder does not exist or holds no run.
    """
    if not root.is_dir():
        raise ConfigurationError(
            f"{root} is not a folder: name the run_root of a run, or a folder that holds some."
        )
    plans = sorted(path for path in root.rglob("plan*.json") if _PLAN.match(path.name))
    runs = [run for path in plans for run in _read(path)]
    if not runs:
        raise ConfigurationError(
            f"{root} holds no run: a run with Trainer(run_root=...) leaves a plan.json there."
        )
    return sorted(runs, key=lambda run: (str(run.folder), run.number))


def find_run(name: str) -> RunRecord:
    """Return a run by its folder, with ``#number`` if the folder holds several.

    Raises:
        ConfigurationError: no run has this name, or several do.
    """
    path, mark, number = name.rpartition("#")
    folder = pathlib.Path(path if mark and number.isdigit() else name)
    runs = [run for run in find_runs(folder) if run.folder == folder] or find_runs(folder)
    if mark and number.isdigit():
        runs = [run for run in runs if run.number == int(number)]
    if len(runs) == 1:
        return runs[0]
    known = [run.name for run in find_runs(folder)]
    problem = f"{folder} holds no run of the number {number}" if not runs else "several runs match"
    raise ConfigurationError(
        f"{name}: {problem}.{nearest(name, known)} Name one of {', '.join(known)}."
    )


def _read(plan: pathlib.Path) -> Iterator[RunRecord]:
    content = _read_json(plan)
    if not isinstance(content, dict) or "active" not in content:
        return  # a file of another program
    match, folder = _PLAN.match(plan.name), plan.parent
    assert match is not None, "the caller has matched the name"
    mark = "" if match[1] is None else f"-{match[1]}"
    several = len(list(folder.glob("plan*.json"))) > 1
    number = int(match[1] or 1)
    run = RunRecord(
        name=f"{folder}#{number}" if several else str(folder),
        folder=folder,
        number=number,
        plan=content,
        hyper_parameters=_read_json(folder / f"hyper-parameters{mark}.json") or {},
        checkpoints=_checkpoints(folder),
    )
    _read_metrics(run, folder / f"metrics{mark}.jsonl")
    yield run


def _checkpoints(folder: pathlib.Path) -> list[str]:
    """Return the checkpoints, the newest last, without the links to some of them."""
    root = folder / "checkpoints"
    found = [*root.rglob(f"*{SUFFIX}"), *root.rglob(f"*{SHARDED}")]
    files = [path for path in found if not path.is_symlink()]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
    return [path.relative_to(folder).as_posix() for path in files]


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_metrics(run: RunRecord, path: pathlib.Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for text in lines:
        try:
            line = json.loads(text)
            values = {name: float(value) for name, value in line["metrics"].items()}
            iteration, epoch = int(line["iteration"]), int(line["epoch"])
        except (ValueError, KeyError, TypeError, AttributeError):
            run.unreadable += 1
            continue
        if line.get("phase") == "test":
            run.tests.update(values)
            continue
        run.iteration, run.epoch = max(run.iteration, iteration), max(run.epoch, epoch)
        for name, value in values.items():
            series = run.metrics.setdefault(name, Series())
            series.iterations.append(iteration)
            series.epochs.append(epoch)
            series.values.append(value)


def finite(series: Series) -> list[tuple[int, float]]:
    """Return the finite values with their iterations, for plots."""
    pairs = zip(series.iterations, series.values, strict=True)
    return [(iteration, value) for iteration, value in pairs if math.isfinite(value)]
