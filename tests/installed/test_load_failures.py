"""Installed plug-ins that cannot be imported or built, or are of no use."""

from collections.abc import Callable
from typing import Any

import pytest

STUBBORN = ("build", "question", "hook", "value", "name")
ALONE = {"block": [f"stubborn-{kind}" for kind in STUBBORN]}

ATTEMPTS: dict[str, dict[str, Any]] = {
    "installed": {"run_root": "run", **ALONE},
    "named": {"plugins": ["broken"], "on_load_error": "skip", **ALONE},
    "blocked": {"block": [*ALONE["block"], "broken"]},
    "blocked by the environment": {"environ": {"HELIOS_BLOCK_PLUGINS": "broken"}, **ALONE},
    "skipped": {"on_load_error": "skip", **ALONE},
    **{f"stubborn-{kind}": {"autoload": [f"stubborn-{kind}"]} for kind in STUBBORN},
    **{
        f"skipped stubborn-{kind}": {
            "autoload": [f"stubborn-{kind}", "recorder"],
            "on_load_error": "skip",
        }
        for kind in STUBBORN
    },
}


@pytest.fixture(scope="module")
def environment(make_environment: Callable[..., Any]) -> Any:
    return make_environment("broken", "stubborn", "recorder")


@pytest.fixture(scope="module")
def outcomes(environment: Any) -> dict[str, Any]:
    return environment.start(ATTEMPTS)


@pytest.mark.parametrize("attempt", ["installed", "named"])
def test_failed_import_ends_the_start(outcomes: dict[str, Any], attempt: str) -> None:
    outcome = outcomes[attempt]
    assert outcome.error.types[0] == "PluginLoadError"
    assert "ImportError" in outcome.error.types
    assert outcome.calls == []
    assert outcome.leftovers == []


@pytest.mark.parametrize(
    "fact",
    [
        "'broken'",
        "sample-broken 0.9",
        "broken = sample_broken:Broken",
        "sample_module_that_nobody_has",
        "Trainer(block=['broken'])",
        "HELIOS_BLOCK_PLUGINS=broken",
        "pip uninstall sample-broken",
        'Trainer(on_load_error="skip")',
    ],
)
def test_error_tells_what_failed_and_how_to_go_on(outcomes: dict[str, Any], fact: str) -> None:
    assert fact in outcomes["installed"].error.message


def test_cause_is_the_original_error(outcomes: dict[str, Any]) -> None:
    cause = outcomes["installed"].error.cause
    assert cause.types[0] == "ModuleNotFoundError"
    assert "sample_module_that_nobody_has" in cause.message
    assert cause.files[-1].endswith("sample_broken.py")


@pytest.mark.parametrize("attempt", ["blocked", "blocked by the environment"])
def test_blocking_it_helps(outcomes: dict[str, Any], attempt: str) -> None:
    outcome = outcomes[attempt]
    assert outcome.error is None
    assert "recorder.on_training_end" in outcome.calls
    assert "sample-broken 0.9 blocked by" in outcome.why_not("broken")
    assert outcome.imported == ["sample_recorder"]


def test_skipping_it_helps_but_is_seen(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["skipped"]
    assert outcome.error is None
    assert "recorder.on_training_end" in outcome.calls
    line = outcome.why_not("broken")
    assert "sample-broken 0.9" in line
    assert "FAILED" in line
    assert "sample_module_that_nobody_has" in line
    assert "Traceback" in outcome.log
    assert "sample_broken.py" in outcome.log


@pytest.mark.parametrize(
    ("kind", "cause", "file"),
    [
        ("build", "LookupError", "sample_stubborn.py"),
        ("question", "AttributeError", "sample_stubborn.py"),
        ("name", "AttributeError", ""),
    ],
)
def test_other_failures_are_told_alike(
    outcomes: dict[str, Any], kind: str, cause: str, file: str
) -> None:
    error = outcomes[f"stubborn-{kind}"].error
    assert error.types[0] == "PluginLoadError"
    assert "sample-stubborn 0.7" in error.message
    assert f"Trainer(block=['stubborn-{kind}'])" in error.message
    assert error.cause.types[0] == cause
    assert error.cause.files[-1].endswith(file)


@pytest.mark.parametrize(
    ("kind", "fact"), [("hook", "on_train_start is not a hook"), ("value", "42 is not a plug-in")]
)
def test_what_is_no_plug_in_is_refused_with_its_origin(
    outcomes: dict[str, Any], kind: str, fact: str
) -> None:
    error = outcomes[f"stubborn-{kind}"].error
    told = "\n".join([error.message, *error.notes])
    assert error.types[0] == "InvalidPluginError"
    assert fact in told
    assert "sample-stubborn 0.7" in told
    assert f"stubborn-{kind} = sample_stubborn:" in told
    assert f"block=['stubborn-{kind}']" in told


@pytest.mark.parametrize("kind", STUBBORN)
def test_whatever_is_of_no_use_can_be_skipped(outcomes: dict[str, Any], kind: str) -> None:
    outcome = outcomes[f"skipped stubborn-{kind}"]
    assert outcome.error is None, outcome.error
    assert outcome.active == ["recorder"]
    assert "FAILED" in outcome.why_not(f"stubborn-{kind}")


def test_a_long_story_does_not_break_the_header(outcomes: dict[str, Any]) -> None:
    _, _, header = outcomes["skipped stubborn-build"].printed.partition("not active\n")
    rows = [line for line in header.splitlines() if not line.startswith("called ")]
    assert len(rows) > len(STUBBORN)
    assert all(line.startswith("  -  ") for line in rows)


@pytest.mark.parametrize("kind", STUBBORN)
def test_failures_leave_nothing_behind(outcomes: dict[str, Any], kind: str) -> None:
    outcome = outcomes[f"stubborn-{kind}"]
    assert outcome.calls == []
    assert outcome.leftovers == []


def test_the_list_does_not_fall_over(environment: Any) -> None:
    rows = [set(row.split()) for row in environment.helios("plugins", "list").splitlines()]
    assert any({"broken", "sample-broken", "0.9"} <= row for row in rows)
    assert any({"recorder", "sample-recorder", "1.2.3"} <= row for row in rows)
