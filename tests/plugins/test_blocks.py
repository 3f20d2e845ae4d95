"""A block wins, however a plug-in comes to the table; names are trimmed."""

import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Make, Named
from packages import write_distribution

from helios import PLUGIN_REGISTRY, Plugin, Trainer
from helios.errors import PluginProblems, UnknownNameError
from helios.testing import TinyDataModule, TinyModel

NAMES = (
    "sample",
    "sample-tools",
    "Sample_Tools:sample",
    " sample ",
    "own-id",
    "sample-tools:own-id",
)
MODULE = """
import helios


class Sample(helios.Plugin):
    def __init__(self):
        super().__init__("own-id")

    def setup(self):
        raise AssertionError("a blocked plug-in runs")
"""


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Callable[[], Any]]:
    """The plug-in of an installed distribution; its id is not the name of its entry point."""
    write_distribution(
        tmp_path,
        "sample-tools",
        modules={"sample_tools_plugin.py": MODULE},
        offers={"sample": "sample_tools_plugin:Sample"},
    )
    monkeypatch.syspath_prepend(tmp_path)
    import sample_tools_plugin  # type: ignore[import-not-found]

    yield sample_tools_plugin.Sample
    del sys.modules["sample_tools_plugin"]


class Bringing(Named):
    """Registers another plug-in before launch."""

    def __init__(self, other: Plugin) -> None:
        super().__init__("bringing")
        self.other = other

    def configure_trainer(self, trainer: Trainer) -> None:
        trainer.register_plugin(self.other)


def passed(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    return make(plugins=[plugin], block=block)


def named(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    return make(plugins=["sample"], block=block)


def registered(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    trainer = make(block=block)
    assert trainer.register_plugin(plugin) == "own-id"
    return trainer


def registered_the_founding_way(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    trainer = make(block=block)
    plugin._register_in_trainer(trainer)
    return trainer


def assigned(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    trainer = make(block=block)
    trainer.plugins["own-id"] = plugin
    return trainer


def assigned_with_the_table(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    trainer = make(block=block)
    trainer.plugins = {"own-id": plugin}  # type: ignore[assignment]
    return trainer


def brought_along(make: Make, plugin: Plugin, block: list[str]) -> Trainer:
    return make(plugins=[Bringing(plugin)], block=block)


WAYS = (
    *(passed, named, registered, registered_the_founding_way),
    *(assigned, assigned_with_the_table, brought_along),
)


@pytest.mark.parametrize("name", [name for name in NAMES if "own-id" not in name])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_block_wins(
    make_trainer: Make,
    sample: Callable[[], Plugin],
    caplog: pytest.LogCaptureFixture,
    way: Callable[..., Trainer],
    name: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = way(make_trainer, sample(), [name])
        trainer.fit(TinyModel(), TinyDataModule())
    assert "own-id" not in trainer.plugins
    assert "is blocked by Trainer(block=...)" in caplog.text
    reasons = {i.distribution: i.reason for i in trainer.plan.inactive if "auto" not in i.reason}
    assert reasons == {"sample-tools": "blocked by Trainer(block=...)"}


@pytest.mark.parametrize("name", [name for name in NAMES if "own-id" in name])
def test_an_id_blocks_an_instance(
    make_trainer: Make, sample: Callable[[], Plugin], name: str
) -> None:
    assert list(make_trainer(plugins=[sample()], block=[name]).plugins) == []


def test_an_id_that_comes_later_is_blocked_by_the_environment(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match=r"HELIOS_BLOCK_PLUGINS=named") as caught:
        make_trainer(plugins=[Bringing(Named())], block=["named"])
    assert "Trainer(block=...) blocks 'named', but no plug-in" in str(caught.value)
    monkeypatch.setenv("HELIOS_BLOCK_PLUGINS", "named")
    with pytest.warns(UserWarning, match="HELIOS_BLOCK_PLUGINS blocks 'named'"):
        trainer = make_trainer(plugins=[Bringing(Named())])
    trainer.fit(TinyModel(), TinyDataModule())
    assert list(trainer.plugins) == ["bringing"]


def test_a_block_of_the_original_spares_a_class_derived_from_it(
    make_trainer: Make, sample: Any
) -> None:
    class Mine(sample):  # type: ignore[misc]
        def __init__(self) -> None:
            Plugin.__init__(self, "mine")

        def setup(self) -> None: ...

    trainer = make_trainer(plugins=[Mine()], block=["sample"])
    assert list(trainer.plugins) == ["mine"]


def test_a_decorated_name_blocks_an_instance(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {"Named": Named})
    assert list(make_trainer(plugins=[Named("one")], block=["Named"]).plugins) == []
    assert list(make_trainer(plugins=["Named"], block=["named"]).plugins) == []


def test_one_name_too_many_is_refused_with_all_other_problems(make_trainer: Make) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'progress'\?"):
        make_trainer(block=["progress", "progres"])
    with pytest.raises(UnknownNameError, match="blocks ''"):
        make_trainer(block=[" "])


def test_a_misspelt_name_is_refused_before_a_plugin_is_imported(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    write_distribution(
        tmp_path,
        "loud-tools",
        modules={"loud_tools_plugin.py": "raise SystemError('imported')"},
        offers={"loudspeaker": "loud_tools_plugin:Loud"},
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    told = r"blocks 'Loudspeeker', but no plug-in .* Did you mean 'loudspeaker'\?"
    with pytest.raises(UnknownNameError, match=told):
        make_trainer(autoload=True, block=["Loudspeeker", "progress"])
    with pytest.raises(PluginProblems, match="imported"):  # an unknown name may be an id
        make_trainer(autoload=True, block=["loudspeakers"])


def test_a_passed_plugin_may_have_an_id_like_a_name(make_trainer: Make) -> None:
    plugin = Named("tensorbord")
    assert list(make_trainer(plugins=[plugin], block=["tensorbord"]).plugins) == []
