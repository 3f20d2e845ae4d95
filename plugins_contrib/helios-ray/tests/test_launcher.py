"""Runs in the workers of a cluster that another program has started."""

import contextlib
import logging
import os
import pathlib
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from helios_ray import RayLauncher, cluster
from models_of_tests import Endless, Failing, OnceKilled, OwnError

import helios
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel, equal

pytestmark = pytest.mark.usefixtures("cluster")


def trainer(root: pathlib.Path, **arguments: Any) -> helios.Trainer:
    settings: dict[str, Any] = {
        "total_steps": 3,
        "use_cpu": True,
        "valid_frequency": 1,
        "chkpt_root": root / "checkpoints",
        "chkpt_frequency": 1,
        "run_root": root / "run",
        "autoload": False,
    }
    return helios.Trainer(**{**settings, **arguments})


def launcher(root: pathlib.Path, number: int = 2, **arguments: Any) -> RayLauncher:
    return RayLauncher(number, storage_path=str(root / "ray"), **arguments)


def files(root: pathlib.Path) -> list[str]:
    return sorted(file.name for file in (root / "checkpoints").rglob("*.pth"))


def test_run_whose_worker_was_killed_equals_the_whole_one(tmp_path: pathlib.Path) -> None:
    whole, killed = OnceKilled(), OnceKilled(tmp_path / "marker")
    trainers = [
        trainer(tmp_path / "whole", devices=2),
        trainer(tmp_path / "killed", plugins=[launcher(tmp_path, max_failures=1)]),
    ]
    for each, model in zip(trainers, (whole, killed), strict=True):
        each.fit(model, TinyDataModule())
    assert (tmp_path / "marker").exists()
    killed.marker = None
    assert equal(whole.state_dict(), killed.state_dict())
    assert whole.metrics == killed.metrics
    assert files(tmp_path / "whole") == files(tmp_path / "killed")
    first, second = trainers
    assert first.state.current_iteration == second.state.current_iteration > 6
    assert [(each.reason, each.author) for each in second.stop_requests] == [
        ("it is enough", "the model")
    ]
    assert first.stop_requests == second.stop_requests
    assert [each.id for each in second.plan.active] == ["ray"]
    assert not ray.is_initialized()


@pytest.mark.parametrize("failures", [0, pytest.param(1, marks=pytest.mark.long)])
def test_error_of_a_worker(tmp_path: pathlib.Path, failures: int) -> None:
    log = tmp_path / "steps"
    arguments: dict[str, Any] = {"chkpt_root": None, "chkpt_frequency": None, "run_root": None}
    failing = trainer(tmp_path, plugins=[launcher(tmp_path, max_failures=failures)], **arguments)
    failing.train_exceptions.append(OwnError)
    with pytest.raises(OwnError, match="no data in step 4") as caught:
        failing.fit(Failing(log), TinyDataModule())
    assert log.read_text().split() == [*"1234"] * (failures + 1)  # it began again
    assert caught.value.step == 4
    notes = "\n".join(caught.value.__notes__)
    assert f"raised in the worker of Ray with rank 1 on {os.uname().nodename}:\nTraceback" in notes
    assert 'raise OwnError(4, what="no data")' in notes
    assert "Helios was training" in notes
    assert "in launch of plug-in" not in notes
    assert failing.state.current_iteration == 4


def test_model_that_no_worker_can_import(tmp_path: pathlib.Path) -> None:
    module = types.ModuleType("only_here")
    model = types.new_class("Lost", (TinyModel,), exec_body=lambda body: None)
    model.__module__, module.Lost = "only_here", model  # type: ignore[attr-defined]
    sys.modules["only_here"] = module
    started = time.monotonic()
    try:
        with pytest.raises(ConfigurationError, match="No module named 'only_here'") as caught:
            trainer(tmp_path, plugins=[launcher(tmp_path, 1)]).fit(model(), TinyDataModule())
    finally:
        del sys.modules["only_here"]
    assert "runtime_env={'working_dir': '.'}" in str(caught.value)
    assert f"rank 0 on {os.uname().nodename}" in str(caught.value)
    assert time.monotonic() - started < 120


@contextlib.contextmanager
def ctrl_c_after(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Interrupt this process as soon as a file exists."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            if (folder / name).exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.long
def test_ctrl_c_saves_and_leaves_nothing_running(tmp_path: pathlib.Path) -> None:
    plugins = [launcher(tmp_path, max_failures=1)]
    run = trainer(tmp_path, total_steps=100_000, chkpt_frequency=90_000, plugins=plugins)
    with ctrl_c_after(tmp_path, "pid-1"), pytest.raises(KeyboardInterrupt):
        run.fit(Endless(tmp_path), TinyDataModule(valid_size=0))
    assert [each.reason for each in run.stop_requests] == ["received SIGINT"]
    assert run.state.current_iteration >= 3
    assert files(tmp_path)[-1].endswith(f"iter_{run.state.current_iteration}.pth")
    end = time.monotonic() + 60
    for rank in (0, 1):
        process = int((tmp_path / f"pid-{rank}").read_text())
        while pathlib.Path(f"/proc/{process}/cmdline").exists():
            assert time.monotonic() < end, f"process {process} still runs"
            threading.Event().wait(0.1)


def test_too_few_resources_are_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(logging.Handler):
        """A user who presses Ctrl-C when the run says that it waits."""

        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())
            raise KeyboardInterrupt

    messages: list[str] = []
    plugin = launcher(tmp_path, resources_per_worker={"CPU": 64, "memory": 1})
    monkeypatch.setattr(cluster, "_SHORT", 0.2)
    logger, handler = logging.getLogger("helios.ray"), Impatient()
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, plugins=[plugin]).fit(TinyModel(), TinyDataModule())
    finally:
        logger.removeHandler(handler)
    assert "asks for 2 workers with 64 CPU, 1 memory each, and waits for them" in messages[0]
    assert "The cluster has 2 CPU" in messages[0]
