"""Saves that are killed at any system call, or meet a full disk; the next start finds all it needs.

The harm is done by a small C library, in real processes; see ``faults/``.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

HERE = pathlib.Path(__file__).parent / "faults"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD, which is Linux's"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler: cc, gcc or clang"),
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = str(HERE / "shim.c")
    subprocess.run(
        [str(COMPILER), "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), source, "-ldl"],
        check=True,
    )
    return library


@pytest.fixture
def work() -> Iterator[pathlib.Path]:
    """A folder in memory where there is one: what a killed process leaves is the same there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def harm(shim: pathlib.Path, work: pathlib.Path) -> Callable[..., dict[str, Any]]:
    def run(*arguments: str) -> dict[str, Any]:
        child = subprocess.run(
            [sys.executable, str(HERE / "driver.py"), str(work), *arguments],
            env=os.environ | {"LD_PRELOAD": str(shim)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr
        result: dict[str, Any] = json.loads(child.stdout)
        return result

    return run


@pytest.mark.parametrize("when", ["kill", "kill-halfway"])
def test_killed_at_every_call_of_a_save(harm: Any, when: str) -> None:
    result = harm(when, "sync", "1")
    assert result["faults"] == []
    assert result["calls"] > 25  # of the start, a save, and two deletions


def test_killed_at_every_call_of_background_saves(harm: Any) -> None:
    result = harm("kill", "async", "2")
    assert result["faults"] == []
    assert result["calls"] > 45  # two saves, the second of which deletes as well


def test_disk_full_at_every_call(harm: Any, work: pathlib.Path) -> None:
    result = harm("full", "async", "1")  # so that errors have to find their way, too
    assert result["faults"] == []
    starting = [told for told in result["errors"] if told.startswith("ConfigurationError")]
    saving = [told for told in result["errors"] if told not in starting]
    folder = work / "run/tiny"
    for told in starting:
        assert f"cannot be saved in {folder}: No space left on device" in told
    assert len(saving) > 15
    for told in saving:
        assert f"No space left on device: '{folder}/tiny_epoch_3_iter_18.pth'" in told
        assert "the previous one is unchanged" in told
        assert "are free. Free some space" in told
