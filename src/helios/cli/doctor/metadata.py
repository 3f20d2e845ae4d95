"""The problems in the files of installed distributions; nothing is imported."""

import base64
import csv
import dataclasses
import hashlib
import pathlib
import platform
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from helios.cli.doctor.problem import Problem, Severity, reinstall_command, ways_to_disable
from helios.plugins.discovery.entry_points import OURSELVES, EntryPointRecord, refusal, survey
from helios.plugins.discovery.metadata import (
    GROUP,
    canonical,
    entries_of,
    place_of,
    unmet_requirements,
    verified_identity,
)
from helios.plugins.discovery.provenance import missing_part


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
        offers = _mentions_us(distribution)
        if place.is_dir() and (leftover := _leftover(place, offers)) is not None:
            yield leftover
            continue
        try:
            copy = Copy(distribution, place, *verified_identity(distribution), offers)
        except Exception as error:  # parsers of damaged files raise errors of any type
            if offers:
                yield _unreadable(place, error)
        else:
            yield copy


def _mentions_us(distribution: Any) -> bool:
    """Return whether a line of the entry points is, or nearly is, the header of our group."""
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:
        return GROUP.encode() in error.object
    except Exception:  # a stranger's file
        return False
    return any(line.strip("[] \t") == GROUP for line in text.splitlines())


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
        yield Problem(
            "duplicate-distribution",
            "error" if other.version != first.version else "warning",
            str(first),
            f"it is installed twice: Python uses {first.version}, which comes first on sys.path"
            f" and hides {other.version}",
            f"  {first.place}\n  {other.place}",
            _ways_to_one_copy(first, other),
        )


def _ways_to_one_copy(first: Copy, other: Copy) -> tuple[str, ...]:
    """Return the remedies; only a copy without its files is one that may be removed."""
    if _is_whole(first) == _is_whole(other):
        folders = dict.fromkeys([first.place.parent, other.place.parent])
        return (
            f"decide which version you want, and take the folder of the other off sys.path"
            f" (PYTHONPATH, or a .pth file): {' or '.join(map(str, folders))}",
        )
    rest = other if _is_whole(first) else first
    return (
        f"rm -r {shlex.quote(str(rest.place))}    # its files are missing",
        f"remove {rest.place.parent} from PYTHONPATH, if it is listed there",
    )


def _is_whole(copy: Copy) -> bool:
    """Return whether a copy has files beside its metadata, and all of them exist."""
    try:
        rows = csv.reader((copy.distribution.read_text("RECORD") or "").splitlines())
        inside = f"{copy.place.name}/"
        paths = [row[0] for row in rows if row and not row[0].startswith(inside)]
        return bool(paths) and all(copy.distribution.locate_file(p).exists() for p in paths)
    except Exception:  # parsers of damaged files raise errors of any type
        return False


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
    from importlib_metadata import EntryPoint

    try:
        entries = entries_of(copy.distribution)
    except Exception as error:  # the parser raises errors of any type
        return _damaged(copy, f"cannot be parsed: {error}")
    if copy.offers and not entries:
        return _damaged(copy, f"mentions {GROUP}, but names no plug-in")
    return [EntryPoint(name, value, GROUP) for name, value in entries]


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
    if (reason := refusal(module, copy.name)) is not None:
        what = f"its entry point cannot be used: {reason}"
        yield Problem("malformed-entry-point", "error", subject, what, where, (remove,))
        return
    missing = missing_part(module)
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
