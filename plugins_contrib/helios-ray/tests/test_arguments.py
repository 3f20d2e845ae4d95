"""The arguments of the launcher, and the cluster that it uses, without workers."""

import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest
import ray
import torch
from helios_ray import RayLauncher, cluster, driver

import helios
from helios.errors import ConfigurationError, PluginConflictError
from helios.testing import TinyDataModule, TinyModel


def trainer(**arguments: Any) -> helios.Trainer:
    return helios.Trainer(total_steps=3, autoload=False, print_banner=False, **arguments)


def test_plugin_that_is_only_installed_does_not_import_ray() -> None:
    code = "import sys, helios_ray; helios_ray.RayLauncher(2); print('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "2"])
def test_number_of_workers_is_checked(number: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RayLauncher\(num_workers=.*at least 1"):
        RayLauncher(number)


def test_two_launchers_conflict() -> None:
    class Other(helios.Plugin):
        def setup(self) -> None: ...

        @helios.hookimpl
        def launch(self, trainer: Any, target: Any) -> Any:
            return target()

    with pytest.raises(PluginConflictError, match="helios-ray"):
        trainer(use_cpu=True, plugins=[RayLauncher(2), Other("other")])


def test_object_that_cannot_be_sent_is_named() -> None:
    model = TinyModel()
    model.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"TinyModel\.lock cannot be sent"):
        trainer(use_cpu=True, plugins=[RayLauncher(2)]).fit(model, TinyDataModule())


class Engine:
    """Stands in for Ray, without a cluster and without a GPU: what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict[str, Any] = {}
        self.total = {"CPU": 2.0}
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", lambda **arguments: self.asked.update(arguments))
        monkeypatch.setattr(ray, "shutdown", lambda: self.asked.update(is_down=True))
        monkeypatch.setattr(ray, "cluster_resources", lambda: self.total)
        monkeypatch.setattr(ray.util, "placement_group", self.reserve)

    def reserve(self, bundles: Any) -> Any:
        self.asked["bundles"] = bundles
        raise InterruptedError

    def fit(self, launcher: RayLauncher, **arguments: Any) -> helios.Trainer:
        run = trainer(plugins=[launcher], **arguments)
        with pytest.raises(InterruptedError):
            run.fit(TinyModel(), TinyDataModule())
        return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def test_own_cluster_has_a_cpu_for_each_worker_and_ends(engine: Engine) -> None:
    engine.total = {"CPU": 64.0}
    engine.fit(RayLauncher(64), use_cpu=True)
    assert engine.asked["num_cpus"] == 64
    assert engine.asked["bundles"] == [{"CPU": 1.0}] * 64
    assert engine.asked["is_down"]


def test_own_cluster_without_the_resources_is_an_error(engine: Engine) -> None:
    run = trainer(use_cpu=True, plugins=[RayLauncher(2, resources_per_worker={"CPU": 4})])
    with pytest.raises(
        ConfigurationError, match="2 workers with 4 CPU each, but this machine has 2 CPU"
    ):
        run.fit(TinyModel(), TinyDataModule())
    assert engine.asked["is_down"]


def test_cluster_of_the_user_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    engine.fit(RayLauncher(2, resources_per_worker={"CPU": 0.5}), use_cpu=True)
    assert engine.asked == {"bundles": [{"CPU": 0.5}] * 2}


def test_existing_cluster_is_not_given_a_number_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def init(**arguments: Any) -> None:
        calls.append(arguments)
        if "num_cpus" in arguments:
            raise ValueError("When connecting to an existing cluster, num_cpus must not be given.")

    monkeypatch.setattr(ray, "init", init)
    with cluster.connected(2, {"CPU": 1.0}, True) as is_own:
        assert not is_own
    assert calls[1:] == [{}]


# GPUs are a mock: none is here.


def test_workers_have_gpus_if_asked_on_a_host_without_one(engine: Engine) -> None:
    engine.total = {"GPU": 8.0}
    run = engine.fit(RayLauncher(2, use_gpu=True))
    assert engine.asked["bundles"] == [{"GPU": 1.0}] * 2
    assert run.device == torch.device("cuda")
    engine.total = {"GPU": 8.0, "CPU": 8.0}
    engine.fit(RayLauncher(2, use_gpu=True, resources_per_worker={"CPU": 4}))
    assert engine.asked["bundles"] == [{"GPU": 1.0, "CPU": 4}] * 2


def test_workers_have_gpus_if_the_trainer_uses_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    engine.total = {"GPU": 8.0}
    engine.fit(RayLauncher(2))
    assert engine.asked["bundles"] == [{"GPU": 1.0}] * 2
    with pytest.raises(ConfigurationError, match=r"use_gpu=False\) starts workers without GPUs"):
        trainer(plugins=[RayLauncher(2, use_gpu=False)]).fit(TinyModel(), TinyDataModule())
    with pytest.raises(ConfigurationError, match=r"Trainer\(use_cpu=True\) uses none"):
        trainer(use_cpu=True, plugins=[RayLauncher(2, use_gpu=True)]).fit(
            TinyModel(), TinyDataModule()
        )


def test_trainer_of_ray_receives_the_arguments(tmp_path: pathlib.Path) -> None:
    asked = driver.create_engine(lambda: None, 3, {"GPU": 1.0, "CPU": 2.0}, str(tmp_path), 5)
    assert asked.scaling_config.num_workers == 3
    assert asked.scaling_config.use_gpu
    assert asked.scaling_config.resources_per_worker == {"GPU": 1.0, "CPU": 2.0}
    assert asked.run_config.storage_path == str(tmp_path)
    assert asked.run_config.failure_config.max_failures == 5
    assert asked.run_config.failure_config.controller_failure_limit == 30  # not for ever
