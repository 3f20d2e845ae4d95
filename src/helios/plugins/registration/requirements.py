"""The plug-ins that a plug-in requires: found when the table is checked, before anything runs."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from helios.errors import InvalidPluginError, PluginError, UnmetRequirementError
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.provenance import origin_of
from helios.plugins.discovery.source import source_of
from helios.plugins.plans.plan import Inactive
from helios.plugins.registration.table import Registration

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


def check_requirements(
    rows: Iterable[Registration],
) -> tuple[list[Registration], list[Inactive], list[PluginError]]:
    """Find the rows whose requirements no other row meets.

    Returns:
        The rows that remain; the autoloaded plug-ins that become inactive, because a requirement
        is not met; and an error for each explicit one.
    """
    kept, inactive = list(rows), []
    while True:
        unmet = [(row, story) for row in kept if (story := _unmet(row, kept))]
        leaving = [(row, story) for row, story in unmet if not row.explicit]
        for row, story in leaving:
            origin = origin_of(row.plugin, row.record)
            inactive.append(Inactive(row.id, origin.distribution, origin.version, story))
            kept.remove(row)
        if not leaving:  # otherwise, others may have required those that have left
            break
    return kept, inactive, [_problem(row, story) for row, story in unmet]


def _unmet(row: Registration, rows: Sequence[Registration]) -> str:
    """Return what a row requires and no other row offers; ``""`` if nothing."""
    for text in row.requires:
        name, specifiers = _parse(row, text)
        found = [each for each in rows if canonical(name) in map(canonical, (each.id, each.name))]
        if not found:
            return f"requires {text}, which is not active"
        version = origin_of(found[0].plugin, found[0].record).version
        if version and not specifiers.contains(version, prereleases=True):
            return f"requires {text}, but {found[0].id} {version} is active"
    return ""


def _parse(row: Registration, text: str) -> "tuple[str, SpecifierSet]":
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    parts = re.fullmatch(r"\s*([\w.-]*\w)\s*(.*?)\s*", text, re.ASCII)
    try:
        if parts is not None:
            return parts[1], SpecifierSet(parts[2])
    except InvalidSpecifier:
        pass
    raise InvalidPluginError(
        f"plug-in {row.id!r} ({source_of(row.plugin)}): requires contains {text!r}: write the id of"
        ' a plug-in, with version specifiers if you want, such as "ema>=0.1".'
    )


def _problem(row: Registration, story: str) -> UnmetRequirementError:
    origin = origin_of(row.plugin, row.record)
    where = f"{origin}, {source_of(row.plugin)}" if origin.distribution else source_of(row.plugin)
    return UnmetRequirementError(
        f"plug-in {row.id!r} ({where}) {story}. Install what it requires, and name it in"
        f" Trainer(plugins=[...]) or register it first, or remove {row.id!r}."
    ).about([row.facts()], [])
