"""Installed plug-ins that fail in a run: who is named, and what is left behind."""

from typing import Any

import pytest

HOOKS = ("setup", "on_training_start", "on_training_batch_end", "on_training_end", "teardown")
ATTEMPTS: dict[str, dict[str, Any]] = {
    **{hook: {"autoload": ["recorder"], "environ": {"RECORDER_FAILS_IN": hook}} for hook in HOOKS},
    "module": {"autoload": ["recorder", "shape-module"], "environ": {"SHAPE_MODULE_FAILS": "1"}},
    "afterwards": {"autoload": ["recorder", "shape-module"]},
}


@pytest.fixture(scope="module")
def outcomes(peaceful: Any) -> dict[str, Any]:
    return peaceful.start(ATTEMPTS)


@pytest.mark.parametrize("hook", HOOKS)
def test_error_of_a_hook_reaches_the_user_with_a_note(outcomes: dict[str, Any], hook: str) -> None:
    error = outcomes[hook].error
    assert error.types[0] == "ZeroDivisionError"
    assert error.message == "the recorder was told to fail"
    assert error.cause is None
    assert error.files[-1].endswith("sample_recorder.py")
    [note] = [note for note in error.notes if "'recorder'" in note]
    assert f"raised in {hook} of plug-in 'recorder' (sample-recorder 1.2.3," in note
    assert "sample_recorder.py:" in note


def test_error_of_a_module_is_attributed_too(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["module"]
    assert outcome.error.types[0] == "ZeroDivisionError"
    note = "\n".join(outcome.error.notes)
    assert "raised in on_training_start of plug-in 'shape-module' (sample-shapes 5.0," in note


def test_failure_is_told_and_everything_torn_down_in_reverse(outcomes: dict[str, Any]) -> None:
    assert outcomes["module"].calls[-4:] == [
        "shape-module.on_training_start",
        "recorder.on_exception",
        "shape-module.teardown",
        "recorder.teardown",
    ]


def test_no_hook_of_training_follows_a_failure(outcomes: dict[str, Any]) -> None:
    assert outcomes["on_training_batch_end"].calls == [
        "recorder.setup",
        "recorder.on_training_start",
        "recorder.on_training_batch_end",
        "recorder.on_exception",
        "recorder.teardown",
    ]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_is_left_behind(outcomes: dict[str, Any], attempt: str) -> None:
    assert outcomes[attempt].leftovers == []


def test_the_next_trainer_is_not_affected(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["afterwards"]
    assert outcome.error is None
    assert outcome.active == ["recorder", "shape-module"]
    assert outcome.calls.count("recorder.on_training_batch_end") == 2
