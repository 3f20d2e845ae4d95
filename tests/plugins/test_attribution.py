"""Attribution: from an exception or a stack to the plug-in that is responsible."""

import sys
import types
from collections.abc import Iterator

import pluggy
import pytest
import torch
from helpers import Fault, Make, Named

from helios import hookimpl
from helios.plugins import PluginManager
from helios.plugins.registration.attribution import HookCall, calls_in_stack, calls_in_traceback
from helios.testing import TinyDataModule, TinyModel


class Plain(Named):
    def on_training_start(self) -> None: ...


class Wrapping(Named):
    @hookimpl(wrapper=True)
    def on_training_start(self) -> Iterator[None]:
        return (yield)


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


def test_note_of_a_failed_run_names_plugin_hook_and_source(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[Plain("a"), FailingPlainly("culprit")])
    with pytest.raises(Fault) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    (note,) = caught.value.__notes__
    assert "raised in on_training_start of plug-in 'culprit'" in note
    assert __file__ in note


def test_failure_of_the_model_is_attributed_to_no_plugin(make_trainer: Make) -> None:
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


def test_request_to_stop_is_attributed(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[Named("a"), Stopping("culprit"), Named("b")])
    trainer.fit(TinyModel(), TinyDataModule())
    assert [(request.author, request.reason) for request in trainer.stop_requests] == [
        ("culprit", "enough")
    ]
