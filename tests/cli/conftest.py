"""Fixtures that run ``helios plugins`` in this process, in an empty folder."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from helios.cli.app import app

SCHEMAS = pathlib.Path(__file__).parents[2] / "docs" / "schemas"


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
        document = json.loads(result.stdout)
        schema = json.loads((SCHEMAS / f"plugins-{arguments[0]}.json").read_text(encoding="utf-8"))
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
        return document

    return run
