"""The arguments that a plug-in was constructed with, recorded as plain data for the plan.

The record is made when the plug-in is constructed, so that it shows the arguments and not what has
become of them. Equal arguments have equal records in every process.
"""

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import inspect
import json
import math
import os
import re
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

ATTRIBUTE = "_helios_arguments"
"""The attribute of a :class:`Plugin` that holds its record."""

_DEEPEST = 20
_LARGEST_TENSOR = 1 << 20
_SHOWN_BY_REPR = (
    complex,
    decimal.Decimal,
    fractions.Fraction,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    uuid.UUID,
    re.Pattern,
    range,
    slice,
)
_SHOWN_BY_STR = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype)


def records_arguments(
    init: Callable[..., None], finish: Callable[[Any], None]
) -> Callable[..., None]:
    """Let an ``__init__`` record its arguments, unless that of a subclass has called it.

    Args:
        init: the ``__init__`` of a class.
        finish: a function to call with the object when its construction is complete.
    """

    @functools.wraps(init)
    def record(self: Any, *positional: Any, **by_name: Any) -> None:
        if type(self).__init__ is not record:
            init(self, *positional, **by_name)
            return
        arguments = record_call(init, (self, *positional), by_name)
        vars(self)[ATTRIBUTE] = dict(list(arguments.items())[1:])
        init(self, *positional, **by_name)
        finish(self)

    record.records_arguments = True  # type: ignore[attr-defined]
    return record


def record_fields(plugin: object) -> None:
    """Record the fields of a plug-in whose class is a dataclass; its ``__init__`` comes late."""
    if dataclasses.is_dataclass(plugin) and ATTRIBUTE not in vars(plugin):
        vars(plugin)[ATTRIBUTE] = _fields(plugin, 0)


def recorded(plugin: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a plug-in: its arguments, and those of its factory.

    Args:
        plugin: the plug-in.
        given: the arguments of the class or factory that Helios called, as plain data.
    """
    own: dict[str, Any] = getattr(plugin, ATTRIBUTE, {})
    return {**{key: plain(value) for key, value in given.items()}, **own}


def record_call(
    function: Callable[..., Any], positional: tuple[Any, ...], by_name: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name as plain data, including the defaults.

    Args:
        function: the function; ``__init__`` for a class.
        positional: the positional arguments.
        by_name: the keyword arguments.

    Returns:
        The arguments; an empty dictionary if they do not fit, so that the call itself fails.
    """
    try:
        signature = inspect.signature(function)
        bound = signature.bind(*positional, **by_name)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    record: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            record |= {key: plain(item) for key, item in value.items()}
        else:
            record[name] = plain(_converted(value, parameter.annotation))
    return record


def _converted(value: Any, annotation: Any) -> Any:
    """Return a whole number as a float, if the annotation allows only floats."""
    if type(value) is int and annotation is not inspect.Parameter.empty:
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        words = re.findall(r"\w+", text)
        if "float" in words and "int" not in words:
            return float(value)
    return value


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as plain data for JSON, the same in all processes.

    A value that JSON does not have becomes a text in angle brackets: ``<torch.float16>``. An object
    of another class becomes the name of its class, because its content may differ in each process.
    """
    if depth > _DEEPEST:
        return "<...>"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum) and not isinstance(value, str | int):
        return f"<{_name(type(value))}.{value.name}>"
    if isinstance(value, str | int):
        return str.__str__(value) if isinstance(value, str) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else f"<{float(value)}>"
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value))
    if isinstance(value, Mapping):
        return {_key(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, depth + 1) for item in value), key=as_json)
    return _special(value, depth)


def as_json(value: Any) -> str:
    """Return plain data as JSON in one spelling, for comparisons."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _special(value: Any, depth: int) -> Any:
    if isinstance(value, np.generic):
        return plain(value.item(), depth + 1)
    if isinstance(value, torch.device):
        return str(value)  # a plug-in takes "cuda" as well
    if isinstance(value, _SHOWN_BY_STR):
        return f"<{value}>"
    if isinstance(value, _SHOWN_BY_REPR):
        return f"<{value!r}>"
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes, sha256 {_digest(bytes(value))}>"
    if isinstance(value, torch.Tensor | np.ndarray):
        return _array(value)
    if isinstance(value, functools.partial):
        return {
            "<partial>": plain(value.func, depth + 1),
            "args": plain(value.args, depth + 1),
            "keywords": plain(value.keywords, depth + 1),
        }
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"<{_name(value)}>"
    if isinstance(value, types.ModuleType):
        return f"<{value.__name__}>"
    if dataclasses.is_dataclass(value):
        return {"<dataclass>": _name(type(value)), **_fields(value, depth)}
    return f"<{_name(type(value))}>"


def _fields(value: Any, depth: int) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    return {name: plain(getattr(value, name, None), depth + 1) for name in fields}


def _key(key: Any) -> str:
    return key if isinstance(key, str) else f"<{as_json(plain(key, _DEEPEST - 1))}>"


def _name(definition: Any) -> str:
    module = getattr(definition, "__module__", None) or "builtins"
    return f"{module}.{getattr(definition, '__qualname__', type(definition).__qualname__)}"


def _array(value: Any) -> str:
    kind = f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    if isinstance(value, torch.Tensor):
        if value.numel() > _LARGEST_TENSOR or value.is_meta or value.layout is not torch.strided:
            return f"<{kind}>"
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"<{kind}, sha256 {_digest(content)}>"
    if value.size > _LARGEST_TENSOR or value.dtype.hasobject:
        return f"<{kind}>"
    return f"<{kind}, sha256 {_digest(value.tobytes())}>"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
