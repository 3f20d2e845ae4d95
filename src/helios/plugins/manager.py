"""Registration: every plug-in is validated, conflicts are refused, nothing is half-done."""

import dataclasses
import functools
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pluggy

from helios.errors import (
    FrozenPlanError,
    InvalidPluginError,
    PluginOrderError,
    UnknownNameError,
    nearest,
    raise_all,
)
from helios.plugins import declarations, once
from helios.plugins.callers import HookCallers, Quarantine
from helios.plugins.conflicts import resolve
from helios.plugins.discovery import EntryPointRecord
from helios.plugins.guards import contain, is_wrapper
from helios.plugins.hookspecs import HOOKS, PluginSpec
from helios.plugins.markers import PROJECT
from helios.plugins.order import in_order, wishes_of
from helios.plugins.plan import Inactive, PlanEntry, PluginPlan, origin_of
from helios.plugins.plugin import Plugin
from helios.plugins.profile import PluginProfile
from helios.plugins.table import Registration, check_key

_logger = logging.getLogger(__name__)


class PluginManager(pluggy.PluginManager):
    """pluggy's manager with a validated table, an explainable order, and a frozen plan.

    The table is the truth; :meth:`arrange` hands it to pluggy in such a way that hooks are called
    in its order.
    """

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(PluginSpec)
        self._rows: dict[str, Registration] = {}
        self._numbers = itertools.count()
        self.inactive: list[Inactive] = []
        self.quarantined: dict[str, Quarantine] = {}
        self.callers = HookCallers(self.hook)
        self.frozen = False
        self._restored: dict[str, Any] = {}
        self._frozen_with: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the table alone; pluggy's callers and the guards are made anew from it."""
        return _rebuild, (list(self._rows.values()), self.inactive, self.frozen, self._frozen_with)

    # pluggy's own methods, with our rules.

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Take a method of a plug-in that overrides a hook for an implementation."""
        return declarations.hook_options(plugin, name)

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
            PluginOrderError: the wishes of plug-ins for their order contradict each other.
            FrozenPlanError: a run is going on.
        """
        plug_id = declarations.identify(plugin, name)
        present = self._rows.get(plug_id)
        if present is None or present.plugin is not plugin:
            self._refuse_while_frozen(f"register {plug_id!r}")
            self.enter(*self.resolve([self.candidate(plugin, name, reason, explicit, record)]))
        return plug_id

    def candidate(
        self,
        plugin: object,
        name: str | None,
        reason: str,
        explicit: bool,
        record: EntryPointRecord | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> Registration:
        """Validate a plug-in and return its row, which :meth:`enter` enters into the table.

        Args:
            plugin: as in :meth:`register`.
            name: as in :meth:`register`.
            reason: as in :meth:`register`.
            explicit: as in :meth:`register`.
            record: as in :meth:`register`.
            configuration: the keyword arguments that the plug-in was built with.

        Raises:
            InvalidPluginError: the object is no plug-in, or one of its hooks cannot be called.
        """
        row = Registration(
            id=declarations.identify(plugin, name),
            plugin=plugin,
            number=next(self._numbers),
            reason=reason,
            explicit=explicit,
            record=record,
            configuration=dict(configuration or {}),
            **_declared(plugin, declarations.identify(plugin, name)),
        )
        for message in declarations.deprecations(plugin, row.id):
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return row

    def resolve(
        self, newcomers: Sequence[Registration]
    ) -> tuple[list[Registration], list[Inactive]]:
        """Find out what the table would be with new rows; it is not changed.

        Returns:
            All rows in the order in which their hooks would be called, and those that step aside.

        Raises:
            PluginError: as :meth:`register`; several problems are reported as one
                :class:`~helios.errors.PluginProblems`.
        """
        return _resolved([*self._rows.values(), *newcomers])

    def unregister(self, plugin: object = None, name: str | None = None) -> Any:
        """Remove a plug-in from the table, by itself or by its id.

        Raises:
            UnknownNameError: it is not registered.
            FrozenPlanError: a run is going on.
        """
        row = self.find(plugin, name)
        self._refuse_while_frozen(f"unregister {row.id!r}")
        self.enter([other for other in self._rows.values() if other is not row])
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
            rows.append(self.candidate(plugin, name, "assigned to trainer.plugins", True))
        self.enter(*_resolved(rows))

    def recheck(self) -> None:
        """Check the table again: flags and methods may have changed since registration.

        Raises:
            PluginError: as :meth:`register`; nothing has changed then.
        """
        rows = [
            dataclasses.replace(row, **_declared(row.plugin, row.id)) for row in self._rows.values()
        ]
        self.enter(*_resolved(rows))

    def freeze(
        self,
        expected: list[type[Exception]] | None = None,
        profile: PluginProfile | None = None,
        configured_in: str = "",
    ) -> PluginPlan:
        """Check the table again, fix it, and return the plan.

        Args:
            expected: types of exceptions that are no failures of an observer.
            profile: takes the time of every call, if there is one.
            configured_in: the file that has a say in what is active, if there is one.
        """
        self.recheck()
        self.arrange()
        self._frozen_with = expected, profile, configured_in
        self.quarantined = {}
        self._restored = {}
        self._guard(expected or [], profile)
        self.frozen = True
        rows = list(self._rows.values())
        return PluginPlan(
            active=tuple(_entry(row, wishes_of(row, rows)) for row in rows),
            inactive=tuple(self.inactive),
            configured_in=configured_in,
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
            self._called(hook).sort(
                key=lambda i: (is_wrapper(i), i.tryfirst - i.trylast, place[i.plugin_name])
            )
        self.callers = HookCallers(self.hook)
        return self.callers

    def _called(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the list that pluggy calls, from its end; get_hookimpls() returns a copy."""
        caller: pluggy.HookCaller = getattr(self.hook, hook)
        return caller._hookimpls  # noqa: SLF001 - pluggy has no public way to order or remove

    def _guard(self, expected: list[type[Exception]], profile: PluginProfile | None) -> None:
        """Put around the implementations what was asked for: nothing, as a rule."""
        for name, info in HOOKS.items():
            for implementation in getattr(self.hook, name).get_hookimpls():
                row = self._rows[implementation.plugin_name]
                if not row.critical and info.claim is None and not is_wrapper(implementation):
                    contain(
                        implementation, functools.partial(self._quarantine, row, name), expected
                    )
                if profile is not None:
                    profile.watch(implementation, name)

    def _quarantine(self, row: Registration, hook: str, error: Exception) -> None:
        """Switch an observer off that has failed, but for its ``teardown``."""
        _logger.error(
            "plug-in %s has failed in %s, and is off for the rest of the run",
            self.describe(row.id),
            hook,
            exc_info=error,
        )
        self.quarantined.setdefault(row.id, Quarantine(row.id, hook, error))
        for name in HOOKS.keys() - {"teardown"}:
            implementations = self._called(name)
            implementations[:] = [i for i in implementations if i.plugin is not row.plugin]
        self.callers.bind(self.hook)

    def configure(self, hook: str, target: Any) -> None:
        """Call ``configure_trainer`` or ``configure_model`` where it has not been applied yet.

        Ordinary methods of ``Plugin`` subclasses see to that themselves, since users may call
        them by hand; for all others it is remembered here.
        """
        others = [
            p for p in self.get_plugins() if not hasattr(getattr(p, hook, None), "applies_once")
        ]
        done = [plugin for plugin in others if once.contains(target, plugin, hook)]
        caller = self.subset_hook_caller(hook, remove_plugins=done)
        caller(**{HOOKS[hook].arguments[0]: target})
        for plugin in others:
            if plugin not in done:
                once.add(target, plugin, hook)

    def call_one(self, row: Registration, hook: str, **arguments: Any) -> None:
        """Call the implementation of a hook by one plug-in, if it has one."""
        if hook in row.hooks:
            others = [plugin for plugin in self.get_plugins() if plugin is not row.plugin]
            self.subset_hook_caller(hook, remove_plugins=others)(**arguments)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the plug-ins that have one, by id."""
        states = {}
        for row in self._rows.values():
            get_state: Callable[[], Any] = getattr(row.plugin, "state_dict", dict)
            try:
                state = get_state()
            except Exception as error:
                if row.critical:
                    raise
                self._quarantine(row, "state_dict", error)
                state = self._restored.get(row.id)  # rather an old state than none
            if state:
                states[row.id] = state
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> dict[str, Any]:
        """Restore the plug-ins' states; return those of plug-ins that are not registered."""
        absent = dict(states)
        self._restored = dict(states)
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

    def claimant(self, hook: str) -> str:
        """Return the id of the plug-in that implements a hook which only one may implement."""
        return next(row.id for row in self._rows.values() if hook in row.hooks)

    def find(self, plugin: object, name: str | None) -> Registration:
        """Return the row of a plug-in, given itself or its id.

        Raises:
            UnknownNameError: it is not registered.
        """
        for row in self._rows.values():
            if row.plugin is plugin or (plugin is None and row.id == name):
                return row
        wanted = name or str(getattr(plugin, "plug_id", plugin))
        raise UnknownNameError(
            f"no plug-in {wanted!r} is registered.{nearest(wanted, self._rows)}"
            f" Registered: {', '.join(self._rows) or 'none'}."
        )

    def enter(self, rows: Iterable[Registration], aside: Iterable[Inactive] = ()) -> None:
        """Make rows the table, in one step that cannot fail; what steps aside is noted."""
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


def _rebuild(
    rows: list[Registration], inactive: list[Inactive], frozen: bool, frozen_with: tuple[Any, ...]
) -> PluginManager:
    """Return the manager of another process, as pickle has brought its table here."""
    manager = PluginManager()
    manager.enter(rows, inactive)
    if frozen:
        manager.freeze(*frozen_with)
    return manager


def _resolved(rows: Iterable[Registration]) -> tuple[list[Registration], list[Inactive]]:
    """Return who stays, in order, and who steps aside; or raise everything that is wrong."""
    kept, aside, problems = resolve(rows)
    try:
        order = in_order(kept)
    except PluginOrderError as problem:
        problems.append(problem)
    raise_all(problems)
    return order, aside


def _declared(plugin: object, plug_id: str) -> dict[str, Any]:
    """Return the columns of a row that follow from the plug-in alone; it may change them."""
    implemented = declarations.implementations(plugin, plug_id)
    return {
        "hooks": tuple(hook for hook in HOOKS if hook in implemented),
        "claims": declarations.claims(plugin, implemented),
        "before": declarations.names_in(plugin, "before"),
        "after": declarations.names_in(plugin, "after"),
        "critical": not isinstance(plugin, Plugin) or plugin.critical,
    }


def _entry(row: Registration, wishes: list[str]) -> PlanEntry:
    origin = origin_of(row.plugin, row.record)
    return PlanEntry(
        id=row.id,
        distribution=origin.distribution,
        version=origin.version,
        reason=row.reason,
        hooks=row.hooks,
        claims=tuple(row.claims),
        order=tuple(wishes),
        configuration=row.configuration,
        implementation=origin.implementation,
    )
