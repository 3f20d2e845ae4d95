"""Test tools for plug-in authors: a tiny model, its data, and a conformance test.

The names are imported at their first use, so that the plug-in for pytest loads no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helios.testing.comparison import equal
    from helios.testing.conformance import Conformance, ConformanceError, check_conformance
    from helios.testing.recorder import StopAfter
    from helios.testing.tiny import TinyDataModule, TinyModel

__all__ = [
    "Conformance",
    "ConformanceError",
    "StopAfter",
    "TinyDataModule",
    "TinyModel",
    "check_conformance",
    "equal",
]

_MODULES = {
    "Conformance": "conformance",
    "ConformanceError": "conformance",
    "StopAfter": "recorder",
    "TinyDataModule": "tiny",
    "TinyModel": "tiny",
    "check_conformance": "conformance",
    "equal": "comparison",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'helios.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"helios.testing.{_MODULES[name]}"), name)
    globals()[name] = value  # so the next use is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
