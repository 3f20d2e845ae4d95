"""The registry of plug-ins: decorated classes, and the entry points of installed packages."""

from collections.abc import Iterator, KeysView
from typing import Any

from helios.core import Registry
from helios.errors import AmbiguousPluginError, UnknownNameError, nearest
from helios.plugins.discovery import EntryPointRecord, discover


class PluginRegistry(Registry):
    """A registry that also knows the plug-ins which are installed, without importing them.

    Names of decorated classes are matched exactly, names of entry points canonically
    (``Mix_Up`` is ``mix-up``). ``distribution:name`` tells two distributions apart.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._records: list[EntryPointRecord] | None = None

    def refresh(self) -> list[EntryPointRecord]:
        """Read the metadata of the installed distributions anew and return all records."""
        self._records = discover()
        return self._records

    def records(self, name: str | None = None) -> list[EntryPointRecord]:
        """Return the installed plug-ins.

        Args:
            name: only those that answer to this plain or qualified name.
        """
        records = self.refresh() if self._records is None else self._records
        return [record for record in records if name is None or record.answers_to(name)]

    def record(self, name: str) -> EntryPointRecord | None:
        """Return the installed plug-in of this name, or ``None``.

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
                f"Write the one you mean in full, for example {found[0].qualified_name!r}, or"
                " uninstall the others."
            )
        return found[0] if found else None

    def offered(self, name: str, source: str) -> list[EntryPointRecord]:
        """Return the installed plug-in of this name, or all of the distribution of this name.

        Args:
            name: the name of a plug-in, ``distribution:name``, or the name of a distribution.
            source: where it was written.

        Raises:
            AmbiguousPluginError: several distributions offer the name.
            UnknownNameError: it means nothing; the message offers the nearest names.
        """
        record = self.record(name)
        if record is not None:
            return [record]
        whole = [record for record in self.records() if record.is_covered_by(name)]
        if not whole:
            raise self.unknown(name, source)
        return whole

    def means_something(self, name: str) -> bool:
        """Whether a name is that of a plug-in, or of a distribution that has some."""
        return name in self or any(record.is_covered_by(name) for record in self.records())

    def is_decorated(self, name: str) -> bool:
        """Whether a class of this name was registered in code, which takes precedence."""
        return name in self._objects

    def get(self, name: str, suffix: str | None = None) -> Any:
        """Return the class, factory or module of this name; an installed one is imported now.

        Args:
            name: the name of a decorated class or of an entry point.
            suffix: as in :meth:`Registry.get`.

        Raises:
            UnknownNameError: there is none; the message offers the nearest names.
            AmbiguousPluginError: several distributions offer the name.
            PluginLoadError: the import failed.
        """
        if name in self._objects or f"{name}_{suffix}" in self._objects:
            return super().get(name, suffix)
        if not self.records(name):
            self.refresh()  # it may have been installed a moment ago
        record = self.record(name)
        return record.load() if record else super().get(name, suffix)

    def unknown(self, name: str, source: str) -> UnknownNameError:
        """Return the error for a name that means no plug-in.

        Args:
            name: what was written.
            source: where it was written.
        """
        distributions = {record.distribution for record in self.records()}
        near = nearest(name, self.keys()) or nearest(name, distributions)
        return UnknownNameError(
            f"no plug-in is called {name!r} (named in {source}).{near}"
            f" Installed or registered: {', '.join(sorted(self.keys())) or 'none'}."
        )

    def __contains__(self, name: object) -> bool:
        return name in self._objects or (isinstance(name, str) and bool(self.records(name)))

    def keys(self) -> KeysView[str]:
        """Return the names of decorated classes and of installed plug-ins; imports nothing."""
        return dict.fromkeys([*self._objects, *(record.name for record in self.records())]).keys()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Iterate over pairs of name and object; imports the installed plug-ins as it goes."""
        return ((name, self.get(name)) for name in self.keys())
