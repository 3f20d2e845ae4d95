"""What can only be seen of plug-ins when they are imported and a trainer is constructed."""

import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence

from helios.cli.finding import Finding, ways_around
from helios.cli.inspection import inspect_plugin, start
from helios.cli.name_checks import Wishes
from helios.errors import (
    AmbiguousPluginError,
    ConfigurationError,
    PluginError,
    PluginLoadError,
    UnknownNameError,
    UnmetRequirementError,
)
from helios.plugins import PLUGIN_REGISTRY, Plugin, PluginManager
from helios.plugins.discovery import EntryPointRecord
from helios.plugins.ordering import in_order
from helios.plugins.table import Registration
from helios.plugins.validation import deprecations

TRACEBACK_LINES = 6
_KNOWN_BY_NAME = (UnknownNameError, AmbiguousPluginError, UnmetRequirementError)


def check_imports(wishes: Wishes, known: Sequence[Finding]) -> list[Finding]:
    """Import each plug-in that is not blocked, then construct a trainer with those that can be.

    Args:
        wishes: what environment and file say.
        known: what has been found without importing; it is not told again.
    """
    without_module = {finding.subject for finding in known if finding.code == "missing-module"}
    findings: list[Finding] = []
    unusable: list[str] = []
    rows: list[Registration] = []
    manager = PluginManager()
    for record in PLUGIN_REGISTRY.records():
        if wishes.selection.blocked_record(record) or record.missing:
            continue
        try:
            seen = inspect_plugin(record, wishes.selection, manager, build=False)
        except Exception as error:
            unusable.append(record.qualified_name)
            if _subject(record) not in without_module:
                findings.append(_failed(record, error))
        else:
            findings += _deprecated(record, seen.row)
            if seen.row and record in wishes.allowed and _may_autoload(seen.loaded):
                rows.append(seen.row)
    told = {finding.what for finding in [*findings, *known]}
    together = _together(wishes, unusable, rows)
    return findings + [finding for finding in together if finding.what not in told]


def _failed(record: EntryPointRecord, error: Exception) -> Finding:
    subject = _subject(record)
    if isinstance(error, ConfigurationError):
        return Finding.of(error, subject)
    if not isinstance(error, PluginLoadError):
        what, _, rest = str(error).partition("\n")
        return Finding("invalid-plugin", "error", subject, what, rest, ways_around(record))
    cause = error.__cause__
    assert cause is not None, "load() gives the original error as the cause"
    what = f"{record.value} cannot be imported: {type(cause).__name__}: {cause}"
    if isinstance(cause, AttributeError) and record.value.partition(":")[0] in sys.modules:
        where = f"{record.name} = {record.value}, in {record.location}"
        return Finding("missing-attribute", "error", subject, what, where, ways_around(record))
    lines = "".join(traceback.format_exception(cause)).splitlines()[-TRACEBACK_LINES:]
    return Finding("import-failed", "error", subject, what, "\n".join(lines), ways_around(record))


def _subject(record: EntryPointRecord) -> str:
    return f"{record.name!r} of {record.distribution} {record.version}"


def _deprecated(record: EntryPointRecord, row: Registration | None) -> Iterator[Finding]:
    for message in deprecations(row.plugin, row.id) if row else ():
        ways = (f"pip install --upgrade {shlex.quote(record.distribution)}",)
        yield Finding(
            "deprecated-hook", "warning", _subject(record), message, record.location, ways
        )


def _may_autoload(loaded: object) -> bool:
    return not (isinstance(loaded, type) and issubclass(loaded, Plugin)) or loaded.autoload


def _together(
    wishes: Wishes, unusable: Sequence[str], rows: Sequence[Registration]
) -> list[Finding]:
    """Return what keeps the others from being active together."""
    _, problems = start(unusable, with_file=wishes.is_readable)
    if problems:  # the order is not looked at before all conflicts are resolved
        try:
            in_order(rows)
        except PluginError as cycle:
            problems.append(cycle)
    findings: dict[str, Finding] = {}
    for problem in problems:
        if isinstance(problem, _KNOWN_BY_NAME):
            continue  # ``wishes`` has all of them
        finding = Finding.of(problem, "the plug-ins that would be active here")
        findings.setdefault(finding.what, finding)
    return list(findings.values())
