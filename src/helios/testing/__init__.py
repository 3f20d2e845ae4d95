"""For authors of plug-ins: a tiny model with data, and the conformance kit."""

from helios.testing.conformance import ConformanceError, StopAfter, check_conformance, equal
from helios.testing.tiny import TinyDataModule, TinyModel

__all__ = [
    "ConformanceError",
    "StopAfter",
    "TinyDataModule",
    "TinyModel",
    "check_conformance",
    "equal",
]
