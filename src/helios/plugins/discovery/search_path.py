"""The state of ``sys.path``, so that discovery runs again only if something was installed."""

import os
import sys
from typing import Any

_contents: dict[str, tuple[int, Any]] = {}


def state_of_path() -> tuple[Any, ...]:
    """Return a value that changes if a distribution is installed or removed, or the path does.

    The time of a folder alone does not tell: Python changes it when it creates ``__pycache__``.
    """
    contents = tuple((str(entry), _content(entry or os.curdir)) for entry in sys.path)
    finders = [id(f) for f in sys.meta_path if hasattr(f, "find_distributions")]
    return contents, os.getcwd(), tuple(finders)


def _content(entry: str) -> Any:
    """Return names and times of the metadata in a folder; read it again only if it has changed."""
    try:
        changed = os.stat(entry).st_mtime_ns
        if _contents.get(entry, (None,))[0] != changed:
            _contents[entry] = changed, _metadata_in(entry, changed)
        return _contents[entry][1]
    except (OSError, TypeError, ValueError):  # no such folder, or no path at all
        return None


def _metadata_in(entry: str, changed: int) -> Any:
    try:
        with os.scandir(entry) as found:
            return tuple(
                sorted(
                    (child.name, child.stat().st_mtime_ns)
                    for child in found
                    if child.name.endswith((".dist-info", ".egg-info"))
                )
            )
    except NotADirectoryError:  # a wheel or another archive
        return changed
