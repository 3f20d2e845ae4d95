"""Blocked plug-ins: a block wins, however a plug-in comes to the table."""

import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.provenance import owner_of, owner_of_module
from helios.plugins.plans.plan import Inactive
from helios.plugins.plugin import PLUGIN_REGISTRY

_logger = logging.getLogger(__name__)


class Blocks:
    """The names that are blocked, each with its source.

    Args:
        names: the name of a plug-in, ``distribution:name``, the name of a distribution, or an id;
            each with the argument, variable or key that blocks it.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {name.strip(): source for name, source in names.items()}
        self._matched: set[str] = set()

    def of_name(self, name: str) -> str | None:
        """Return the source that blocks an id or another name, or ``None``."""
        return self._first(canonical(blocked) == canonical(name) for blocked in self._names)

    def of_record(self, record: EntryPointRecord) -> str | None:
        """Return the source that blocks an installed plug-in, or ``None``.

        An entry point that names a module of a blocked distribution is blocked, too.
        """
        source = self._first(map(record.is_covered_by, self._names))
        if source is not None or not self._names:
            return source
        owner, _ = owner_of_module(record.module)
        return self.of_name(owner) if owner else None

    def of_plugin(self, plugin: object, plug_id: str = "") -> str | None:
        """Return the source that blocks a plug-in, or ``None``.

        Args:
            plugin: a plug-in, or the class, function or module of one.
            plug_id: its id, if it is known.
        """
        if not self._names:
            return None
        owner, _ = owner_of(plugin)
        names = {plug_id, owner, f"{owner}:{plug_id}"} | set(PLUGIN_REGISTRY.names_of(plugin))
        for name in filter(None, names):
            if (source := self.of_name(name)) is not None:
                return source
        for record in _records_of(plugin):
            if (source := self._first(map(record.is_covered_by, self._names))) is not None:
                return source
        return None

    def leave_out(
        self,
        plugin: object,
        plug_id: str,
        requested: str,
        inactive: list[Inactive],
        record: EntryPointRecord | None = None,
    ) -> bool:
        """Return whether a plug-in is blocked; if so, log a warning and list it as inactive.

        Args:
            plugin: the plug-in.
            plug_id: its id.
            requested: the words that say how it was requested; empty if nobody has, so that no
                warning is due.
            inactive: the list of inactive plug-ins.
            record: the entry point of an installed plug-in.
        """
        source = self.of_plugin(plugin, plug_id)
        if source is None and record is not None:
            source = self.of_record(record)
        if source is None:
            return False
        if requested:
            _logger.warning("plug-in %r, %s, is blocked by %s", plug_id, requested, source)
        name = record.name if record else plug_id
        owner = (record.distribution, record.version) if record else owner_of(plugin)
        line = Inactive(name, *owner, f"blocked by {source}")
        if line not in inactive:
            inactive.append(line)
        return True

    def unmatched(self) -> Iterator[tuple[str, str]]:
        """Yield each name that means no plug-in, with its source."""
        for name, source in self._names.items():
            if name not in self._matched and not PLUGIN_REGISTRY.means_something(name):
                yield name, source

    def _first(self, answers: Any) -> str | None:
        """Return the source of the first name with a positive answer, and note all such names."""
        found = [name for name, answer in zip(self._names, answers, strict=True) if answer]
        self._matched.update(found)
        return self._names[found[0]] if found else None


def _records_of(plugin: object) -> Iterator[EntryPointRecord]:
    """Yield the entry points that name a plug-in or its class; import nothing."""
    has_own = inspect.isclass(plugin) or inspect.isroutine(plugin)
    definition = plugin if has_own else type(plugin)
    for record in PLUGIN_REGISTRY.records():
        target: Any = sys.modules.get(record.module)
        for part in filter(None, record.attribute.split(".")):
            target = getattr(target, part, None)
        if target is not None and (target is plugin or target is definition):
            yield record
