"""The page about built-in plug-ins: its examples run, and it lists every plug-in by name."""

import pathlib
import re
import tomllib

import pytest
import torch
from pages import ROOT, blocks, page

import helios
from helios.testing import TinyDataModule, TinyModel

PAGE = page("builtin-plugins")
SECTIONS = {
    section.partition("\n")[0]: blocks("python", section)
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_runs(
    title: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"helios": helios, "torch": torch, "model": TinyModel(), "data": TinyDataModule()}
    assert SECTIONS[title]
    for example in SECTIONS[title]:
        exec(compile(example, f"docs/builtin-plugins.md: {title}", "exec"), given)


def test_the_table_lists_every_plug_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = re.findall(r"^\| \[?`([\w-]+)`", PAGE, flags=re.MULTILINE)
    assert names == sorted(project["entry-points"]["helios.plugins"])
