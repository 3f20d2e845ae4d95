"""Registration: ids, the table ``trainer.plugins``, and what it refuses during a run."""

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make, Named, ObjectWithHooks, Observer, assert_refused, enter, register, table

from helios import Trainer, hookimpl
from helios.errors import (
    DuplicatePluginError,
    FrozenPlanError,
    InvalidPluginError,
    PluginError,
    UnknownNameError,
)
from helios.testing import TinyDataModule, TinyModel

# Ids.


def test_register_returns_the_id(trainer: Trainer) -> None:
    assert trainer.register_plugin(Named("third")) == "third"
    assert trainer.plugin_manager.register(Named("fourth")) == "fourth"
    assert list(trainer.plugins) == ["first", "second", "third", "fourth"]


def test_object_without_an_id_is_given_one(trainer: Trainer) -> None:
    module = types.ModuleType("my_module")
    module.setup = hookimpl(lambda: None)  # type: ignore[attr-defined]
    assert trainer.register_plugin(ObjectWithHooks()) == "ObjectWithHooks"
    assert trainer.register_plugin(ObjectWithHooks(), "mine") == "mine"
    assert trainer.register_plugin(module) == "my_module"


def test_same_instance_twice_is_harmless(trainer: Trainer) -> None:
    plugin = Observer("third")
    trainer.register_plugin(plugin)
    before = table(trainer.plugin_manager)
    assert trainer.register_plugin(plugin) == "third"
    plugin._register_in_trainer(trainer)
    trainer.plugins["third"] = plugin
    assert table(trainer.plugin_manager) == before


class Another(Named):
    """Another class than ``Named``."""


@pytest.mark.parametrize("door", [register, enter], ids=lambda door: door.__name__)
def test_id_that_is_taken(trainer: Trainer, door: Callable[[Trainer, Any], None]) -> None:
    trainer.register_plugin(Another("third"))
    trainer.plugin_manager.arrange()
    error = assert_refused(trainer, lambda: door(trainer, Named("third")), DuplicatePluginError)
    assert isinstance(error, KeyError)
    message = str(error)
    assert "two plug-ins have the id 'third'" in message
    for kind in (Another, Named):
        assert f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}" in message
    assert "another id" in message
    assert "\\n" not in message


def test_id_that_is_taken_by_an_object(trainer: Trainer) -> None:
    trainer.register_plugin(ObjectWithHooks())
    trainer.plugin_manager.arrange()
    assert_refused(trainer, lambda: register(trainer, ObjectWithHooks()), DuplicatePluginError)


def test_one_object_under_two_ids(trainer: Trainer) -> None:
    """pluggy knows an object under one name only, so the second must not wait for the launch."""
    plugin = ObjectWithHooks()
    trainer.register_plugin(plugin, "one")
    trainer.plugin_manager.arrange()
    error = assert_refused(trainer, lambda: trainer.register_plugin(plugin, "two"), PluginError)
    assert "'one'" in str(error)
    assert "'two'" in str(error)


@dataclasses.dataclass(frozen=True)
class Equal:
    """Instances are equal, and can be hashed."""

    @hookimpl
    def setup(self) -> None:
        pass


def test_equal_plugins_are_told_apart_or_refused(trainer: Trainer) -> None:
    """pluggy compares plug-ins with ==; that must not surface at the launch."""
    one, two = Equal(), Equal()
    trainer.register_plugin(one, "one")
    try:
        trainer.register_plugin(two, "two")
    except PluginError as error:
        assert "'one'" in str(error)  # noqa: PT017 - either way out is fine
        return
    trainer.plugin_manager.arrange()
    found = trainer.plugin_manager.hook.setup.get_hookimpls()
    assert [i.plugin_name for i in found if isinstance(i.plugin, Equal)] == ["two", "one"]


# trainer.plugins, assigned and deleted.


def test_entering_under_another_id(trainer: Trainer) -> None:
    def enter_under_another() -> None:
        trainer.plugins["other"] = Named("mine")

    error = assert_refused(trainer, enter_under_another, InvalidPluginError)
    assert "trainer.plugins['other']" in str(error)
    assert "trainer.plugins['mine'] = ..." in str(error)


def test_assigning_a_table_with_another_id(trainer: Trainer) -> None:
    def assign_under_another() -> None:
        trainer.plugins = {"other": Named("mine")}  # type: ignore[assignment]

    error = assert_refused(trainer, assign_under_another, InvalidPluginError)
    assert "'other'" in str(error)
    assert "'mine'" in str(error)


def test_assigning_a_table_exchanges_it(trainer: Trainer) -> None:
    one, two = Named("one"), ObjectWithHooks()
    trainer.plugins = {"one": one, "two": two}  # type: ignore[assignment]
    assert dict(trainer.plugins) == {"one": one, "two": two}
    trainer.plugins = trainer.plugins
    assert dict(trainer.plugins) == {"one": one, "two": two}
    trainer.plugins = {}  # type: ignore[assignment]
    assert len(trainer.plugins) == 0


def test_the_table_is_a_mapping(trainer: Trainer) -> None:
    plugin = Named("third")
    trainer.plugins["third"] = plugin
    assert trainer.plugins["third"] is plugin
    assert trainer.plugins.get("fourth") is None
    assert "third" in trainer.plugins
    assert "fourth" not in trainer.plugins
    assert list(trainer.plugins) == ["first", "second", "third"]
    assert len(trainer.plugins) == 3
    assert trainer.plugins.pop("third") is plugin
    del trainer.plugins["first"]
    assert list(trainer.plugins) == ["second"]


@pytest.mark.parametrize(
    "action",
    [
        lambda trainer: trainer.unregister_plugin("secnd"),
        lambda trainer: trainer.plugins.__delitem__("secnd"),
        lambda trainer: trainer.plugins["secnd"],
        lambda trainer: trainer.plugin_manager.unregister(name="secnd"),
        lambda trainer: trainer.plugin_manager.unregister(Named("secnd")),
    ],
    ids=["unregister_plugin", "del", "[]", "by name", "by plug-in"],
)
def test_unknown_id(trainer: Trainer, action: Callable[[Trainer], object]) -> None:
    error = assert_refused(trainer, lambda: action(trainer), UnknownNameError)
    assert isinstance(error, KeyError)
    assert "no plug-in 'secnd' is registered. Did you mean 'second'?" in str(error)
    assert "first, second" in str(error)


def test_unregistering(trainer: Trainer) -> None:
    first = trainer.plugins["first"]
    assert trainer.unregister_plugin("first") is first
    assert list(trainer.plugins) == ["second"]
    trainer.register_plugin(first)
    assert list(trainer.plugins) == ["second", "first"]
    assert trainer.plugin_manager.unregister(first) is first
    trainer.plugin_manager.arrange()
    assert trainer.plugin_manager.get_plugins() == {trainer.plugins["second"]}


def test_pluggy_knows_of_a_registration_at_once(make_trainer: Make) -> None:
    """The manager is a pluggy manager: its questions must not be answered with old facts."""
    trainer, plugin = make_trainer(), Observer("mine")
    manager = trainer.plugin_manager
    trainer.register_plugin(plugin)
    assert manager.get_plugins() == {plugin}
    assert manager.get_plugin("mine") is plugin
    assert manager.is_registered(plugin)
    trainer.unregister_plugin("mine")
    assert manager.get_plugins() == set()
    assert not manager.has_plugin("mine")


# What looks odd, but can be called, is registered and called.


def test_function_set_on_the_instance_is_called(trainer: Trainer) -> None:
    calls: list[Any] = []
    plugin = Named()
    plugin.on_training_start = lambda: calls.append("start")  # type: ignore[method-assign]
    plugin.on_log = lambda metrics: calls.append(metrics)  # type: ignore[method-assign,assignment]
    trainer.register_plugin(plugin)
    callers = trainer.plugin_manager.arrange()
    callers.on_training_start()
    callers.on_log(metrics={"loss": 1.0}, phase="training", state=None)
    assert calls == ["start", {"loss": 1.0}]


class Helpers(Named):
    """Names of one's own that are no hooks, and do not look like one."""

    learning_rate = 0.1

    def report(self) -> None:
        pass

    def _on_signal(self) -> None:
        pass


def test_helpers_are_left_alone(trainer: Trainer) -> None:
    trainer.register_plugin(Helpers())
    assert trainer.plugin_manager.rows["named"].hooks == ("setup",)


def test_optional_hook_of_another_release_is_left_alone(trainer: Trainer) -> None:
    class Future(Named):
        @hookimpl(optionalhook=True)
        def on_future_moment(self) -> None:
            pass

    trainer.register_plugin(Future())
    trainer.plugin_manager.arrange()


class Static(Named):
    calls: list[str] = []  # noqa: RUF012 - emptied by the test

    @staticmethod
    def on_training_start() -> None:  # type: ignore[override]
        Static.calls.append("static")

    @classmethod
    def on_training_end(cls) -> None:  # type: ignore[override]
        cls.calls.append("class")


def test_static_and_class_methods_are_called(trainer: Trainer) -> None:
    Static.calls.clear()
    trainer.register_plugin(Static())
    callers = trainer.plugin_manager.arrange()
    callers.on_training_start()
    callers.on_training_end()
    assert Static.calls == ["static", "class"]


# While a run is going on.


class Meddling(Named):
    """Changes the table while a run is using it."""

    def __init__(self, meddle: Callable[[Trainer], object]) -> None:
        super().__init__("meddling")
        self.meddle = meddle

    def on_training_start(self) -> None:
        self.meddle(self.trainer)


def delete(trainer: Trainer) -> None:
    del trainer.plugins["bystander"]


MEDDLING = {
    "register_plugin": lambda trainer: trainer.register_plugin(Named("late")),
    "unregister_plugin": lambda trainer: trainer.unregister_plugin("bystander"),
    "enter": lambda trainer: trainer.plugins.__setitem__("late", Named("late")),
    "delete": delete,
    "assign": lambda trainer: setattr(trainer, "plugins", {"late": Named("late")}),
    "assign nothing": lambda trainer: setattr(trainer, "plugins", {}),
    "clear": lambda trainer: trainer.plugins.clear(),
    "register by itself": lambda trainer: Named("late")._register_in_trainer(trainer),
}


@pytest.mark.parametrize("meddle", MEDDLING.values(), ids=MEDDLING)
def test_the_table_is_fixed_during_a_run(
    make_trainer: Make, meddle: Callable[[Trainer], object]
) -> None:
    trainer = make_trainer(plugins=[Meddling(meddle), Observer("bystander")])
    before = table(trainer.plugin_manager)
    with pytest.raises(FrozenPlanError, match=r"configure_trainer") as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert isinstance(caught.value, RuntimeError)
    assert table(trainer.plugin_manager) == before
    meddle(trainer)  # between runs it is allowed again


def test_registering_the_same_instance_during_a_run_is_harmless(make_trainer: Make) -> None:
    trainer = make_trainer(
        plugins=[Meddling(lambda trainer: trainer.register_plugin(trainer.plugins["meddling"]))]
    )
    trainer.fit(TinyModel(), TinyDataModule())
    assert list(trainer.plugins) == ["meddling"]
