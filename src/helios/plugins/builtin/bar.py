"""A bar of tqdm that describes the position of a run in words."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm.std import tqdm

_WITH_END = "{story} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_WITHOUT_END = "{story} [{elapsed}, {rate_fmt}{postfix}]"


def create_bar(
    story: Callable[[], str], unit: str, total: float | None, initial: int = 0, leave: bool = True
) -> "tqdm[Any]":
    """Return a bar, which is shown at once: graphical in a notebook with widgets, text elsewhere.

    Args:
        story: returns the position in words; called only when the bar is drawn.
        unit: the unit of the counter.
        total: the last value of the counter; ``None`` if it is unknown.
        initial: the first value of the counter.
        leave: ``True`` if the bar stays visible when it is closed.
    """
    kind = _kind()

    class StoryBar(kind):  # type: ignore[misc, valid-type]  # a notebook needs another base
        @property
        def format_dict(self) -> Any:
            return {**super().format_dict, "story": story()}

    is_text = not any("notebook" in each.__module__ for each in kind.__mro__)
    with_end = _WITH_END.replace("{bar}", "{bar:10}") if is_text else _WITH_END
    return StoryBar(
        unit=f" {unit}",
        total=total,
        initial=initial,
        leave=leave,
        bar_format=_WITHOUT_END if total is None else with_end,
        dynamic_ncols=True,
    )


def _kind() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without widgets, a notebook shows a bar of text
        from tqdm.auto import tqdm  # detects a notebook; imported only if a bar is shown
    return tqdm


def can_redraw() -> bool:
    """Return whether a bar can replace its last state: on a terminal and in a notebook."""
    return in_notebook() or is_terminal(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream writes to a terminal; a program without a console has no stream."""
    return stream is not None and stream.isatty()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_shell is None else get_shell()
    return "IPKernelApp" in getattr(shell, "config", {})


@contextlib.contextmanager
def printing_above(bar: "tqdm[Any]") -> Iterator[None]:
    """Let what a program prints on a terminal appear above a bar, and not inside its line."""
    replaced = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if is_terminal(stream) and not in_notebook():
            replaced[name] = stream
            setattr(sys, name, _Above(stream, bar))
    try:
        yield
    finally:
        for name, stream in replaced.items():
            if isinstance(getattr(sys, name), _Above):  # otherwise somebody has replaced it since
                setattr(sys, name, stream)


class _Above:
    """A stream that removes a bar before it writes, and draws the bar again after each line."""

    def __init__(self, stream: TextIO, bar: "tqdm[Any]") -> None:
        self._stream = stream
        self._bar = bar
        self._process = os.getpid()
        self._is_inside_line = False

    def write(self, text: str) -> int:
        """Write a text; one without an end of line, such as a question, stays the last line."""
        if os.getpid() != self._process or not text:  # of a worker, which has no bar
            return self._stream.write(text)
        if not self._is_inside_line:
            self._bar.clear()
        count = self._stream.write(text)
        self._is_inside_line = not text.endswith("\n")
        if not self._is_inside_line:
            self._stream.flush()
            self._bar.refresh()
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
