"""Names in a plug-in that have no effect: registration refuses them, and nothing else."""

import abc
import dataclasses
import functools
import inspect
import types
from typing import Any

import numpy as np
import pytest
from helpers import Make, Named, assert_refused, register
from torch import nn

from helios import Plugin, Trainer, hookimpl
from helios.errors import InvalidPluginError
from helios.plugins import PluginManager
from helios.plugins.activation.arguments import missing_arguments
from helios.plugins.builtin.cadence import CadencePlugin
from helios.plugins.plugin import UniquePluginOverrides
from helios.testing import TinyModel


def refusal(trainer: Trainer, plugin: object) -> str:
    """Return the message with which registration refuses a plug-in, and check that it names it."""
    message = str(assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError))
    name = getattr(plugin, "plug_id", None) or getattr(plugin, "__name__", None)
    assert repr(name or type(plugin).__name__) in message
    return message


def kind(bases: tuple[type, ...] = (Named,), **members: Any) -> Any:
    """Return an instance of a class with some members."""
    return type("Kind", bases, members)()


def nothing(self: Any) -> None: ...


async def wait(self: Any, *arguments: Any) -> Any: ...


# Declarations.


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("critcal", False, "critical"),
        ("Critical", False, "critical"),
        ("auto_load", False, "autoload"),
        ("autolaod", True, "autoload"),
        ("change_results", True, "changes_results"),
        ("exclusive", ("gpu-0",), "exclusives"),
        ("exclusiv", "gpu-0", "exclusives"),
        ("befor", ("ema",), "before"),
        ("aftr", ["ema"], "after"),
        ("sumary", "one line", "summary"),
        ("is_critical", False, "critical"),
        ("critcal", 0, "critical"),
        ("critcal", np.False_, "critical"),
        ("critcal", "no", "critical"),
        ("exclusive", {"gpu-0"}, "exclusives"),
        ("befor", frozenset({"ema"}), "before"),
    ],
)
@pytest.mark.parametrize("of_class", [True, False])
def test_misspelt_declaration(
    trainer: Trainer, name: str, value: Any, meant: str, of_class: bool
) -> None:
    plugin = kind(**{name: value}) if of_class else Named()
    setattr(plugin, name, value)
    message = refusal(trainer, plugin)
    assert f"{name} = {value!r} has no effect. Did you mean {meant!r}?" in message


@pytest.mark.parametrize("name", ["critical", "autoload", "changes_results"])
def test_switch_of_another_type(trainer: Trainer, name: str) -> None:
    message = refusal(trainer, kind(**{name: "no"}))
    assert f"{name} is 'no': write {name} = True" in message


def test_autoload_that_is_a_property(trainer: Trainer) -> None:
    message = refusal(trainer, kind(autoload=property(lambda self: False)))
    assert "write autoload = True or autoload = False" in message


def test_misspelt_override(trainer: Trainer) -> None:
    plugin = Named()
    plugin.unique_overrides.traning_batch = True  # type: ignore[attr-defined]
    message = refusal(trainer, plugin)
    assert "unique_overrides.traning_batch has no effect. Did you mean 'training_batch'" in message
    assert "should_training_stop" in message


def test_override_that_is_no_switch(trainer: Trainer) -> None:
    plugin = Named()
    plugin.unique_overrides.training_batch = "no"  # type: ignore[assignment]
    assert "unique_overrides.training_batch is 'no': write True or False" in refusal(
        trainer, plugin
    )


def test_overrides_of_another_type(trainer: Trainer) -> None:
    message = refusal(trainer, kind(unique_overrides={"training_batch": True}))
    assert "unique_overrides is a dict" in message
    assert "self.unique_overrides.training_batch = True" in message


def test_overrides_that_are_misspelt_after_registration(make_trainer: Make) -> None:
    plugin = Named()
    trainer = make_trainer(plugins=[plugin])
    plugin.unique_overrides.traning_batch = True  # type: ignore[attr-defined]
    with pytest.raises(InvalidPluginError, match="traning_batch"):
        trainer._validate_plugins()


def test_misspelt_declaration_that_is_a_property(trainer: Trainer) -> None:
    message = refusal(trainer, kind(critcal=property(lambda self: False)))
    assert "has no effect. Did you mean 'critical'?" in message


@pytest.mark.parametrize("value", [3, ("one line",), None])
def test_summary_of_another_type(trainer: Trainer, value: Any) -> None:
    message = refusal(trainer, kind(summary=value))
    assert f"summary is {value!r}: write one line of text." in message


@pytest.mark.parametrize("name", ["exclusives", "before", "after"])
@pytest.mark.parametrize("wrong", ["", " gpu", "gpu "])
def test_names_with_spaces_around_them(trainer: Trainer, name: str, wrong: str) -> None:
    message = refusal(trainer, kind(**{name: (wrong,)}))
    assert f"{name} is ({wrong!r},): write a tuple of strings without spaces around" in message


@pytest.mark.parametrize("name", ["unique_overides", "overrides", "flags"])
def test_overrides_under_another_name(trainer: Trainer, name: str) -> None:
    message = refusal(trainer, kind(**{name: UniquePluginOverrides(training_batch=True)}))
    assert f"{name} has no effect: set the fields of unique_overrides in __init__" in message


def test_overrides_that_are_fields_of_the_plugin(trainer: Trainer) -> None:
    plugin = Named()
    plugin.training_batch = True  # type: ignore[attr-defined]
    message = refusal(trainer, plugin)
    assert "has no effect: write self.unique_overrides.training_batch = True" in message


def test_overrides_before_init_is_called() -> None:
    class Early(Plugin):
        def __init__(self) -> None:
            self.unique_overrides.training_batch = True

        def setup(self) -> None: ...

    with pytest.raises(InvalidPluginError, match=r"Early has not called super\(\).__init__: call"):
        Early()


def test_dataclass_that_does_not_call_init(trainer: Trainer) -> None:
    @dataclasses.dataclass(eq=False)
    class Data(Plugin):
        decay: float = 0.9
        plug_id = "data"  # type: ignore[assignment]  # instead of the property

        def setup(self) -> None: ...

    with pytest.raises(InvalidPluginError, match=r"Data has not called super.* in __post_init__"):
        trainer.register_plugin(Data())


@pytest.mark.parametrize("plug_id", [" named", "named ", "  "])
def test_id_that_no_list_of_blocked_names_can_contain(trainer: Trainer, plug_id: str) -> None:
    refused = "write a string without spaces around it"
    with pytest.raises(InvalidPluginError, match=f"Named has the id {plug_id!r} .*: {refused}"):
        trainer.register_plugin(Named(plug_id))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (False, "applies_to is False: define it as a method, with @classmethod"),
        (property(lambda self: False), "define it as a method, with @classmethod above it"),
        (classmethod(wait), "applies_to is an async function"),
    ],
)
def test_applies_to_that_cannot_be_asked(trainer: Trainer, value: Any, message: str) -> None:
    assert message in refusal(trainer, kind(applies_to=value))


def test_applies_to_of_an_instance(trainer: Trainer) -> None:
    plugin = Named()
    plugin.applies_to = lambda trainer: False  # type: ignore[method-assign]
    assert "applies_to of an instance has no effect" in refusal(trainer, plugin)


def test_applies_to_that_is_a_plain_method(trainer: Trainer) -> None:
    def applies_to(self: Any, trainer: Any) -> bool:
        return False

    assert "applies_to is a plain method" in refusal(trainer, kind(applies_to=applies_to))
    assert "Did you mean 'applies_to'?" in refusal(trainer, kind(appliesto=applies_to))


# The state.


def state(self: Any) -> dict[str, Any]:
    return {"a": 1}


def load(self: Any, state_dict: Any) -> None: ...


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"state_dict": state}, "state_dict has no load_state_dict, so a resumed run would lose"),
        ({"load_state_dict": load}, "load_state_dict has no state_dict, so no checkpoint would"),
        ({"state_dict": {"a": 1}, "load_state_dict": load}, "state_dict is a dict: define it as"),
        ({"state_dict": property(state), "load_state_dict": load}, "state_dict is a property"),
        ({"state_dict": load, "load_state_dict": load}, r"write state_dict()."),
        ({"state_dict": state, "load_state_dict": state}, "write load_state_dict(state_dict)."),
    ],
)
@pytest.mark.parametrize("is_plugin", [True, False])
def test_state_that_would_be_lost(
    trainer: Trainer, members: dict[str, Any], message: str, is_plugin: bool
) -> None:
    marked = hookimpl(lambda self: None)
    base, more = (Named, {}) if is_plugin else (object, {"on_training_start": marked})
    assert message in refusal(trainer, kind((base,), **members, **more))


def test_misspelt_state(trainer: Trainer) -> None:
    assert "Helios never calls state_dicts. Did you mean 'state_dict'?" in refusal(
        trainer, kind(state_dicts=state)
    )


def test_state_of_an_async_function(trainer: Trainer) -> None:
    assert "state_dict is an async function" in refusal(
        trainer, kind(state_dict=wait, load_state_dict=load)
    )


def test_inherited_half_of_a_state_is_enough() -> None:
    base = type("Base", (Named,), {"state_dict": state, "load_state_dict": load})
    PluginManager().register(kind((base,), state_dict=state))


# Names of hooks.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on_gpu", True),
        ("on_cpu", None),
        ("on_error", "raise"),
        ("on_error", lambda error: None),
        ("on_error", print),
        ("on_training_starts", 3),
        ("configure_model_called", False),
        ("configure_models", {}),
        ("step_contexts", []),
        ("wrap_batch", 3),
        ("state_dicts", {}),
        ("setup_done", False),
        ("teardown_done", False),
        ("critic", nn.Linear(1, 1)),
        ("critic", None),
        ("training_batch", {"x": 1}),
        ("alter", "x"),
        ("critical_steps", 3),
        ("autoloaded", True),
    ],
)
def test_value_with_a_similar_name_is_accepted(name: str, value: Any) -> None:
    plugin = Named()
    setattr(plugin, name, value)
    PluginManager().register(plugin)


def test_property_with_a_similar_name_is_accepted_and_not_evaluated() -> None:
    def fail(self: Any) -> Any:
        raise AssertionError("evaluated")

    PluginManager().register(kind(on_gpu=property(fail), step_contexts=property(fail)))


@pytest.mark.parametrize(
    "name",
    ["launched", "prepare_images", "compute", "setup_writer", "teardown_writer", "batch", "stop"],
)
def test_method_with_a_harmless_name_is_accepted(name: str) -> None:
    PluginManager().register(kind(**{name: nothing}))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("should_stop", "should_training_stop"),
        ("should_stop_training", "should_training_stop"),
        ("process_batch", "process_training_batch"),
        ("process_train_batch", "process_training_batch"),
        ("process_testing", "process_testing_batch"),
        ("setUp", "setup"),
        ("tear_down", "teardown"),
    ],
)
def test_method_with_some_words_of_a_hook(trainer: Trainer, name: str, meant: str) -> None:
    message = refusal(trainer, kind(**{name: nothing}))
    assert f"{name} is not a hook, so it would never be called. Did you mean" in message
    assert repr(meant) in message


@pytest.mark.parametrize("name", ["train_step", "valid_step", "test_step"])
def test_method_of_models(trainer: Trainer, name: str) -> None:
    message = refusal(trainer, kind(**{name: nothing}))
    assert f"{name} is a method of models, and Helios never calls it of a plug-in" in message


def test_callback_that_is_almost_a_hook_is_refused(trainer: Trainer) -> None:
    plugin = Named()
    plugin.on_train_start = lambda: None  # type: ignore[attr-defined]
    assert "on_train_start is not a hook" in refusal(trainer, plugin)


# Hooks that another base class hides.


class Mixin:
    def on_training_start(self) -> None: ...


def test_hook_of_a_mixin_that_plugin_hides(trainer: Trainer) -> None:
    message = refusal(trainer, type("Mixed", (Named, Mixin), {})())
    assert "Mixin.on_training_start is hidden by the default of Plugin" in message
    assert "write class Mixed(Mixin, Plugin)" in message


@pytest.mark.parametrize(
    "members", [{"critical": False}, {"exclusives": ("gpu",)}, {"state_dict": state}]
)
def test_declaration_of_a_mixin_that_plugin_hides(
    trainer: Trainer, members: dict[str, Any]
) -> None:
    mixin = type("Mixin", (), members)
    assert f"Mixin.{next(iter(members))} is hidden" in refusal(trainer, kind((Named, mixin)))


def test_mixin_before_plugin_counts() -> None:
    manager = PluginManager()
    manager.register(type("Mixed", (Mixin, Named), {})())
    assert "on_training_start" in manager.rows["named"].hooks


def test_hook_of_a_mixin_that_the_class_replaces_is_accepted() -> None:
    PluginManager().register(kind((Named, Mixin), on_training_start=nothing))
    PluginManager().register(kind((Named, abc.ABC, type("Empty", (), {}))))


# Functions without the marker.


def module_with(**functions: Any) -> types.ModuleType:
    made = types.ModuleType("module_plugin")
    made.on_training_start = hookimpl(lambda: None)  # type: ignore[attr-defined]
    for name, function in functions.items():
        setattr(made, name, function)
    return made


def object_with(**members: Any) -> object:
    return kind((object,), on_training_start=hookimpl(lambda self: None), **members)


@pytest.mark.parametrize("make", [module_with, object_with])
@pytest.mark.parametrize("name", ["on_training_end", "setup", "launch", "process_training_batch"])
def test_function_without_the_marker(trainer: Trainer, make: Any, name: str) -> None:
    function = (lambda: None) if make is module_with else (lambda self: None)
    message = refusal(trainer, make(**{name: function}))
    assert f"{name} is not marked, so it would never be called: write @helios.hookimpl" in message
    assert "start its name with an underscore" in message


@pytest.mark.parametrize("make", [module_with, object_with])
def test_misspelt_function_without_the_marker(trainer: Trainer, make: Any) -> None:
    message = refusal(trainer, make(on_train_start=lambda self=None: None))
    assert "on_train_start is not a hook" in message
    assert "'on_training_start'" in message


@pytest.mark.parametrize("make", [module_with, object_with])
def test_helpers_of_modules_and_objects_are_accepted(make: Any) -> None:
    def setup(app: Any) -> None: ...

    def launch(self: Any, command: str) -> None: ...

    PluginManager().register(make(setup=launch if make is object_with else setup, launch=launch))
    PluginManager().register(make(on_click=lambda self: None, helper=nothing, launched=nothing))
    PluginManager().register(make(on_training_end=3, setup="done", _on_training_end=nothing))


class Callback:
    def __call__(self) -> None: ...


@pytest.mark.parametrize("make", [module_with, object_with])
@pytest.mark.parametrize(
    "value", [functools.partial(nothing, None), Callback(), functools.cache(lambda: None), print]
)
def test_hook_that_is_no_function_and_not_marked(trainer: Trainer, make: Any, value: Any) -> None:
    message = refusal(trainer, make(on_training_end=value))
    assert "on_training_end is not marked, so it would never be called" in message


MARKED = hookimpl(lambda self=None: None)


@pytest.mark.parametrize("make", [module_with, object_with])
@pytest.mark.parametrize(
    "value",
    [
        functools.partial(MARKED, None),
        functools.partialmethod(MARKED),
        functools.cached_property(MARKED),
        property(MARKED),
        functools.cache(MARKED),
        hookimpl(Callback()),  # type: ignore[call-overload]
    ],
)
def test_marked_hook_that_is_no_function(trainer: Trainer, make: Any, value: Any) -> None:
    message = refusal(trainer, make(on_training_end=value))
    assert "the hook on_training_end is a " in message
    assert "; define it as a function or method." in message


class Slotted:
    __slots__ = ("on_training_end",)

    def __init__(self) -> None:
        self.on_training_end = hookimpl(lambda: None)

    @hookimpl
    def on_training_start(self) -> None: ...


class Dynamic:
    @hookimpl
    def on_training_start(self) -> None: ...

    def __dir__(self) -> list[str]:
        return ["on_training_start", "on_training_end"]

    def __getattr__(self, name: str) -> Any:
        return hookimpl(lambda: None)


def lazy_module() -> types.ModuleType:
    made = module_with()
    made.__getattr__ = lambda name: hookimpl(lambda: None)  # type: ignore[method-assign]
    made.__dir__ = lambda: ["on_training_start", "on_training_end"]  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Slotted, "the hook on_training_end is a member_descriptor; define it as a function"),
        (Dynamic, "the hook on_training_end is only created when it is used, by __getattr__"),
        (lazy_module, "the hook on_training_end is only created when it is used, by __getattr__"),
    ],
)
def test_hook_that_the_class_does_not_show(trainer: Trainer, make: Any, message: str) -> None:
    error = assert_refused(trainer, lambda: register(trainer, make()), InvalidPluginError)
    assert message in str(error)


def test_model_that_is_a_plugin_too_keeps_its_own_methods() -> None:
    class Both(TinyModel):
        @hookimpl
        def on_checkpoint_saved(self) -> None: ...

    manager = PluginManager()
    manager.register(Both())
    assert manager.rows["Both"].hooks == ("on_checkpoint_saved",)


# Attributes that must not be touched.


class Lazy:
    """A proxy that raises when somebody touches it too early."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"touched: {name}")


def test_lazy_attribute_is_not_touched() -> None:
    plugin = Named()
    plugin.client = Lazy()  # type: ignore[attr-defined]
    manager = PluginManager()
    manager.register(plugin)
    manager.arrange()
    manager.register(object_with(client=Lazy()))


def test_error_names_the_distribution(trainer: Trainer) -> None:
    pytest.importorskip("helios_ema")
    message = refusal(trainer, kind(critcal=False, __module__="helios_ema.plugin"))
    assert "'named' (helios-ema " in message


def test_plugins_of_this_project_have_no_misspellings() -> None:
    given = {"metric": "loss", "schedule": "linear", "parts": ["net"]}
    for each in (*Plugin.__subclasses__(), *CadencePlugin.__subclasses__()):
        if each.__module__.startswith("helios.plugins.builtin") and not inspect.isabstract(each):
            PluginManager().register(each(**{n: given[n] for n in missing_arguments(each, {})}))
