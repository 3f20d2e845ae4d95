"""``helios plugins plan``, with the plug-ins of Helios itself."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("autoloading_on")

Ask = Callable[..., Any]
Configure = Callable[[str], None]


def test_verdicts_follow_environment_and_file(
    ask: Ask, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(
        '[tool.helios]\nenable = ["metrics-file"]\nautoload = ["preemption"]\nblock = ["optuna"]\n'
    )
    monkeypatch.setenv("HELIOS_PLUGINS", "progress,preemption")
    rows = {row["name"]: row for row in ask("plan", "--json")["plugins"]}
    assert list(rows)[:3] == ["progress", "preemption", "metrics-file"]
    assert rows["preemption"]["status"] == "asked-for"
    assert rows["metrics-file"]["reason"].endswith("pyproject.toml")
    assert rows["optuna"]["reason"].startswith("blocked by tool.helios.block in ")
    assert rows["cuda"]["reason"].startswith("not in the allow-list: tool.helios.autoload in ")


def test_autoloading_may_be_off(ask: Ask, configure: Configure) -> None:
    configure("[tool.helios]\nautoload = false\n")
    reasons = {row["reason"] for row in ask("plan", "--json")["plugins"]}
    assert len(reasons) == 1
    assert reasons.pop().startswith("autoloading is off: tool.helios.autoload in ")


def test_people_are_told_what_import_would_add(ask: Ask) -> None:
    assert "Add --import to see the order of the calls" in ask("plan")


def test_with_imports_it_is_the_plan_of_a_trainer(
    ask: Ask, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure('[tool.helios]\nautoload = ["progress"]\n')
    monkeypatch.setenv("HELIOS_PLUGINS", "metrics-file")
    plan = ask("plan", "--import", "--json")["plan"]
    assert plan["active"][0]["id"] == "metrics-file"
    assert plan["active"][0]["reason"] == "named in HELIOS_PLUGINS"
    assert plan["configured_in"].endswith("pyproject.toml")
    assert f"(plan {plan['digest']})" in ask("plan", "--import")


def test_every_problem_of_the_trainer_is_shown_whole(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOS_PLUGINS", "progres,metrics-fil")
    document = ask("plan", "--import", "--json", exit_code=1)
    assert document["plan"] is None
    assert [problem["type"] for problem in document["problems"]] == ["UnknownNameError"] * 2
    told = ask("plan", "--import", exit_code=1)
    for name in ("progress", "metrics-file"):
        assert f"Did you mean '{name}'? Installed or registered: " in told


def test_unreadable_settings_do_not_hide_what_is_installed(ask: Ask, configure: Configure) -> None:
    configure('[tool.helios]\nenabled = ["progress"]\n')
    document = ask("plan", "--json", exit_code=1)
    assert "progress" in {row["name"] for row in document["plugins"]}
    (finding,) = (f for f in document["findings"] if f["subject"] == "[tool.helios]")
    assert "Did you mean 'enable'?" in finding["what"]
    listed = ask("list", exit_code=1)
    assert "helios.plugins.builtin.progress:ProgressPlugin" in listed
    assert "Did you mean 'enable'?" in listed
