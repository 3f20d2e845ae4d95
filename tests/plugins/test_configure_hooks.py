"""``configure_trainer`` and ``configure_model``: once for each trainer and model, in every form."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Make, Named

from helios import hookimpl
from helios.testing import TinyDataModule, TinyModel

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


class Configuring(Named):
    def configure_trainer(self, trainer: Any) -> None:
        log.append(f"{self.plug_id}: trainer")

    def configure_model(self, model: Any) -> None:
        log.append(f"{self.plug_id}: {model.save_name}")


class ConfiguringObject:
    @hookimpl
    def configure_trainer(self, trainer: Any) -> None:
        log.append("object: trainer")

    @hookimpl
    def configure_model(self, model: Any) -> None:
        log.append(f"object: {model.save_name}")


@pytest.mark.parametrize("plugin", [Configuring("plug-in"), ConfiguringObject()])
def test_configure_is_applied_once_over_two_fits_and_a_test(
    make_trainer: Make, plugin: Any
) -> None:
    name = getattr(plugin, "plug_id", "object")
    trainer, model = make_trainer(plugins=[plugin]), TinyModel()
    for run in (trainer.fit, trainer.fit, trainer.test):
        run(model, TinyDataModule())
    assert log == [f"{name}: trainer", f"{name}: tiny"]


@pytest.mark.parametrize("plugin", [Configuring("plug-in"), ConfiguringObject()])
def test_configure_is_applied_to_each_model_and_trainer(make_trainer: Make, plugin: Any) -> None:
    name = getattr(plugin, "plug_id", "object")
    for number in (1, 2):
        trainer = make_trainer(plugins=[plugin])
        for model in (TinyModel(f"{number}a"), TinyModel(f"{number}b")):
            trainer.fit(model, TinyDataModule())
    assert log == [
        *[f"{name}: trainer", f"{name}: 1a", f"{name}: 1b"],
        *[f"{name}: trainer", f"{name}: 2a", f"{name}: 2b"],
    ]


def test_configure_by_hand_is_not_applied_again(make_trainer: Make) -> None:
    plugin, trainer, model = Configuring("plug-in"), make_trainer(), TinyModel()
    plugin._register_in_trainer(trainer)
    for _ in range(2):
        plugin.configure_trainer(trainer)
        plugin.configure_model(model)
    trainer.fit(model, TinyDataModule())
    assert log == ["plug-in: trainer", "plug-in: tiny"]


def test_configure_of_two_instances_is_applied_for_each(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[Configuring("a"), Configuring("b")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert log == ["a: trainer", "b: trainer", "a: tiny", "b: tiny"]


def test_configure_that_fails_is_applied_at_the_next_attempt(make_trainer: Make) -> None:
    class Failing(Named):
        attempts = 0

        def configure_model(self, model: Any) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise OSError("the first time")

    plugin, model = Failing(), TinyModel()
    trainer = make_trainer(plugins=[plugin])
    with pytest.raises(OSError, match="the first time"):
        trainer.fit(model, TinyDataModule())
    trainer.fit(model, TinyDataModule())
    trainer.fit(model, TinyDataModule())
    assert plugin.attempts == 2


def test_configure_of_a_subclass_that_calls_its_base(make_trainer: Make) -> None:
    class Child(Configuring):
        def configure_model(self, model: Any) -> None:
            super().configure_model(model)
            log.append(f"child: {model.save_name}")

    plugin, model = Child("plug-in"), TinyModel()
    trainer = make_trainer(plugins=[plugin])
    for _ in range(2):
        plugin.configure_model(model)
        trainer.fit(model, TinyDataModule())
    assert log == ["plug-in: tiny", "child: tiny", "plug-in: trainer"]


class Registering(Named):
    """Brings the next one of its kind, as a package of plug-ins would."""

    def configure_trainer(self, trainer: Any) -> None:
        log.append(self.plug_id)
        if self.plug_id != "d":
            trainer.register_plugin(Registering(chr(ord(self.plug_id) + 1)))


def test_plugin_registered_in_configure_trainer_is_configured_too(
    make_trainer: Make,
) -> None:
    trainer = make_trainer(plugins=[Registering("c")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert log == ["c", "d"]
    assert [entry.id for entry in trainer.plan.active] == ["c", "d"]


def test_every_plugin_that_configure_trainer_brings_along_is_configured(
    make_trainer: Make,
) -> None:
    trainer = make_trainer(plugins=[Registering("a")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert [entry.id for entry in trainer.plan.active] == ["a", "b", "c", "d"]
    assert log == ["a", "b", "c", "d"]


def test_configure_without_its_argument(make_trainer: Make) -> None:
    class WithoutArgument(Named):
        def configure_model(self) -> None:  # type: ignore[override]
            log.append("configured")

    make_trainer(plugins=[WithoutArgument()]).fit(TinyModel(), TinyDataModule())
    assert log == ["configured"]


def test_configure_as_a_wrapper(make_trainer: Make) -> None:
    class AroundOthers(Named):
        @hookimpl(wrapper=True)
        def configure_model(self, model: Any) -> Iterator[None]:
            log.append("before")
            result = yield
            log.append("after")
            return result

    trainer = make_trainer(plugins=[Configuring("plug-in"), AroundOthers("around")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert log == ["plug-in: trainer", "before", "plug-in: tiny", "after"]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_configure_as_a_static_or_class_method(make_trainer: Make, kind: Any) -> None:
    def static(model: Any) -> None:
        log.append(model.save_name)

    def of_class(cls: type, model: Any) -> None:
        log.append(model.save_name)

    method = kind(static if kind is staticmethod else of_class)
    plugin = type("Static", (Named,), {"configure_model": method})()
    make_trainer(plugins=[plugin]).fit(TinyModel(), TinyDataModule())
    assert log == ["tiny"]


@pytest.mark.parametrize("option", ["tryfirst", "trylast"])
def test_options_of_configure_hold(make_trainer: Make, option: str) -> None:
    class WithOption(Named):
        @hookimpl(**{option: True})
        def configure_model(self, model: Any) -> None:
            log.append(f"{self.plug_id}: {option}")

    plugins = [Configuring("a"), WithOption("b"), Configuring("c")]
    make_trainer(plugins=plugins).fit(TinyModel(), TinyDataModule())
    order = [entry.partition(":")[0] for entry in log if "trainer" not in entry]
    assert order == {"tryfirst": ["b", "a", "c"], "trylast": ["a", "c", "b"]}[option]


def test_configure_of_a_mixin_by_hand_is_not_applied_again(make_trainer: Make) -> None:
    class Mixin:
        def configure_trainer(self, trainer: Any) -> None:
            log.append("trainer")
            trainer.register_plugin(self)

        def configure_model(self, model: Any) -> None:
            log.append(model.save_name)

    class Mixed(Mixin, Named):
        """Takes its methods from a class that is no plug-in."""

    plugin, trainer, model = Mixed(), make_trainer(), TinyModel()
    for _ in range(2):
        plugin.configure_trainer(trainer)
        plugin.configure_model(model)
        trainer.fit(model, TinyDataModule())
    assert log == ["trainer", "tiny"]
