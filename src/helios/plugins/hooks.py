"""The facts about all hooks, as :class:`PluginSpec` declares them."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from helios.plugins.hookspecs import PluginSpec
from helios.plugins.markers import Deprecation


@dataclasses.dataclass(frozen=True)
class HookInfo:
    """The facts about one hook that the framework needs.

    Attributes:
        name: the name of the hook.
        arguments: the names of its arguments.
        claim: the capability that each implementation claims; ``None`` for a hook of kind *all*.
        last: the capability of the plug-in that comes last, if each implementation receives the
            result of the one before it; otherwise ``None``.
        deprecations: the deprecations of the hook and of its arguments.
    """

    name: str
    arguments: tuple[str, ...]
    claim: str | None
    last: str | None = None
    deprecations: tuple[Deprecation, ...] = ()

    @property
    def has_result(self) -> bool:
        """``True`` if the run needs the result, so that errors end it and wrappers only observe."""
        return self.claim is not None or self.last is not None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "HookInfo":
        """Return the facts about a method of :class:`PluginSpec`."""
        return cls(
            name=function.__name__,
            arguments=tuple(inspect.signature(function).parameters)[1:],
            claim=getattr(function, "helios_claim", None),
            last=getattr(function, "helios_last", None),
            deprecations=tuple(getattr(function, "helios_deprecations", ())),
        )


HOOKS: dict[str, HookInfo] = {
    name: HookInfo.of(function)
    for kind in reversed(PluginSpec.__mro__[:-1])
    for name, function in vars(kind).items()
    if not name.startswith("_")
}
"""All hooks by name, in the order of declaration."""
