"""Any class of plug-ins: each hook is called as often as its moment comes, or refused by name."""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch.nn import Identity

from helios import Plugin, hookimpl
from helios.errors import InvalidPluginError
from helios.plugins import HOOKS, PluginManager

CALLS = 2
MISSPELT = ("on_train_start", "on_dance", "process_train_batch", "teardwon", "step_contex")
HARMLESS = ("compute", "launched", "setup_writer", "_on_training_start", "values", "stop")
NAMES = (*sorted(HOOKS.keys() - {"setup"}), *MISSPELT, *HARMLESS)

Count = Callable[[str], None]


class Member(NamedTuple):
    """A member of a class: its name, its kind, and where it stands."""

    name: str
    kind: str
    place: str


def _wraps(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


def made(member: Member, count: Count, *, takes_self: bool) -> Any:
    """Return the member itself, which counts its calls."""
    name = member.name
    result = Identity() if name == "prepare_module" else None  # a link of a chain

    def plain(self: Any) -> Any:
        count(name)
        return result

    async def coroutine(self: Any) -> None:
        count(name)

    def generator(self: Any) -> Any:
        count(name)
        yield

    def alone() -> Any:
        count(name)
        return result

    async def coroutine_alone() -> None:
        count(name)

    def generator_alone() -> Any:
        count(name)
        yield

    kinds: dict[str, Any] = {
        "plain": plain if takes_self else alone,
        "static": staticmethod(alone) if takes_self else alone,
        "class": classmethod(plain) if takes_self else alone,
        "async": coroutine if takes_self else coroutine_alone,
        "generator": generator if takes_self else generator_alone,
        "decorated": _wraps(plain) if takes_self else _wraps(alone),
        "value": False,
        "property": property(plain) if takes_self else 3,
    }
    return kinds[member.kind]


KINDS = ("plain", "static", "class", "async", "generator", "decorated", "value", "property")
members = st.lists(
    st.builds(
        Member,
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        place=st.sampled_from(["own", "own", "inherited", "mixin before", "mixin after"]),
    ),
    max_size=4,
    unique_by=lambda member: member.name,
)
FUNCTIONS = {"plain", "static", "class", "async", "generator", "decorated"}


def is_refused(member: Member, *, is_marked: bool | None = None) -> bool:
    """Return whether registration must refuse a member; the rule in a few lines.

    Args:
        member: the member.
        is_marked: whether a member of a module or object is marked; ``None`` for a plug-in.
    """
    name, kind = member.name, member.kind
    is_hook, is_function = name in HOOKS, kind in FUNCTIONS
    runs = kind not in ("async", "generator") or (kind, name) == ("generator", "wrap_batches")
    if is_marked is None:
        if is_hook:
            return member.place == "mixin after" or not (is_function and runs)
        return name in MISSPELT and is_function
    if not is_function or not is_marked:
        # An object may have a method on_dance() for somebody else.
        return is_function and (is_hook or name in MISSPELT) and name != "on_dance"
    return not is_hook or not runs


def check(plugin: Any, plug_id: str, wrong: list[Member], right: list[Member], log: Any) -> None:
    """Register a plug-in, and call all hooks if that was not refused."""
    manager = PluginManager()
    try:
        manager.register(plugin, plug_id)
    except InvalidPluginError as error:
        event("refused")
        message = str(error)
        assert f"plug-in {plug_id!r} (" in message
        assert any(member.name in message for member in wrong)
        assert manager.rows == {}
        return
    assert wrong == []
    callers = manager.arrange()
    for hook, info in HOOKS.items():
        caller = getattr(callers, hook)
        for _ in range(CALLS if caller is not None else 0):
            values: dict[str, Any] = dict.fromkeys(info.arguments)
            result = caller(**values | ({"module": Identity()} if "module" in values else {}))
            list(result if isinstance(result, types.GeneratorType) else ())
    expected = {m.name: CALLS for m in right if m.name in HOOKS}
    assert {name: log.count(name) for name in set(log)} == expected


@settings(max_examples=150, deadline=None)
@given(members)
def test_any_subclass_of_plugin(drawn: list[Member]) -> None:
    log: list[str] = []
    of = {
        place: {m.name: made(m, log.append, takes_self=True) for m in drawn if m.place == place}
        for place in ("own", "inherited", "mixin before", "mixin after")
    }
    shared = {"__module__": "elsewhere", "setup": lambda self: None}
    base = type("Base", (Plugin,), {**shared, **of["inherited"]})
    first = type("First", (), {"__module__": "elsewhere", **of["mixin before"]})
    last = type("Last", (), {"__module__": "elsewhere", **of["mixin after"]})
    plugin = type("Drawn", (first, base, last), {"__module__": "elsewhere", **of["own"]})("drawn")
    wrong = [member for member in drawn if is_refused(member)]
    right = [member for member in drawn if not is_refused(member)]
    check(plugin, "drawn", wrong, right, log)


@settings(max_examples=150, deadline=None)
@given(members, st.frozensets(st.sampled_from(NAMES)), st.booleans())
def test_any_module_or_object(drawn: list[Member], marked: frozenset[str], is_module: bool) -> None:
    log: list[str] = []
    begin: Any = (lambda: None) if is_module else (lambda self: None)
    found: dict[str, Any] = {"_begin": hookimpl(specname="setup")(begin)}
    for member in drawn:
        value = made(member, log.append, takes_self=not is_module)
        is_marked = member.name in marked and member.kind in FUNCTIONS
        found[member.name] = hookimpl(value) if is_marked else value
    if is_module:
        plugin: Any = types.ModuleType("drawn")
        vars(plugin).update(found)
    else:
        plugin = type("drawn", (), found)()
    wrong = [m for m in drawn if is_refused(m, is_marked=m.name in marked)]
    right = [m for m in drawn if m not in wrong and m.name in marked and m.kind in FUNCTIONS]
    check(plugin, "drawn", wrong, right, log)
