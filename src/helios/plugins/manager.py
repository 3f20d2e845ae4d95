"""Registration: every plug-in is validated, conflicts are refused, nothing is half-done."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import pluggy

from helios.errors import (
    DuplicatePluginError,
    FrozenPlanError,
    InvalidPluginError,
    PluginConflictError,
    UnknownNameError,
    nearest,
)
from helios.plugins import validation
from helios.plugins.discovery import EntryPointRecord
from helios.plugins.hookspecs import HOOKS, PROJECT, PluginSpec
from helios.plugins.plan import Inactive, PlanEntry, PluginPlan, origin_of


@dataclasses.dataclass(frozen=True, eq=False)
class Registration:
    """A row of the plug-in table.

    Attributes:
        id: the plug-in's id.
        plugin: the plug-in.
        reason: why it is active.
        explicit: it was asked for by name or instance, rather than autoloaded.
        record: the entry point that it was loaded from, if it was.
        hooks: the hooks that it implements, in the order of their declaration.
        claims: the capabilities that it claims, each with how.
    """

    id: str
    plugin: object
    reason: str
    explicit: bool
    record: EntryPointRecord | None
    hooks: tuple[str, ...]
    claims: dict[str, str]


class HookCallers:
    """One attribute a hook: pluggy's caller, or ``None`` where nobody implements it.

    Asking ``is not None`` is some thirty times cheaper than a call that nobody answers.
    """

    def __init__(self, relay: pluggy.HookRelay) -> None:
        for name in HOOKS:
            caller = getattr(relay, name)
            setattr(self, name, caller if caller.get_hookimpls() else None)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> pluggy.HookCaller | None: ...


class PluginManager(pluggy.PluginManager):
    """pluggy's manager with a validated table, an explainable order, and a frozen plan.

    The table is the truth; :meth:`arrange` hands it to pluggy in such a way that hooks are called
    in its order.
    """

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(PluginSpec)
        self._rows: dict[str, Registration] = {}
        self.inactive: list[Inactive] = []
        self.frozen = False

    # pluggy's own methods, with our rules.

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Take a method of a plug-in that overrides a hook for an implementation."""
        return validation.hook_options(plugin, name)

    def register(
        self,
        plugin: object,
        name: str | None = None,
        *,
        reason: str = "registered by trainer.register_plugin()",
        explicit: bool = True,
        record: EntryPointRecord | None = None,
    ) -> str:
        """Validate a plug-in and add it to the table; on any error nothing has changed.

        An explicit plug-in makes autoloaded ones that conflict with it step aside.

        Args:
            plugin: an instance of a ``Plugin`` subclass, or a module or object with hookimpls.
            name: the id of an object that has none of its own.
            reason: why it is to be active.
            explicit: whether it was asked for, rather than found.
            record: the entry point that it was loaded from.

        Returns:
            The id.

        Raises:
            InvalidPluginError: the object is no plug-in, or one of its hooks cannot be called.
            DuplicatePluginError: the id is taken by another plug-in.
            PluginConflictError: another plug-in has one of the unique capabilities.
            FrozenPlanError: a run is going on.
        """
        plug_id = validation.identify(plugin, name)
        present = self._rows.get(plug_id)
        if present is not None and present.plugin is plugin:
            return plug_id
        self._refuse_while_frozen(f"register {plug_id!r}")
        for other in self._rows.values():
            _refuse_twin(other, plug_id, plugin)
        row = self._row(plug_id, plugin, reason, explicit, record)
        kept, aside = _settle([*self._rows.values(), row])
        self._replace(kept, aside)
        return plug_id

    def unregister(self, plugin: object = None, name: str | None = None) -> Any:
        """Remove a plug-in from the table, by itself or by its id.

        Raises:
            UnknownNameError: it is not registered.
            FrozenPlanError: a run is going on.
        """
        row = self._find(plugin, name)
        self._refuse_while_frozen(f"unregister {row.id!r}")
        self._replace([other for other in self._rows.values() if other is not row])
        return row.plugin

    # The table.

    @property
    def rows(self) -> Mapping[str, Registration]:
        """The table: rows by id, in the order in which hooks are called."""
        return self._rows

    def replace_all(self, plugins: Iterable[tuple[str, object]]) -> None:
        """Exchange the whole table, or change nothing if one of the plug-ins is refused."""
        self._refuse_while_frozen("assign trainer.plugins")
        rows: list[Registration] = []
        for name, plugin in plugins:
            check_key(name, plugin)
            rows.append(self._row(name, plugin, "assigned to trainer.plugins", True, None))
            for other in rows[:-1]:
                _refuse_twin(other, name, plugin)
        self._replace(*_settle(rows))

    def recheck(self) -> None:
        """Check the table again: flags and methods may have changed since registration.

        Raises:
            PluginError: as :meth:`register`; nothing has changed then.
        """
        rows = [
            self._row(row.id, row.plugin, row.reason, row.explicit, row.record)
            for row in self._rows.values()
        ]
        self._replace(*_settle(rows))

    def freeze(self) -> PluginPlan:
        """Check the table again, fix it, and return the plan."""
        self.recheck()
        self.arrange()
        self.frozen = True
        return PluginPlan(
            active=tuple(_entry(row) for row in self._rows.values()),
            inactive=tuple(self.inactive),
        )

    def arrange(self) -> HookCallers:
        """Hand the table to pluggy so that hooks are called in its order; return the callers."""
        for plugin in list(self.get_plugins()):
            super().unregister(plugin)
        for row in self._rows.values():
            super().register(row.plugin, row.id)
        # pluggy calls its list from the end, the last registered first. Its groups stay (trylast,
        # plain, tryfirst; then the same of wrappers); within each, the order is the table's.
        place = {plug_id: -number for number, plug_id in enumerate(self._rows)}
        for hook in HOOKS:
            getattr(self.hook, hook)._hookimpls.sort(
                key=lambda i: (
                    i.wrapper or i.hookwrapper,
                    i.tryfirst - i.trylast,
                    place[i.plugin_name],
                )
            )
        return HookCallers(self.hook)

    def configure(self, hook: str, target: Any) -> None:
        """Call ``configure_trainer`` or ``configure_model`` where it has not been applied yet.

        Ordinary methods of ``Plugin`` subclasses see to that themselves, since users may call
        them by hand; for all others the target remembers.
        """
        applied = target.__dict__.setdefault("_configured_by", [])
        others = [
            p for p in self.get_plugins() if not hasattr(getattr(p, hook, None), "applies_once")
        ]
        done = [p for p in others if any(who is p and what == hook for who, what in applied)]
        caller = self.subset_hook_caller(hook, remove_plugins=done)
        caller(**{HOOKS[hook].arguments[0]: target})
        applied.extend((plugin, hook) for plugin in others if plugin not in done)

    def call_one(self, row: Registration, hook: str, **arguments: Any) -> None:
        """Call the implementation of a hook by one plug-in, if it has one."""
        if hook in row.hooks:
            others = [plugin for plugin in self.get_plugins() if plugin is not row.plugin]
            self.subset_hook_caller(hook, remove_plugins=others)(**arguments)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the plug-ins that have one, by id."""
        states = {}
        for row in self._rows.values():
            get_state = getattr(row.plugin, "state_dict", None)
            if get_state is not None and (state := get_state()):
                states[row.id] = state
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> dict[str, Any]:
        """Restore the plug-ins' states; return those of plug-ins that are not registered."""
        absent = dict(states)
        for row in self._rows.values():
            if row.id in absent:
                load_state = getattr(row.plugin, "load_state_dict", None)
                if load_state is None:
                    raise InvalidPluginError(
                        f"the checkpoint holds a state of plug-in {self.describe(row.id)}, which"
                        " has no load_state_dict(state_dict) to restore it: add the method, or"
                        " block the plug-in, whose state is then kept for later."
                    )
                load_state(absent.pop(row.id))
        return absent

    def describe(self, plug_id: str) -> str:
        """Return id, distribution, version and source of a registered plug-in, for a message."""
        row = self._rows[plug_id]
        origin = origin_of(row.plugin, row.record)
        return f"{row.id!r} ({origin}, {origin.source})"

    def _row(
        self,
        plug_id: str,
        plugin: object,
        reason: str,
        explicit: bool,
        record: EntryPointRecord | None,
    ) -> Registration:
        implemented = validation.implementations(plugin, plug_id)
        return Registration(
            id=plug_id,
            plugin=plugin,
            reason=reason,
            explicit=explicit,
            record=record,
            hooks=tuple(hook for hook in HOOKS if hook in implemented),
            claims=validation.claims(plugin, implemented),
        )

    def _find(self, plugin: object, name: str | None) -> Registration:
        for row in self._rows.values():
            if row.plugin is plugin or (plugin is None and row.id == name):
                return row
        wanted = name or str(getattr(plugin, "plug_id", plugin))
        raise UnknownNameError(
            f"no plug-in {wanted!r} is registered.{nearest(wanted, self._rows)}"
            f" Registered: {', '.join(self._rows) or 'none'}."
        )

    def _replace(self, rows: Iterable[Registration], aside: Iterable[Inactive] = ()) -> None:
        before, rows = list(self._rows.values()), list(rows)
        kept = {row.plugin for row in rows}
        known = {row.plugin for row in before}
        for row in before:
            if row.plugin not in kept:
                super().unregister(row.plugin)
        for row in rows:
            if row.plugin not in known:
                super().register(row.plugin, row.id)
        self._rows = {row.id: row for row in rows}
        self.inactive.extend(aside)

    def _refuse_while_frozen(self, action: str) -> None:
        if self.frozen:
            raise FrozenPlanError(
                f"cannot {action} while a run is going on: its plan is fixed, shown in the header"
                " and saved in checkpoints. Do it before fit() or test(), or in configure_trainer."
            )


class PluginTable(MutableMapping[str, Any]):
    """``trainer.plugins``: plug-ins by id; assigning registers, deleting unregisters."""

    def __init__(self, manager: PluginManager) -> None:
        self._manager = manager

    def __getitem__(self, plug_id: str) -> Any:
        return self._manager._find(None, plug_id).plugin

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
    own = validation.identify(plugin, plug_id)
    if own != plug_id:
        raise InvalidPluginError(
            f"trainer.plugins[{plug_id!r}] = ... got a plug-in whose id is {own!r}: write"
            f" trainer.plugins[{own!r}] = ..., or trainer.register_plugin(...)."
        )


def _refuse_twin(row: Registration, plug_id: str, plugin: object) -> None:
    """Refuse an object that is registered under another id, or that equals one that is."""
    if row.plugin is plugin:
        raise DuplicatePluginError(
            f"this plug-in is already registered as {row.id!r}, so it cannot be {plug_id!r} too:"
            " unregister it first, or create another object."
        )
    if row.plugin == plugin:
        raise InvalidPluginError(
            f"plug-in {plug_id!r} equals {row.id!r}, which is registered; both are"
            f" {type(plugin).__name__} ({validation.source_of(plugin)}). Plug-ins are told apart"
            " by identity: remove __eq__ and __hash__ from the class."
        )


def _entry(row: Registration) -> PlanEntry:
    origin = origin_of(row.plugin, row.record)
    return PlanEntry(
        row.id, origin.distribution, origin.version, row.reason, row.hooks, tuple(row.claims)
    )


def _settle(rows: list[Registration]) -> tuple[list[Registration], list[Inactive]]:
    """Decide which rows stay: explicit ones win over autoloaded ones.

    Returns:
        The rows that stay, in the given order, and those that step aside.

    Raises:
        DuplicatePluginError: two rows of equal standing have one id.
        PluginConflictError: two rows of equal standing claim one capability.
    """
    settled: list[Registration] = []
    aside: dict[Registration, Inactive] = {}
    for row in sorted(rows, key=lambda row: not row.explicit):  # stable: explicit ones first
        clashes = [(other, shared) for other in settled if (shared := _shared(row, other))]
        winner = next((other for other, _ in clashes if other.explicit), None)
        if winner is not None and not row.explicit:
            aside[row] = _stepped_aside(row, winner)
        elif clashes:
            raise _conflict(row, *clashes[0])
        else:
            settled.append(row)
    return [row for row in rows if row not in aside], list(aside.values())


def _shared(row: Registration, other: Registration) -> list[str]:
    """Return what both rows claim; the id counts too, as an empty string."""
    same_id = [""] if row.id == other.id else []
    return same_id + [claim for claim in row.claims if claim in other.claims]


def _stepped_aside(row: Registration, winner: Registration) -> Inactive:
    origin = origin_of(row.plugin, row.record)
    reason = f"steps aside for {winner.id!r}, which was {winner.reason}"
    return Inactive(row.id, origin.distribution, origin.version, reason)


def _conflict(row: Registration, other: Registration, shared: list[str]) -> Exception:
    """Return the error for two plug-ins of equal standing, with the ways out."""
    first, second = _story(other, shared), _story(row, shared)
    this, that = _names(row, other)
    ways_out = (
        f"Keep one of them:\n"
        f"  Trainer(block=[{this!r}])    keeps {that!r}    (or HELIOS_BLOCK_PLUGINS={this})\n"
        f"  Trainer(block=[{that!r}])    keeps {this!r}    (or HELIOS_BLOCK_PLUGINS={that})"
    )
    if not row.explicit:
        ways_out += f"\n  Trainer(plugins=[{this!r}])    naming one makes the other step aside"
    if shared[0] == "":
        return DuplicatePluginError(
            f"two plug-ins have the id {row.id!r}, under which checkpoints keep state:\n"
            f"{first}\n{second}\n{ways_out}\n"
            "To use both, give one of them another id in its __init__."
        )
    return PluginConflictError(
        f"two plug-ins claim {', '.join(map(repr, shared))}, which only one active plug-in may"
        f" have:\n{first}\n{second}\n{ways_out}"
    )


def _names(row: Registration, other: Registration) -> tuple[str, str]:
    """Return the names by which two plug-ins are blocked: installed ones by their entry points."""
    if row.record is None or other.record is None or row.record.name != other.record.name:
        this = row.record.name if row.record else row.id
        return this, other.record.name if other.record else other.id
    return row.record.qualified_name, other.record.qualified_name


def _story(row: Registration, shared: list[str]) -> str:
    origin = origin_of(row.plugin, row.record)
    how = "; ".join(row.claims[claim] for claim in shared if claim)
    return (
        f"  {row.id!r} from {origin}{f': {how}' if how else ''}\n"
        f"      {origin.source}\n"
        f"      active because {row.reason}"
    )
