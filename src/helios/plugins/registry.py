"""The registry of plug-ins: decorated classes and the entry points of installed packages."""

from collections.abc import Iterator, KeysView
from typing import Any

from helios.core import Registry
from helios.errors import AmbiguousPluginError, PluginFacts, UnknownNameError, nearest
from helios.plugins.discovery import EntryPointRecord, discover


class PluginRegistry(Registry):
    """A registry that also contains the installed plug-ins, without importing them.

    The registry compares names of decorated classes exactly, and names of entry points in their
    canonical form (``Mix_Up`` equals ``mix-up``). ``distribution:name`` names the plug-in of one
    distribution.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._records: list[EntryPointRecord] | None = None

    def refresh(self) -> list[EntryPointRecord]:
        """Read the metadata of the installed distributions again, and return all records."""
        self._records = discover()
        return self._records

    def records(self, name: str | None = None) -> list[EntryPointRecord]:
        """Return the installed plug-ins.

        Args:
            name: the plain or qualified name of the plug-ins; ``None`` for all.
        """
        records = self.refresh() if self._records is None else self._records
        return [record for record in records if name is None or record.answers_to(name)]

    def record(self, name: str) -> EntryPointRecord | None:
        """Return the installed plug-in with this name, or ``None``.

        Raises:
            AmbiguousPluginError: several distributions offer the name.
        """
        found = self.records(name)
        if len(found) > 1:
            offers = "\n".join(
                f"  {r.qualified_name}  ({r.distribution} {r.version}, {r.value})" for r in found
            )
            raise AmbiguousPluginError(
                f"several distributions offer a plug-in called {name!r}:\n{offers}\n"
                f"Write the full name, for example {found[0].qualified_name!r}, or uninstall the"
                " others."
            ).about(PluginFacts(r.name, r.distribution, r.version, r.value) for r in found)
        return found[0] if found else None

    def offered(self, name: str, source: str) -> list[EntryPointRecord]:
        """Return the installed plug-in with this name, or all of the distribution with this name.

        Args:
            name: the name of a plug-in, ``distribution:name``, or the name of a distribution.
            source: the argument, variable or key that contains the name.

        Raises:
            AmbiguousPluginError: several distributions offer the name.
            UnknownNameError: the name is unknown; the message suggests the nearest names.
        """
        record = self.record(name)
        if record is not None:
            return [record]
        records = [record for record in self.records() if record.is_covered_by(name)]
        if not records:
            raise self.unknown(name, source)
        return records

    def means_something(self, name: str) -> bool:
        """Return whether a plug-in, or a distribution with plug-ins, has this name."""
        return name in self or any(record.is_covered_by(name) for record in self.records())

    def is_decorated(self, name: str) -> bool:
        """Return whether code has registered a class with this name; it takes precedence."""
        return name in self._objects

    def get(self, name: str, suffix: str | None = None) -> Any:
        """Return the class, factory or module with this name; import it if it is installed.

        Args:
            name: the name of a decorated class or of an entry point.
            suffix: the same as in :meth:`Registry.get`.

        Raises:
            UnknownNameError: no plug-in has this name; the message suggests the nearest names.
            AmbiguousPluginError: several distributions offer the name.
            PluginLoadError: the import failed.
        """
        if name in self._objects or f"{name}_{suffix}" in self._objects:
            return super().get(name, suffix)
        if not self.records(name):
            self.refresh()  # somebody may have installed it a moment ago
        record = self.record(name)
        return record.load() if record else super().get(name, suffix)

    def unknown(self, name: str, source: str) -> UnknownNameError:
        """Return the error for a name that no plug-in has.

        Args:
            name: the name that the user wrote.
            source: the argument, variable or key that contains the name.
        """
        distributions = {record.distribution for record in self.records()}
        near = nearest(name, self.keys()) or nearest(name, distributions)
        return UnknownNameError(
            f"no plug-in is called {name!r} (named in {source}).{near}"
            f" Installed or registered: {', '.join(sorted(self.keys())) or 'none'}."
        )

    def _origin(self, obj: Any) -> str:
        from helios.plugins.plan import origin_of  # it knows plug-ins, which know this registry

        origin = origin_of(obj, None)
        return f"{super()._origin(obj)} ({origin}, {origin.source})"

    def __contains__(self, name: object) -> bool:
        return name in self._objects or (isinstance(name, str) and bool(self.records(name)))

    def keys(self) -> KeysView[str]:
        """Return the names of decorated classes and of installed plug-ins without any import."""
        return dict.fromkeys([*self._objects, *(record.name for record in self.records())]).keys()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Iterate over pairs of name and object; each step imports an installed plug-in."""
        return ((name, self.get(name)) for name in self.keys())
