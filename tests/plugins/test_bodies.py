"""Hooks whose call does not run their body: refused, or found at the first call."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from helpers import Make, Named, assert_refused, register

from helios import Trainer, hookimpl
from helios.errors import InvalidPluginError
from helios.plugins import HOOKS, PluginManager
from helios.testing import TinyDataModule, TinyModel


async def coroutine(self: Any) -> None: ...


async def async_generator(self: Any) -> AsyncIterator[None]:
    yield


def generator(self: Any) -> Iterator[None]:
    yield


def of(name: str, method: Any) -> Named:
    return type("Kind", (Named,), {name: method})()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", HOOKS)
def test_async_hook(trainer: Trainer, name: str) -> None:
    for method in (coroutine, async_generator):
        plugin = of(name, method)
        error = assert_refused(trainer, lambda p=plugin: register(trainer, p), InvalidPluginError)
        assert f"'named' (abc): the hook {name} is an async function" in str(error)
        assert "its body would never run; write def without async" in str(error)


@pytest.mark.parametrize("name", [name for name in HOOKS if name != "wrap_batches"])
def test_generator_that_is_no_wrapper(trainer: Trainer, name: str) -> None:
    plugin = of(name, generator)
    error = assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError)
    assert f"the hook {name} has a yield, but" in str(error)
    is_context = name == "step_context"
    way_out = "@contextlib.contextmanager" if is_context else "@helios.hookimpl(wrapper=True)"
    assert f"{way_out} above it" in str(error)


@pytest.mark.parametrize("decorator", [contextlib.contextmanager, contextlib.asynccontextmanager])
@pytest.mark.parametrize("name", ["on_training_end", "wrap_batches", "setup", "state_dict"])
def test_hook_that_makes_a_context_manager(trainer: Trainer, name: str, decorator: Any) -> None:
    plugin = of(name, decorator(generator))
    error = assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError)
    assert f"{name} makes a context manager, so its body would never run; remove" in str(error)


@pytest.mark.parametrize("kind", [staticmethod, classmethod, hookimpl])
def test_async_hook_of_another_kind(trainer: Trainer, kind: Any) -> None:
    async def hook(*self: Any) -> None: ...

    plugin = of("on_training_end", kind(hook))
    error = assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError)
    assert "async function" in str(error)


def test_async_function_of_an_object(trainer: Trainer) -> None:
    plugin = type("Hooks", (), {"on_training_end": hookimpl(coroutine)})()
    error = assert_refused(trainer, lambda: register(trainer, plugin), InvalidPluginError)
    assert "'Hooks' (" in str(error)
    assert "async function" in str(error)


def test_async_hook_that_is_set_after_registration(make_trainer: Make) -> None:
    plugin = Named()
    trainer = make_trainer(plugins=[plugin])
    plugin.on_training_end = functools.partial(coroutine, plugin)  # type: ignore[method-assign]
    with pytest.raises(InvalidPluginError, match="on_training_end"):
        trainer.fit(TinyModel(), TinyDataModule())


def test_async_hook_of_a_plugin_that_another_brings_along(make_trainer: Make) -> None:
    class Bringing(Named):
        def configure_trainer(self, trainer: Any) -> None:
            trainer.register_plugin(type("Late", (Named,), {"on_log": coroutine})("late"))

    with pytest.raises(InvalidPluginError, match=r"'late' \(.*the hook on_log is an async"):
        make_trainer(plugins=[Bringing()]).fit(TinyModel(), TinyDataModule())


def test_generators_that_run(make_trainer: Make) -> None:
    ran = []

    class Runs(Named):
        def wrap_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
            ran.append("wrap_batches")
            yield from batches

        @contextlib.contextmanager
        def step_context(self) -> Iterator[None]:
            ran.append("step_context")
            yield

        @hookimpl(wrapper=True)
        def on_training_end(self) -> Iterator[None]:
            ran.append("on_training_end")
            return (yield)

    make_trainer(plugins=[Runs()]).fit(TinyModel(), TinyDataModule(train_size=4))
    assert set(ran) == {"wrap_batches", "step_context", "on_training_end"}


# Decorators that hide the body: only a call can show whether they run it.


def transparent(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any) -> Any:
        return function(self)

    return call


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: function(self)


def runs(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any) -> Any:
        return asyncio.run(function(self))

    return call


@pytest.mark.parametrize("decorate", [transparent, opaque])
@pytest.mark.parametrize("method", [coroutine, async_generator, generator])
@pytest.mark.parametrize(
    "hook", ["configure_trainer", "configure_model", "on_training_batch_end", "on_training_end"]
)
def test_decorated_hook_fails_at_its_first_call(
    make_trainer: Make, decorate: Any, method: Any, hook: str
) -> None:
    with pytest.raises(InvalidPluginError) as caught:
        make_trainer(plugins=[of(hook, decorate(method))]).fit(TinyModel(), TinyDataModule())
    assert "'named' (" in str(caught.value)
    assert f"the hook {hook} returned a" in str(caught.value)
    assert "its body has not run: write an ordinary function" in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_decorator_that_runs_the_coroutine(make_trainer: Make) -> None:
    ran = []

    async def hook(self: Any) -> None:
        ran.append("ran")

    make_trainer(plugins=[of("on_training_end", runs(hook))]).fit(TinyModel(), TinyDataModule())
    assert ran == ["ran"]


def test_other_functions_stay_as_they_are() -> None:
    manager = PluginManager()
    plugin = of("on_log", transparent(lambda self: None))
    manager.register(plugin)
    manager.arrange()
    (implementation,) = manager.hook.on_log.get_hookimpls()
    assert implementation.function == plugin.on_log
