"""The registry of plug-ins: decorated classes and the entry points of installed packages."""

from collections.abc import Iterator, KeysView
from typing import Any

from helios.core import Registry
from helios.errors import (
    AmbiguousPluginError,
    PluginFacts,
    UnknownNameError,
    kind_of,
    nearest,
)
from helios.plugins.discovery import installed
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.provenance import origin_of, owner_of
from helios.plugins.discovery.source import source_of

RESERVED = "helios-"
"""A name that begins like this is a distribution's, unless a plug-in is named in full."""


class PluginRegistry(Registry):
    """A registry that also contains the installed plug-ins, without importing them.

    The registry compares names of decorated classes exactly, and names of entry points in their
    canonical form (``Mix_Up`` equals ``mix-up``). ``distribution:name`` names the plug-in of one
    distribution.
    """

    def refresh(self) -> list[EntryPointRecord]:
        """Read the metadata of the installed distributions again, and return all records."""
        return installed.refresh()

    def records(self, name: str | None = None) -> list[EntryPointRecord]:
        """Return the installed plug-ins.

        The registry reads their metadata once, and again if something was installed or
        ``sys.path`` has changed.

        Args:
            name: the plain or qualified name of the plug-ins; ``None`` for all.
        """
        found = installed.records()
        return [record for record in found if name is None or record.answers_to(name)]

    def record(self, name: str) -> EntryPointRecord | None:
        """Return the installed plug-in with this name, or ``None``.

        Raises:
            AmbiguousPluginError: several distributions offer the name, or it is also the name of
                another distribution.
        """
        found = self.records(name)
        if self._names_a_distribution(name):
            for record in found:
                if canonical(record.distribution) != canonical(name):
                    raise AmbiguousPluginError(
                        f"{name!r} is the name of a distribution, but {record.distribution}"
                        f" {record.version} offers a plug-in of this name. Write"
                        f" {record.qualified_name!r} for that plug-in."
                    )
        if len(found) > 1:
            facts = [PluginFacts(r.name, r.distribution, r.version, r.value) for r in found]
            raise _ambiguous(name, [_offer(record) for record in found], found[0]).about(facts)
        return found[0] if found else None

    def _names_a_distribution(self, name: str) -> bool:
        """Return whether a name without ``:`` is, or by convention would be, a distribution's."""
        plain = canonical(name)
        if ":" in name:
            return False
        return plain.startswith(RESERVED) or any(
            canonical(record.distribution) == plain for record in self.records()
        )

    def offered(self, name: str, source: str) -> list[EntryPointRecord]:
        """Return the plug-ins that an allow-list means by a name.

        The plug-ins of the distribution with this name come first. Only if there is none, the name
        may be that of a plug-in.

        Args:
            name: the name of a plug-in, ``distribution:name``, or the name of a distribution.
            source: the argument, variable or key that contains the name.

        Raises:
            AmbiguousPluginError: several distributions offer the name.
            UnknownNameError: the name is unknown; the message suggests the nearest names.
        """
        plain = canonical(name)
        records = [r for r in self.records() if canonical(r.distribution) == plain]
        if records:
            return [record for record in records if record.name == plain] or records
        record = self.record(name)
        if record is None:
            raise self.unknown(name, source)
        return [record]

    def means_something(self, name: str) -> bool:
        """Return whether a plug-in, or a distribution with plug-ins, has this name."""
        return name in self or any(record.is_covered_by(name) for record in self.records())

    def is_decorated(self, name: str) -> bool:
        """Return whether a name means a class that code has registered.

        Raises:
            AmbiguousPluginError: an installed plug-in of another distribution has the name, too.
        """
        if name not in self._objects or ":" in name:
            return False
        rivals = self.records(name)
        if not rivals:
            return True
        owner, version = owner_of(self._objects[name])
        if all(canonical(record.distribution) == canonical(owner) for record in rivals):
            return False
        decorated = f"  {name}  ({owner or 'not installed'} {version}".rstrip()
        decorated += f", registered in {source_of(self._objects[name])})"
        raise _ambiguous(name, [decorated, *map(_offer, rivals)], rivals[0])

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
        if not isinstance(name, str):
            raise UnknownNameError(
                f"no plug-in is called {name!r}, which is a {kind_of(name)}: write the name"
                ' as a string, "ema".'
            )
        if self.is_decorated(name) or (suffix and f"{name}_{suffix}" in self._objects):
            return super().get(name, suffix)
        if not self.records(name):
            self.refresh()  # somebody may have installed it a moment ago
        record = self.record(name)
        return record.load() if record else super().get(name, suffix)

    def names_of(self, obj: object) -> list[str]:
        """Return the names under which code has registered a class, or the class of an object."""
        return [name for name, kind in self._objects.items() if kind in (obj, type(obj))]

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


def _offer(record: EntryPointRecord) -> str:
    return f"  {record.qualified_name}  ({record.distribution} {record.version}, {record.value})"


def _ambiguous(name: str, offers: list[str], example: EntryPointRecord) -> AmbiguousPluginError:
    several = "\n".join(offers)
    return AmbiguousPluginError(
        f"several distributions offer a plug-in called {name!r}:\n{several}\n"
        f"Write the full name, for example {example.qualified_name!r}, or uninstall the"
        " others."
    )
