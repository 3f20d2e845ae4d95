"""Discovery: read the plug-ins of installed distributions from their metadata.

This module imports no plug-in. It reads names, versions and entry points from files.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from helios.errors import PluginError, PluginLoadError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GROUP = "helios.plugins"
OURSELVES = "helios-trainer"

_SEPARATORS = re.compile(r"[-_.]+")  # packaging has the same, but its import takes 15 ms

_logger = logging.getLogger(__name__)


def canonical(name: str) -> str:
    """Return a name in lower case, with each run of ``-``, ``_`` and ``.`` as one ``-``."""
    return _SEPARATORS.sub("-", name).lower()


@dataclasses.dataclass(frozen=True)
class EntryPointRecord:
    """An installed plug-in, as its distribution's metadata describes it.

    Attributes:
        name: the canonical name of the entry point.
        value: the target of the entry point, ``module:attribute``.
        distribution: the name of the distribution.
        version: the version of the distribution.
        location: the folder that contains the distribution.
        missing: the requirements of the entry point's extras that are not installed.
    """

    name: str
    value: str
    distribution: str
    version: str
    location: str
    missing: tuple[str, ...] = ()

    @property
    def qualified_name(self) -> str:
        """The unique name among all distributions: ``distribution:name``."""
        return f"{canonical(self.distribution)}:{self.name}"

    def answers_to(self, name: str) -> bool:
        """Return whether a plain or qualified name, in any spelling, means this record."""
        distribution, _, plain = name.rpartition(":")
        if canonical(plain) != self.name:
            return False
        return not distribution or canonical(distribution) == canonical(self.distribution)

    def is_covered_by(self, name: str) -> bool:
        """Return whether a name means this record or its distribution."""
        return self.answers_to(name) or canonical(name) == canonical(self.distribution)

    def load(self) -> Any:
        """Import the object that the entry point names, and return it.

        Raises:
            PluginLoadError: the import failed; the original error is the cause.
        """
        from importlib_metadata import EntryPoint

        try:
            return EntryPoint(self.name, self.value.partition("[")[0].strip(), GROUP).load()
        except (Exception, SystemExit) as error:  # a module must not end the process
            raise self.load_error("could not be imported", error) from error

    def load_error(
        self, what: str, error: BaseException, kind: type[PluginError] = PluginLoadError
    ) -> PluginError:
        """Return an error for this record, with ways to switch it off."""
        if self.missing:
            names = ", ".join(self.missing)
            remedy = (
                f"Install its missing requirements ({names}):\n"
                f"  pip install {self._with_extras!r}\n"
            )
        else:
            remedy = ""
        return kind(
            f"the installed plug-in {self.name!r} {what}: {type(error).__name__}: {error}\n"
            f"  distribution: {self.distribution} {self.version}, in {self.location}\n"
            f"  entry point:  {self.name} = {self.value}\n"
            f"{remedy}Switch it off with one of:\n"
            f"  Trainer(block=[{self.name!r}])\n"
            f"  HELIOS_BLOCK_PLUGINS={self.name}\n"
            + (f"  pip uninstall {self.distribution}\n" if self.distribution != OURSELVES else "")
            + 'or skip every plug-in that fails to load: Trainer(on_load_error="skip").'
        )

    @property
    def _with_extras(self) -> str:
        """The argument of pip that installs the distribution with the entry point's extras."""
        return self.distribution + self.value.partition(":")[2].partition(" ")[2].strip()


@dataclasses.dataclass(frozen=True)
class Damage:
    """A distribution with metadata that cannot be read.

    Attributes:
        place: the folder of its metadata.
        error: the error of the attempt to read it.
    """

    place: str
    error: Exception


def discover() -> list[EntryPointRecord]:
    """Return a record for each entry point of the group, sorted by name and distribution.

    The function logs and skips a distribution with unreadable metadata. If a distribution occurs
    twice on ``sys.path``, the first one counts, as for ``import``.
    """
    records, damages = survey()
    for damage in damages:
        _logger.error(
            "cannot read the metadata of %s, so it is skipped", damage.place, exc_info=damage.error
        )
    return records


def survey() -> tuple[list[EntryPointRecord], list[Damage]]:
    """Return the records as :func:`discover` does, and the distributions that it skips."""
    from importlib_metadata import distributions

    records: dict[str, list[EntryPointRecord]] = {}
    damages = []
    for distribution in distributions():
        try:
            # Most distributions offer no plug-in, and parsing takes longer than this check.
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            if not _is_shadowed(distribution):
                records.setdefault(canonical(distribution.name), _records(distribution))
        except Exception as error:
            damages.append(Damage(place_of(distribution), error))
    found = [record for per_distribution in records.values() for record in per_distribution]
    return sorted(found, key=lambda record: (record.name, record.qualified_name)), damages


def place_of(distribution: Any) -> str:
    """Return the folder of a distribution's metadata."""
    # importlib_metadata has no public name for it.
    return str(getattr(distribution, "_path", distribution))


def _is_shadowed(candidate: Any) -> bool:
    """Return whether another copy of a distribution comes first on ``sys.path``."""
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
    """Return the requirements of an entry point's extras that are not installed."""
    if not extras:
        return ()
    unmet = unmet_requirements(distribution, extras)
    return tuple(f"{requirement.name}{requirement.specifier}" for requirement, _ in unmet)


def unmet_requirements(
    distribution: Any, extras: Sequence[str] = ()
) -> Iterator[tuple["Requirement", str | None]]:
    """Yield each unmet requirement with the installed version, or with ``None``.

    Args:
        distribution: the distribution that has the requirements.
        extras: the extras of the distribution. If any are given, the function checks only the
            requirements that the extras add; otherwise only those of the distribution itself.

    Raises:
        InvalidRequirement: a requirement cannot be parsed.
    """
    from importlib_metadata import PackageNotFoundError, version
    from packaging.requirements import Requirement

    for text in distribution.requires or ():
        requirement = Requirement(text)
        is_needed = _applies(requirement, "")
        if extras:
            is_needed = not is_needed and any(_applies(requirement, extra) for extra in extras)
        if is_needed:
            try:
                installed = version(requirement.name)
            except PackageNotFoundError:
                installed = None
            if installed is None or not requirement.specifier.contains(installed, True):
                yield requirement, installed


def _applies(requirement: "Requirement", extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
