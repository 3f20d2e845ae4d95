"""Changes of plug-ins after the plan is frozen: what would have no effect is refused."""

import types
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make, Named

from helios import hookimpl
from helios.errors import InvalidPluginError, PluginConflictError
from helios.testing import TinyDataModule, TinyModel


def nothing(self: Any = None) -> None: ...


def changing(hook: str, change: Callable[[Any], None]) -> Any:
    """Return a plug-in that changes itself in a hook."""

    class Changing(Named):
        def on_training_epoch_end(self) -> None: ...

    setattr(Changing, hook, lambda self: change(self))
    return Changing("changing")


def set_attribute(name: str, value: Any) -> Callable[[Any], None]:
    return lambda plugin: setattr(plugin, name, value)


CHANGES = {
    "a new hook": (set_attribute("on_log", nothing), "has set the hook on_log since the plan was"),
    "a hook of the class": (
        lambda plugin: setattr(type(plugin), "on_log", nothing),
        "has set the hook on_log since the plan was frozen, so it would never be called",
    ),
    "another function for a hook": (
        set_attribute("on_training_epoch_end", nothing),
        "has set the hook on_training_epoch_end since the plan was frozen",
    ),
    "a hook less": (
        lambda plugin: delattr(type(plugin), "on_training_epoch_end"),
        "has set the hook on_training_epoch_end since the plan was frozen",
    ),
    "a misspelt hook": (set_attribute("on_train_end", nothing), "on_train_end is not a hook"),
    "a misspelt flag": (
        lambda plugin: setattr(plugin.unique_overrides, "traning_batch", True),
        "unique_overrides.traning_batch has no effect. Did you mean 'training_batch'",
    ),
    "a misspelt declaration": (
        set_attribute("critcal", False),
        "critcal = False has no effect. Did you mean 'critical'?",
    ),
    "critical": (
        set_attribute("critical", False),
        "has set critical since the plan was frozen, so it has no effect: define it in the class",
    ),
    "before": (set_attribute("before", ("ema",)), "has set before since the plan was frozen"),
    "after": (set_attribute("after", ("ema",)), "has set after since the plan was frozen"),
    "changes_results": (set_attribute("changes_results", True), "has set changes_results since"),
}


@pytest.mark.parametrize("hook", ["setup", "on_training_start"])
@pytest.mark.parametrize("change", CHANGES)
def test_change_without_effect(make_trainer: Make, hook: str, change: str) -> None:
    change_it, message = CHANGES[change]
    trainer = make_trainer(plugins=[changing(hook, change_it)])
    with pytest.raises(InvalidPluginError) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert "plug-in 'changing' (" in str(caught.value)
    assert message in str(caught.value)
    assert trainer.state.global_iteration == 0


def test_hook_of_a_module(make_trainer: Make) -> None:
    made = types.ModuleType("made")
    made.setup = hookimpl(lambda: setattr(made, "on_log", hookimpl(nothing)))  # type: ignore[attr-defined]
    with pytest.raises(InvalidPluginError, match=r"'made' .* has set the hook on_log"):
        make_trainer(plugins=[made]).fit(TinyModel(), TinyDataModule())


def test_new_exclusive(make_trainer: Make) -> None:
    claim = set_attribute("exclusives", ("GPU_0",))
    assert make_trainer(plugins=[changing("setup", claim)]).fit(TinyModel(), TinyDataModule())
    owner = type("Owner", (Named,), {"exclusives": ("gpu-0",)})("owner")
    with pytest.raises(PluginConflictError, match="exclusives names 'GPU_0' since setup"):
        make_trainer(plugins=[owner, changing("setup", claim)]).fit(TinyModel(), TinyDataModule())


def test_state_of_a_plugin_may_change(make_trainer: Make) -> None:
    def prepare(plugin: Any) -> None:
        plugin.on_gpu, plugin.writer, plugin.summary = False, object(), "prepared"

    assert make_trainer(plugins=[changing("setup", prepare)]).fit(TinyModel(), TinyDataModule())


def test_plugin_that_has_not_changed_is_not_read_again(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle(Named):
        def on_training_start(self) -> None:
            monkeypatch.setattr("helios.plugins.registration.late_changes.facts.declared", None)

    make_trainer(plugins=[Idle()]).fit(TinyModel(), TinyDataModule())
