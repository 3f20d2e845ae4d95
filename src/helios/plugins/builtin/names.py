"""The parts of a model's networks that users name by patterns."""

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from helios.core import rules
from helios.errors import ConfigurationError, nearest


def _patterns(value: Any) -> str | None:
    if isinstance(value, str):
        return f"this is a single string: write a list, [{rules.shown(value)}]."
    is_list = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    return None if is_list and value else "write a list of names, such as ['net.encoder']."


PATTERNS: rules.Rule = _patterns
"""The rule for an argument that is a list of names or patterns."""


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern means a part, or something around it.

    Args:
        name: the dotted name of the part, such as ``net.encoder.0.weight``.
        patterns: dotted names, perhaps with wildcards: ``net.encoder``, ``net.*.norm``.
    """
    return any(
        fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        for pattern in patterns
    )


def named_modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the networks of a model and their layers by dotted name."""
    for name, network in model.networks():
        for path, module in network.named_modules():
            yield f"{name}.{path}" if path else name, module


def named_parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Iterate over the parameters of a model's networks by dotted name."""
    for name, network in model.networks():
        for path, parameter in network.named_parameters():
            yield f"{name}.{path}", parameter


def require_matches(
    patterns: Sequence[str], known: Sequence[str], what: str, plug_id: str, model: Any
) -> None:
    """Refuse a pattern that means nothing in the model.

    Args:
        patterns: the patterns.
        known: the names of the parts.
        what: the word for a part, for the message.
        plug_id: the plug-in that has the patterns.
        model: the model.

    Raises:
        ConfigurationError: a pattern means nothing; the message suggests the nearest names.
    """
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in known):
            prefixes = {name.rsplit(".", level)[0] for name in known for level in (0, 1, 2)}
            raise ConfigurationError(
                f"plug-in {plug_id!r} names {pattern!r}, but {type(model).__name__} has no such"
                f" {what} after setup().{nearest(pattern, sorted(prefixes))} Write the name of an"
                " attribute, and of the parts in it: 'net', 'net.encoder', 'net.*.norm'."
            )
