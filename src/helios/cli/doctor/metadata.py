"""The problems in the files of installed distributions; nothing is imported."""

import base64
import csv
import dataclasses
import hashlib
import importlib.machinery
import importlib.util
import pathlib
import platform
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from helios.cli.doctor.problem import Problem, Severity, reinstall_command, ways_to_disable
from helios.plugins.discovery import OURSELVES, EntryPointRecord, survey
from helios.plugins.metadata import GROUP, canonical, place_of, unmet_requirements


@dataclasses.dataclass(frozen=True)
class Copy:
    """A distribution in one folder; other folders may hold copies with the same name.

    Attributes:
        distribution: the object from ``importlib_metadata``.
        place: the folder of its metadata.
        name: its name.
        version: its version.
        offers: true if it offers plug-ins for Helios.
    """

    distribution: Any
    place: pathlib.Path
    name: str
    version: str
    offers: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def check_metadata() -> list[Problem]:
    """Check all distributions that offer plug-ins, and the remains of removed ones."""
    copies: dict[str, list[Copy]] = {}
    problems = []
    for copy in _copies():
        if isinstance(copy, Problem):
            problems.append(copy)
        elif not any(_is_same(copy, other) for other in copies.get(canonical(copy.name), ())):
            copies.setdefault(canonical(copy.name), []).append(copy)
    for same in copies.values():
        if any(copy.offers for copy in same):
            problems += _check_duplicates(same)
        if same[0].offers or _needs_us(same[0]):
            problems += _check_copy(same[0])
    problems += _check_duplicate_names(survey()[0])
    return problems


def _is_same(copy: Copy, other: Copy) -> bool:
    return copy.place.resolve() == other.place.resolve()  # a folder may be on sys.path twice


def _copies() -> Iterator[Copy | Problem]:
    """Yield each distribution in the order of ``sys.path``, or the reason why it is unreadable."""
    from importlib_metadata import distributions

    for distribution in distributions():
        place = pathlib.Path(place_of(distribution))
        offers = GROUP.encode() in _bytes(place / "entry_points.txt")
        if place.is_dir() and (leftover := _leftover(place, offers)) is not None:
            yield leftover
            continue
        try:
            copy = Copy(distribution, place, distribution.name, distribution.version, offers)
            if not isinstance(copy.name, str) or not isinstance(copy.version, str):
                raise ValueError("METADATA has no Name or no Version")
        except Exception as error:  # parsers of damaged files raise errors of any type
            if offers:
                yield _unreadable(place, error)
        else:
            yield copy


def _bytes(path: pathlib.Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _leftover(place: pathlib.Path, offers: bool) -> Problem | None:
    """Return a problem if a removal left this folder: pip renames to ``~``, then deletes."""
    if place.name.startswith("~"):
        what = "an interrupted installation or removal left this folder, and it still counts"
    elif not any((place / name).is_file() for name in ("METADATA", "PKG-INFO")):
        what = "it has no METADATA file: an interrupted removal leaves such a folder"
    else:
        return None
    severity: Severity = "error" if offers else "warning"
    remedies = (f"rm -r {shlex.quote(str(place))}",)
    return Problem("stale-metadata", severity, place.name, what, str(place), remedies)


def _unreadable(place: pathlib.Path, error: Exception) -> Problem:
    name = re.split(r"-\d", place.name)[0]
    remove = f"rm -r {shlex.quote(str(place))}"
    return Problem(
        "unreadable-metadata",
        "error",
        place.name,
        f"its metadata cannot be read, so Helios does not see its plug-ins: {error}",
        str(place),
        (remove, f"{remove} && pip install --force-reinstall {shlex.quote(name)}"),
    )


def _check_duplicates(same: Sequence[Copy]) -> Iterator[Problem]:
    """Yield a problem for each copy that the first one hides."""
    first, *others = same
    for other in others:
        folder = other.place.parent
        yield Problem(
            "duplicate-distribution",
            "error" if other.version != first.version else "warning",
            str(first),
            f"it is installed twice: Python uses {first.version}, which comes first on sys.path"
            f" and hides {other.version}",
            f"  {first.place}\n  {other.place}",
            (
                f"pip uninstall {shlex.quote(first.name)}    # removes {first.place}",
                f"rm -r {shlex.quote(str(other.place))}",
                f"remove {folder} from PYTHONPATH, if it is listed there",
            ),
        )


def _needs_us(copy: Copy) -> bool:
    try:
        requires = copy.distribution.requires or ()
        return any(canonical(re.split(r"[^\w.-]", text)[0]) == OURSELVES for text in requires)
    except Exception:  # damage to an unrelated distribution is not reported
        return False


def _check_copy(copy: Copy) -> Iterator[Problem]:
    """Check the copy that Python uses."""
    try:
        if _is_changed(copy):
            yield _damaged(copy, "has changed since the installation, so plug-ins may be missing")
        entry_points = _entry_points(copy)
        if isinstance(entry_points, Problem):
            yield entry_points
            return
        for entry_point in entry_points:
            yield from _check_entry_point(copy, entry_point)
        if entry_points:
            yield from _check_requirements(copy)
            yield from _check_python(copy)
    except Exception as error:  # parsers of damaged files raise errors of any type
        yield _unreadable(copy.place, error)


def _is_changed(copy: Copy) -> bool:
    """Compare the entry points with the checksum in ``RECORD``, written at the installation."""
    content = _bytes(copy.place / "entry_points.txt")
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    rows = csv.reader(_bytes(copy.place / "RECORD").decode().splitlines())
    path = f"{copy.place.name}/entry_points.txt"
    return any(row[0] == path and row[1] != f"sha256={digest}" for row in rows)


def _entry_points(copy: Copy) -> list[Any] | Problem:
    try:
        entry_points = list(copy.distribution.entry_points.select(group=GROUP))
    except Exception as error:  # the parser raises errors of any type
        return _damaged(copy, f"cannot be parsed: {error}")
    if copy.offers and not entry_points:
        return _damaged(copy, f"mentions {GROUP}, but names no plug-in")
    return entry_points


def _damaged(copy: Copy, what: str) -> Problem:
    return Problem(
        "damaged-entry-points",
        "error",
        str(copy),
        f"its entry_points.txt {what}",
        str(copy.place / "entry_points.txt"),
        (reinstall_command(copy.name, copy.version), f"pip uninstall {shlex.quote(copy.name)}"),
    )


def _check_entry_point(copy: Copy, entry_point: Any) -> Iterator[Problem]:
    subject = f"{canonical(entry_point.name)!r} of {copy}"
    where = f"{entry_point.name} = {entry_point.value}, in {copy.place / 'entry_points.txt'}"
    remove = f"pip uninstall {shlex.quote(copy.name)}"
    try:
        module, attribute = entry_point.module, entry_point.attr
        parts = [*module.split("."), *(attribute or "x").split(".")]
        if not all(part.isidentifier() for part in parts):
            raise ValueError
    except (ValueError, AttributeError):
        what = "its entry point cannot be used: it does not have the form module:attribute"
        yield Problem("malformed-entry-point", "error", subject, what, where, (remove,))
        return
    missing = _missing_module(module)
    if missing is not None:
        what = f"its entry point names the module {missing!r}, which does not exist"
        ways = (reinstall_command(copy.name, copy.version), remove)
        yield Problem("missing-module", "error", subject, what, where, ways)
    # Our own extras are optional: nobody misses them before using such a plug-in.
    extras = entry_point.extras if canonical(copy.name) != OURSELVES else []
    for requirement, installed in unmet_requirements(copy.distribution, extras) if extras else ():
        wanted = f"{requirement.name}{requirement.specifier}"
        what = f"Helios skips it: it needs {wanted}, but {_installed(requirement.name, installed)}"
        install = "pip install " + shlex.quote(f"{copy.name}[{','.join(extras)}]")
        yield Problem("missing-extra", "warning", subject, what, where, (install,))


def _missing_module(module: str) -> str | None:
    """Return the first part of a dotted name that does not exist; import none of them.

    ``importlib.util.find_spec`` of a dotted name would import the parents.
    """
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was created by hand has no spec
        return None
    name = top
    for part in below:
        if spec is None:
            break
        name = f"{name}.{part}"
        folders = spec.submodule_search_locations
        spec = importlib.machinery.PathFinder.find_spec(name, folders) if folders else None
    return name if spec is None else None


def _check_requirements(copy: Copy) -> Iterator[Problem]:
    for requirement, installed in unmet_requirements(copy.distribution):
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Problem(
            "unmet-requirement",
            "error",
            str(copy),
            f"it requires {wanted}, but {_installed(requirement.name, installed)}",
            str(copy.place / "METADATA"),
            (f"pip install {shlex.quote(wanted)}", f"pip uninstall {shlex.quote(copy.name)}"),
        )


def _check_python(copy: Copy) -> Iterator[Problem]:
    from packaging.specifiers import SpecifierSet

    wanted = copy.distribution.metadata.get("Requires-Python") or ""
    if not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield Problem(
            "unmet-python",
            "error",
            str(copy),
            f"it requires Python {wanted}, but this is Python {platform.python_version()}",
            str(copy.place / "METADATA"),
            (
                f"pip install --upgrade --force-reinstall {shlex.quote(copy.name)}",
                f"pip uninstall {shlex.quote(copy.name)}",
            ),
        )


def _installed(name: str, version: str | None) -> str:
    return f"{name} {version} is installed" if version else f"{name} is not installed"


def _check_duplicate_names(records: Sequence[EntryPointRecord]) -> Iterator[Problem]:
    """Yield a problem for each name that several plug-ins have."""
    by_name: dict[str, list[EntryPointRecord]] = {}
    for record in records:
        by_name.setdefault(record.name, []).append(record)
    for name, several in by_name.items():
        if len(several) > 1:
            yield Problem(
                "duplicate-name",
                "warning",
                repr(name),
                "several installed plug-ins have this name, so the name alone is ambiguous",
                "\n".join(f"  {r.qualified_name}    {r.value}, in {r.location}" for r in several),
                tuple(way for record in several for way in ways_to_disable(record)),
            )
