"""The servers that fork the runs to be killed."""

from collections.abc import Iterator

import pytest
from killing import Pool, Server


@pytest.fixture(scope="session")
def pool(python: list[str]) -> Iterator[Pool]:
    with Server(python) as first, Server(python) as second:
        yield Pool([first, second])
