"""Fixtures that run ``helios plugins`` in this process, in an empty folder."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from helpers import valid_document
from typer.testing import CliRunner

from helios.cli.app import app


@pytest.fixture
def autoloading_on(
    monkeypatch: pytest.MonkeyPatch, nothing_autoloaded: None, tmp_path: pathlib.Path
) -> None:
    """Switch autoloading on, and change to an empty folder."""
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def configure(tmp_path: pathlib.Path) -> Callable[[str], None]:
    """Return a function that writes the project's file."""

    def write(text: str) -> None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Return a function that runs ``helios plugins``, and returns its output or its valid JSON."""

    def run(*arguments: str, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["plugins", *arguments])
        assert result.exit_code == exit_code, (result.output, result.exception)
        if "--json" not in arguments:
            return result.output
        return valid_document(result.stdout)

    return run
