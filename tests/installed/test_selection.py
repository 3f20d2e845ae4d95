"""What of the installed plug-ins is active, and why: one start for each way to say it."""

from typing import Any

import pytest

BLOCK, PLUGINS = "HELIOS_BLOCK_PLUGINS", "HELIOS_PLUGINS"
OFF = {"HELIOS_DISABLE_PLUGIN_AUTOLOAD": "1"}
SPELLINGS = ("mix-up", "mix_up", "Mix_Up", "MIX.UP", "sample-mixup:mix-up", "Sample_Mixup:MIX.UP")

ATTEMPTS: dict[str, dict[str, Any]] = {
    "installed": {},
    "blocked": {"block": ["recorder"]},
    "blocked by the environment": {"environ": {BLOCK: "witness, recorder"}},
    "blocked with its distribution": {"block": ["Sample_Recorder"]},
    "blocked and named": {"block": ["recorder"], "plugins": ["recorder"]},
    "allow-list": {"autoload": ["recorder"]},
    "autoload off": {"autoload": False},
    "switched off": {"environ": OFF},
    "switched off with an allow-list": {"environ": OFF, "autoload": ["recorder"]},
    "named in the environment": {"environ": {**OFF, PLUGINS: "recorder"}},
    "named": {"plugins": ["recorder"], "autoload": False},
    "unknown in plugins": {"plugins": ["recordr"]},
    "unknown in autoload": {"autoload": ["recordr"]},
    "unknown in the environment": {"environ": {PLUGINS: "recordr"}},
    "unknown in block": {"block": ["recordr"]},
    "unknown in the environment's block": {"environ": {BLOCK: "recordr"}},
    "shapes by name": {
        "autoload": False,
        "plugins": [
            *("shape-factory", "shape-module", "shape-object", "shape-manual", "shape-elsewhere"),
            ["shape-arguments", {"rate": 0.5}],
        ],
    },
    "needy by name": {"autoload": False, "plugins": ["needy"]},
    **{f"named {spelling}": {"autoload": False, "plugins": [spelling]} for spelling in SPELLINGS},
    **{f"blocked {spelling}": {"block": [spelling]} for spelling in SPELLINGS},
    **{f"allowed {spelling}": {"autoload": [spelling]} for spelling in SPELLINGS},
}


@pytest.fixture(scope="module")
def outcomes(peaceful: Any) -> dict[str, Any]:
    return peaceful.start(ATTEMPTS)


def ours(outcome: Any) -> list[str]:
    """Return the active plug-ins, apart from those that come with Helios."""
    return [i for i in outcome.active if i not in ("metrics-file", "preemption", "progress")]


# Blocking.


@pytest.mark.parametrize(
    ("attempt", "source"),
    [
        ("blocked", "Trainer(block=...)"),
        ("blocked by the environment", BLOCK),
        ("blocked with its distribution", "Trainer(block=...)"),
    ],
)
def test_blocked(outcomes: dict[str, Any], attempt: str, source: str) -> None:
    outcome = outcomes[attempt]
    assert outcome.error is None
    assert "recorder" not in outcome.active
    assert not any(call.startswith("recorder.") for call in outcome.calls)
    assert f"sample-recorder 1.2.3 blocked by {source}" in outcome.why_not("recorder")
    assert "sample_recorder" not in outcome.imported
    assert "mix-up" in outcome.active


def test_every_name_of_a_list_in_the_environment_counts(outcomes: dict[str, Any]) -> None:
    assert BLOCK in outcomes["blocked by the environment"].why_not("witness")
    assert "witness" in outcomes["blocked"].active


def test_block_wins_over_naming(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["blocked and named"]
    assert outcome.error is None
    assert "recorder" not in outcome.active
    assert "recorder.setup" not in outcome.calls
    assert "blocked" in outcome.why_not("recorder")
    assert "'recorder', requested in Trainer(plugins=...), is blocked by Trainer" in outcome.log


# Allowing, and switching off.


def test_allow_list(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["allow-list"]
    assert outcome.active == ["recorder"]
    assert "in the allow-list" in outcome.why_active("recorder")
    assert "not in the allow-list" in outcome.why_not("mix-up")
    assert outcome.imported == ["sample_recorder"]


@pytest.mark.parametrize(
    "attempt", ["autoload off", "switched off", "switched off with an allow-list"]
)
def test_switched_off(outcomes: dict[str, Any], attempt: str) -> None:
    outcome = outcomes[attempt]
    assert outcome.error is None
    assert outcome.active == []
    assert outcome.imported == []
    assert "sample-recorder 1.2.3 autoloading is off" in outcome.why_not("recorder")


@pytest.mark.parametrize(
    ("attempt", "source"),
    [("named", "Trainer(plugins=...)"), ("named in the environment", PLUGINS)],
)
def test_named_is_active_though_autoloading_is_off(
    outcomes: dict[str, Any], attempt: str, source: str
) -> None:
    outcome = outcomes[attempt]
    assert outcome.active == ["recorder"]
    assert "recorder.on_training_batch_end" in outcome.calls
    assert f"sample-recorder 1.2.3 named in {source}" in outcome.why_active("recorder")


# Unknown names.


@pytest.mark.parametrize(
    ("attempt", "source"),
    [
        ("unknown in plugins", "Trainer(plugins="),
        ("unknown in autoload", "Trainer(autoload="),
        ("unknown in block", "Trainer(block="),
        ("unknown in the environment", PLUGINS),
    ],
)
def test_unknown_name_is_an_error_with_place_and_nearest_name(
    outcomes: dict[str, Any], attempt: str, source: str
) -> None:
    outcome = outcomes[attempt]
    assert "UnknownNameError" in outcome.error.types
    assert "KeyError" in outcome.error.types
    assert "'recordr'" in outcome.error.message
    assert source in outcome.error.message
    assert "Did you mean 'recorder'?" in outcome.error.message
    assert outcome.calls == []
    assert outcome.leftovers == []


def test_unknown_name_in_the_block_of_the_environment_is_a_warning(
    outcomes: dict[str, Any],
) -> None:
    outcome = outcomes["unknown in the environment's block"]
    [(category, message, file)] = outcome.warnings
    assert category == "UserWarning"
    assert "'recordr'" in message
    assert BLOCK in message
    assert "Did you mean 'recorder'?" in message
    assert file.endswith("driver.py")  # where the trainer is constructed
    assert "recorder" in outcome.active


def test_known_names_are_no_reason_to_warn(outcomes: dict[str, Any]) -> None:
    assert [name for name, outcome in outcomes.items() if outcome.warnings] == [
        "unknown in the environment's block",
    ]


# Spellings.


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_spelling_of_a_name_is_understood(outcomes: dict[str, Any], spelling: str) -> None:
    assert outcomes[f"named {spelling}"].active == ["mix-up"]
    assert outcomes[f"allowed {spelling}"].active == ["mix-up"]
    blocked = outcomes[f"blocked {spelling}"]
    assert "mix-up" not in blocked.active
    assert "blocked by Trainer(block=...)" in blocked.why_not("mix-up")
    assert "recorder" in blocked.active


# What an entry point can name.


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("shape-factory", ["setup"]),
        ("shape-module", ["configure_trainer", "setup", "on_training_start", "teardown"]),
        ("shape-object", ["setup", "on_training_batch_end", "on_training_batch_end"]),
    ],
)
def test_factory_module_and_object_are_active_and_called(
    outcomes: dict[str, Any], name: str, calls: list[str]
) -> None:
    for attempt in ("installed", "shapes by name"):
        outcome = outcomes[attempt]
        assert [c for c in outcome.calls if c.startswith(name)] == [f"{name}.{c}" for c in calls]
        assert "sample-shapes 5.0" in outcome.why_active(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("shape-arguments", "requires arguments (rate)"),
        ("shape-manual", "not autoloaded"),
        ("shape-elsewhere", "does not apply to this trainer"),
    ],
)
def test_what_cannot_or_should_not_be_autoloaded_is_listed_with_the_reason(
    outcomes: dict[str, Any], name: str, reason: str
) -> None:
    outcome = outcomes["installed"]
    assert f"sample-shapes 5.0 {reason}" in outcome.why_not(name)
    assert name not in outcome.active
    assert f"{name}.setup" not in outcome.calls


def test_what_is_not_autoloaded_can_be_named(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["shapes by name"]
    assert outcome.error is None
    assert outcome.active == [*ATTEMPTS["shapes by name"]["plugins"][:-1], "shape-arguments"]
    assert {f"shape-{kind}.setup" for kind in ("arguments", "manual", "elsewhere")} <= set(
        outcome.calls
    )


# Extras.


def test_missing_extra_is_named_and_nothing_imported(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["installed"]
    assert outcome.error is None
    assert "sample-extras 3.5" in outcome.why_not("needy")
    assert "sample-distribution-that-nobody-has>=3" in outcome.why_not("needy")
    assert "sample_extras.needy" not in outcome.imported


def test_extra_that_is_there_does_no_harm(outcomes: dict[str, Any]) -> None:
    assert "content.setup" in outcomes["installed"].calls


def test_naming_a_plug_in_with_a_missing_extra_is_an_error(outcomes: dict[str, Any]) -> None:
    error = outcomes["needy by name"].error
    assert error.types[0] == "PluginLoadError"
    assert "sample-extras 3.5" in error.message
    assert error.cause.types[0] == "ModuleNotFoundError"


# Altogether.


def test_attempts_that_should_succeed_do(outcomes: dict[str, Any]) -> None:
    failed = {name for name, outcome in outcomes.items() if outcome.error}
    places = ("plugins", "autoload", "block", "the environment")
    assert failed == {*(f"unknown in {place}" for place in places), "needy by name"}


def test_all_that_is_installed_and_willing_is_active(outcomes: dict[str, Any]) -> None:
    willing = ["content", "mix-up", "recorder", "shape-factory", "shape-module", "shape-object"]
    assert ours(outcomes["installed"]) == [*willing, "witness"]  # in the order of the alphabet
