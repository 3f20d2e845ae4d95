"""The metadata of installed distributions, read with care: some of it is damaged, or lies."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GROUP = "helios.plugins"

_SEPARATORS = re.compile(r"[-_.]+")  # packaging has the same, but its import takes 15 ms
_DISTRIBUTION = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE | re.ASCII)
_ENTRY_POINT = re.compile(r"[\w.-]+", re.ASCII)


def canonical(name: str) -> str:
    """Return a name in lower case, with each run of ``-``, ``_`` and ``.`` as one ``-``."""
    return _SEPARATORS.sub("-", name).lower()


def place_of(distribution: Any) -> str:
    """Return the folder of a distribution's metadata."""
    # importlib_metadata has no public name for it.
    return str(getattr(distribution, "_path", distribution))


def entries_of(distribution: Any) -> list[tuple[str, str]]:
    """Return name and value of each entry point in the group of Helios.

    The other groups may be damaged. So may the whole file, if it does not mention the group.

    Raises:
        ValueError: the file or a line of the group cannot be read.
    """
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:
        if GROUP.encode() in error.object:
            raise
        return []
    if GROUP not in text:  # a stranger; parsing takes longer than this check
        return []
    entries: dict[str, tuple[str, str]] = {}
    for line in _lines_of_group(text):
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator or not _ENTRY_POINT.fullmatch(name) or not value.isprintable():
            raise ValueError(f"the line {line!r} of entry_points.txt is not a name and a target")
        if canonical(name) in entries:
            raise ValueError(f"entry_points.txt names two plug-ins {canonical(name)!r}")
        entries[canonical(name)] = name, value
    return list(entries.values())


def _lines_of_group(text: str) -> Iterator[str]:
    section = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif section == GROUP and line and not line.startswith("#"):
            yield line


def verified_identity(distribution: Any) -> tuple[str, str]:
    """Return name and version of a distribution.

    Raises:
        ValueError: they are missing, they are no name or version, or the metadata claims the name
            of another distribution than its folder.
    """
    fields = distribution.metadata
    name, version = fields.get("Name"), fields.get("Version")
    if not isinstance(name, str) or not _DISTRIBUTION.fullmatch(name):
        raise ValueError(f"METADATA has the Name {name!r}, which no distribution can have")
    if not isinstance(version, str) or not version or not version.isprintable():
        raise ValueError(f"METADATA has the Version {version!r}, which no distribution can have")
    stem = _stem_of(distribution)
    if stem is not None and not _is_of(stem, name):
        raise ValueError(f"METADATA claims the Name {name!r}, but belongs to {stem!r}")
    return name, version


def identity_of(distribution: Any) -> tuple[str, str]:
    """Return name and version of a distribution; those of its folder if its metadata lies."""
    try:
        return verified_identity(distribution)
    except Exception:  # parsers of damaged files raise errors of any type
        name, _, version = (_stem_of(distribution) or "").partition("-")
        return ascii(name)[1:-1], ascii(version)[1:-1]


def _stem_of(distribution: Any) -> str | None:
    """Return the name of the folder of the metadata without its ending, or ``None``."""
    folder, name = os.path.split(place_of(distribution).rstrip("/\\"))
    if name == "EGG-INFO":
        name = os.path.basename(folder)
    stem, ending = os.path.splitext(name)
    return stem if ending in (".dist-info", ".egg-info", ".egg") else None


def _is_of(stem: str, name: str) -> bool:
    """Return whether the folder of a distribution carries its name, as each installer writes it."""
    if stem.count("-") <= 1:
        return canonical(stem.partition("-")[0]) == canonical(name)
    rest = canonical(stem).removeprefix(canonical(name))  # an old tool has kept the hyphens
    return rest != canonical(stem) and re.match(r"-v?\d", rest) is not None


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
    from packaging.requirements import Requirement

    for text in distribution.requires or ():
        requirement = Requirement(text)
        is_needed = _applies(requirement, "")
        if extras:
            is_needed = not is_needed and any(_applies(requirement, extra) for extra in extras)
        if is_needed:
            installed = _installed_version(requirement.name)
            if installed is None or not requirement.specifier.contains(installed, True):
                yield requirement, installed


def _installed_version(name: str) -> str | None:
    """Return the version of a distribution; ``None`` if it is absent or its metadata is damaged."""
    from importlib_metadata import version

    try:
        return version(name)
    except Exception:  # parsers of damaged files raise errors of any type
        return None


def _applies(requirement: "Requirement", extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
