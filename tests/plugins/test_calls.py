"""Hook calls: who is called, in which order, how often, and who is held responsible."""

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pluggy
import pytest
import torch

from helios import Plugin, Trainer, hookimpl
from helios.plugins import HOOKS, PluginManager
from helios.plugins.attribution import HookCall, calls_in_stack, calls_in_traceback
from helios.plugins.manager import HookCallers
from helios.testing import TinyDataModule, TinyModel

MakeTrainer = Callable[..., Trainer]

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


class Named(Plugin):
    """A plug-in that implements nothing but what it must."""

    def __init__(self, plug_id: str = "named") -> None:
        super().__init__(plug_id)

    def setup(self) -> None:
        pass


class Plain(Named):
    def on_training_start(self) -> None:
        log.append(self.plug_id)


class First(Named):
    @hookimpl(tryfirst=True)
    def on_training_start(self) -> None:
        log.append(self.plug_id)


class Last(Named):
    @hookimpl(trylast=True)
    def on_training_start(self) -> None:
        log.append(self.plug_id)


class Wrapping(Named):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> Iterator[None]:
        log.append(f"{self.plug_id} before")
        result = yield
        log.append(f"{self.plug_id} after")
        return result


def module(name: str, **options: Any) -> types.ModuleType:
    """Return a module with the hook on_training_start."""
    made = types.ModuleType(name)

    if options.get("wrapper"):

        @hookimpl(**options)
        def on_training_start() -> Iterator[None]:
            log.append(f"{name} before")
            result = yield
            log.append(f"{name} after")
            return result

    else:

        @hookimpl(**options)
        def on_training_start() -> None:
            log.append(name)

    made.on_training_start = on_training_start  # type: ignore[attr-defined]
    return made


def callers(*plugins: object) -> HookCallers:
    """Register plug-ins in this order with a new manager."""
    manager = PluginManager()
    for plugin in plugins:
        manager.register(plugin)
    return manager.arrange()


# Order.


def test_hooks_are_called_in_the_order_of_registration() -> None:
    callers(Plain("a"), module("b"), Plain("c"), Plain("d")).on_training_start()
    assert log == ["a", "b", "c", "d"]


def test_arranging_again_keeps_the_order() -> None:
    manager = PluginManager()
    for name in "abc":
        manager.register(Plain(name))
    for _ in range(3):
        manager.arrange()
    manager.hook.on_training_start()
    assert log == ["a", "b", "c"]


def test_results_are_in_the_order_of_registration() -> None:
    class Entering(Named):
        def step_context(self, phase: str) -> Any:
            return f"{self.plug_id} {phase}"

    assert callers(Entering("a"), Entering("b")).step_context(phase="training") == [
        "a training",
        "b training",
    ]


@pytest.mark.parametrize("make", [First, lambda name: module(name, tryfirst=True)])
def test_tryfirst(make: Callable[[str], Any]) -> None:
    callers(Plain("a"), make("b"), Plain("c"), make("d")).on_training_start()
    assert log == ["b", "d", "a", "c"]


@pytest.mark.parametrize("make", [Last, lambda name: module(name, trylast=True)])
def test_trylast(make: Callable[[str], Any]) -> None:
    callers(make("a"), Plain("b"), make("c"), Plain("d")).on_training_start()
    assert log == ["b", "d", "a", "c"]


@pytest.mark.parametrize("make", [Wrapping, lambda name: module(name, wrapper=True)])
def test_wrapper(make: Callable[[str], Any]) -> None:
    callers(Plain("a"), make("b"), Plain("c"), make("d")).on_training_start()
    assert log == ["b before", "d before", "a", "c", "d after", "b after"]


@pytest.mark.parametrize(
    ("option", "order"),
    [("tryfirst", ["b", "d", "a", "c", "e"]), ("trylast", ["a", "c", "e", "b", "d"])],
)
def test_wrapper_with_an_option(option: str, order: list[str]) -> None:
    special = {"b", "d"}
    modules = [
        module(name, wrapper=True, **({option: True} if name in special else {}))
        for name in ("a", "b", "c", "d", "e")
    ]
    callers(*modules).on_training_start()
    assert [entry.split()[0] for entry in log if "before" in entry] == order
    assert [entry.split()[0] for entry in log if "after" in entry] == order[::-1]


def test_wrapper_may_change_the_result_of_a_unique_hook() -> None:
    class Doubling(Named):
        def process_training_batch(self, batch: Any) -> Any:
            return batch * 2

    class Adding(Named):
        @hookimpl(wrapper=True)
        def process_training_batch(self) -> Any:
            result = yield
            return result + 1

    hooks = callers(Adding("adding"), Doubling("doubling"))
    assert hooks.process_training_batch(batch=5, state=None) == 11


def test_marked_function_may_implement_a_hook_of_another_name() -> None:
    class Renamed(Named):
        @hookimpl(specname="on_training_start")
        def _my_start(self) -> None:
            log.append("renamed")

    callers(Renamed()).on_training_start()
    assert log == ["renamed"]


# What is implemented is called, and nothing else.


@pytest.mark.parametrize("name", HOOKS)
def test_unmarked_method_of_a_plugin_is_called_with_every_argument(name: str) -> None:
    received: list[Any] = []
    hook = HOOKS[name]
    scope: dict[str, Any] = {"received": received}
    arguments = ", ".join(hook.arguments)
    exec(f"def {name}(self, {arguments}):\n    received.append([{arguments}])", scope)
    plugin = type("OneHook", (Named,), {name: scope[name]})()
    values = {argument: type("Value", (), {})() for argument in hook.arguments}
    getattr(callers(plugin), name)(**values)
    assert received == [list(values.values())]


@pytest.mark.parametrize("name", [name for name in HOOKS if HOOKS[name].arguments])
def test_arguments_can_be_left_out(name: str) -> None:
    received: list[str] = []

    def method(self: Any) -> None:
        received.append(name)

    plugin = type("NoArguments", (Named,), {name: method})()
    values = {argument: type("Value", (), {})() for argument in HOOKS[name].arguments}
    getattr(callers(plugin), name)(**values)
    assert received == [name]


def test_callers_are_none_where_nobody_implements() -> None:
    empty = callers()
    assert all(getattr(empty, name) is None for name in HOOKS)
    hooks = callers(Plain("a"), module("b"))
    implemented = {name for name in HOOKS if getattr(hooks, name) is not None}
    assert implemented == {"setup", "on_training_start"}


def test_defaults_of_the_base_class_are_no_implementations() -> None:
    class CallsSuper(Named):
        def on_log(self, metrics: Any, state: Any) -> None:
            super().on_log(metrics, state)

    hooks = callers(CallsSuper())
    assert {name for name in HOOKS if getattr(hooks, name) is not None} == {"setup", "on_log"}


def test_batch_hook_is_called_without_a_flag(make_trainer: MakeTrainer) -> None:
    class Unflagged(Named):
        batches = 0

        def process_training_batch(self, batch: Any) -> Any:
            self.batches += 1
            return batch

    plugin = Unflagged()
    make_trainer(plugins=[plugin], total_steps=1).fit(
        TinyModel(), TinyDataModule(train_size=9, batch_size=3)
    )
    assert plugin.batches == 3


def test_flag_without_a_method_calls_nothing(make_trainer: MakeTrainer) -> None:
    plugin = Named()
    plugin.unique_overrides.training_batch = True
    plugin.unique_overrides.should_training_stop = True
    trainer = make_trainer(plugins=[plugin])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.hooks.process_training_batch is None
    assert trainer.hooks.should_training_stop is None


# configure_trainer and configure_model.


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
    make_trainer: MakeTrainer, plugin: Any
) -> None:
    name = getattr(plugin, "plug_id", "object")
    trainer, model = make_trainer(plugins=[plugin]), TinyModel()
    for run in (trainer.fit, trainer.fit, trainer.test):
        run(model, TinyDataModule())
    assert log == [f"{name}: trainer", f"{name}: tiny"]


@pytest.mark.parametrize("plugin", [Configuring("plug-in"), ConfiguringObject()])
def test_configure_is_applied_to_each_model_and_trainer(
    make_trainer: MakeTrainer, plugin: Any
) -> None:
    name = getattr(plugin, "plug_id", "object")
    for number in (1, 2):
        trainer = make_trainer(plugins=[plugin])
        for model in (TinyModel(f"{number}a"), TinyModel(f"{number}b")):
            trainer.fit(model, TinyDataModule())
    assert log == [
        *[f"{name}: trainer", f"{name}: 1a", f"{name}: 1b"],
        *[f"{name}: trainer", f"{name}: 2a", f"{name}: 2b"],
    ]


def test_configure_by_hand_is_not_applied_again(make_trainer: MakeTrainer) -> None:
    plugin, trainer, model = Configuring("plug-in"), make_trainer(), TinyModel()
    plugin._register_in_trainer(trainer)
    for _ in range(2):
        plugin.configure_trainer(trainer)
        plugin.configure_model(model)
    trainer.fit(model, TinyDataModule())
    assert log == ["plug-in: trainer", "plug-in: tiny"]


def test_configure_of_two_instances_is_applied_for_each(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(plugins=[Configuring("a"), Configuring("b")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert log == ["a: trainer", "b: trainer", "a: tiny", "b: tiny"]


def test_configure_that_fails_is_applied_at_the_next_attempt(make_trainer: MakeTrainer) -> None:
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


def test_configure_of_a_subclass_that_calls_its_base(make_trainer: MakeTrainer) -> None:
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
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(plugins=[Registering("c")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert log == ["c", "d"]
    assert [entry.id for entry in trainer.plan.active] == ["c", "d"]


def test_every_plugin_that_configure_trainer_brings_along_is_configured(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(plugins=[Registering("a")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert [entry.id for entry in trainer.plan.active] == ["a", "b", "c", "d"]
    assert log == ["a", "b", "c", "d"]


def test_configure_without_its_argument(make_trainer: MakeTrainer) -> None:
    class WithoutArgument(Named):
        def configure_model(self) -> None:  # type: ignore[override]
            log.append("configured")

    make_trainer(plugins=[WithoutArgument()]).fit(TinyModel(), TinyDataModule())
    assert log == ["configured"]


def test_configure_as_a_wrapper(make_trainer: MakeTrainer) -> None:
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
def test_configure_as_a_static_or_class_method(make_trainer: MakeTrainer, kind: Any) -> None:
    def static(model: Any) -> None:
        log.append(model.save_name)

    def of_class(cls: type, model: Any) -> None:
        log.append(model.save_name)

    method = kind(static if kind is staticmethod else of_class)
    plugin = type("Static", (Named,), {"configure_model": method})()
    make_trainer(plugins=[plugin]).fit(TinyModel(), TinyDataModule())
    assert log == ["tiny"]


@pytest.mark.parametrize("option", ["tryfirst", "trylast"])
def test_options_of_configure_hold(make_trainer: MakeTrainer, option: str) -> None:
    class WithOption(Named):
        @hookimpl(**{option: True})
        def configure_model(self, model: Any) -> None:
            log.append(f"{self.plug_id}: {option}")

    plugins = [Configuring("a"), WithOption("b"), Configuring("c")]
    make_trainer(plugins=plugins).fit(TinyModel(), TinyDataModule())
    order = [entry.partition(":")[0] for entry in log if "trainer" not in entry]
    assert order == {"tryfirst": ["b", "a", "c"], "trylast": ["a", "c", "b"]}[option]


# Attribution: from an exception or a stack to the plug-in.


class Fault(Exception):
    pass


def fail() -> None:
    raise Fault


class Failing(Named):
    """Fails in ``on_training_start``, in one of several ways, if it is told to."""

    def __init__(self, plug_id: str, fails: bool = True) -> None:
        super().__init__(plug_id)
        self.fails = fails


class FailingPlainly(Failing):
    def on_training_start(self) -> None:
        if self.fails:
            fail()


class FailingWithoutGradients(Failing):
    @torch.no_grad()
    def on_training_start(self) -> None:
        if self.fails:
            fail()


class FailingBeforeYield(Failing):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> Iterator[None]:
        if self.fails:
            fail()
        return (yield)


class FailingAfterYield(Failing):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> Iterator[None]:
        result = yield
        if self.fails:
            fail()
        return result


class FailingAfterYieldWithoutGradients(Failing):
    @hookimpl(wrapper=True)
    @torch.no_grad()
    def on_training_start(self) -> Iterator[None]:
        result = yield
        if self.fails:
            fail()
        return result


class FailingAfterYieldInTheOldWay(Failing):
    @hookimpl(hookwrapper=True)
    def on_training_start(self) -> Iterator[None]:
        outcome = yield
        if self.fails:
            outcome.force_exception(Fault())
            fail()


KINDS = [
    FailingPlainly,
    FailingWithoutGradients,
    FailingBeforeYield,
    FailingAfterYield,
    FailingAfterYieldWithoutGradients,
]


def failure_of(manager: PluginManager) -> list[HookCall]:
    """Call ``on_training_start``, and return whom the exception is attributed to."""
    manager.arrange()
    with pytest.raises(Fault) as caught:
        manager.hook.on_training_start()
    return calls_in_traceback(manager, caught.value)


def manager_of(*plugins: object) -> PluginManager:
    manager = PluginManager()
    for plugin in plugins:
        manager.register(plugin)
    return manager


CULPRIT = [HookCall("culprit", "on_training_start")]


@pytest.mark.parametrize("kind", KINDS)
def test_exception_is_attributed(kind: type[Failing]) -> None:
    bystanders = Plain("a"), Wrapping("b"), Plain("c"), Wrapping("d")
    calls = failure_of(manager_of(*bystanders[:2], kind("culprit"), *bystanders[2:]))
    assert calls[-1:] == CULPRIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_fault", ["one", "two"])
def test_exception_is_attributed_to_the_right_one_of_two_instances(
    kind: type[Failing], at_fault: str
) -> None:
    manager = manager_of(*(kind(name, fails=name == at_fault) for name in ("one", "two")))
    assert [call.plug_id for call in failure_of(manager)[-1:]] == [at_fault]


def test_exception_of_an_old_wrapper_is_attributed() -> None:
    manager = manager_of(Plain("a"), FailingAfterYieldInTheOldWay("culprit"))
    with pytest.warns(pluggy.PluggyTeardownRaisedWarning):
        calls = failure_of(manager)
    assert calls[-1:] == CULPRIT


@pytest.mark.parametrize("where", ["before", "after"])
def test_exception_in_a_module_is_attributed(where: str) -> None:
    culprit = types.ModuleType("culprit")

    @hookimpl(wrapper=True)
    def on_training_start() -> Iterator[None]:
        if where == "before":
            fail()
        result = yield
        fail()
        return result

    culprit.on_training_start = on_training_start  # type: ignore[attr-defined]
    assert failure_of(manager_of(Plain("a"), culprit, Plain("b")))[-1:] == CULPRIT


def test_exception_that_a_wrapper_replaces_is_the_wrappers() -> None:
    class Replacing(Named):
        @hookimpl(wrapper=True)
        def on_training_start(self) -> Iterator[None]:
            try:
                return (yield)
            except Fault as error:
                raise Fault("another") from error

    manager = manager_of(Replacing("replacing"), FailingPlainly("culprit"))
    assert failure_of(manager)[-1].plug_id == "replacing"


def test_exception_in_a_nested_call_is_attributed_innermost_last() -> None:
    class Nesting(Named):
        def on_training_end(self) -> None:
            manager.hook.on_training_start()

    manager = manager_of(Nesting("outer"), FailingPlainly("culprit"))
    manager.arrange()
    with pytest.raises(Fault) as caught:
        manager.hook.on_training_end()
    assert calls_in_traceback(manager, caught.value) == [
        HookCall("outer", "on_training_end"),
        *CULPRIT,
    ]


def test_exception_outside_of_hooks_is_nobodys() -> None:
    manager = manager_of(FailingPlainly("innocent"))
    manager.arrange()
    with pytest.raises(Fault) as caught:
        fail()  # pytest calls this test through a pluggy of its own
    assert calls_in_traceback(manager, caught.value) == []
    assert calls_in_stack(manager, sys._getframe()) == []
    frame, depth = sys._getframe(), 0
    while frame is not None:
        depth += frame.f_code.co_name == "_multicall"
        frame = frame.f_back  # type: ignore[assignment]
    assert depth, "this test shows something only where pytest's own calls are on the stack"


def test_exception_in_a_hook_of_another_program_is_nobodys() -> None:
    """A program around us may use pluggy, even with hooks of the same names."""
    other, ours = manager_of(FailingPlainly("culprit")), manager_of(FailingPlainly("culprit"))
    ours.arrange()
    other.arrange()
    with pytest.raises(Fault) as caught:
        other.hook.on_training_start()
    assert calls_in_traceback(ours, caught.value) == []
    assert calls_in_traceback(other, caught.value)[-1:] == CULPRIT

    foreign = pluggy.PluginManager("foreign")
    foreign.add_hookspecs(
        types.SimpleNamespace(on_training_start=pluggy.HookspecMarker("foreign")(lambda: None))
    )
    foreign.register(
        types.SimpleNamespace(on_training_start=pluggy.HookimplMarker("foreign")(fail)), "culprit"
    )
    with pytest.raises(Fault) as caught:
        foreign.hook.on_training_start()
    assert calls_in_traceback(ours, caught.value) == []


class Looking(Named):
    """Looks at the stack, as ``request_stop`` does."""

    def __init__(self, plug_id: str, manager: PluginManager, seen: list[HookCall]) -> None:
        super().__init__(plug_id)
        self.manager, self.seen = manager, seen

    def look(self) -> None:
        self.seen[:] = calls_in_stack(self.manager, sys._getframe())


class LookingPlainly(Looking):
    def on_training_start(self) -> None:
        self.look()


class LookingWithoutGradients(Looking):
    @torch.no_grad()
    def on_training_start(self) -> None:
        self.look()


class LookingBeforeYield(Looking):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> Iterator[None]:
        self.look()
        return (yield)


class LookingAfterYield(Looking):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> Iterator[None]:
        result = yield
        self.look()
        return result


@pytest.mark.parametrize(
    "kind", [LookingPlainly, LookingWithoutGradients, LookingBeforeYield, LookingAfterYield]
)
def test_stack_is_attributed(kind: type[Looking]) -> None:
    seen: list[HookCall] = []
    manager = PluginManager()
    for plugin in (Plain("a"), Wrapping("b"), kind("culprit", manager, seen), Plain("c")):
        manager.register(plugin)
    manager.arrange()
    manager.hook.on_training_start()
    assert seen == CULPRIT


@pytest.mark.parametrize("kind", [LookingPlainly, LookingBeforeYield, LookingAfterYield])
@pytest.mark.parametrize("who", ["one", "two"])
def test_stack_is_attributed_to_the_right_one_of_two_instances(
    kind: type[Looking], who: str
) -> None:
    seen: dict[str, list[HookCall]] = {"one": [], "two": []}
    manager = PluginManager()
    for name in seen:
        manager.register(kind(name, manager, seen[name]))
    manager.arrange()
    manager.hook.on_training_start()
    assert [call.plug_id for call in seen[who]] == [who]


def test_note_of_a_failed_run_names_plugin_hook_and_source(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(plugins=[Plain("a"), FailingPlainly("culprit")])
    with pytest.raises(Fault) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    (note,) = caught.value.__notes__
    assert "raised in on_training_start of plug-in 'culprit'" in note
    assert __file__ in note


def test_failure_of_the_model_is_attributed_to_no_plugin(make_trainer: MakeTrainer) -> None:
    class FailingModel(TinyModel):
        def on_training_start(self) -> None:
            fail()

    trainer = make_trainer(plugins=[Plain("a"), Wrapping("b")])
    with pytest.raises(Fault) as caught:
        trainer.fit(FailingModel(), TinyDataModule())
    assert "plug-in" not in "".join(caught.value.__notes__)


class Stopping(Named):
    def on_training_batch_end(self) -> None:
        self.trainer.request_stop("enough")


def test_request_to_stop_is_attributed(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(plugins=[Named("a"), Stopping("culprit"), Named("b")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert [(request.author, request.reason) for request in trainer.stop_requests] == [
        ("culprit", "enough")
    ]
