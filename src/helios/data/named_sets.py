"""Validation and test sets with names: several sets of one split."""

from collections.abc import Mapping
from typing import Any

from helios.errors import ConfigurationError, nearest


def names_of(sets: Any) -> list[str]:
    """Return the names of the sets; none if the split has one set without a name."""
    return list(sets) if isinstance(sets, Mapping) else []


def original(sets: Any) -> Any:
    """Return the dataset of a set; of several sets, a dictionary by name."""
    if isinstance(sets, Mapping):
        return {name: data.dataset for name, data in sets.items()}
    return sets.dataset if sets else None


def select(sets: Any, name: str | None, owner: type, split: str) -> Any:
    """Return one of the sets.

    Args:
        sets: the set of a split, or several by name.
        name: the name; ``None`` for a set without a name.
        owner: the class of the data module, for messages.
        split: the name of the split, for messages.

    Raises:
        ConfigurationError: no set has this name, or a name is needed.
    """
    if isinstance(sets, Mapping) and name in sets:
        return sets[name]
    if not isinstance(sets, Mapping) and name is None:
        return sets
    names = names_of(sets)
    known = f"Its names are {', '.join(map(repr, names))}." if names else "It has no names."
    given = f"there is no {split} set {name!r}"
    if name is None:
        given = f"its sets have names; call named_dataloader(DatasetSplit.{split.upper()}, name)"
    raise ConfigurationError(
        f"{owner.__name__}._{split}_dataset: {given}.{nearest(name or '', names)} {known}"
    )


def require_names(sets: Mapping[Any, Any], owner: type) -> None:
    """Refuse an empty dictionary, and names that cannot be part of a metric's name.

    Raises:
        ConfigurationError: the dictionary is empty, or a name is not a text.
    """
    if not sets:
        raise ConfigurationError(
            f"{owner.__name__} has assigned an empty dictionary of datasets: assign None if"
            " nothing is evaluated."
        )
    for name in sets:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"{owner.__name__} has a dataset of the name {name!r}: write a text, which Helios"
                " appends to the names of its metrics."
            )
