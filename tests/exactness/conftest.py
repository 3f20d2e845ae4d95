"""The servers that fork the runs to be killed."""

from collections.abc import Iterator

import pytest
from killing import Pool, Server


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with Server() as first, Server() as second:
        yield Pool([first, second])
