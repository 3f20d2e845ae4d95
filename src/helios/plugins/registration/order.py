"""The order of plug-ins: the order of registration, changed by ``before`` and ``after``."""

import heapq
import itertools
from collections.abc import Collection, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

from helios.errors import PluginOrderError, kind_of
from helios.plugins.discovery.configuration import setting
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.provenance import origin_of
from helios.plugins.registration.table import Registration


def in_order(rows: Iterable[Registration]) -> list[Registration]:
    """Sort rows so that they satisfy every ``before`` and ``after``.

    Each place goes to the earliest registered plug-in that may come next. Without ``before`` and
    ``after``, the result is the order of registration. Names of plug-ins that are not active have
    no effect.

    Raises:
        PluginOrderError: ``before`` and ``after`` contradict each other; the message shows the
            cycle.
    """
    by_number = {row.number: row for row in rows}
    graph: TopologicalSorter[int] = TopologicalSorter()
    for number in by_number:
        graph.add(number)
    for first, second in _constraints(by_number.values()):
        graph.add(second.number, first.number)
    try:
        graph.prepare()
    except CycleError as error:
        raise _cycle_error([by_number[number] for number in error.args[1]]) from None
    order: list[Registration] = []
    ready: list[int] = []
    while graph.is_active():
        for number in graph.get_ready():
            heapq.heappush(ready, number)
        earliest = heapq.heappop(ready)
        graph.done(earliest)
        order.append(by_number[earliest])
    return order


def insert(
    order: Sequence[Registration], row: Registration, followers: Collection[Registration]
) -> list[Registration]:
    """Return the order with a new row in it, equal to what :func:`in_order` would return.

    Args:
        order: the rows in order.
        row: the newest row.
        followers: the rows that must come after it, directly or through others.
    """
    first = [other for other in order if other not in followers]
    return [*first, row, *in_order(followers)]


def constraints(rows: Iterable[Registration]) -> dict[str, list[str]]:
    """Return the constraints on the place of each row, such as ``"before 'ema'"``, by id."""
    rows = list(rows)
    before: dict[str, list[str]] = {row.id: [] for row in rows}
    after: dict[str, list[str]] = {row.id: [] for row in rows}
    for first, second in _constraints(rows):
        before[first.id].append(f"before {second.id!r}")
        after[second.id].append(f"after {first.id!r}")
    return {row.id: before[row.id] + after[row.id] for row in rows}


def _constraints(rows: Iterable[Registration]) -> list[tuple[Registration, Registration]]:
    """Return pairs of rows; in each pair, the first must come before the second."""
    rows = list(rows)
    by_id: dict[str, list[Registration]] = {}
    for row in rows:
        by_id.setdefault(canonical(row.id), []).append(row)
    pairs = []
    for row in rows:
        for name in row.before:
            pairs += [(row, other) for other in by_id.get(canonical(name), ())]
        for name in row.after:
            pairs += [(other, row) for other in by_id.get(canonical(name), ())]
    return pairs


def _cycle_error(cycle: list[Registration]) -> PluginOrderError:
    steps = []
    for first, second in itertools.pairwise(cycle):
        declared_by = first if _contains(first.before, second) else second
        attribute = "before" if declared_by is first else "after"
        other = second if declared_by is first else first
        origin = origin_of(declared_by.plugin, declared_by.record)
        steps.append(
            f"  {first.id!r} must come before {second.id!r}:"
            f" {kind_of(declared_by.plugin)}.{attribute} names {other.id!r}"
            f" ({origin}, {origin.source})"
        )
    circle = " -> ".join(repr(row.id) for row in cycle)
    origins = [(row, origin_of(row.plugin, row.record)) for row in dict.fromkeys(cycle)]
    active = [
        f"  {row.id!r} from {origin}, active because it is {row.reason}" for row, origin in origins
    ]
    blocks = dict.fromkeys(
        f"  Trainer(block=[{row.name!r}])    (or {setting('block', [row.name])} in [tool.helios])"
        for row in cycle
    )
    return PluginOrderError(
        f"no order of the plug-ins is possible, since each must come before the next: {circle}\n"
        + "\n".join([*steps, *active])
        + "\nRemove one of these names from before or after, or block one of the plug-ins:\n"
        + "\n".join(blocks)
    ).about(row.facts() for row in dict.fromkeys(cycle))


def _contains(names: tuple[str, ...], row: Registration) -> bool:
    return canonical(row.id) in map(canonical, names)
