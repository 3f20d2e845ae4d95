"""Conflicts: two plug-ins must not have the same id or claim the same capability.

The functions compare all rows before they decide, and report all problems.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

from helios.errors import (
    DuplicatePluginError,
    InvalidPluginError,
    PluginConflictError,
    PluginError,
    kind_of,
    printable,
)
from helios.plugins.discovery.configuration import setting
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.provenance import origin_of
from helios.plugins.discovery.source import source_of
from helios.plugins.plans.plan import Inactive
from helios.plugins.registration.table import Registration

_SAME_ID = ":id"
"""The symbol for the id in a list of shared claims; no claim in canonical form equals it."""


def resolve(
    rows: Iterable[Registration],
) -> tuple[list[Registration], list[Inactive], list[PluginError]]:
    """Resolve conflicts: an explicit row takes precedence over autoloaded rows.

    Returns:
        The rows that remain and those that become inactive, both in the order of registration, and
        a list of errors. Each error is for an id or a set of capabilities that several remaining
        rows claim, or for plug-ins that are equal.
    """
    rows = sorted(rows, key=lambda row: row.number)
    explicit: dict[tuple[str, str], Registration] = {}
    for row in rows:
        if row.explicit:
            for demand in _demands(row):
                explicit.setdefault(demand, row)
    kept, inactive = [], []
    for row in rows:
        winners = [explicit[demand] for demand in _demands(row) if demand in explicit]
        winner = min(winners, key=lambda winner: winner.number, default=None)
        if row.explicit or winner is None:
            kept.append(row)
        else:
            inactive.append(_inactive(row, winner))
    return kept, inactive, _twins(rows) or conflicts_among(kept)


def _demands(row: Registration) -> list[tuple[str, str]]:
    """Return everything that no other row may have: the id and the claims."""
    return [("id", row.id), *(("claim", key) for key in claim_keys(row))]


def claim_keys(row: Registration) -> set[str]:
    """Return the claims of a row in their canonical form; ``GPU_0`` equals ``gpu-0``."""
    return set(map(canonical, row.claims))


def _twins(rows: Sequence[Registration]) -> list[PluginError]:
    """Return an error for each object with two ids, and for each pair of equal objects."""
    problems: list[PluginError] = []
    first_of: dict[int, Registration] = {}
    for row in rows:
        first = first_of.setdefault(id(row.plugin), row)
        if first is not row:
            problems.append(
                DuplicatePluginError(
                    f"this plug-in is already registered as {first.id!r}, so it cannot also be"
                    f" registered as {row.id!r}: unregister it first, or create another object."
                )
            )
    return problems + _equals(list(first_of.values()))


def _equals(rows: Sequence[Registration]) -> list[PluginError]:
    """Return an error for each pair of equal objects; only a class with ``__eq__`` has any."""
    problems: list[PluginError] = []
    if not any(compares(row.plugin) for row in rows):
        return problems
    for first, second in combinations(rows, 2):
        may_be = compares(first.plugin) or compares(second.plugin)
        if may_be and first.plugin == second.plugin:
            problems.append(
                InvalidPluginError(
                    f"plug-in {second.id!r} equals the registered plug-in {first.id!r}; both are"
                    f" {kind_of(second.plugin)} ({source_of(second.plugin)}). Helios"
                    " compares plug-ins by identity: remove __eq__ and __hash__ from the class."
                )
            )
    return problems


def compares(plugin: object) -> bool:
    """Return whether a plug-in may equal another object."""
    return type(plugin).__eq__ is not object.__eq__


def _inactive(row: Registration, winner: Registration) -> Inactive:
    origin = origin_of(row.plugin, row.record)
    reason = f"conflicts with {winner.id!r}, which takes precedence because it is {winner.reason}"
    return Inactive(row.id, origin.distribution, origin.version, reason)


def conflicts_among(rows: Sequence[Registration]) -> list[PluginError]:
    """Return an error for each set of rows with the same claims."""
    claimants: dict[str, list[Registration]] = {}
    for row in rows:
        for key in sorted(claim_keys(row)):
            claimants.setdefault(key, []).append(row)
    by_id: dict[str, list[Registration]] = {}
    for row in rows:
        by_id.setdefault(row.id, []).append(row)
    groups: dict[tuple[Registration, ...], list[str]] = {}
    for same in by_id.values():
        if len(same) > 1:
            groups[tuple(same)] = [_SAME_ID]
    for key, several in claimants.items():
        if len(several) > 1:
            groups.setdefault(tuple(several), []).append(key)
    return [_conflict(group, shared) for group, shared in groups.items()]


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def _conflict(rows: Sequence[Registration], shared: list[str]) -> PluginError:
    """Return the error for plug-ins that conflict, with the remedies.

    Args:
        rows: the rows of the plug-ins.
        shared: their common claims in canonical form, and ``_SAME_ID`` if they have the same id.
    """
    claims = [claim for claim in rows[0].claims if canonical(claim) in shared]
    facts = [row.facts() for row in rows]
    number = _NUMBERS.get(len(rows), str(len(rows)))
    descriptions = "\n".join(_description(row, shared) for row in rows)
    remedies = _remedies(rows)
    if _SAME_ID in shared:
        return DuplicatePluginError(
            f"{number} plug-ins have the id {rows[0].id!r}, which is the key of their state in"
            " checkpoints:\n"
            f"{descriptions}\n{remedies}\n"
            "To use both, set another id in the __init__ of one of them."
        ).about(facts, claims)
    return PluginConflictError(
        f"{number} plug-ins claim {', '.join(map(repr, claims))}, which only one active plug-in"
        f" may have:\n{descriptions}\n{remedies}"
    ).about(facts, claims)


def _remedies(rows: Sequence[Registration]) -> str:
    names = _names(rows)
    if len(set(names)) < len(names):
        return "Pass only one of them."
    lines = ["Keep one of them:"]
    for kept in reversed(names):
        others = [name for name in names if name != kept]
        lines.append(
            f"  Trainer(block={others!r})    keeps {kept!r}"
            f"    (or HELIOS_BLOCK_PLUGINS={printable(','.join(others))}, or"
            f" {setting('block', others)} in [tool.helios])"
        )
    if not rows[-1].explicit:
        lines.append(
            f"  Trainer(plugins=[{names[-1]!r}])    a named plug-in takes precedence over the"
            f" other{'s' * (len(rows) > 2)}"
            f"    (or {setting('enable', names[-1:])} in [tool.helios])"
        )
    return "\n".join(lines)


def _names(rows: Sequence[Registration]) -> list[str]:
    """Return the names that block the plug-ins, qualified if the plain names are equal."""
    plain = [row.name for row in rows]
    return [
        row.record.qualified_name if row.record and plain.count(row.name) > 1 else row.name
        for row in rows
    ]


def _description(row: Registration, shared: list[str]) -> str:
    origin = origin_of(row.plugin, row.record)
    reasons = (reason for claim, reason in row.claims.items() if canonical(claim) in shared)
    claims = "; ".join(reasons)
    return (
        f"  {row.id!r} from {origin if origin.distribution else 'no distribution'}"
        f"{f': {claims}' if claims else ''}\n"
        f"      {origin.source}\n"
        f"      active because it is {row.reason}"
    )
