"""Registration: validate plug-ins, refuse conflicts, and change the table in one step."""

import dataclasses
import functools
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pluggy

from helios.errors import FrozenPlanError, UnknownNameError, nearest
from helios.plugins import once
from helios.plugins.calls.callers import HookCallers, Quarantine
from helios.plugins.calls.chain import comes_last
from helios.plugins.calls.guards import contain, contain_context, is_wrapper, sort_calls
from helios.plugins.calls.profile import PluginProfile
from helios.plugins.calls.results import BuiltIn, check_results, complete
from helios.plugins.declarations import bodies, facts
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.provenance import origin_of
from helios.plugins.hooks import HOOKS
from helios.plugins.hookspecs import PluginSpec
from helios.plugins.markers import PROJECT
from helios.plugins.plans.plan import Inactive, PluginPlan
from helios.plugins.registration.blocks import Blocks
from helios.plugins.registration.declared_hooks import DeclaredHooks
from helios.plugins.registration.index import Index, resolved
from helios.plugins.registration.late_changes import LateChanges
from helios.plugins.registration.order import constraints
from helios.plugins.registration.states import PluginStates
from helios.plugins.registration.table import ASSIGNED, Registration, check_key, check_mapping

_logger = logging.getLogger(__name__)


class PluginManager(pluggy.PluginManager):
    """A manager from pluggy with a validated table, a predictable order, and a frozen plan.

    The table decides which plug-ins are active. :meth:`arrange` registers them with pluggy, so that
    it calls their hooks in the order of the table.
    """

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(PluginSpec)
        self._rows: dict[str, Registration] = {}
        self._index = Index()
        self._numbers = itertools.count()
        self.blocks = Blocks({})
        self._inactive: list[Inactive] = []
        self.unselected: Callable[[], Iterable[Inactive]] = tuple
        """Returns more inactive plug-ins, when somebody first asks for them."""
        self.quarantined: dict[str, Quarantine] = {}
        self.late_changes = LateChanges(())
        self.built_in = BuiltIn()
        self.callers = HookCallers(self, self.built_in)
        self._hooks = DeclaredHooks(self.hook)
        self.frozen = False
        self.states = PluginStates(self._quarantine, self.describe)
        self._frozen_with: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the table alone; pluggy's callers and the guards are made anew from it."""
        return _rebuild, (list(self._rows.values()), self.inactive, self.frozen, self._frozen_with)

    # The methods of pluggy, with the rules of Helios.

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return the options of an attribute that implements a hook, otherwise ``None``."""
        options = facts.hook_options(plugin, name)
        return options if options and self._hooks.knows(options, name) else None

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Callable[[], None]:
        """Monitor all hook calls, as in pluggy. Returns a function that ends the monitoring."""
        return self.callers.add_monitor(super().add_hookcall_monitoring(before, after))

    def register(
        self,
        plugin: object,
        name: str | None = None,
        *,
        reason: str = "registered by trainer.register_plugin()",
        explicit: bool = True,
        record: EntryPointRecord | None = None,
    ) -> str:
        """Validate a plug-in and add it to the table; an error leaves the table unchanged.

        An explicit plug-in takes precedence over the autoloaded ones that conflict with it. A
        blocked plug-in is not added; the method logs a warning instead.

        Args:
            plugin: an instance of a ``Plugin`` subclass, or a module or object with hookimpls.
            name: the id for an object without an id of its own.
            reason: the reason why it is active.
            explicit: True if the user requested it, False if it was autoloaded.
            record: the entry point of an installed plug-in.

        Returns:
            The id.

        Raises:
            InvalidPluginError: the object is not a plug-in, or has a hook that cannot be called.
            DuplicatePluginError: another plug-in has this id.
            PluginConflictError: another plug-in has one of the unique capabilities.
            PluginOrderError: ``before`` and ``after`` of plug-ins contradict each other.
            FrozenPlanError: a run is in progress.
        """
        plug_id = facts.identify(plugin, name)
        present = self._rows.get(plug_id)
        if present is None or present.plugin is not plugin:
            self._refuse_while_frozen(f"register {plug_id!r}")
            if not self.blocks.leave_out(plugin, plug_id, reason, self._inactive):
                self._add(self.candidate(plugin, name, reason, explicit, record))
        return plug_id

    def _add(self, row: Registration) -> None:
        """Add a row, without a look at all others if it is in nobody's way."""
        if (order := self._index.insert(row, self._rows)) is None:
            self.enter(*self.resolve([row]))
        else:
            super().register(row.plugin, row.id)
            self._rows = order

    def candidate(
        self,
        plugin: object,
        name: str | None,
        reason: str,
        explicit: bool,
        record: EntryPointRecord | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> Registration:
        """Validate a plug-in and return its row, for :meth:`enter`.

        Args:
            plugin: the same as in :meth:`register`.
            name: the same as in :meth:`register`.
            reason: the same as in :meth:`register`.
            explicit: the same as in :meth:`register`.
            record: the same as in :meth:`register`.
            configuration: the keyword arguments of the plug-in's constructor.

        Raises:
            InvalidPluginError: the object is not a plug-in, or has a hook that cannot be called.
        """
        row = Registration(
            id=facts.identify(plugin, name),
            plugin=plugin,
            number=next(self._numbers),
            reason=reason,
            explicit=explicit,
            record=record,
            configuration=dict(configuration or {}),
            **facts.declared(plugin, facts.identify(plugin, name)),
        )
        for message in facts.deprecations(plugin, row.id):
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        if not row.critical and (problem := facts.observer_without_state(plugin, row.id)):
            _logger.warning("%s", problem)
        return row

    def resolve(
        self, newcomers: Sequence[Registration], skip: bool = False
    ) -> tuple[list[Registration], list[Inactive]]:
        """Return the table that new rows would give, without changing the table.

        Args:
            newcomers: the new rows.
            skip: ``True`` to make autoloaded plug-ins inactive whose hooks nobody declares.

        Returns:
            All rows in the order of their hook calls, and the plug-ins that become inactive.

        Raises:
            PluginError: as in :meth:`register`; a ``PluginProblems`` contains several of them.
        """
        return resolved([*self._rows.values(), *newcomers], skip)

    def unregister(self, plugin: object = None, name: str | None = None) -> Any:
        """Remove a plug-in from the table, given the plug-in or its id.

        Raises:
            UnknownNameError: the plug-in is not registered.
            FrozenPlanError: a run is in progress.
        """
        row = self.find(plugin, name)
        self._refuse_while_frozen(f"unregister {row.id!r}")
        self.enter([other for other in self._rows.values() if other is not row])
        return row.plugin

    # The table.

    @property
    def rows(self) -> Mapping[str, Registration]:
        """The table: the rows by id, in the order of their hook calls."""
        return self._rows

    @property
    def inactive(self) -> list[Inactive]:
        """The plug-ins that are not active, although they are installed or were requested."""
        unselected, self.unselected = self.unselected, tuple
        self._inactive[:0] = unselected()
        return self._inactive

    def replace_all(self, plugins: Mapping[str, object]) -> None:
        """Replace the whole table, or change nothing if one of the plug-ins is refused."""
        self._refuse_while_frozen("assign trainer.plugins")
        rows: list[Registration] = []
        for name, plugin in check_mapping(plugins).items():
            check_key(name, plugin)
            if not self.blocks.leave_out(plugin, name, ASSIGNED, self._inactive):
                rows.append(self.candidate(plugin, name, ASSIGNED, True))
        self.enter(*resolved(rows))

    def recheck(self) -> None:
        """Check the table again, since flags and methods may have changed since registration.

        Raises:
            PluginError: the same errors as in :meth:`register`; the table is then unchanged.
        """
        rows = [
            dataclasses.replace(row, **facts.declared(row.plugin, row.id))
            for row in self._rows.values()
        ]
        self.enter(*resolved(rows))

    def freeze(
        self,
        expected: list[type[Exception]] | None = None,
        profile: PluginProfile | None = None,
        configured_in: str = "",
    ) -> PluginPlan:
        """Check the table again, freeze it, and return the plan.

        Args:
            expected: the types of exceptions that do not count as failures of an observer.
            profile: the profile that measures every call; ``None`` for no measurement.
            configured_in: the project file that applies, or an empty string.
        """
        self.recheck()
        self.arrange()
        self._frozen_with = expected, profile, configured_in
        self.quarantined = {}
        self.states.begin()
        self.late_changes = LateChanges(self._rows.values())
        self._guard(expected or [], profile)
        self.callers.bind()  # again, because guards replace functions
        self.frozen = True
        order = constraints(self._rows.values())
        return PluginPlan(
            active=tuple(row.entry(order[row.id]) for row in self._rows.values()),
            inactive=tuple(self.inactive),
            configured_in=configured_in,
        )

    def arrange(self) -> HookCallers:
        """Register the table with pluggy in the order of hook calls, and return the callers."""
        for plugin in list(self.get_plugins()):
            super().unregister(plugin)
        self._hooks.renew(self._rows.values(), self.add_hookspecs)
        for hook in HOOKS:
            self._called(hook).clear()  # the built-in behaviour is not registered
        for row in self._rows.values():
            super().register(row.plugin, row.id)
        for hook in self._hooks.all:
            sort_calls(self._called(hook), self._rows, functools.partial(comes_last, hook))
            bodies.require_bodies(self._called(hook), hook, self.describe)
            complete(self._called(hook), hook, self.built_in)
        self.callers.bind()
        return self.callers

    def _called(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the list that pluggy calls from its end; get_hookimpls() returns only a copy."""
        caller: pluggy.HookCaller = getattr(self.hook, hook)
        return caller._hookimpls  # noqa: SLF001 - pluggy has no public way to order or remove

    def _guard(self, expected: list[type[Exception]], profile: PluginProfile | None) -> None:
        """Install the requested guards around the implementations; usually none."""
        for name, info in self._hooks.all.items():
            for implementation in getattr(self.hook, name).get_hookimpls():
                if implementation.plugin is self.built_in:
                    continue
                row = self._rows[implementation.plugin_name]
                check_results(implementation, name, functools.partial(self.describe, row.id))
                if not (row.critical or info.has_result or is_wrapper(implementation)):
                    report = functools.partial(self._quarantine, row, name)
                    if name == "step_context":
                        contain_context(implementation, report, expected)
                    contain(implementation, report, expected)
                if profile is not None:
                    profile.watch(implementation, name)

    def _quarantine(self, row: Registration, hook: str, error: Exception) -> None:
        """Switch off an observer that has failed, except its ``teardown``."""
        message = "plug-in %s failed in %s, so Helios switches it off for the rest of the run"
        _logger.error(message, self.describe(row.id), hook, exc_info=error)
        self.quarantined.setdefault(row.id, Quarantine(row.id, hook, error))
        self.switch_off(row, "teardown")

    def switch_off(self, row: Registration, *kept: str) -> None:
        """Call a plug-in no more, except in some hooks, until the table is frozen again."""
        for name in self._hooks.all.keys() - kept:
            implementations = self._called(name)
            implementations[:] = [i for i in implementations if i.plugin is not row.plugin]
            complete(implementations, name, self.built_in)
        self.callers.bind()

    def configure(self, hook: str, target: Any) -> None:
        """Call ``configure_trainer`` or ``configure_model`` of each plug-in once per target.

        Users may call methods of ``Plugin`` subclasses directly, so these methods record their
        calls themselves. The manager records the calls of all others.
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
        """Call a hook of one plug-in, if the plug-in implements it."""
        if hook in row.hooks:
            others = [plugin for plugin in self.get_plugins() if plugin is not row.plugin]
            self.subset_hook_caller(hook, remove_plugins=others)(**arguments)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each plug-in that has one, by id."""
        return self.states.save(self._rows.values())

    def load_state_dict(self, states: Mapping[str, Any]) -> dict[str, Any]:
        """Restore the states of plug-ins; return the states of plug-ins that are not registered."""
        return self.states.load(self._rows.values(), states)

    def describe(self, plug_id: str) -> str:
        """Return the id, distribution, version and source of a plug-in, for a message."""
        row = self._rows[plug_id]
        origin = origin_of(row.plugin, row.record)
        return f"{row.id!r} ({origin}, {origin.source})"

    def claimant(self, hook: str) -> str:
        """Return the id of the plug-in that implements a hook of kind *one*; empty for none."""
        plain = (i for i in self._called(hook) if not is_wrapper(i))
        return next((i.plugin_name for i in plain if i.plugin is not self.built_in), "")

    def find(self, plugin: object, name: str | None) -> Registration:
        """Return the row of a plug-in, given the plug-in or its id.

        Raises:
            UnknownNameError: the plug-in is not registered.
        """
        for row in self._rows.values():
            if row.plugin is plugin or (plugin is None and row.id == name):
                return row
        wanted = name or str(getattr(plugin, "plug_id", plugin))
        raise UnknownNameError(
            f"no plug-in {wanted!r} is registered.{nearest(wanted, self._rows)}"
            f" Registered: {', '.join(self._rows) or 'none'}."
        )

    def enter(self, rows: Iterable[Registration], inactive: Iterable[Inactive] = ()) -> None:
        """Replace the table in one step that cannot fail, and record the inactive plug-ins."""
        before, rows = list(self._rows.values()), list(rows)
        self._hooks.clear()
        kept = {id(row.plugin) for row in rows}
        known = {id(row.plugin) for row in before}
        for row in before:
            if id(row.plugin) not in kept:
                super().unregister(row.plugin)
        for row in rows:
            if id(row.plugin) not in known:
                super().register(row.plugin, row.id)
        self._rows = {row.id: row for row in rows}
        self._index = Index(rows)
        self._inactive.extend(inactive)

    def _refuse_while_frozen(self, action: str) -> None:
        if self.frozen:
            raise FrozenPlanError(
                f"cannot {action} during a run: the plan of the run is already in the header and"
                " in checkpoints. Do it before fit() or test(), or in configure_trainer."
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
