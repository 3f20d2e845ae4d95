"""The plan: the active plug-ins of a run, with their sources, their order, and the reasons."""

import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from helios.errors import printable
from helios.plugins.plans.call_record import as_json, plain

FORMAT = 2
"""The version of plans in checkpoints. Those of version 1 do not name it, and lack arguments."""

_LONGEST_SUMMARY = 100
_MANY = 4  # inactive plug-ins of one distribution, for one reason


@dataclasses.dataclass(frozen=True)
class PlanEntry:
    """An active plug-in.

    Attributes:
        id: the id, unique in the plan.
        distribution: the name of its distribution; empty if the code is not installed.
        version: the version of the distribution.
        reason: the reason why it is active.
        hooks: the hooks that it implements.
        claims: the capabilities that no other plug-in may have.
        order: the constraints on its place that ``before`` and ``after`` set.
        configuration: the arguments that it was constructed with, as far as plain data shows them.
        implementation: ``module:name`` of its class, or the name of its module.
        summary: its description in one line; may be empty.
        changes_results: True if it changes the trained weights or the logged metrics.
        former_ids: the ids that it had in earlier releases.
    """

    id: str
    distribution: str
    version: str
    reason: str
    hooks: tuple[str, ...]
    claims: tuple[str, ...]
    order: tuple[str, ...] = ()
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    implementation: str = ""
    summary: str = ""
    changes_results: bool = False
    former_ids: tuple[str, ...] = ()

    @property
    def effect(self) -> str:
        """The summary for one line of a table, with a mark if the plug-in changes results."""
        summary = textwrap.shorten(self.summary, _LONGEST_SUMMARY, placeholder=" ...")
        mark = "changes results" if self.changes_results else ""
        return ": ".join(filter(None, [mark, summary]))


@dataclasses.dataclass(frozen=True)
class Inactive:
    """A plug-in that is installed, but not active.

    Attributes:
        name: the name of the plug-in.
        distribution: the name of its distribution.
        version: the version of the distribution.
        reason: the reason why it is not active.
    """

    name: str
    distribution: str
    version: str
    reason: str


@dataclasses.dataclass(frozen=True)
class PluginPlan:
    """The frozen list of active plug-ins, with distributions, order and reasons.

    Attributes:
        active: the active plug-ins in the order of their hook calls.
        inactive: the plug-ins that are installed but not active.
        configured_in: the project file that applies, or an empty string.
    """

    active: tuple[PlanEntry, ...]
    inactive: tuple[Inactive, ...]
    configured_in: str = ""

    @property
    def digest(self) -> str:
        """A fingerprint of the plan; equal plans call the same code in the same order."""
        relevant = [
            (e.id, e.distribution, e.version, e.implementation, e.hooks, plain(e.configuration))
            for e in self.active
        ]
        return hashlib.sha256(as_json(relevant).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain containers, for checkpoints and JSON."""
        active = [
            {**_fields(entry), "configuration": plain(entry.configuration)} for entry in self.active
        ]
        return {
            "format": FORMAT,
            "digest": self.digest,
            "active": active,
            "inactive": [_fields(entry) for entry in self.inactive],
            "configured_in": self.configured_in,
        }

    def to_json(self) -> str:
        """Return the plan as JSON, for the folder of a run."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def as_text(self) -> str:
        """Return the plan as text, for the header of a run."""
        rows = [
            (
                str(number),
                entry.id,
                _dist(entry),
                "; ".join([entry.reason, *entry.order]),
                entry.effect,
            )
            for number, entry in enumerate(self.active, start=1)
        ]
        lines = [f"{len(rows)} active plug-in{'s' * (len(rows) != 1)} (plan {self.digest})"]
        lines += columns(rows)
        if self.inactive:
            lines.append("installed, but not active")
            lines += columns([("-", *row) for row in _grouped(self.inactive)])
        if self.configured_in:
            lines.append(f"configured by [tool.helios] in {printable(self.configured_in)}")
        return "\n".join(lines)


def _fields(entry: PlanEntry | Inactive) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    if not values.get("former_ids"):
        values.pop("former_ids", None)  # most plug-ins have none
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _dist(entry: PlanEntry | Inactive) -> str:
    return f"{entry.distribution} {entry.version}" if entry.distribution else "(not installed)"


def _grouped(inactive: Iterable[Inactive]) -> list[tuple[str, str, str]]:
    """Return the name, distribution and reason of each; many of one kind share a row."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in inactive:
        groups.setdefault((_dist(each), each.reason), []).append(each.name)
    rows = []
    for each in inactive:
        names = groups[_dist(each), each.reason]
        if len(names) < _MANY:
            rows.append((each.name, _dist(each), each.reason))
        elif names[0] == each.name:
            reason = f"{each.reason}: {', '.join(names)}"
            rows.append((f"{len(names)} plug-ins", _dist(each), reason))
    return rows


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows of a table as aligned lines, one for each row."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
