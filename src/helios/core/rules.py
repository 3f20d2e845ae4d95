"""Rules for the values of arguments: a table of them refuses wrong values by name."""

import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from helios.errors import ConfigurationError

Rule = Callable[[Any], str | None]
"""A function that returns what to write instead of a wrong value, or ``None`` for a right one."""

_LONGEST_PATH = 4096 - 512  # bytes on Linux, with room for the files that Helios adds
_LONGEST_NAME = 255  # bytes, on all common file systems
_LONGEST_SHOWN = 100


def check(values: Mapping[str, Any], rules: Mapping[str, Rule], of: str = "") -> None:
    """Refuse the first value that its rule does not accept.

    Args:
        values: the values by name.
        rules: the rules by name; values without a rule are right.
        of: the class that has the arguments, for messages.

    Raises:
        ConfigurationError: a value is wrong; the message says what to write.
    """
    for name, rule in rules.items():
        remedy = rule(values[name]) if name in values else None
        if remedy is not None:
            owner = f" of {of}" if of else ""
            raise ConfigurationError(f"{name}={shown(values[name])}{owner}: {remedy}")


def shown(value: Any) -> str:
    """Return a value as text for a message: short, and without errors."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__module__}.{type(value).__qualname__}>"
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[: _LONGEST_SHOWN - 20]} ... {text[-15:]}"


def optional(rule: Rule) -> Rule:
    """Accept ``None``, too."""
    return lambda value: None if value is None else rule(value)


def switch(value: Any) -> str | None:
    """Accept ``True`` and ``False``."""
    return None if isinstance(value, bool) else "write True or False."


def text(value: Any) -> str | None:
    """Accept a string."""
    return None if isinstance(value, str) else "write a string."


def function(value: Any) -> str | None:
    """Accept what can be called."""
    return None if callable(value) else "write a function, without calling it."


def whole(remedy: str, smallest: int, largest: float = sys.maxsize) -> Rule:
    """Accept a whole number in a range; a ``bool`` is none."""

    def rule(value: Any) -> str | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return None if is_whole and smallest <= value <= largest else remedy

    return rule


def choice(*choices: str) -> Rule:
    """Accept one of a few strings."""
    *first, last = map(repr, choices)
    remedy = f"write {', '.join(first)} or {last}."
    return lambda value: None if isinstance(value, str) and value in choices else remedy


def file_name(value: Any) -> str | None:
    """Accept an empty string, and one that can be the name of a file with a short suffix."""
    if isinstance(value, str) and (not value or is_file_name(f"{value}.log")):
        return None
    return "write a short name without separators, such as 'baseline'."


def is_file_name(name: str) -> bool:
    """Return whether a file in any folder can have this name."""
    encoded = _encoded(name)
    is_one_part = pathlib.PurePath(name).name == name and name != ".."
    return encoded is not None and is_one_part and len(encoded) <= _LONGEST_NAME


def folder(value: Any) -> str | None:
    """Accept the path of a folder, which need not exist yet."""
    remedy = "write the path of a folder."
    if not isinstance(value, str | os.PathLike):
        return remedy
    try:
        path = os.fspath(value)
    except Exception:
        return remedy
    encoded = _encoded(path) if isinstance(path, str) else None
    if not encoded:
        return remedy
    parts = pathlib.Path(path).absolute()
    is_long = len(_encoded(str(parts)) or b"") > _LONGEST_PATH
    if is_long or any(len(part) > _LONGEST_NAME for part in encoded.split(b"/")):
        return "write a shorter path."
    return _obstacle(parts)


def _obstacle(path: pathlib.Path) -> str | None:
    """Return a remedy if a path cannot be that of a folder, because of what exists."""
    for parent in (path, *path.parents):
        try:
            if parent.is_dir():
                return None
            if parent.exists():
                start = "it" if parent == path else str(parent)
                return f"{start} is a file: write the path of a folder."
        except OSError as error:
            return f"{parent} cannot be used ({error.strerror}): write the path of another folder."
    return None


def _encoded(name: str) -> bytes | None:
    """Return a name as the system takes it, or ``None`` if it takes no such name."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return None if b"\0" in encoded else encoded
