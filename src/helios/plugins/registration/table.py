"""The plug-in table: a row for each active plug-in, and the mapping for users."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from helios.errors import (
    InvalidPluginError,
    PluginFacts,
    kind_of,
    printable,
)
from helios.plugins.declarations import facts
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.provenance import origin_of
from helios.plugins.plans.call_record import recorded
from helios.plugins.plans.plan import PlanEntry

if TYPE_CHECKING:
    from helios.plugins.registration.manager import PluginManager


ASSIGNED = "assigned to trainer.plugins"
"""The reason of a plug-in that users assign."""


@dataclasses.dataclass(frozen=True, eq=False)
class Registration:
    """A row of the plug-in table.

    Attributes:
        id: the id of the plug-in.
        plugin: the plug-in.
        number: its place in the order of registration.
        reason: the reason why it is active.
        explicit: True if the user named or passed it, False if it was autoloaded.
        record: the entry point of an installed plug-in; otherwise ``None``.
        configuration: the arguments of its class or factory, if Helios called it.
        hooks: the hooks that it implements, in the order of declaration.
        claims: the capabilities that it claims, each with the reason.
        before: the ids of plug-ins that must come after it.
        after: the ids of plug-ins that must come before it.
        requires: the ids of plug-ins that must be active, with version specifiers.
        former_ids: the ids that it had in earlier releases.
        declares: the hooks that it declares for other plug-ins.
        foreign: the hooks that it implements and Helios does not declare.
        critical: True if an error of the plug-in ends the run.
        changes_results: True if it changes the trained weights or the logged metrics.
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
    requires: tuple[str, ...]
    former_ids: tuple[str, ...]
    declares: tuple[str, ...]
    foreign: tuple[str, ...]
    critical: bool
    changes_results: bool

    @property
    def name(self) -> str:
        """The name that blocks it: that of its entry point, or its id if it is not installed."""
        return self.record.name if self.record else self.id

    @property
    def summary(self) -> str:
        """The description of the plug-in in one line; may be empty."""
        return facts.summary_of(self.plugin)

    def facts(self) -> PluginFacts:
        """Return the facts for errors about the plug-in."""
        origin = origin_of(self.plugin, self.record)
        return PluginFacts(
            self.id, origin.distribution, origin.version, origin.source, dict(self.claims)
        )

    def entry(self, constraints: Iterable[str]) -> PlanEntry:
        """Return the row as an entry of a plan.

        Args:
            constraints: the constraints on its place in the order.
        """
        origin = origin_of(self.plugin, self.record)
        return PlanEntry(
            id=self.id,
            distribution=origin.distribution,
            version=origin.version,
            reason=self.reason,
            hooks=self.hooks,
            claims=tuple(self.claims),
            order=tuple(constraints),
            configuration=recorded(self.plugin, self.configuration),
            implementation=origin.implementation,
            summary=self.summary,
            changes_results=self.changes_results,
            former_ids=self.former_ids,
        )


class PluginTable(MutableMapping[str, Any]):
    """The mapping ``trainer.plugins``: plug-ins by id.

    An assignment registers a plug-in, and a deletion unregisters it.
    """

    def __init__(self, manager: "PluginManager") -> None:
        self._manager = manager

    def __getitem__(self, plug_id: str) -> Any:
        return self._manager.find(None, plug_id).plugin

    def __setitem__(self, plug_id: str, plugin: object) -> None:
        check_key(plug_id, plugin)
        self._manager.register(plugin, plug_id, reason=ASSIGNED)

    def __delitem__(self, plug_id: str) -> None:
        self._manager.unregister(name=plug_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._manager.rows)

    def __len__(self) -> int:
        return len(self._manager.rows)

    def __contains__(self, plug_id: object) -> bool:
        return plug_id in self._manager.rows

    def __repr__(self) -> str:
        return f"PluginTable({printable(', '.join(self._manager.rows))})"


def check_mapping(plugins: object) -> Mapping[str, object]:
    """Return a value for ``trainer.plugins``, or refuse one that is no mapping."""
    if not isinstance(plugins, Mapping):
        raise InvalidPluginError(
            f"trainer.plugins = ... received a {kind_of(plugins)}: assign a dictionary from"
            " ids to plug-ins, or call trainer.register_plugin(...) for each."
        )
    return plugins


def check_key(plug_id: str, plugin: object) -> None:
    """Refuse a key of ``trainer.plugins`` that differs from the id of the plug-in."""
    if not isinstance(plug_id, str):
        raise InvalidPluginError(
            f"trainer.plugins[{plug_id!r}] = ...: the id of a plug-in is a string, not a"
            f" {kind_of(plug_id)}."
        )
    own = facts.identify(plugin, plug_id)
    if own != plug_id:
        raise InvalidPluginError(
            f"trainer.plugins[{plug_id!r}] = ... received a plug-in with the id {own!r}: write"
            f" trainer.plugins[{own!r}] = ..., or trainer.register_plugin(...)."
        )
