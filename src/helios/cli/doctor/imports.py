"""The problems that only appear when plug-ins are imported and a trainer is constructed."""

import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence

from helios.cli.doctor.names import LocalSelection
from helios.cli.doctor.problem import Problem, ways_to_disable
from helios.cli.load import construct_trainer, load_plugin
from helios.errors import (
    AmbiguousPluginError,
    ConfigurationError,
    PluginError,
    PluginLoadError,
    UnknownNameError,
    UnmetRequirementError,
    describe,
    nearest,
)
from helios.plugins import PLUGIN_REGISTRY, Plugin, PluginManager
from helios.plugins.declarations.facts import deprecations
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.source import source_of
from helios.plugins.registration.order import in_order
from helios.plugins.registration.table import Registration

TRACEBACK_LINES = 6
_FOUND_BY_NAME = (UnknownNameError, AmbiguousPluginError, UnmetRequirementError)


def check_imports(local: LocalSelection, known: Sequence[Problem]) -> list[Problem]:
    """Import each plug-in that is not blocked, then construct a trainer with the usable ones.

    Args:
        local: the settings from the environment and from the project's file.
        known: the problems that were found without importing; they are not returned again.
    """
    without_module = {problem.subject for problem in known if problem.code == "missing-module"}
    problems: list[Problem] = []
    unusable: list[str] = []
    rows: list[Registration] = []
    usable: list[tuple[EntryPointRecord, Registration]] = []
    manager = PluginManager()
    for record in PLUGIN_REGISTRY.records():
        if local.selection.blocks.of_record(record) or record.missing:
            continue
        try:
            plugin = load_plugin(record, local.selection, manager, build=False)
        except Exception as error:
            unusable.append(record.qualified_name)
            if _subject(record) not in without_module:
                problems.append(_load_problem(record, error))
        else:
            problems += _check_deprecations(record, plugin.row)
            usable += [(record, plugin.row)] if plugin.row else []
            if plugin.row and record in local.allowed and _may_autoload(plugin.loaded):
                rows.append(plugin.row)
    problems += _check_order_names(usable)
    described = {problem.what for problem in [*problems, *known]}
    together = _check_trainer(local, unusable, rows)
    return problems + [problem for problem in together if problem.what not in described]


def _load_problem(record: EntryPointRecord, error: Exception) -> Problem:
    """Return the problem behind an error of :func:`load_plugin`."""
    subject = _subject(record)
    if isinstance(error, ConfigurationError):
        return Problem.from_error(error, subject)
    remedies = ways_to_disable(record)
    if not isinstance(error, PluginLoadError):
        what, _, rest = str(error).partition("\n")
        return Problem("invalid-plugin", "error", subject, what, rest, remedies)
    cause = error.__cause__
    assert cause is not None, "load() gives the original error as the cause"
    what = f"{record.value} cannot be imported: {describe(cause)}"
    if isinstance(cause, AttributeError) and record.value.partition(":")[0] in sys.modules:
        where = f"{record.name} = {record.value}, in {record.location}"
        return Problem("missing-attribute", "error", subject, what, where, remedies)
    lines = "".join(traceback.format_exception(cause)).splitlines()[-TRACEBACK_LINES:]
    return Problem("import-failed", "error", subject, what, "\n".join(lines), remedies)


def _subject(record: EntryPointRecord) -> str:
    return f"{record.name!r} of {record.distribution} {record.version}"


def _check_deprecations(record: EntryPointRecord, row: Registration | None) -> Iterator[Problem]:
    """Yield a problem for each deprecated hook and argument that a plug-in uses."""
    for message in deprecations(row.plugin, row.id) if row else ():
        remedies = (f"pip install --upgrade {shlex.quote(record.distribution)}",)
        yield Problem(
            "deprecated-hook", "warning", _subject(record), message, record.location, remedies
        )


def _check_order_names(
    usable: Sequence[tuple[EntryPointRecord, Registration]],
) -> Iterator[Problem]:
    """Yield a problem for each id in ``before`` and ``after`` that no installed plug-in has."""
    ids = {row.id for _, row in usable} | {record.name for record in PLUGIN_REGISTRY.records()}
    known = set(map(canonical, ids))
    for record, row in usable:
        for attribute, names in (("before", row.before), ("after", row.after)):
            for name in names:
                if canonical(name) not in known:
                    yield Problem(
                        "unknown-name",
                        "warning",
                        _subject(record),
                        f"{attribute} names {name!r}, but no installed plug-in has this id."
                        f"{nearest(name, ids)}",
                        source_of(row.plugin),
                        (
                            f"correct {attribute}, or ignore this warning if {name!r} need not be"
                            " installed",
                        ),
                    )


def _may_autoload(loaded: object) -> bool:
    return not (isinstance(loaded, type) and issubclass(loaded, Plugin)) or loaded.autoload


def _check_trainer(
    local: LocalSelection, unusable: Sequence[str], rows: Sequence[Registration]
) -> list[Problem]:
    """Return the problems that plug-ins have only together.

    Args:
        local: the settings from the environment and from the project's file.
        unusable: the qualified names of the plug-ins that cannot be loaded.
        rows: the table entries of the plug-ins that may be autoloaded.
    """
    _, errors = construct_trainer(unusable, with_file=local.is_readable)
    if errors:  # a trainer checks the order only after all conflicts are resolved
        try:
            in_order(rows)
        except PluginError as cycle:
            errors.append(cycle)
    problems: dict[str, Problem] = {}
    for error in errors:
        if isinstance(error, _FOUND_BY_NAME):
            continue  # ``local.problems`` has all of them
        problem = Problem.from_error(error, "the plug-ins that would be active here")
        problems.setdefault(problem.what, problem)
    return list(problems.values())
