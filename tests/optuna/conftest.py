"""Storages of Optuna, each the real one, and processes that have imported Optuna."""

import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import fork_server
import postgresql
import pytest

MODULES = ("torch", "torch._dynamo", "optuna", "helios.trainer", "sklearn.datasets")


@pytest.fixture(scope="session")
def python() -> Iterator[list[str]]:
    """The interpreter for programs, as everywhere; its process has imported Optuna, too."""
    found = [name for name in MODULES if importlib.util.find_spec(name.partition(".")[0])]
    with (
        tempfile.TemporaryDirectory() as folder,
        fork_server.server(pathlib.Path(folder, "socket"), found) as command,
    ):
        yield command


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    missing = postgresql.missing()
    if missing is not None:
        pytest.skip(missing)
    with postgresql.server() as server:
        yield server


@pytest.fixture
def make_storage(
    tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens a storage, as each process does; one in memory is shared."""
    import optuna

    memory = optuna.storages.InMemoryStorage()
    urls: dict[str, str] = {}
    databases: list[Any] = []

    def make(kind: str) -> Any:
        if kind == "memory":
            return memory
        if kind == "journal":
            path = str(tmp_path / "journal.log")
            backend = optuna.storages.journal.JournalFileBackend(path)
            return optuna.storages.JournalStorage(backend)
        if kind not in urls:
            urls[kind] = (
                f"sqlite:///{tmp_path / 'study.db'}"
                if kind == "sqlite"
                else request.getfixturevalue("postgresql_server").new_database()
            )
        databases.append(optuna.storages.RDBStorage(urls[kind]))
        return databases[-1]

    yield make
    for database in databases:
        database.remove_session()
        database.engine.dispose()
