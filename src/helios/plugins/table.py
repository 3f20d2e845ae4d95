"""The plug-in table: a row for each active plug-in, and the mapping that users see."""

import dataclasses
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from helios.errors import InvalidPluginError
from helios.plugins import declarations
from helios.plugins.discovery import EntryPointRecord

if TYPE_CHECKING:
    from helios.plugins.manager import PluginManager


@dataclasses.dataclass(frozen=True, eq=False)
class Registration:
    """A row of the plug-in table.

    Attributes:
        id: the plug-in's id.
        plugin: the plug-in.
        number: its place in the order of registration.
        reason: why it is active.
        explicit: it was asked for by name or instance, rather than autoloaded.
        record: the entry point that it was loaded from, if it was.
        configuration: the keyword arguments that it was built with, as far as they are known.
        hooks: the hooks that it implements, in the order of their declaration.
        claims: the capabilities that it claims, each with how.
        before: the ids of plug-ins that it wants to be called before.
        after: the ids of plug-ins that it wants to be called after.
        critical: whether a failure of it ends the run.
    """

    id: str
    plugin: object
    number: int
    reason: str
    explicit: bool
    record: EntryPointRecord | None
    configuration: dict[str, Any]
    hooks: tuple[str, ...]
    claims: dict[str, str]
    before: tuple[str, ...]
    after: tuple[str, ...]
    critical: bool

    @property
    def name(self) -> str:
        """The name by which it is blocked: an installed one's is that of its entry point."""
        return self.record.name if self.record else self.id


class PluginTable(MutableMapping[str, Any]):
    """``trainer.plugins``: plug-ins by id; assigning registers, deleting unregisters."""

    def __init__(self, manager: "PluginManager") -> None:
        self._manager = manager

    def __getitem__(self, plug_id: str) -> Any:
        return self._manager.find(None, plug_id).plugin

    def __setitem__(self, plug_id: str, plugin: object) -> None:
        check_key(plug_id, plugin)
        self._manager.register(plugin, plug_id, reason="assigned to trainer.plugins")

    def __delitem__(self, plug_id: str) -> None:
        self._manager.unregister(name=plug_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._manager.rows)

    def __len__(self) -> int:
        return len(self._manager.rows)

    def __contains__(self, plug_id: object) -> bool:
        return plug_id in self._manager.rows

    def __repr__(self) -> str:
        return f"PluginTable({', '.join(self._manager.rows)})"


def check_key(plug_id: str, plugin: object) -> None:
    """Refuse to enter a plug-in in ``trainer.plugins`` under another id than its own."""
    own = declarations.identify(plugin, plug_id)
    if own != plug_id:
        raise InvalidPluginError(
            f"trainer.plugins[{plug_id!r}] = ... got a plug-in whose id is {own!r}: write"
            f" trainer.plugins[{own!r}] = ..., or trainer.register_plugin(...)."
        )
