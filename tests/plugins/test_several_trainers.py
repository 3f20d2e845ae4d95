"""Several trainers in one process do not know of one another, whatever thread they live in."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import Make

from helios import PLUGIN_REGISTRY, Plugin, Trainer
from helios.errors import FrozenPlanError
from helios.testing import TinyDataModule, TinyModel


class Named(Plugin):
    def __init__(self, plug_id: str) -> None:
        super().__init__(plug_id)
        self.trainers: list[Trainer] = []

    def setup(self) -> None:
        self.trainers.append(self.trainer)

    def process_training_batch(self, batch: Any) -> Any:
        return batch


def test_what_one_trainer_does_another_does_not_see(make_trainer: Make) -> None:
    one, other = make_trainer(plugins=[Named("one")]), make_trainer(plugins=[Named("other")])
    one.fit(TinyModel(), TinyDataModule())
    assert list(one.plugins) == ["one"]
    assert list(other.plugins) == ["other"]
    assert [entry.id for entry in one.plan.active] == ["one"]
    assert other.plan.active == ()
    other.fit(TinyModel(), TinyDataModule())
    assert [entry.id for entry in one.plan.active] == ["one"]
    assert [entry.id for entry in other.plan.active] == ["other"]


class Nesting(Plugin):
    """Trains another model, with another trainer, inside a hook."""

    def __init__(self, make_trainer: Make) -> None:
        super().__init__("nesting")
        self._make_trainer = make_trainer
        self.inner: Trainer | None = None

    def setup(self) -> None: ...

    def on_validation_end(self, validation_cycle: int) -> None:
        self.inner = self._make_trainer(plugins=[Named("inner")], block=[])
        self.inner.fit(TinyModel("inner"), TinyDataModule())
        with pytest.raises(FrozenPlanError):
            self.trainer.register_plugin(Named("late"))
        self.inner.register_plugin(Inert("late"))  # its run is over


class Inert(Plugin):
    def setup(self) -> None: ...


def test_trainer_inside_a_hook(make_trainer: Make) -> None:
    nesting, outer = Nesting(make_trainer), Named("outer")
    trainer = make_trainer(plugins=[nesting, outer], valid_frequency=2)
    hooks = trainer.fit(TinyModel(), TinyDataModule())
    assert hooks.global_epoch == 2
    assert nesting.inner is not None
    assert list(trainer.plugins) == ["nesting", "outer"]
    assert list(nesting.inner.plugins) == ["inner", "late"]
    assert [entry.id for entry in nesting.inner.plan.active] == ["inner"]
    assert outer.trainers == [trainer]
    assert trainer.hooks is not nesting.inner.hooks


def test_threads_that_make_trainers(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    together = threading.Barrier(8)

    def work(number: int) -> tuple[list[str], str]:
        together.wait()
        trainer = make_trainer(
            plugins=[Named(f"number-{number}"), Inert(f"idle-{number}")],
            autoload=["progress"],
            enable_progress_bar=True,
        )
        table = list(trainer.plugins)
        plan = trainer.plugin_manager.freeze()
        assert [entry.id for entry in plan.active] == table
        return table, plan.digest

    before = set(PLUGIN_REGISTRY.keys())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert [table for table, _ in found] == [
        [f"number-{n}", f"idle-{n}", "progress"] for n in range(8)
    ]
    assert len({digest for _, digest in found}) == 8
    assert set(PLUGIN_REGISTRY.keys()) == before


def test_a_decorated_class_is_known_to_all_but_active_in_none(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", dict(PLUGIN_REGISTRY._objects))
    first = make_trainer()
    PLUGIN_REGISTRY(Inert)
    second = make_trainer()
    assert "Inert" in PLUGIN_REGISTRY
    assert list(first.plugins) == list(second.plugins) == []
