"""The order of the plug-ins: that of registration, refined by ``before`` and ``after``."""

import heapq
import itertools
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from helios.errors import PluginOrderError
from helios.plugins.declarations import source_of
from helios.plugins.discovery import canonical
from helios.plugins.table import Registration


def in_order(rows: Iterable[Registration]) -> list[Registration]:
    """Sort rows so that every ``before`` and ``after`` holds.

    Of all such orders it is the one in which, at each place, the plug-in that was registered first
    of those possible stands: without any wishes, the order of registration. Wishes that concern
    plug-ins which are not active have no effect.

    Raises:
        PluginOrderError: the wishes contradict each other; the message shows the cycle.
    """
    by_number = {row.number: row for row in rows}
    graph: TopologicalSorter[int] = TopologicalSorter()
    for number in by_number:
        graph.add(number)
    for first, second in _wishes(by_number.values()):
        graph.add(second.number, first.number)
    try:
        graph.prepare()
    except CycleError as error:
        raise _contradiction([by_number[number] for number in error.args[1]]) from None
    order: list[Registration] = []
    ready: list[int] = []
    while graph.is_active():
        for number in graph.get_ready():
            heapq.heappush(ready, number)
        earliest = heapq.heappop(ready)
        graph.done(earliest)
        order.append(by_number[earliest])
    return order


def wishes_of(row: Registration, rows: Iterable[Registration]) -> list[str]:
    """Return what a row's place follows from, beside its registration: ``"before 'ema'"``."""
    found = [f"before {second.id!r}" for first, second in _wishes(rows) if first is row]
    return found + [f"after {first.id!r}" for first, second in _wishes(rows) if second is row]


def _wishes(rows: Iterable[Registration]) -> list[tuple[Registration, Registration]]:
    """Return pairs of rows of which the first must come before the second."""
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


def _contradiction(cycle: list[Registration]) -> PluginOrderError:
    steps = []
    for first, second in itertools.pairwise(cycle):
        wanted_by = first if _names(first.before, second) else second
        wish = "before" if wanted_by is first else "after"
        other = second if wanted_by is first else first
        steps.append(
            f"  {first.id!r} must come before {second.id!r}:"
            f" {type(wanted_by.plugin).__name__}.{wish} names {other.id!r}"
            f" ({source_of(wanted_by.plugin)})"
        )
    circle = " -> ".join(repr(row.id) for row in cycle)
    blocks = dict.fromkeys(f"  Trainer(block=[{row.name!r}])" for row in cycle)
    return PluginOrderError(
        f"the plug-ins cannot be put in order, since each must come before the next: {circle}\n"
        + "\n".join(steps)
        + "\nTake one of these names out of before or after, or go without one of the plug-ins:\n"
        + "\n".join(blocks)
    )


def _names(names: tuple[str, ...], row: Registration) -> bool:
    return canonical(row.id) in map(canonical, names)
