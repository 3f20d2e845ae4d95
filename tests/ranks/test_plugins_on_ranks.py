"""The plug-ins of Helios and of its packages on two ranks: one set of files, one average."""

import json
import os
import pathlib
from typing import Any

import pytest
from started_ranks import StartRanks
from test_like_one_process import Data, Whole

from helios import Trainer

PLUGINS = ["ema", "tensorboard", "metrics-file", "csv", "gradient-norm", "throughput", "nan-guard"]


def train(folder: str) -> Any:
    pytest.importorskip("tensorboard")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = Trainer(
        total_steps=6,
        train_unit="iteration",
        print_frequency=2,
        valid_frequency=3,
        chkpt_frequency=3,
        use_cpu=True,
        print_banner=False,
        run_root=folder,
        autoload=False,
        plugins=[*PLUGINS],
    )
    model = Whole()
    trainer.fit(model, Data(8 // ranks))
    average = trainer.plugins["ema"].state_dict()
    flat = [tensor.reshape(-1).tolist() for tensor in _tensors(average)]
    return [number for each in flat for number in each], model.metrics["loss"]


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [each for item in value.values() for each in _tensors(item)]
    if isinstance(value, list | tuple):
        return [each for item in value for each in _tensors(item)]
    return [value] if hasattr(value, "reshape") else []


def test_plugins_leave_one_set_of_files(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    env = {"HELIOS_DISABLE_PLUGIN_AUTOLOAD": "1"}
    (alone,) = ranks(1, train, str(tmp_path / "alone"), env=env)
    first, second = ranks(2, train, str(tmp_path / "two"), env=env)
    assert first.result == second.result
    assert first.result[0] == pytest.approx(alone.result[0], abs=1e-5)
    assert first.result[1] == pytest.approx(alone.result[1], abs=1e-5)
    names = [_files(tmp_path / name) for name in ("alone", "two")]
    assert names[0] == names[1]
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "two")
    ]
    assert len(lines[0]) == len(lines[1])
    name = "gradient-norm/optimizer"
    norms = [[x["metrics"][name] for x in each if name in x["metrics"]] for each in lines]
    assert len(norms[0]) == 3
    assert norms[0] == pytest.approx(norms[1], abs=1e-5)


def _files(folder: pathlib.Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    names = [str(path.relative_to(folder)) for path in found]
    return sorted("events" if "tfevents" in name else name for name in names)
