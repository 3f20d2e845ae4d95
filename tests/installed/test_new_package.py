"""A new package from ``helios plugins new`` to its first run, in an empty environment."""

import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def author(make_environment: Callable[..., Any]) -> Any:
    """Return an environment in which the new package is installed."""
    environment = make_environment()
    environment.helios("plugins", "new", "helios-hello")
    environment.install_project("helios-hello")
    return environment


def test_the_demo_shows_the_plug_in_and_calls_its_hook(author: Any) -> None:
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    printed = author.helios("demo", "--epochs", "2", HELIOS_BLOCK_PLUGINS="tensorboard,ema")
    header = " ".join(printed.split())
    assert "hello helios-hello 0.1.0 installed Counts the epochs of training" in header
    log = (author.work / "runs" / "demo" / "helios.log").read_text(encoding="utf-8")
    assert re.findall(r"\d epochs, \d+ batches", log) == [
        "1 epochs, 38 batches",
        "2 epochs, 76 batches",
    ]


def test_its_own_tests_pass(author: Any) -> None:
    assert "3 passed" in author.module("pytest", "-p", "no:cacheprovider", "helios-hello")


def test_doctor_finds_nothing(author: Any) -> None:
    found = author.helios("plugins", "show", "hello")
    assert "helios-hello" in found
    assert "on_training_epoch_end" in found


def test_the_name_is_taken_now(author: Any) -> None:
    shutil.move(author.work / "helios-hello", author.folder)
    author.helios("plugins", "new", "helios-hello", exit_code=1)
    author.helios("plugins", "new", "hello", exit_code=1)
    shutil.move(author.folder / "helios-hello", author.work)
    assert [path.name for path in author.work.glob("*hello*")] == ["helios-hello"]


def test_mypy_finds_nothing(author: Any, tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "cache"
    if (ROOT / ".mypy_cache").is_dir():  # of make lint; without it, mypy reads all of PyTorch
        shutil.copytree(ROOT / ".mypy_cache", cache)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--no-error-summary"]
    project = author.work / "helios-hello"
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    own = [line for line in result.stdout.splitlines() if line.startswith(("src", "tests"))]
    assert own == []
    assert result.returncode == 0 or result.stdout, result.stderr
    source = project / "src/helios_hello/__init__.py"
    source.write_text(source.read_text() + "wrong: int = ''\n", encoding="utf-8")
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert "src/helios_hello/__init__.py" in result.stdout
