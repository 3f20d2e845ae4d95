"""The hooks that active plug-ins declare for one another: pluggy learns and checks them."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pluggy

from helios.errors import InvalidPluginError, PluginConflictError, PluginError, describe
from helios.plugins.declarations.attributes import static_attribute
from helios.plugins.declarations.facts import check_callable, marked_hooks
from helios.plugins.declarations.misspellings import no_such_hook
from helios.plugins.declarations.own_hooks import declared_by, namespaces_of
from helios.plugins.discovery.provenance import locate, origin_of
from helios.plugins.hooks import HOOKS, HookInfo
from helios.plugins.plans.plan import Inactive
from helios.plugins.plugin import Plugin
from helios.plugins.registration.table import Registration


class DeclaredHooks:
    """The hooks of the active plug-ins, as pluggy knows them.

    Args:
        relay: the hooks of the manager.
    """

    def __init__(self, relay: pluggy.HookRelay) -> None:
        self._relay = relay
        self._infos: dict[str, HookInfo] = {}

    @property
    def all(self) -> Mapping[str, HookInfo]:
        """All hooks by name: those of Helios, then those of plug-ins."""
        return {**HOOKS, **self._infos}

    def knows(self, options: pluggy.HookimplOpts, name: str) -> bool:
        """Return whether an attribute with a marker implements a hook that exists."""
        hook = options["specname"] or name
        return hook in HOOKS or hook in self._infos

    def clear(self) -> None:
        """Forget the hooks of plug-ins, because the table changes."""
        for name in self._infos:
            delattr(self._relay, name)
        self._infos = {}

    def renew(self, rows: Iterable[Registration], add: Callable[[Any], None]) -> None:
        """Tell pluggy of the hooks of all rows.

        Args:
            rows: the table, without implementations in pluggy.
            add: the function of pluggy that reads a namespace.
        """
        self.clear()
        added: list[Any] = []
        for row in rows:
            for namespace in namespaces_of(row.plugin):
                if not any(namespace is each for each in added):
                    added.append(namespace)
                    add(namespace)
            if row.declares:
                self._infos |= declared_by(row.plugin)


def check_declared_hooks(
    rows: Sequence[Registration], skip: bool
) -> tuple[list[Registration], list[Inactive], list[PluginError]]:
    """Check the hooks that rows declare, and the implementations of them.

    Args:
        rows: the rows of a table, in the order of registration.
        skip: ``True`` to make an autoloaded plug-in with a problem inactive.

    Returns:
        The rows that remain, each with all its hooks; the plug-ins that become inactive; and an
        error for each other problem.
    """
    if not any(row.declares or row.foreign for row in rows):
        return list(rows), [], []
    owners = [(row, declared_by(row.plugin)) for row in rows if row.declares]
    infos = {name: info for _, declared in owners for name, info in declared.items()}
    kept, inactive = [], []
    problems = _collisions([row for row, _ in owners])
    for row in rows:
        try:
            kept.append(_with_hooks(row, infos))
        except InvalidPluginError as error:
            if row.explicit or not skip:
                problems.append(_with_remedy(row, error))
            else:
                origin = origin_of(row.plugin, row.record)
                reason = f"FAILED TO LOAD: {describe(error)}".partition("\n")[0]
                inactive.append(Inactive(row.name, origin.distribution, origin.version, reason))
    return kept, inactive, problems


def _with_hooks(row: Registration, infos: Mapping[str, HookInfo]) -> Registration:
    """Return a row whose hooks include those of other plug-ins that it implements."""
    called = []
    marked = marked_hooks(row.plugin) if row.foreign else {}
    for hook, (name, options) in marked.items():
        if hook in infos:
            check_callable(row.plugin, row.id, name, infos[hook], options)
            called.append(hook)
        elif not options["optionalhook"]:
            where = locate(row.plugin, row.id)
            raise InvalidPluginError(f"{where}: {no_such_hook(hook, (*HOOKS, *infos))}")
    for hook in infos.keys() - marked.keys() - set(row.declares):
        if isinstance(row.plugin, Plugin) and callable(static_attribute(row.plugin, hook)):
            warnings.warn(
                f"{locate(row.plugin, row.id)}: {hook} has the name of a hook of another"
                " plug-in, but is not marked, so that plug-in does not call it. If it should, write"
                " @helios.hookimpl above it.",
                stacklevel=2,
            )
    core = [hook for hook in row.hooks if hook in HOOKS]
    return dataclasses.replace(row, hooks=(*core, *called))


def _with_remedy(row: Registration, error: InvalidPluginError) -> PluginError:
    if row.record is None:
        return error
    problem = row.record.load_error("is not valid", error, InvalidPluginError)
    problem.__cause__ = error
    return problem


def _collisions(rows: Sequence[Registration]) -> list[PluginError]:
    """Return an error for each hook that two plug-ins declare, unless they share the namespace."""
    problems: list[PluginError] = []
    first: dict[str, tuple[Registration, Any]] = {}
    for row in rows:
        for namespace in namespaces_of(row.plugin):
            for name in set(row.declares).intersection(dir(namespace)):
                other, known = first.setdefault(name, (row, namespace))
                if known is not namespace:
                    problems.append(_collision(name, other, row))
    return problems


def _collision(name: str, first: Registration, second: Registration) -> PluginError:
    places = "\n".join(
        f"  {row.id!r}  ({origin_of(row.plugin, row.record)},"
        f" {origin_of(row.plugin, row.record).source})"
        for row in (first, second)
    )
    return PluginConflictError(
        f"two plug-ins declare the hook {name} in different ways:\n{places}\n"
        f"Keep one of them: Trainer(block=[{first.name!r}]) or Trainer(block=[{second.name!r}]), or"
        " let one declare another name."
    ).about([first.facts(), second.facts()], [])
