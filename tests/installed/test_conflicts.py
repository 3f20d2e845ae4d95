"""Two distributions that both want to process the training batch."""

import ast
import re
from collections.abc import Callable
from typing import Any

import pytest

ATTEMPTS: dict[str, dict[str, Any]] = {
    "installed": {},
    "skipping load errors": {"on_load_error": "skip"},
    "both named": {"plugins": ["mix-up", "patchmix"]},
    "one named": {"plugins": ["patchmix"]},
    "other named": {"environ": {"HELIOS_PLUGINS": "Mix_Up"}},
    "allow-list": {"autoload": ["patchmix"]},
    "registered later": {
        "autoload": False,
        "plugins": ["mix-up", "recorder"],
        "register": ["patchmix", "recorder"],
    },
    "named and blocked by id": {"plugins": ["patchmix"], "block": ["patchmix-2d"]},
}
REMEDY = re.compile(r"Trainer\((block|plugins)=(\[[^\]]*\])\)|(HELIOS_BLOCK_PLUGINS)=([^\s)]+)")


@pytest.fixture(scope="module")
def environment(make_environment: Callable[..., Any]) -> Any:
    return make_environment("mixup", "patchmix", "recorder")


@pytest.fixture(scope="module")
def outcomes(environment: Any) -> dict[str, Any]:
    return environment.start(ATTEMPTS)


@pytest.fixture(scope="module")
def remedied(environment: Any, outcomes: dict[str, Any]) -> dict[str, Any]:
    """Return what becomes of each way out that the error message offers, taken word for word."""
    remedies: dict[str, dict[str, Any]] = {}
    for found in REMEDY.finditer(outcomes["installed"].error.message):
        argument, names, variable, value = found.groups()
        remedies[found.group()] = (
            {argument: ast.literal_eval(names)} if argument else {"environ": {variable: value}}
        )
    return environment.start(remedies)


def training_calls(outcome: Any) -> set[str]:
    return {call for call in outcome.calls if call.endswith("process_training_batch")}


@pytest.mark.parametrize("attempt", ["installed", "skipping load errors", "both named"])
def test_two_of_equal_standing_are_an_error_before_anything_runs(
    outcomes: dict[str, Any], attempt: str
) -> None:
    outcome = outcomes[attempt]
    assert outcome.error.types[0] == "PluginConflictError"
    assert "ValueError" in outcome.error.types
    assert outcome.calls == []
    assert outcome.printed == ""
    assert outcome.leftovers == []


@pytest.mark.parametrize("attempt", ["installed", "both named"])
@pytest.mark.parametrize(
    "fact",
    [
        *("'mix-up'", "sample-mixup 2.0.1", "sample_mixup.py:6"),
        *("'patchmix-2d'", "sample-patchmix 0.3", "sample_patchmix.py:6"),
        *("'training_batch'", "implements process_training_batch"),
    ],
)
def test_error_names_both_sides(outcomes: dict[str, Any], attempt: str, fact: str) -> None:
    assert fact in outcomes[attempt].error.message


def test_error_offers_every_way_out(remedied: dict[str, Any]) -> None:
    kinds = [remedy.partition("[")[0].partition("=")[0] for remedy in remedied]
    assert kinds.count("Trainer(block") == 2
    assert kinds.count("HELIOS_BLOCK_PLUGINS") == 2
    assert kinds.count("Trainer(plugins") >= 1


def test_every_way_out_works_as_it_is_written(remedied: dict[str, Any]) -> None:
    wrong = {
        remedy: outcome.error or outcome.warnings or outcome.calls
        for remedy, outcome in remedied.items()
        if outcome.error or outcome.warnings or len(training_calls(outcome)) != 1
    }
    assert wrong == {}
    assert all("recorder.on_training_batch_end" in o.calls for o in remedied.values())


def test_ways_out_lead_to_either_side(remedied: dict[str, Any]) -> None:
    for kind in ("Trainer(block", "HELIOS_BLOCK_PLUGINS"):
        kept = [training_calls(o) for remedy, o in remedied.items() if remedy.startswith(kind)]
        assert sorted(map(sorted, kept)) == [
            ["mix-up.process_training_batch"],
            ["patchmix-2d.process_training_batch"],
        ]


@pytest.mark.parametrize(
    ("attempt", "winner", "loser", "source"),
    [
        ("one named", "patchmix-2d", "mix-up", "named in Trainer(plugins=...)"),
        ("other named", "mix-up", "patchmix-2d", "named in HELIOS_PLUGINS"),
    ],
)
def test_autoloaded_steps_aside_for_explicit(
    outcomes: dict[str, Any], attempt: str, winner: str, loser: str, source: str
) -> None:
    outcome = outcomes[attempt]
    assert outcome.error is None
    assert training_calls(outcome) == {f"{winner}.process_training_batch"}
    assert loser not in outcome.active
    assert source in outcome.why_active(winner)
    assert f"conflicts with '{winner}', which takes precedence" in outcome.why_not(loser)
    assert f"{loser}.setup" not in outcome.calls


def test_allow_list_decides(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["allow-list"]
    assert training_calls(outcome) == {"patchmix-2d.process_training_batch"}
    assert "sample_mixup" not in outcome.imported


def test_block_wins_over_naming_by_the_id_too(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["named and blocked by id"]
    assert outcome.error is None
    assert training_calls(outcome) == {"mix-up.process_training_batch"}
    assert "blocked" in outcome.why_not("patchmix")


def test_refused_registration_changes_nothing(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["registered later"]
    conflict, duplicate = outcome.refused
    assert conflict.types[0] == "PluginConflictError"
    assert "sample-mixup 2.0.1" in conflict.message
    assert "sample-patchmix 0.3" in conflict.message
    assert duplicate.types[0] == "DuplicatePluginError"
    assert outcome.error is None
    assert outcome.active == ["mix-up", "recorder"]
    assert training_calls(outcome) == {"mix-up.process_training_batch"}
    assert outcome.calls.count("recorder.setup") == 1
    assert "patchmix-2d.setup" not in outcome.calls
