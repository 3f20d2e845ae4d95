"""The chain of ``prepare_module``: each plug-in receives what the one before it returned."""

from collections.abc import Callable, Sequence
from typing import Any

import pluggy
from torch import nn

from helios.plugins.calls.guards import is_wrapper
from helios.plugins.discovery.metadata import canonical
from helios.plugins.hooks import HOOKS
from helios.plugins.plugin import Plugin


def comes_last(hook: str, implementation: pluggy.HookImpl) -> bool:
    """Return whether a plug-in claims to be the last one in the chain of a hook."""
    claim = HOOKS[hook].last if hook in HOOKS else None
    plugin = implementation.plugin
    if claim is None or is_wrapper(implementation) or not isinstance(plugin, Plugin):
        return False
    return canonical(claim) in map(canonical, plugin.exclusives)


def chained(
    hook: str,
    implementations: Sequence[pluggy.HookImpl],
    move: Callable[[nn.Module], nn.Module],
    wrappers: pluggy.HookCaller | None,
) -> Callable[[nn.Module], nn.Module]:
    """Return a function that calls implementations in turn.

    Each of them receives a network on the device of this process. A plug-in that claims to be the
    last one decides where its result is, because it may keep a part of the network elsewhere.

    Args:
        hook: the name of the hook.
        implementations: the implementations, in the order of their calls.
        move: a function that moves a network to the device.
        wrappers: the caller of the wrappers; ``None`` to call without pluggy.
    """
    plain = [each for each in implementations if not is_wrapper(each)]
    is_placed = bool(plain) and comes_last(hook, plain[-1])

    # attribution.py finds this function by its name, and the plug-in in hook_impl.
    def call_in_turn(module: nn.Module) -> nn.Module:
        for hook_impl in plain:
            function: Callable[..., Any] = hook_impl.function
            module = function(*[move(module)] * len(hook_impl.argnames))
        return module if is_placed else move(module)

    if wrappers is None:
        return call_in_turn

    def call_in_wrappers(module: nn.Module) -> nn.Module:
        prepared: nn.Module = wrappers.call_extra([call_in_turn], {"module": move(module)})
        return prepared

    return call_in_wrappers
