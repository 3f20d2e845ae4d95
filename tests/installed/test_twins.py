"""Two distributions that offer a plug-in under one name."""

from collections.abc import Callable
from typing import Any

import pytest

ATTEMPTS: dict[str, dict[str, Any]] = {
    "installed": {},
    "named": {"plugins": ["twin"]},
    "allowed": {"autoload": ["twin"]},
    "environment": {"environ": {"HELIOS_PLUGINS": "twin"}},
    "named in full": {"autoload": False, "plugins": ["sample-twin-two:twin"]},
    "one in full": {"plugins": ["sample_twin_one:TWIN"]},
    "allowed in full": {"autoload": ["sample-twin-one:twin"]},
    "environment in full": {"environ": {"HELIOS_PLUGINS": "sample-twin-two:twin"}},
    "one blocked": {"block": ["sample-twin-one:twin"]},
    "both blocked": {"block": ["twin"]},
}


@pytest.fixture(scope="module")
def environment(make_environment: Callable[..., Any]) -> Any:
    return make_environment("twin_one", "twin_two")


@pytest.fixture(scope="module")
def outcomes(environment: Any) -> dict[str, Any]:
    return environment.start(ATTEMPTS)


@pytest.mark.parametrize("attempt", ["named", "allowed", "environment"])
def test_the_common_name_is_an_error_that_names_both(
    outcomes: dict[str, Any], attempt: str
) -> None:
    outcome = outcomes[attempt]
    assert outcome.error.types[0] == "AmbiguousPluginError"
    assert "LookupError" in outcome.error.types
    for fact in ("sample-twin-one:twin", "sample-twin-two:twin", "1.1", "2.2"):
        assert fact in outcome.error.message
    assert outcome.imported == []
    assert outcome.leftovers == []


@pytest.mark.parametrize(
    ("attempt", "which"),
    [
        ("named in full", "two"),
        ("one in full", "one"),
        ("allowed in full", "one"),
        ("environment in full", "two"),
        ("one blocked", "two"),
    ],
)
def test_the_qualified_name_means_one(outcomes: dict[str, Any], attempt: str, which: str) -> None:
    outcome = outcomes[attempt]
    assert outcome.error is None
    assert outcome.calls == [f"twin-{which}.setup"]
    assert f"sample-twin-{which}" in outcome.why_active("twin")


def test_the_common_name_blocks_both(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["both blocked"]
    assert outcome.error is None
    assert outcome.imported == []
    assert outcome.printed.count("blocked by Trainer(block=...)") >= 2


def test_both_autoloaded_is_an_error_with_a_way_out(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["installed"]
    assert outcome.error.types[0] == "DuplicatePluginError"
    assert outcome.calls == []
    assert outcome.leftovers == []
    for fact in ("sample-twin-one 1.1", "sample-twin-two 2.2", "sample_twin_one.py"):
        assert fact in outcome.error.message
    assert "block=['sample-twin-one:twin']" in outcome.error.message
    assert "block=['sample-twin-two:twin']" in outcome.error.message
