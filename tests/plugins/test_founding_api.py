"""The API page that the project was founded on, item by item: names, arguments, defaults."""

import abc
import dataclasses
import inspect
import subprocess
from typing import Any, NamedTuple

import pytest
import torch
from helpers import OVERRIDES, Make

import helios.plugins as hlp
import helios.plugins.plugin as page
from helios import TrainingState
from helios.core import Registry
from helios.testing import TinyDataModule, TinyModel


class Minimal(hlp.Plugin):
    """What the page demands of a plug-in, and no more."""

    def __init__(self, plug_id: str = "minimal") -> None:
        super().__init__(plug_id)

    def setup(self) -> None:
        pass


# The module.


@pytest.mark.parametrize(
    "name", ["PLUGIN_REGISTRY", "UniquePluginOverrides", "Plugin", "CUDAPlugin", "create_plugin"]
)
def test_names_are_in_both_modules(name: str) -> None:
    assert getattr(page, name) is getattr(hlp, name)
    assert name in hlp.__all__


# UniquePluginOverrides.


def test_overrides_has_the_four_fields_in_order() -> None:
    fields = dataclasses.fields(hlp.UniquePluginOverrides)
    assert [(field.name, field.type, field.default) for field in fields] == [
        (flag, bool, False) for flag in OVERRIDES
    ]


def test_overrides_are_false_by_default() -> None:
    overrides = hlp.UniquePluginOverrides()
    assert [getattr(overrides, flag) for flag in OVERRIDES] == [False] * 4


@pytest.mark.parametrize("flag", OVERRIDES)
def test_overrides_can_be_passed_and_assigned(flag: str) -> None:
    passed = hlp.UniquePluginOverrides(**{flag: True})
    assigned = hlp.UniquePluginOverrides()
    setattr(assigned, flag, True)
    assert passed == assigned != hlp.UniquePluginOverrides()
    assert [name for name in OVERRIDES if getattr(passed, name)] == [flag]


# PLUGIN_REGISTRY.


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The global registry, which forgets afterwards what a test puts into it."""
    monkeypatch.setattr(hlp.PLUGIN_REGISTRY, "_objects", dict(hlp.PLUGIN_REGISTRY._objects))
    return hlp.PLUGIN_REGISTRY


def test_registry_is_a_registry_called_plug_in() -> None:
    assert isinstance(hlp.PLUGIN_REGISTRY, Registry)
    assert str(hlp.PLUGIN_REGISTRY) == "plug-in"


def test_registry_holds_the_cuda_plugin_under_its_class_name() -> None:
    assert "CUDAPlugin" in hlp.PLUGIN_REGISTRY
    assert "CUDAPlugin" in hlp.PLUGIN_REGISTRY.keys()  # noqa: SIM118 - a registry is no mapping
    assert hlp.PLUGIN_REGISTRY.get("CUDAPlugin") is hlp.CUDAPlugin


def test_registry_holds_the_optuna_plugin_only_after_its_module_is_imported(
    python: list[str],
) -> None:
    program = """
import sys
import helios.plugins as hlp
assert "OptunaPlugin" not in hlp.PLUGIN_REGISTRY, "known too early"
assert "OptunaPlugin" not in hlp.PLUGIN_REGISTRY.keys(), "listed too early"
assert "optuna" not in sys.modules, "imported too early"
import helios.plugins.optuna
assert hlp.PLUGIN_REGISTRY.get("OptunaPlugin") is helios.plugins.optuna.OptunaPlugin
assert "OptunaPlugin" in hlp.PLUGIN_REGISTRY.keys()
"""
    subprocess.run([*python, "-c", program], check=True)


def test_registry_as_a_decorator(registry: Registry) -> None:
    @hlp.PLUGIN_REGISTRY
    class Decorated(Minimal):
        pass

    assert registry.get("Decorated") is Decorated


def test_registry_register_as_a_decorator(registry: Registry) -> None:
    @hlp.PLUGIN_REGISTRY.register
    class Decorated(Minimal):
        pass

    assert registry.get("Decorated") is Decorated


def test_registry_register_with_parentheses_as_a_decorator(registry: Registry) -> None:
    @hlp.PLUGIN_REGISTRY.register()
    class Decorated(Minimal):
        pass

    assert registry.get("Decorated") is Decorated


def test_registry_register_with_a_suffix_as_a_decorator(registry: Registry) -> None:
    @hlp.PLUGIN_REGISTRY.register(suffix="v2")
    class Decorated(Minimal):
        pass

    assert registry.get("Decorated_v2") is Decorated
    assert "Decorated" not in registry
    with pytest.warns(UserWarning, match="'Decorated_v2' instead"):
        assert registry.get("Decorated", suffix="v2") is Decorated


def test_registry_register_by_a_call(registry: Registry) -> None:
    assert hlp.PLUGIN_REGISTRY.register(Minimal) is Minimal
    assert registry.get("Minimal") is Minimal


def test_registry_refuses_a_name_that_is_taken(registry: Registry) -> None:
    registry.register(Minimal)
    with pytest.raises(KeyError, match="'Minimal'"):
        registry.register(Minimal)
    with pytest.raises(AssertionError, match="suffix="):  # what earlier releases raised
        registry.register(Minimal)


# create_plugin.


class WithArguments(Minimal):
    def __init__(self, first: int, *, second: str = "") -> None:
        super().__init__("with-arguments")
        self.received = (first, second)


@pytest.fixture
def registered(registry: Registry) -> None:
    registry.register(WithArguments)


def test_create_plugin_signature() -> None:
    parameters = inspect.signature(hlp.create_plugin).parameters
    assert [(p.name, p.kind) for p in parameters.values()] == [
        ("type_name", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("args", inspect.Parameter.VAR_POSITIONAL),
        ("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]


@pytest.mark.usefixtures("registered")
def test_create_plugin_passes_positional_and_keyword_arguments() -> None:
    plugin = hlp.create_plugin("WithArguments", 1, second="two")
    assert type(plugin) is WithArguments
    assert plugin.received == (1, "two")
    assert hlp.create_plugin(type_name="WithArguments", first=3).received == (3, "")


@pytest.mark.usefixtures("registered")
def test_create_plugin_makes_a_new_one_each_time() -> None:
    assert hlp.create_plugin("WithArguments", 1) is not hlp.create_plugin("WithArguments", 1)


@pytest.mark.usefixtures("registered")
def test_create_plugin_with_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"'WithArgument'.*Did you mean 'WithArguments'"):
        hlp.create_plugin("WithArgument", 1)


def test_create_plugin_creates_what_is_installed() -> None:
    plugin = hlp.create_plugin("metrics-file")
    assert plugin._plug_id == "metrics-file"


# Plugin: its constructor and properties.


def test_plugin_is_abstract_in_setup_alone() -> None:
    assert issubclass(hlp.Plugin, abc.ABC)
    assert hlp.Plugin.__abstractmethods__ == {"setup"}
    with pytest.raises(TypeError, match="setup"):
        hlp.Plugin("id")  # type: ignore[abstract]


def test_plugin_takes_its_id_by_position_and_by_keyword() -> None:
    assert list(inspect.signature(hlp.Plugin).parameters) == ["plug_id"]
    assert Minimal("by-position")._plug_id == "by-position"

    class ByKeyword(hlp.Plugin):
        def __init__(self) -> None:
            super().__init__(plug_id="by-keyword")

        def setup(self) -> None:
            pass

    assert ByKeyword()._plug_id == "by-keyword"


def test_unique_overrides_are_the_plugins_own_and_mutable() -> None:
    one, other = Minimal(), Minimal()
    assert one.unique_overrides == hlp.UniquePluginOverrides()
    one.unique_overrides.testing_batch = True
    assert one._overrides.testing_batch is True
    assert other.unique_overrides == hlp.UniquePluginOverrides()
    with pytest.raises(AttributeError):
        one.unique_overrides = hlp.UniquePluginOverrides()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "before"), [("is_distributed", False), ("map_loc", ""), ("rank", 0)]
)
def test_property_before_a_run(name: str, before: Any) -> None:
    value = getattr(Minimal(), name)
    assert value == before
    assert type(value) is type(before)


@pytest.mark.parametrize("name", ["device", "trainer"])
def test_property_that_has_no_value_before_a_run(name: str) -> None:
    with pytest.raises(AssertionError, match=name):
        getattr(Minimal(), name)


FACTS = ["is_distributed", "map_loc", "device", "rank", "trainer"]


class Watching(Minimal):
    """Looks at its properties in ``setup``."""

    seen: dict[str, Any]

    def setup(self) -> None:
        self.seen = {name: getattr(self, name) for name in FACTS}
        self.overrides_in_setup = self.unique_overrides


@pytest.mark.parametrize("run", ["fit", "test"])
def test_properties_are_set_by_the_trainer_before_setup(make_trainer: Make, run: str) -> None:
    plugin = Watching()
    plugin.unique_overrides.training_batch = True
    before = plugin.unique_overrides
    trainer = make_trainer(plugins=[plugin], total_steps=1)
    getattr(trainer, run)(TinyModel(), TinyDataModule())
    assert plugin.seen["is_distributed"] is False
    assert plugin.seen["device"] == torch.device("cpu")
    assert plugin.seen["rank"] == 0
    assert plugin.seen["trainer"] is trainer
    location = plugin.seen["map_loc"]
    assert location in ("cpu", {"cuda:0": "cpu"})
    assert plugin.overrides_in_setup is before
    assert before == hlp.UniquePluginOverrides(training_batch=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_distributed", True),
        ("map_loc", {"cuda:0": "cuda:1"}),
        ("device", torch.device("cuda", 1)),
        ("rank", 3),
    ],
)
def test_properties_can_be_set(name: str, value: Any) -> None:
    plugin = Minimal()
    setattr(plugin, name, value)
    assert getattr(plugin, name) == value


# Plugin: its methods.

BATCH = object()
STATE = TrainingState()


class Method(NamedTuple):
    """A row of the page: the arguments of a method, and what it returns by default."""

    name: str
    arguments: dict[str, Any]
    default: Any = None


METHODS = [
    Method("configure_trainer", {"trainer": object()}),
    Method("configure_model", {"model": object()}),
    Method("on_training_start", {}),
    Method("process_training_batch", {"batch": BATCH, "state": STATE}, BATCH),
    Method("on_training_end", {}),
    Method("on_validation_start", {"validation_cycle": 3}),
    Method("process_validation_batch", {"batch": BATCH, "step": 2}, BATCH),
    Method("on_validation_end", {"validation_cycle": 3}),
    Method("should_training_stop", {}, False),
    Method("on_testing_start", {}),
    Method("process_testing_batch", {"batch": BATCH, "step": 2}, BATCH),
    Method("on_testing_end", {}),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_method_has_the_arguments_of_the_page(method: Method) -> None:
    parameters = list(inspect.signature(getattr(hlp.Plugin, method.name)).parameters.values())[1:]
    assert [parameter.name for parameter in parameters] == list(method.arguments)
    for parameter in parameters:
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is parameter.empty


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_method_default_by_keyword_and_by_position(method: Method) -> None:
    bound = getattr(Minimal(), method.name)
    assert bound(**method.arguments) is method.default
    assert bound(*method.arguments.values()) is method.default


class Overriding(Minimal):
    def configure_trainer(self, trainer: Any) -> None:
        self.trainer_seen = trainer

    def configure_model(self, model: Any) -> None:
        self.model_seen = model


def test_overridden_configure_methods_are_called_by_position(
    make_trainer: Make,
) -> None:
    plugin, trainer, model = Overriding(), make_trainer(), TinyModel()
    plugin.configure_trainer(trainer)
    plugin.configure_model(model)
    assert plugin.trainer_seen is trainer
    assert plugin.model_seen is model


def test_overridden_configure_methods_are_called_by_keyword(
    make_trainer: Make,
) -> None:
    plugin, trainer, model = Overriding(), make_trainer(), TinyModel()
    plugin.configure_trainer(trainer=trainer)
    plugin.configure_model(model=model)
    assert plugin.trainer_seen is trainer
    assert plugin.model_seen is model


# Plugin: the private names that subclasses rely on.


def test_private_names() -> None:
    plugin = Minimal("mine")
    assert plugin._plug_id == "mine"
    assert plugin._overrides is plugin.unique_overrides


def test_register_in_trainer(make_trainer: Make) -> None:
    trainer, plugin = make_trainer(), Minimal("mine")
    plugin._register_in_trainer(trainer)
    assert trainer.plugins["mine"] is plugin
    with pytest.raises(KeyError, match="'mine'"):
        Minimal("mine")._register_in_trainer(trainer)
    assert trainer.plugins["mine"] is plugin


@pytest.mark.parametrize("kind", ["train", "test"])
def test_append_exceptions(make_trainer: Make, kind: str) -> None:
    trainer, plugin = make_trainer(), Minimal()
    append = getattr(plugin, f"_append_{kind}_exceptions")
    append(ValueError, trainer)
    append([KeyError, OSError], trainer)
    append(exc=ValueError, trainer=trainer)
    listed = {"train": trainer.train_exceptions, "test": trainer.test_exceptions}
    assert listed.pop(kind) == [ValueError, KeyError, OSError, ValueError]
    assert list(listed.values()) == [[]]
