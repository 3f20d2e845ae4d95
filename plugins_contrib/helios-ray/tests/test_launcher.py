"""Runs in the workers of a cluster on this machine."""

import pathlib
from typing import Any

import pytest
from helios_ray import RayLauncher
from models_of_tests import Failing, OnceKilled, OwnError

import helios
from helios.errors import ConfigurationError, PluginConflictError
from helios.testing import TinyDataModule, equal


def trainer(root: pathlib.Path, **arguments: Any) -> helios.Trainer:
    return helios.Trainer(
        total_steps=3,
        use_cpu=True,
        valid_frequency=1,
        chkpt_root=root / "checkpoints",
        chkpt_frequency=1,
        run_root=root / "run",
        enable_progress_bar=False,
        autoload=False,
        **arguments,
    )


def files(root: pathlib.Path) -> list[str]:
    return sorted(file.name for file in (root / "checkpoints").rglob("*.pth"))


@pytest.mark.usefixtures("cluster")
def test_run_whose_worker_was_killed_equals_the_whole_one(tmp_path: pathlib.Path) -> None:
    whole, killed = OnceKilled(), OnceKilled(tmp_path / "marker")
    trainer(tmp_path / "whole", devices=2).fit(whole, TinyDataModule())
    trainer(tmp_path / "killed", plugins=[RayLauncher(2, max_failures=1)]).fit(
        killed, TinyDataModule()
    )
    assert (tmp_path / "marker").exists()
    assert equal(whole.state_dict(), killed.state_dict())
    assert whole.metrics == killed.metrics
    names = [
        sorted(f.name for f in (tmp_path / r / "checkpoints").rglob("*.pth"))
        for r in ("whole", "killed")
    ]
    assert names[0] == names[1]


@pytest.mark.usefixtures("cluster")
def test_error_of_a_worker_keeps_its_type(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OwnError, match="the data are empty") as caught:
        trainer(tmp_path, plugins=[RayLauncher(2)]).fit(Failing(), TinyDataModule())
    assert any("rank 1" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "2"])
def test_number_of_workers_is_checked(number: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RayLauncher\(num_workers=.*at least 1"):
        RayLauncher(number)


def test_two_launchers_conflict(tmp_path: pathlib.Path) -> None:
    class Other(helios.Plugin):
        def setup(self) -> None: ...

        @helios.hookimpl
        def launch(self, trainer: Any, target: Any) -> Any:
            return target()

    with pytest.raises(PluginConflictError, match="helios-ray"):
        trainer(tmp_path, plugins=[RayLauncher(2), Other("other")])
