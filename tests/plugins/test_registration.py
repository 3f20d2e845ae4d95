"""Registration: what is refused, what the refusal says, and that it changes nothing."""

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from helios import Plugin, Trainer, hookimpl
from helios.errors import (
    DuplicatePluginError,
    FrozenPlanError,
    InvalidPluginError,
    PluginConflictError,
    PluginError,
    UnknownNameError,
)
from helios.plugins import HOOKS, PluginManager
from helios.plugins.discovery import EntryPointRecord
from helios.testing import TinyDataModule, TinyModel

HERE = __file__
MakeTrainer = Callable[..., Trainer]


class Named(Plugin):
    """A plug-in that implements nothing but what it must."""

    def __init__(self, plug_id: str = "named") -> None:
        super().__init__(plug_id)

    def setup(self) -> None:
        pass


class Observer(Named):
    """A plug-in that claims nothing, but shows in pluggy's view."""

    # As if defined elsewhere: finding its line in this long file takes a while, in every plan.
    __module__ = "elsewhere"

    def on_training_start(self) -> None:
        pass


def table(manager: PluginManager) -> list[Any]:
    """Return all that the manager itself holds."""
    rows = [
        (key, row.id, row.plugin, row.reason, row.explicit, row.hooks, dict(row.claims))
        for key, row in manager.rows.items()
    ]
    return [rows, list(manager.inactive)]


def pluggy_view(manager: PluginManager) -> list[Any]:
    """Return all that pluggy can be asked."""
    implementations = {
        name: [(i.plugin_name, i.plugin, i.function) for i in caller.get_hookimpls()]
        for name, caller in vars(manager.hook).items()
    }
    return [manager.get_plugins(), manager.list_name_plugin(), implementations]


def plan(trainer: Trainer) -> dict[str, Any]:
    """Return what the plan would be if the trainer were launched now."""
    frozen = trainer.plugin_manager.freeze().to_dict()
    trainer.plugin_manager.frozen = False
    return frozen


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> Trainer:
    """A trainer with two plug-ins, which pluggy has been told of."""
    made = make_trainer(plugins=[Observer("first"), Observer("second")])
    made.plugin_manager.arrange()
    return made


def assert_refused(
    trainer: Trainer, action: Callable[[], object], error: type[Exception]
) -> Exception:
    """Check that an action fails and has no effect, and return its error."""
    manager = trainer.plugin_manager
    shown, planned = trainer.plan, plan(trainer)
    before, view = table(manager), pluggy_view(manager)
    with pytest.raises(error) as caught:
        action()
    assert table(manager) == before
    assert pluggy_view(manager) == view
    assert trainer.plan is shown
    assert plan(trainer) == planned
    return caught.value


# Objects that cannot be plug-ins.


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


class ObjectWithHooks:
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
ARGUMENTS = "Arguments of on_training_batch_end: outputs, state"

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
        (END, "gives the argument 'state' a default", "never passed", "write 'state' without"),
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


def register(trainer: Trainer, plugin: Any) -> None:
    trainer.register_plugin(plugin)


def key_of(plugin: Any) -> str:
    own = getattr(plugin, "_plug_id", None)
    return own if isinstance(own, str) and own else "bad"


def enter(trainer: Trainer, plugin: Any) -> None:
    trainer.plugins[key_of(plugin)] = plugin


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
        assert f"{HERE}:{line}" in str(error)


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
def test_what_cannot_be_passed_to_a_trainer(make_trainer: MakeTrainer, bad: Bad) -> None:
    with pytest.raises(InvalidPluginError) as caught:
        make_trainer(plugins=[bad.make()])
    assert all(fragment in str(caught.value) for fragment in bad.says)


def test_message_names_the_plugin(trainer: Trainer) -> None:
    with pytest.raises(InvalidPluginError, match=r"^plug-in 'named' \("):
        trainer.register_plugin(OnTrainStart())


# What looks odd, but can be called, is registered and called.


def test_function_set_on_the_instance_is_called(trainer: Trainer) -> None:
    calls: list[Any] = []
    plugin = Named()
    plugin.on_training_start = lambda: calls.append("start")  # type: ignore[method-assign]
    plugin.on_log = lambda metrics: calls.append(metrics)  # type: ignore[method-assign,assignment]
    trainer.register_plugin(plugin)
    callers = trainer.plugin_manager.arrange()
    callers.on_training_start()
    callers.on_log(metrics={"loss": 1.0}, state=None)
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


@pytest.mark.parametrize("door", [register, enter], ids=lambda door: door.__name__)
def test_id_that_is_taken(trainer: Trainer, door: Callable[[Trainer, Any], None]) -> None:
    trainer.register_plugin(Alpha("third"))
    trainer.plugin_manager.arrange()
    error = assert_refused(trainer, lambda: door(trainer, Named("third")), DuplicatePluginError)
    assert isinstance(error, KeyError)
    message = str(error)
    assert "two plug-ins have the id 'third'" in message
    for kind in (Alpha, Named):
        assert f"{HERE}:{inspect.getsourcelines(kind)[1]}" in message
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


def test_assigning_a_table_with_a_conflict(trainer: Trainer) -> None:
    def assign_conflict() -> None:
        trainer.plugins = {  # type: ignore[assignment]
            "one": declaring("training_batch", "one"),
            "two": declaring("training_batch", "two"),
        }

    assert_refused(trainer, assign_conflict, PluginConflictError)


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


def test_pluggy_knows_of_a_registration_at_once(make_trainer: MakeTrainer) -> None:
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


# Conflicts.


def returning_batch(self: Any, batch: Any) -> Any:
    return batch


IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "training_batch": ("process_training_batch", returning_batch),
    "validation_batch": ("process_validation_batch", returning_batch),
    "testing_batch": ("process_testing_batch", returning_batch),
    "should_training_stop": ("should_training_stop", lambda self: False),
    "batches": ("wrap_batches", lambda self, batches: batches),
    "module": ("prepare_module", lambda self, module: module),
    "launch": ("launch", lambda self, target: target()),
}
"""For each claim of a hook: the hook, and a method that implements it."""

OVERRIDES = ["training_batch", "validation_batch", "testing_batch", "should_training_stop"]


class Declaring(Named):
    """Claims without implementing."""

    __module__ = "elsewhere"


class Implementing(Named):
    """Claims by implementing."""

    __module__ = "elsewhere"


class Naming(Named):
    """Claims in ``exclusives``."""

    __module__ = "elsewhere"


def declaring(claim: str, plug_id: str) -> Plugin:
    plugin = Declaring(plug_id)
    setattr(plugin.unique_overrides, claim, True)
    return plugin


def implementing(claim: str, plug_id: str) -> Plugin:
    hook, function = IMPLEMENTATIONS[claim]
    return type("Implementing", (Implementing,), {hook: function, "__module__": "elsewhere"})(
        plug_id
    )


def naming(claim: str, plug_id: str) -> Plugin:
    return type("Naming", (Naming,), {"exclusives": (claim,), "__module__": "elsewhere"})(plug_id)


def implementing_object(claim: str, plug_id: str) -> Any:
    hook, function = IMPLEMENTATIONS[claim]
    marked = hookimpl(types.FunctionType(function.__code__, globals()))
    return type("Implementing", (), {hook: marked, "__module__": "elsewhere"})()


WAYS = {"declaring": declaring, "implementing": implementing, "naming": naming}

CONFLICTS = [
    (claim, one, other)
    for claims, ways in [
        (OVERRIDES, ("declaring", "implementing", "naming")),
        (("batches", "module", "launch"), ("implementing", "naming")),
        (("anything at all",), ("naming",)),
    ]
    for claim in claims
    for one in ways
    for other in ways
]


def test_the_table_of_conflicts_covers_every_claim() -> None:
    claims = {hook.name: hook.claim for hook in HOOKS.values() if hook.claim is not None}
    assert {hook: claim for claim, (hook, _) in IMPLEMENTATIONS.items()} == claims


def how(way: str, claim: str) -> str:
    return {
        "declaring": f"unique_overrides.{claim} is set",
        "implementing": f"implements {IMPLEMENTATIONS.get(claim, ('',))[0]}",
        "naming": f"exclusives names {claim!r}",
    }[way]


@pytest.mark.parametrize(("claim", "one", "other"), CONFLICTS)
def test_conflict(trainer: Trainer, claim: str, one: str, other: str) -> None:
    trainer.register_plugin(WAYS[one](claim, "alpha"))
    trainer.plugin_manager.arrange()
    newcomer = WAYS[other](claim, "beta")
    error = assert_refused(trainer, lambda: register(trainer, newcomer), PluginConflictError)
    assert isinstance(error, ValueError)
    message = str(error)
    assert f"claim {claim!r}" in message
    assert re.search(rf"'alpha' from .*: {re.escape(how(one, claim))}", message)
    assert re.search(rf"'beta' from .*: {re.escape(how(other, claim))}", message)
    assert "Trainer(block=['beta'])" in message
    assert "HELIOS_BLOCK_PLUGINS=alpha" in message
    assert "registered by trainer.register_plugin()" in message


@pytest.mark.parametrize("claim", IMPLEMENTATIONS)
def test_conflict_between_a_plugin_and_an_object(trainer: Trainer, claim: str) -> None:
    trainer.register_plugin(implementing_object(claim, "alpha"), "alpha")
    trainer.plugin_manager.arrange()
    newcomer = implementing(claim, "beta")
    assert_refused(trainer, lambda: register(trainer, newcomer), PluginConflictError)


@pytest.mark.parametrize(
    ("one", "other"),
    [(one, other) for one in IMPLEMENTATIONS for other in IMPLEMENTATIONS if one != other],
)
def test_different_claims_do_not_conflict(trainer: Trainer, one: str, other: str) -> None:
    trainer.register_plugin(implementing(one, "alpha"))
    trainer.register_plugin(implementing(other, "beta"))
    assert list(trainer.plugins)[2:] == ["alpha", "beta"]


class Alpha(Named):
    def process_training_batch(self, batch: Any) -> Any:
        return batch


class Beta(Named):
    def process_training_batch(self, batch: Any) -> Any:
        return batch


def record(name: str) -> EntryPointRecord:
    return EntryPointRecord(name, f"{name}:Plugin", f"helios-{name}", "1.2", "/somewhere")


def test_conflict_names_distributions_versions_and_sources(trainer: Trainer) -> None:
    manager = trainer.plugin_manager
    manager.register(Alpha("alpha"), record=record("alpha"))
    with pytest.raises(PluginConflictError) as caught:
        manager.register(Beta("beta"), record=record("beta"))
    message = str(caught.value)
    for kind, name in ((Alpha, "alpha"), (Beta, "beta")):
        assert f"{name!r} from helios-{name} 1.2: implements process_training_batch" in message
        assert f"{HERE}:{inspect.getsourcelines(kind)[1]}" in message


def test_conflict_of_several_claims_names_them_all(trainer: Trainer) -> None:
    one, other = Named("one"), Named("other")
    for plugin in (one, other):
        plugin.unique_overrides.training_batch = True
        plugin.unique_overrides.testing_batch = True
    trainer.register_plugin(one)
    with pytest.raises(PluginConflictError, match="'training_batch', 'testing_batch'"):
        trainer.register_plugin(other)


class WrappingBatch(Named):
    @hookimpl(wrapper=True)
    def process_training_batch(self, batch: Any) -> Any:
        return (yield)


def test_wrapper_of_a_unique_hook_claims_nothing(trainer: Trainer) -> None:
    trainer.register_plugin(Alpha("alpha"))
    trainer.register_plugin(WrappingBatch("wrapping"))
    trainer.register_plugin(WrappingBatch("wrapping too"))
    assert trainer.plugin_manager.rows["wrapping"].claims == {}


def test_subclass_that_inherits_an_implementation_claims_it_too(trainer: Trainer) -> None:
    class Child(Alpha):
        pass

    trainer.register_plugin(Alpha("alpha"))
    with pytest.raises(PluginConflictError):
        trainer.register_plugin(Child("child"))


# Flags that are set after registration.


def test_flag_set_after_registration_is_found_by_validate_plugins(trainer: Trainer) -> None:
    trainer._validate_plugins()
    trainer.plugins["first"].unique_overrides.testing_batch = True
    trainer._validate_plugins()
    trainer.plugins["second"].unique_overrides.testing_batch = True
    before = list(trainer.plugins)
    with pytest.raises(PluginConflictError, match="'testing_batch'"):
        trainer._validate_plugins()
    assert list(trainer.plugins) == before


class Starting(Named):
    started = False

    def setup(self) -> None:
        self.started = True


def test_flag_set_after_registration_is_found_at_launch(make_trainer: MakeTrainer) -> None:
    one, other = Starting("one"), Starting("other")
    trainer = make_trainer(plugins=[one, other])
    one.unique_overrides.should_training_stop = True
    other.unique_overrides.should_training_stop = True
    for run in (trainer.fit, trainer.test):
        with pytest.raises(PluginConflictError, match="'should_training_stop'"):
            run(TinyModel(), TinyDataModule())
    assert not one.started
    other.unique_overrides.should_training_stop = False
    trainer.fit(TinyModel(), TinyDataModule())
    assert one.started


class SettingItsFlagLate(Starting):
    def configure_trainer(self, trainer: Any) -> None:
        self.unique_overrides.training_batch = True


def test_flag_set_in_configure_trainer_is_found_at_launch(make_trainer: MakeTrainer) -> None:
    one, other = SettingItsFlagLate("one"), SettingItsFlagLate("other")
    with pytest.raises(PluginConflictError, match="'training_batch'"):
        make_trainer(plugins=[one, other]).fit(TinyModel(), TinyDataModule())
    assert not one.started


def test_method_set_after_registration_is_called(make_trainer: MakeTrainer) -> None:
    plugin, calls = Named(), []
    trainer = make_trainer(plugins=[plugin])
    plugin.on_training_start = lambda: calls.append("start")  # type: ignore[method-assign]
    trainer.fit(TinyModel(), TinyDataModule())
    assert calls == ["start"]


# Explicit and autoloaded.


@pytest.mark.parametrize("explicit_first", [True, False])
def test_explicit_plugin_beats_an_autoloaded_one(explicit_first: bool) -> None:
    manager = PluginManager()
    wanted, found = Alpha("wanted"), Beta("found")
    registrations = [
        lambda: manager.register(wanted, reason="named in Trainer(plugins=...)"),
        lambda: manager.register(found, explicit=False, record=record("found")),
    ]
    for register_one in registrations if explicit_first else registrations[::-1]:
        register_one()
    assert list(manager.rows) == ["wanted"]
    (inactive,) = manager.inactive
    assert (inactive.name, inactive.distribution, inactive.version) == (
        "found",
        "helios-found",
        "1.2",
    )
    assert "'wanted'" in inactive.reason
    assert "named in Trainer(plugins=...)" in inactive.reason
    assert manager.freeze().inactive == (inactive,)


def test_explicit_plugin_beats_an_autoloaded_one_of_the_same_id() -> None:
    manager = PluginManager()
    wanted = Named("same")
    manager.register(Named("same"), explicit=False)
    manager.register(wanted)
    assert [row.plugin for row in manager.rows.values()] == [wanted]
    assert [inactive.name for inactive in manager.inactive] == ["same"]


def test_two_autoloaded_plugins_in_conflict_are_an_error(trainer: Trainer) -> None:
    manager = trainer.plugin_manager
    manager.register(Alpha("alpha"), explicit=False)
    manager.arrange()
    newcomer = Beta("beta")
    error = assert_refused(
        trainer, lambda: manager.register(newcomer, explicit=False), PluginConflictError
    )
    assert "Trainer(plugins=['beta'])" in str(error)


def test_flag_set_later_makes_an_autoloaded_plugin_step_aside(make_trainer: MakeTrainer) -> None:
    trainer, wanted, found = make_trainer(), Named("wanted"), Named("found")
    trainer.plugin_manager.register(found, explicit=False)
    trainer.register_plugin(wanted)
    assert list(trainer.plugins) == ["found", "wanted"]
    wanted.unique_overrides.testing_batch = found.unique_overrides.testing_batch = True
    trainer._validate_plugins()
    assert list(trainer.plugins) == ["wanted"]
    assert trainer.plugin_manager.inactive[-1].name == "found"
    assert "'wanted'" in trainer.plugin_manager.inactive[-1].reason


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
    make_trainer: MakeTrainer, meddle: Callable[[Trainer], object]
) -> None:
    trainer = make_trainer(plugins=[Meddling(meddle), Observer("bystander")])
    before = table(trainer.plugin_manager)
    with pytest.raises(FrozenPlanError, match=r"configure_trainer") as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert isinstance(caught.value, RuntimeError)
    assert table(trainer.plugin_manager) == before
    meddle(trainer)  # between runs it is allowed again


def test_registering_the_same_instance_during_a_run_is_harmless(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        plugins=[Meddling(lambda trainer: trainer.register_plugin(trainer.plugins["meddling"]))]
    )
    trainer.fit(TinyModel(), TinyDataModule())
    assert list(trainer.plugins) == ["meddling"]
