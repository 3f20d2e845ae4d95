"""``helios plugins doctor`` in this process. A broken environment: tests/installed."""

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from helios.cli.doctor.problem import CODES
from helios.plugins import PLUGIN_REGISTRY
from helios.plugins.builtin.progress import ProgressPlugin
from helios.plugins.hooks import HOOKS
from helios.plugins.markers import Deprecation

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "cli.md"
pytestmark = pytest.mark.usefixtures("autoloading_on")

Ask = Callable[..., Any]
Configure = Callable[[str], None]
OFFER = "[helios.plugins]\nghost = {}\n"


def found(ask: Ask, *options: str, exit_code: int = 0) -> dict[str, dict[str, Any]]:
    """Return the findings by code and subject, without those about Helios's own extras."""
    findings = ask("doctor", "--json", *options, exit_code=exit_code)["findings"]
    ours = [f for f in findings if f["code"] != "missing-extra" or "helios-" not in f["subject"]]
    return {f"{f['code']}: {f['subject']}": f for f in ours}


def test_all_is_well(ask: Ask) -> None:
    assert found(ask, "--import") == {}


def test_warnings_count_only_if_strict(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOS_BLOCK_PLUGINS", "progres")
    (finding,) = found(ask).values()
    assert finding["severity"] == "warning"
    assert finding["remedies"][0] == "write 'progress' instead"
    found(ask, "--strict", exit_code=1)


def test_every_entry_of_an_allow_list_is_checked(ask: Ask, configure: Configure) -> None:
    entries = '["helios-trainer>=99", "progres", "cuda ==== 1", "optuna"]'
    configure(f"[tool.helios]\nautoload = {entries}\n")
    findings = found(ask, exit_code=1)
    assert set(findings) == {
        "unknown-name: autoload entry 'progres'",
        "wrong-configuration: autoload entry 'cuda ==== 1'",
        "version-not-allowed: autoload entry 'helios-trainer>=99'",
    }
    installed = findings["version-not-allowed: autoload entry 'helios-trainer>=99'"]
    assert installed["remedies"] == ["pip install 'helios-trainer>=99'"]


def test_a_file_that_cannot_be_read_hides_nothing_else(
    ask: Ask, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("[tool.helios]\nblock = 'progress'\n")
    monkeypatch.setenv("HELIOS_PLUGINS", "progres")
    findings = found(ask, "--import", exit_code=1)
    assert set(findings) == {
        "wrong-configuration: [tool.helios]",
        "unknown-name: 'progres' in HELIOS_PLUGINS",
    }


def test_an_error_of_a_constructor_is_a_finding(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("HELIOS_PLUGINS", "cuda")
    (finding,) = found(ask, "--import", exit_code=1).values()
    assert finding["code"] == "start-failed"
    assert "named in HELIOS_PLUGINS" in finding["where"]


def test_deprecated_hooks_are_named(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    old = dataclasses.replace(
        HOOKS["on_training_start"], deprecations=(Deprecation("0.9", "write setup instead"),)
    )
    monkeypatch.setitem(HOOKS, "on_training_start", old)
    findings = ask("doctor", "--import", "--json")["findings"]
    messages = [f["what"] for f in findings if f["code"] == "deprecated-hook"]
    assert any("deprecated since Helios 0.9: write setup instead" in text for text in messages)


def test_names_in_before_and_after_that_nobody_has(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProgressPlugin, "before", ("metric-file", "Metrics_File"))
    monkeypatch.setattr(ProgressPlugin, "after", ("emma", "preemption"))
    findings = [f for f in found(ask, "--import").values() if f["code"] == "unknown-name"]
    assert len(findings) == 1  # by subject
    findings = ask("doctor", "--import", "--json")["findings"]
    before, after = sorted(
        (f for f in findings if f["code"] == "unknown-name"), key=lambda f: f["what"], reverse=True
    )
    assert before["what"].startswith("before names 'metric-file', but no installed plug-in has")
    assert "Did you mean 'metrics-file'" in before["what"]
    assert after["what"].startswith("after names 'emma'")
    assert {before["severity"], after["severity"]} == {"warning"}
    assert "progress.py:" in before["where"]
    assert before["remedies"] == [
        "correct before, or ignore this warning if 'metric-file' need not be installed"
    ]


@pytest.mark.parametrize(
    ("folder", "files", "code"),
    [
        ("sample_empty-6.6", {"METADATA": ""}, "unreadable-metadata"),
        ("sample_nameless-6.6", {"METADATA": "Version: 6.6\n"}, "unreadable-metadata"),
        ("sample_bare-6.6", {}, "stale-metadata"),
        (
            "sample_unclosed-6.6",
            {"entry_points.txt": "[helios.plugins\nghost = helios:Plugin\n"},
            "damaged-entry-points",
        ),
        (
            "sample_garbled-6.6",
            {"entry_points.txt": "[helios.plugins]\nthis is no entry point\n"},
            "damaged-entry-points",
        ),
        (
            "sample_senseless-6.6",
            {"entry_points.txt": OFFER.format("not a module!")},
            "malformed-entry-point",
        ),
        (
            "sample_unrequired-6.6",
            {"METADATA": "Name: sample-x\nVersion: 6.6\nRequires-Dist: ]]what[[\n"},
            "unreadable-metadata",
        ),
    ],
)
def test_damage_is_told_apart(
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    folder: str,
    files: dict[str, str],
    code: str,
) -> None:
    place = tmp_path / "packages" / f"{folder}.dist-info"
    place.mkdir(parents=True)
    whole = {"METADATA": f"Name: {folder[:-4]}\nVersion: 6.6\n"} if code != "stale-metadata" else {}
    whole |= {"entry_points.txt": OFFER.format("helios:Plugin")}
    for name, text in {**whole, **files}.items():
        (place / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(place.parent)
    (finding,) = found(ask, exit_code=1).values()
    assert finding["code"] == code
    assert str(place) in finding["where"]
    assert "sample_" in " ".join(finding["remedies"]) or "sample-" in finding["remedies"][0]


@pytest.fixture(autouse=True)
def registry_as_before() -> Any:
    yield
    PLUGIN_REGISTRY.refresh()


def test_parents_of_a_module_are_not_imported(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    packages = tmp_path / "packages"
    (packages / "sample_deep" / "inner").mkdir(parents=True)
    (packages / "sample_deep" / "__init__.py").write_text("raise SystemExit")
    (packages / "sample_deep" / "inner" / "__init__.py").write_text("raise SystemExit")
    place = packages / "sample_deep-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Name: sample-deep\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(packages)
    for value, fault in (
        ("sample_deep.inner:Plugin", None),
        ("sample_deep.inner.nothing:Plugin", "sample_deep.inner.nothing"),
        ("sample_deep.outer.nothing:Plugin", "sample_deep.outer"),
    ):
        (place / "entry_points.txt").write_text(OFFER.format(value))
        findings = list(found(ask, exit_code=1 if fault else 0).values())
        assert [f["what"].split("'")[1] for f in findings] == ([fault] if fault else [])
    assert "sample_deep" not in sys.modules


def test_every_code_is_documented() -> None:
    _, _, section = DOCUMENT.read_text(encoding="utf-8").partition("## What doctor finds")
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert set(CODES.values()) <= documented
    for command in ("doctor", "plan"):
        schema = json.loads((DOCUMENT.parent / "schemas" / f"plugins-{command}.json").read_text())
        assert set(schema["$defs"]["finding"]["properties"]["code"]["enum"]) == documented
