"""Any set of plug-ins, against rules of a few lines and against every order there is."""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from helpers import OVERRIDES
from hypothesis import event, given, settings
from hypothesis import strategies as st

from helios import Plugin
from helios.errors import (
    DuplicatePluginError,
    PluginConflictError,
    PluginError,
    PluginOrderError,
    each_of,
)
from helios.plugins import PluginManager

IDS = "abcdef"
IMPLEMENTATIONS: dict[str, tuple[str, Any]] = {
    "training_batch": ("process_training_batch", lambda self, batch: batch),
    "validation_batch": ("process_validation_batch", lambda self, batch: batch),
    "should_training_stop": ("should_training_stop", lambda self: False),
    "batches": ("wrap_batches", lambda self, batches: batches),
}


class Named(Plugin):
    __module__ = "elsewhere"  # no need to look for its line in this file, many times over

    def setup(self) -> None:
        pass


class Drawn(NamedTuple):
    """What matters of a plug-in in a conflict, and for its place."""

    plug_id: str
    declared: frozenset[str]
    implemented: frozenset[str]
    exclusives: frozenset[str]
    before: frozenset[str]
    after: frozenset[str]
    explicit: bool

    @property
    def claims(self) -> frozenset[str]:
        return self.declared | self.implemented | self.exclusives


wishes = st.frozensets(st.sampled_from([*IDS, "absent"]), max_size=2)
drawn = st.builds(
    Drawn,
    plug_id=st.sampled_from(IDS),
    declared=st.frozensets(st.sampled_from(OVERRIDES), max_size=1),
    implemented=st.frozensets(st.sampled_from(sorted(IMPLEMENTATIONS)), max_size=1),
    exclusives=st.frozensets(st.sampled_from(["launch", "gpu"]), max_size=1),
    before=wishes,
    after=wishes,
    explicit=st.booleans(),
)
peaceful = drawn.map(
    lambda what: what._replace(
        declared=frozenset(), implemented=frozenset(), exclusives=frozenset(), explicit=True
    )
)


@functools.cache
def kind_of(what: Drawn) -> type[Plugin]:
    members: dict[str, Any] = {
        IMPLEMENTATIONS[claim][0]: IMPLEMENTATIONS[claim][1] for claim in what.implemented
    }
    members |= {name: tuple(getattr(what, name)) for name in ("exclusives", "before", "after")}
    return type("Kind", (Named,), {**members, "__module__": "elsewhere"})


def build(what: Drawn) -> Plugin:
    plugin = kind_of(what)(what.plug_id)
    for claim in what.declared:
        setattr(plugin.unique_overrides, claim, True)
    return plugin


def rule(present: list[Drawn]) -> tuple[list[Drawn], set[tuple[str, frozenset[int]]]]:
    """Return which numbers step aside, and each thing that several of the others claim.

    The id is one of the things; it is written as ``"id a"``.
    """

    def things(what: Drawn) -> frozenset[str]:
        return what.claims | {f"id {what.plug_id}"}

    aside = [
        what
        for what in present
        if not what.explicit
        and any(other.explicit and things(other) & things(what) for other in present)
    ]
    stay = [(i, what) for i, what in enumerate(present) if what not in aside]
    conflicts = set()
    for thing in {thing for _, what in stay for thing in things(what)}:
        claimants = frozenset(i for i, what in stay if thing in things(what))
        if len(claimants) > 1:
            conflicts.add((thing, claimants))
    return aside, conflicts


def holds(order: tuple[Drawn, ...]) -> bool:
    """Whether all wishes hold in an order."""
    return not any(
        earlier.plug_id in later.before or later.plug_id in earlier.after
        for i, earlier in enumerate(order)
        for later in order[i:]
    )


def first_order(present: list[Drawn]) -> list[Drawn] | None:
    """Return the first of all orders in which the wishes hold, as dictionaries count orders."""
    return next((list(order) for order in itertools.permutations(present) if holds(order)), None)


def reported(problems: Sequence[Exception]) -> set[tuple[str, tuple[str, ...]]]:
    """Return what errors report: each thing with the ids of its claimants."""
    found = set()
    for problem in problems:
        if isinstance(problem, PluginOrderError):
            continue
        ids = tuple(sorted(re.findall(r"^  '(\w)' from ", str(problem), re.MULTILINE)))
        if isinstance(problem, DuplicatePluginError):
            found.add((f"id {ids[0]}", ids))
        else:
            assert isinstance(problem, PluginConflictError)
            claimed = str(problem).partition(" claim ")[2].partition(", which only one")[0]
            found |= {(claim, ids) for claim in re.findall(r"'(\w+)'", claimed)}
    return found


def told(
    present: list[Drawn], conflicts: set[tuple[str, frozenset[int]]]
) -> tuple[set[tuple[str, tuple[str, ...]]], set[tuple[str, tuple[str, ...]]]]:
    """Return all that may be reported, and what must be: of twins by id, the id is enough."""
    by_id = {claimants for thing, claimants in conflicts if thing.startswith("id ")}
    everything, necessary = set(), set()
    for thing, claimants in conflicts:
        fact = (thing, tuple(sorted(present[i].plug_id for i in claimants)))
        everything.add(fact)
        if thing.startswith("id ") or claimants not in by_id:
            necessary.add(fact)
    return everything, necessary


def attempt(action: Callable[[], object]) -> PluginError | None:
    try:
        action()
    except PluginError as error:
        return error
    return None


def table(manager: PluginManager) -> list[Any]:
    rows = [(row, row.plugin, dict(row.claims)) for row in manager.rows.values()]
    return [list(manager.rows), rows, list(manager.inactive), manager.list_name_plugin()]


@settings(max_examples=300, deadline=None)
@given(st.lists(drawn, max_size=7, unique=True))
def test_any_sequence_of_registrations_follows_the_rules(sequence: list[Drawn]) -> None:
    manager = PluginManager()
    registered: list[Drawn] = []  # in the order of registration, without those refused or aside
    stepped_aside: list[str] = []
    for what in sequence:
        before = table(manager)
        present = [*registered, what]
        aside, conflicts = rule(present)
        stay = [other for other in present if other not in aside]
        order = first_order(stay)
        refusal = attempt(functools.partial(manager.register, build(what), explicit=what.explicit))
        if refusal is not None:
            assert table(manager) == before
        problems = each_of(refusal) if refusal else []
        cycles = [problem for problem in problems if isinstance(problem, PluginOrderError)]
        assert (order is None) == (len(cycles) == 1)
        for problem in cycles:
            event("cycle")
            check_cycle(str(problem), stay)
        everything, expected = told(present, conflicts)
        assert expected <= reported(problems) <= everything
        if refusal is None:
            assert order is not None
            registered = stay
            stepped_aside += [other.plug_id for other in aside]
            assert list(manager.rows) == [other.plug_id for other in order]
            assert [set(row.claims) for row in manager.rows.values()] == [o.claims for o in order]
            assert [row.explicit for row in manager.rows.values()] == [o.explicit for o in order]
            assert [inactive.name for inactive in manager.inactive] == stepped_aside
    rows = list(manager.rows)
    manager.recheck()
    assert list(manager.rows) == rows


@settings(max_examples=300, deadline=None)
@given(st.lists(peaceful, max_size=6, unique_by=lambda what: what.plug_id))
def test_order_of_a_set_entered_at_once(present: list[Drawn]) -> None:
    manager = PluginManager()
    rows = [manager.candidate(build(what), None, "for this test", True) for what in present]
    order = first_order(present)
    refusal = attempt(lambda: manager.enter(*manager.resolve(rows)))
    if refusal is not None:
        event("cycle")
        assert isinstance(refusal, PluginOrderError)
        assert order is None
        assert list(manager.rows) == []
        check_cycle(str(refusal), present)
    else:
        assert order is not None
        assert list(manager.rows) == [what.plug_id for what in order]
    if not any(what.before or what.after for what in present):
        assert order == present


def check_cycle(message: str, present: list[Drawn]) -> None:
    """Check that each step of the cycle that a message shows was really asked for."""
    circle = re.findall(r"'(\w+)'", message.splitlines()[0])
    assert len(circle) >= 2
    assert circle[0] == circle[-1]
    for first, second in itertools.pairwise(circle):
        wants_first = [what for what in present if what.plug_id == first and second in what.before]
        wants_last = [what for what in present if what.plug_id == second and first in what.after]
        assert wants_first or wants_last
