"""Checks of the keyword arguments of a plug-in, before Helios calls its constructor."""

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from helios.errors import ConfigurationError, InvalidPluginError, nearest


def check_arguments(
    factory: Callable[..., Any], arguments: Mapping[str, Any], place: Callable[[str], str]
) -> None:
    """Check keyword arguments from Python code.

    Args:
        factory: a ``Plugin`` subclass, or a function that returns a plug-in.
        arguments: the arguments by name.
        place: a function that returns the place of an argument, given its name, for messages.

    Raises:
        ConfigurationError: the factory does not have an argument, or expects another type.
    """
    for name, hint in _expected(factory, arguments, place).items():
        _validated(hint, arguments[name], place(name), from_file=False)


def read_arguments(
    factory: Callable[..., Any], arguments: Mapping[str, Any], place: Callable[[str], str]
) -> dict[str, Any]:
    """Return keyword arguments from a file, converted to the types of the factory.

    The function compares types strictly. But a file has fewer types, so a list may replace a tuple,
    and a string may replace a path.

    Args:
        factory: the same as in :func:`check_arguments`.
        arguments: the arguments by name, with the types of TOML.
        place: the same as in :func:`check_arguments`.

    Raises:
        ConfigurationError: the factory does not have an argument, or expects another type.
    """
    return {
        name: _validated(hint, arguments[name], place(name), from_file=True)
        for name, hint in _expected(factory, arguments, place).items()
    }


def signature_of(factory: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a class or function that builds a plug-in.

    Raises:
        InvalidPluginError: it has none, as some functions that are written in C.
    """
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise InvalidPluginError(
            f"Python does not know the arguments of {_label(factory)}, so it cannot build a"
            " plug-in: write a function in Python that calls it."
        ) from error


def missing_arguments(factory: Callable[..., Any], given: Mapping[str, Any]) -> list[str]:
    """Return the names of required arguments that are missing."""
    return [
        parameter.name
        for parameter in signature_of(factory).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in given
    ]


def _expected(
    factory: Callable[..., Any], arguments: Mapping[str, Any], place: Callable[[str], str]
) -> dict[str, Any]:
    """Return the annotation of each argument, or ``Any`` if it has none."""
    parameters = signature_of(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [
        p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    for name in arguments:
        if name not in known and not takes_any:
            raise ConfigurationError(
                f"{place(name)}: {_label(factory)} has no argument {name!r}."
                f"{nearest(name, known)} Its arguments: {', '.join(known) or 'none'}."
            )
    hints = _hints(factory)
    return {name: hints.get(name, Any) for name in arguments}


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    target: Any = inspect.unwrap(factory.__init__ if inspect.isclass(factory) else factory)
    hints: dict[str, Any] = {}
    for name, hint in getattr(target, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        try:
            hints |= typing.get_type_hints(alone, getattr(target, "__globals__", None))
        except Exception:  # only type checkers can resolve it, so allow any value
            continue
    return hints


def _validated(hint: Any, value: Any, place: str, *, from_file: bool) -> Any:
    import pydantic

    try:
        adapter = pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True})
    except pydantic.PydanticUserError:  # the type has its own configuration
        adapter = pydantic.TypeAdapter(hint)
    try:
        if from_file:  # TOML and JSON have the same types, except that dates are strings
            return adapter.validate_json(json.dumps(value, default=str), strict=True)
        return adapter.validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"]
        raise ConfigurationError(
            f"{place} is {value!r}, but the expected type is {inspect.formatannotation(hint)}:"
            f" {why}."
        ) from None


def _label(factory: Callable[..., Any]) -> str:
    return str(getattr(factory, "__qualname__", factory))
