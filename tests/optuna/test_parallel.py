"""Several processes on one study, and what the database counts."""

import collections
import pathlib
import subprocess
from typing import Any

import pytest
from helpers import Make

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
import postgresql
from searches import Pruner, Scoring, States

from helios.plugins.optuna import OptunaPlugin
from helios.testing import TinyDataModule

PROGRAM = pathlib.Path(__file__).with_name("parallel.py")


@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_two_processes(
    python: list[str], tmp_path: pathlib.Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """Every trial is complete, pruned or failed, exactly once."""
    place = str(tmp_path / "journal.log")
    storage: Any = None
    if kind == "postgresql":
        place = request.getfixturevalue("postgresql_server").new_database()
        storage = optuna.storages.RDBStorage(place)  # two processes may not create its tables
    processes = [
        subprocess.Popen([*python, str(PROGRAM), place, str(tmp_path), "8"]) for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    if storage is None:
        backend = optuna.storages.journal.JournalFileBackend(place)
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name="study", storage=storage)
    ends = {0: States.PRUNED, 1: States.COMPLETE, 2: States.FAIL}
    assert [trial.number for trial in study.trials] == list(range(16))
    for trial in study.trials:
        value = trial.params["value"]
        assert trial.state == ends[value], trial
        assert trial.intermediate_values == dict.fromkeys(range(3 if value else 1), value)
    lines = [line.split() for line in (tmp_path / "started").read_text().splitlines()]
    assert sorted(int(number) for number, _ in lines) == list(range(16))
    assert list(collections.Counter(process for _, process in lines).values()) == [8, 8]
    folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert folders == {f"tiny_trial-{number}" for number in range(16)}
    if kind == "postgresql":
        storage.remove_session()
        storage.engine.dispose()


def test_no_query_per_step(
    make_trainer: Make, postgresql_server: postgresql.Server, tmp_path: pathlib.Path
) -> None:
    """PostgreSQL itself counts as many transactions and rows, however many steps a report has."""
    counts = []
    for steps, cycles in ((2, 3), (40, 3), (2, 6)):
        url = postgresql_server.new_database()
        storage = optuna.storages.RDBStorage(url)
        trial = optuna.create_study(storage=storage, pruner=Pruner()).ask()
        trainer = make_trainer(
            plugins=[OptunaPlugin(trial, "score")], total_steps=cycles, valid_frequency=1
        )
        trainer.fit(Scoring(), TinyDataModule(4 * steps))
        assert trainer.state.global_iteration == steps * cycles
        storage.remove_session()
        storage.engine.dispose()
        counts.append(postgresql_server.statistics(url))
    assert counts[0] == counts[1]
    assert counts[2] > counts[0], "the reports are not counted"
