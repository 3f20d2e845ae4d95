"""Ranks that differ end at the start, on all ranks, with the differences."""

import dataclasses
import re
from typing import Any

import pytest
from started_ranks import StartRanks

from helios import Plugin, Trainer
from helios.errors import ConfigurationError
from helios.plugins import PluginManager, PluginPlan
from helios.testing import TinyDataModule, TinyModel


class First(Plugin):
    def __init__(self, level: int = 1) -> None:
        super().__init__("first")

    def setup(self) -> None:
        raise AssertionError("the plans are compared first")


class Second(Plugin):
    def __init__(self) -> None:
        super().__init__("second")

    def setup(self) -> None: ...


class Other(Plugin):
    def __init__(self) -> None:
        super().__init__("second")

    def setup(self) -> None: ...

    def on_training_start(self) -> None: ...


class NewerManager(PluginManager):
    """Sees another version of an installed plug-in."""

    def freeze(self, *arguments: Any, **options: Any) -> PluginPlan:
        plan = super().freeze(*arguments, **options)
        active = [dataclasses.replace(e, distribution="some", version="2.0") for e in plan.active]
        return dataclasses.replace(plan, active=tuple(active))


def difference(rank: int, kind: str) -> str:
    plugins: list[Any] = [First(), Second()]
    arguments: dict[str, Any] = {}
    if rank == 1:
        if kind == "missing":
            plugins.pop()
        elif kind == "order":
            plugins.reverse()
        elif kind == "configuration":
            plugins[0] = First(level=2)
        elif kind == "class":
            plugins[1] = Other()
        elif kind == "argument":
            arguments = {"accumulation_steps": 2}
    trainer = Trainer(use_cpu=True, total_steps=1, autoload=False, plugins=plugins, **arguments)
    if rank == 1 and kind == "version":
        trainer.plugin_manager.__class__ = NewerManager
    with pytest.raises(ConfigurationError) as error:
        trainer.fit(TinyModel(), TinyDataModule())
    return str(error.value)


KINDS = {
    "missing": r"plug-in 'second' \(.*\) is active, but not on rank 1 on \S+",
    "version": r"plug-in 'first' is of no installed package, but of some 2\.0 on rank 1 on \S+",
    "order": r"the order of plug-ins is first, second, but second, first on rank 1 on \S+",
    "configuration": r"the argument level of plug-in 'first' is 1, but 2 on rank 1 on \S+",
    "class": r"plug-in 'second' implements setup, but .*on_training_start.* on rank 1 on \S+",
    "argument": r"accumulation_steps is 1, but 2 on rank 1 on \S+",
}


def differences() -> dict[str, str]:
    import os

    return {kind: difference(int(os.environ["RANK"]), kind) for kind in KINDS}


def test_ranks_that_differ(ranks: StartRanks) -> None:
    first, second = ranks(2, differences, timeout=100)
    assert first.result == second.result  # all ranks see the same
    for kind, line in KINDS.items():
        text = first.result[kind]
        assert text.startswith("the processes of the run differ. rank 0 on "), text
        assert re.search(rf"^  {line}$", text, re.MULTILINE), text
        assert text.count("\n  ") == (2 if kind in ("version", "class") else 1), text
    assert "guard" not in first.errors + second.errors
