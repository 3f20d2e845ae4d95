"""The installed plug-ins: discovered once per process, and again after something was installed."""

from typing import Any

from helios.plugins.discovery.entry_points import EntryPointRecord, discover
from helios.plugins.discovery.search_path import state_of_path

_known: tuple[Any, list[EntryPointRecord]] = (None, [])


def refresh() -> list[EntryPointRecord]:
    """Read the metadata of the installed distributions again, and return all records."""
    global _known
    import importlib_metadata  # noqa: F401 - adds a finder, which is part of the state

    _known = state_of_path(), discover()
    return _known[1]


def records() -> list[EntryPointRecord]:
    """Return all records; discover them anew if something was installed or the path changed."""
    state, known = _known
    return known if state == state_of_path() else refresh()
