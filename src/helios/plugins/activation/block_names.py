"""Blocked names that no plug-in has; misspelt ones are found before any plug-in is imported."""

import warnings
from collections.abc import Collection, Iterator
from difflib import get_close_matches

from helios.errors import HeliosError, UnknownNameError, nearest, printable
from helios.plugins.activation.selection import BLOCK_ARGUMENT, BLOCK_VARIABLE
from helios.plugins.discovery.metadata import canonical
from helios.plugins.plugin import PLUGIN_REGISTRY
from helios.plugins.registration.blocks import Blocks


def find_misspelt(blocks: Blocks, ids: Collection[str]) -> Iterator[HeliosError]:
    """Iterate over errors about names that are almost those of plug-ins; read metadata only.

    Other unknown names may be ids, which are known when all plug-ins are built.

    Args:
        blocks: the blocked names.
        ids: the ids of the plug-ins that the user has passed.
    """
    for name, source in blocks.unmatched():
        wanted = canonical(name)
        known = map(canonical, PLUGIN_REGISTRY.keys())
        meant = get_close_matches(wanted, [*known], n=1, cutoff=0.85)
        may_be_id = source != BLOCK_ARGUMENT or wanted in map(canonical, ids)
        if meant and not may_be_id and wanted.rstrip("s") != meant[0].rstrip("s"):
            yield _unknown(name, source)


def find_unknown(blocks: Blocks) -> Iterator[HeliosError]:
    """Iterate over errors about names that no plug-in has; outside of Python code, warn."""
    for name, source in blocks.unmatched():
        if source == BLOCK_ARGUMENT or _are_several(name):
            yield _unknown(name, source)
        else:
            warnings.warn(_story(name, source), stacklevel=5)


def _unknown(name: str, source: str) -> UnknownNameError:
    if _are_several(name):
        remedy = "To block several plug-ins, write a comma between their names."
    else:
        remedy = (
            "Correct the name, or remove it. To block a plug-in that comes later, write"
            f" {BLOCK_VARIABLE}={printable(name)}."
        )
    return UnknownNameError(f"{_story(name, source)} {remedy}")


def _story(name: str, source: str) -> str:
    near = nearest(name, PLUGIN_REGISTRY.keys())
    return f"{source} blocks {name!r}, but no plug-in with this name is installed.{near}"


def _are_several(name: str) -> bool:
    """Return whether a blocked name is a list of names with another separator than a comma."""
    parts = name.replace(";", " ").split()
    return len(parts) > 1 and any(map(PLUGIN_REGISTRY.means_something, parts))
