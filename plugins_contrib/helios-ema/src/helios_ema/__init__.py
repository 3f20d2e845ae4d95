"""A plug-in that validates and tests with an exponential moving average of the weights."""

from helios_ema.average import AveragedNetwork
from helios_ema.plugin import EMAPlugin

__all__ = ["AveragedNetwork", "EMAPlugin"]
