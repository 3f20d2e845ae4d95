"""Train low-rank adapters of linear layers, with everything else frozen."""

import torch
from torch import nn

from helios import Plugin


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank addition that is zero at first."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.weight
        self.down = nn.Parameter(torch.randn(rank, layer.in_features).to(weight) / rank)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank).to(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer plus that of the adapter."""
        output: torch.Tensor = self.layer(x) + x @ self.down.T @ self.up.T
        return output


class LoraPlugin(Plugin):
    """Adapts every linear layer of a network, and trains the adapters alone.

    Args:
        dimension: the rank of the adapters; ``rank`` is the number of the process.
    """

    changes_results = True

    def __init__(self, dimension: int = 2) -> None:
        super().__init__("lora")
        self.dimension = dimension

    def setup(self) -> None:
        """Do nothing."""

    def prepare_module(self, module: nn.Module) -> nn.Module:
        """Freeze the network and replace its layers, before the model creates the optimizer."""
        module.requires_grad_(False)
        for parent in list(module.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(parent, name, Adapted(layer, self.dimension))
        return Adapted(module, self.dimension) if isinstance(module, nn.Linear) else module
