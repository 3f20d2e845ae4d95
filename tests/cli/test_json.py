"""``--json``: each command prints one object that the schema describes, errors included."""

import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import torch
import typer.main
from helpers import Make, Named, files, valid_document
from typer.testing import CliRunner

from helios.cli import checkpoint as checkpoint_commands
from helios.cli import output, plugins
from helios.cli import runs as runs_commands
from helios.cli.app import app
from helios.errors import PluginConflictError, PluginProblems
from helios.plugins import PluginManager
from helios.testing import TinyDataModule, TinyModel

pytestmark = pytest.mark.usefixtures("autoloading_on")

DOCUMENTS = pathlib.Path(__file__).parents[2] / "docs"
FAILS = ("--", sys.executable, "-c", "raise SystemExit(1)")


def ask(*arguments: str, exit_code: int) -> Any:
    """Run a command with ``--json``, and return the only object on standard output."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    result = CliRunner().invoke(app, [*arguments[:at], "--json", *arguments[at:]])
    assert result.exit_code == exit_code, (result.output, result.exception)
    document = valid_document(result.stdout)
    assert document["version"] == output.FORMAT == 2
    return document


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path, make_trainer: Make) -> pathlib.Path:
    class Diverging(TinyModel):
        def on_validation_end(self, validation_cycle: int) -> None:
            self.metrics.update(loss=math.nan, gain=math.inf)

    plugin = Named("a\n1  b  \x1b[2K")
    trainer = make_trainer(plugins=[plugin], autoload=False, valid_frequency=1, total_steps=1)
    trainer.chkpt_root = tmp_path
    trainer.fit(Diverging("diverging"), TinyDataModule())
    (path,) = files(tmp_path / "diverging", "*.pth")
    return path


# Success.


@pytest.mark.parametrize(
    ("arguments", "exit_code", "keys"),
    [
        (("plugins", "list"), 0, ["plugins", "unreadable"]),
        (("plugins", "show", "progress"), 0, ["plugin"]),
        (("plugins", "plan"), 0, ["imported", "plugins", "findings"]),
        (("plugins", "plan", "--import"), 0, ["imported", "plan", "problems"]),
        (("plugins", "doctor"), 0, ["imported", "errors", "warnings", "findings"]),
        (
            ("plugins", "bisect", *FAILS),
            1,
            ["verdict", "culprits", "candidates", "runs", "promised_runs", "output"],
        ),
    ],
)
def test_success(arguments: tuple[str, ...], exit_code: int, keys: list[str]) -> None:
    document = ask(*arguments, exit_code=exit_code)
    assert list(document) == ["version", "command", *keys]
    assert document["command"] == " ".join(arguments[:2])


def test_checkpoint(checkpoint: pathlib.Path) -> None:
    document = ask("checkpoint", "show", str(checkpoint), exit_code=0)
    assert list(document) == ["version", "command", "checkpoint"]
    metrics = document["checkpoint"]["metrics"]
    assert (metrics["loss"], metrics["gain"]) == ("NaN", "Infinity")


def test_a_checkpoint_cannot_forge_lines(checkpoint: pathlib.Path) -> None:
    told = CliRunner().invoke(app, ["checkpoint", "show", str(checkpoint)]).output
    assert r"a\n1  b  \x1b[2K" in told
    assert all(line.isprintable() for line in told.splitlines())


# Errors.


def test_unknown_name() -> None:
    document = ask("plugins", "show", "progres", exit_code=1)
    assert list(document) == ["version", "command", "error"]
    assert document["command"] == "plugins show"
    assert document["error"]["type"] == "UnknownNameError"
    assert "Did you mean 'progress'?" in document["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "command", "told"),
    [
        (("plugins", "show"), "plugins show", "Missing argument"),
        (("plugins", "list", "--strict"), "plugins list", "--strict"),
        (("plugins", "nothing"), "plugins", "nothing"),
        (("checkpoint", "show", "no-file"), "checkpoint show", "no-file"),
        (("plugins", "bisect"), "plugins bisect", "Missing argument"),
        (("plugins", "bisect", "--", "no-such-program"), "plugins bisect", "cannot start"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], command: str, told: str) -> None:
    document = ask(*arguments, exit_code=2)
    assert document["command"] == command
    assert told in document["error"]["message"]


def test_bisect_without_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD", "1")
    document = ask("plugins", "bisect", *FAILS, exit_code=2)
    assert "autoloading is off" in document["error"]["message"]


def test_json_after_two_dashes_belongs_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = CliRunner().invoke(app, ["plugins", "bisect", "--", "true", "--json"])
    assert (result.exit_code, result.stdout) == (2, "")


def test_damaged_checkpoint(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tiny_epoch_1_iter_6.pth"
    path.write_bytes(b"nothing")
    document = ask("checkpoint", "show", str(path), exit_code=1)
    assert document["error"]["type"] == "DamagedCheckpointError"


def test_error_that_nobody_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("odd") from ValueError("cause")

    monkeypatch.setattr("helios.cli.plugins_list.survey", fail)
    error = ask("plugins", "list", exit_code=1)["error"]
    assert (error["type"], error["message"]) == ("RuntimeError", "odd")
    assert "ValueError: cause" in error["cause"]


def test_help_is_no_error() -> None:
    result = CliRunner().invoke(app, ["plugins", "list", "--json", "--help"])
    assert (result.exit_code, "Usage" in result.stdout) == (0, True)


def test_plan_says_each_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOS_PLUGINS", "progres")
    (problem,) = ask("plugins", "plan", "--import", exit_code=1)["problems"]
    assert problem["type"] == "UnknownNameError"


def test_conflict_has_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    error = conflict()
    assert isinstance(error, PluginConflictError)
    monkeypatch.setattr("helios.cli.plugins_plan.construct_trainer", lambda: (None, [error]))
    (problem,) = ask("plugins", "plan", "--import", exit_code=1)["problems"]
    monkeypatch.setattr(
        "helios.cli.doctor.imports.construct_trainer", lambda *_, **__: (None, [error])
    )
    (finding,) = (
        f
        for f in ask("plugins", "doctor", "--import", exit_code=1)["findings"]
        if f["code"] == "conflict"
    )
    for facts in (problem, finding):
        assert facts["claims"] == ["testing_batch"]
        assert [(p["id"], p["distribution"], p["version"]) for p in facts["plugins"]] == [
            ("one", "", ""),
            ("two", "", ""),
        ]
        assert facts["plugins"][0]["claims"] == {
            "testing_batch": "unique_overrides.testing_batch is set"
        }


def conflict() -> Exception:
    manager = PluginManager()
    for name in ("one", "two"):
        plugin = Named(name)
        plugin.unique_overrides.testing_batch = True
        try:
            manager.register(plugin)
        except PluginConflictError as error:
            return error
    raise AssertionError


def test_a_group_of_errors_has_them_all() -> None:
    facts = output.error_facts(PluginProblems([PluginConflictError("a"), PluginConflictError("b")]))
    assert [problem["message"] for problem in facts["problems"]] == ["a", "b"]


# The schema.


def test_the_schema_describes_every_command_that_prints_json() -> None:
    schemas = {path.name for path in (DOCUMENTS / "schemas").glob("*.json")}
    root = json.loads((DOCUMENTS / "schemas" / "helios.json").read_text(encoding="utf-8"))
    assert {part["$ref"] for part in root["oneOf"]} == schemas - {"helios.json"}
    text = (DOCUMENTS / "cli.md").read_text(encoding="utf-8")
    assert all(f"schemas/{name}" in text for name in schemas)
    commands = {
        f"{group}-{name}.json"
        for group, commands in _commands().items()
        for name, options in commands.items()
        if "--json" in options
    }
    assert commands == schemas - {"helios.json", "error.json"}


def _commands() -> dict[str, dict[str, list[str]]]:
    groups = {
        name: typer.main.get_command(module.app)
        for name, module in (
            ("plugins", plugins),
            ("checkpoint", checkpoint_commands),
            ("runs", runs_commands),
        )
    }
    return {
        group: {
            name: [option for parameter in command.params for option in parameter.opts]
            for name, command in commands.commands.items()  # type: ignore[attr-defined]
        }
        for group, commands in groups.items()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 1, "command": "plugins list", "plugins": [], "unreadable": []},
        {"version": 2, "command": "plugins list", "plugins": []},
        {"version": 2, "command": "plugins show", "error": {"type": "X"}},
        {"version": 2, "command": "plugins list", "plugins": [], "unreadable": [], "more": 1},
    ],
)
def test_the_schema_refuses(wrong: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        valid_document(json.dumps(wrong))


def test_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json("x", values=[math.nan, -math.inf, {1: 0.5}], size=torch.Size([2]))
    document: dict[str, Callable[..., Any]] = json.loads(capsys.readouterr().out)
    assert document["values"] == ["NaN", "-Infinity", {"1": 0.5}]
    assert document["size"] == [2]
