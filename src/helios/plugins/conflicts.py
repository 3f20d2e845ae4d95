"""Who may stay: two plug-ins must not have one id, nor claim one capability.

All rows are looked at before anything is decided, and everything that is wrong is reported.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

from helios.errors import (
    DuplicatePluginError,
    InvalidPluginError,
    PluginConflictError,
    PluginError,
)
from helios.plugins.declarations import source_of
from helios.plugins.plan import Inactive, origin_of
from helios.plugins.table import Registration

_SAME_ID = ""
"""Stands for the id among the things that two rows may both claim."""


def resolve(
    rows: Iterable[Registration],
) -> tuple[list[Registration], list[Inactive], list[PluginError]]:
    """Decide which rows stay: explicit ones win over autoloaded ones.

    Returns:
        The rows that stay and those that step aside, both in the order of registration; and an
        error for each id and each set of capabilities that rows of equal standing claim, and for
        plug-ins that cannot be told apart.
    """
    rows = sorted(rows, key=lambda row: row.number)
    explicit = [row for row in rows if row.explicit]
    kept, aside = [], []
    for row in rows:
        winner = next((other for other in explicit if _shared(row, other)), None)
        if row.explicit or winner is None:
            kept.append(row)
        else:
            aside.append(_stepped_aside(row, winner))
    return kept, aside, _twins(rows) or _conflicts(kept)


def _twins(rows: Sequence[Registration]) -> list[PluginError]:
    """Refuse an object that is registered under two ids, and objects that equal each other."""
    problems: list[PluginError] = []
    for first, second in combinations(rows, 2):
        if first.plugin is second.plugin:
            problems.append(
                DuplicatePluginError(
                    f"this plug-in is already registered as {first.id!r}, so it cannot be"
                    f" {second.id!r} too: unregister it first, or create another object."
                )
            )
        elif first.plugin == second.plugin:
            problems.append(
                InvalidPluginError(
                    f"plug-in {second.id!r} equals {first.id!r}, which is registered; both are"
                    f" {type(second.plugin).__name__} ({source_of(second.plugin)}). Plug-ins are"
                    " told apart by identity: remove __eq__ and __hash__ from the class."
                )
            )
    return problems


def _shared(row: Registration, other: Registration) -> list[str]:
    """Return what both rows claim."""
    same_id = [_SAME_ID] if row.id == other.id else []
    return same_id + [claim for claim in row.claims if claim in other.claims]


def _stepped_aside(row: Registration, winner: Registration) -> Inactive:
    origin = origin_of(row.plugin, row.record)
    reason = f"steps aside for {winner.id!r}, which was {winner.reason}"
    return Inactive(row.id, origin.distribution, origin.version, reason)


def _conflicts(rows: Sequence[Registration]) -> list[PluginError]:
    """Return an error for each set of rows that claim the same things."""
    claimants: dict[str, list[Registration]] = {}
    for row in rows:
        for claim in row.claims:
            claimants.setdefault(claim, []).append(row)
    by_id: dict[str, list[Registration]] = {}
    for row in rows:
        by_id.setdefault(row.id, []).append(row)
    groups: dict[tuple[Registration, ...], list[str]] = {}
    for same in by_id.values():
        if len(same) > 1:
            groups[tuple(same)] = [_SAME_ID]
    for claim, several in claimants.items():
        if len(several) > 1:
            groups.setdefault(tuple(several), []).append(claim)
    return [_conflict(group, shared) for group, shared in groups.items()]


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def _conflict(rows: Sequence[Registration], shared: list[str]) -> PluginError:
    """Return the error for plug-ins of equal standing, with the ways out."""
    number = _NUMBERS.get(len(rows), str(len(rows)))
    stories = "\n".join(_story(row, shared) for row in rows)
    ways_out = _ways_out(rows)
    if _SAME_ID in shared:
        return DuplicatePluginError(
            f"{number} plug-ins have the id {rows[0].id!r}, under which checkpoints keep state:\n"
            f"{stories}\n{ways_out}\n"
            "To use both, give one of them another id in its __init__."
        )
    return PluginConflictError(
        f"{number} plug-ins claim {', '.join(map(repr, shared))}, which only one active plug-in"
        f" may have:\n{stories}\n{ways_out}"
    )


def _ways_out(rows: Sequence[Registration]) -> str:
    names = _names(rows)
    if len(set(names)) < len(names):
        return "Pass only one of them."
    lines = ["Keep one of them:"]
    for kept in reversed(names):
        others = [name for name in names if name != kept]
        lines.append(
            f"  Trainer(block={others!r})    keeps {kept!r}"
            f"    (or HELIOS_BLOCK_PLUGINS={','.join(others)})"
        )
    if not rows[-1].explicit:
        lines.append(
            f"  Trainer(plugins=[{names[-1]!r}])    naming one makes the"
            f" other{'s' * (len(rows) > 2)} step aside"
        )
    return "\n".join(lines)


def _names(rows: Sequence[Registration]) -> list[str]:
    """Return the names by which plug-ins are blocked, in full where the short ones are equal."""
    short = [row.name for row in rows]
    return [
        row.record.qualified_name if row.record and short.count(row.name) > 1 else row.name
        for row in rows
    ]


def _story(row: Registration, shared: list[str]) -> str:
    origin = origin_of(row.plugin, row.record)
    how = "; ".join(row.claims[claim] for claim in shared if claim != _SAME_ID)
    return (
        f"  {row.id!r} from {origin if origin.distribution else 'no distribution'}"
        f"{f': {how}' if how else ''}\n"
        f"      {origin.source}\n"
        f"      active because {row.reason}"
    )
