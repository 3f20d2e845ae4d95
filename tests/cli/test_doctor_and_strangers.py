"""``helios plugins doctor``: accuses no stranger, spares the good copy, and sees the folder."""

import pathlib
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from packages import write_distribution

from helios.plugins import PLUGIN_REGISTRY

pytestmark = pytest.mark.usefixtures("autoloading_on")
Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def registry_as_before() -> Any:
    yield
    PLUGIN_REGISTRY.refresh()


@pytest.fixture
def packages(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder on the path, which is not the current one."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def found(ask: Ask, exit_code: int) -> list[dict[str, Any]]:
    findings = ask("doctor", "--json", exit_code=exit_code)["findings"]
    return [f for f in findings if f["code"] != "missing-extra" or "helios-" not in f["subject"]]


@pytest.mark.parametrize(
    "text",
    [
        "[helios.plugins.ui]\npanel = stranger:x\n",
        "# not for helios.plugins\n[console_scripts]\nx = stranger:main\n",
        "[stranger]\nhelios.plugins = helios.plugins.fake:x\n",
        "[my.helios.plugins]\nnothing here\n",
    ],
)
def test_text_of_a_stranger_that_resembles_the_group(
    ask: Ask, packages: pathlib.Path, text: str
) -> None:
    info = write_distribution(packages, "stranger")
    (info / "entry_points.txt").write_text(text)
    assert found(ask, 0) == []
    assert ask("list", "--json")["unreadable"] == []


@pytest.mark.parametrize("broken", ["none", "first", "second", "both"])
def test_copy_with_all_its_files_is_never_removed(
    ask: Ask, packages: pathlib.Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    first, second = packages / "first", packages / "second"
    for folder, version in ((second, "1.0"), (first, "2.0")):
        write_distribution(
            folder,
            "sample-tools",
            version,
            modules={"sample_tools_module.py": "class Sample: ..."},
            offers={"sample": "sample_tools_module:Sample"},
        )
        monkeypatch.syspath_prepend(folder)
        if broken in (folder.name, "both"):
            (folder / "sample_tools_module.py").unlink()
    findings = found(ask, 1)
    (finding,) = (f for f in findings if f["code"] == "duplicate-distribution")
    removals = [way for way in finding["remedies"] if "rm " in way or "uninstall" in way]
    if broken in ("first", "second"):
        (removal,) = removals
        assert removal.startswith(f"rm -r {packages / broken / 'sample_tools-'}")
    else:
        assert removals == []
        assert f"{first} or {second}" in finding["remedies"][0]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("sys:exit", "sys is a module of Python"),
        ("helios.cli:main", "helios.cli is a module of Helios"),
    ],
)
def test_target_that_is_no_plug_in(
    ask: Ask, packages: pathlib.Path, target: str, reason: str
) -> None:
    write_distribution(packages, "sample-tools", offers={"sample": target})
    (finding,) = found(ask, 1)
    assert finding["code"] == "malformed-entry-point"
    assert reason in finding["what"]
    assert finding["remedies"] == ["pip uninstall sample-tools"]


def test_metadata_that_lies_is_shown_as_what_it_is(ask: Ask, packages: pathlib.Path) -> None:
    place = write_distribution(
        packages,
        "sample-tools",
        offers={"sample": "sample:Sample"},
        claims="Name: helios-ema\x1b[2K\x1b[1A\nVersion: 1.0\n",
    )
    (finding,) = found(ask, 1)
    assert (finding["code"], finding["where"]) == ("unreadable-metadata", str(place))
    assert "'helios-ema\\x1b[2K\\x1b[1A', which no distribution can have" in finding["what"]
    assert "\x1b" not in ask("doctor", exit_code=1).replace("\x1b[31m", "").replace("\x1b[0m", "")


def test_current_folder_is_seen_as_a_script_in_it_sees_it(ask: Ask, tmp_path: pathlib.Path) -> None:
    before = list(sys.path)
    write_distribution(
        tmp_path,
        "sample-tools",
        modules={"sample_tools_local.py": "class Sample: ..."},
        offers={"sample": "sample_tools_local:Sample"},
    )
    assert found(ask, 0) == []
    rows = {row["name"]: row for row in ask("list", "--json")["plugins"]}
    assert rows["sample"]["location"] == str(tmp_path)
    assert sys.path == before
    assert "sample_tools_local" not in sys.modules


def test_folder_of_a_script_is_seen_in_place_of_the_current_one(
    ask: Ask, tmp_path: pathlib.Path
) -> None:
    before = list(sys.path)
    for folder, name in ((tmp_path / "scripts", "theirs"), (tmp_path, "here")):
        write_distribution(
            folder,
            f"sample-{name}",
            modules={f"sample_{name}.py": "class Sample: ..."},
            offers={name: f"sample_{name}:Sample"},
        )
    script = tmp_path / "scripts" / "train.py"
    script.touch()
    for command in ("list", "plan"):
        rows = ask(command, "--json", "--script", str(script))["plugins"]
        names = {row["name"] for row in rows}
        assert ("theirs" in names, "here" in names) == (True, False)
    assert (
        found(lambda *words, **more: ask(*words, "--script", "scripts/train.py", **more), 0) == []
    )
    assert sys.path == before
    assert (
        "no-script"
        in ask("doctor", "--json", "--script", "no-script", exit_code=2)["error"]["message"]
    )


def test_archive_on_the_path(
    ask: Ask, packages: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = write_distribution(packages / "written", "sample-tools", offers={"sample": "zipped:A"})
    archive = packages / "sample.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for file in info.iterdir():
            written.write(file, f"{info.name}/{file.name}")
        written.writestr("zipped.py", "class A: ...")
    monkeypatch.syspath_prepend(archive)
    assert found(ask, 0) == []
    rows = {row["name"]: row for row in ask("list", "--json")["plugins"]}
    assert rows["sample"]["location"] == str(archive)
