"""``helios plugins show``, with the plug-ins of Helios itself and with a sample."""

import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helios.plugins import PLUGIN_REGISTRY

pytestmark = pytest.mark.usefixtures("autoloading_on")

Ask = Callable[..., Any]
Install = Callable[..., None]


def test_a_plug_in_is_shown_with_what_it_does(ask: Ask) -> None:
    shown = ask("show", "Metrics_File", "--json")["plugin"]
    assert shown["id"] == shown["name"] == "metrics-file"
    assert shown["distribution"] == "helios-trainer"
    assert shown["hooks"] == ["setup", "on_training_start", "on_log", "teardown"]
    assert shown["source"].rpartition(":")[0].endswith("metrics_file.py")
    assert shown["summary"]
    assert shown["changes_results"] is False
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
    assert told.startswith("Helios imported helios.plugins.builtin.progress to show this.\n")
    facts = [line.split(maxsplit=2) for line in told.splitlines()]
    assert ["entry", "point", "helios.plugins.builtin.progress:ProgressPlugin"] in facts


def test_configuration_is_shown_with_its_place(ask: Ask, configure: Callable[[str], None]) -> None:
    configure("[tool.helios.plugins.cuda]\nnumber = 1\n")
    told = ask("show", "cuda", exit_code=1)
    assert "tool.helios.plugins.cuda.number in " in told
    assert "has no argument 'number'" in told


def test_an_unknown_name_gets_the_nearest(ask: Ask) -> None:
    assert "Did you mean 'progress'?" in ask("show", "progres", exit_code=1)


def test_the_name_of_a_distribution_shows_its_only_plug_in(ask: Ask, install: Install) -> None:
    install(LOUD)
    assert ask("show", "Sample_Loud", "--json")["plugin"]["name"] == "loud"


def test_a_distribution_with_several_plug_ins_names_them(ask: Ask) -> None:
    told = ask("show", "helios-trainer", exit_code=1)
    assert "the distribution 'helios-trainer' offers" in told
    assert "  helios plugins show helios-trainer:progress\n" in told


def test_the_note_does_not_contradict_the_class(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ask("show", "cuda", "--json")["plugin"]["note"].startswith("not autoloaded, because")


def test_no_name_is_a_wrong_call(ask: Ask) -> None:
    assert "Missing argument" in ask("show", exit_code=2)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Install]:
    """Return a function that writes a plug-in with its metadata, and adds them to the path."""
    packages = tmp_path / "packages"
    place = packages / "sample_loud-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "entry_points.txt").write_text("[helios.plugins]\nloud = sample_loud:Loud\n")

    def write(source: str, metadata: str = "") -> None:
        (place / "METADATA").write_text(f"Name: sample-loud\nVersion: 1.0\n{metadata}")
        (packages / "sample_loud.py").write_text(source)
        monkeypatch.syspath_prepend(packages)

    yield write
    sys.modules.pop("sample_loud", None)
    monkeypatch.undo()
    PLUGIN_REGISTRY.refresh()


LOUD = '''
import helios

print("hello from the module")

class Loud(helios.Plugin):
    """Prints a
    lot.

    More of it.
    """

    before, after, critical = ("ema",), ("progress",), False
    changes_results = True

    def __init__(self, volume: float = 0.5):
        print("hello from the constructor")
        super().__init__("loud")
        self.unique_overrides.should_training_stop = True

    def setup(self): ...
'''
PART = """
import helios

class Part(helios.Plugin):
    def setup(self): ...
"""
LINKS = "Home-page: https://example.org\nProject-URL: Documentation, https://example.org/docs\n"


def test_what_a_plug_in_prints_is_no_part_of_the_answer(
    ask: Ask, configure: Callable[[str], None], install: Install
) -> None:
    install(LOUD, LINKS)
    configure("[tool.helios.plugins.loud]\nvolume = 0.75\n")
    shown = ask("show", "loud", "--json")["plugin"]
    assert shown["summary"] == "Prints a lot."
    assert shown["changes_results"] is True
    assert shown["documentation"] == "https://example.org/docs"
    assert shown["claims"] == {
        "should_training_stop": "unique_overrides.should_training_stop is set"
    }
    assert (shown["before"], shown["after"], shown["critical"]) == (["ema"], ["progress"], False)
    assert shown["configuration"] == {"volume": 0.75}
    assert shown["configured_in"].startswith("tool.helios.plugins.loud in ")
    told = [line.split(maxsplit=2) for line in ask("show", "loud").splitlines()]
    assert ["argument", "volume:", "float = 0.5"] in told
    assert ["changes", "results", "yes"] in told


def test_a_function_that_returns_several(ask: Ask, install: Install) -> None:
    install(f"{PART}\ndef Loud(): return [Part('first'), Part('second')]\n")
    shown = ask("show", "loud", "--json")["plugin"]
    assert shown["id"] is None
    assert shown["not_built"] == "its function returned a list of plug-ins: first, second"


def test_a_function_that_returns_nothing(ask: Ask, install: Install) -> None:
    install("def Loud(): return None\n")
    assert "let the function of 'loud' return a plug-in" in ask("show", "loud", exit_code=1)


def test_a_function_that_has_no_plug_in_here(ask: Ask, install: Install) -> None:
    install("import helios.plugins\ndef Loud(): raise helios.plugins.NotApplicable('no sensor')\n")
    assert ask("show", "loud", "--json")["plugin"]["not_built"] == "it does not apply: no sensor"


def test_without_documentation_the_home_page_is_linked(ask: Ask, install: Install) -> None:
    install(LOUD, LINKS.partition("\n")[0] + "\n")
    assert ask("show", "loud", "--json")["plugin"]["documentation"] == "https://example.org"


@pytest.mark.parametrize("last", ["raise RuntimeError('no licence')", "raise SystemExit(0)"])
def test_a_failed_import_is_shown_with_its_traceback(ask: Ask, install: Install, last: str) -> None:
    install(last)
    told = ask("show", "loud", exit_code=1)
    assert "the installed plug-in 'loud' could not be imported" in told
    assert "HELIOS_BLOCK_PLUGINS=loud" in told
    assert 'sample_loud.py", line 1' in told
