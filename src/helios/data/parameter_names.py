"""The names of the parameters of data loaders."""

import dataclasses
from typing import Any

from helios.data.loader import DataLoaderParams
from helios.errors import ConfigurationError, nearest

_FOREIGN = {
    "generator": "pass random_seed and seeding, which decide the random numbers",
    "pin_memory_device": "pass pin_memory=True",
}
"""Parameters of PyTorch's loader that Helios does not have, and what to do instead."""


def check_names(params: dict[str, Any]) -> None:
    """Refuse parameters that data loaders do not have.

    Raises:
        ConfigurationError: a parameter is unknown; the message suggests the nearest name.
    """
    known = [field.name for field in dataclasses.fields(DataLoaderParams)]
    for key in params:
        if key in _FOREIGN:
            raise ConfigurationError(
                f"DataLoaderParams has no parameter {key!r} of PyTorch's DataLoader. Instead,"
                f" {_FOREIGN[key]}."
            )
        if key not in known:
            alike = [name for name in known if name.replace("_", "") == key.lower()]
            raise ConfigurationError(
                f"DataLoaderParams has no parameter {key!r}.{nearest(key, alike or known)} It has:"
                f" {', '.join(known)}."
            )
