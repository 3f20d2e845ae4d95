"""``tune``: a search in one process or several, whole or cut."""

import contextlib
import functools
import importlib.util
import json
import math
import os
import pathlib
import random
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from helpers import UserError, files
from searches import Pruner, Scoring, States

import helios
from helios.errors import ConfigurationError, StudyError
from helios.plugins.optuna import search as search_module
from helios.plugins.optuna import tune
from helios.testing import TinyDataModule

PROGRAM = pathlib.Path(__file__).with_name("digits.py")
TRIALS = 30
SPACE = {
    "value": optuna.distributions.FloatDistribution(0, 100),
    "kind": optuna.distributions.CategoricalDistribution(["a", None]),
    "count": optuna.distributions.IntDistribution(2, 8, step=2),
}


def model(value: float, kind: Any, count: int) -> Scoring:
    return Scoring(value)


@pytest.fixture
def search(tmp_path: pathlib.Path) -> Any:
    def run(make_model: Any = model, n_trials: int = 4, **arguments: Any) -> Any:
        defaults = {
            "data": TinyDataModule(),
            "space": SPACE,
            "trainer": functools.partial(
                helios.Trainer,
                total_steps=2,
                valid_frequency=1,
                chkpt_frequency=1,
                use_cpu=True,
                print_banner=False,
            ),
            "metric_name": "score",
            "root": tmp_path / "search",
            "verbose": False,
        }
        return tune(make_model, n_trials=n_trials, **{**defaults, **arguments})

    return run


def parameters(study: Any) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def states(study: Any) -> list[Any]:
    return [trial.state for trial in study.trials]


# A search that is killed.


def test_killed_search_equals_one_that_was_not(python: list[str], tmp_path: pathlib.Path) -> None:
    """Over scikit-learn's digits, killed five times at random moments."""
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")

    def run(folder: str, kill_at: int = -1) -> Any:
        command = [*python, str(PROGRAM), str(tmp_path / folder), str(TRIALS), str(kill_at)]
        process = subprocess.run(command, stdout=subprocess.PIPE, timeout=300, check=False)
        if kill_at >= 0:
            assert process.returncode == -signal.SIGKILL
            return None
        assert process.returncode == 0
        return json.loads(process.stdout)

    whole = run("whole")
    kinds = [state for _, state, *_ in whole["trials"]]
    assert kinds.count("PRUNED") >= TRIALS / 3
    assert max(value for _, _, _, value, _ in whole["trials"]) >= 0.98
    seed = random.SystemRandom().randrange(2**31)
    choose = random.Random(seed)
    moments = [choose.randrange(whole["opened"] // 8) for _ in range(5)]
    for moment in moments:
        run("killed", moment)
    assert run("killed")["trials"] == whole["trials"], f"seed {seed}, killed at {moments}"


class Death(BaseException):
    """Ends a search."""


@contextlib.contextmanager
def counted(storage: Any, limit: float = math.inf) -> Iterator[list[int]]:
    """Count the calls of a storage; die at the call with the number ``limit``."""
    calls = [0]

    def counting(method: Any) -> Any:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            if calls[0] == limit:
                raise Death
            calls[0] += 1
            return method(*arguments, **keywords)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in dir(storage):
            if not name.startswith("_") and callable(getattr(storage, name)):
                patch.setattr(storage, name, counting(getattr(storage, name)))
        yield calls


MOMENTS = 13


def test_search_that_dies_while_it_suggests(search: Any, tmp_path: pathlib.Path) -> None:
    """Whatever it has written to the storage, the next one suggests the same."""
    storage = optuna.storages.InMemoryStorage()
    with counted(storage) as calls:  # more of them if plotly is installed
        whole = search(storage=storage, n_trials=3, root=tmp_path / "whole")
    for moment in range(0, calls[0], calls[0] // MOMENTS):
        root, storage = tmp_path / str(moment), optuna.storages.InMemoryStorage()
        with pytest.raises(Death), counted(storage, moment):
            search(storage=storage, n_trials=3, root=root)
        study = search(storage=storage, n_trials=3, root=root)
        assert parameters(study) == parameters(whole), moment
        assert states(study) == [States.COMPLETE] * 3, moment


# What it does.


def test_each_trial_has_a_folder(search: Any, tmp_path: pathlib.Path) -> None:
    study = search()
    assert states(study) == [States.COMPLETE] * 4
    assert [trial.value for trial in study.trials] == [t.params["value"] + 1 for t in study.trials]
    for number in range(4):
        folder = tmp_path / "search" / f"trial-{number}"
        assert (folder / "plan.json").exists()
        assert len(list(files(folder, "**/*.pth"))) == 2


def test_search_is_extended(search: Any) -> None:
    assert len(search(n_trials=2).trials) == 2
    study = search(n_trials=3)
    assert len(study.trials) == 3
    assert len({trial.params["value"] for trial in study.trials}) == 3


def test_enqueued_trials_come_first(search: Any) -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="study", storage=storage)
    study.enqueue_trial({"value": 7.0})
    assert parameters(search(storage=storage, n_trials=2))[0]["value"] == 7.0


def test_pruned_trials(search: Any) -> None:
    study = search(pruner=Pruner(0), n_trials=2)
    assert states(study) == [States.PRUNED] * 2


def test_data_of_each_trial(search: Any) -> None:
    sizes = []

    def data(count: int, **others: Any) -> TinyDataModule:
        sizes.append(count)
        return TinyDataModule(4 * count)

    study = search(data=data, n_trials=2)
    assert sizes == [trial.params["count"] for trial in study.trials]


def test_failed_trial_ends_the_search(search: Any) -> None:
    def failing(**parameters: Any) -> Scoring:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model") as caught:
        search(failing)
    assert caught.value.__notes__[0].startswith(
        "in trial 0 of the search, with the parameters {'value': "
    )
    assert states(search(n_trials=2)) == [States.FAIL, States.COMPLETE, States.COMPLETE]


def test_table_and_progress(search: Any, capsys: pytest.CaptureFixture[str]) -> None:
    study = search(verbose=True, n_trials=3, pruner=Pruner())
    output, progress = capsys.readouterr()
    assert "study: 3 trials complete, 0 pruned" in output
    best = study.best_trial
    assert f"{best.value:.6g}" in output
    assert output.index(f"{best.value:.6g}") < output.index(
        f"{max(trial.value for trial in study.trials):.6g}"
    )
    assert "3/3" in progress
    assert f"best={best.value:g}" in progress


@pytest.mark.skipif(importlib.util.find_spec("plotly") is None, reason="plotly is not installed")
def test_plots(search: Any, tmp_path: pathlib.Path) -> None:
    search(n_trials=3)
    written = {path.name for path in (tmp_path / "search" / "plots").iterdir()}
    assert written >= {"optimization_history.html", "intermediate_values.html", "plotly.min.js"}


# Several processes.


class Dying(Scoring):
    """Kills its process in the first trials, as a system does when memory is short."""

    def __init__(self, folder: str, **parameters: Any) -> None:
        super().__init__(parameters["value"])
        self._folder = pathlib.Path(folder)

    def on_training_start(self) -> None:
        super().on_training_start()
        with (self._folder / "started").open("a") as file:
            file.write("x")
        if (self._folder / "started").stat().st_size <= 2:
            os.kill(os.getpid(), signal.SIGKILL)


def test_processes(search: Any, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two processes, of which one or two die; other processes resume their trials."""
    make_model = functools.partial(Dying, str(tmp_path))
    study = search(make_model, processes=2, n_trials=6, pruner=Pruner())
    assert states(study) == [States.COMPLETE] * 6
    assert [trial.number for trial in study.trials] == list(range(6))
    assert "a process of the search has died" in caplog.text
    assert [trial.value for trial in study.trials] == [t.params["value"] + 1 for t in study.trials]


def test_processes_that_keep_dying(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = []

    def broken(self: Any, processes: int) -> None:
        pools.append(self._next())
        raise search_module.BrokenProcessPool

    monkeypatch.setattr(search_module._Search, "_run_in_pool", broken)
    with pytest.raises(StudyError, match=r"have died 3 times, the last time in trials \[0\]\."):
        search(processes=2)
    assert pools == [0, 0, 0]


# What it refuses.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_jobs": 2}, r"in threads of one process.* no result would be exact\. Pass processes=2"),
        ({"n_trials": 0}, r"tune\(n_trials=0\) must be an integer"),
        ({"processes": "2"}, r"tune\(processes='2'\) must be an integer"),
        ({"space": {"lr": (0, 1)}}, r"'lr' is \(0, 1\)\. Write a distribution"),
        (
            {"sampler": optuna.samplers.RandomSampler(seed=0)},
            r"each trial needs its own seed.*=lambda seed: RandomSampler\(seed=seed\)",
        ),
        (
            {"processes": 2, "storage": optuna.storages.InMemoryStorage()},
            "needs a storage that all processes can reach",
        ),
        (
            {"processes": 2, "trainer": lambda run_root: None},
            r"tune\(processes=2\) sends its arguments to other processes, but .*top level",
        ),
    ],
)
def test_refused_arguments(search: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        search(**arguments)


def test_ranks_do_not_search(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match=r"without torchrun\..*Trainer, devices=2"):
        search()


def test_one_search_in_a_folder(search: Any) -> None:
    def inner(**parameters: Any) -> Any:
        return search()

    with pytest.raises(StudyError, match=r"another search is running in .*processes=2"):
        search(inner)


def test_study_of_another_folder(search: Any, tmp_path: pathlib.Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    search(storage=storage, n_trials=1)
    with pytest.raises(StudyError, match="'study' belongs to a search in another folder"):
        search(storage=storage, root=tmp_path / "other")


def test_sqlite_with_several_processes(
    search: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(search_module._Search, "_run_in_pool", lambda self, processes: None)
    search(storage=f"sqlite:///{tmp_path / 'study.db'}", processes=2)
    assert "SQLite is a poor storage" in caplog.text
