"""What a plug-in says about itself: its summary, and whether it changes results."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make, Named, ObjectWithHooks

from helios import Plugin, hookimpl
from helios.errors import InvalidPluginError
from helios.plugins import PLUGIN_REGISTRY, PluginManager, PluginPlan
from helios.plugins.declarations.facts import summary_of
from helios.plugins.plans.plan import PlanEntry
from helios.testing import TinyDataModule, TinyModel


class Documented(Named):
    """Replaces the labels of
    every tenth sample.

    The rest of the docstring is for readers of the code.
    """


class Summarised(Documented):
    """Has another docstring."""

    summary = "  trains with\n  noisy labels "
    changes_results = True


class Inherits(Summarised):
    pass


class Undocumented(Named):
    pass


class WithMethod(Named):
    """Has a method of its own that is called summary."""

    def summary(self) -> str:  # type: ignore[override]
        return "not for Helios"


@dataclasses.dataclass(eq=False)
class Settings:
    size: int = 3

    @hookimpl
    def on_training_start(self) -> None:
        pass


class Described:
    summary = "shortens the last batch"
    changes_results = True

    @hookimpl
    def on_training_start(self) -> None:
        pass


class DescribedOtherwise:
    """Counts the words of texts."""

    summary = ("an", "attribute", "for", "another", "purpose")
    changes_results = 1

    @hookimpl
    def on_training_start(self) -> None:
        pass


def module() -> types.ModuleType:
    described = types.ModuleType("labels", "Hooks that smooth labels.")
    described.changes_results = True  # type: ignore[attr-defined]
    described.on_training_start = Described().on_training_start  # type: ignore[attr-defined]
    return described


@pytest.mark.parametrize(
    ("create", "summary", "changes_results"),
    [
        (lambda: Documented("a"), "Replaces the labels of every tenth sample.", False),
        (lambda: Summarised("a"), "trains with noisy labels", True),
        (lambda: Inherits("a"), "trains with noisy labels", True),
        (lambda: Undocumented("a"), "", False),
        (lambda: WithMethod("a"), "Has a method of its own that is called summary.", False),
        (Settings, "", False),
        (Described, "shortens the last batch", True),
        (DescribedOtherwise, "Counts the words of texts.", False),
        (module, "Hooks that smooth labels.", True),
    ],
)
def test_plan_contains_what_a_plug_in_says(
    create: Callable[[], Any], summary: str, changes_results: bool
) -> None:
    manager = PluginManager()
    manager.register(create(), "a")
    (entry,) = manager.freeze().active
    assert (entry.summary, entry.changes_results) == (summary, changes_results)


def test_a_class_or_a_function_is_described_before_it_is_called() -> None:
    def create() -> Plugin:
        """Returns a plug-in that fits this machine."""
        return Documented("a")

    assert summary_of(Summarised) == "trains with noisy labels"
    assert summary_of(Documented) == "Replaces the labels of every tenth sample."
    assert summary_of(create) == "Returns a plug-in that fits this machine."


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_flag_of_another_type_is_refused(value: object) -> None:
    class Wrong(Named):
        changes_results = value  # type: ignore[assignment]

    with pytest.raises(InvalidPluginError, match=r"'a' .*changes_results is .*: write changes_res"):
        PluginManager().register(Wrong("a"))


def test_flag_may_be_set_by_the_constructor(make_trainer: Make) -> None:
    class Sometimes(Named):
        def setup(self) -> None:
            pass

    plugin = Sometimes("a")
    trainer = make_trainer(plugins=[plugin])
    plugin.changes_results = True  # type: ignore[misc]
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.plan.active[0].changes_results


def test_header_shows_the_summary_and_marks_what_changes_results(
    make_trainer: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = [Documented("plain"), Summarised("noisy"), ObjectWithHooks(), Undocumented("mute")]
    make_trainer(print_banner=True, plugins=plugins).fit(TinyModel(), TinyDataModule())
    lines = capsys.readouterr().out.splitlines()
    ends = {"plain": "  Replaces the labels of every tenth sample."}
    ends |= {"noisy": "  changes results: trains with noisy labels"}
    ends |= {"mute": "passed in Trainer(plugins=...)"}
    for plug_id, end in ends.items():
        (line,) = (line for line in lines if f"  {plug_id} " in line)
        assert line.endswith(end)


def test_a_long_summary_is_shortened_in_the_table_only() -> None:
    entry = PlanEntry("a", "", "", "installed", (), (), summary="word " * 40, changes_results=True)
    text = PluginPlan((entry,), ()).as_text().splitlines()[1]
    assert text.endswith("word word ...")
    assert len(text) < 160
    assert entry.summary == "word " * 40
    assert dataclasses.replace(entry, summary="").effect == "changes results"


def test_plug_ins_of_helios_have_summaries_and_change_no_results() -> None:
    for name in ("cuda", "metrics-file", "preemption", "progress"):
        plugin = PLUGIN_REGISTRY.get(name)
        assert summary_of(plugin)
        assert plugin.changes_results is False
