"""Test tools for plug-in authors: a tiny model, its data, and a conformance test."""

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
