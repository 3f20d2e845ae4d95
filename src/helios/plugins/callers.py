"""The bound callers of the hooks, and what is no longer called."""

import dataclasses
from typing import TYPE_CHECKING

import pluggy

from helios.plugins.hookspecs import HOOKS


class HookCallers:
    """One attribute a hook: pluggy's caller, or ``None`` where nobody implements it.

    Asking ``is not None`` is some thirty times cheaper than a call that nobody answers.
    """

    def __init__(self, relay: pluggy.HookRelay) -> None:
        self.bind(relay)

    def bind(self, relay: pluggy.HookRelay) -> None:
        """Look again who implements what."""
        for name in HOOKS:
            caller = getattr(relay, name)
            setattr(self, name, caller if caller.get_hookimpls() else None)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> pluggy.HookCaller | None: ...


@dataclasses.dataclass(frozen=True)
class Quarantine:
    """Why a plug-in is not called any more.

    Attributes:
        plugin: its id.
        hook: the hook, or ``state_dict``, that has failed.
        error: what was raised.
    """

    plugin: str
    hook: str
    error: Exception

    def __str__(self) -> str:
        return (
            f"plug-in {self.plugin!r} has failed in {self.hook}, and was off for the rest of the"
            f" run: {type(self.error).__name__}: {self.error}"
        )
