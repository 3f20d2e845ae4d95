"""Train with weights that are rounded to a few values, as they will be after quantisation."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from helios import Plugin


class Rounded(nn.Module):
    """Rounds a tensor to whole multiples of a scale; gradients pass unchanged.

    Args:
        bits: the number of bits of a value.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.largest = 2 ** (bits - 1) - 1

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the rounded tensor."""
        scale = weight.detach().abs().amax().clamp(min=1e-9) / self.largest
        return weight + ((weight / scale).round() * scale - weight).detach()


class QuantisationPlugin(Plugin):
    """Rounds the weights of all linear layers; the optimizer trains the exact ones.

    Args:
        bits: the number of bits of a weight.
    """

    changes_results = True

    def __init__(self, bits: int = 4) -> None:
        super().__init__("quantisation")
        self.bits = bits

    def setup(self) -> None:
        """Do nothing; the form of the model is the only state."""

    def prepare_module(self, module: nn.Module) -> nn.Module:
        """Round the weights, in training, validation and test."""
        for layer in list(module.modules()):
            if isinstance(layer, nn.Linear):
                parametrize.register_parametrization(layer, "weight", Rounded(self.bits))
        return module
