"""From the metadata of installed distributions to records of the plug-ins that they offer.

Nothing is imported here: reading names, versions and entry points is reading files.
"""

import dataclasses
import logging
import pathlib
from typing import Any

from helios.errors import PluginError, PluginLoadError

GROUP = "helios.plugins"

_logger = logging.getLogger(__name__)


def canonical(name: str) -> str:
    """Return a name as it is compared: lower case, runs of ``-``, ``_`` and ``.`` as ``-``."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


@dataclasses.dataclass(frozen=True)
class EntryPointRecord:
    """An installed plug-in, as its distribution's metadata describes it.

    Attributes:
        name: the canonical name of the entry point.
        value: what it points to, ``module:attribute``.
        distribution: the name of the distribution.
        version: the version of the distribution.
        location: the folder that the distribution is installed in.
        missing: requirements of the entry point's extras that are not installed.
    """

    name: str
    value: str
    distribution: str
    version: str
    location: str
    missing: tuple[str, ...] = ()

    @property
    def qualified_name(self) -> str:
        """The name that is unique among all distributions: ``distribution:name``."""
        return f"{canonical(self.distribution)}:{self.name}"

    def answers_to(self, name: str) -> bool:
        """Whether a plain or a qualified name means this record, in any spelling."""
        distribution, _, plain = name.rpartition(":")
        if canonical(plain) != self.name:
            return False
        return not distribution or canonical(distribution) == canonical(self.distribution)

    def load(self) -> Any:
        """Import and return what the entry point names.

        Raises:
            PluginLoadError: the import failed; the cause is the original error.
        """
        from importlib_metadata import EntryPoint

        try:
            return EntryPoint(self.name, self.value.partition("[")[0].strip(), GROUP).load()
        except (Exception, SystemExit) as error:  # a module must not end the process
            raise self.load_error("could not be imported", error) from error

    def load_error(
        self, what: str, error: BaseException, kind: type[PluginError] = PluginLoadError
    ) -> PluginError:
        """Return an error for this record that says how to live without it."""
        return kind(
            f"the installed plug-in {self.name!r} {what}: {type(error).__name__}: {error}\n"
            f"  distribution: {self.distribution} {self.version}, in {self.location}\n"
            f"  entry point:  {self.name} = {self.value}\n"
            "Switch it off with one of:\n"
            f"  Trainer(block=[{self.name!r}])\n"
            f"  HELIOS_BLOCK_PLUGINS={self.name}\n"
            f"  pip uninstall {self.distribution}\n"
            'or keep going without whatever fails: Trainer(on_load_error="skip").'
        )


def discover() -> list[EntryPointRecord]:
    """Return a record for each entry point of the group, sorted by name and distribution.

    A distribution with unreadable metadata is reported in the log and left out. Of a
    distribution that is found twice, the one that comes first on ``sys.path`` counts, as it does
    for ``import``.
    """
    from importlib_metadata import distributions

    records: dict[str, list[EntryPointRecord]] = {}
    for distribution in distributions():
        try:
            # Most distributions have nothing for us: their metadata need not be parsed.
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            if not _is_shadowed(distribution):
                records.setdefault(canonical(distribution.name), _records(distribution))
        except Exception:
            _logger.exception("cannot read the metadata of %s: left out", distribution)
    found = [record for per_distribution in records.values() for record in per_distribution]
    return sorted(found, key=lambda record: (record.name, record.qualified_name))


def _is_shadowed(candidate: Any) -> bool:
    """Whether another copy of a distribution, perhaps without our entry points, comes first."""
    from importlib_metadata import distribution

    first = distribution(candidate.name)
    return str(first.locate_file("")) != str(candidate.locate_file(""))


def _records(distribution: Any) -> list[EntryPointRecord]:
    return [
        EntryPointRecord(
            name=canonical(entry_point.name),
            value=entry_point.value,
            distribution=distribution.name,
            version=distribution.version,
            location=str(pathlib.Path(distribution.locate_file(""))),
            missing=_missing_requirements(distribution, entry_point.extras),
        )
        for entry_point in distribution.entry_points.select(group=GROUP)
    ]


def _missing_requirements(distribution: Any, extras: list[str]) -> tuple[str, ...]:
    """Return what ``module:attribute [extra]`` needs beyond the distribution, and is not here."""
    from importlib_metadata import PackageNotFoundError, version
    from packaging.requirements import Requirement

    missing = []
    for text in (distribution.requires or ()) if extras else ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue  # an ordinary dependency
        if any(marker.evaluate({"extra": extra}) for extra in extras):
            try:
                installed = version(requirement.name)
            except PackageNotFoundError:
                installed = None
            if installed is None or not requirement.specifier.contains(installed, True):
                missing.append(f"{requirement.name}{requirement.specifier}")
    return tuple(missing)
