"""Which plug-in does a stack frame belong to?

pluggy keeps the implementation that it is calling in a local variable of its call loop. Reading
it from there names the plug-in at fault, or the author of a stop request, at no cost while
nothing happens. Wrapping every implementation would cost on every call.
"""

import itertools
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import pluggy

_CALL_LOOP = "_multicall"


class HookCall(NamedTuple):
    """A hook being executed.

    Attributes:
        plug_id: the id of the plug-in.
        hook: the name of the hook.
    """

    plug_id: str
    hook: str


def calls_in_traceback(manager: pluggy.PluginManager, error: BaseException) -> list[HookCall]:
    """Return the hook calls that an exception passed through, outermost first."""
    return _calls(manager, list(_frames_of(error.__traceback__)))


def calls_in_stack(manager: pluggy.PluginManager, frame: FrameType | None) -> list[HookCall]:
    """Return the hook calls that a frame is executed in, outermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return _calls(manager, frames[::-1])


def _frames_of(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _calls(manager: pluggy.PluginManager, frames: list[FrameType]) -> list[HookCall]:
    calls = []
    for loop, callee in itertools.pairwise(frames):
        if loop.f_code.co_name == _CALL_LOOP and "hook_impls" in loop.f_locals:
            implementation = _running(loop.f_locals, callee)
            hook = getattr(manager.hook, loop.f_locals["hook_name"], None)
            # The program around us, pytest for one, may use pluggy too.
            if hook is not None and implementation in hook.get_hookimpls():
                calls.append(HookCall(implementation.plugin_name, loop.f_locals["hook_name"]))
    return calls


def _running(local: dict[str, Any], callee: FrameType) -> Any:
    """Return the implementation that the call loop is executing.

    After the last plain implementation, wrappers are resumed; those are found by their code and,
    among several instances of one class, by ``self``.
    """
    wrappers = [
        implementation
        for implementation in local["hook_impls"]
        if (implementation.wrapper or implementation.hookwrapper)
        and getattr(implementation.function, "__code__", None) is callee.f_code
    ]
    values = list(callee.f_locals.values())
    mine = [w for w in wrappers if any(value is w.plugin for value in values)]
    return (mine or wrappers or [local.get("hook_impl")])[0]
