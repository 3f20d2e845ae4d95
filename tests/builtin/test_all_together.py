"""All built-in plug-ins in one run that is cut after any batch: same weights, table and log."""

import pathlib
from typing import Any

import pytest
from helpers import Make

from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

PLUGINS: list[Any] = [
    "csv",
    "metrics-file",
    "summary",
    "lr-monitor",
    "gradient-norm",
    "anomaly-detection",
    ("early-stopping", {"metric": "accuracy", "mode": "max", "patience": 9}),
    ("plateau", {"metric": "accuracy", "mode": "max", "patience": 0, "factor": 0.5}),
    ("freeze", {"parts": ["net.0.bias"], "until": 1}),
    ("swa", {"start": 1}),
    ("gradient-checkpointing", {"layers": ["net.0"]}),
]
UNITS: dict[str, dict[str, Any]] = {
    "epoch": {"total_steps": 3, "valid_frequency": 1},
    "iteration": {"total_steps": 9, "valid_frequency": 2, "accumulation_steps": 2},
}


def run(make_trainer: Make, root: pathlib.Path, unit: str, stop: int | None) -> Any:
    plugins = [*PLUGINS, StopAfter(stop)]
    trainer = make_trainer(
        plugins=plugins, run_root=root, train_unit=unit, print_frequency=2, **UNITS[unit]
    )
    model = TinyModel()
    trainer.fit(model, TinyDataModule())
    files = {path.name: path.read_bytes() for path in sorted(root.glob("metrics.*"))}
    return model.state_dict(), trainer.plugin_manager.state_dict(), trainer.is_complete, files


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "stops", [(7, 11), pytest.param(range(1, 16), marks=pytest.mark.long)], ids=["two", "all"]
)
def test_a_cut_run_is_the_whole_run(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str, stops: Any
) -> None:
    whole = run(make_trainer, tmp_path / "whole", unit, None)
    assert whole[2]
    for stop in stops:
        root = tmp_path / str(stop)
        run(make_trainer, root, unit, stop)
        found = run(make_trainer, root, unit, None)
        assert equal(found[0], whole[0])
        states = [
            {n: s for n, s in each[1].items() if n != "metrics-file"} for each in (found, whole)
        ]
        assert equal(*states)
        assert found[2:] == whole[2:]
