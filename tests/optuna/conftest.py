"""Storages of Optuna, each the real one."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import postgresql
import pytest


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
