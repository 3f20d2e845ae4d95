"""Hook calls: Helios calls what plug-ins implement, in which order, and nothing else."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make, Named

from helios import hookimpl
from helios.plugins import HOOKS, PluginManager
from helios.plugins.registration.manager import HookCallers
from helios.testing import TinyDataModule, TinyModel

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


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
            return f"{self.plug_id} {phase}"  # the check comes with the frozen plan

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


def test_marked_function_may_implement_a_hook_of_another_name() -> None:
    class Renamed(Named):
        @hookimpl(specname="on_training_start")
        def _my_start(self) -> None:
            log.append("renamed")

    callers(Renamed()).on_training_start()
    assert log == ["renamed"]


# What is implemented is called, and nothing else.


def values_of(hook: str) -> dict[str, Any]:
    """Return a value for each argument of a hook."""
    values = {argument: type("Value", (), {})() for argument in HOOKS[hook].arguments}
    return values | ({"module": torch.nn.Identity()} if "module" in values else {})


@pytest.mark.parametrize("name", HOOKS)
def test_unmarked_method_of_a_plugin_is_called_with_every_argument(name: str) -> None:
    received: list[Any] = []
    hook = HOOKS[name]
    scope: dict[str, Any] = {"received": received}
    arguments = ", ".join(hook.arguments)
    result = "module" if name == "prepare_module" else None
    source = (
        f"def {name}(self, {arguments}):\n    received.append([{arguments}])\n    return {result}"
    )
    exec(source, scope)
    plugin = type("OneHook", (Named,), {name: scope[name]})()
    values = values_of(name)
    getattr(callers(plugin), name)(**values)
    assert received == [list(values.values())]


@pytest.mark.parametrize("name", [name for name in HOOKS if HOOKS[name].arguments])
def test_arguments_can_be_left_out(name: str) -> None:
    received: list[str] = []

    def method(self: Any) -> Any:
        received.append(name)
        return torch.nn.Identity() if name == "prepare_module" else None

    plugin = type("NoArguments", (Named,), {name: method})()
    values = values_of(name)
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
            super().on_log(metrics, state)  # as in a release without the argument phase

    hooks = callers(CallsSuper())
    hooks.on_log(metrics={}, phase="training", state=None)
    assert {name for name in HOOKS if getattr(hooks, name) is not None} == {"setup", "on_log"}


def test_batch_hook_is_called_without_a_flag(make_trainer: Make) -> None:
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


def test_flag_without_a_method_calls_nothing(make_trainer: Make) -> None:
    plugin = Named()
    plugin.unique_overrides.training_batch = True
    plugin.unique_overrides.should_training_stop = True
    trainer = make_trainer(plugins=[plugin])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.hooks.process_training_batch is None
    assert trainer.hooks.should_training_stop is None


# Nobody calls what nobody implements.


def test_hooks_that_nobody_implements_are_none(make_trainer: Make) -> None:
    class Two(Named):
        def on_training_batch_end(self) -> None: ...

        def on_log(self) -> None: ...

    trainer = make_trainer(total_steps=1, plugins=[Two(), *(Named(str(n)) for n in range(3))])
    trainer.fit(TinyModel(), TinyDataModule())
    bound = {name for name in HOOKS if getattr(trainer.hooks, name) is not None}
    assert bound == {"setup", "on_training_batch_end", "on_log"}


def test_no_hook_is_called_in_vain(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    trainer = make_trainer(total_steps=1, plugins=[Named()])
    real = trainer.plugin_manager._inner_hookexec

    def execute(name: str, *arguments: Any) -> Any:
        called.append(name)
        return real(name, *arguments)

    monkeypatch.setattr(trainer.plugin_manager, "_inner_hookexec", execute)
    trainer.fit(TinyModel(), TinyDataModule())
    per_step = [name for name in called if "batch" in name or "step" in name or "epoch" in name]
    assert per_step == []
