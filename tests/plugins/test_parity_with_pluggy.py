"""A hook call through the trainer is pluggy's own, but for the order that is promised.

Wrappers of hooks of kind "one" may only observe: see test_wrappers.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pluggy
import pytest
from helpers import Fault
from hypothesis import event, given, settings
from hypothesis import strategies as st

from helios import Plugin, Trainer, hookimpl
from helios.plugins import HOOKS, PluginSpec
from helios.plugins.calls.profile import PluginProfile
from helios.plugins.markers import PROJECT

ARGUMENTS = {
    "on_log": {"metrics": {"loss": 1.0}, "phase": "training", "state": "the state"},
    "on_training_start": {},
    "process_training_batch": {"batch": 10, "state": "the state"},
    "process_validation_batch": {"batch": 10, "step": 3},
}


class Drawn(NamedTuple):
    """An implementation.

    Attributes:
        placing: pluggy's option that places it, or nothing.
        kind: plain, or one of the two sorts of wrappers.
        act: what it does.
        is_plugin: a ``Plugin`` subclass, rather than any object.
    """

    placing: str
    kind: str
    act: str
    is_plugin: bool


plain = st.builds(
    Drawn,
    placing=st.sampled_from(["", "tryfirst", "trylast"]),
    kind=st.just("plain"),
    act=st.sampled_from(["value", "value", "nothing", "raise"]),
    is_plugin=st.booleans(),
)


def wrappers(*acts: str) -> st.SearchStrategy[Drawn]:
    return st.builds(
        Drawn,
        placing=st.sampled_from(["", "tryfirst", "trylast"]),
        kind=st.sampled_from(["wrapper", "hookwrapper"]),
        act=st.sampled_from(acts),
        is_plugin=st.booleans(),
    )


observers = wrappers("pass", "raise before", "raise after")
any_wrappers = wrappers("pass", "pass", "change", "swallow", "raise before", "raise after")


def wrap(number: int, act: str, log: list[Any]) -> Callable[[Any], Any]:
    def wrapper(self: Any) -> Any:
        log.append(("before", number))
        if act == "raise before":
            raise Fault(f"before {number}")
        try:
            result = yield
        except Fault as error:
            log.append(("error", number, str(error)))
            if act == "swallow":
                return f"instead, by {number}"
            raise
        log.append(("after", number, result))
        if act == "raise after":
            raise Fault(f"after {number}")
        return f"changed by {number}" if act == "change" else result

    return wrapper


def wrap_in_the_old_way(number: int, act: str, log: list[Any]) -> Callable[[Any], Any]:
    def wrapper(self: Any) -> Any:
        log.append(("before", number))
        if act == "raise before":
            raise Fault(f"before {number}")
        outcome = yield
        log.append(("after", number, str(outcome.exception)))
        if act == "change" or (act == "swallow" and outcome.exception is not None):
            outcome.force_result(f"forced by {number}")
        if act == "raise after":
            outcome.force_exception(Fault(f"after {number}"))

    return wrapper


def act_plainly(number: int, act: str, log: list[Any]) -> Callable[[Any], Any]:
    def implementation(self: Any) -> Any:
        log.append(("called", number))
        if act == "raise":
            raise Fault(str(number))
        return number if act == "value" else None

    return implementation


MAKERS = {"plain": act_plainly, "wrapper": wrap, "hookwrapper": wrap_in_the_old_way}


def make(number: int, what: Drawn, hook: str, log: list[Any]) -> object:
    """Make a plug-in with one implementation."""
    function = MAKERS[what.kind](number, what.act, log)
    options = {what.placing: True} if what.placing else {}
    if what.kind != "plain":
        options[what.kind] = True
    if options or not what.is_plugin:
        function = hookimpl(**options)(function)
    # As if defined elsewhere: finding its line in a file takes a while, in every plan.
    members = {hook: function, "setup": lambda self: None, "__module__": "elsewhere"}
    if what.is_plugin:
        return type("Kind", (Plugin,), members)(f"number-{number}")
    del members["setup"]
    return type(f"Object{number}", (), members)()


def outcome(call: Callable[..., Any] | None, hook: str, log: list[Any]) -> tuple[Any, ...]:
    """Return result or error of a call, and what was called on the way."""
    log.clear()
    if call is None:  # what pluggy returns where nobody implements a hook
        return ("result", ARGUMENTS[hook].get("batch", []), [])
    try:
        result = call(**ARGUMENTS[hook])
    except Fault as error:
        return ("error", str(error), list(log))
    return ("result", result, list(log))


def reference(plugins: list[tuple[Drawn, object]]) -> pluggy.PluginManager:
    """Return a manager of pluggy's own that calls in the order of the list, group by group.

    pluggy calls what is registered last first, but what has ``trylast`` last.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.parse_hookimpl_opts = parse  # type: ignore[method-assign]  # methods need no marker
    manager.add_hookspecs(PluginSpec)
    last = [plugin for what, plugin in plugins if what.placing == "trylast"]
    others = [plugin for what, plugin in plugins if what.placing != "trylast"]
    for plugin in [*last, *reversed(others)]:
        manager.register(plugin)
    if not any(what.kind == "plain" for what, _ in plugins):
        manager.register(BatchAsItIs())
    return manager


class BatchAsItIs:
    """The behaviour without plug-ins."""

    @hookimpl
    def process_training_batch(self, batch: Any) -> Any:
        return batch

    @hookimpl
    def process_validation_batch(self, batch: Any) -> Any:
        return batch


def parse(plugin: object, name: str) -> Any:
    method = getattr(type(plugin), name, None)
    marked = getattr(method, PROJECT + "_impl", None)
    if marked is None and isinstance(plugin, Plugin) and name in ARGUMENTS:
        overrides = method is not getattr(Plugin, name)
        return pluggy.HookimplMarker("x")(lambda: None).x_impl if overrides else None
    return marked


@pytest.mark.parametrize("profiled", [False, True], ids=["plainly", "profiled"])
@pytest.mark.parametrize("hook", ARGUMENTS)
def test_same_calls_same_order_same_result(hook: str, profiled: bool) -> None:
    # Of a hook of kind "one" there is at most one plain implementation, among wrappers.
    most = 1 if HOOKS[hook].claim else 4
    around_it = observers if HOOKS[hook].claim else any_wrappers

    @settings(max_examples=50, deadline=None)
    @given(st.lists(plain, max_size=most), st.lists(around_it, max_size=3), st.randoms())
    def check(some: list[Drawn], around: list[Drawn], shuffling: Any) -> None:
        log: list[Any] = []
        drawn = [*some, *around]
        shuffling.shuffle(drawn)
        plugins = [(what, make(n, what, hook, log)) for n, what in enumerate(drawn)]
        expected = outcome(getattr(reference(plugins).hook, hook), hook, log)

        trainer = Trainer(use_cpu=True, autoload=False, plugins=[plugin for _, plugin in plugins])
        trainer.plugin_manager.freeze(profile=PluginProfile() if profiled else None)
        actual = outcome(getattr(trainer.plugin_manager.callers, hook), hook, log)
        event(expected[0])
        assert actual == expected

    check()


def test_the_reference_notices_another_order() -> None:
    log: list[Any] = []
    what = Drawn("", "plain", "value", True)
    plugins = [(what, make(number, what, "on_log", log)) for number in range(2)]
    forwards = outcome(reference(plugins).hook.on_log, "on_log", log)
    assert forwards == ("result", [0, 1], [("called", 0), ("called", 1)])
    backwards = outcome(reference(plugins[::-1]).hook.on_log, "on_log", log)
    assert backwards == ("result", [1, 0], [("called", 1), ("called", 0)])
