"""Find the plug-in that a stack frame belongs to.

The call loops of pluggy and of Helios keep the current implementation in a local variable. Helios
reads this variable to name the plug-in that failed or that requested a stop. This costs nothing
until it is needed. A wrapper around each implementation would add a cost to every call.
"""

import itertools
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from helios.plugins.calls.results import BuiltIn

if TYPE_CHECKING:
    from helios.plugins.registration.manager import PluginManager

_CALL_LOOPS = {"_multicall", "call_directly", "call_in_turn"}
"""The functions of pluggy, ``callers.py`` and ``chain.py`` that call implementations."""

_OLD_WRAPPER = "run_old_style_hookwrapper"


class HookCall(NamedTuple):
    """A call of a hook by pluggy.

    Attributes:
        plug_id: the id of the plug-in.
        hook: the name of the hook.
    """

    plug_id: str
    hook: str


def calls_in_traceback(manager: pluggy.PluginManager, error: BaseException) -> list[HookCall]:
    """Return the hook calls that an exception passed through, outermost first."""
    return _calls(manager, _frames_of(error.__traceback__))


def calls_in_stack(manager: pluggy.PluginManager, frame: FrameType | None) -> list[HookCall]:
    """Return the hook calls around a frame, outermost first."""
    return _calls(manager, _frames_around(frame))


def call_in_traceback(manager: "PluginManager", error: BaseException) -> HookCall | None:
    """Return the innermost call of a plug-in that an exception passed through.

    Plug-ins also run outside hook calls: in their generators, their context managers and
    ``state_dict``. For these, the function looks for the plug-in in the local variable ``self``.
    """
    calls = calls_in_traceback(manager, error)
    if calls:
        return calls[-1]
    for frame in reversed(_frames_of(error.__traceback__)):
        for row in manager.rows.values():
            if frame.f_locals.get("self") is row.plugin:
                return HookCall(row.id, frame.f_code.co_name)
    return None


def author_in_stack(manager: "PluginManager", model: object, frame: FrameType | None) -> str:
    """Return the caller of a frame: a plug-in's id, ``"the model"``, or ``"the user"``."""
    frames = _frames_around(frame)
    in_model = [i for i, f in enumerate(frames) if model and f.f_locals.get("self") is model]
    innermost = frames[in_model[-1] :] if in_model else frames
    # The whole run is inside the launch hook, so its plug-in is not the author.
    calls = [call for call in _calls(manager, innermost) if call.hook != "launch"]
    if calls:
        return calls[-1].plug_id
    return "the model" if in_model else "the user"


def _frames_around(frame: FrameType | None) -> list[FrameType]:
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _frames_of(traceback: TracebackType | None) -> list[FrameType]:
    frames: list[FrameType] = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def describe_owners(manager: "PluginManager", hook: str) -> str:
    """Return the description of the plug-in that implements a hook of kind *one*.

    Without one, return those of the plug-ins that wrap it.
    """
    wrapping = [row.id for row in manager.rows.values() if hook in row.hooks]
    claimant = manager.claimant(hook)
    return " and ".join(map(manager.describe, [claimant] if claimant else wrapping))


def _calls(manager: pluggy.PluginManager, frames: list[FrameType]) -> list[HookCall]:
    calls = []
    for loop, callee in itertools.pairwise(frames):
        is_loop = loop.f_code.co_name in _CALL_LOOPS and "hook_impl" in loop.f_locals
        if is_loop and callee is not loop:  # a loop that raises again occurs twice
            implementation = _running(loop.f_locals, callee)
            # Other parts of the program, for example pytest, may use pluggy too.
            hook = _hook_of(manager, implementation)
            if hook is not None and not isinstance(implementation.plugin, BuiltIn):
                calls.append(HookCall(implementation.plugin_name, hook))
    return calls


def _hook_of(manager: pluggy.PluginManager, implementation: Any) -> str | None:
    """Return the hook of a manager that an implementation belongs to."""
    for name, caller in vars(manager.hook).items():
        if implementation in caller.get_hookimpls():
            return name
    return None


def _running(local: dict[str, Any], callee: FrameType) -> Any:
    """Return the implementation that the call loop is executing.

    After the last plain implementation, pluggy resumes the wrappers. The function finds a wrapper
    by its code, and distinguishes several instances of one class by ``self``.
    """
    wrappers = [
        implementation
        for implementation in local.get("hook_impls", ())
        if (implementation.wrapper or implementation.hookwrapper)
        and getattr(implementation.function, "__code__", None) is callee.f_code
    ]
    if callee.f_code.co_name == _OLD_WRAPPER:
        return callee.f_locals.get("hook_impl")
    mine = [wrapper for wrapper in wrappers if _mentions(callee, wrapper.plugin)]
    return (mine or wrappers or [local.get("hook_impl")])[0]


def _mentions(frame: FrameType, plugin: object) -> bool:
    """Return whether a plug-in is in the local variables.

    The variable is ``self``, or the ``args`` of a decorator.
    """
    values = list(frame.f_locals.values())
    values += [item for value in values if isinstance(value, tuple) for item in value]
    return any(value is plugin for value in values)
