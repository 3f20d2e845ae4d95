"""Calls of a model's methods with the signatures of earlier and later releases."""

import inspect
from collections.abc import Callable
from typing import Any

_FLAGS = ("fast_init", "for_inference")
"""The names of the flag for a model that is only tested."""


def call_with_flag(method: Callable[..., Any], *args: Any, fast_init: bool) -> Any:
    """Call a method with the flag under the name that it has for it, or without the flag.

    Args:
        method: ``setup`` or ``load_state_dict`` of a model.
        args: the other arguments.
        fast_init: the flag: ``True`` if the model will only be tested.
    """
    positional, by_name = _flag_of(method, fast_init)
    return method(*args, *positional, **by_name)


def accepts_flag(method: Callable[..., Any], count: int) -> bool:
    """Return whether :func:`call_with_flag` can call a method.

    Args:
        method: the method.
        count: the number of its other arguments.
    """
    positional, by_name = _flag_of(method, False)
    try:
        inspect.signature(method).bind(*[None] * count, *positional, **by_name)
    except TypeError:
        return False
    return True


def _flag_of(method: Callable[..., Any], value: bool) -> tuple[tuple[bool, ...], dict[str, bool]]:
    taken = inspect.signature(method).parameters
    for name in _FLAGS:
        if name in taken:
            return (), {name: value}
    kinds = {parameter.kind for parameter in taken.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return (), {_FLAGS[0]: value}
    return ((value,) if inspect.Parameter.VAR_POSITIONAL in kinds else ()), {}
