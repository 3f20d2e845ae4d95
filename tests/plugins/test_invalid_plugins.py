"""Objects that cannot be plug-ins: registration refuses them, says why, and changes nothing."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from helpers import Make, Named, ObjectWithHooks, assert_refused, enter, key_of, register

from helios import Plugin, Trainer, hookimpl
from helios.errors import (
    InvalidPluginError,
)


class NoConstructor(Plugin):
    def __init__(self) -> None:
        pass

    def setup(self) -> None:
        pass


class Unhashable(Named):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


@dataclasses.dataclass
class DataclassWithHooks:
    size: int = 3

    @hookimpl
    def on_training_start(self) -> None:
        pass


class ObjectWithoutHooks:
    def on_training_start(self) -> None:
        pass


class UnknownArgument(Named):
    def on_training_batch_end(self, output: Any) -> None:
        pass


class WithDefault(Named):
    def on_training_batch_end(self, outputs: Any, state: Any = None) -> None:
        pass


class KeywordOnlyWithDefault(Named):
    def on_training_batch_end(self, *, state: Any = None) -> None:
        pass


class VarArguments(Named):
    def on_training_batch_end(self, *args: Any) -> None:
        pass


class VarKeywords(Named):
    def on_training_batch_end(self, **kwargs: Any) -> None:
        pass


class KeywordOnly(Named):
    def on_training_batch_end(self, outputs: Any, *, state: Any) -> None:
        pass


class OtherName(Named):
    def process_training_batch(self, data: Any, state: Any) -> Any:
        return data


class OnTrainStart(Named):
    def on_train_start(self) -> None:
        pass


class ProcessTrainBatch(Named):
    def process_train_batch(self, batch: Any, state: Any) -> Any:
        return batch


class Teardwon(Named):
    def teardwon(self) -> None:
        pass


class OnSomethingElse(Named):
    def on_dance(self) -> None:
        pass


class MisspeltImplementation:
    @hookimpl
    def on_trainig_start(self) -> None:
        pass


class HookAsProperty(Named):
    @property
    def on_training_start(self) -> Callable[[], None]:  # type: ignore[override]
        return lambda: None


class HookAsRaisingProperty(Named):
    @property
    def on_training_start(self) -> Any:
        raise RuntimeError("not available yet")


class HookAsCachedProperty(Named):
    @functools.cached_property
    def on_training_start(self) -> Any:  # type: ignore[override]
        return lambda: None


class HookAsPartialMethod(Named):
    def _start(self, how: str) -> None:
        pass

    on_training_start = functools.partialmethod(_start, "now")  # type: ignore[assignment]


class HookAsValue(Named):
    on_training_start = True  # type: ignore[assignment]


class HookAsPartial(Named):
    def __init__(self) -> None:
        super().__init__()
        self.on_training_start = functools.partial(print, "now")  # type: ignore[method-assign]


class HookAsLambdaWithOtherArguments(Named):
    def __init__(self) -> None:
        super().__init__()
        self.on_training_batch_end = lambda result: None  # type: ignore[method-assign,assignment]


class WrapperWithoutYield(Named):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> None:
        pass


class OldWrapperWithoutYield(Named):
    @hookimpl(hookwrapper=True)
    def on_training_start(self) -> None:
        pass


def not_a_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


class WrapperBehindDecorator(Named):
    @hookimpl(wrapper=True)
    @not_a_generator
    def on_training_start(self) -> Any:
        return (yield)


class WrapperOfBothKinds(Named):
    @hookimpl(wrapper=True, hookwrapper=True)
    def on_training_start(self) -> Any:
        return (yield)


class ExclusivesAsString(Named):
    exclusives = "launch"  # type: ignore[assignment]  # ("launch") instead of ("launch",)


class Bad(NamedTuple):
    """Something that cannot be registered."""

    name: str
    make: Callable[[], Any]
    says: tuple[str, ...]
    """What the message contains."""
    has_source: bool = True
    """Whether the message says where the offending class is defined."""


NOT_A_PLUGIN = ("is not a plug-in", "helios.Plugin", "@helios.hookimpl")
END = "the hook on_training_batch_end"
ARGUMENTS = "Arguments of on_training_batch_end: outputs, batch, samples, state"

BAD = [
    Bad("None", lambda: None, ("None", *NOT_A_PLUGIN), False),
    Bad("a string", lambda: "ema", ("'ema'", *NOT_A_PLUGIN), False),
    Bad("a number", lambda: 3, ("3", *NOT_A_PLUGIN), False),
    Bad("an object without marked functions", ObjectWithoutHooks, NOT_A_PLUGIN, False),
    Bad("a function", lambda: print, NOT_A_PLUGIN, False),
    Bad("a class of plug-ins", lambda: Named, ("Named is a class", "Named(...)"), False),
    Bad("a class of objects", lambda: ObjectWithHooks, ("ObjectWithHooks", "instance"), False),
    Bad("no super().__init__()", NoConstructor, ("NoConstructor", "super().__init__(")),
    Bad("an empty id", lambda: Named(""), ("Named has no id", "super().__init__(")),
    Bad("an id that is no string", lambda: Named(7), ("Named has no id",)),  # type: ignore[arg-type]
    Bad("an unhashable plug-in", Unhashable, ("Unhashable", "cannot be hashed", "eq=False")),
    Bad("an unhashable dataclass", DataclassWithHooks, ("DataclassWithHooks", "eq=False")),
    Bad(
        "an unknown argument",
        UnknownArgument,
        (END, "'output', which the hook does not have. Did you mean 'outputs'?", ARGUMENTS),
    ),
    Bad(
        "an argument of another name",
        OtherName,
        ("'data', which the hook does not have", "Arguments of process_training_batch: batch,"),
    ),
    Bad(
        "an argument with a default",
        WithDefault,
        (
            END,
            "gives the argument 'state' a default",
            "pluggy never passes",
            "write 'state' without",
        ),
    ),
    Bad(
        "a keyword-only argument with a default",
        KeywordOnlyWithDefault,
        (END, "gives the argument 'state' a default"),
    ),
    Bad("*args", VarArguments, (END, "*args", "name the arguments instead", ARGUMENTS)),
    Bad("**kwargs", VarKeywords, (END, "**kwargs", "name the arguments instead", ARGUMENTS)),
    Bad("keyword only", KeywordOnly, (END, "'state' by keyword only", "remove the '*'")),
    Bad(
        "on_train_start",
        OnTrainStart,
        ("on_train_start is not a hook", "never be called", "'on_training_start'"),
    ),
    Bad(
        "process_train_batch",
        ProcessTrainBatch,
        ("process_train_batch is not a hook", "'process_training_batch'", "underscore"),
    ),
    Bad("teardwon", Teardwon, ("teardwon is not a hook", "Did you mean 'teardown'?")),
    Bad("on_dance", OnSomethingElse, ("on_dance is not a hook", "underscore")),
    Bad(
        "a misspelt marked function",
        MisspeltImplementation,
        ("on_trainig_start is not a hook", "'on_training_start'"),
    ),
    Bad("a property", HookAsProperty, ("on_training_start is a property", "function or method")),
    Bad("a property that raises", HookAsRaisingProperty, ("on_training_start is a property",)),
    Bad("a cached property", HookAsCachedProperty, ("is a cached_property",)),
    Bad("a partialmethod", HookAsPartialMethod, ("on_training_start is a partialmethod",)),
    Bad("a partial", HookAsPartial, ("on_training_start is a partial", "function or method")),
    Bad("a value", HookAsValue, ("on_training_start is a bool", "function or method")),
    Bad("a lambda with an unknown argument", HookAsLambdaWithOtherArguments, (END, "'result'")),
    Bad("a wrapper without yield", WrapperWithoutYield, ("on_training_start", "no yield")),
    Bad("an old wrapper without yield", OldWrapperWithoutYield, ("on_training_start", "no yield")),
    Bad("a wrapper behind a decorator", WrapperBehindDecorator, ("on_training_start", "wrapper")),
    Bad("a wrapper of both kinds", WrapperOfBothKinds, ("on_training_start", "hookwrapper")),
    Bad("exclusives that are one string", ExclusivesAsString, ("exclusives", "'launch'")),
]


def assign(trainer: Trainer, plugin: Any) -> None:
    trainer.plugins = {"good": Named("good"), key_of(plugin): plugin}  # type: ignore[assignment]


OTHER_DOORS = [enter, assign]
DIFFERENT = [
    bad for bad in BAD if bad.name in ("None", "an empty id", "**kwargs", "on_train_start")
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_what_cannot_be_registered(trainer: Trainer, bad: Bad) -> None:
    plugin = bad.make()
    error = assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError)
    assert isinstance(error, TypeError)
    for fragment in bad.says:
        assert fragment in str(error)
    if bad.has_source:
        line = inspect.getsourcelines(type(plugin))[1]
        assert f"{inspect.getsourcefile(type(plugin))}:{line}" in str(error)


@pytest.mark.parametrize("door", OTHER_DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("bad", DIFFERENT, ids=lambda bad: bad.name)
def test_other_doors_refuse_with_the_same_message(
    trainer: Trainer, bad: Bad, door: Callable[[Trainer, Any], None]
) -> None:
    plugin = bad.make()
    with pytest.raises(InvalidPluginError) as expected:
        trainer.register_plugin(plugin)
    error = assert_refused(trainer, lambda: door(trainer, plugin), InvalidPluginError)
    assert str(error) == str(expected.value)


@pytest.mark.parametrize("bad", DIFFERENT, ids=lambda bad: bad.name)
def test_what_cannot_be_passed_to_a_trainer(make_trainer: Make, bad: Bad) -> None:
    with pytest.raises(InvalidPluginError) as caught:
        make_trainer(plugins=[bad.make()])
    assert all(fragment in str(caught.value) for fragment in bad.says)


def test_message_names_the_plugin(trainer: Trainer) -> None:
    with pytest.raises(InvalidPluginError, match=r"^plug-in 'named' \("):
        trainer.register_plugin(OnTrainStart())
