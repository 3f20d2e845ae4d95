"""A function of a distribution that returns several plug-ins, or none with the reason."""

import logging
import pathlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Make
from packages import write_distribution

import helios
from helios import PLUGIN_REGISTRY, Trainer, create_plugin
from helios.errors import (
    DuplicatePluginError,
    InvalidPluginError,
    NotApplicable,
    PluginLoadError,
    PluginProblems,
)
from helios.plugins.activation.selection import DISABLE_VARIABLE
from helios.testing import TinyDataModule, TinyModel

PARTS = """
import types

import helios
from helios.plugins import NotApplicable


class Part(helios.Plugin):
    def __init__(self, plug_id):
        super().__init__(plug_id)

    def setup(self): ...


class Marked:
    @helios.hookimpl
    def on_training_start(self): ...


def build(scale: int = 1):
"""
Write = Callable[..., None]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Write]:
    """Return a function that writes the distribution some-tools, given the body of its function."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(DISABLE_VARIABLE)
    monkeypatch.delitem(sys.modules, "some_tools", raising=False)

    def write(body: str) -> None:
        text = PARTS + textwrap.indent(textwrap.dedent(body), "    ")
        write_distribution(
            tmp_path,
            "some-tools",
            "2.0",
            modules={"some_tools.py": text},
            offers={"tools": "some_tools:build"},
        )

    yield write
    sys.modules.pop("some_tools", None)


def start(make_trainer: Make, **arguments: Any) -> Trainer:
    foreign = [r.qualified_name for r in PLUGIN_REGISTRY.records() if r.name != "tools"]
    return make_trainer(**{**arguments, "block": [*foreign, *arguments.get("block", ())]})


def inactive(trainer: Trainer) -> list[tuple[str, str, str, str]]:
    """Return the inactive plug-ins of the distribution."""
    found = [i for i in trainer.plugin_manager.inactive if i.distribution == "some-tools"]
    return [(i.name, i.distribution, i.version, i.reason) for i in found]


TWO = "return [Part('First_Part'), Marked()]"


@pytest.mark.parametrize("arguments", [{}, {"autoload": ["tools"]}, {"autoload": ["some-tools"]}])
def test_all_of_them_are_active(make_trainer: Make, tools: Write, arguments: Any) -> None:
    tools(TWO)
    trainer = start(make_trainer, **arguments)
    assert list(trainer.plugins) == ["First_Part", "Marked"]
    plan = trainer.plugin_manager.freeze()
    assert {(e.distribution, e.version) for e in plan.active} == {("some-tools", "2.0")}
    reason = "in the allow-list" if arguments else "installed"
    assert {e.reason for e in plan.active} == {reason}
    assert "some-tools 2.0" in plan.as_text()


def test_named_with_arguments(make_trainer: Make, tools: Write) -> None:
    tools("return tuple(Part(f'part-{number}') for number in range(scale))")
    trainer = start(make_trainer, autoload=False, plugins=[("tools", {"scale": 3})])
    assert list(trainer.plugins) == ["part-0", "part-1", "part-2"]
    entry = trainer.plugin_manager.freeze().active[2]
    assert entry.reason == "named in Trainer(plugins=...)"
    assert entry.configuration == {"scale": 3, "plug_id": "part-2"}
    trainer.fit(TinyModel(), TinyDataModule())


@pytest.mark.parametrize("name", ["first-part", "Marked", "some-tools:marked"])
@pytest.mark.parametrize("plugins", [[], ["tools"]])
def test_a_block_of_one_leaves_the_others(
    make_trainer: Make, tools: Write, name: str, plugins: list[str]
) -> None:
    tools(TWO)
    trainer = start(make_trainer, block=[name], plugins=plugins)
    kept, gone = ("Marked", "first-part") if "first" in name else ("First_Part", "marked")
    assert list(trainer.plugins) == [kept]
    assert (gone, "some-tools", "2.0", "blocked by Trainer(block=...)") in inactive(trainer)


@pytest.mark.parametrize("name", ["tools", "some-tools", "some-tools:tools"])
def test_a_block_of_the_function_blocks_all(make_trainer: Make, tools: Write, name: str) -> None:
    tools("raise AssertionError('built')")
    assert not start(make_trainer, block=[name]).plugins


def test_an_invalid_one_leaves_out_all(make_trainer: Make, tools: Write) -> None:
    tools("return [Part('first'), 5]")
    with pytest.raises(InvalidPluginError, match=r"some-tools 2\.0") as caught:
        start(make_trainer)
    assert "5 is not a plug-in" in str(caught.value)
    trainer = start(make_trainer, on_load_error="skip")
    assert not trainer.plugins
    assert [name for name, *_ in inactive(trainer)] == ["tools"]


def test_a_conflict_names_the_one_to_block(make_trainer: Make, tools: Write) -> None:
    tools("return [Part('same'), Part('same'), Part('other')]")
    with pytest.raises(DuplicatePluginError, match="Pass only one of them"):
        start(make_trainer)


def test_the_same_object_twice_is_harmless(make_trainer: Make, tools: Write) -> None:
    tools("part = Part('same'); return [part, part]")
    assert list(start(make_trainer).plugins) == ["same"]


# None, with the reason.


def test_the_header_and_the_plan_show_the_reason(make_trainer: Make, tools: Write) -> None:
    tools("raise NotApplicable('no sensor here')")
    trainer = start(make_trainer)
    assert inactive(trainer) == [("tools", "some-tools", "2.0", "does not apply: no sensor here")]
    plan = trainer.plugin_manager.freeze()
    assert "does not apply: no sensor here" in plan.as_text()
    lines = {line["name"]: line["reason"] for line in plan.to_dict()["inactive"]}
    assert lines["tools"] == "does not apply: no sensor here"


def test_a_named_one_is_inactive_with_a_warning(
    make_trainer: Make, tools: Write, caplog: pytest.LogCaptureFixture
) -> None:
    tools("raise NotApplicable('no sensor here')")
    with caplog.at_level(logging.WARNING):
        trainer = start(make_trainer, autoload=False, plugins=["tools"])
    assert ("tools", "some-tools", "2.0", "does not apply: no sensor here") in inactive(trainer)
    assert "plug-in 'tools', named in Trainer(plugins=...), does not apply" in caplog.text
    with pytest.raises(NotApplicable, match="no sensor here"):
        create_plugin("tools")


def test_a_class_may_say_so_too(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sensor(helios.Plugin):
        def __init__(self) -> None:
            raise helios.plugins.NotApplicable("no sensor here")

        def setup(self) -> None: ...

    monkeypatch.setitem(PLUGIN_REGISTRY._objects, "Sensor", Sensor)
    trainer = make_trainer(plugins=["Sensor"])
    line = trainer.plugin_manager.inactive[-1]
    assert (line.name, line.reason) == ("Sensor", "does not apply: no sensor here")


@pytest.mark.parametrize("nothing", ["return None", "return []", "return ()", "pass"])
def test_none_without_a_reason_is_an_error(make_trainer: Make, tools: Write, nothing: str) -> None:
    tools(nothing)
    with pytest.raises(InvalidPluginError, match=r"raise helios\.plugins\.NotApplicable"):
        start(make_trainer)
    with pytest.raises((InvalidPluginError, PluginLoadError, PluginProblems)) as caught:
        start(make_trainer, autoload=False, plugins=["tools"])
    assert "is not a plug-in: let the function of 'tools' return" in str(caught.value)
