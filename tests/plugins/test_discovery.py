"""Discovery: once per process, from as few files as possible, and from archives on the path."""

import os
import pathlib
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Make, Observer
from packages import write_distribution

from helios import PLUGIN_REGISTRY
from helios.plugins.discovery import installed
from helios.plugins.discovery.entry_points import discover, survey
from helios.plugins.discovery.provenance import owner_of
from helios.testing import TinyDataModule, TinyModel

MODULE = """
import helios


class Sample(helios.Plugin):
    def __init__(self):
        super().__init__("sample")

    def setup(self): ...
"""
opened: list[str] | None = None


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if opened is not None and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(watch)  # cannot be removed, so it only looks when it is told to


@pytest.fixture
def files_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened since the test has begun."""
    monkeypatch.setattr(sys.modules[__name__], "opened", [])
    assert opened is not None
    return opened


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each discovery by the registry."""
    calls: list[int] = []

    def counted() -> Any:
        calls.append(len(calls))
        return discover()

    monkeypatch.setattr(installed, "discover", counted)
    monkeypatch.setattr(installed, "_known", (None, []))
    return calls


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("sample_module", None)


def test_only_one_file_of_a_stranger_is_read(folder: pathlib.Path, files_opened: list[str]) -> None:
    for number in range(20):
        info = write_distribution(
            folder, f"stranger-{number}", offers={"tool": "stranger:main"}, group="console_scripts"
        )
    write_distribution(folder, "sample-tools", offers={"sample": "sample_module:Sample"})
    files_opened.clear()
    assert "sample" in [record.name for record in discover()]
    names = {os.path.basename(path) for path in files_opened if "stranger" in path}
    assert names == {"entry_points.txt"}
    assert os.path.join(info, "entry_points.txt") in files_opened


def test_discovery_runs_once(
    make_trainer: Make,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    surveys: list[int],
) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    for _ in range(3):
        trainer = make_trainer(autoload=["progress"], block=["metrics-file"])
        trainer.fit(TinyModel(), TinyDataModule())
    assert len(surveys) == 1
    (folder / "__pycache__").mkdir()  # a change of the folder that is no installation
    make_trainer(autoload=["progress"])
    assert len(surveys) == 1
    info = write_distribution(folder, "sample-tools", offers={"sample": "sample_module:Sample"})
    assert "sample" in PLUGIN_REGISTRY
    assert len(surveys) == 2
    for file in info.iterdir():
        file.unlink()
    info.rmdir()
    assert "sample" not in PLUGIN_REGISTRY
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder / "more")])
    assert "progress" in PLUGIN_REGISTRY
    assert len(surveys) == 4


def test_trainer_that_may_load_nothing_looks_for_nothing(
    make_trainer: Make, surveys: list[int], files_opened: list[str]
) -> None:
    trainer = make_trainer(autoload=False)
    trainer.register_plugin(Observer("mine"))
    assert surveys == []
    assert [path for path in files_opened if "-info" in path] == []
    plan = trainer.plugin_manager.freeze()
    assert [entry.id for entry in plan.active] == ["mine"]
    assert ("progress", "autoloading is off") in [(i.name, i.reason) for i in plan.inactive]
    assert len(surveys) == 1


def test_plug_in_in_an_archive_on_the_path(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "written"
    info = write_distribution(
        written,
        "sample-tools",
        "2.0",
        modules={"sample_module.py": MODULE},
        offers={"sample": "sample_module:Sample"},
    )
    archive = tmp_path / "sample_tools-2.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        for file in [*info.iterdir(), written / "sample_module.py"]:
            wheel.write(file, file.relative_to(written))
    monkeypatch.syspath_prepend(archive)
    (record,) = (record for record in discover() if record.name == "sample")
    assert (record.distribution, record.version) == ("sample-tools", "2.0")
    assert record.location == str(archive)
    trainer = make_trainer(plugins=["sample"])
    assert list(trainer.plugins) == ["sample"]
    instance = trainer.plugins["sample"]
    trainer.fit(TinyModel(), TinyDataModule())
    assert owner_of(instance) == ("sample-tools", "2.0")
    message = str(record.load_error("does not work", ValueError()))
    assert f"remove {archive} from sys.path or PYTHONPATH" in message
    del sys.modules["sample_module"]


class BrokenFinder:
    """A finder that somebody else has put into ``sys.meta_path``."""

    def find_spec(self, *arguments: Any) -> None:
        return None

    def find_distributions(self, *arguments: Any) -> Iterator[Any]:
        raise LookupError("nobody has tested this")


def test_finder_of_a_stranger_that_fails(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, BrokenFinder()])
    make_trainer(plugins=[Observer("mine")]).fit(TinyModel(), TinyDataModule())
    records, damages = survey()
    assert "progress" in [record.name for record in records]
    (damage,) = damages
    assert "sys.meta_path" in damage.place
    assert isinstance(damage.error, LookupError)
