"""The names in the environment and in the project's file, compared with the installed plug-ins."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Self

from helios.cli.doctor.problem import Problem
from helios.errors import ConfigurationError, HeliosError, UnmetRequirementError, nearest
from helios.plugins import PLUGIN_REGISTRY
from helios.plugins.activation.selection import Allowed, Selection
from helios.plugins.discovery.configuration import Configuration, read_configuration
from helios.plugins.discovery.entry_points import EntryPointRecord


@dataclasses.dataclass(frozen=True)
class LocalSelection:
    """The selection of a trainer that is constructed in this folder without arguments.

    Attributes:
        selection: the settings from the environment and from the project's file; a file that
            cannot be read counts as empty.
        allowed: the installed plug-ins that may be autoloaded.
        problems: the problems of these settings.
        is_readable: true if the project's file can be read, or does not exist.
    """

    selection: Selection
    allowed: list[EntryPointRecord]
    problems: list[Problem]
    is_readable: bool

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the environment, the project's file and the metadata of the distributions."""
        problems: list[Problem] = []
        configured, is_readable = Configuration(), True
        try:
            configured = read_configuration()
        except ConfigurationError as error:
            is_readable = False
            problems.append(Problem.from_error(error, "[tool.helios]"))
        selection = Selection.gather((), True, (), "raise", environ, configured)
        installed = PLUGIN_REGISTRY.refresh()
        if isinstance(selection.autoload, bool):
            allowed = installed if selection.autoload else []
        else:
            allowed = []
            for text in selection.autoload:
                records, problem = _read_allowed(text, selection.autoload_source)
                allowed += records
                problems += [problem] if problem else []
        problems += _check_names(selection)
        return cls(selection, allowed, problems, is_readable)


def _read_allowed(text: str, source: str) -> tuple[list[EntryPointRecord], Problem | None]:
    """Return the plug-ins that an entry of an allow-list names, and the problem of the entry.

    Args:
        text: the entry.
        source: the place of the allow-list.
    """
    records: list[EntryPointRecord] = []
    subject = f"autoload entry {text!r}"
    try:
        entry = Allowed.parse(text, source)
        for record in PLUGIN_REGISTRY.offered(entry.name, entry.source):
            records.append(record)
            entry.check(record)
    except UnmetRequirementError as error:
        wanted = shlex.quote(f"{record.distribution}{entry.requirement}")
        return records, Problem.from_error(error, subject, (f"pip install {wanted}",))
    except HeliosError as error:
        return records, Problem.from_error(error, subject, _alternatives(text))
    return records, None


def _check_names(selection: Selection) -> Iterator[Problem]:
    """Yield a problem for each name that fits no plug-in, or several."""
    configured = selection.configured
    used = [(str(name), source) for name, source in selection.explicit]
    used += [(name, configured.key("plugins", name)) for name in configured.plugins]
    for name, source in used:
        try:
            if not PLUGIN_REGISTRY.is_decorated(name) and PLUGIN_REGISTRY.record(name) is None:
                raise PLUGIN_REGISTRY.unknown(name, source)
        except HeliosError as error:
            yield Problem.from_error(error, f"{name!r} in {source}", _alternatives(name))
    for name, source in selection.blocked.items():
        if not PLUGIN_REGISTRY.means_something(name):
            near = nearest(name, PLUGIN_REGISTRY.keys())
            yield Problem(
                "unknown-name",
                "warning",
                f"{name!r} in {source}",
                f"{source} blocks {name!r}, but no installed plug-in has this name.{near}",
                "Ignore this warning if it is the id of a plug-in whose entry point has another"
                " name.",
                _alternatives(name),
            )


def _alternatives(name: str) -> tuple[str, ...]:
    """Return instructions that replace a name, or do without it."""
    several = [record.qualified_name for record in PLUGIN_REGISTRY.records(name)]
    near = get_close_matches(name.lower(), PLUGIN_REGISTRY.keys(), n=1)
    instead = tuple(f"write {known!r} instead" for known in several or near)
    if several:
        return instead
    return (*instead, f"remove {name!r}", "install the distribution that offers it")
