"""The place of a plug-in's definition: ``file:line``."""

import inspect
import linecache
import re

from helios.errors import printable


def source_of(plugin: object) -> str:
    """Return ``file:line`` of the definition of a plug-in, or its module if the line is unknown."""
    definition = plugin if inspect.isclass(plugin) or inspect.ismodule(plugin) else type(plugin)
    try:
        file = inspect.getsourcefile(definition)
    except Exception:  # the attributes of a stranger's module may be of any kind
        file = None
    line = 1 if inspect.ismodule(definition) else _line_of(definition, file)
    if file is None or line is None:
        return printable(str(getattr(definition, "__module__", definition)))
    return printable(f"{file}:{line}")


def _line_of(definition: type, file: str | None) -> int | None:
    """Return the first line of a class.

    :func:`inspect.getsourcelines` parses the whole file and is not thread-safe, so this function
    does not use it.
    """
    begins = re.compile(rf"\s*class\s+{re.escape(definition.__name__)}\b")
    lines = linecache.getlines(file) if file else []
    found = [number for number, line in enumerate(lines, start=1) if begins.match(line)]
    members = (
        getattr(m, "__wrapped__", m) if inspect.isfunction(m) else m
        for m in vars(definition).values()
    )
    codes = [getattr(member, "__code__", None) for member in members]
    inside = [
        code.co_firstlineno
        for code in codes
        if code and code.co_qualname.startswith(f"{definition.__qualname__}.")
    ]
    above = [number for number in found if number <= min(inside, default=len(lines))]
    if not above:
        return None
    line = above[-1]
    while line > 1 and lines[line - 2].lstrip().startswith("@"):  # its decorators
        line -= 1
    return line
