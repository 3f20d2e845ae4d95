"""``helios plugins new`` in this process. The package in use: tests/installed."""

import errno
import pathlib
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packages import write_distribution
from typer.testing import CliRunner

import helios
from helios.cli.app import app
from helios.cli.package_name import PackageName
from helios.cli.plugins_new import create_package
from helios.plugins import PLUGIN_REGISTRY

pytestmark = pytest.mark.usefixtures("autoloading_on")

ROOT = pathlib.Path(__file__).parents[2]
LONGEST = "helios-" + "a" * 33


def new(name: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["plugins", "new", name])
    assert result.exit_code == exit_code, (result.output, result.exception)
    return " ".join(result.output.split())


def refused(name: str, exit_code: int, folder: pathlib.Path) -> str:
    before = sorted(folder.rglob("*"))
    output = new(name, exit_code)
    assert sorted(folder.rglob("*")) == before
    return output


def test_files_of_a_package(tmp_path: pathlib.Path) -> None:
    output = new("helios-two-words")
    files = sorted(path for path in pathlib.Path().rglob("*") if path.is_file())
    assert list(map(str, files)) == [
        "helios-two-words/.github/workflows/ci.yml",
        "helios-two-words/.gitignore",
        "helios-two-words/README.md",
        "helios-two-words/pyproject.toml",
        "helios-two-words/src/helios_two_words/__init__.py",
        "helios-two-words/src/helios_two_words/py.typed",
        "helios-two-words/tests/test_helios_two_words.py",
    ]
    assert all(f"created {file}" in output for file in files)
    assert "pip install --editable './helios-two-words[dev]'" in output
    assert "helios plugins show two-words" in output
    project = tomllib.loads(pathlib.Path("helios-two-words/pyproject.toml").read_text())["project"]
    assert project["name"] == "helios-two-words"
    assert project["dependencies"] == [f"helios-trainer>={helios.__version__}"]
    assert project["entry-points"] == {
        "helios.plugins": {"two-words": "helios_two_words:TwoWordsPlugin"}
    }
    workflow = yaml.safe_load(pathlib.Path("helios-two-words/.github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][1]["with"] == {
        "python-version": "${{ matrix.python }}"
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "helios-two-words"]  # no scratch folder is left


@pytest.mark.parametrize(
    ("name", "module", "plugin", "class_name"),
    [
        ("helios-hello", "helios_hello", "hello", "HelloPlugin"),
        ("acme-spikes", "acme_spikes", "acme-spikes", "AcmeSpikesPlugin"),
        ("helios-2d-mix", "helios_2d_mix", "2d-mix", "Helios2dMixPlugin"),
        ("helios-none", "helios_none", "none", "NonePlugin"),
        ("helios-my-plugin", "helios_my_plugin", "my-plugin", "MyPlugin"),
        ("hello", "hello", "hello", "HelloPlugin"),
    ],
)
def test_names_that_follow(name: str, module: str, plugin: str, class_name: str) -> None:
    package = PackageName.parse(name)
    assert (package.module, package.plugin, package.class_name) == (module, plugin, class_name)


@pytest.mark.parametrize("name", ["helios-a", LONGEST, "x" * 40])
def test_ruff_finds_nothing(name: str, tmp_path: pathlib.Path) -> None:
    create_package(PackageName.parse(name), tmp_path)
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("Helios_Hello", "Write 'helios-hello'."),
        ("helios--hello", "Write 'helios-hello'."),
        ("helios.hello", "Write 'helios-hello'."),
        ("hello-", "Write 'hello'."),
        ("HelloWorld", "Write 'hello-world'."),
        ("héllo wörld", "Write 'hello-world'."),
        ("../hello", "Write 'hello'."),
        ("3d", "Write 'helios-3d'."),
        ("helios-helios-x", "Write 'helios-x'."),
        ("你好", "Write a name like 'helios-hello'."),
        ("", "Write a name like 'helios-hello'."),
        ("class", "'class' is a keyword of Python, so nobody could import the package"),
        ("class", "write 'helios-class'."),
        ("json", "'json' is a module of Python"),
        (LONGEST + "a", "has 41 characters: write a name of at most 40."),
    ],
)
def test_bad_names_are_refused_with_the_right_spelling(
    name: str, remedy: str, tmp_path: pathlib.Path
) -> None:
    assert remedy in refused(name, 2, tmp_path)


def test_suggestions_can_be_used(tmp_path: pathlib.Path) -> None:
    names = ("_", "Helios", "class!", "0", "helios-helios-helios", "a" * 50 + "-", "json.")
    outputs = [refused(name, 2, tmp_path) for name in names]
    suggested = [
        output.rpartition("Write '")[2].partition("'")[0]
        for output in outputs
        if "Write a name like" not in output
    ]
    assert suggested
    for name in suggested:
        PackageName.parse(name)


def test_names_in_use_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    write_distribution(site, "helios-wave", offers={"ripple": "wave_module:Wave"})
    write_distribution(site, "Other_Name", modules={"odd_module.py": ""})
    monkeypatch.syspath_prepend(site)
    assert "a distribution 'helios-wave' is installed (1.0): write another" in refused(
        "helios-wave", 1, tmp_path
    )
    assert "a distribution 'other-name' is installed" in refused("other-name", 1, tmp_path)
    for name in ("helios-ripple", "ripple"):
        assert "helios-wave 1.0 offers a plug-in 'ripple'" in refused(name, 1, tmp_path)
    assert "a module 'odd_module' can be imported already" in refused("odd-module", 1, tmp_path)
    assert "offers a plug-in 'progress'" in refused("helios-progress", 1, tmp_path)
    assert "a module 'helios' can be imported already" in refused("helios", 1, tmp_path)


def test_the_name_of_a_registered_class_is_refused(tmp_path: pathlib.Path) -> None:
    class New_Wave(helios.Plugin):  # noqa: N801
        def setup(self) -> None: ...

    PLUGIN_REGISTRY.register(New_Wave)
    try:
        assert "a class is registered as 'New_Wave'" in refused("helios-new-wave", 1, tmp_path)
    finally:
        PLUGIN_REGISTRY._objects.pop("New_Wave")


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_exists_is_not_touched(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "helios-hello"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine", encoding="utf-8")
    else:
        path.symlink_to("nowhere")
    assert "exists already: write another name" in refused("helios-hello", 1, tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "the disk is full"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(
    error: BaseException, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = pathlib.Path.write_text, []

    def fail_at_the_third(path: pathlib.Path, *arguments: Any, **options: Any) -> int:
        written.append(path)
        if len(written) == 3:
            raise error
        return write(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "write_text", fail_at_the_third)
    result = CliRunner().invoke(app, ["plugins", "new", "helios-hello"])
    assert result.exit_code != 0
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []
    if isinstance(error, OSError):
        assert "the disk is full" in result.output


def test_the_wheel_has_the_templates() -> None:
    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    templates = {path.name for path in (ROOT / "src/helios/cli/templates").iterdir()}
    assert len(templates) == 7
    assert {f"helios/cli/templates/{name}" for name in templates} <= files
