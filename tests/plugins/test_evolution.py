"""Hooks and arguments that are going to be removed."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make

from helios import Plugin, hookimpl
from helios.plugins import HOOKS
from helios.plugins.hooks import HookInfo
from helios.plugins.markers import Deprecation, deprecated, hookspec


class Logging(Plugin):
    def __init__(self, plug_id: str = "logging") -> None:
        super().__init__(plug_id)

    def setup(self) -> None: ...

    def on_log(self, metrics: dict[str, float]) -> None: ...


class LoggingWithState(Logging):
    def on_log(self, metrics: dict[str, float], state: Any) -> None: ...


class Object:
    @hookimpl(specname="on_log")
    def note(self, metrics: dict[str, float]) -> None: ...


def announce(monkeypatch: pytest.MonkeyPatch, argument: str | None) -> None:
    announced = (Deprecation("0.9", "implement on_metrics instead.", argument),)
    monkeypatch.setitem(
        HOOKS, "on_log", dataclasses.replace(HOOKS["on_log"], deprecations=announced)
    )


def warned(action: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    assert all(warning.category is DeprecationWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def test_what_a_specification_announces() -> None:
    @deprecated(since="0.9", instead="use the other one.")
    @deprecated(since="0.8", instead="leave it out.", argument="state")
    @hookspec
    def on_something(self: Any, metrics: Any, state: Any) -> None: ...

    info = HookInfo.of(on_something)
    assert info.arguments == ("metrics", "state")
    assert info.deprecations == (
        Deprecation("0.8", "leave it out.", "state"),
        Deprecation("0.9", "use the other one.", None),
    )


def test_nothing_is_deprecated_today() -> None:
    assert [name for name, info in HOOKS.items() if info.deprecations] == []


@pytest.mark.parametrize("plugin", [Logging(), Object()], ids=["plug-in", "object"])
def test_deprecated_hook(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, plugin: object
) -> None:
    announce(monkeypatch, None)
    (message,) = warned(lambda: make_trainer(plugins=[plugin]))
    name = "on_log" if isinstance(plugin, Plugin) else "note"
    assert f"uses the hook {name}, which is deprecated since Helios 0.9" in message
    assert message.endswith("implement on_metrics instead.")
    assert "test_evolution.py:" in message


def test_deprecated_argument(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, "state")
    assert warned(lambda: make_trainer(plugins=[Logging()])) == []
    (message,) = warned(lambda: make_trainer(plugins=[LoggingWithState()]))
    assert "plug-in 'logging' (" in message
    assert "uses the argument 'state' of the hook on_log" in message


def test_one_warning_for_each_plugin_however_often_it_is_checked(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helios.testing import TinyDataModule, TinyModel

    announce(monkeypatch, None)

    def run() -> None:
        trainer = make_trainer(plugins=[Logging("one"), Logging("two")])
        trainer._validate_plugins()
        trainer.fit(TinyModel(), TinyDataModule())
        trainer.test(TinyModel(), TinyDataModule())

    assert len(warned(run)) == 2
