"""The distribution that a piece of code belongs to, found by its file.

A top-level name does not tell: two distributions may share a namespace package. Only the files of
distributions that may own the code are read, and damaged metadata of others has no effect.
"""

import contextlib
import csv
import dataclasses
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pathlib
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from helios.errors import printable
from helios.plugins.discovery.entry_points import OURSELVES, EntryPointRecord
from helios.plugins.discovery.installed import records
from helios.plugins.discovery.metadata import canonical, identity_of, place_of
from helios.plugins.discovery.search_path import state_of_path
from helios.plugins.discovery.source import source_of


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of the code of a plug-in.

    Attributes:
        distribution: the name of its distribution; empty if the code is not installed.
        version: the version of the distribution.
        source: ``file:line`` of the definition.
        implementation: ``module:name`` of the definition.
    """

    distribution: str
    version: str
    source: str
    implementation: str

    def __str__(self) -> str:
        if not self.distribution:
            return "not installed"
        return printable(f"{self.distribution} {self.version}")


def origin_of(plugin: object, record: EntryPointRecord | None) -> Origin:
    """Return the origin of a plug-in.

    Args:
        plugin: the plug-in, or its class.
        record: the entry point of an installed plug-in; otherwise ``None``.
    """
    if inspect.ismodule(plugin):
        implementation = plugin.__name__
    else:
        definition = plugin if inspect.isclass(plugin) else type(plugin)
        implementation = f"{definition.__module__}:{definition.__qualname__}"
    owner = (record.distribution, record.version) if record else owner_of(plugin)
    return Origin(*owner, source_of(plugin), implementation)


def locate(plugin: object, plug_id: str) -> str:
    """Return the id, distribution, version and source of a plug-in, for a message about it."""
    origin = origin_of(plugin, None)
    distribution = f"{origin}, " if origin.distribution else ""
    return f"plug-in {plug_id!r} ({distribution}{source_of(plugin)})"


def owner_of(plugin: object) -> tuple[str, str]:
    """Return name and version of the distribution of a plug-in's code; empty if not installed.

    Args:
        plugin: a plug-in, or the class, function or module of one.
    """
    has_module = inspect.isclass(plugin) or inspect.isroutine(plugin)
    definition = plugin if has_module else type(plugin)
    module = plugin.__name__ if inspect.ismodule(plugin) else definition.__module__
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    return _owner(str(module), file) if isinstance(file, str) else owner_of_module(str(module))


def owner_of_module(module: str) -> tuple[str, str]:
    """Return name and version of the distribution of a module, without importing it."""
    file = _file_of(module)
    return _owner(module, file) if file is not None else ("", "")


def missing_part(module: str) -> str | None:
    """Return the first part of a dotted name that does not exist; import none of them."""
    for name, spec in _specs(module):
        if spec is None:
            return name
    return None


def _file_of(module: str) -> str | None:
    found = None
    for _, spec in _specs(module):
        found = spec.origin if spec else None
    return found if found and os.path.isabs(found) else None


def _specs(module: str) -> Iterator[tuple[str, importlib.machinery.ModuleSpec | None]]:
    """Yield each part of a dotted name with its spec, until one does not exist.

    ``importlib.util.find_spec`` of a dotted name would import the parents.
    """
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that was created by hand has no spec
        return
    name = top
    yield name, spec
    for part in below:
        if spec is None:
            return
        name = f"{name}.{part}"
        folders = spec.submodule_search_locations
        spec = importlib.machinery.PathFinder.find_spec(name, folders) if folders else None
        yield name, spec


# The search.

_known: tuple[Any, dict[str, tuple[str, str]]] = (None, {})


def _owner(module: str, file: str) -> tuple[str, str]:
    """Return the owner of a file, from memory if nothing was installed since."""
    global _known
    state = state_of_path()
    if _known[0] != state:
        _known = state, {}
    owners = _known[1]
    if file not in owners:
        distribution = _lister_of(file) or _editable_of(module, file)
        if distribution is not None:
            owners[file] = identity_of(distribution)
        else:
            owners[file] = _owner_by_entry_point(module)
    return owners[file]


def _distributions() -> Iterator[tuple[str, str, Any]]:
    """Yield folder, name of the metadata's folder, and object of each distribution."""
    # PyTorch has imported this module, and every finder answers it.
    with contextlib.suppress(Exception):  # a finder of a stranger may fail
        for distribution in importlib.metadata.distributions():
            folder, name = os.path.split(place_of(distribution).rstrip("/\\"))
            yield os.path.abspath(folder), name, distribution


def _lister_of(file: str) -> Any:
    """Return the distribution whose list of files contains a file, or ``None``."""
    around: list[tuple[bool, str, Any]] = []
    for folder, name, distribution in _distributions():
        if file.startswith(os.path.join(folder, "")):
            path = file[len(folder) + 1 :].replace(os.sep, "/")
            top = path.partition("/")[0].partition(".")[0]
            is_likely = canonical(name).startswith(canonical(top))
            around.append((not is_likely, path, distribution))
    around.sort(key=lambda candidate: candidate[0])
    return next((found for _, path, found in around if _lists(found, path)), None)


def _lists(distribution: Any, path: str) -> bool:
    try:
        text = distribution.read_text("RECORD")
        if text is None:  # an .egg-info folder
            lines = (distribution.read_text("top_level.txt") or "").split()
            return path.partition("/")[0].partition(".")[0] in lines
        if path not in text:
            return False
        rows = csv.reader(line for line in text.splitlines() if path in line)
        return any(row[0] == path for row in rows if row)
    except Exception:  # damage to a stranger's metadata has no effect
        return False


def _editable_of(module: str, file: str) -> Any:
    """Return the editable distribution that has put a file on the path, or ``None``."""
    found: list[tuple[int, Any]] = []
    for folder, name, distribution in _distributions():
        try:
            with open(os.path.join(folder, name, "direct_url.json"), "rb") as stream:
                url = json.load(stream)
            project = _project(url)
            is_within = project and file.startswith(os.path.join(project, ""))
            if project and is_within and _puts_on_path(distribution, folder, module, file):
                found.append((len(project), distribution))
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            continue
    return max(found, key=lambda pair: pair[0], default=(0, None))[1]


def _project(url: Any) -> str | None:
    """Return the folder of the project of an editable installation."""
    if not url.get("dir_info", {}).get("editable"):
        return None
    return urllib.request.url2pathname(urllib.parse.urlparse(url["url"]).path)


def _puts_on_path(distribution: Any, folder: str, module: str, file: str) -> bool:
    """Return whether an editable installation makes a module importable."""
    top = module.partition(".")[0]
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        path = pathlib.Path(folder, row[0]) if row else pathlib.Path()
        if path.suffix == ".pth":
            lines = path.read_text(encoding="utf-8").splitlines()
            if any(line and file.startswith(os.path.join(line.strip(), "")) for line in lines):
                return True
        elif path.suffix == ".py" and path.name.startswith("__editable__"):  # of setuptools
            return re.search(rf"['\"]{re.escape(top)}['\"]\s*:", path.read_text()) is not None
    return False


def _owner_by_entry_point(module: str) -> tuple[str, str]:
    """Return the owner that offers a plug-in of the same package; a copy lists no files."""
    package = _root_package(module)
    if package is None:
        return "", ""
    owners = {
        (record.distribution, record.version)
        for record in records()
        if f"{record.module}.".startswith(f"{package}.")
    }
    namesakes = OURSELVES if package == "helios" else canonical(package)
    same = [owner for owner in owners if canonical(owner[0]) == namesakes]
    likely = same or list(owners)
    return likely[0] if len(likely) == 1 else ("", "")


def _root_package(module: str) -> str | None:
    """Return the topmost package of a module that one distribution has for itself."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), "__file__", None):  # no namespace package
            return package if package != "__main__" else None
    return None
