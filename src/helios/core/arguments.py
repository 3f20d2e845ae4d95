"""The arguments of constructors: objects remember what they were created with, as plain values."""

import dataclasses
import enum
import inspect
import os
from collections.abc import Mapping
from typing import Any, Self

_LONGEST = 100  # a longer container holds data rather than hyper-parameters
_DEEPEST = 20  # levels of containers
_MOST = 10_000  # containers and objects of one argument


class TakesArguments:
    """A base class of objects that remember the arguments of their constructor."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create an instance, before its constructor runs."""
        new = super().__new__(cls)
        vars(new)["_taken"] = _bind(cls, args, kwargs)
        return new


def arguments_of(taker: TakesArguments) -> dict[str, Any]:
    """Return the arguments of an object's constructor by name, with defaults, as plain values.

    Numbers, texts, and containers of them are plain already. The value of another type becomes
    a text: the name of a class or a function, or the type of the object in angle brackets.
    """
    taken: dict[str, Any] = vars(taker).get("_taken", {})
    return taken


def _bind(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        constructor: Any = cls.__init__  # type: ignore[misc]  # that of this very class
        signature = inspect.signature(constructor)
        bound = signature.bind(None, *args, **kwargs)
    except (TypeError, ValueError):  # the constructor will say what is wrong
        return {}
    bound.apply_defaults()
    taken: dict[str, Any] = {}
    for number, (name, value) in enumerate(bound.arguments.items()):
        kind = signature.parameters[name].kind
        if number == 0:  # the object itself
            continue
        if kind is inspect.Parameter.VAR_KEYWORD:
            taken.update({key: plain(item) for key, item in value.items()})
        elif kind is not inspect.Parameter.VAR_POSITIONAL or value:
            taken[name] = plain(value)
    return taken


def plain(value: Any) -> Any:
    """Return a value as numbers, texts, lists and dictionaries."""
    return _Plain().of(value, _DEEPEST)


class _Plain:
    """Makes values plain, and ends also if they contain themselves."""

    def __init__(self) -> None:
        self._left = _MOST

    def of(self, value: Any, depth: int) -> Any:
        """Return a value as plain data; one that is too deep, or that fails, as its type."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        self._left -= 1
        if depth > 0 and self._left > 0:
            try:
                return self._of(value, depth - 1)
            except Exception:  # the class of a user may fail in any way
                pass
        return f"<{type(value).__name__}>"

    def _of(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.of(value.value, depth)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return {field.name: self.of(getattr(value, field.name), depth) for field in fields}
        if isinstance(value, Mapping) and len(value) <= _LONGEST:
            return {str(key): self.of(item, depth) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and len(value) <= _LONGEST:
            items = value if isinstance(value, list | tuple) else sorted(value, key=repr)
            return [self.of(item, depth) for item in items]
        if isinstance(value, type) or inspect.isroutine(value):
            return f"{value.__module__}.{value.__qualname__}"
        if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
            return str(value)
        if isinstance(value, int | float | str):  # of a class of its own
            base = next(kind for kind in (int, float, str) if isinstance(value, kind))
            return base(value)
        if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
            return self.of(value.item(), depth)  # a number of NumPy, or a tensor of one number
        return f"<{type(value).__name__}>"
