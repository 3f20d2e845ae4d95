"""``helios plugins show``, of what comes with Helios."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("autoloading_on")

Ask = Callable[..., Any]


def test_a_plug_in_is_shown_with_what_it_does(ask: Ask) -> None:
    shown = ask("show", "Metrics_File", "--json")["plugin"]
    assert shown["id"] == shown["name"] == "metrics-file"
    assert shown["distribution"] == "helios-trainer"
    assert shown["hooks"] == ["setup", "on_training_start", "on_log", "teardown"]
    assert shown["source"].rpartition(":")[0].endswith("metrics_file.py")
    assert shown["summary"]
    assert shown["autoload"] is True
    assert shown["not_built"] is None


def test_claims_are_known_though_the_constructor_cannot_run(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    shown = ask("show", "cuda", "--json")["plugin"]
    assert shown["claims"]["training_batch"] == "implements process_training_batch"
    assert shown["autoload"] is False
    assert "CUDA" in shown["not_built"]


def test_arguments_are_shown_with_annotations_and_defaults(ask: Ask) -> None:
    pytest.importorskip("optuna", reason="the plug-in for optuna imports optuna")
    shown = ask("show", "optuna", "--json")["plugin"]
    assert {"name": "metric_name", "annotation": "str", "default": None, "is_required": True} in (
        shown["arguments"]
    )
    assert shown["not_built"] == "it needs arguments: trial, metric_name"


def test_people_are_told_that_it_was_imported(ask: Ask) -> None:
    told = ask("show", "helios-trainer:progress")
    assert told.startswith("helios.plugins.progress was imported to tell this.\n")
    assert "\n  entry point   helios.plugins.progress:ProgressPlugin\n" in told


def test_configuration_is_shown_with_its_place(ask: Ask, configure: Callable[[str], None]) -> None:
    configure("[tool.helios.plugins.cuda]\nnumber = 1\n")
    told = ask("show", "cuda", exit_code=1)
    assert "tool.helios.plugins.cuda.number in " in told
    assert "has no argument 'number'" in told


def test_an_unknown_name_gets_the_nearest(ask: Ask) -> None:
    assert "Did you mean 'progress'?" in ask("show", "progres", exit_code=1)


def test_no_name_is_a_wrong_call(ask: Ask) -> None:
    assert "Missing argument" in ask("show", exit_code=2)
