"""The states of the plug-ins in checkpoints."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from helios.checkpoints import plain
from helios.core.rules import shown
from helios.errors import CheckpointError, InvalidPluginError
from helios.plugins.plugin import Plugin
from helios.plugins.registration.table import Registration

Quarantine = Callable[[Registration, str, Exception], None]


class PluginStates:
    """The states of plug-ins. An observer that fails keeps the state that was restored.

    Args:
        quarantine: the function that switches an observer off.
        describe: the function that describes a plug-in in messages, given its id.

    Attributes:
        skipped: the ids of plug-ins that this process does not call; their states are those of
            other processes.
    """

    def __init__(self, quarantine: Quarantine, describe: Callable[[str], str]) -> None:
        self._quarantine = quarantine
        self._describe = describe
        self._restored: dict[str, Any] = {}
        self._stale: dict[str, int] = {}
        self.skipped: set[str] = set()

    def begin(self) -> None:
        """Forget what an earlier run has restored."""
        self._restored, self._stale, self.skipped = {}, {}, set()

    def save(self, rows: Iterable[Registration]) -> dict[str, Any]:
        """Return the state of each plug-in that has one, by id; an empty one counts, too."""
        states = {row.id: self._state_of(row) for row in rows if row.id not in self.skipped}
        return {plug_id: state for plug_id, state in states.items() if state is not None}

    def versions(self, rows: Iterable[Registration]) -> dict[str, int]:
        """Return the versions of the states, by id, of those plug-ins that declare one."""
        versions = {row.id: self._stale.get(row.id, _version_of(row)) for row in rows}
        return {plug_id: version for plug_id, version in versions.items() if version > 1}

    def _state_of(self, row: Registration) -> Any:
        get_state: Callable[[], Any] | None = getattr(row.plugin, "state_dict", None)
        if row.id in self._stale:
            return self._restored.get(row.id)  # its own state is that of a new run
        if get_state is None or hasattr(get_state, "is_default"):
            return None
        if row.critical:
            return get_state()
        try:
            state = get_state()
            plain.check(state, f"of plug-in {row.id!r}")
        except Exception as error:
            self._quarantine(row, "state_dict", error)
            return self._restored.get(row.id)  # an old state is better than none
        return state

    def load(
        self,
        rows: Iterable[Registration],
        states: Mapping[str, Any],
        versions: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Restore the states of plug-ins; return those of plug-ins that are not registered.

        Args:
            rows: the plug-ins.
            states: the states by id.
            versions: the versions of those states that have one; ``None`` if the states are of this
                process.
        """
        absent = dict(states)
        self._restored = dict(states)
        rows = [row for row in rows if row.id not in self.skipped]
        taken = {row.id for row in rows}
        for row in rows:
            known = next((name for name in _names(row, taken) if name in absent), None)
            if known is not None:
                self._restored[row.id] = absent[known]
                version = _version_of(row) if versions is None else versions.get(known, 1)
                try:
                    self._load_state_of(row, absent.pop(known), version)
                except Exception as error:
                    if row.critical:
                        raise
                    self._stale[row.id] = version
                    self._quarantine(row, "load_state_dict", error)
        return absent

    def _load_state_of(self, row: Registration, state: Any, version: int) -> None:
        load_state = getattr(row.plugin, "load_state_dict", None)
        if load_state is None:
            raise InvalidPluginError(
                f"the checkpoint contains a state of plug-in {self._describe(row.id)}, which"
                " has no load_state_dict(state_dict) to restore it: add the method, or"
                " block the plug-in; later checkpoints then keep its state."
            )
        present = self._migrated(row, state, version)
        load_state(present)
        self._restored[row.id] = present

    def _migrated(self, row: Registration, state: Any, version: int) -> Any:
        """Return a state in the form of the present version of a plug-in."""
        own, plugin = _version_of(row), row.plugin
        if version > own:
            raise CheckpointError(
                f"the checkpoint contains a state of plug-in {self._describe(row.id)} in version"
                f" {version}, but this release of the plug-in reads versions up to {own}: install"
                " the release that wrote it, or a newer one. Or block the plug-in; later"
                " checkpoints then keep its state."
            )
        if version == own or not isinstance(plugin, Plugin):
            return state
        migrated = plugin.migrate_state(state, version)
        if not isinstance(migrated, dict):
            raise InvalidPluginError(
                f"plug-in {self._describe(row.id)} returned {shown(migrated)} from migrate_state:"
                f" return the state in the form of version {own}."
            )
        return migrated


def _version_of(row: Registration) -> int:
    return row.plugin.state_version if isinstance(row.plugin, Plugin) else 1


def _names(row: Registration, taken: set[str]) -> list[str]:
    """Return the ids under which a checkpoint may hold the state of a plug-in, best first."""
    return [row.id, *(name for name in row.former_ids if name not in taken)]
