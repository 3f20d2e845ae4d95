"""The changes that plug-ins make after the plan is frozen, which would have no effect."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from helios.errors import InvalidPluginError, raise_all
from helios.plugins.declarations import facts
from helios.plugins.declarations.attributes import static_attribute
from helios.plugins.discovery.source import source_of
from helios.plugins.hooks import HOOKS
from helios.plugins.plugin import Plugin
from helios.plugins.registration.conflicts import conflicts_among
from helios.plugins.registration.table import Registration

_FIXED = ("before", "after", "critical", "changes_results")


class LateChanges:
    """The plug-ins as they were when the plan was frozen.

    Args:
        rows: the rows of the plan.
    """

    def __init__(self, rows: Iterable[Registration]) -> None:
        self._rows = list(rows)
        self._hooks = [_hooks_of(row.plugin) for row in self._rows]
        self._seen = [_declarations_of(row.plugin) for row in self._rows]

    def check(self) -> None:
        """Check the claims, hooks and declarations that plug-ins have set since.

        An explicit plug-in no longer takes precedence.

        Raises:
            PluginConflictError: a claim is new, and another plug-in has it.
            InvalidPluginError: a hook or a declaration has changed, so that it has no effect.
        """
        rows = []
        for row, hooks, seen in zip(self._rows, self._hooks, self._seen, strict=True):
            for name, before, now in zip(HOOKS, hooks, _hooks_of(row.plugin), strict=True):
                if now is not before:
                    raise _without_effect(row, f"the hook {name}", "it would never be called")
            is_same = seen == _declarations_of(row.plugin)
            rows.append(row if is_same else _renewed(row))
        if any(
            len(new.claims) > len(row.claims) for row, new in zip(self._rows, rows, strict=True)
        ):
            raise_all(conflicts_among(rows))


def _renewed(row: Registration) -> Registration:
    """Return a row with its newest claims."""
    declared = facts.declared(row.plugin, row.id)
    for name in _FIXED:
        if declared[name] != getattr(row, name):
            raise _without_effect(row, name, "it has no effect")
    for name in set(declared["foreign"]) - set(row.foreign):
        raise _without_effect(row, f"the hook {name}", "it would never be called")
    claims = {name: f"{reason} since setup()" for name, reason in declared["claims"].items()}
    return dataclasses.replace(row, claims={**claims, **row.claims})


def _hooks_of(plugin: object) -> tuple[Any, ...]:
    """Return what implements each hook, as the plug-in stores it."""
    return tuple(static_attribute(plugin, name) for name in HOOKS)


def _declarations_of(plugin: object) -> tuple[Any, ...]:
    """Return what decides whether to look at a plug-in again: its names and its declarations."""
    names = frozenset(getattr(plugin, "__dict__", ()))
    if not isinstance(plugin, Plugin):
        return (names,)
    declared = [getattr(plugin, name) for name in (*_FIXED, "exclusives")]
    return names, dict(vars(plugin.unique_overrides)), declared


def _without_effect(row: Registration, what: str, why: str) -> InvalidPluginError:
    instead = "define it in the class, or set it in __init__"
    if isinstance(row.plugin, Plugin):
        instead += " or configure_trainer"
    return InvalidPluginError(
        f"plug-in {row.id!r} ({source_of(row.plugin)}) has set {what} since the plan was frozen, so"
        f" {why}: {instead}."
    )
