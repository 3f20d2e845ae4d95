"""A plug-in that finds the operation which makes a gradient infinite or not a number."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from helios.core import rules
from helios.plugins.plugin import Plugin


class AnomalyDetectionPlugin(Plugin):
    """Runs each training step in PyTorch's anomaly detection.

    If the backward pass of an operation fails or computes NaN, PyTorch raises an error and shows
    the line of the forward pass that called the operation. This makes training much slower, so use
    it only to find a fault. The trained weights do not change.

    Args:
        check_nan: ``False`` to show the line of an operation that fails, but not to search for NaN.

    Example:
        .. code-block:: python

            Trainer(..., plugins=["anomaly-detection"])
    """

    autoload = False
    summary = "searches for the operation that computes NaN; slow"

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__("anomaly-detection")
        rules.check({"check_nan": check_nan}, {"check_nan": rules.switch}, "anomaly-detection")
        self.check_nan = check_nan

    def setup(self) -> None:
        """Do nothing."""

    def step_context(self, phase: str) -> AbstractContextManager[Any] | None:
        """Return the context of a training step; other steps have no backward pass."""
        if phase != "training":
            return None
        return torch.autograd.set_detect_anomaly(True, check_nan=self.check_nan)
