"""What the environment and the project's file say of plug-ins, held against what is installed."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from helios.cli.finding import Finding
from helios.errors import ConfigurationError, HeliosError, UnmetRequirementError, nearest
from helios.plugins import PLUGIN_REGISTRY
from helios.plugins.configuration import Configuration, read_configuration
from helios.plugins.discovery import EntryPointRecord
from helios.plugins.selection import Allowed, Selection


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a trainer that is constructed here, without arguments, is told.

    Attributes:
        selection: what environment and file say; the file says nothing if it cannot be read.
        allowed: the installed plug-ins that may be autoloaded.
        findings: what is wrong with it.
        is_readable: whether the file can be read.
    """

    selection: Selection
    allowed: list[EntryPointRecord]
    findings: list[Finding]
    is_readable: bool

    @classmethod
    def gather(cls, environ: Mapping[str, str] = os.environ) -> "Wishes":
        """Read environment and file anew."""
        findings = []
        configured, is_readable = Configuration(), True
        try:
            configured = read_configuration()
        except ConfigurationError as error:
            is_readable = False
            findings.append(Finding.of(error, "[tool.helios]"))
        selection = Selection.gather((), True, (), "raise", environ, configured)
        records = PLUGIN_REGISTRY.refresh()
        allowed: list[EntryPointRecord] = []
        if isinstance(selection.autoload, bool):
            allowed = records if selection.autoload else []
        for text in selection.autoload if isinstance(selection.autoload, tuple) else ():
            try:
                entry = Allowed.parse(text, selection.autoload_source)
                for record in PLUGIN_REGISTRY.offered(entry.name, entry.source):
                    allowed.append(record)
                    entry.check(record)
            except UnmetRequirementError as error:
                ways = (f"pip install {shlex.quote(f'{record.distribution}{entry.requirement}')}",)
                findings.append(Finding.of(error, f"autoload entry {text!r}", ways))
            except HeliosError as error:
                findings.append(Finding.of(error, f"autoload entry {text!r}", _ways(text)))
        findings += _unknown_names(selection)
        return cls(selection, allowed, findings, is_readable)


def _unknown_names(selection: Selection) -> Iterator[Finding]:
    """Yield findings for names that mean no plug-in, or several."""
    configured = selection.configured
    used = [(str(name), source) for name, source in selection.explicit]
    used += [(name, configured.key("plugins", name)) for name in configured.plugins]
    for name, source in used:
        try:
            if not PLUGIN_REGISTRY.is_decorated(name) and PLUGIN_REGISTRY.record(name) is None:
                raise PLUGIN_REGISTRY.unknown(name, source)
        except HeliosError as error:
            yield Finding.of(error, f"{name!r} in {source}", _ways(name))
    for name, source in selection.blocked.items():
        if not PLUGIN_REGISTRY.means_something(name):
            near = nearest(name, PLUGIN_REGISTRY.keys())
            yield Finding(
                "unknown-name",
                "warning",
                f"{name!r} in {source}",
                f"{source} blocks {name!r}, but no installed plug-in has this name.{near}",
                "Unless it is the id of a plug-in whose entry point is called otherwise.",
                _ways(name),
            )


def _ways(name: str) -> tuple[str, ...]:
    """Return what may be written instead of a name."""
    several = [record.qualified_name for record in PLUGIN_REGISTRY.records(name)]
    near = get_close_matches(name.lower(), PLUGIN_REGISTRY.keys(), n=1)
    instead = tuple(f"write {known!r} instead" for known in several or near)
    if several:
        return instead
    return (*instead, f"take {name!r} out", "install the distribution that offers it")
