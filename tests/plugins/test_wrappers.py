"""Wrappers observe hooks of kind "one" and ``prepare_module``, in both styles."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make, Named, UserError, notes_of
from torch import nn

from helios import Plugin, hookimpl
from helios.errors import InvalidPluginError
from helios.plugins import HOOKS
from helios.testing import TinyDataModule, TinyModel

ONE = [name for name, hook in HOOKS.items() if hook.has_result]
STYLES = ["wrapper", "hookwrapper"]


class Preparing(TinyModel):
    """Prepares a network, so that every hook of kind "one" is called."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.prepared = self.prepare(nn.Linear(1, 1))

    def predict_step(self, batch: Any, step: int) -> Any:
        return self.net(batch[0])


def run(make_trainer: Make, *plugins: object, **arguments: Any) -> Any:
    """Train and test with these plug-ins; return the state of the run."""
    trainer = make_trainer(plugins=list(plugins), total_steps=1, valid_frequency=1, **arguments)
    model = Preparing()
    state = trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    trainer.predict(model, TinyDataModule())
    return state


def watch(style: str, act: Callable[[Any], Any], seen: list[Any]) -> Callable[..., Any]:
    """Return a wrapper that passes on what ``act`` returns for the result."""

    def new(self: Any) -> Any:
        result = yield
        seen.append(result)
        return act(result)

    def old(self: Any) -> Any:
        outcome = yield
        result = outcome.get_result()
        seen.append(result)
        if act(result) is not result:
            outcome.force_result(act(result))

    return hookimpl(**{style: True})(new if style == "wrapper" else old)


def watcher(hook: str, style: str, act: Callable[[Any], Any], plug_id: str = "watcher") -> Any:
    """Return a plug-in that wraps a hook, and collects the results in ``seen``."""
    seen: list[Any] = []
    members = {hook: watch(style, act, seen), "seen": seen, "__module__": "elsewhere"}
    return type("Watcher", (Named,), members)(plug_id)


class Acting(Named):
    """Implements every hook of kind "one"."""

    def launch(self, target: Callable[[], Any]) -> Any:
        return target()

    def prepare_module(self, module: nn.Module) -> nn.Module:
        return nn.Sequential(module)

    def wrap_batches(self, batches: Any) -> Iterator[Any]:
        yield from batches

    def process_training_batch(self, batch: Any) -> Any:
        return [tensor.clone() for tensor in batch]

    process_validation_batch = process_testing_batch = process_training_batch
    process_prediction_batch = process_training_batch

    def should_training_stop(self) -> bool:
        return False


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("hook", ONE)
def test_wrapper_without_an_implementation_observes_what_helios_does(
    make_trainer: Make, hook: str, style: str
) -> None:
    watching = [watcher(hook, style, lambda result: result, plug_id) for plug_id in "ab"]
    assert run(make_trainer, *watching).global_iteration == 6
    first, second = (plugin.seen for plugin in watching)
    assert [id(result) for result in first] == [id(result) for result in second]
    assert first
    assert all(result is not None for result in first)
    if hook == "prepare_module":
        assert all(isinstance(module, nn.Module) for module in first)
    if hook == "should_training_stop":
        assert set(first) == {False}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("hook", ONE)
def test_wrapper_may_not_change_the_result(make_trainer: Make, hook: str, style: str) -> None:
    for implementation in ([], [Acting("acting")]):
        changing = watcher(hook, style, lambda result: [result], "changing")
        with pytest.raises(InvalidPluginError) as caught:
            run(make_trainer, changing, *implementation)
        message = str(caught.value)
        assert message.startswith("plug-in 'changing' (not installed, ")
        assert f"changed the result of {hook} in a wrapper" in message
        assert "(result = yield; return result)" in message


def test_the_built_in_behaviour_moves_a_network_to_the_device(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[watcher("prepare_module", "wrapper", lambda result: result)])
    trainer.device = torch.device("meta")
    manager = trainer.plugin_manager
    manager.arrange()
    manager.built_in.device = trainer.device
    assert manager.callers.prepare_module is not None
    assert manager.callers.prepare_module(module=nn.Linear(1, 1)).weight.device.type == "meta"


def test_a_removed_wrapper_leaves_no_caller(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[watcher("process_training_batch", "wrapper", lambda r: r)])
    trainer.plugin_manager.arrange()
    del trainer.plugins["watcher"]
    assert trainer.plugin_manager.arrange().process_training_batch is None


def test_the_wrapper_is_not_taken_for_the_implementation(make_trainer: Make) -> None:
    class Stops(Named):
        def should_training_stop(self) -> bool:
            return True

    trainer = make_trainer(
        plugins=[watcher("should_training_stop", "wrapper", lambda r: r), Stops("stops")]
    )
    trainer.fit(TinyModel(), TinyDataModule())
    assert [request.author for request in trainer.stop_requests] == ["stops"]


def test_environment_is_checked_beside_a_wrapper_of_launch(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # without the rank
    with pytest.raises(ValueError, match="WORLD_SIZE=2"):
        run(make_trainer, watcher("launch", "wrapper", lambda result: result))


class FailingBatch(Named):
    def process_training_batch(self, batch: Any) -> Any:
        raise UserError("of the batch")


class Swallowing(Named):
    @hookimpl(wrapper=True)
    def process_training_batch(self, batch: Any) -> Any:
        try:
            return (yield)
        except UserError:
            return batch


class SwallowingInTheOldWay(Named):
    @hookimpl(hookwrapper=True)
    def process_training_batch(self, batch: Any) -> Any:
        outcome = yield
        outcome.force_result(batch)


@pytest.mark.parametrize("kind", [Swallowing, SwallowingInTheOldWay])
def test_wrapper_may_not_swallow_an_error(make_trainer: Make, kind: type[Plugin]) -> None:
    with pytest.raises(UserError, match="of the batch") as caught:
        run(make_trainer, FailingBatch("failing"), kind("swallowing"))
    replaced, origin = notes_of(caught.value)
    assert "'swallowing'" in replaced
    assert "replace this error by a result in a wrapper of process_training_batch" in replaced
    assert "raised in process_training_batch of plug-in 'failing'" in origin


@pytest.mark.parametrize("profiled", [False, True])
def test_error_of_a_wrapper_passes_and_names_it(make_trainer: Make, profiled: bool) -> None:
    class Failing(Named):
        @hookimpl(wrapper=True)
        def process_training_batch(self) -> Any:
            yield
            raise UserError("of the wrapper")

    with pytest.raises(UserError) as caught:
        run(make_trainer, Failing("failing"), Acting("acting"), profile_plugins=profiled)
    assert "raised in process_training_batch of plug-in 'failing'" in notes_of(caught.value)[-1]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("yields", "told"), [(0, "did not yield"), (2, "yielded twice")])
def test_wrapper_that_yields_not_exactly_once(
    make_trainer: Make, style: str, yields: int, told: str
) -> None:
    class Odd(Named):
        @hookimpl(**{style: True})
        def process_training_batch(self) -> Any:
            for _ in range(yields):
                yield

    with pytest.raises(InvalidPluginError, match=f"'odd' .*process_training_batch that {told}"):
        run(make_trainer, Odd("odd"))


# The results of implementations.


WRONG = [
    ("prepare_module", None, "returned None from prepare_module: return the torch.nn.Module"),
    ("prepare_module", "net", "an object of type str from prepare_module"),
    ("wrap_batches", 3, "an object of type int from wrap_batches: return an iterable"),
    ("step_context", 3, "an object of type int from step_context: return a context manager"),
    ("step_context", torch.no_grad, "an object of type type from step_context"),
    ("should_training_stop", torch.ones(2), "return True or False. Its truth value raises"),
    ("launch", None, "returned None from launch: call target(), and return what target()"),
]


@pytest.mark.parametrize(("hook", "result", "told"), WRONG)
def test_result_of_a_wrong_kind_names_the_plugin(
    make_trainer: Make, hook: str, result: Any, told: str
) -> None:
    members = {hook: lambda self: result, "__module__": "elsewhere"}
    with pytest.raises(InvalidPluginError) as caught:
        run(make_trainer, type("Wrong", (Named,), members)("culprit"))
    assert str(caught.value).startswith("plug-in 'culprit' (")
    assert told in str(caught.value)


@pytest.mark.parametrize("result", [None, [3], contextlib.nullcontext()])
@pytest.mark.parametrize("style", STYLES)
def test_wrapper_of_step_context_returns_context_managers(
    make_trainer: Make, style: str, result: Any
) -> None:
    class Entering(Named):
        def step_context(self) -> Any:
            return contextlib.nullcontext()

    wrong = watcher("step_context", style, lambda before: result, "culprit")
    with pytest.raises(InvalidPluginError, match=r"'culprit' .* return the list of context manag"):
        run(make_trainer, Entering("entering"), wrong)
    more = watcher("step_context", style, lambda before: [*before, contextlib.nullcontext()])
    run(make_trainer, Entering("entering"), more)


def test_target_of_launch_called_twice(make_trainer: Make) -> None:
    class Twice(Named):
        def launch(self, target: Callable[[], Any]) -> Any:
            target()
            return target()

    with pytest.raises(InvalidPluginError, match=r"'twice' .* called target\(\) of launch twice"):
        run(make_trainer, Twice("twice"))


def test_target_called_in_a_wrapper_too(make_trainer: Make) -> None:
    class CallsToo(Named):
        @hookimpl(wrapper=True)
        def launch(self, target: Callable[[], Any]) -> Any:
            target()
            return (yield)

    with pytest.raises(InvalidPluginError, match=r"'calls' .* called target\(\) of launch twice"):
        run(make_trainer, CallsToo("calls"))


def test_truth_of_applies_to_names_the_plugin() -> None:
    from helios.plugins.activation.loading import reason_not_to_build
    from helios.plugins.discovery.entry_points import EntryPointRecord

    class Odd(Named):
        @classmethod
        def applies_to(cls, trainer: Any) -> Any:
            return torch.ones(2)

    record = EntryPointRecord("odd", "odd:Odd", "helios-odd", "1.2", "/somewhere")
    with pytest.raises(ImportError, match="'odd' failed in applies_to"):
        reason_not_to_build(Odd, record, None, {})
