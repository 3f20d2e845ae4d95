"""``helios plugins doctor`` and ``plan`` with many problems at once; the remedies are tried."""

import pathlib
import re
import shlex
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from helpers import valid_document

PACKAGES = (
    *("antique", "bare", "broken", "cyclic", "demanding", "doubled", "extras", "fussy", "hollow"),
    *("leftover", "malformed", "mixup", "patchmix", "quitter", "stubborn", "truncated"),
    *("twin_one", "twin_two", "vanished"),
)
SETTINGS = """
[tool.helios]
enable = ["fusy"]
block = ["pachmix"]

[tool.helios.plugins.fussy]
decay = "fast"

[tool.helios.plugins.nobody]
"""

WITHOUT_IMPORT = {
    # code, subject, a part of the description, a part of a remedy
    (
        "damaged-entry-points",
        "sample-truncated 0.5",
        "has changed since the installation",
        "sample-truncated==",
    ),
    ("duplicate-distribution", "sample-doubled 2.0", "hides 1.0", "rm -r "),
    ("duplicate-name", "'twin'", "several", "HELIOS_BLOCK_PLUGINS=sample-twin-one:twin"),
    ("malformed-entry-point", "'malformed' of", "module:attribute", "uninstall sample-malformed"),
    ("missing-extra", "'needy' of sample-extras 3.5", "nobody-has>=3", "'sample-extras[fast]'"),
    ("missing-module", "'hollow' of", "'sample_hollow.plugin'", "sample-hollow==1.0"),
    ("missing-module", "'vanished' of", "'sample_vanished'", "sample-vanished==1.4"),
    ("stale-metadata", "sample_bare-5.0.dist-info", "no METADATA", "rm -r "),
    ("stale-metadata", "~ample_leftover-1.9.dist-info", "interrupted", "rm -r "),
    ("unknown-name", "'fusy' in tool.helios.enable", "Did you mean 'fussy'", "write 'fussy'"),
    ("unknown-name", "'nobody' in tool.helios.plugins.nobody", "'nobody'", "remove 'nobody'"),
    ("unknown-name", "'pachmix' in tool.helios.block", "blocks 'pachmix'", "write 'patchmix'"),
    ("unknown-name", "'recoder' in HELIOS_PLUGINS", "no plug-in", "remove 'recoder'"),
    ("unmet-python", "sample-antique 0.3", "requires Python <3", "pip install --upgrade"),
    ("unmet-requirement", "sample-demanding 1.0", "packaging<1, but", "pip install 'packaging<1'"),
    ("unmet-requirement", "sample-demanding 1.0", "is not installed", "nobody-has>=2'"),
}
WITH_IMPORT = WITHOUT_IMPORT | {
    ("conflict", "", "claim 'training_batch'", "Trainer(block=['mix-up'])"),
    ("duplicate-id", "", "have the id 'twin'", "Trainer(block=['sample-twin-two:twin'])"),
    ("import-failed", "'broken' of", "sample_module_that_nobody_has", "sample-broken:broken"),
    ("import-failed", "'quitter' of", "SystemExit: this module", "uninstall sample-quitter"),
    ("invalid-plugin", "'stubborn-hook' of", "on_train_start is not a hook", "stubborn-hook"),
    ("invalid-plugin", "'stubborn-value' of", "42 is not a plug-in", 'block = ["sample-stubborn'),
    ("missing-attribute", "'stubborn-name' of", "no attribute 'NotThere'", "stubborn-name"),
    ("order-cycle", "", "'cyclic-one' -> 'cyclic-two'", "Trainer(block=['cyclic-one'])"),
    ("unusable-plugin", "", "'stubborn-build' could not be built", "BLOCK_PLUGINS=stubborn-build"),
    (
        "unusable-plugin",
        "",
        "'stubborn-question' failed in applies_to",
        "Trainer(block=['stubborn-quest",
    ),
    ("wrong-configuration", "'fussy' of", "fussy.decay in", "correct the code or the setting"),
}


@pytest.fixture(scope="module")
def damaged(make_environment: Callable[..., Any]) -> Any:
    environment = make_environment(*PACKAGES)
    packages = environment.site_packages
    (packages / "sample_vanished.py").unlink()
    (packages / "sample_bare-5.0.dist-info" / "METADATA").unlink()
    (packages / "sample_leftover-1.9.dist-info").rename(packages / "~ample_leftover-1.9.dist-info")
    truncated = packages / "sample_truncated-0.5.dist-info" / "entry_points.txt"
    truncated.write_bytes(truncated.read_bytes()[:9])
    replace(packages / "sample_antique-0.3.dist-info", "Name:", "Requires-Python: <3\nName:")
    older = environment.folder / "older"
    shutil.copytree(
        packages / "sample_doubled-2.0.dist-info", older / "sample_doubled-1.0.dist-info"
    )
    replace(older / "sample_doubled-1.0.dist-info", "Version: 2.0", "Version: 1.0")
    (packages / "older.pth").write_text(f"{older}\n", encoding="utf-8")
    (environment.work / "pyproject.toml").write_text(SETTINGS, encoding="utf-8")
    return environment


def replace(dist_info: pathlib.Path, old: str, new: str) -> None:
    text = (dist_info / "METADATA").read_text(encoding="utf-8")
    assert old in text
    (dist_info / "METADATA").write_text(text.replace(old, new, 1), encoding="utf-8")


def ask(environment: Any, command: str, *options: str, exit_code: int = 1, **environ: str) -> Any:
    """Return the JSON that a command prints, after a check against its schema."""
    name, *arguments = command.split()
    printed = environment.helios(
        *("plugins", name, *arguments, "--json", *options), exit_code=exit_code, **environ
    )
    document = valid_document(printed)
    if "findings" in document:  # Helios's own extras may be installed or not
        found = document["findings"]
        document["findings"] = [
            f for f in found if f["code"] != "missing-extra" or "helios-" not in f["subject"]
        ]
    return document


def marks(environment: Any) -> set[str]:
    """Return the names of the sample modules and packages that were imported.

    Some leave a mark, and all leave bytecode: pip was told to write none.
    """
    marked = environment.site_packages.rglob("*.imported")
    compiled = environment.site_packages.rglob("__pycache__/sample_*.pyc")
    names = {p.parent.name if p.stem == "__init__" else p.stem for p in marked}
    return names | {p.name.partition(".")[0] for p in compiled}


def unmatched(findings: list[dict[str, Any]], expected: set[tuple[str, ...]]) -> tuple[Any, Any]:
    """Return the expected problems that are missing, and the findings that nobody expected."""
    taken, missing = [], []
    for code, subject, what, remedy in sorted(expected):
        for finding in findings:
            if (
                finding["code"] == code
                and subject in finding["subject"]
                and what in finding["what"]
                and any(remedy in way for way in finding["remedies"])
            ):
                taken.append(finding)
                break
        else:
            missing.append((code, subject, what, remedy))
    return missing, [finding for finding in findings if finding not in taken]


@pytest.fixture(scope="module")
def cautious(damaged: Any) -> dict[str, Any]:
    """The answers without --import, and the modules that were imported nevertheless."""
    environ = {"HELIOS_PLUGINS": "recoder"}
    answers = {
        "doctor": ask(damaged, "doctor", **environ),
        "plan": ask(damaged, "plan", **environ),
        "list": ask(damaged, "list", exit_code=0),
    }
    return {**answers, "imported": marks(damaged)}


@pytest.fixture(scope="module")
def thorough(damaged: Any, cautious: dict[str, Any]) -> dict[str, Any]:
    """The answers with --import; they come after all answers that must not import."""
    environ = {"HELIOS_PLUGINS": "recoder"}
    answers = {
        command: ask(damaged, command, "--import", **environ) for command in ("doctor", "plan")
    }
    return {**answers, "imported": marks(damaged)}


def test_nothing_is_imported_unless_said(
    cautious: dict[str, Any], thorough: dict[str, Any]
) -> None:
    assert cautious["imported"] == set()
    seen = {"broken", "quitter", "hollow", "fussy", "cyclic", "mixup", "stubborn", "twin_one"}
    assert {f"sample_{name}" for name in seen} <= thorough["imported"]


@pytest.mark.parametrize("command", ["doctor", "plan"])
def test_every_fault_is_named_with_its_remedy(cautious: dict[str, Any], command: str) -> None:
    missing, unexpected = unmatched(cautious[command]["findings"], WITHOUT_IMPORT)
    assert missing == []
    assert unexpected == []


def test_importing_shows_the_rest_in_the_same_call(thorough: dict[str, Any]) -> None:
    missing, unexpected = unmatched(thorough["doctor"]["findings"], WITH_IMPORT)
    assert missing == []
    assert unexpected == []


def test_a_failed_import_is_shown_with_its_last_lines(thorough: dict[str, Any]) -> None:
    (broken,) = (f for f in thorough["doctor"]["findings"] if "'broken'" in f["subject"])
    assert "sample_broken.py" in broken["where"]
    assert broken["where"].endswith("No module named 'sample_module_that_nobody_has'")


def test_the_counts_are_those_of_the_findings(thorough: dict[str, Any]) -> None:
    report = thorough["doctor"]
    severities = [finding["severity"] for finding in report["findings"]]
    assert severities == sorted(severities)
    assert severities.count("error") == report["errors"]
    assert severities.count("warning") <= report["warnings"]
    warned = {f["code"] for f in report["findings"] if f["severity"] == "warning"}
    assert warned == {"duplicate-name", "missing-extra", "unknown-name"}


def test_the_plan_tells_what_becomes_of_each(cautious: dict[str, Any]) -> None:
    status = {row["name"]: row["status"] for row in cautious["plan"]["plugins"]}
    assert status["broken"] == "candidate"
    assert status["needy"] == "needs"
    assert "malformed" not in status


def test_the_list_tells_what_it_cannot_read(cautious: dict[str, Any]) -> None:
    folders = {pathlib.Path(place).name for place in cautious["list"]["unreadable"]}
    assert "sample_malformed-0.2.dist-info" in folders
    assert "fussy" in {row["name"] for row in cautious["list"]["plugins"]}


def test_the_plan_with_imports_shows_the_errors_of_the_trainer(thorough: dict[str, Any]) -> None:
    assert thorough["plan"]["plan"] is None
    problems = {(p["type"], p["message"]) for p in thorough["plan"]["problems"]}
    for error, part in (
        ("PluginLoadError", "HELIOS_BLOCK_PLUGINS=broken"),
        ("PluginConflictError", "keeps 'patchmix'"),
        ("DuplicatePluginError", "have the id 'twin'"),
        ("UnknownNameError", "Did you mean 'fussy'?"),
        ("ConfigurationError", "fussy.decay"),
    ):
        assert any(error == kind and part in message for kind, message in problems), part


def test_people_are_told_the_same(damaged: Any, cautious: dict[str, Any]) -> None:
    printed = damaged.helios("plugins", "doctor", exit_code=1, HELIOS_PLUGINS="recoder")
    for finding in cautious["doctor"]["findings"]:
        assert f"{finding['severity']}: {finding['code']}: {finding['subject']}\n" in printed
        for remedy in finding["remedies"]:
            assert f"\n  > {remedy}\n" in printed


class TestRemedies:
    """The remedies, taken from the findings as they are, and applied."""

    @pytest.fixture
    def troubled(self, make_environment: Callable[..., Any]) -> Any:
        return make_environment("broken", "mixup", "patchmix", "doubled", "vanished")

    def test_remedies_help(self, troubled: Any) -> None:
        packages = troubled.site_packages
        (packages / "sample_vanished.py").unlink()
        (packages / "sample_doubled-2.0.dist-info").rename(
            packages / "~ample_doubled-2.0.dist-info"
        )
        findings = ask(troubled, "doctor", "--import")["findings"]
        ways = {finding["code"]: finding["remedies"] for finding in findings}
        assert set(ways) == {"conflict", "import-failed", "missing-module", "stale-metadata"}

        # A setting for the project's file.
        (setting,) = (way for way in ways["import-failed"] if way.startswith("block ="))
        text = f"[tool.helios]\n{setting}\n"
        (troubled.work / "pyproject.toml").write_text(text, encoding="utf-8")
        # Commands.
        (command,) = ways["stale-metadata"]
        remove, option, folder = shlex.split(command)
        assert (remove, option) == ("rm", "-r")
        shutil.rmtree(folder)
        (command,) = (way for way in ways["missing-module"] if way.startswith("pip uninstall"))
        troubled.uninstall(shlex.split(command)[-1])
        # An environment variable.
        variables = [re.search(r"HELIOS_BLOCK_PLUGINS=([\w:-]+)", w) for w in ways["conflict"]]
        blocked = next(variable[1] for variable in variables if variable)
        report = ask(troubled, "doctor", "--import", exit_code=0, HELIOS_BLOCK_PLUGINS=blocked)
        assert report["findings"] == []
        plan = ask(troubled, "plan", "--import", exit_code=0, HELIOS_BLOCK_PLUGINS=blocked)["plan"]
        assert "patchmix-2d" in {entry["id"] for entry in plan["active"]}
        reasons = {row["name"]: row["reason"] for row in plan["inactive"]}
        assert reasons["mix-up"] == "blocked by HELIOS_BLOCK_PLUGINS"
        assert reasons["broken"].startswith("blocked by tool.helios.block in ")
