"""What all tests share: small trainers that see nothing of what happens to be installed."""

import gc
import os
import pathlib
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import fork_server
import pytest
from hypothesis import settings

from helios import Trainer

# Their asserts show values when they fail, as those of tests do.
pytest.register_assert_rewrite("helpers", "transcript")


# nohup and a shell's & let their processes ignore these; tests of signals, and the programs that
# they start, must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGQUIT"):
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


# The files that take longest. They come first, so that none is the last to end.
LONGEST = (
    "tests/performance/test_instructions.py",
    "tests/exactness/test_kill_matrix.py",
    "tests/ranks/test_failures.py",
    "tests/trainer/test_checkpoint_faults.py",
    "tests/optuna/test_search.py",
    "tests/model/test_compile.py",
    "tests/ranks/test_virtual_processes.py",
    "tests/test_readme.py",
    "tests/test_demo.py",
    "tests/trainer/test_interrupts.py",
    "tests/installed/test_new_package.py",
    "tests/installed/test_lifecycle.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mix the files that several processes test, since those of one folder wait for the same."""
    if not hasattr(config, "workerinput"):
        return

    def place(item: pytest.Item) -> tuple[int, int]:
        file = item.nodeid.partition("::")[0]
        number = LONGEST.index(file) if file in LONGEST else len(LONGEST)
        return number, zlib.crc32(file.encode())  # equal in all processes

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Free the collector from all of PyTorch and the tests, where no garbage is."""
    gc.collect()
    gc.freeze()


settings.register_profile("helios", deadline=None)  # no test asserts a time
settings.load_profile("helios")


@pytest.fixture(autouse=True)
def nothing_autoloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep plug-ins that are installed beside Helios out of tests that do not ask for them."""
    for name in ("HELIOS_PLUGINS", "HELIOS_BLOCK_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    """Make trainers for the CPU that print nothing; keyword arguments override the defaults."""

    def make(**arguments: Any) -> Trainer:
        return Trainer(**{"total_steps": 2, "use_cpu": True, "print_banner": False, **arguments})

    return make


@pytest.fixture(scope="session")
def python() -> Iterator[list[str]]:
    """The interpreter for programs, as a command; it forks a process that has imported PyTorch."""
    if not hasattr(os, "fork"):
        yield [sys.executable]
        return
    # Not below the folder of pytest: the path of a socket is short.
    with tempfile.TemporaryDirectory() as folder:
        address = pathlib.Path(folder, "socket")
        with fork_server.server(address, ["torch", "torch._dynamo"]) as command:
            yield command
