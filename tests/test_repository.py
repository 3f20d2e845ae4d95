"""The files around the code agree with it: the map, the workflow, the hooks and the forms."""

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOW = GITHUB / "workflows" / "ci.yml"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
YAML_FILES = [ROOT / ".pre-commit-config.yaml", WORKFLOW, *FORMS]
PYTHONS = {"3.11", "3.12", "3.13"}

LONGEST_MODULE = 400
LONGEST_TEST_MODULE = 600


def project() -> dict[str, Any]:
    """Return the table ``[project]`` of ``pyproject.toml``."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def relative(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


# The map in CONTRIBUTING.md.


def modules_on_the_map(text: str) -> list[str]:
    """Return the paths of the modules that the table of a text names.

    A name without a folder means the folder of the name before it, in the same row:
    ``src/helios/trainer/run.py``, ``loops.py``.
    """
    found = []
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        folder = None
        for name in re.findall(r"`([^`\s]+\.py)`", row):
            if "/" in name:
                folder = name.rpartition("/")[0]
                found.append(name)
            else:
                assert folder is not None, f"{name} stands behind no folder in the row {row}"
                found.append(f"{folder}/{name}")
    return found


def test_a_name_without_a_folder_means_the_folder_before_it() -> None:
    text = (
        "| a | `src/x/one.py`, `two.py`, then `docs/three.md` |\n| b | `src/y/four.py` |\n`no.py`\n"
    )
    assert modules_on_the_map(text) == ["src/x/one.py", "src/x/two.py", "src/y/four.py"]


def the_map() -> list[str]:
    return modules_on_the_map((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_the_map_names_every_module() -> None:
    modules = {relative(path) for path in (ROOT / "src/helios").rglob("*.py")}
    modules = {path for path in modules if not path.endswith(("/__init__.py", "/__main__.py"))}
    assert sorted(modules - set(the_map())) == []


def test_the_map_names_no_module_that_is_gone() -> None:
    assert [path for path in the_map() if not (ROOT / path).is_file()] == []


# The size of modules.


def test_no_module_is_too_long() -> None:
    limits = {
        "src": LONGEST_MODULE,
        "plugins_contrib/*/src": LONGEST_MODULE,
        "tests": LONGEST_TEST_MODULE,
        "plugins_contrib/*/tests": LONGEST_TEST_MODULE,
    }
    too_long = {}
    for pattern, limit in limits.items():
        paths = [path for folder in ROOT.glob(pattern) for path in folder.rglob("*.py")]
        assert paths, f"{pattern} holds no module"
        for path in paths:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > limit:
                too_long[relative(path)] = lines
    assert too_long == {}


# The files in YAML.


def read_yaml(path: pathlib.Path) -> Any:
    reason = "PyYAML, which the extra 'optuna' brings, is not installed"
    yaml = pytest.importorskip("yaml", reason=reason)
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps() -> Iterator[dict[str, Any]]:
    """Yield the steps of all jobs of the workflow."""
    for job in read_yaml(WORKFLOW)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", YAML_FILES, ids=relative)
def test_yaml_can_be_parsed(path: pathlib.Path) -> None:
    assert isinstance(read_yaml(path), dict)


def test_every_yaml_file_is_parsed() -> None:
    assert sorted(GITHUB.rglob("*.y*ml")) == sorted(set(YAML_FILES) - {YAML_FILES[0]})


def test_the_workflow_calls_what_decides() -> None:
    script = ROOT / ".ci" / "run"
    assert ".ci/run" in [step.get("run") for step in steps()]
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"


def test_the_workflow_tests_the_supported_pythons() -> None:
    jobs = read_yaml(WORKFLOW)["jobs"]
    matrix = jobs["range"]["strategy"]["matrix"]
    assert set(matrix["python"]) == PYTHONS
    assert set(matrix["dependencies"]) == {"oldest", "newest"}
    assert all(row["dependencies"] == "oldest" for row in matrix["exclude"])
    settings = [step["with"] for step in jobs["land"]["steps"] if "with" in step]
    assert settings == [{"python-version": "3.11"}]
    prefix = "Programming Language :: Python :: 3."
    claimed = {c.rpartition(" ")[2] for c in project()["classifiers"] if c.startswith(prefix)}
    assert claimed <= PYTHONS


def test_the_workflow_can_only_read() -> None:
    workflow = read_yaml(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert workflow["concurrency"]["cancel-in-progress"] is True


def test_actions_are_pinned_by_major_version() -> None:
    actions = [step["uses"] for step in steps() if "uses" in step]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w/-]+@v\d+", action)] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_hooks_run_what_make_lint_runs() -> None:
    config = read_yaml(ROOT / ".pre-commit-config.yaml")
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)
    lint = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "--old-file", ".venv/installed", "lint"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [hook["entry"] for hook in hooks] == lint.stdout.splitlines()


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_forms_ask(name: str) -> None:
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form.keys() >= {"name", "description", "body"}
    questions = [item for item in form["body"] if item["type"] != "markdown"]
    assert all(question["attributes"].get("label") for question in questions)
    ids = [question["id"] for question in questions]
    assert len(set(ids)) == len(ids)
    if name == "bug":
        assert set(ids) >= {"plan", "doctor", "versions", "script", "traceback"}


# The oldest dependencies.


def test_oldest_pins_every_dependency_to_its_lower_bound() -> None:
    script = subprocess.run(
        [sys.executable, GITHUB / "oldest.py"], capture_output=True, text=True, check=True
    )
    pins = dict(line.split("==") for line in script.stdout.splitlines())
    table = project()
    users = {*table["optional-dependencies"]} - {"dev"}
    extras = [text for name in users for text in table["optional-dependencies"][name]]
    for requirement in map(Requirement, [*table["dependencies"], *extras]):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
        assert f">={pins[requirement.name]}" in str(requirement.specifier).split(",")


def test_oldest_refuses_a_dependency_without_a_lower_bound() -> None:
    oldest = runpy.run_path(str(GITHUB / "oldest.py"))["oldest"]
    assert str(oldest(Requirement("some>=2,>=2.1,<3"))) == "2.1"
    with pytest.raises(SystemExit, match="some<3 has no lower bound"):
        oldest(Requirement("some<3"))
