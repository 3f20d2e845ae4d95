"""The plan: what is active in a run, from where, in which order, and why."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import helios.plugins.validation as validation
from helios.plugins.discovery import EntryPointRecord


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the code of a plug-in comes from.

    Attributes:
        distribution: the name of its distribution; empty for code that was not installed.
        version: the version of the distribution.
        source: ``file:line`` of the definition.
    """

    distribution: str
    version: str
    source: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.distribution else "not installed"


@functools.cache
def _distribution_of_package(package: str) -> tuple[str, str]:
    from importlib_metadata import packages_distributions, version

    names = packages_distributions().get(package, [])
    return (names[0], version(names[0])) if names else ("", "")


def origin_of(plugin: object, record: EntryPointRecord | None) -> Origin:
    """Find out where a plug-in comes from.

    Args:
        plugin: the plug-in.
        record: the entry point that it was loaded from, if it was.
    """
    source = validation.source_of(plugin)
    if record is not None:
        return Origin(record.distribution, record.version, source)
    module = str(getattr(plugin, "__module__", None) or getattr(plugin, "__name__", ""))
    return Origin(*_distribution_of_package(module.partition(".")[0]), source)


@dataclasses.dataclass(frozen=True)
class PlanEntry:
    """An active plug-in.

    Attributes:
        id: its id, unique in the plan.
        distribution: the name of its distribution; empty for code that was not installed.
        version: the version of the distribution.
        reason: why it is active.
        hooks: the hooks that it implements.
        claims: the capabilities that no other plug-in may have.
    """

    id: str
    distribution: str
    version: str
    reason: str
    hooks: tuple[str, ...]
    claims: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Inactive:
    """A plug-in that is installed, but not active.

    Attributes:
        name: its name.
        distribution: the name of its distribution.
        version: the version of the distribution.
        reason: why it is not active.
    """

    name: str
    distribution: str
    version: str
    reason: str


@dataclasses.dataclass(frozen=True)
class PluginPlan:
    """The frozen answer to what is active here, from which distribution, in which order, and why.

    Attributes:
        active: in the order in which their hooks are called.
        inactive: installed, but not active.
    """

    active: tuple[PlanEntry, ...]
    inactive: tuple[Inactive, ...]

    @property
    def digest(self) -> str:
        """A fingerprint: equal plans call the same code in the same order."""
        relevant = [(e.id, e.distribution, e.version, e.hooks) for e in self.active]
        return hashlib.sha256(json.dumps(relevant).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain containers, as checkpoints and JSON hold it."""
        plan = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"digest": self.digest, **plan}

    def to_json(self) -> str:
        """Return the plan as JSON, as the folder of a run holds it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def as_text(self) -> str:
        """Return the plan as the header of a run shows it."""
        rows = [
            (str(number), entry.id, _dist(entry), entry.reason)
            for number, entry in enumerate(self.active, start=1)
        ]
        lines = [f"{len(rows)} active plug-in{'s' * (len(rows) != 1)} (plan {self.digest})"]
        lines += _columns(rows)
        if self.inactive:
            lines.append("installed, but not active")
            lines += _columns([("-", i.name, _dist(i), i.reason) for i in self.inactive])
        return "\n".join(lines)


def _dist(entry: PlanEntry | Inactive) -> str:
    return f"{entry.distribution} {entry.version}" if entry.distribution else "(not installed)"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
