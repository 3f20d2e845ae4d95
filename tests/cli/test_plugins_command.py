"""``helios plugins list`` in this process. Other packages: tests/installed."""

import json

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from helios.cli.app import app

pytestmark = pytest.mark.usefixtures("autoloading_on")


def plugins_list(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plugins", "list", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_table_names_what_comes_with_helios() -> None:
    output = plugins_list()
    for text in ("cuda", "metrics-file", "optuna", "helios-trainer", "OptunaPlugin [optuna]"):
        assert text in output


def test_there_are_frames_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "━" not in plugins_list()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "━" in plugins_list()


def test_json_has_one_object_a_plug_in() -> None:
    rows = {row["name"]: row for row in json.loads(plugins_list("--json"))["plugins"]}
    assert rows["progress"]["value"] == "helios.plugins.builtin.progress:ProgressPlugin"
    assert rows["progress"]["note"] == "may be autoloaded, if its class allows it"


@pytest.mark.parametrize(
    ("variable", "value", "note"),
    [
        ("HELIOS_BLOCK_PLUGINS", "Progress", "blocked by HELIOS_BLOCK_PLUGINS"),
        ("HELIOS_PLUGINS", "progress", "asked for by HELIOS_PLUGINS"),
        (
            "HELIOS_DISABLE_PLUGIN_AUTOLOAD",
            "1",
            "autoloading is off: HELIOS_DISABLE_PLUGIN_AUTOLOAD=1",
        ),
    ],
)
def test_environment_is_told(
    variable: str, value: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    rows = {row["name"]: row for row in json.loads(plugins_list("--json"))["plugins"]}
    assert rows["progress"]["note"] == note


def test_without_a_command_help_is_shown() -> None:
    result = CliRunner().invoke(app, ["plugins"])
    assert "list" in result.output


def test_help_is_shown_as_it_is_written() -> None:
    assert "[tool.helios]" in plugins_list("--help")


def test_our_own_extras_are_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    from helios.cli.doctor import metadata

    monkeypatch.setattr(
        metadata, "unmet_requirements", lambda *_: [(Requirement("optuna>=3.6"), None)]
    )
    found = {problem.code: problem.subject for problem in metadata.check_metadata()}
    assert "missing-extra" not in found
    assert "unmet-requirement" in found  # requirements outside extras are checked all the same
