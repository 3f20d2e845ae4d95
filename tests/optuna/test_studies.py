"""The helpers that save samplers, and load, copy and cut studies."""

import contextlib
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import States

from helios.errors import CheckpointError, StudyError
from helios.plugins.optuna import (
    checkpoint_sampler,
    create_or_load_study,
    create_study_starting_from_trial,
    replacement,
    restore_sampler,
)

Storages = Callable[[str], Any]
KINDS = ["memory", "sqlite", "journal", "postgresql"]
SAMPLERS = optuna.samplers


def values(study: Any) -> list[float]:
    return [trial.params["x"] for trial in study.trials]


class Search:
    """A study with saved samplers; each start loads it as a new process does."""

    def __init__(self, make_storage: Storages, folder: pathlib.Path, kind: str) -> None:
        self.samplers = folder / "samplers"
        self.make = lambda: make_storage(kind)

    def load(self, **arguments: Any) -> Any:
        return create_or_load_study(self.samplers, **self.arguments(arguments))

    def cut(self, trial_id: int, **arguments: Any) -> Any:
        arguments = self.arguments({"sampler_path": self.samplers, **arguments})
        return create_study_starting_from_trial(trial_id, **arguments)

    def arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        defaults = {"study_name": "study", "load_if_exists": True, "storage": self.make()}
        return {**defaults, **arguments}

    def objective(self, trial: Any) -> float:
        x = trial.suggest_float("x", 0, 1)
        checkpoint_sampler(trial, self.samplers)
        return float(x)


@pytest.fixture(params=KINDS)
def search(make_storage: Storages, tmp_path: pathlib.Path, request: Any) -> Search:
    return Search(make_storage, tmp_path, request.param)


@pytest.fixture
def in_memory(make_storage: Storages, tmp_path: pathlib.Path) -> Search:
    return Search(make_storage, tmp_path, "memory")


def whole(count: int = 6) -> list[float]:
    study = optuna.create_study(sampler=SAMPLERS.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=count)
    return values(study)


# Samplers.


def test_restarted_study_suggests_the_same(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    for trials in (2, 3, 1):
        study = search.load(sampler=SAMPLERS.RandomSampler(seed=0))
        study.optimize(search.objective, n_trials=trials)
    assert values(study) == whole()
    warnings = [record.getMessage() for record in caplog.records]
    assert (
        warnings
        == [f"Optuna plug-in: the sampler in {search.samplers} replaces the given RandomSampler."]
        * 2
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: SAMPLERS.TPESampler(seed=0, n_startup_trials=2),
        lambda: SAMPLERS.NSGAIISampler(seed=0, population_size=2),
        lambda: SAMPLERS.GridSampler({"x": [i / 8 for i in range(8)]}, seed=0),
        pytest.param(
            lambda: SAMPLERS.PartialFixedSampler({}, SAMPLERS.RandomSampler(seed=0)),
            marks=pytest.mark.filterwarnings("ignore"),  # it is experimental
        ),
        pytest.param(
            lambda: SAMPLERS.GPSampler(seed=0, n_startup_trials=2),
            marks=pytest.mark.filterwarnings("ignore"),  # it has experimental parts
        ),
    ],
    ids=["tpe", "nsga2", "grid", "partial", "gp"],
)
def test_samplers_of_optuna(make: Callable[[], Any], tmp_path: pathlib.Path) -> None:
    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", 0, 1)
        checkpoint_sampler(trial, tmp_path)
        return float(x)

    study = optuna.create_study(sampler=make())
    study.optimize(objective, n_trials=6)
    other = optuna.create_study(sampler=restore_sampler(tmp_path, 3))
    other.add_trials(study.trials[:4])
    other.optimize(objective, n_trials=2)
    assert values(other) == values(study)


def test_sampler_is_chosen_by_number(tmp_path: pathlib.Path) -> None:
    assert restore_sampler(tmp_path) is None
    assert restore_sampler(tmp_path / "missing") is None
    for number in (2, 10, 9):
        study = optuna.create_study(sampler=SAMPLERS.TPESampler(n_startup_trials=number))
        (tmp_path / f"sampler_trial-{number}.pkl").write_bytes(pickle.dumps(study.sampler))
    (tmp_path / "sampler_trial-11.pkl.tmp").write_bytes(b"")

    def restored(*number: int) -> Any:
        sampler = restore_sampler(tmp_path, *number)
        return sampler and sampler._n_startup_trials

    assert restored() == 10
    assert [restored(number) for number in (0, 1, 2, 3, 9, 10, 99)] == [None, None, 2, 2, 9, 10, 10]


def test_damaged_sampler_is_skipped(in_memory: Search, caplog: pytest.LogCaptureFixture) -> None:
    in_memory.load().optimize(in_memory.objective, n_trials=2)
    path = in_memory.samplers / "sampler_trial-1.pkl"
    path.write_bytes(path.read_bytes()[:100])
    assert restore_sampler(in_memory.samplers) is not None
    assert f"{path} is damaged, so an older sampler is restored" in caplog.text


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


class Own(SAMPLERS.RandomSampler):  # type: ignore[misc]  # Optuna has no types here
    """A sampler of the user."""


def test_sampler_cannot_run_code(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sampler_trial-0.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"refers to posix\.mkdir, which is no part of"):
        restore_sampler(tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "reference",
    [b"coptuna.samplers._base\nabc\n.", b"coptuna.samplers\nBaseSampler.__init__\n."],
    ids=["imported module", "attribute"],
)
def test_names_that_are_no_samplers(tmp_path: pathlib.Path, reference: bytes) -> None:
    (tmp_path / "sampler_trial-0.pkl").write_bytes(reference)
    with pytest.raises(CheckpointError, match="could run any code"):
        restore_sampler(tmp_path)


def test_own_sampler(tmp_path: pathlib.Path) -> None:
    trial = optuna.create_study(sampler=Own(seed=0)).ask()
    checkpoint_sampler(trial, tmp_path)
    with pytest.raises(CheckpointError, match=r"safe_globals=\[Own\]"):
        restore_sampler(tmp_path)
    assert isinstance(restore_sampler(tmp_path, safe_globals=[Own]), Own)


def test_sampler_that_cannot_be_saved(tmp_path: pathlib.Path) -> None:
    sampler = Own()
    sampler.function = lambda: None
    with pytest.raises(CheckpointError, match="Own of the study cannot be saved"):
        checkpoint_sampler(optuna.create_study(sampler=sampler).ask(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fixed_trial_has_no_sampler(tmp_path: pathlib.Path) -> None:
    checkpoint_sampler(optuna.trial.FixedTrial({}), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Studies.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"load_if_exists": True}, StudyError, "needs a storage that outlives the process"),
        ({"storage": "sqlite://"}, StudyError, "needs load_if_exists=True"),
        (
            {"storage": pathlib.Path("study.db"), "load_if_exists": True},
            TypeError,
            r"is a .*Path\. Write a URL, such as 'sqlite:///study\.db'",
        ),
        (
            {
                "storage": optuna.storages.InMemoryStorage(),
                "load_if_exists": True,
                "heartbeat_interval": 60,
            },
            StudyError,
            "heartbeat_interval=60 needs the URL of a database",
        ),
    ],
)
def test_study_that_could_not_be_loaded(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_or_load_study(**arguments)
    assert issubclass(StudyError, RuntimeError)  # as in earlier releases


def test_study_without_a_name(in_memory: Search) -> None:
    """The only study of a storage needs none."""
    name = in_memory.load(study_name=None).study_name
    assert in_memory.load(study_name=None).study_name == name
    in_memory.load(study_name="other")
    with pytest.raises(StudyError, match=r"several studies\. Pass study_name, one of"):
        in_memory.load(study_name=None)


def test_backups(search: Search, tmp_path: pathlib.Path) -> None:
    for _ in range(3):
        study = search.load(backup_study=True, backup_samplers=True)
        study.optimize(search.objective, n_trials=1)
    folders = sorted(path.name for path in tmp_path.glob("samplers*"))
    assert folders == ["samplers", "samplers_bkp-0", "samplers_bkp-1"]
    assert len(list((tmp_path / "samplers_bkp-1").iterdir())) == 2
    storages = [f"sqlite:///{path}" for path in sorted(tmp_path.glob("study_bkp-*.db"))]
    names = ["study", "study"] if storages else ["study_bkp-0", "study_bkp-1"]
    copies = [
        optuna.load_study(study_name=name, storage=storage)
        for name, storage in zip(names, storages or [search.make()] * 2, strict=True)
    ]
    assert [values(copy) for copy in copies] == [values(study)[:1], values(study)[:2]]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("trial_id", [0, 2, 5])
def test_study_starting_from_a_trial(search: Search, trial_id: int) -> None:
    study = search.load(sampler=SAMPLERS.RandomSampler(seed=0), directions=["maximize"])
    study.set_user_attr("who", "me")
    study.set_metric_names(["score"])
    study.optimize(search.objective, n_trials=5)
    sampler = SAMPLERS.RandomSampler(seed=0) if trial_id == 0 else None
    study = search.cut(trial_id, sampler=sampler)
    assert values(study) == whole(5)[:trial_id]
    assert study.direction.name == "MAXIMIZE"
    assert study.user_attrs["who"] == "me"
    assert study.metric_names == ["score"]
    assert len(list(search.samplers.iterdir())) == trial_id
    study.optimize(search.objective, n_trials=6 - trial_id)
    assert values(study) == whole()
    assert values(search.load()) == whole()


def test_trial_that_does_not_exist(in_memory: Search) -> None:
    with pytest.raises(StudyError, match="the storage has no study 'study'"):
        in_memory.cut(0)
    in_memory.load()
    with pytest.raises(StudyError, match="has 0 trials, so it cannot start from trial 1"):
        in_memory.cut(1)


class Crash(BaseException):
    pass


@pytest.mark.parametrize("calls", range(15))
def test_no_crash_loses_a_study(
    in_memory: Search, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """The process dies before any of its writes; a later one finds the study before or after."""
    study = in_memory.load(sampler=SAMPLERS.RandomSampler(seed=0))
    study.optimize(in_memory.objective, n_trials=4)
    storage, left = in_memory.make(), [calls]

    def dying(write: Any) -> Any:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return write(*arguments, **keywords)

        return wrapper

    with monkeypatch.context() as patch:
        for name in dir(storage):
            if name.startswith(("create_", "delete_", "set_")):
                patch.setattr(storage, name, dying(getattr(storage, name)))
        patch.setattr(pathlib.Path, "unlink", dying(pathlib.Path.unlink))
        with contextlib.suppress(Crash):
            in_memory.cut(2, backup_study=False)
    after = in_memory.load(sampler=None)
    assert values(after) in (whole(4), whole(2))
    assert len(list(in_memory.samplers.iterdir())) == len(after.trials)
    assert optuna.get_all_study_names(storage) == ["study"]
    after.optimize(in_memory.objective, n_trials=6 - len(after.trials))
    assert values(after) == whole()


def test_finished_replacement_keeps_later_trials(
    in_memory: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died at the very end, and the study was continued without these helpers."""
    in_memory.load().optimize(in_memory.objective, n_trials=3)
    with monkeypatch.context() as patch:
        patch.setattr(optuna, "copy_study", lambda **_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            in_memory.cut(1, backup_study=False)
    storage, beside = in_memory.make(), "study" + replacement._SUFFIX
    optuna.copy_study(
        from_study_name=beside, from_storage=storage, to_storage=storage, to_study_name="study"
    )
    optuna.load_study(study_name="study", storage=storage).optimize(in_memory.objective, n_trials=3)
    assert len(in_memory.load().trials) == 4
    assert optuna.get_all_study_names(storage) == ["study"]


# Trials whose process has died.


def test_running_trials_are_resumed_on_request(search: Search) -> None:
    search.load().ask()
    assert search.load().trials[0].state == States.RUNNING
    study = search.load(resume_trials=True)
    study.optimize(search.objective, n_trials=2)
    assert [trial.number for trial in study.trials] == [0, 1]
    assert {trial.state for trial in study.trials} == {States.COMPLETE}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_heartbeat(tmp_path: pathlib.Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = create_or_load_study(
        storage=url, study_name="study", load_if_exists=True, heartbeat_interval=60
    )
    trial = study.ask()
    assert trial.suggest_float("x", 0, 1) >= 0
    storage = trial.storage
    storage.record_heartbeat(trial._trial_id)
    backend = storage._backend
    with backend.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert [each.state for each in study.trials] == [States.FAIL, States.COMPLETE]
    assert values(study) == [trial.params["x"]] * 2
    backend.remove_session()
    backend.engine.dispose()


def test_sqlite_with_several_processes(
    make_storage: Storages, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"study_name": "study", "load_if_exists": True}
    for kind in KINDS[:3]:
        create_or_load_study(storage=make_storage(kind), **arguments).ask()
        assert caplog.text == ""
        create_or_load_study(storage=make_storage(kind), **arguments)
        assert ("SQLite is a poor storage" in caplog.text) == (kind == "sqlite")
        caplog.clear()
