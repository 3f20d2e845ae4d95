"""The ranks of a run, forked from a process that has imported PyTorch and Helios."""

import importlib.util
import pathlib
import tempfile
from collections.abc import Iterator

import fork_server
import pytest
from started_ranks import StartRanks

MODULES = ("torch", "torch._dynamo", "pytest", "helios", "helios.testing")
OPTIONAL = ("torchmetrics",)


@pytest.fixture(scope="session")
def python_of_ranks() -> Iterator[list[str]]:
    """The interpreter of ranks, as a command."""
    modules = [*MODULES, *filter(importlib.util.find_spec, OPTIONAL)]
    with (
        tempfile.TemporaryDirectory() as folder,
        fork_server.server(pathlib.Path(folder, "socket"), modules) as command,
    ):
        yield command


@pytest.fixture
def ranks(python_of_ranks: list[str], tmp_path: pathlib.Path) -> Iterator[StartRanks]:
    """Start ranks: see ``started_ranks.py``."""
    start = StartRanks(python_of_ranks, tmp_path)
    try:
        yield start
    finally:
        start.close()
