"""Helios: a small, exact PyTorch trainer that is extended by ``pip install``.

The names are imported at their first use. So ``import helios`` takes no time, and the ``helios``
command answers without PyTorch if it does not need it. ``__init__.pyi`` says what they are to tools
that read types.
"""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

__all__ = [
    "PLUGIN_REGISTRY",
    "CUDAPlugin",
    "DataLoaderParams",
    "DataModule",
    "Model",
    "Plugin",
    "Trainer",
    "TrainingState",
    "TrainingUnit",
    "UniquePluginOverrides",
    "__version__",
    "create_plugin",
    "from_command_line",
    "hookimpl",
    "hookspec",
]

_NAMES = {
    "core": ("TrainingState", "TrainingUnit"),
    "data": ("DataLoaderParams", "DataModule"),
    "model": ("Model",),
    "plugins": (
        "PLUGIN_REGISTRY",
        "CUDAPlugin",
        "Plugin",
        "UniquePluginOverrides",
        "create_plugin",
        "hookimpl",
        "hookspec",
    ),
    "trainer": ("Trainer", "from_command_line"),
}
"""The public names of each package."""

_PACKAGES = (*_NAMES, "checkpoints", "errors", "finders")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"helios.{name}")
    for package, names in _NAMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"helios.{package}"), name)
            globals()[name] = value  # so the next use is an ordinary one
            return value
    raise AttributeError(f"module 'helios' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
