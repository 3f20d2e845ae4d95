"""The activity of the thread that trains, as its stack shows it to another thread."""

import sys
import traceback
from types import FrameType
from typing import Literal

from helios.plugins import PluginManager
from helios.plugins.registration.attribution import calls_in_stack

Activity = Literal["running", "waiting", "paused"]

_WAITS = ("torch.distributed", "torch.nn.parallel.distributed", "torch.autograd.graph")
"""The modules whose calls wait for other ranks; a backward pass waits in the last of them."""
_PAUSES = (
    "helios.checkpoints",
    "torch._dynamo.convert_frame",
    "torch._inductor.compile_fx",
    "torch.hub",
)
"""The modules that save, compile or download, which may take any time. A compiled network that runs
is in none of them."""
_CALLERS = ("helios.trainer", "helios.plugins", "helios.model", "helios.data", "pluggy")


def stack_of(thread: int) -> FrameType | None:
    """Return the innermost frame of a thread, by its identifier."""
    return sys._current_frames().get(thread)  # noqa: SLF001 - Python documents it


def activity(frame: FrameType | None) -> Activity:
    """Return whether a thread runs, waits for other ranks, or does what may take any time."""
    frames = _frames(frame)
    if any(_is_in(each, _PAUSES) or each.f_code.co_name == "prepare_data" for each in frames):
        return "paused"
    return "waiting" if frames and _is_in(frames[0], _WAITS) else "running"


def place_in_code(frame: FrameType | None, manager: PluginManager) -> str:
    """Return the hook or method that a thread is in, with file and line; may be empty."""
    frames = _frames(frame)
    last = next((i for i, each in enumerate(frames) if _is_in(each, _CALLERS)), None)
    if not last:  # none, or the innermost: no code of users is running
        return ""
    method, inner = frames[last - 1], frames[0]
    calls = calls_in_stack(manager, frame)
    name = method.f_code.co_name
    if calls:
        name = f"{calls[-1].hook} of plug-in {manager.describe(calls[-1].plug_id)}"
    return f"in {name} ({inner.f_code.co_filename}:{inner.f_lineno} in {inner.f_code.co_name})"


def shown(frame: FrameType | None) -> str:
    """Return a stack as text."""
    return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()


def _frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames around a frame, innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _is_in(frame: FrameType, modules: tuple[str, ...]) -> bool:
    name = frame.f_globals.get("__name__", "")
    return any(name == each or name.startswith(f"{each}.") for each in modules)
