"""Values under the names that a run sets are refused, since a run would replace them."""

import dataclasses
import functools
import re
from typing import Any

import pytest
import torch
from helpers import Make, Named, assert_refused, register
from pages import page

from helios import Plugin, Trainer, hookimpl
from helios.errors import ConfigurationError, InvalidPluginError
from helios.plugins.run_properties import NAMES
from helios.testing import TinyDataModule, TinyModel


def refusal(trainer: Trainer, plugin: object) -> str:
    return str(assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError))


def fit(trainer: Trainer) -> None:
    trainer.fit(TinyModel(), TinyDataModule())


@dataclasses.dataclass(eq=False)
class Field(Plugin):
    rank: int = 3

    def __post_init__(self) -> None:
        super().__init__("field")

    def setup(self) -> None: ...


@dataclasses.dataclass(eq=False)
class RequiredField(Plugin):
    rank: int

    def __post_init__(self) -> None:
        super().__init__("field")

    def setup(self) -> None: ...


def test_the_names_are_those_that_the_page_lists() -> None:
    names = re.findall(r"`self\.(\w+)`", page("hooks").partition("## Properties of a")[2])
    assert set(NAMES) == set(names[: len(NAMES)])


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_the_class(trainer: Trainer, name: str) -> None:
    message = refusal(trainer, type("Kind", (Named,), {name: 5})())
    assert "plug-in 'named' (" in message
    assert f"{name} = 5, but each run sets {name} just before setup()" in message
    assert f"choose another name, such as my_{name}, or define {name} as a property" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_init_has_set(trainer: Trainer, name: str) -> None:
    class Kind(Named):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, 5)

    assert f"{name} = 5, but each run sets {name}" in refusal(trainer, Kind())


def test_a_test_may_set_the_values_in_place_of_a_run(make_trainer: Make) -> None:
    plugin = Named()
    plugin.device = torch.device("meta")
    fit(make_trainer(plugins=[plugin]))
    assert plugin.device.type == "cpu"


@pytest.mark.parametrize("create", [Field, lambda: RequiredField(3)])
def test_a_field_of_a_dataclass(trainer: Trainer, create: Any) -> None:
    message = refusal(trainer, create())
    assert "rank" in message
    assert "each run sets rank just before setup()" in message


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (lambda self: 5, "device is a method"),
        (functools.cached_property(lambda self: 5), "device = <functools.cached_property"),
    ],
)
def test_a_method_and_a_cached_property(trainer: Trainer, value: Any, what: str) -> None:
    kind = type("Kind", (Named,), {"device": value})
    if isinstance(value, functools.cached_property):
        value.__set_name__(kind, "device")
    assert f"{what}" in refusal(trainer, kind())


def test_a_slot(trainer: Trainer) -> None:
    class Slot(Named):
        __slots__ = ("rank",)

    assert "each run sets rank" in refusal(trainer, Slot())


def test_a_property_with_a_setter_is_set_and_one_without_stays(make_trainer: Make) -> None:
    class Deliberate(Named):
        told: Any = None

        @property
        def rank(self) -> int:
            return 7

        @property
        def device(self) -> torch.device:
            return torch.device("meta")

        @device.setter
        def device(self, value: torch.device) -> None:
            self.told = value

    plugin = Deliberate()
    fit(make_trainer(plugins=[plugin]))
    assert (plugin.rank, plugin.device.type) == (7, "meta")
    assert plugin.told == torch.device("cpu")


def test_the_values_of_an_earlier_run_are_no_obstacle(make_trainer: Make) -> None:
    plugin = Named()
    fit(make_trainer(plugins=[plugin]))
    assert plugin.map_loc == "cpu"
    fit(make_trainer(plugins=[plugin]))


def test_a_plugin_may_set_its_trainer_early(make_trainer: Make) -> None:
    class Early(Named):
        def configure_trainer(self, trainer: Trainer) -> None:
            self.trainer = trainer

    fit(make_trainer(plugins=[Early()]))


def test_an_object_with_hooks_keeps_its_own_attributes(make_trainer: Make) -> None:
    class Device:
        device = "sensor-0"
        rank = 5

        @hookimpl
        def on_training_start(self) -> None: ...

    plugin = Device()
    fit(make_trainer(plugins=[plugin]))
    assert (plugin.device, plugin.rank) == ("sensor-0", 5)


# Models and data modules.

KINDS = {"Model": TinyModel, "DataModule": TinyDataModule}
OF_DATA = ("trainer", "rank", "global_rank", "world_size", "is_distributed")
OWNED = [("Model", name) for name in NAMES] + [("DataModule", name) for name in OF_DATA]


def refused(make_trainer: Make, owner: Any) -> str:
    """Return why ``fit`` and ``test`` refuse a model or a data module."""
    pair = (owner, TinyDataModule()) if isinstance(owner, TinyModel) else (TinyModel(), owner)
    messages = []
    for method in ("fit", "test"):
        with pytest.raises(ConfigurationError) as caught:
            getattr(make_trainer(), method)(*pair)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return messages[0]


@pytest.mark.parametrize(("kind", "name"), OWNED)
@pytest.mark.parametrize("way", ["class", "init", "before init", "by hand"])
def test_a_value_of_a_model_or_a_data_module(
    make_trainer: Make, kind: str, name: str, way: str
) -> None:
    class Owner(KINDS[kind]):  # type: ignore[misc]
        def __init__(self) -> None:
            if way == "before init" and name != "trainer":
                setattr(self, name, 5)
            super().__init__()
            if way == "init" or (way == "before init" and name == "trainer"):
                setattr(self, name, 5)

    if way == "class":
        setattr(Owner, name, 5)
    owner = Owner()
    if way == "by hand":
        setattr(owner, name, 5)
    message = refused(make_trainer, owner)
    assert message.startswith(f"Owner: {name} = 5, but each run sets {name} just before setup()")
    assert f"choose another name, such as my_{name}, or define {name} as a property" in message


def test_a_data_module_keeps_attributes_that_no_run_sets(make_trainer: Make) -> None:
    class Data(TinyDataModule):
        device = "sensor-0"

        def __init__(self) -> None:
            super().__init__()
            self.map_loc = {"a": 1}

    data = Data()
    make_trainer().fit(TinyModel(), data)
    assert (data.device, data.map_loc) == ("sensor-0", {"a": 1})


def test_a_model_may_have_a_property_and_set_values_in_setup(make_trainer: Make) -> None:
    class Own(TinyModel):
        @property
        def rank(self) -> int:
            return 7

        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.map_loc = "meta"

    model = Own()
    for _ in range(2):  # the second run sees the values of the first one
        make_trainer().fit(model, TinyDataModule())
        assert (model.rank, model.map_loc) == (7, "meta")
