"""A package from ``pip install`` to ``pip uninstall``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Story(NamedTuple):
    """What was seen before and after the package was removed."""

    before: Any
    after: dict[str, Any]


@pytest.fixture(scope="module")
def story(make_environment: Callable[..., Any]) -> Story:
    environment = make_environment("recorder")
    environment.command = [str(environment.python)]  # no fork: once, all begins at the beginning
    before = environment.start({"start": {}})["start"]
    environment.uninstall("sample-recorder")
    after = environment.start({"start": {}, "named": {"plugins": ["recorder"]}})
    return Story(before, after)


def test_installed_is_called(story: Story) -> None:
    assert story.before.error is None
    assert story.before.calls == [
        "recorder.setup",
        "recorder.on_training_start",
        "recorder.on_training_batch_end",
        "recorder.on_training_batch_end",
        "recorder.on_training_end",
        "recorder.teardown",
    ]


def test_installed_is_in_the_header_with_origin_and_reason(story: Story) -> None:
    _place, _, line = story.before.why_active("recorder").partition(" ")
    assert line == "recorder sample-recorder 1.2.3 installed"


def test_header_comes_before_the_first_call(story: Story) -> None:
    header, _, _ = story.before.printed.partition("called ")
    assert "sample-recorder 1.2.3" in header


def test_uninstalled_is_gone(story: Story) -> None:
    outcome = story.after["start"]
    assert outcome.error is None
    assert outcome.calls == []
    assert "recorder" not in outcome.active
    assert "recorder" not in outcome.printed


def test_uninstalled_cannot_be_named(story: Story) -> None:
    error = story.after["named"].error
    assert error.types[:2] == ["UnknownNameError", "HeliosError"]
    assert "'recorder'" in error.message
