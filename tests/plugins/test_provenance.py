"""The distribution of a plug-in's code, found by its file, beside damaged metadata of others."""

import importlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Make
from packages import write_distribution

from helios.plugins.discovery.provenance import origin_of, owner_of_module
from helios.testing import TinyDataModule, TinyModel

MODULE = """
import helios


class Sample(helios.Plugin):
    def __init__(self):
        super().__init__("{name}")

    def setup(self): ...
"""
Import = Callable[[str], Any]


@pytest.fixture
def import_here(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Import]:
    """Return a function that imports a module from a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield importlib.import_module
    for module in set(sys.modules) - before:
        if module.startswith("sample_"):
            del sys.modules[module]


def owner(plugin: object) -> tuple[str, str]:
    origin = origin_of(plugin, None)
    return origin.distribution, origin.version


@pytest.mark.parametrize("offers", [True, False])
def test_two_distributions_share_a_namespace(
    tmp_path: pathlib.Path, import_here: Import, make_trainer: Make, offers: bool
) -> None:
    for name, version in (("one", "1.0"), ("two", "2.5")):
        path = f"sample_shared/{name}/__init__.py"
        write_distribution(
            tmp_path,
            f"sample-{name}",
            version,
            modules={path: MODULE.format(name=name)},
            offers={name: f"sample_shared.{name}:Sample"} if offers else None,
        )
    plugins = [import_here(f"sample_shared.{name}").Sample() for name in ("one", "two")]
    assert list(map(owner, plugins)) == [("sample-one", "1.0"), ("sample-two", "2.5")]
    trainer = make_trainer(plugins=plugins)
    trainer.fit(TinyModel(), TinyDataModule())
    told = {entry.id: f"{entry.distribution} {entry.version}" for entry in trainer.plan.active}
    assert told == {"one": "sample-one 1.0", "two": "sample-two 2.5"}


def test_modules_that_are_not_imported(tmp_path: pathlib.Path, import_here: Import) -> None:
    modules = {"sample_deep/__init__.py": "raise SystemExit", "sample_deep/part.py": ""}
    write_distribution(tmp_path, "sample-owner", modules=modules)
    assert owner_of_module("sample_deep.part") == ("sample-owner", "1.0")
    assert owner_of_module("sample_deep.nothing") == ("", "")
    assert owner_of_module("sample_nothing") == ("", "")
    assert "sample_deep" not in sys.modules


def test_file_that_no_distribution_lists(tmp_path: pathlib.Path, import_here: Import) -> None:
    write_distribution(tmp_path, "sample-dropped", modules={"sample_other.py": ""})
    (tmp_path / "sample_dropped.py").write_text(MODULE.format(name="dropped"))
    assert owner(import_here("sample_dropped").Sample()) == ("", "")


@pytest.mark.parametrize("way", ["pth", "finder"])
def test_editable_installation(tmp_path: pathlib.Path, import_here: Import, way: str) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "sample_edited.py").write_text(MODULE.format(name="edited"))
    hook = "sample.pth" if way == "pth" else "__editable___sample_finder.py"
    text = f"{project / 'src'}\n"
    if way == "finder":
        text = f"MAPPING = {{'sample_edited': {str(project / 'src' / 'sample_edited')!r}}}\n"
    info = write_distribution(tmp_path, "sample-edited", "0.1", modules={hook: text})
    url = {"url": project.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))
    sys.path.append(str(project / "src"))
    try:
        assert owner(import_here("sample_edited").Sample()) == ("sample-edited", "0.1")
    finally:
        sys.path.remove(str(project / "src"))


DAMAGES: dict[str, dict[str, bytes]] = {
    "no metadata": {"METADATA": b""},
    "no name": {"METADATA": b"Metadata-Version: 2.1\nVersion: 1.0\n"},
    "bytes": {"METADATA": b"\xff\xfe"},
    "bytes in the list of files": {"RECORD": b"\xff\xfe"},
    "no list of files": {"RECORD": b""},
    "a quote that never ends": {"RECORD": b'"sample_mine.py\n,,,\n'},
    "another address": {"direct_url.json": b"[1]"},
    "a damaged address": {"direct_url.json": b"\xff{"},
    "bytes in entry points": {"entry_points.txt": b"[console_scripts]\nx = \xff\n"},
    "garbled entry points": {"entry_points.txt": b"[helios.plugins.ui]\nnothing here\n"},
}


@pytest.mark.parametrize("files", DAMAGES.values(), ids=DAMAGES)
def test_damage_to_a_stranger_ends_no_run(
    tmp_path: pathlib.Path,
    import_here: Import,
    make_trainer: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    files: dict[str, bytes],
) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    stranger = write_distribution(tmp_path, "a-stranger", modules={"a_stranger.py": ""})
    for name, content in files.items():
        (stranger / name).write_bytes(content)
    write_distribution(
        tmp_path, "sample-mine", modules={"sample_mine.py": MODULE.format(name="mine")}
    )
    plugin = import_here("sample_mine").Sample()
    trainer = make_trainer(plugins=[plugin], autoload=["progress"])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.plan.active[0].distribution == "sample-mine"
    assert "a_stranger" not in caplog.text


def test_own_metadata_that_is_damaged(tmp_path: pathlib.Path, import_here: Import) -> None:
    write_distribution(
        tmp_path,
        "sample-mine",
        "1.5",
        modules={"sample_mine.py": MODULE.format(name="mine")},
        claims="Name: another\nVersion: 9\n",
    )
    assert owner(import_here("sample_mine").Sample()) == ("sample_mine", "1.5")
