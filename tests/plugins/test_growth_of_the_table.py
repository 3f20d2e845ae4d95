"""A registration costs the same in a table of any size, and gives the order of a whole sort."""

import inspect
import sys
import textwrap
from typing import Any

import pytest
from helpers import Named
from hypothesis import given
from hypothesis import strategies as st

from helios import Plugin
from helios.errors import PluginOrderError
from helios.plugins import PluginManager
from helios.plugins.declarations.attributes import static_attribute
from helios.plugins.registration.order import in_order

NAMES = "abcdef"


class Ordered(Named):
    """Names plug-ins that come before or after it."""

    __module__ = "elsewhere"

    def __init__(self, plug_id: str, before: tuple[str, ...] = (), after: tuple[str, ...] = ()):
        super().__init__(plug_id)
        self.before, self.after = before, after  # type: ignore[misc]


def calls_of(manager: PluginManager, plugin: Plugin) -> int:
    """Return the number of calls of Python functions that a registration makes."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        manager.register(plugin)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("constraint", [{}, {"before": ("p1",)}, {"after": ("p1", "p2")}])
def test_a_registration_does_not_look_at_every_row(constraint: dict[str, Any]) -> None:
    manager = PluginManager()
    for number in range(10):
        manager.register(Ordered(f"p{number}"))
    few = calls_of(manager, Ordered("few", **constraint))
    for number in range(10, 300):
        manager.register(Ordered(f"p{number}"))
    assert calls_of(manager, Ordered("many", **constraint)) <= few + 60  # the others named p1


REASON = "drawn"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.lists(st.sampled_from(NAMES), max_size=2),
            st.lists(st.sampled_from(NAMES), max_size=2),
        ),
        unique_by=lambda row: row[0],
    )
)
def test_registering_one_by_one_gives_the_order_of_all(rows: list[Any]) -> None:
    manager = PluginManager()
    for plug_id, before, after in rows:
        known = sorted(manager.rows.values(), key=lambda row: row.number)
        plugin = Ordered(plug_id, tuple(before), tuple(after))
        row = manager.candidate(plugin, None, REASON, True)
        try:
            expected: Any = [row.id for row in in_order([*known, row])]
        except PluginOrderError as error:
            expected = str(error)
            whole = set(known)
        else:
            whole = {*known, row}
        try:
            manager.register(plugin, reason=REASON)
            found: Any = list(manager.rows)
        except PluginOrderError as error:
            found = str(error)
        assert found == expected
        assert {r.plugin for r in manager.rows.values()} == {r.plugin for r in whole}
        assert manager.get_plugins() == {row.plugin for row in manager.rows.values()}


class Slotted:
    __slots__ = ("value",)
    method = Named.setup


class Described:
    @property
    def setup(self) -> str:
        raise AssertionError("a look-up must not call it")

    static = staticmethod(len)
    held = 1


class Inheriting(Described):
    held = 2

    def __init__(self) -> None:
        vars(self)["setup"] = "hidden by the property"
        vars(self)["held"] = 3
        self.own = 4


@pytest.mark.parametrize(
    "plugin", [Slotted(), Inheriting(), Named(), Inheriting, textwrap, PluginManager(), 3]
)
def test_look_up_equals_that_of_inspect(plugin: object) -> None:
    for name in [*object.__dir__(plugin), "absent"]:
        expected = inspect.getattr_static(plugin, name, None)
        assert static_attribute(plugin, name) is expected, name
