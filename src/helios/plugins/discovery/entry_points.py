"""Discovery: read the plug-ins of installed distributions from their metadata.

This module imports no plug-in. It reads names, versions and entry points from files.
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from helios.errors import InvalidPluginError, PluginError, PluginLoadError, describe
from helios.plugins.discovery.configuration import setting
from helios.plugins.discovery.metadata import (
    GROUP,
    canonical,
    entries_of,
    place_of,
    unmet_requirements,
    verified_identity,
)

OURSELVES = "helios-trainer"

_logger = logging.getLogger(__name__)


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

    @property
    def module(self) -> str:
        """The dotted name of the module that the entry point names."""
        return self.value.partition("[")[0].partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        """The dotted name of the object in that module; may be empty."""
        return self.value.partition("[")[0].partition(":")[2].strip()

    def load(self) -> Any:
        """Import the object that the entry point names, and return it.

        Raises:
            PluginLoadError: the import failed; the original error is the cause.
            InvalidPluginError: the entry point names a module that is not a plug-in's.
        """
        from importlib_metadata import EntryPoint

        if (reason := refusal(self.module, self.distribution)) is not None:
            error = InvalidPluginError(reason)
            raise self.load_error("is not valid", error, InvalidPluginError) from error
        try:
            return EntryPoint(self.name, self.value.partition("[")[0].strip(), GROUP).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module must not end the process
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
            f"the installed plug-in {self.name!r} {what}: {describe(error)}\n"
            f"  distribution: {self.distribution} {self.version}, in {self.location}\n"
            f"  entry point:  {self.name} = {self.value}\n"
            f"{remedy}Switch it off with one of:\n"
            f"  Trainer(block=[{self.name!r}])\n"
            f"  HELIOS_BLOCK_PLUGINS={self.name}\n"
            f"  {setting('block', [self.name])}    in [tool.helios] of pyproject.toml\n"
            f"{self._removal}"
            'or skip every plug-in that fails to load: Trainer(on_load_error="skip").'
        )

    @property
    def _removal(self) -> str:
        """The line that tells how to remove the distribution; empty for Helios itself."""
        if canonical(self.distribution) == OURSELVES:
            return ""
        if os.path.isfile(self.location):  # a wheel or another archive on the path
            return f"  remove {self.location} from sys.path or PYTHONPATH\n"
        return f"  pip uninstall {self.distribution}\n"

    @property
    def _with_extras(self) -> str:
        """The argument of pip that installs the distribution with the entry point's extras."""
        return self.distribution + self.value.partition(":")[2].partition(" ")[2].strip()


def refusal(module: str, distribution: str) -> str | None:
    """Return the reason why a module cannot be the home of a plug-in, or ``None``.

    Args:
        module: the dotted name of the module that an entry point names.
        distribution: the name of the distribution that has the entry point.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "__main__":
        return f"{module} is a module of Python, and no plug-in"
    if top == "helios" and canonical(distribution) != OURSELVES:
        return f"{module} is a module of Helios, and not of {distribution}"
    return None


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
    """Return the records as :func:`discover` does, and the distributions that it skips.

    Of a distribution without plug-ins, the function reads only ``entry_points.txt``.
    """
    records: dict[str, list[EntryPointRecord]] = {}
    damages: list[Damage] = []
    for distribution in _distributions(damages):
        try:
            entries = entries_of(distribution)
            if not entries:
                continue
            name, version = verified_identity(distribution)
            if not _is_shadowed(distribution, name):
                found = _records(distribution, name, version, entries)
                records.setdefault(canonical(name), found)
        except Exception as error:
            damages.append(Damage(place_of(distribution), error))
    found = [record for per_distribution in records.values() for record in per_distribution]
    return sorted(found, key=lambda record: (record.name, record.qualified_name)), damages


def _distributions(damages: list[Damage]) -> Iterator[Any]:
    """Yield every distribution; a finder of a stranger that fails is a damage."""
    from importlib_metadata import distributions

    found = iter(distributions())
    while True:
        try:
            yield next(found)
        except StopIteration:
            return
        except Exception as error:
            damages.append(Damage("what a finder in sys.meta_path looks after", error))
            return


def _is_shadowed(candidate: Any, name: str) -> bool:
    """Return whether another copy of a distribution comes first on ``sys.path``.

    Raises:
        ValueError: the other copy is in the same folder, so they cannot be told apart.
    """
    from importlib_metadata import distribution

    first = distribution(name)
    if place_of(first) == place_of(candidate):
        return False
    if str(first.locate_file("")) == str(candidate.locate_file("")):
        raise ValueError(f"{place_of(first)} is the metadata of {name}, too, in the same folder")
    return True


def _records(
    distribution: Any, name: str, version: str, entries: Sequence[tuple[str, str]]
) -> list[EntryPointRecord]:
    from importlib_metadata import EntryPoint

    records = []
    for plain, value in entries:
        extras = EntryPoint(plain, value, GROUP).extras  # an error if the value is malformed
        records.append(
            EntryPointRecord(
                name=canonical(plain),
                value=value,
                distribution=name,
                version=version,
                location=str(distribution.locate_file("")).rstrip("/"),
                missing=_missing_requirements(distribution, extras),
            )
        )
    return records


def _missing_requirements(distribution: Any, extras: list[str]) -> tuple[str, ...]:
    """Return the requirements of an entry point's extras that are not installed."""
    if not extras:
        return ()
    unmet = unmet_requirements(distribution, extras)
    return tuple(f"{requirement.name}{requirement.specifier}" for requirement, _ in unmet)
