"""The page about built-in plug-ins: its examples run, and it lists every plug-in by name."""

import importlib
import pathlib
import pickle
import re
import tomllib

import pytest
import torch
from pages import ROOT, blocks, page

import helios
from helios.plugins.activation.arguments import missing_arguments
from helios.testing import TinyDataModule, TinyModel

PAGE = page("builtin-plugins")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENTRIES: dict[str, str] = PROJECT["entry-points"]["helios.plugins"]
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
    names = re.findall(r"^\| \[?`([\w-]+)`", PAGE, flags=re.MULTILINE)
    assert names == sorted(ENTRIES)


ARGUMENTS = {"metric": "loss", "schedule": "linear", "parts": ["net"]}


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - {"cuda", "optuna"}))
def test_processes_can_receive_each(name: str) -> None:
    module, _, attribute = ENTRIES[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    plugin = kind(**{each: ARGUMENTS[each] for each in missing_arguments(kind, {})})
    assert type(pickle.loads(pickle.dumps(plugin))) is kind
    assert kind.summary or name in ("metrics-file", "preemption", "progress")
    assert kind.autoload is (name in ("metrics-file", "progress"))
