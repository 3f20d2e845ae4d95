"""Hook calls without pluggy: when they happen, and what they keep."""

import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Fault, Named

from helios import TrainingState, hookimpl
from helios.plugins import PluginManager
from helios.plugins.registration.attribution import HookCall, calls_in_stack, calls_in_traceback


class Failing(Named):
    """Fails in a hook of each batch, if it is told to."""

    fails = False

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        if self.fails:
            raise Fault


class FailingWithOneArgument(Failing):
    def on_training_batch_end(self, state: TrainingState) -> None:  # type: ignore[override]
        super().on_training_batch_end(None, state)


class Wrapping(Named):
    @hookimpl(wrapper=True)
    def on_training_batch_end(self) -> Iterator[None]:  # type: ignore[override]
        return (yield)


class Decorated(Named):
    def on_training_batch_end(self, outputs: Any, /, state: Any) -> None:  # type: ignore[override]
        """Take an argument that has no name for callers."""


class Observer(Named):
    critical = False
    calls = 0

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        self.calls += 1
        raise Fault


ARGUMENTS = {"outputs": None, "batch": None, "samples": lambda: 4, "state": TrainingState()}


def manager_of(*plugins: object) -> PluginManager:
    manager = PluginManager()
    for plugin in plugins:
        manager.register(plugin)
    manager.freeze()
    return manager


def call(manager: PluginManager) -> None:
    hook = manager.callers.on_training_batch_end
    assert hook is not None
    hook(**ARGUMENTS)


def failure(manager: PluginManager) -> Fault:
    with pytest.raises(Fault) as caught:
        call(manager)
    return caught.value


def is_direct(manager: PluginManager) -> bool:
    """Return whether the frames of an error have none of pluggy after that of this file."""
    (culprit,) = (row.plugin for row in manager.rows.values() if isinstance(row.plugin, Failing))
    culprit.fails = True
    frames = traceback.extract_tb(failure(manager).__traceback__)
    return not any("pluggy" in frame.filename for frame in frames)


@pytest.mark.parametrize("kind", [Failing, FailingWithOneArgument])
def test_plain_functions_are_called_without_pluggy(kind: type[Failing]) -> None:
    assert is_direct(manager_of(Named("idle"), kind("culprit")))


@pytest.mark.parametrize("other", [Wrapping, Decorated])
def test_anything_unusual_is_called_through_pluggy(other: type[Named]) -> None:
    assert not is_direct(manager_of(Failing("culprit"), other("other")))


@pytest.mark.parametrize("kind", [Failing, FailingWithOneArgument])
@pytest.mark.parametrize("at_fault", ["one", "two"])
def test_error_is_attributed(kind: type[Failing], at_fault: str) -> None:
    manager = manager_of(kind("one"), kind("two"))
    manager.rows[at_fault].plugin.fails = True  # type: ignore[attr-defined]
    calls = calls_in_traceback(manager, failure(manager))
    assert calls == [HookCall(at_fault, "on_training_batch_end")]


def test_stack_is_attributed() -> None:
    class Looking(Named):
        def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
            seen.append(calls_in_stack(manager, sys._getframe()))

    seen: list[list[HookCall]] = []
    manager = manager_of(Looking("one"), Looking("two"))
    call(manager)
    assert seen == [[HookCall(name, "on_training_batch_end")] for name in ("one", "two")]


def test_observer_that_failed_is_not_called_again() -> None:
    observer = Observer("observer")
    manager = manager_of(Failing("other"), observer)
    call(manager)
    call(manager)
    assert list(manager.quarantined) == ["observer"]
    assert observer.calls == 1


def test_monitor_of_pluggy_sees_each_call_until_it_is_removed() -> None:
    manager = manager_of(Failing("plain"))
    seen: list[str] = []
    remove = manager.add_hookcall_monitoring(
        lambda name, implementations, arguments: seen.append(name),
        lambda outcome, name, implementations, arguments: None,
    )
    call(manager)
    assert seen == ["on_training_batch_end"]
    remove()
    call(manager)
    assert seen == ["on_training_batch_end"]
    assert is_direct(manager)


class Counting(Named):
    """Takes the number of samples."""

    def on_training_batch_end(self, samples: int) -> None:  # type: ignore[override]
        self._seen = samples


def test_samples_are_counted_only_for_those_that_take_them() -> None:
    counting, counted = Counting("counting"), []
    arguments = {**ARGUMENTS, "samples": lambda: counted.append(None) or 4}
    for plugins in [(Failing("first"), Failing("second")), (Failing("first"), Wrapping("second"))]:
        hook = manager_of(*plugins).callers.on_training_batch_end
        assert hook is not None
        hook(**arguments)
    assert not counted
    for others in [(), (Failing("first"),), (Wrapping("first"),)]:
        counted.clear()
        hook = manager_of(counting, *others).callers.on_training_batch_end
        assert hook is not None
        hook(**arguments)
        assert counting._seen == 4
        assert len(counted) == 1
