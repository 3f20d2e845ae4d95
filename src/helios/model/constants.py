"""Immutable values of Python's library as strings, lists and numbers, and back.

A class is found by its name in the modules that are imported already, and only if it is an
enumeration or a named tuple. Neither is called, so a file cannot make a program run.
"""

import datetime
import decimal
import enum
import fractions
import pathlib
import sys
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple


class _Codec(NamedTuple):
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_CODECS: dict[type, tuple[str, _Codec]] = {
    bytes: ("bytes", _Codec(bytes.hex, bytes.fromhex)),
    range: ("range", _Codec(lambda each: [each.start, each.stop, each.step], lambda v: range(*v))),
    slice: ("slice", _Codec(lambda each: [each.start, each.stop, each.step], lambda v: slice(*v))),
    fractions.Fraction: ("fraction", _Codec(str, fractions.Fraction)),
    decimal.Decimal: ("decimal", _Codec(str, decimal.Decimal)),
    uuid.UUID: ("uuid", _Codec(str, uuid.UUID)),
    datetime.timedelta: (
        "timedelta",
        _Codec(lambda d: [d.days, d.seconds, d.microseconds], lambda v: datetime.timedelta(*v)),
    ),
    datetime.date: ("date", _Codec(str, datetime.date.fromisoformat)),
    datetime.time: ("time", _Codec(str, datetime.time.fromisoformat)),
    datetime.datetime: ("datetime", _Codec(str, datetime.datetime.fromisoformat)),
    pathlib.PurePosixPath: ("pure-posix-path", _Codec(str, pathlib.PurePosixPath)),
    pathlib.PureWindowsPath: ("pure-windows-path", _Codec(str, pathlib.PureWindowsPath)),
    pathlib.PosixPath: ("path", _Codec(str, pathlib.Path)),
    pathlib.WindowsPath: ("path", _Codec(str, pathlib.Path)),
}
DECODERS = {kind: codec.decode for kind, codec in _CODECS.values()}
"""The functions that return the value of a node, by its kind."""


def encode(value: Any) -> dict[str, Any] | None:
    """Return the node of a value, or ``None`` for values of other types."""
    if isinstance(value, enum.Enum):
        if value.name not in type(value).__members__ or not _is_importable(type(value)):
            return None
        return {"kind": "enum", "type": name_of(type(value)), "value": value.name}
    kind, codec = _CODECS.get(type(value), (None, None))
    if codec is None or not _is_plain(value):
        return None
    return {"kind": kind, "value": codec.encode(value)}


def _is_plain(value: Any) -> bool:
    """Return whether the parts of a value are plain, too."""
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return all(type(each) in (int, type(None)) for each in parts)
    # A time zone has rules that its text does not hold.
    return getattr(value, "tzinfo", None) is None and getattr(value, "fold", 0) == 0


def is_named_tuple(value: Any) -> bool:
    """Return whether a value is a named tuple whose class can be found by its name."""
    return isinstance(value, tuple) and hasattr(value, "_fields") and _is_importable(type(value))


def name_of(kind: type) -> str:
    """Return the name of a class, with its module."""
    return f"{kind.__module__}:{kind.__qualname__}"


def find_class(name: str, base: type) -> type | None:
    """Return a class of an imported module.

    Args:
        name: the result of :func:`name_of`.
        base: the class that it must derive from.
    """
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # no descriptor and no __getattr__ runs
    return found if isinstance(found, type) and issubclass(found, base) else None


def _is_importable(kind: type) -> bool:
    return find_class(name_of(kind), object) is kind
